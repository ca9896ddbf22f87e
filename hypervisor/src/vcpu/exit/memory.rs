//! EPT violations: all memory of a VM is mapped before it runs, so what is not
//! mapped is not there.

use crate::{
    memory::address::Gpa,
    vcpu::outcome::{End, Fault, Leave, Outcome},
};

pub(super) fn handle(gpa: u64, qualification: u64) -> Outcome {
    let gpa = Gpa(gpa);
    Outcome::Leave(Leave::Ended(End::Fault(Fault::NoMemoryAt {
        gpa,
        qualification,
    })))
}
