//! HLT.

use crate::vcpu::outcome::{End, Fault, Leave, Outcome};

const RFLAGS_IF: u64 = 1 << 9;

pub(super) fn handle(rflags: u64) -> Outcome {
    if rflags & RFLAGS_IF == 0 {
        return Outcome::Leave(Leave::Ended(End::Fault(Fault::HaltedForEver)));
    }
    Outcome::SkipAndLeave(Leave::Halted)
}
