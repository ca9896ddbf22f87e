//! Keeps a pattern of its own in every component it is offered, while another VM
//! does the same on the same CPU and both are switched at whatever instruction
//! their slices end: no byte may change, and none of the other's may appear.
//!
//! `seed=N` makes the pattern its own, `rounds=N` says for how long.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "control and debug registers")]

use core::arch::asm;
use guests::{
    area::{Area, Save, compacted_offset, components},
    exceptions::{DB, NM, NONE},
    payload,
    processor::{
        self, TILECFG, TILEDATA, XFD, XFD_ERR, offered_xcr0, rdmsr, try_xsetbv, wrmsr, xcr0,
    },
    report::Report,
    start::number,
    tiles::Config,
    vector_of,
};

payload!(main);

const SSE: u64 = 0b10;
const AMX: u64 = TILECFG | TILEDATA;
const MXCSR: usize = 24;
const MXCSR_INITIAL: u64 = 0x1f80;
/// MXCSR_MASK lies in the word of MXCSR; it is the CPU's, not the guest's.
const MXCSR_BITS: u64 = 0xffff_ffff;
/// IA32_LSTAR, IA32_CSTAR and IA32_KERNEL_GS_BASE.
const ADDRESS_MSRS: [u32; 3] = [0xc000_0082, 0xc000_0083, 0xc000_0102];
/// IA32_TSC_AUX.
const TSC_AUX: u32 = 0xc000_0103;
/// DR7 with no breakpoint on.
const DR7_OFF: u64 = 1 << 10;
/// Bytes of the legacy region that hold ST and XMM registers.
const ST: core::ops::Range<usize> = 32..160;
const XMM: core::ops::Range<usize> = 160..416;

/// An area in which every component of `set` has the pattern of `seed`.
fn pattern(set: u64, seed: u64) -> Area {
    let mut area = Area::filled(0).with_header(set, set | guests::area::COMPACTED);
    let mut next = seed | 1;
    let mut random = || {
        // xorshift64: different bytes for every seed.
        next ^= next << 13;
        next ^= next >> 7;
        next ^= next << 17;
        next as u8
    };
    // FCW, and a full register stack; each ST register has ten bytes.
    area.set_word(0, 0x37f | 0xff << 32);
    for register in area.0[ST].chunks_exact_mut(16) {
        register[..10].fill_with(&mut random);
    }
    area.0[XMM].fill_with(&mut random);
    area.set_word(MXCSR, MXCSR_INITIAL);
    for component in components(set) {
        let at = compacted_offset(set, component.number);
        let bytes = &mut area.0[at..at + component.size];
        match component.number {
            // A configuration has rules of its own.
            17 => bytes.copy_from_slice(&Config::FULL.bytes()),
            // PKRU has 32 bits; the rest is reserved. Keys that are in use, of
            // which payloads have none, would matter.
            9 => bytes[..4].fill_with(&mut random),
            _ => bytes.fill_with(&mut random),
        }
    }
    area
}

/// Whether `found` has the same components as `expected`, byte for byte.
fn same(set: u64, expected: &Area, found: &Area) -> bool {
    let legacy = found.0[ST]
        .chunks_exact(16)
        .zip(expected.0[ST].chunks_exact(16))
        .all(|(a, b)| a[..10] == b[..10])
        && found.0[XMM] == expected.0[XMM]
        && found.word(MXCSR) & MXCSR_BITS == expected.word(MXCSR) & MXCSR_BITS;
    legacy
        && components(set).all(|component| {
            let at = compacted_offset(set, component.number);
            let bytes = at..at + component.size;
            found.0[bytes.clone()] == expected.0[bytes]
        })
}

/// Lets time pass with some exits in it, and without touching extended state.
fn wait(seed: &mut u64) {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    for _ in 0..(*seed >> 33) % 2000 {
        core::hint::spin_loop();
    }
    processor::cpuid(0, 0);
}

/// Registers that only a switch of vCPUs exchanges, each with a value of `seed`'s
/// that it can hold: MSRs with addresses, with 32 bits, CR2 and the first
/// breakpoint, which DR7 leaves off.
fn set_registers(seed: u64) {
    for msr in ADDRESS_MSRS {
        wrmsr(msr, address(seed, msr));
    }
    wrmsr(TSC_AUX, seed & 0xffff_ffff);
    // SAFETY: nothing here looks at either register.
    unsafe {
        asm!("mov cr2, {}", in(reg) address(seed, 2));
        asm!("mov dr0, {}", in(reg) address(seed, 0));
    }
}

fn registers_hold(seed: u64) -> bool {
    let (cr2, dr0): (u64, u64);
    // SAFETY: only reads.
    unsafe {
        asm!("mov {}, cr2", out(reg) cr2);
        asm!("mov {}, dr0", out(reg) dr0);
    }
    ADDRESS_MSRS
        .iter()
        .all(|&msr| rdmsr(msr) == address(seed, msr))
        && rdmsr(TSC_AUX) == seed & 0xffff_ffff
        && (cr2, dr0) == (address(seed, 2), address(seed, 0))
}

/// Breakpoint 1, on writes to `watched`.
fn set_breakpoint(watched: *mut u64) {
    const WRITES_OF_8_BYTES: u64 = 0b1001 << 20;
    const ON: u64 = 1 << 2;
    // SAFETY: the exception that it raises is caught.
    unsafe {
        asm!("mov dr1, {}", in(reg) watched);
        asm!("mov dr7, {}", in(reg) DR7_OFF | ON | WRITES_OF_8_BYTES);
    }
}

/// Whether it has struck; it is off from now on.
fn take_breakpoint() -> bool {
    const STRUCK: u64 = 1 << 1;
    let dr6: u64;
    // SAFETY: nothing else looks at these registers.
    unsafe {
        asm!("mov {}, dr6", out(reg) dr6);
        asm!("mov dr6, {}", in(reg) dr6 & !STRUCK);
        asm!("mov dr7, {}", in(reg) DR7_OFF);
    }
    dr6 & STRUCK != 0
}

/// A canonical address of the lower half.
fn address(seed: u64, register: u32) -> u64 {
    seed.wrapping_mul(0x9e37_79b9)
        .wrapping_add(u64::from(register))
        & 0x7fff_ffff
}

fn main(command_line: &'static str) -> ! {
    processor::enable_osxsave();
    let set = offered_xcr0();
    let amx = set & AMX == AMX;
    assert_eq!(try_xsetbv(0, set), NONE, "XSETBV");
    let mut seed = number(command_line, "seed", 1);
    let rounds = number(command_line, "rounds", 100);
    let own = seed;
    set_registers(own);
    let patterns = [pattern(set, seed), pattern(set, !seed)];
    let mut found = Area::filled(0);
    let (mut bytes, mut faults, mut values, mut registers) = (0_u64, 0_u64, 0_u64, 0_u64);
    // Elsewhere for every seed, so that another VM's breakpoint does not do.
    let mut words = [0_u64; 64];
    let watched = &raw mut words[(own % 64) as usize];
    let mut breakpoints = 0_u64;
    for round in 0..rounds {
        let expected = &patterns[(round % 2) as usize];
        assert_eq!(expected.xrstor(set), NONE, "XRSTOR");
        match round % 4 {
            1 if amx => {
                // Rule xs-10: armed while live.
                wrmsr(XFD, TILEDATA);
                wait(&mut seed);
                values += u64::from(rdmsr(XFD) != TILEDATA);
                wrmsr(XFD, 0);
            }
            2 if amx => {
                // Rules xs-08 and xs-09: an XFD_ERR that is not read at once.
                wrmsr(XFD, TILEDATA);
                faults += u64::from(vector_of!("tilezero tmm0") != NM);
                wait(&mut seed);
                values += u64::from(rdmsr(XFD_ERR) != TILEDATA || rdmsr(XFD) != TILEDATA);
                wrmsr(XFD_ERR, 0);
                wrmsr(XFD, 0);
            }
            3 => {
                // Rule xs-10: disabled in XCR0 while live.
                assert_eq!(try_xsetbv(0, 1), NONE, "XSETBV");
                wait(&mut seed);
                values += u64::from(xcr0() != 1);
                assert_eq!(try_xsetbv(0, set), NONE, "XSETBV");
            }
            _ => {
                // A breakpoint that is on goes with the vCPU.
                set_breakpoint(watched);
                wait(&mut seed);
                let raised = vector_of!("mov [{at}], {at}", at = in(reg) watched);
                breakpoints += u64::from(raised != DB || !take_breakpoint());
            }
        }
        values += u64::from(xcr0() != set || amx && rdmsr(XFD) | rdmsr(XFD_ERR) != 0);
        registers += u64::from(!registers_hold(own));
        assert_eq!(found.save(Save::Xsavec, set), NONE, "XSAVEC");
        bytes += u64::from(found.xstate_bv() & SSE == 0 || !same(set, expected, &found));
    }
    let mut report = Report::default();
    report.equal("breakpoints that did not strike", breakpoints, 0);
    report.equal("rounds after which a byte had changed", bytes, 0);
    report.equal("rounds in which an armed tile did not fault", faults, 0);
    report.equal(
        "rounds in which XCR0, XFD or XFD_ERR had changed",
        values,
        0,
    );
    report.equal("rounds in which another register had changed", registers, 0);
    report.finish()
}
