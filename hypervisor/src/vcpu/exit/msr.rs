//! RDMSR and WRMSR of what is not passed through.

use super::{Report, xstate_outcome};
use crate::{
    cpu::msr::Msr,
    device::x2apic::{Effect, FIRST_MSR, LAST_MSR},
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

/// x2APIC mode, enabled, at the usual address: what firmware with more than 255
/// CPUs hands over. It cannot be changed, because xAPIC mode is not there to go
/// back to.
const APIC_BASE: u64 = 0xfee0_0000 | 1 << 11 | 1 << 10;
const APIC_BASE_BOOT_PROCESSOR: u64 = 1 << 8;

fn apic_base(vcpu: &Vcpu) -> u64 {
    match vcpu.apic.id() {
        0 => APIC_BASE | APIC_BASE_BOOT_PROCESSOR,
        _ => APIC_BASE,
    }
}

#[inline(always)]
pub(super) fn read<R: XRegisters>(
    vcpu: &mut Vcpu,
    cpu: &mut CpuXstate<R>,
    report: &impl Report,
) -> Outcome {
    let number = vcpu.frame.registers.ecx();
    let value = match XMsr::from_address(number) {
        Some(msr) => cpu.read_msr(&vcpu.xstate, msr).ok(),
        None => model(vcpu, Msr(number), report),
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
pub(super) fn write<R: XRegisters>(
    vcpu: &mut Vcpu,
    cpu: &mut CpuXstate<R>,
    report: &impl Report,
) -> Outcome {
    let registers = &vcpu.frame.registers;
    let (number, value) = (registers.ecx(), registers.edx_eax());
    if let Some(msr) = XMsr::from_address(number) {
        let result = cpu.write_msr(&mut vcpu.xstate, msr, value);
        return xstate_outcome(vcpu, result);
    }
    match change(vcpu, Msr(number), value, report) {
        Some(()) => Outcome::Skip,
        None => hand_down(Msr(number), value),
    }
}

/// What an MSR of the model reads; `None` where it does not exist.
fn model(vcpu: &Vcpu, msr: Msr, report: &impl Report) -> Option<u64> {
    match msr {
        Msr(number @ FIRST_MSR..=LAST_MSR) => vcpu.apic.read(number - FIRST_MSR, report.now()).ok(),
        // Not writable: the guest's TSC is the machine's, which others see too.
        Msr::IA32_TSC => Some(report.now()),
        Msr::IA32_TSC_DEADLINE => Some(vcpu.apic.tsc_deadline()),
        Msr::IA32_APIC_BASE => Some(apic_base(vcpu)),
        Msr::IA32_MISC_ENABLE => Some(MISC_ENABLE_FAST_STRINGS),
        // No microcode update was ever loaded.
        Msr::IA32_BIOS_SIGN_ID => Some(0),
        _ => None,
    }
}

/// Writes an MSR of the model; `None` where it takes no such value, or is none of it.
fn change(vcpu: &mut Vcpu, msr: Msr, value: u64, report: &impl Report) -> Option<()> {
    match msr {
        Msr(number @ FIRST_MSR..=LAST_MSR) => {
            let effect = vcpu
                .apic
                .write(number - FIRST_MSR, value, report.now())
                .ok()?;
            match effect {
                Effect::Send(ipi) => vcpu.send(ipi),
                Effect::EndOfLevel(vector) => end_of_level(vcpu, vector),
                Effect::None | Effect::Changed => {}
            }
            vcpu.attention = true;
        }
        Msr::IA32_TSC_DEADLINE => {
            vcpu.apic.set_tsc_deadline(value);
            vcpu.attention = true;
        }
        Msr::IA32_APIC_BASE => return (value == apic_base(vcpu)).then_some(()),
        Msr::IA32_MISC_ENABLE => {}
        // Zero is written before the microcode revision is read (SDM Vol. 3,
        // "Determining the Signature").
        Msr::IA32_BIOS_SIGN_ID => return (value == 0).then_some(()),
        _ => return None,
    }
    Some(())
}

/// Writes an MSR that the CPU has for the guest, if it takes the value.
#[cold]
fn hand_down(msr: Msr, value: u64) -> Outcome {
    let takes = match msr {
        Msr::IA32_STAR => true,
        Msr::IA32_LSTAR | Msr::IA32_CSTAR => is_canonical(value),
        Msr::IA32_FMASK | Msr::IA32_TSC_AUX => value >> 32 == 0,
        _ => false,
    };
    match takes {
        true => Outcome::SetMsr(msr, value),
        false => Outcome::Inject(Exception::GENERAL_PROTECTION),
    }
}

/// Whether `linear` is an address of 48 bits (SDM Vol. 1, "Canonical Addressing"): LA57
/// is not shown.
fn is_canonical(linear: u64) -> bool {
    matches!(linear >> 47, 0 | 0x1_ffff)
}

/// Tells the devices that the interrupt on `vector`, which one holds up, was served.
pub(super) fn end_of_level(vcpu: &mut Vcpu, vector: u8) {
    vcpu.on_bus(|bus| bus.end_of_interrupt(vector));
}
