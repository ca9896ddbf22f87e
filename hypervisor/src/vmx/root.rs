//! VMX operation of this CPU.

#![expect(unsafe_code, reason = "VMXON and what it needs")]

use super::capabilities::{FEATURE_LOCK, FEATURE_VMX_OUTSIDE_SMX, Vmx, VmxError};
use crate::{
    cpu::msr::{self, Msr},
    memory::{
        address::{FRAME_BYTES, Hpa},
        host,
    },
};
use core::arch::asm;
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};

impl Vmx {
    /// Puts this CPU into VMX operation, for good.
    ///
    /// # Errors
    /// No memory, or VMXON failed.
    pub fn enter(&self) -> Result<(), VmxError> {
        // SAFETY: the register exists with VMX and is not locked against us:
        // `Vmx::detect` looked.
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

/// Forgets every translation that this CPU cached through any EPT: before the
/// frames of tables that were given back mean something else.
pub fn forget_guest_translations() {
    const ALL_CONTEXTS: u64 = 2;
    let descriptor = [0_u64; 2];
    // SAFETY: invalidating translations is always allowed in VMX operation.
    unsafe { asm!("invept {}, [{}]", in(reg) ALL_CONTEXTS, in(reg) &descriptor) };
}
