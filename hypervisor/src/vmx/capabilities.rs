//! What VMX on this CPU can do, and whether it is all that the hypervisor needs:
//! decided from CPUID and the capability MSRs alone (SDM Vol. 3, appendix "VMX
//! Capability Reporting Facility").

use super::controls::{
    Capability, EntryControls, ExitControls, MissingControl, PinBased, Primary, Secondary,
};
use crate::{cpu::msr::Msr, memory::ept::PageSizes};
use raw_cpuid::CpuIdReader;
use thiserror::Error;

/// Why this CPU cannot be a host.
#[derive(Clone, Copy, Debug, Error)]
pub enum VmxError {
    /// CPUID.1:ECX\[5\] is clear.
    #[error("this CPU has no VMX (CPUID.1:ECX[5] is 0)")]
    NoVmx,
    /// IA32_FEATURE_CONTROL is locked with VMX off; the register's value.
    #[error(
        "the firmware locked VMX off (IA32_FEATURE_CONTROL is {0:#x}); switch virtualization on in its setup"
    )]
    LockedOff(u64),
    /// A control that we need is missing.
    #[error("{0}")]
    Control(MissingControl),
    /// EPT lacks something that we need.
    #[error("this CPU's EPT lacks {0}")]
    Ept(&'static str),
    /// No frame for the VMXON region.
    #[error("no memory for the VMXON region")]
    NoMemory,
    /// VMXON failed.
    #[error("VMXON failed")]
    Vmxon,
}

/// What VMX on this CPU can do, and the values that its controls take.
#[derive(Clone, Copy, Debug)]
pub struct Vmx {
    /// First word of VMXON regions and VMCSs.
    pub revision: u32,
    /// Value of the pin-based controls.
    pub pin_based: u32,
    /// Value of the primary controls.
    pub primary: u32,
    /// Value of the secondary controls.
    pub secondary: Secondary,
    /// Value of the VM-exit controls.
    pub exit: u32,
    /// Value of the VM-entry controls, for a guest outside IA-32e mode.
    pub entry: u32,
    /// The CPU keeps the guest's local APIC.
    pub virtual_apic: bool,
    /// Page sizes that EPT can map.
    pub ept_pages: PageSizes,
    /// The preemption timer ticks once every `1 << this` TSC ticks.
    pub preemption_timer_shift: u32,
    /// CR0 bits that must be one, less those that unrestricted guests are free of.
    pub cr0_must_be_one: u64,
    /// CR0 bits that may be one.
    pub cr0_may_be_one: u64,
    /// CR4 bits that must be one.
    pub cr4_must_be_one: u64,
    /// CR4 bits that may be one.
    pub cr4_may_be_one: u64,
}

/// IA32_FEATURE_CONTROL: the register cannot be changed until the next reset.
pub(super) const FEATURE_LOCK: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON is allowed.
pub(super) const FEATURE_VMX_OUTSIDE_SMX: u64 = 1 << 2;

impl Vmx {
    /// Checks all that the hypervisor needs, in the order in which a person
    /// would look for it.
    ///
    /// `read` is asked only for registers whose gate was checked.
    ///
    /// # Errors
    /// The first need that is missing.
    pub fn detect(cpuid: &impl CpuIdReader, read: impl Fn(Msr) -> u64) -> Result<Self, VmxError> {
        const CPUID_1_ECX_VMX: u32 = 1 << 5;
        if cpuid.cpuid1(1).ecx & CPUID_1_ECX_VMX == 0 {
            return Err(VmxError::NoVmx);
        }
        let feature_control = read(Msr::IA32_FEATURE_CONTROL);
        if feature_control & FEATURE_LOCK != 0 && feature_control & FEATURE_VMX_OUTSIDE_SMX == 0 {
            return Err(VmxError::LockedOff(feature_control));
        }
        let basic = read(Msr::IA32_VMX_BASIC);
        const TRUE_CONTROLS: u64 = 1 << 55;
        let [pin, primary, exit, entry] = if basic & TRUE_CONTROLS != 0 {
            [
                Msr::IA32_VMX_TRUE_PINBASED_CTLS,
                Msr::IA32_VMX_TRUE_PROCBASED_CTLS,
                Msr::IA32_VMX_TRUE_EXIT_CTLS,
                Msr::IA32_VMX_TRUE_ENTRY_CTLS,
            ]
        } else {
            [
                Msr::IA32_VMX_PINBASED_CTLS,
                Msr::IA32_VMX_PROCBASED_CTLS,
                Msr::IA32_VMX_EXIT_CTLS,
                Msr::IA32_VMX_ENTRY_CTLS,
            ]
        }
        .map(|register| Capability(read(register)));

        let pin_based = pin.resolve(
            PinBased::EXTERNAL_INTERRUPT_EXITING
                | PinBased::NMI_EXITING
                | PinBased::VIRTUAL_NMIS
                | PinBased::PREEMPTION_TIMER,
            PinBased::empty(),
        );
        let secondary = Capability(read(Msr::IA32_VMX_PROCBASED_CTLS2));
        const VIRTUAL_APIC: Secondary = Secondary::X2APIC_VIRTUALIZATION
            .union(Secondary::APIC_REGISTER_VIRTUALIZATION)
            .union(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
        let virtual_apic = primary.allows(Primary::TPR_SHADOW) && secondary.allows(VIRTUAL_APIC);
        let (task_priority, apic) = if virtual_apic {
            (Primary::TPR_SHADOW, VIRTUAL_APIC)
        } else {
            let exits = Primary::CR8_LOAD_EXITING | Primary::CR8_STORE_EXITING;
            (exits, Secondary::empty())
        };
        let primary = primary.resolve(
            task_priority
                | Primary::HLT_EXITING
                | Primary::MOV_DR_EXITING
                | Primary::MWAIT_EXITING
                | Primary::MONITOR_EXITING
                | Primary::RDPMC_EXITING
                | Primary::UNCONDITIONAL_IO_EXITING
                | Primary::MSR_BITMAPS
                | Primary::SECONDARY_CONTROLS,
            Primary::empty(),
        );
        let exit = exit.resolve(
            ExitControls::SAVE_DEBUG
                | ExitControls::HOST_64_BIT
                | ExitControls::ACKNOWLEDGE_INTERRUPT
                | ExitControls::SAVE_PAT
                | ExitControls::LOAD_PAT
                | ExitControls::SAVE_EFER
                | ExitControls::LOAD_EFER
                | ExitControls::SAVE_PREEMPTION_TIMER,
            ExitControls::empty(),
        );
        let entry = entry.resolve(
            EntryControls::LOAD_DEBUG | EntryControls::LOAD_PAT | EntryControls::LOAD_EFER,
            EntryControls::empty(),
        );
        let (pin_based, primary) = (
            pin_based.map_err(VmxError::Control)?,
            primary.map_err(VmxError::Control)?,
        );
        let (exit, entry) = (
            exit.map_err(VmxError::Control)?,
            entry.map_err(VmxError::Control)?,
        );
        let secondary = secondary
            .resolve(
                apic | Secondary::EPT | Secondary::VPID | Secondary::UNRESTRICTED_GUEST,
                Secondary::RDTSCP | Secondary::INVPCID | Secondary::XSAVES,
            )
            .map_err(VmxError::Control)?;

        const FREE_IN_UNRESTRICTED_GUESTS: u64 = 1 << 0 | 1 << 31;
        const TIMER_SHIFT: u64 = 0x1f;
        Ok(Self {
            revision: (basic & 0x7fff_ffff) as u32,
            pin_based,
            primary,
            secondary: Secondary::from_bits_retain(secondary),
            exit,
            entry,
            virtual_apic,
            ept_pages: ept_pages(read(Msr::IA32_VMX_EPT_VPID_CAP))?,
            preemption_timer_shift: (read(Msr::IA32_VMX_MISC) & TIMER_SHIFT) as u32,
            cr0_must_be_one: read(Msr::IA32_VMX_CR0_FIXED0) & !FREE_IN_UNRESTRICTED_GUESTS,
            cr0_may_be_one: read(Msr::IA32_VMX_CR0_FIXED1),
            cr4_must_be_one: read(Msr::IA32_VMX_CR4_FIXED0),
            cr4_may_be_one: read(Msr::IA32_VMX_CR4_FIXED1),
        })
    }
}

/// What EPT must be able to do (SDM Vol. 3, "VPID and EPT Capabilities").
fn ept_pages(capabilities: u64) -> Result<PageSizes, VmxError> {
    let has = |bit: u32| capabilities & 1 << bit != 0;
    match () {
        () if !has(6) => Err(VmxError::Ept("page walks of length 4")),
        () if !has(14) => Err(VmxError::Ept("the write-back memory type")),
        () if !has(20) => Err(VmxError::Ept("INVEPT")),
        () => Ok(PageSizes {
            large: has(16),
            huge: has(17),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raw_cpuid::CpuIdResult;
    use std::{collections::BTreeMap, string::ToString};

    #[derive(Clone)]
    struct Cpuid {
        vmx: bool,
    }

    impl CpuIdReader for Cpuid {
        fn cpuid2(&self, _: u32, _: u32) -> CpuIdResult {
            let ecx = u32::from(self.vmx) << 5;
            CpuIdResult {
                eax: 0,
                ebx: 0,
                ecx,
                edx: 0,
            }
        }
    }

    /// A CPU that can do everything, but for the registers in `changed`.
    fn detect(changed: &[(Msr, u64)]) -> Result<Vmx, VmxError> {
        const ALL: u64 = 0xffff_ffff << 32;
        let mut registers: BTreeMap<Msr, u64> = [
            (Msr::IA32_FEATURE_CONTROL, 0b101),
            (Msr::IA32_VMX_BASIC, 1 << 55 | 7),
            (Msr::IA32_VMX_MISC, 5),
            (Msr::IA32_VMX_TRUE_PINBASED_CTLS, ALL),
            (Msr::IA32_VMX_TRUE_PROCBASED_CTLS, ALL),
            (Msr::IA32_VMX_TRUE_EXIT_CTLS, ALL),
            (Msr::IA32_VMX_TRUE_ENTRY_CTLS, ALL),
            (Msr::IA32_VMX_PROCBASED_CTLS2, ALL),
            (Msr::IA32_VMX_EPT_VPID_CAP, u64::MAX),
            (Msr::IA32_VMX_CR0_FIXED0, 0x8000_0021),
            (Msr::IA32_VMX_CR0_FIXED1, u64::MAX),
            (Msr::IA32_VMX_CR4_FIXED0, 0x2000),
            (Msr::IA32_VMX_CR4_FIXED1, u64::MAX),
        ]
        .into();
        registers.extend(changed.iter().copied());
        Vmx::detect(&Cpuid { vmx: true }, |msr| {
            *registers
                .get(&msr)
                .expect("a register whose gate was checked")
        })
    }

    #[test]
    fn a_cpu_with_everything_is_taken() {
        let vmx = detect(&[]).unwrap();
        assert_eq!((vmx.revision, vmx.preemption_timer_shift), (7, 5));
        // Protection and paging are the guest's own in unrestricted guests.
        assert_eq!(vmx.cr0_must_be_one, 0x20);
        assert_eq!(
            vmx.ept_pages,
            PageSizes {
                large: true,
                huge: true
            }
        );
        // Not locked is as good: the hypervisor switches VMX on and locks it.
        assert!(detect(&[(Msr::IA32_FEATURE_CONTROL, 0)]).is_ok());
    }

    #[test]
    fn every_missing_need_has_its_own_message() {
        let none = Vmx::detect(&Cpuid { vmx: false }, |_| panic!("no register without VMX"));
        assert!(none.unwrap_err().to_string().contains("no VMX"));
        let without = |bits: u32| u64::from(!bits) << 32;
        for (register, value, message) in [
            (
                Msr::IA32_FEATURE_CONTROL,
                0b001,
                "the firmware locked VMX off",
            ),
            (
                Msr::IA32_VMX_TRUE_PINBASED_CTLS,
                without(1 << 6),
                "lacks PREEMPTION_TIMER",
            ),
            (
                Msr::IA32_VMX_TRUE_PROCBASED_CTLS,
                without(1 << 31),
                "lacks SECONDARY_CONTROLS",
            ),
            (
                Msr::IA32_VMX_PROCBASED_CTLS2,
                without(1 << 1),
                "lacks EPT in the secondary",
            ),
            (
                Msr::IA32_VMX_PROCBASED_CTLS2,
                without(1 << 7),
                "lacks UNRESTRICTED_GUEST",
            ),
            (
                Msr::IA32_VMX_TRUE_EXIT_CTLS,
                without(1 << 21),
                "lacks LOAD_EFER in the VM-exit",
            ),
            (
                Msr::IA32_VMX_TRUE_ENTRY_CTLS,
                without(1 << 14),
                "lacks LOAD_PAT in the VM-entry",
            ),
            (
                Msr::IA32_VMX_EPT_VPID_CAP,
                !(1 << 6),
                "EPT lacks page walks of length 4",
            ),
            (
                Msr::IA32_VMX_EPT_VPID_CAP,
                !(1 << 14),
                "EPT lacks the write-back memory type",
            ),
            (Msr::IA32_VMX_EPT_VPID_CAP, !(1 << 20), "EPT lacks INVEPT"),
        ] {
            let error = detect(&[(register, value)]).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn without_apic_virtualisation_cr8_exits() {
        const CR8: u32 = 0b11 << 19;
        const TPR_SHADOW: u32 = 1 << 21;
        let with = detect(&[]).unwrap();
        assert!(with.virtual_apic);
        assert_eq!(with.primary & (CR8 | TPR_SHADOW), TPR_SHADOW);
        let lacking = u64::from(!(1_u32 << 9)) << 32;
        let without = detect(&[(Msr::IA32_VMX_PROCBASED_CTLS2, lacking)]).unwrap();
        assert!(!without.virtual_apic);
        assert_eq!(without.primary & (CR8 | TPR_SHADOW), CR8);
        assert_eq!(without.secondary.bits() & (1 << 4 | 1 << 8), 0);
    }

    #[test]
    fn without_true_controls_the_plain_ones_are_read() {
        const ALL: u64 = 0xffff_ffff << 32;
        let plain = [
            (Msr::IA32_VMX_BASIC, 7),
            (Msr::IA32_VMX_PINBASED_CTLS, ALL | 0x16),
            (Msr::IA32_VMX_PROCBASED_CTLS, ALL),
            (Msr::IA32_VMX_EXIT_CTLS, ALL),
            (Msr::IA32_VMX_ENTRY_CTLS, ALL),
        ];
        assert_eq!(detect(&plain).unwrap().pin_based & 0x16, 0x16);
    }
}
