//! RDMSR and WRMSR of what is not passed through.

use super::xstate_outcome;
use crate::{
    cpu::msr::Msr,
    vcpu::{
        Vcpu,
        outcome::{Exception, Outcome},
    },
    xstate::{
        registers::{XMsr, XRegisters},
        swap::CpuXstate,
    },
};

/// Fast string operations are enabled: the only bit of IA32_MISC_ENABLE that a
/// guest acts on. Without it Linux takes FSRM for a lie of CPUID.
const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;

#[inline(always)]
pub(super) fn read<R: XRegisters>(vcpu: &mut Vcpu, cpu: &mut CpuXstate<R>) -> Outcome {
    let number = vcpu.frame.registers.ecx();
    let value = match XMsr::from_address(number) {
        Some(msr) => cpu.read_msr(&vcpu.xstate, msr).ok(),
        None => model(Msr(number)),
    };
    match value {
        Some(value) => {
            vcpu.frame.registers.set_edx_eax(value);
            Outcome::Skip
        }
        None => Outcome::Inject(Exception::GENERAL_PROTECTION),
    }
}

#[inline(always)]
pub(super) fn write<R: XRegisters>(vcpu: &mut Vcpu, cpu: &mut CpuXstate<R>) -> Outcome {
    let registers = &vcpu.frame.registers;
    let (number, value) = (registers.ecx(), registers.edx_eax());
    match XMsr::from_address(number) {
        Some(msr) => {
            let result = cpu.write_msr(&mut vcpu.xstate, msr, value);
            xstate_outcome(vcpu, result)
        }
        None if accepts(Msr(number)) => Outcome::Skip,
        None => Outcome::Inject(Exception::GENERAL_PROTECTION),
    }
}

/// What the MSRs read that have one value for ever.
fn model(msr: Msr) -> Option<u64> {
    match msr {
        Msr::IA32_MISC_ENABLE => Some(MISC_ENABLE_FAST_STRINGS),
        // No microcode update was ever loaded.
        Msr::IA32_BIOS_SIGN_ID => Some(0),
        _ => None,
    }
}

/// Whether writes go nowhere rather than fault: that of zero before the
/// microcode revision is read is part of the reading (SDM Vol. 3, "Determining
/// the Signature").
fn accepts(msr: Msr) -> bool {
    matches!(msr, Msr::IA32_MISC_ENABLE | Msr::IA32_BIOS_SIGN_ID)
}
