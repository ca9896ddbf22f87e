//! HLT.

use super::Report;
use crate::vcpu::{
    Vcpu,
    outcome::{Leave, Outcome},
};

const RFLAGS_IF: u64 = 1 << 9;

pub(super) fn handle(vcpu: &mut Vcpu, report: &impl Report) -> Outcome {
    vcpu.collect(report.now());
    let interruptible = report.rflags() & RFLAGS_IF != 0;
    if vcpu.is_woken(interruptible) {
        vcpu.attention = true;
        return Outcome::Skip;
    }
    Outcome::SkipAndLeave(Leave::Halted { interruptible })
}
