//! Exceptions that exit: #NM, by rules xs-08 and xs-09, and NMIs of the machine.

use crate::{
    vcpu::{
        Vcpu,
        outcome::{End, Exception, Fault, Leave, Outcome},
    },
    vmx::exit::{EventInfo, EventKind},
    xstate::{registers::XRegisters, swap::CpuXstate},
};

const NM: u8 = Exception::DEVICE_NOT_AVAILABLE.vector;

#[inline(always)]
pub(super) fn handle<R: XRegisters>(
    vcpu: &mut Vcpu,
    cpu: &mut CpuXstate<R>,
    info: EventInfo,
) -> Outcome {
    match (info.kind(), info.vector()) {
        (EventKind::Exception, NM) => {
            // Rule xs-08.
            cpu.on_nm(&mut vcpu.xstate);
            Outcome::Inject(Exception::DEVICE_NOT_AVAILABLE)
        }
        // The machine's, not the guest's.
        (EventKind::Nmi, _) => Outcome::Leave(Leave::Interrupted),
        _ => Outcome::Leave(Leave::Ended(End::Fault(Fault::UnexpectedException(info)))),
    }
}
