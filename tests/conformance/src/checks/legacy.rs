//! What else an operating system with AMX relies on.

use super::begin;
use guests::area::{Area, COMPACTED, Save};
use guests::{exceptions::NONE, processor::rdmsr, report::Report, vector_of};

const SSE: u64 = 1 << 1;
const MXCSR: usize = 24;
const MXCSR_INITIAL: u64 = 0x1f80;

pub(super) fn check(report: &mut Report) {
    const IA32_MISC_ENABLE: u32 = 0x1a0;
    report.equal(
        "legacy: IA32_MISC_ENABLE has fast strings on",
        rdmsr(IA32_MISC_ENABLE) & 1,
        1,
    );

    let other: u32 = 0x0f80;
    begin();
    assert_eq!(
        vector_of!("ldmxcsr [{at}]", at = in(reg) &other),
        NONE,
        "LDMXCSR"
    );
    let initial = Area::filled(0).with_header(0, COMPACTED | SSE);
    report.equal(
        "legacy: compacted XRSTOR that initialises SSE",
        (initial.xrstor(SSE), mxcsr()),
        (NONE, MXCSR_INITIAL),
    );
    assert_eq!(
        vector_of!("ldmxcsr [{at}]", at = in(reg) &other),
        NONE,
        "LDMXCSR"
    );
    report.equal(
        "legacy: XRSTORS that initialises SSE",
        (initial.xrstors(SSE), mxcsr()),
        (NONE, MXCSR_INITIAL),
    );

    let mut area = Area::filled(0);
    assert_eq!(area.save(Save::Xsavec, 1 << 2), NONE, "XSAVEC");
    report.equal(
        "legacy: XSAVEC without SSE leaves MXCSR in the area alone",
        area.word(MXCSR),
        0,
    );
    let mut loaded = Area::filled(0).with_header(SSE, COMPACTED | SSE);
    loaded.set_word(MXCSR, u64::from(other));
    report.equal(
        "legacy: compacted XRSTOR loads MXCSR",
        (loaded.xrstor(SSE), mxcsr()),
        (NONE, u64::from(other)),
    );
    // That changed code runs in its new form is left out: no page that this program
    // is given can be both written and executed.
}

fn mxcsr() -> u64 {
    let mut value = 0_u32;
    assert_eq!(
        vector_of!("stmxcsr [{at}]", at = in(reg) &mut value),
        NONE,
        "STMXCSR"
    );
    u64::from(value)
}
