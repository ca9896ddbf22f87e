//! CR0 and CR4 of a guest.
//!
//! A bit is host-owned where VMX fixes it, where the guest must not have it, or
//! where a change has to be seen: CR4.OSXSAVE and CR4.PKE, because CPUID mirrors
//! them. All others the guest changes without an exit. A MOV that touches
//! host-owned bits exits; after its check the read shadow takes their new
//! values and the guest executes the MOV again. Now it differs from the shadow
//! nowhere, so the CPU itself does what paging bits bring with them: long mode,
//! PDPTEs, and the #GP rules for bits that the guest owns.

use crate::memory::walk::Paging;
use bitflags::bitflags;

bitflags! {
    /// CR0 (SDM Vol. 3, "Control Registers").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type: always one.
        const ET = 1 << 4;
        /// Numeric error.
        const NE = 1 << 5;
        /// Write protect.
        const WP = 1 << 16;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }

    /// CR4 (same place).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr4: u64 {
        /// Physical address extension.
        const PAE = 1 << 5;
        /// 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// VMX enable.
        const VMXE = 1 << 13;
        /// PCIDs.
        const PCIDE = 1 << 17;
        /// XSAVE and XCR0.
        const OSXSAVE = 1 << 18;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
    }
}

/// What decides which control-register values a guest may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlModel {
    /// CR4 bits that the guest's CPUID offers.
    pub offered_cr4: u64,
    /// Bits of CR0 that VMX wants set.
    pub vmx_cr0: u64,
    /// Bits of CR4 that VMX wants set.
    pub vmx_cr4: u64,
}

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const PCID: u64 = 0xfff;

/// A value that raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl ControlModel {
    /// CR0 bits whose change exits: caching is the host's, and what VMX fixes.
    pub fn cr0_owned(&self) -> u64 {
        (Cr0::NW | Cr0::CD).bits() | self.vmx_cr0
    }

    /// CR4 bits whose change exits.
    pub fn cr4_owned(&self) -> u64 {
        !self.offered_cr4 | self.vmx_cr4 | (Cr4::OSXSAVE | Cr4::PKE).bits()
    }

    /// CR0 for the hardware where the guest sees `value`.
    pub fn hardware_cr0(&self, value: u64) -> u64 {
        value & !(Cr0::NW | Cr0::CD).bits() | self.vmx_cr0 | Cr0::ET.bits()
    }

    /// CR4 for the hardware where the guest sees `value`.
    pub fn hardware_cr4(&self, value: u64) -> u64 {
        value | self.vmx_cr4
    }

    /// Whether a MOV of `value` to CR0 may go ahead (SDM Vol. 2, "MOV - Move
    /// to/from Control Registers").
    ///
    /// # Errors
    /// The instruction raises #GP(0).
    pub fn check_cr0(&self, state: Paging, value: u64) -> Result<(), Refused> {
        let new = Cr0::from_bits_retain(value);
        let cr4 = Cr4::from_bits_retain(state.cr4);
        if value >> 32 != 0 {
            return Err(Refused);
        }
        if new.contains(Cr0::PG) && !new.contains(Cr0::PE) {
            return Err(Refused);
        }
        if new.contains(Cr0::NW) && !new.contains(Cr0::CD) {
            return Err(Refused);
        }
        let paging = Cr0::from_bits_retain(state.cr0).contains(Cr0::PG);
        if !paging && new.contains(Cr0::PG) && state.efer & EFER_LME != 0 && !cr4.contains(Cr4::PAE)
        {
            return Err(Refused);
        }
        if paging && !new.contains(Cr0::PG) && cr4.contains(Cr4::PCIDE) {
            return Err(Refused);
        }
        Ok(())
    }

    /// Whether a MOV of `value` to CR4 may go ahead (same place).
    ///
    /// # Errors
    /// The instruction raises #GP(0).
    pub fn check_cr4(&self, state: Paging, value: u64) -> Result<(), Refused> {
        if value & !self.offered_cr4 != 0 {
            return Err(Refused);
        }
        let (old, new) = (
            Cr4::from_bits_retain(state.cr4),
            Cr4::from_bits_retain(value),
        );
        let long_mode = state.efer & EFER_LMA != 0;
        if long_mode && (!new.contains(Cr4::PAE) || (old ^ new).contains(Cr4::LA57)) {
            return Err(Refused);
        }
        if new.contains(Cr4::PCIDE)
            && !old.contains(Cr4::PCIDE)
            && (!long_mode || state.cr3 & PCID != 0)
        {
            return Err(Refused);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ControlModel = ControlModel {
        offered_cr4: Cr4::PAE.bits() | Cr4::PCIDE.bits() | Cr4::OSXSAVE.bits() | Cr4::LA57.bits(),
        vmx_cr0: Cr0::NE.bits(),
        vmx_cr4: Cr4::VMXE.bits(),
    };
    const LONG_MODE: Paging = Paging {
        cr0: Cr0::PG.bits() | Cr0::PE.bits(),
        cr3: 0,
        cr4: Cr4::PAE.bits() | Cr4::VMXE.bits(),
        efer: EFER_LME | EFER_LMA,
    };
    const REAL_MODE: Paging = Paging {
        cr0: 0,
        cr3: 0,
        cr4: 0,
        efer: EFER_LME,
    };

    #[test]
    fn every_rule_of_cr0_refuses_alone() {
        let check = |state, value: Cr0| MODEL.check_cr0(state, value.bits());
        let on = Cr0::PG | Cr0::PE;
        assert_eq!(check(LONG_MODE, on | Cr0::CD | Cr0::NW), Ok(()));
        assert_eq!(check(LONG_MODE, on | Cr0::NW), Err(Refused));
        assert_eq!(check(LONG_MODE, Cr0::PG), Err(Refused));
        assert_eq!(
            MODEL.check_cr0(LONG_MODE, on.bits() | 1 << 32),
            Err(Refused)
        );
        assert_eq!(check(REAL_MODE, on), Err(Refused));
        let with_pae = Paging {
            cr4: Cr4::PAE.bits(),
            ..REAL_MODE
        };
        assert_eq!(check(with_pae, on), Ok(()));
        let with_pcids = Paging {
            cr4: LONG_MODE.cr4 | Cr4::PCIDE.bits(),
            ..LONG_MODE
        };
        assert_eq!(check(with_pcids, Cr0::PE), Err(Refused));
        assert_eq!(check(LONG_MODE, Cr0::PE), Ok(()));
    }

    #[test]
    fn every_rule_of_cr4_refuses_alone() {
        let check = |state, value: Cr4| MODEL.check_cr4(state, value.bits());
        assert_eq!(check(LONG_MODE, Cr4::PAE | Cr4::OSXSAVE), Ok(()));
        assert_eq!(check(LONG_MODE, Cr4::OSXSAVE), Err(Refused));
        assert_eq!(check(REAL_MODE, Cr4::OSXSAVE), Ok(()));
        assert_eq!(check(LONG_MODE, Cr4::PAE | Cr4::VMXE), Err(Refused));
        assert_eq!(check(LONG_MODE, Cr4::PAE | Cr4::PKE), Err(Refused));
        assert_eq!(check(LONG_MODE, Cr4::PAE | Cr4::LA57), Err(Refused));
        assert_eq!(check(LONG_MODE, Cr4::PAE | Cr4::PCIDE), Ok(()));
        assert_eq!(check(REAL_MODE, Cr4::PAE | Cr4::PCIDE), Err(Refused));
        assert_eq!(
            check(
                Paging {
                    cr3: 1,
                    ..LONG_MODE
                },
                Cr4::PAE | Cr4::PCIDE
            ),
            Err(Refused)
        );
    }

    #[test]
    fn the_hardware_keeps_what_vmx_and_caching_need() {
        assert_eq!(
            MODEL.hardware_cr0(Cr0::CD.bits()),
            Cr0::NE.bits() | Cr0::ET.bits()
        );
        assert_eq!(MODEL.hardware_cr4(0), Cr4::VMXE.bits());
        assert_eq!(MODEL.cr4_owned() & Cr4::PAE.bits(), 0);
        for owned in [Cr4::VMXE, Cr4::OSXSAVE, Cr4::PKE] {
            assert_eq!(MODEL.cr4_owned() & owned.bits(), owned.bits());
        }
    }
}
