//! XSETBV, rule xs-06. The CPU has checked privilege and CR4.OSXSAVE before it
//! exits (SDM Vol. 3, "Relative Priority of Faults and VM Exits").

use super::xstate_outcome;
use crate::{
    vcpu::{Vcpu, outcome::Outcome},
    xstate::{registers::XRegisters, swap::CpuXstate},
};

#[inline(always)]
pub(super) fn handle<R: XRegisters>(vcpu: &mut Vcpu, cpu: &mut CpuXstate<R>) -> Outcome {
    let (index, value) = (vcpu.frame.registers.ecx(), vcpu.frame.registers.edx_eax());
    let result = cpu.xsetbv(&mut vcpu.xstate, index, value);
    xstate_outcome(vcpu, result)
}
