//! The preemption timer, and the moment at which the guest can take interrupts.

use crate::vcpu::{
    Vcpu,
    outcome::{Leave, Outcome},
};

/// The preemption timer: the slice is over, or the guest's own timer fires.
pub(super) fn timer(vcpu: &mut Vcpu, now: u64) -> Outcome {
    if vcpu.slice_is_over(now) {
        return Outcome::Leave(Leave::SliceOver);
    }
    if vcpu.timer_is_due(now) {
        return Outcome::Leave(Leave::Notify);
    }
    vcpu.attention = true;
    Outcome::Resume
}

/// The guest can take the interrupt or NMI that waits.
pub(super) fn window(vcpu: &mut Vcpu) -> Outcome {
    vcpu.attention = true;
    Outcome::Resume
}
