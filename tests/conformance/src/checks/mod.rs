//! The checks, by family, and the state that each begins with.

mod amx;
mod cpuid;
mod dot;
mod header;
mod in_use;
mod legacy;
mod restore;
mod save;
mod xcr0;
mod xfd;

use crate::machine::has_xfd;
use guests::{
    area::Area,
    exceptions::NONE,
    processor::{self, TILECFG, TILEDATA, XFD, XFD_ERR, XSS},
    report::Report,
    say,
};

/// Both tile components.
const AMX: u64 = TILECFG | TILEDATA;
/// Number of the component TILECFG.
const CFG: u32 = 17;
/// Number of the component TILEDATA.
const DATA: u32 = 18;

/// Runs all families.
pub(crate) fn run(report: &mut Report) {
    for family in [
        cpuid::check,
        xcr0::check,
        xfd::check,
        amx::check,
        dot::check,
        in_use::check,
        save::check,
        restore::check,
        header::check,
        legacy::check,
    ] {
        begin();
        family(report);
    }
}

/// XCR0 has all that CPUID offers, nothing is armed, everything is initial.
fn begin() {
    assert_eq!(
        processor::try_xsetbv(0, processor::offered_xcr0()),
        NONE,
        "XSETBV of what CPUID offers"
    );
    processor::wrmsr(XSS, 0);
    if has_xfd() {
        processor::wrmsr(XFD, 0);
        processor::wrmsr(XFD_ERR, 0);
    }
    assert_eq!(
        Area::filled(0).xrstor(u64::MAX),
        NONE,
        "XRSTOR of an area without components"
    );
}

/// XFD_ERR, which is cleared on the way.
fn take_xfd_err() -> u64 {
    let error = processor::rdmsr(XFD_ERR);
    processor::wrmsr(XFD_ERR, 0);
    error
}

/// Says that checks were left out because the CPU has no XFD; whether it is so.
fn skipped_without_xfd(what: &str) -> bool {
    let skipped = !has_xfd();
    if skipped {
        say!("skip {what}: XFD");
    }
    skipped
}

/// Arms the tiles or not.
fn arm(armed: bool) {
    processor::wrmsr(XFD, if armed { TILEDATA } else { 0 });
}
