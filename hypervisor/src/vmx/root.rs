//! VMX operation of this CPU: may it be entered, what can it do, enter it.

#![expect(unsafe_code, reason = "VMXON and what it needs")]

use super::controls::{
    Capability, EntryControls, ExitControls, MissingControl, PinBased, Primary, Secondary,
};
use crate::{
    cpu::msr::{self, Msr},
    memory::{
        address::{FRAME_BYTES, Hpa},
        ept::PageSizes,
        host,
    },
};
use core::{arch::asm, fmt};
use raw_cpuid::{CpuIdReader, CpuIdReaderNative};
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};

/// Why this CPU cannot be a host.
#[derive(Clone, Copy, Debug)]
pub enum VmxError {
    /// CPUID.1:ECX\[5\] is clear.
    NoVmx,
    /// IA32_FEATURE_CONTROL is locked with VMX off; the register's value.
    LockedOff(u64),
    /// A control that we need is missing.
    Control(MissingControl),
    /// EPT lacks something that we need.
    Ept(&'static str),
    /// No frame for the VMXON region.
    NoMemory,
    /// VMXON failed.
    Vmxon,
}

impl fmt::Display for VmxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVmx => write!(f, "this CPU has no VMX (CPUID.1:ECX[5] is 0)"),
            Self::LockedOff(value) => write!(
                f,
                "the firmware locked VMX off (IA32_FEATURE_CONTROL is {value:#x}); switch virtualization on in its setup"
            ),
            Self::Control(missing) => write!(f, "{missing}"),
            Self::Ept(what) => write!(f, "this CPU's EPT lacks {what}"),
            Self::NoMemory => write!(f, "no memory for the VMXON region"),
            Self::Vmxon => write!(f, "VMXON failed"),
        }
    }
}

/// What VMX on this CPU can do, and the values that its controls take.
#[derive(Clone, Copy, Debug)]
pub struct Vmx {
    /// First word of VMXON regions and VMCSs.
    revision: u32,
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

const FEATURE_LOCK: u64 = 1 << 0;
const FEATURE_VMX_OUTSIDE_SMX: u64 = 1 << 2;

impl Vmx {
    /// Checks all that the hypervisor needs, in the order in which a person
    /// would look for it.
    ///
    /// # Errors
    /// The first need that is missing.
    pub fn detect() -> Result<Self, VmxError> {
        const CPUID_1_ECX_VMX: u32 = 1 << 5;
        if CpuIdReaderNative.cpuid1(1).ecx & CPUID_1_ECX_VMX == 0 {
            return Err(VmxError::NoVmx);
        }
        // SAFETY: with VMX the register exists.
        let feature_control = unsafe { msr::read(Msr::IA32_FEATURE_CONTROL) };
        if feature_control & FEATURE_LOCK != 0 && feature_control & FEATURE_VMX_OUTSIDE_SMX == 0 {
            return Err(VmxError::LockedOff(feature_control));
        }
        // SAFETY: with VMX these registers exist; those behind a further gate
        // are read only after it.
        let read = |register| unsafe { msr::read(register) };
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
        let primary = primary.resolve(
            Primary::HLT_EXITING
                | Primary::MWAIT_EXITING
                | Primary::MONITOR_EXITING
                | Primary::RDPMC_EXITING
                | Primary::CR8_LOAD_EXITING
                | Primary::CR8_STORE_EXITING
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
        let secondary = Capability(read(Msr::IA32_VMX_PROCBASED_CTLS2))
            .resolve(
                Secondary::EPT | Secondary::VPID | Secondary::UNRESTRICTED_GUEST,
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
            ept_pages: ept_pages(read(Msr::IA32_VMX_EPT_VPID_CAP))?,
            preemption_timer_shift: (read(Msr::IA32_VMX_MISC) & TIMER_SHIFT) as u32,
            cr0_must_be_one: read(Msr::IA32_VMX_CR0_FIXED0) & !FREE_IN_UNRESTRICTED_GUESTS,
            cr0_may_be_one: read(Msr::IA32_VMX_CR0_FIXED1),
            cr4_must_be_one: read(Msr::IA32_VMX_CR4_FIXED0),
            cr4_may_be_one: read(Msr::IA32_VMX_CR4_FIXED1),
        })
    }

    /// Puts this CPU into VMX operation, for good.
    ///
    /// # Errors
    /// No memory, or VMXON failed.
    pub fn enter(&self) -> Result<(), VmxError> {
        // SAFETY: the register exists with VMX and is not locked against us:
        // `detect` looked.
        unsafe {
            let control = msr::read(Msr::IA32_FEATURE_CONTROL);
            if control & FEATURE_LOCK == 0 {
                msr::write(
                    Msr::IA32_FEATURE_CONTROL,
                    control | FEATURE_LOCK | FEATURE_VMX_OUTSIDE_SMX,
                );
            }
        }
        // SAFETY: exactly the bits that VMX operation demands are set; those it
        // forbids are off after reset and never switched on by us.
        unsafe {
            Cr0::write_raw(
                (Cr0::read_raw() | read_fixed(Msr::IA32_VMX_CR0_FIXED0)) & self.cr0_may_be_one,
            );
            Cr4::write_raw(
                (Cr4::read_raw()
                    | self.cr4_must_be_one
                    | Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits())
                    & self.cr4_may_be_one,
            );
        }
        let region = self.region().ok_or(VmxError::NoMemory)?;
        let failed: u8;
        // SAFETY: CR0, CR4 and the feature control allow VMXON, and the region
        // is a frame of its own with the revision in its first word.
        unsafe {
            asm!("vmxon [{}]", "setbe {}", in(reg) &region.0, out(reg_byte) failed);
        }
        if failed != 0 {
            Err(VmxError::Vmxon)
        } else {
            Ok(())
        }
    }

    /// A frame that begins with the revision, as VMXON regions and VMCSs do.
    pub(super) fn region(&self) -> Option<Hpa> {
        let region = host::allocate_zeroed(FRAME_BYTES, FRAME_BYTES)?;
        // SAFETY: the frame was just allocated and is mapped.
        unsafe {
            host::direct(region)
                .as_mut_ptr::<u32>()
                .write(self.revision)
        };
        Some(region)
    }
}

fn read_fixed(register: Msr) -> u64 {
    // SAFETY: called with fixed-bit registers, which exist with VMX.
    unsafe { msr::read(register) }
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

/// Forgets every translation that this CPU cached through any EPT: before the
/// frames of tables that were given back mean something else.
pub fn forget_guest_translations() {
    const ALL_CONTEXTS: u64 = 2;
    let descriptor = [0_u64; 2];
    // SAFETY: invalidating translations is always allowed in VMX operation.
    unsafe { asm!("invept {}, [{}]", in(reg) ALL_CONTEXTS, in(reg) &descriptor) };
}
