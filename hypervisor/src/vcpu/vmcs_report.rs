//! What exit handlers ask about an exit, read from the current VMCS.

use super::exit::Report;
use crate::{
    cpu::tsc,
    memory::walk::Paging,
    vmx::{exit::EventInfo, field, vmcs::Loaded},
};

/// The current VMCS as a report.
pub(super) struct FromVmcs<'a, 'b>(pub(super) &'a Loaded<'b>);

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
