//! HLT.

use super::Report;
use crate::vcpu::{
    Vcpu,
    outcome::{End, Fault, Leave, Outcome},
};

const RFLAGS_IF: u64 = 1 << 9;

pub(super) fn handle(vcpu: &mut Vcpu, report: &impl Report) -> Outcome {
    if report.rflags() & RFLAGS_IF == 0 {
        // Only an NMI could wake it, and nothing sends one.
        return Outcome::Leave(Leave::Ended(End::Fault(Fault::HaltedForEver)));
    }
    vcpu.apic.advance(report.now());
    if vcpu.apic.deliverable().is_some() {
        vcpu.attention = true;
        return Outcome::Skip;
    }
    if vcpu.apic.deadline().is_none() {
        return Outcome::Leave(Leave::Ended(End::Fault(Fault::HaltedForEver)));
    }
    Outcome::SkipAndLeave(Leave::Halted)
}
