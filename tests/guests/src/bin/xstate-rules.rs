//! The rules of extended state (docs/extended-state.md) as a guest sees them.
//!
//! What the VM is offered is told on the command line, `expect=VECTOR` or
//! `expect=VECTOR+amx`, so that one payload judges every configuration.

#![no_std]
#![no_main]

use guests::{
    area::{Area, Save, compacted_size, components, standard_size},
    exceptions::{GP, NM, NONE, UD},
    payload,
    processor::{
        self, TILECFG, TILEDATA, XFD, XFD_ERR, XSS, cpuid, offered_xcr0, rdmsr, try_rdmsr,
        try_wrmsr, try_xsetbv, wrmsr, xcr0,
    },
    report::Report,
    say,
    start::has_word,
    tiles::{self, Config},
    vector_of,
};

payload!(main);

const SSE: u64 = 0b11;
const AVX: u64 = 0b111;
const AVX512: u64 = 0b111 << 5;
const PKRU: u64 = 1 << 9;
const AMX: u64 = TILECFG | TILEDATA;

/// XCR0 that the command line lets the VM expect; PKRU comes with the CPU.
fn expected_xcr0(command_line: &str) -> u64 {
    let widths = [("sse", SSE), ("avx", AVX), ("avx512", AVX | AVX512)];
    let mut words = widths
        .iter()
        .flat_map(|&(name, set)| [(name, "", set), (name, "+amx", set | AMX)]);
    let found = words.find(|(name, amx, _)| {
        let mut word = [0_u8; 32];
        let parts = ["expect=", name, amx];
        let length = parts.iter().fold(0, |at, part| {
            word[at..at + part.len()].copy_from_slice(part.as_bytes());
            at + part.len()
        });
        core::str::from_utf8(&word[..length]).is_ok_and(|word| has_word(command_line, word))
    });
    found.map_or(0, |(_, _, set)| set) | offered_xcr0() & PKRU
}

fn main(command_line: &'static str) -> ! {
    let expected = expected_xcr0(command_line);
    let amx = expected & AMX != 0;
    let mut report = Report::default();
    reset(&mut report, amx);
    offer(&mut report, expected, amx);
    xsetbv(&mut report, expected);
    sizes(&mut report, expected);
    msrs(&mut report, amx);
    if amx {
        xfd(&mut report);
        tile_data(&mut report, expected);
    }
    report.finish()
}

/// Case 8, and what a reset leaves.
fn reset(report: &mut Report, amx: bool) {
    processor::enable_osxsave();
    report.equal("reset: XCR0 = 1", xcr0(), 1);
    report.equal("reset: IA32_XSS = 0", try_rdmsr(XSS), Ok(0));
    let expected = if amx { Ok(0) } else { Err(GP) };
    report.equal("reset: IA32_XFD", try_rdmsr(XFD), expected);
    report.equal("reset: IA32_XFD_ERR", try_rdmsr(XFD_ERR), expected);
    assert_eq!(
        try_xsetbv(0, offered_xcr0()),
        NONE,
        "XSETBV of what CPUID offers"
    );
    report.equal(
        "reset: everything but x87 is initial",
        processor::in_use() & !1,
        0,
    );
    let mut area = Area::filled(0);
    let saved = (area.save(Save::Xsave, u64::MAX), area.xstate_bv() & !1);
    report.equal("reset: XSAVE finds it so", saved, (NONE, 0));
}

/// Rule xs-01.
fn offer(report: &mut Report, expected: u64, amx: bool) {
    report.equal(
        "xs-01: CPUID offers the XCR0 bits of the configuration",
        offered_xcr0(),
        expected,
    );
    report.equal(
        "xs-01: AMX in leaf 7",
        cpuid(7, 0).edx & (1 << 22 | 1 << 24 | 1 << 25) != 0,
        amx,
    );
    report.equal(
        "xs-01: XFD in (0xD,1)",
        cpuid(0xd, 1).eax & 1 << 4 != 0,
        amx,
    );
    for (leaf, sub_leaf) in [(0xd, 17), (0xd, 18), (0x1d, 0), (0x1d, 1), (0x1e, 0)] {
        let answer = cpuid(leaf, sub_leaf);
        let shown = answer.eax | answer.ebx | answer.ecx | answer.edx != 0;
        report.equal(
            format_args!("xs-01: leaf ({leaf:#x},{sub_leaf})"),
            shown,
            amx,
        );
    }
    let wide = cpuid(7, 0).ebx & 1 << 16 != 0;
    report.equal("xs-01: AVX-512 in leaf 7", wide, expected & AVX512 != 0);
    report.equal(
        "xs-01: AVX in leaf 1",
        cpuid(1, 0).ecx & 1 << 28 != 0,
        expected & AVX == AVX,
    );
    let osxsave = || cpuid(1, 0).ecx & 1 << 27 != 0;
    let on = osxsave();
    processor::set_osxsave(false);
    let off = osxsave();
    let vectors = [
        try_xsetbv(0, 1),
        vector_of!("xgetbv", in("ecx") 0, out("eax") _, out("edx") _),
    ];
    processor::set_osxsave(true);
    report.equal("OSXSAVE follows CR4.OSXSAVE", (on, off), (true, false));
    report.equal("without it XSETBV and XGETBV raise #UD", vectors, [UD, UD]);
}

/// Rule xs-06, cases 6 and 10.
fn xsetbv(report: &mut Report, expected: u64) {
    report.all(
        "xs-06: each bit beyond the offer raises #GP",
        bits(!expected),
        |bit| try_xsetbv(0, expected | bit) == GP && try_xsetbv(0, 1 | bit) == GP,
    );
    report.all("xs-06: each bit without x87 raises #GP", bits(!1), |bit| {
        try_xsetbv(0, bit) == GP
    });
    report.equal("xs-06: zero raises #GP", try_xsetbv(0, 0), GP);
    report.all(
        "xs-06: each other register raises #GP",
        1..=64_u32,
        |index| try_xsetbv(index, expected) == GP,
    );
    let illegal = [
        0b101,
        AVX | 1 << 5,
        AVX | 1 << 6,
        AVX | 1 << 7,
        AVX | 0b110 << 5,
        AVX | 0b101 << 5,
        AVX | 0b011 << 5,
        SSE | AVX512,
        AVX | TILECFG,
        AVX | TILEDATA,
        1 << 3 | SSE,
        1 << 4 | SSE,
    ];
    report.all(
        "xs-06: every broken group raises #GP",
        illegal.into_iter(),
        |value| try_xsetbv(0, value) == GP,
    );
    report.equal("xs-06: a refused value changes nothing", xcr0(), expected);
    let legal = [1, SSE, AVX, AVX | AVX512, SSE | AMX, AVX | AMX, expected];
    report.all(
        "xs-06: every legal value that is offered is taken",
        legal.into_iter().filter(|value| value & !expected == 0),
        |value| try_xsetbv(0, value) == NONE && xcr0() == value,
    );
}

/// Rule xs-03, cases 5 and 7.
fn sizes(report: &mut Report, expected: u64) {
    let values = [
        1,
        SSE,
        AVX,
        AVX | AVX512,
        SSE | AMX,
        AVX | AVX512 | AMX,
        expected,
    ];
    report.all(
        "xs-03: sizes follow XCR0, with the alignment rule",
        values.into_iter().filter(|value| value & !expected == 0),
        |value| {
            assert_eq!(try_xsetbv(0, value), NONE, "XSETBV");
            cpuid(0xd, 0).ebx as usize == standard_size(value)
                && cpuid(0xd, 1).ebx as usize == compacted_size(value)
        },
    );
    say!(
        "areas: {} bytes standard, {} bytes compacted",
        cpuid(0xd, 0).ebx,
        cpuid(0xd, 1).ebx
    );
    report.equal(
        "xs-03: the largest size is that of the offer",
        cpuid(0xd, 0).ecx as usize,
        standard_size(expected),
    );
    report.all(
        "xs-03: components that are offered are described",
        components(expected).map(|c| c.number),
        |number| components(1 << number).all(|c| c.size > 0 && c.offset >= 576),
    );
    report.all(
        "xs-03: others are not",
        (2..63).filter(|number| expected & 1 << number == 0),
        |number| {
            let answer = cpuid(0xd, number);
            answer.eax | answer.ebx | answer.ecx | answer.edx == 0
        },
    );
}

/// Rule xs-07.
fn msrs(report: &mut Report, amx: bool) {
    let settable = if amx { TILEDATA } else { 0 };
    for (name, msr) in [("IA32_XFD", XFD), ("IA32_XFD_ERR", XFD_ERR)] {
        report.all(
            format_args!("xs-07: {name} raises #GP for each bit that is not dynamic"),
            bits(!settable),
            |bit| try_wrmsr(msr, bit) == GP && try_wrmsr(msr, bit | settable) == GP,
        );
        let expected = if amx { NONE } else { GP };
        report.equal(
            format_args!("xs-07: {name} = 0"),
            try_wrmsr(msr, 0),
            expected,
        );
    }
    report.all("IA32_XSS raises #GP for each bit", bits(u64::MAX), |bit| {
        try_wrmsr(XSS, bit) == GP
    });
    report.equal(
        "IA32_XSS = 0",
        (try_wrmsr(XSS, 0), try_rdmsr(XSS)),
        (NONE, Ok(0)),
    );
}

/// Rules xs-07, xs-08 and xs-09, case 4.
fn xfd(report: &mut Report) {
    let take = || {
        let error = rdmsr(XFD_ERR);
        wrmsr(XFD_ERR, 0);
        error
    };
    wrmsr(XFD, TILEDATA);
    report.equal("xs-07: IA32_XFD reads back", rdmsr(XFD), TILEDATA);
    Config::FULL.load();
    report.equal(
        "xs-08: an armed component raises #NM and is recorded",
        (vector_of!("tilezero tmm0"), take()),
        (NM, TILEDATA),
    );
    let _ = vector_of!("tilezero tmm0");
    exits();
    report.equal(
        "xs-08: XFD_ERR survives exits until it is read and cleared",
        (rdmsr(XFD_ERR), take(), rdmsr(XFD_ERR)),
        (TILEDATA, TILEDATA, 0),
    );
    exits();
    report.equal("xs-08: once cleared it stays so", rdmsr(XFD_ERR), 0);
    for pending in [0, TILEDATA] {
        wrmsr(XFD_ERR, pending);
        processor::set_task_switched(true);
        let vector = vector_of!("fninit");
        processor::set_task_switched(false);
        exits();
        let what = format_args!("case 4: #NM by CR0.TS leaves XFD_ERR = {pending:#x} alone");
        report.equal(what, (vector, take()), (NM, pending));
    }
    wrmsr(XFD, 0);
    report.equal(
        "disarmed, a tile raises nothing",
        (vector_of!("tilezero tmm0"), rdmsr(XFD_ERR)),
        (NONE, 0),
    );
    report.all(
        "xs-07: after pass-through a bit that is not dynamic still raises #GP",
        bits(!TILEDATA),
        |bit| try_wrmsr(XFD, bit) == GP && try_wrmsr(XFD_ERR, bit) == GP,
    );
}

/// Things that exit.
fn exits() {
    for _ in 0..100 {
        cpuid(0, 0);
        let _ = vector_of!("vmcall", out("rax") _);
        let _ = vector_of!("out 0x80, al", in("al") 0_u8);
    }
}

/// Rule xs-10.
fn tile_data(report: &mut Report, expected: u64) {
    tiles::load_all(1);
    wrmsr(XFD, TILEDATA);
    exits();
    wrmsr(XFD, 0);
    report.holds(
        "xs-10: live tiles survive exits while they are armed",
        tiles::all_hold(1),
    );
    assert_eq!(try_xsetbv(0, expected & !AMX), NONE, "XSETBV");
    exits();
    assert_eq!(try_xsetbv(0, expected), NONE, "XSETBV");
    report.holds(
        "xs-10: they survive while XCR0 disables them",
        tiles::all_hold(1),
    );
    for save in Save::ALL {
        tiles::load_all(2);
        let mut area = Area::filled(0);
        let saved = area.save(save, AMX);
        tiles::release();
        exits();
        let restored = area.xrstor(AMX);
        let found = (saved, restored, tiles::all_hold(2));
        report.equal(
            format_args!("tiles go through {save:?} and XRSTOR"),
            found,
            (NONE, NONE, true),
        );
    }
    wrmsr(XFD, TILEDATA);
    let mut area = Area::filled(0);
    area.save(Save::Xsave, AMX);
    report.equal(
        "XSAVE takes an armed component for initial",
        area.xstate_bv() & TILEDATA,
        0,
    );
    wrmsr(XFD, 0);
    tiles::release();
}

/// The single bits of `set`.
fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..64)
        .map(|bit| 1 << bit)
        .filter(move |bit| set & bit != 0)
}
