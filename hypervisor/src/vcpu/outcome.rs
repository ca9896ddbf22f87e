//! What comes of an exit.

use crate::{
    cpu::msr::Msr,
    memory::address::Gpa,
    vmx::exit::{EventInfo, PortAccess, Reason},
    xstate::{features::XFeatures, fpstate::GrowError, xfd::Interception},
};
use thiserror::Error;

/// What the run loop does after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an outcome that nobody applies leaves the guest at the same instruction"]
pub enum Outcome {
    /// Run the guest on from where it is.
    Resume,
    /// Run it on behind the instruction.
    Skip,
    /// Deliver an exception at the instruction.
    Inject(Exception),
    /// Deliver #DB.
    InjectDebug {
        /// What to add to DR6.
        causes: u64,
        /// Behind the instruction, which is INT1.
        behind: bool,
    },
    /// Behind the instruction, with other MSRs and exceptions intercepted.
    Intercept(Interception),
    /// Behind the instruction, with this value in an MSR that the CPU has.
    SetMsr(Msr, u64),
    /// Execute the MOV of a debug register again, with all of them in the CPU.
    RetryDebug,
    /// Execute the MOV to CR0 again: with this read shadow the CPU does the rest.
    RetryCr0 {
        /// The new read shadow.
        shadow: u64,
    },
    /// As [`Outcome::RetryCr0`], for CR4, whose host-owned bits take effect too.
    RetryCr4 {
        /// The new read shadow.
        shadow: u64,
        /// The new CR4 of the hardware.
        cr4: u64,
    },
    /// Behind the instruction, then back to the scheduler.
    SkipAndLeave(Leave),
    /// Back to the scheduler.
    Leave(Leave),
}

/// Why the vCPU leaves its run loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Its time slice is over.
    SliceOver,
    /// The machine wants the CPU.
    Interrupted,
    /// A console line waits to be shown.
    Line,
    /// It accesses a device in memory.
    Device(Gpa),
    /// It executes an INS or OUTS.
    StringIo(PortAccess),
    /// It waits for an interrupt, or only for an NMI.
    Halted {
        /// Whether its interrupts are on.
        interruptible: bool,
    },
    /// Other vCPUs are to be notified.
    Notify,
    /// Its container must grow by these components before the instruction can
    /// be executed.
    Grow(XFeatures),
    /// The VM has ended.
    Ended(End),
}

/// How a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By its own wish, with this code; zero is success.
    Code(u32),
    /// To begin again.
    Reset,
    /// By a mistake of the guest, or something we do not emulate.
    Fault(Fault),
}

impl End {
    /// Whether the VM's user got what was asked for.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Code(0) | Self::Reset)
    }
}

/// Why a VM had to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// An exception while a double fault was delivered.
    #[error("triple fault")]
    TripleFault,
    /// All vCPUs halt, or wait to be started, with nothing that could ever wake one.
    #[error("halted with nothing left that could wake it")]
    HaltedForEver,
    /// An access outside the VM's memory.
    #[error("{} at guest-physical {gpa}, where there is no memory", access(*qualification))]
    NoMemoryAt {
        /// Where.
        gpa: Gpa,
        /// What the CPU reports of the access.
        qualification: u64,
    },
    /// A device in memory, accessed by something else than a MOV of 32 bits.
    #[error(
        "the device at guest-physical {gpa} is accessed by an instruction that is not emulated"
    )]
    DeviceAccess {
        /// Where.
        gpa: Gpa,
    },
    /// An INS or OUTS of something that is no memory.
    #[error("string I/O with guest-physical {gpa}, where there is no memory")]
    StringIo {
        /// Where.
        gpa: Gpa,
    },
    /// An exception that the hypervisor did not ask to see.
    #[error("unexpected exception exit, interruption information {:#x}", .0.0)]
    UnexpectedException(EventInfo),
    /// An exit that the hypervisor does not handle.
    #[error("unhandled exit: {0}")]
    Unhandled(Reason),
    /// VM entry failed with this VM-instruction error.
    #[error("VM entry failed with VM-instruction error {0}")]
    EntryFailed(u32),
    /// The container could not grow by this many bytes.
    #[error("no memory for {0} bytes of extended state")]
    NoMemoryForXstate(u32),
    /// The hypervisor lost track of the vCPU's extended state: our bug, the
    /// VM's end.
    #[error("its extended state was left on another CPU")]
    XstateLost,
}

impl From<GrowError> for End {
    /// Rule xs-05: a VM whose container cannot grow ends; others go on.
    fn from(error: GrowError) -> Self {
        Self::Fault(match error {
            GrowError::OutOfMemory(error) => Fault::NoMemoryForXstate(error.bytes),
            GrowError::InRegisters => Fault::XstateLost,
        })
    }
}

/// What an EPT violation with this qualification was.
fn access(qualification: u64) -> &'static str {
    match qualification & 0b111 {
        access if access & 0b100 != 0 => "instruction fetch",
        access if access & 0b010 != 0 => "write",
        _ => "read",
    }
}

/// An exception for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// Its error code, where the vector has one.
    pub error_code: Option<u32>,
}

impl Exception {
    /// #DB
    pub const DEBUG: Self = Self {
        vector: 1,
        error_code: None,
    };
    /// #AC(0)
    pub const ALIGNMENT_CHECK: Self = Self {
        vector: 17,
        error_code: Some(0),
    };
    /// #UD
    pub const INVALID_OPCODE: Self = Self {
        vector: 6,
        error_code: None,
    };
    /// #NM
    pub const DEVICE_NOT_AVAILABLE: Self = Self {
        vector: 7,
        error_code: None,
    };
    /// #GP(0)
    pub const GENERAL_PROTECTION: Self = Self {
        vector: 13,
        error_code: Some(0),
    };

    /// #PF with this error code.
    pub const fn page_fault(error_code: u32) -> Self {
        Self {
            vector: 14,
            error_code: Some(error_code),
        }
    }

    /// The VM-entry interruption information.
    pub const fn info(self) -> EventInfo {
        EventInfo::exception(self.vector, self.error_code.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xstate::area::OutOfMemory;
    use std::string::ToString;

    #[test]
    fn rule_xs_05_without_memory_the_vm_ends_with_the_size() {
        let end = End::from(GrowError::OutOfMemory(OutOfMemory { bytes: 10752 }));
        assert!(!end.is_success());
        let End::Fault(fault) = end else {
            panic!("not by its own wish");
        };
        assert_eq!(
            fault.to_string(),
            "no memory for 10752 bytes of extended state"
        );
    }
}
