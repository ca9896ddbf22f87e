//! What an exit does: one file a family, each a safe function from the vCPU and
//! what the CPU reports to an [`Outcome`].
//!
//! On entry of each: the vCPU exited on this processor, so its container is the
//! one in the registers of `cpu`. Nothing here panics, whatever the guest did.

mod control;
mod cpuid;
mod exception;
mod halt;
mod memory;
mod msr;
mod port;
mod privileged;
#[cfg(test)]
mod tests;
mod time;
mod xsetbv;

use super::{
    Vcpu,
    outcome::{End, Exception, Fault, Leave, Outcome},
};
use crate::{
    memory::walk::Paging,
    vmx::exit::{CrAccess, EventInfo, PortAccess, Reason},
    xstate::{
        events::{self, GuestFault},
        registers::XRegisters,
        swap::CpuXstate,
    },
};

/// What the handlers may ask the CPU about the exit. Each question costs a
/// VMREAD, so each family asks only what it needs.
pub trait Report {
    /// The exit qualification.
    fn qualification(&self) -> u64;
    /// The VM-exit interruption information.
    fn interruption(&self) -> EventInfo;
    /// The guest-physical address of an EPT violation.
    fn guest_physical_address(&self) -> u64;
    /// The guest's TSC.
    fn now(&self) -> u64;
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// RSP.
    fn rsp(&self) -> u64;
    /// The control registers.
    fn control(&self) -> Paging;
}

/// Completes an exit whose answer is prepared, so that nothing has to be asked or
/// decided; the others are for [`dispatch`].
#[inline(always)]
pub fn complete(vcpu: &mut Vcpu, reason: Reason) -> bool {
    match reason {
        Reason::CPUID => cpuid::handle(vcpu),
        Reason::VMCALL => privileged::vmcall(vcpu),
        _ => return false,
    }
    true
}

/// Decides what comes of an exit.
#[inline(always)]
pub fn dispatch<R: XRegisters>(
    vcpu: &mut Vcpu,
    cpu: &mut CpuXstate<R>,
    reason: Reason,
    report: &impl Report,
) -> Outcome {
    match reason {
        _ if complete(vcpu, reason) => Outcome::Skip,
        Reason::RDMSR => msr::read(vcpu, cpu, report),
        Reason::WRMSR => msr::write(vcpu, cpu, report),
        Reason::IO => port::handle(vcpu, PortAccess::decode(report.qualification())),
        Reason::XSETBV => xsetbv::handle(vcpu, cpu),
        Reason::EXCEPTION_OR_NMI => exception::handle(vcpu, cpu, report.interruption(), report),
        Reason::PREEMPTION_TIMER => time::timer(vcpu, report.now()),
        Reason::INTERRUPT_WINDOW | Reason::NMI_WINDOW => time::window(vcpu),
        Reason::EXTERNAL_INTERRUPT => Outcome::Leave(Leave::Interrupted),
        Reason::CR_ACCESS => {
            control::handle(vcpu, CrAccess::decode(report.qualification()), report)
        }
        Reason::DR_ACCESS => Outcome::RetryDebug,
        Reason::EPT_VIOLATION => {
            memory::handle(report.guest_physical_address(), report.qualification())
        }
        Reason::VIRTUALIZED_EOI => {
            // The CPU has executed the instruction (SDM Vol. 3, "EOI Virtualization").
            msr::end_of_level(vcpu, report.qualification() as u8);
            Outcome::Resume
        }
        Reason::HLT => halt::handle(vcpu, report),
        Reason::TRIPLE_FAULT => Outcome::Leave(Leave::Ended(End::Fault(Fault::TripleFault))),
        Reason::INVD | Reason::WBINVD => privileged::cache_flush(),
        Reason::RDPMC => privileged::not_permitted(),
        _ if privileged::is_not_offered(reason) => privileged::invalid_opcode(),
        _ => Outcome::Leave(Leave::Ended(End::Fault(Fault::Unhandled(reason)))),
    }
}

/// What an event of extended state means for the run loop. CPUID follows XCR0
/// and IA32_XSS, so its prepared answers are brought up to date here (xs-03).
fn xstate_outcome(vcpu: &mut Vcpu, result: Result<events::Outcome, GuestFault>) -> Outcome {
    let outcome = match result {
        Ok(events::Outcome::Done) => Outcome::Skip,
        Ok(events::Outcome::Intercept(interception)) => Outcome::Intercept(interception),
        Ok(events::Outcome::Grow(lacking)) => return Outcome::Leave(Leave::Grow(lacking)),
        Err(_) => return Outcome::Inject(Exception::GENERAL_PROTECTION),
    };
    vcpu.cpuid.set_xstate(vcpu.xstate.xcr0(), vcpu.xstate.xss());
    outcome
}
