//! Where a guest is.

use crate::memory::walk::Paging;

/// What a person wants to know of a vCPU that did not end by itself.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// RIP.
    pub rip: u64,
    /// Linear base of CS, to which RIP is relative.
    pub code_base: u64,
    /// Whether the code is 64-bit code.
    pub long_mode: bool,
    /// RSP.
    pub rsp: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// The control registers, as the hardware has them.
    pub paging: Paging,
    /// Whether an event was being delivered.
    pub delivering: bool,
    /// The exit reason, with bit 31 for a failed entry.
    pub reason: u32,
    /// The exit qualification.
    pub qualification: u64,
}

impl Snapshot {
    /// The linear address of the instruction.
    pub fn instruction(&self) -> u64 {
        self.code_base.wrapping_add(self.rip)
    }
}
