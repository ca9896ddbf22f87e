//! XSETBV (SDM Vol. 2, "XSETBV - Set Extended Control Register"; Vol. 1, "Enabling
//! the XSAVE Feature Set and XSAVE-Enabled Features").

use super::AMX;
use guests::{
    exceptions::{GP, NONE, UD},
    processor::{TILECFG, TILEDATA, offered_xcr0, set_osxsave, try_xsetbv, xcr0},
    report::Report,
    vector_of,
};

pub(super) fn check(report: &mut Report) {
    let offered = offered_xcr0();
    for (what, value) in [
        ("without x87", 0),
        ("without x87, all else", offered & !1),
        ("AVX without SSE", 0b101),
        ("opmask alone", 0b111 | 1 << 5),
        ("ZMM_Hi256 alone", 0b111 | 1 << 6),
        ("Hi16_ZMM alone", 0b111 | 1 << 7),
        ("AVX-512 without opmask", 0b111 | 0b110 << 5),
        ("AVX-512 without ZMM_Hi256", 0b111 | 0b101 << 5),
        ("AVX-512 without Hi16_ZMM", 0b111 | 0b011 << 5),
        ("AVX-512 without AVX", 0b011 | 0b111 << 5),
        ("TILECFG alone", 0b111 | TILECFG),
        ("TILEDATA alone", 0b111 | TILEDATA),
    ] {
        report.equal(
            format_args!("xcr0: {what} ({value:#x}) raises #GP"),
            try_xsetbv(0, value),
            GP,
        );
    }
    report.all(
        "xcr0: each bit that CPUID does not offer raises #GP",
        (0..64)
            .map(|bit| 1_u64 << bit)
            .filter(|bit| offered & bit == 0),
        |bit| try_xsetbv(0, offered | bit) == GP,
    );
    report.equal("xcr0: XCR1 raises #GP", try_xsetbv(1, offered), GP);
    report.equal("xcr0: a refused value changes nothing", xcr0(), offered);
    for (what, value) in [
        ("x87", 1),
        ("x87 and SSE", 3),
        ("AVX", 7),
        ("AVX-512", 7 | 0b111 << 5),
        ("tiles without AVX", 3 | AMX),
        ("everything", offered),
    ] {
        let found = (try_xsetbv(0, value), xcr0());
        report.equal(
            format_args!("xcr0: {what} ({value:#x}) is taken"),
            found,
            (NONE, value),
        );
    }
    set_osxsave(false);
    let found = [
        try_xsetbv(0, offered),
        vector_of!("xgetbv", in("ecx") 0, out("eax") _, out("edx") _),
    ];
    set_osxsave(true);
    report.equal(
        "xcr0: without CR4.OSXSAVE XSETBV and XGETBV raise #UD",
        found,
        [UD, UD],
    );
}
