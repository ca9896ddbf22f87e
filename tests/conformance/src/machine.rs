//! What this machine has, as far as the checks need it.

use guests::processor::{TILECFG, TILEDATA, cpuid, offered_xcr0};

/// What the checks need and this CPU lacks.
pub(crate) fn missing_feature() -> Option<&'static str> {
    const XSAVE: u32 = 1 << 26;
    if cpuid(1, 0).ecx & XSAVE == 0 {
        return Some("XSAVE");
    }
    if offered_xcr0() & (TILECFG | TILEDATA) == 0 {
        return Some("AMX");
    }
    // XFD is not in the list: a CPU with AMX that lacks it fails the check of CPUID
    // and is held against the rest.
    const XSAVEC_XGETBV1_XSAVES: u32 = 0b1110;
    let lacking = cpuid(0xd, 1).eax & XSAVEC_XGETBV1_XSAVES != XSAVEC_XGETBV1_XSAVES;
    lacking.then_some("XSAVEC, XGETBV with ECX = 1, or XSAVES")
}

/// Whether there is XFD.
pub(crate) fn has_xfd() -> bool {
    cpuid(0xd, 1).eax & 1 << 4 != 0
}
