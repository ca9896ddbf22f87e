//! Areas that the restore instructions refuse (SDM Vol. 2, "XRSTOR" and "XRSTORS",
//! "Protected Mode Exceptions").

use super::AMX;
use guests::area::{Area, COMPACTED, HEADER_RESERVED};
use guests::{
    exceptions::{GP, NONE},
    processor::{offered_xcr0, try_xsetbv},
    report::Report,
};

const MXCSR: usize = 24;

pub(super) fn check(report: &mut Report) {
    let offered = offered_xcr0();
    let foreign = 1 << 62;
    let area = |xstate_bv, xcomp_bv| Area::filled(0).with_header(xstate_bv, xcomp_bv);
    for (what, vector) in [
        (
            "XRSTOR: XSTATE_BV names what XCR0 does not enable",
            area(foreign, 0).xrstor(1),
        ),
        (
            "XRSTOR: XCOMP_BV is not zero in the standard format",
            area(0, 1).xrstor(1),
        ),
        (
            "XRSTOR: XCOMP_BV names what XCR0 does not enable",
            area(0, COMPACTED | foreign).xrstor(1),
        ),
        (
            "XRSTOR: XSTATE_BV names what XCOMP_BV does not",
            area(AMX, COMPACTED | 1).xrstor(1),
        ),
        ("XRSTORS: the standard format", area(0, 0).xrstors(1)),
        (
            "XRSTORS: XCOMP_BV names what neither XCR0 nor IA32_XSS enables",
            area(0, COMPACTED | foreign).xrstors(1),
        ),
        (
            "XRSTORS: XSTATE_BV names what XCOMP_BV does not",
            area(AMX, COMPACTED | 1).xrstors(1),
        ),
    ] {
        report.equal(format_args!("header: {what}: #GP"), vector, GP);
    }
    // In the standard format the manual names bytes 8 to 23 of the header alone.
    report.all(
        "header: XRSTOR: reserved bytes 16 to 23: #GP",
        0..8_usize,
        |byte| {
            let mut area = area(0, 0);
            area.0[HEADER_RESERVED + byte] = 1;
            area.xrstor(1) == GP
        },
    );
    report.all(
        "header: XRSTOR: reserved bytes of the compacted format: #GP",
        0..48_usize,
        |byte| {
            let mut area = area(0, COMPACTED | 1);
            area.0[HEADER_RESERVED + byte] = 1;
            area.xrstor(1) == GP
        },
    );
    report.all(
        "header: XRSTORS: reserved bytes: #GP",
        0..48_usize,
        |byte| {
            let mut area = area(0, COMPACTED | 1);
            area.0[HEADER_RESERVED + byte] = 1;
            area.xrstors(1) == GP
        },
    );
    let mut mxcsr = area(0b10, 0);
    mxcsr.set_word(MXCSR, 1 << 31);
    report.equal(
        "header: XRSTOR: reserved bits of MXCSR: #GP",
        mxcsr.xrstor(0b10),
        GP,
    );
    report.equal(
        "header: areas off a multiple of 64: #GP",
        Area::filled(0).misaligned(),
        [GP, GP],
    );

    report.equal(
        "header: an area without components is taken",
        area(0, 0).xrstor(u64::MAX),
        NONE,
    );
    report.equal(
        "header: a compacted one is taken by XRSTORS",
        area(0, COMPACTED | offered).xrstors(u64::MAX),
        NONE,
    );
    assert_eq!(try_xsetbv(0, offered & !AMX), NONE, "XSETBV");
    let with_tiles = area(AMX, COMPACTED | AMX);
    report.equal(
        "header: tiles while XCR0 has none: #GP",
        [with_tiles.xrstor(1), with_tiles.xrstors(1)],
        [GP, GP],
    );
    assert_eq!(try_xsetbv(0, offered), NONE, "XSETBV");
}
