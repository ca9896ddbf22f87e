//! What exit handlers ask about an exit, read from the current VMCS.

use super::{exit::Report, string_io::StringInstruction};
use crate::{
    cpu::tsc,
    memory::walk::Paging,
    vmx::{exit::EventInfo, field, vmcs::Loaded},
};

/// The current VMCS as a report.
pub(super) struct FromVmcs<'a, 'b>(pub(super) &'a Loaded<'b>);

impl FromVmcs<'_, '_> {
    /// The INS or OUTS that exited.
    pub(super) fn string_instruction(&self) -> StringInstruction {
        StringInstruction {
            length: u64::from(self.0.read(field::EXIT_INSTRUCTION_LENGTH)),
            info: self.0.read(field::EXIT_INSTRUCTION_INFO),
            operand: self.0.read(field::GUEST_LINEAR_ADDRESS),
            level: self.0.read(field::GUEST_SS_ACCESS_RIGHTS) >> 5 & 0b11,
            rflags: self.rflags(),
            paging: self.control(),
        }
    }
}

impl Report for FromVmcs<'_, '_> {
    #[inline(always)]
    fn qualification(&self) -> u64 {
        self.0.read(field::EXIT_QUALIFICATION)
    }
    #[inline(always)]
    fn interruption(&self) -> EventInfo {
        EventInfo(self.0.read(field::EXIT_INTERRUPTION_INFO))
    }
    fn guest_physical_address(&self) -> u64 {
        self.0.read(field::GUEST_PHYSICAL_ADDRESS)
    }
    fn now(&self) -> u64 {
        tsc::now()
    }
    fn rflags(&self) -> u64 {
        self.0.read(field::GUEST_RFLAGS)
    }
    fn rsp(&self) -> u64 {
        self.0.read(field::GUEST_RSP)
    }
    fn control(&self) -> Paging {
        Paging {
            cr0: self.0.read(field::GUEST_CR0),
            cr3: self.0.read(field::GUEST_CR3),
            cr4: self.0.read(field::GUEST_CR4),
            efer: self.0.read(field::GUEST_EFER),
        }
    }
}
