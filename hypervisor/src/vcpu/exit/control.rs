//! MOV to CR0 and CR4 that touches host-owned bits, and CR8.

use super::Report;
use crate::vcpu::{
    Vcpu,
    control::Cr4,
    outcome::{End, Exception, Fault, Leave, Outcome},
};
use crate::vmx::exit::{CrAccess, Reason};

/// CR8 has four bits; the rest is reserved.
const CR8_MAX: u64 = 0xf;
/// Number of RSP in qualifications.
const RSP: u8 = 4;

pub(super) fn handle(vcpu: &mut Vcpu, access: CrAccess, report: &impl Report) -> Outcome {
    let unhandled = Outcome::Leave(Leave::Ended(End::Fault(Fault::Unhandled(
        Reason::CR_ACCESS,
    ))));
    let gpr = |vcpu: &Vcpu, number| match number {
        RSP => Some(report.rsp()),
        _ => vcpu.frame.registers.by_number(number),
    };
    match access {
        CrAccess::Write { cr: 0, gpr: number } => match gpr(vcpu, number) {
            Some(value) => write_cr0(vcpu, value, report),
            None => unhandled,
        },
        CrAccess::Write { cr: 4, gpr: number } => match gpr(vcpu, number) {
            Some(value) => write_cr4(vcpu, value, report),
            None => unhandled,
        },
        CrAccess::Write { cr: 8, gpr: number } => match gpr(vcpu, number) {
            Some(value @ 0..=CR8_MAX) => {
                vcpu.apic.set_cr8(value);
                vcpu.attention = true;
                Outcome::Skip
            }
            Some(_) => Outcome::Inject(Exception::GENERAL_PROTECTION),
            None => unhandled,
        },
        CrAccess::Read { cr: 8, gpr } => {
            let priority = vcpu.apic.cr8();
            match vcpu.frame.registers.by_number_mut(gpr) {
                Some(register) => {
                    *register = priority;
                    Outcome::Skip
                }
                None => unhandled,
            }
        }
        _ => unhandled,
    }
}

fn write_cr0(vcpu: &Vcpu, value: u64, report: &impl Report) -> Outcome {
    match vcpu.control.check_cr0(report.control(), value) {
        Ok(()) => Outcome::RetryCr0 { shadow: value },
        Err(_) => Outcome::Inject(Exception::GENERAL_PROTECTION),
    }
}

fn write_cr4(vcpu: &mut Vcpu, value: u64, report: &impl Report) -> Outcome {
    let state = report.control();
    if vcpu.control.check_cr4(state, value).is_err() {
        return Outcome::Inject(Exception::GENERAL_PROTECTION);
    }
    let new = Cr4::from_bits_retain(value);
    vcpu.cpuid
        .set_cr4(new.contains(Cr4::OSXSAVE), new.contains(Cr4::PKE));
    let owned = vcpu.control.cr4_owned();
    Outcome::RetryCr4 {
        shadow: value,
        cr4: state.cr4 & !owned | vcpu.control.hardware_cr4(value) & owned,
    }
}
