//! Exceptions that exit: #NM, by rules xs-08 and xs-09, NMIs of the machine, and
//! #DB and #AC.
//!
//! The last two are passed on as they are. They exit because the delivery of one can
//! cause the next, without end and without an instruction between them at which a
//! timer could strike: a guest could keep a CPU for ever.

use super::Report;
use crate::{
    vcpu::{
        Vcpu,
        outcome::{End, Exception, Fault, Leave, Outcome},
    },
    vmx::exit::{EventInfo, EventKind},
    xstate::{registers::XRegisters, swap::CpuXstate},
};

const DB: u8 = Exception::DEBUG.vector;
const NM: u8 = Exception::DEVICE_NOT_AVAILABLE.vector;
const AC: u8 = Exception::ALIGNMENT_CHECK.vector;

#[inline(always)]
pub(super) fn handle<R: XRegisters>(
    vcpu: &mut Vcpu,
    cpu: &mut CpuXstate<R>,
    info: EventInfo,
    report: &impl Report,
) -> Outcome {
    match (info.kind(), info.vector()) {
        (EventKind::Exception, NM) => {
            // Rule xs-08.
            cpu.on_nm(&mut vcpu.xstate);
            Outcome::Inject(Exception::DEVICE_NOT_AVAILABLE)
        }
        (EventKind::Exception, AC) => Outcome::Inject(Exception::ALIGNMENT_CHECK),
        // SDM Vol. 3, "Exit Qualification for Debug Exceptions": bits for DR6, where
        // an exit has not put them.
        (EventKind::Exception, DB) => Outcome::InjectDebug {
            causes: report.qualification(),
            behind: false,
        },
        (EventKind::PrivilegedSoftwareException, DB) => Outcome::InjectDebug {
            causes: 0,
            behind: true,
        },
        // The machine's, not the guest's.
        (EventKind::Nmi, _) => Outcome::Leave(Leave::Interrupted),
        _ => Outcome::Leave(Leave::Ended(End::Fault(Fault::UnexpectedException(info)))),
    }
}
