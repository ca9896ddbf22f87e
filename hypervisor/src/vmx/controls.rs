//! VM-execution, exit and entry controls against what the CPU allows
//! (SDM Vol. 3, appendix "VMX Capability Reporting Facility").
//!
//! No control is set that the CPU does not allow, none is cleared that it
//! demands, and where one that we need is missing, the error names it.

use bitflags::{Flags, bitflags};
use thiserror::Error;

bitflags! {
    /// SDM Vol. 3, "Pin-Based VM-Execution Controls".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PinBased: u32 {
        /// External interrupts exit.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// NMIs exit.
        const NMI_EXITING = 1 << 3;
        /// NMIs of the guest are blocked apart from the machine's.
        const VIRTUAL_NMIS = 1 << 5;
        /// A timer that counts down while the guest runs, and exits at zero.
        const PREEMPTION_TIMER = 1 << 6;
    }

    /// SDM Vol. 3, "Processor-Based VM-Execution Controls", first table.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Primary: u32 {
        /// Exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        /// HLT exits.
        const HLT_EXITING = 1 << 7;
        /// MWAIT exits.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC exits.
        const RDPMC_EXITING = 1 << 11;
        /// MOV to CR8 exits.
        const CR8_LOAD_EXITING = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE_EXITING = 1 << 20;
        /// The guest's task priority is in the virtual-APIC page.
        const TPR_SHADOW = 1 << 21;
        /// Exit as soon as the guest can take an NMI.
        const NMI_WINDOW_EXITING = 1 << 22;
        /// MOV to and from debug registers exits.
        const MOV_DR_EXITING = 1 << 23;
        /// Every port access exits.
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        /// The MSR bitmap says which accesses exit.
        const MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR_EXITING = 1 << 29;
        /// The secondary controls count.
        const SECONDARY_CONTROLS = 1 << 31;
    }

    /// SDM Vol. 3, "Processor-Based VM-Execution Controls", second table.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Secondary: u32 {
        /// Extended page tables.
        const EPT = 1 << 1;
        /// Accesses to x2APIC registers that do not exit reach the virtual-APIC page.
        const X2APIC_VIRTUALIZATION = 1 << 4;
        /// RDTSCP and RDPID work in the guest.
        const RDTSCP = 1 << 3;
        /// Translations are tagged with the VPID.
        const VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD_EXITING = 1 << 6;
        /// The guest may run in real mode and without paging.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// Registers of the virtual-APIC page can be read.
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        /// Interrupts are delivered and ended from the virtual-APIC page.
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        /// INVPCID works in the guest.
        const INVPCID = 1 << 12;
        /// XSAVES and XRSTORS work in the guest.
        const XSAVES = 1 << 20;
    }

    /// SDM Vol. 3, "VM-Exit Controls".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG = 1 << 2;
        /// The host runs in 64-bit mode.
        const HOST_64_BIT = 1 << 9;
        /// The vector of an external interrupt is acknowledged and recorded.
        const ACKNOWLEDGE_INTERRUPT = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// The preemption timer keeps its count across exits.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
    }

    /// SDM Vol. 3, "VM-Entry Controls".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG = 1 << 2;
        /// The guest is in IA-32e mode.
        const GUEST_IA32E = 1 << 9;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 15;
    }
}

/// A set of controls with the name of the VMCS field that takes it.
pub trait Controls: Flags<Bits = u32> + Copy {
    /// The field's name in the SDM.
    const FIELD: &'static str;
}

impl Controls for PinBased {
    const FIELD: &'static str = "pin-based VM-execution controls";
}
impl Controls for Primary {
    const FIELD: &'static str = "primary processor-based VM-execution controls";
}
impl Controls for Secondary {
    const FIELD: &'static str = "secondary processor-based VM-execution controls";
}
impl Controls for ExitControls {
    const FIELD: &'static str = "VM-exit controls";
}
impl Controls for EntryControls {
    const FIELD: &'static str = "VM-entry controls";
}

/// What a capability MSR says of one set of controls: bits 31:0 must be one,
/// bits 63:32 may be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(pub u64);

impl Capability {
    fn must_be_one(self) -> u32 {
        self.0 as u32
    }

    fn may_be_one(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether the CPU allows all of `controls`.
    pub fn allows<C: Controls>(self, controls: C) -> bool {
        controls.bits() & !self.may_be_one() == 0
    }

    /// The value for the field: `needed`, those of `wanted` that the CPU
    /// allows, and what it demands.
    ///
    /// # Errors
    /// A control of `needed` is not allowed.
    pub fn resolve<C: Controls>(self, needed: C, wanted: C) -> Result<u32, MissingControl> {
        let lacking = needed.bits() & !self.may_be_one();
        if lacking != 0 {
            let control = C::from_bits_retain(lacking)
                .iter_names()
                .next()
                .map_or("a control without a name", |(name, _)| name);
            return Err(MissingControl {
                field: C::FIELD,
                control,
            });
        }
        Ok(needed.bits() | wanted.bits() & self.may_be_one() | self.must_be_one())
    }
}

/// A control that the hypervisor needs and the CPU does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this CPU's VMX lacks {control} in the {field}")]
pub struct MissingControl {
    /// The set it belongs to.
    pub field: &'static str,
    /// Its name.
    pub control: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_missing_control_is_named() {
        let capability = Capability(u64::from((PinBased::NMI_EXITING).bits()) << 32);
        let needed = PinBased::NMI_EXITING | PinBased::VIRTUAL_NMIS;
        let error = capability.resolve(needed, PinBased::empty()).unwrap_err();
        assert_eq!(error.control, "VIRTUAL_NMIS");
        assert_eq!(error.field, PinBased::FIELD);
    }

    proptest! {
        #[test]
        fn the_value_is_always_one_that_vm_entry_accepts(must: u32, may: u32, needed: u32, wanted: u32) {
            // Silicon never demands what it does not allow.
            let capability = Capability(u64::from(must) | u64::from(must | may) << 32);
            let (needed, wanted) = (Secondary::from_bits_retain(needed), Secondary::from_bits_retain(wanted));
            match capability.resolve(needed, wanted) {
                Ok(value) => {
                    prop_assert_eq!(value & must, must);
                    prop_assert_eq!(value & !(must | may), 0);
                    prop_assert_eq!(value & needed.bits(), needed.bits());
                    prop_assert_eq!(value & wanted.bits() & may, wanted.bits() & may);
                    prop_assert!(capability.allows(needed));
                }
                Err(_) => prop_assert!(!capability.allows(needed)),
            }
        }
    }
}
