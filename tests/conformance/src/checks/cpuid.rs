//! CPUID leaves 0xD, 0x1D and 0x1E.

use super::{AMX, CFG, DATA};
use guests::area::{CAPACITY, compacted_size, components, standard_size};
use guests::{
    processor::{self, XSS, cpuid, offered_xcr0, set_osxsave},
    report::Report,
};

const AVX512: u64 = 0b111 << 5;

/// IA32_XSS bits that CPUID offers.
fn offered_xss() -> u64 {
    let leaf = cpuid(0xd, 1);
    u64::from(leaf.edx) << 32 | u64::from(leaf.ecx)
}

/// Legal values of XCR0, from the least to all.
fn xcr0_values() -> impl Iterator<Item = u64> {
    let offered = offered_xcr0();
    [
        1,
        3,
        7,
        7 | AVX512,
        7 | AMX,
        offered & !AMX,
        offered & !AVX512,
        offered,
    ]
    .into_iter()
    .filter(move |value| value & !offered == 0)
}

pub(super) fn check(report: &mut Report) {
    let offered = offered_xcr0();
    report.equal("cpuid: XCR0 offers x87 and SSE", offered & 3, 3);
    report.holds(
        "cpuid: AVX-512 comes in three components or none",
        [0, AVX512].contains(&(offered & AVX512)),
    );
    report.holds(
        "cpuid: tiles come in two components or none",
        [0, AMX].contains(&(offered & AMX)),
    );

    let main = cpuid(0xd, 0);
    report.equal(
        "cpuid: (0xD,0).ECX is the size with all of XCR0",
        main.ecx as usize,
        standard_size(offered),
    );
    report.holds("cpuid: all areas fit ours", main.ecx as usize <= CAPACITY);
    for value in xcr0_values() {
        processor::try_xsetbv(0, value);
        let what = format_args!("cpuid: (0xD,0).EBX follows XCR0 = {value:#x}");
        report.equal(what, cpuid(0xd, 0).ebx as usize, standard_size(value));
    }

    for (bit, name) in [
        (0, "XSAVEOPT"),
        (1, "XSAVEC"),
        (2, "XGETBV with ECX = 1"),
        (3, "XSAVES"),
        (4, "XFD"),
    ] {
        report.holds(
            format_args!("cpuid: (0xD,1).EAX[{bit}] shows {name}"),
            cpuid(0xd, 1).eax & 1 << bit != 0,
        );
    }
    for value in xcr0_values() {
        processor::try_xsetbv(0, value);
        for xss in [0, offered_xss()] {
            processor::wrmsr(XSS, xss);
            let what =
                format_args!("cpuid: (0xD,1).EBX follows XCR0 = {value:#x}, IA32_XSS = {xss:#x}");
            report.equal(
                what,
                cpuid(0xd, 1).ebx as usize,
                compacted_size(value | xss),
            );
        }
    }
    processor::wrmsr(XSS, 0);
    processor::try_xsetbv(0, offered);

    sub_leaves(report, offered);
    tile_leaves(report);

    report.holds("cpuid: OSXSAVE is set with CR4.OSXSAVE", osxsave());
    set_osxsave(false);
    report.holds("cpuid: OSXSAVE is clear without it", !osxsave());
    set_osxsave(true);
}

fn sub_leaves(report: &mut Report, offered: u64) {
    let known = offered | offered_xss() | 3;
    let user = || components(offered);
    report.all(
        "cpuid: user components lie behind the header, inside the area",
        user().map(|c| c.number),
        |number| {
            components(1 << number)
                .all(|c| c.offset >= 576 && c.offset + c.size <= cpuid(0xd, 0).ecx as usize)
        },
    );
    report.all(
        "cpuid: components do not overlap",
        user().map(|c| c.number),
        |number| {
            let this = components(1 << number).next();
            let others = components(offered & !(1 << number));
            this.is_some_and(|this| {
                others.into_iter().all(|other| {
                    this.offset + this.size <= other.offset
                        || other.offset + other.size <= this.offset
                })
            })
        },
    );
    report.all(
        "cpuid: supervisor components say so",
        components(offered_xss()).map(|c| c.number),
        |number| components(1 << number).all(|c| c.supervisor && c.size > 0),
    );
    report.all(
        "cpuid: sub-leaves of (0xD) without a component are zero",
        (2..63).filter(|number| known & 1 << number == 0),
        |number| {
            let leaf = cpuid(0xd, number);
            leaf.eax | leaf.ebx | leaf.ecx | leaf.edx == 0
        },
    );
    report.equal(
        "cpuid: (0xD,17) TILECFG has 64 bytes",
        cpuid(0xd, CFG).eax,
        64,
    );
    report.equal(
        "cpuid: (0xD,17) TILECFG is aligned, XFD cannot disable it",
        cpuid(0xd, CFG).ecx,
        0b010,
    );
    report.equal(
        "cpuid: (0xD,18) TILEDATA has 8192 bytes",
        cpuid(0xd, DATA).eax,
        8192,
    );
    report.equal(
        "cpuid: (0xD,18) TILEDATA is aligned, XFD can disable it",
        cpuid(0xd, DATA).ecx,
        0b110,
    );
}

fn tile_leaves(report: &mut Report) {
    report.holds("cpuid: (0x1D,0) has palette 1", cpuid(0x1d, 0).eax >= 1);
    let palette = cpuid(0x1d, 1);
    report.equal(
        "cpuid: palette 1 has 8192 bytes",
        palette.eax & 0xffff,
        8192,
    );
    report.equal(
        "cpuid: palette 1 has 1024 bytes a tile",
        palette.eax >> 16,
        1024,
    );
    report.equal(
        "cpuid: palette 1 has 64 bytes a row",
        palette.ebx & 0xffff,
        64,
    );
    report.equal("cpuid: palette 1 has 8 tiles", palette.ebx >> 16, 8);
    report.equal("cpuid: palette 1 has 16 rows", palette.ecx & 0xffff, 16);
    let multiplier = cpuid(0x1e, 0).ebx;
    report.equal("cpuid: (0x1E,0) multiplies 16 deep", multiplier & 0xff, 16);
    report.equal(
        "cpuid: (0x1E,0) multiplies 64 bytes wide",
        multiplier >> 8 & 0xffff,
        64,
    );
    for (bit, name) in [(22, "AMX-BF16"), (24, "AMX-TILE"), (25, "AMX-INT8")] {
        report.holds(
            format_args!("cpuid: (7,0).EDX[{bit}] shows {name}"),
            cpuid(7, 0).edx & 1 << bit != 0,
        );
    }
}

fn osxsave() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    cpuid(1, 0).ecx & OSXSAVE != 0
}
