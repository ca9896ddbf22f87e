//! Instructions that the guest's CPUID does not offer, or that do nothing here.

use crate::{
    vcpu::{
        Vcpu,
        outcome::{Exception, Outcome},
    },
    vmx::exit::Reason,
};

/// VMCALL: there is no such call, whichever was asked for. An answer rather
/// than #UD, because guests probe for hypervisors' calls.
#[inline(always)]
pub(super) fn vmcall(vcpu: &mut Vcpu) {
    vcpu.frame.registers.rax = u64::MAX;
}

/// INVD and WBINVD: memory is coherent and write-back whatever the guest
/// believes, so there is nothing to write back or, for other VMs' sake, to drop.
pub(super) fn cache_flush() -> Outcome {
    Outcome::Skip
}

/// RDPMC: no performance counter is offered.
pub(super) fn not_permitted() -> Outcome {
    Outcome::Inject(Exception::GENERAL_PROTECTION)
}

/// Exits of instructions that CPUID does not offer.
pub(super) fn is_not_offered(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::GETSEC
            | Reason::VMCLEAR
            | Reason::VMLAUNCH
            | Reason::VMPTRLD
            | Reason::VMPTRST
            | Reason::VMREAD
            | Reason::VMRESUME
            | Reason::VMWRITE
            | Reason::VMXOFF
            | Reason::VMXON
            | Reason::INVEPT
            | Reason::INVVPID
            | Reason::MONITOR
            | Reason::MWAIT
    )
}

/// They raise #UD, as on a CPU that has none of them.
pub(super) fn invalid_opcode() -> Outcome {
    Outcome::Inject(Exception::INVALID_OPCODE)
}
