//! EPT violations: all memory of a VM is mapped before it runs, so what is not
//! mapped is a device or not there.

use crate::{
    device::bus,
    memory::address::Gpa,
    vcpu::outcome::{End, Fault, Leave, Outcome},
};

pub(super) fn handle(gpa: u64, qualification: u64) -> Outcome {
    let gpa = Gpa(gpa);
    if bus::is_device(gpa) {
        return Outcome::Leave(Leave::Device(gpa));
    }
    Outcome::Leave(Leave::Ended(End::Fault(Fault::NoMemoryAt {
        gpa,
        qualification,
    })))
}
