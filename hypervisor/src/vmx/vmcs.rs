//! The virtual-machine control structure of one vCPU.
//!
//! VMREAD and VMWRITE act on whichever VMCS is current on the CPU, so they are
//! methods of [`Loaded`], which exists only while a particular one is.

#![expect(unsafe_code, reason = "VMX instructions")]

use super::{
    capabilities::{Vmx, VmxError},
    field::{Field, Width},
};
use crate::memory::{
    address::{FRAME_BYTES, Hpa},
    host,
};
use core::{arch::asm, marker::PhantomData};

/// A VMCS region; given back when dropped.
pub struct Vmcs {
    region: Hpa,
}

/// Proof that a VMCS is current on this CPU.
pub struct Loaded<'a>(PhantomData<&'a mut Vmcs>);

impl Vmcs {
    /// A clear VMCS.
    ///
    /// # Errors
    /// No frame is left for it.
    pub fn new(vmx: &Vmx) -> Result<Self, VmxError> {
        let region = vmx.region().ok_or(VmxError::NoMemory)?;
        let mut vmcs = Self { region };
        vmcs.clear();
        Ok(vmcs)
    }

    /// Writes what the CPU caches back to the region: before another CPU loads
    /// it, before the frame is freed. The next entry is a launch.
    pub fn clear(&mut self) {
        // SAFETY: the region is a VMCS of ours.
        unsafe { asm!("vmclear [{}]", in(reg) &self.region.0) };
    }

    /// Makes this the CPU's current VMCS.
    pub fn load(&mut self) -> Loaded<'_> {
        // SAFETY: the region is a VMCS of ours, current on no other CPU: who
        // moves a vCPU clears it first.
        unsafe { asm!("vmptrld [{}]", in(reg) &self.region.0) };
        Loaded(PhantomData)
    }

    /// The VMCS that is current on this CPU.
    ///
    /// # Safety
    /// This VMCS is the one that was loaded last on this CPU.
    pub unsafe fn assume_loaded(&mut self) -> Loaded<'_> {
        Loaded(PhantomData)
    }
}

impl Drop for Vmcs {
    fn drop(&mut self) {
        self.clear();
        host::with_frames(|frames| frames.free(self.region, FRAME_BYTES));
    }
}

/// How often a VMCS was read and written so far on this machine.
#[cfg(feature = "count-vmcs")]
pub mod count {
    use core::sync::atomic::AtomicU64;

    /// VMREADs.
    pub static READS: AtomicU64 = AtomicU64::new(0);
    /// VMWRITEs.
    pub static WRITES: AtomicU64 = AtomicU64::new(0);
}

impl Loaded<'_> {
    /// Value of `field`.
    #[inline]
    pub fn read<W: Width>(&self, field: Field<W>) -> W {
        #[cfg(feature = "count-vmcs")]
        count::READS.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        let value: u64;
        // SAFETY: a VMCS is current, and the controls we insist on bring every
        // field of the table with them.
        unsafe {
            asm!(
                "vmread {value}, {field}",
                value = out(reg) value,
                field = in(reg) u64::from(field.encoding()),
                options(nostack, nomem),
            );
        }
        W::from_register(value)
    }

    /// Sets `field`.
    #[inline]
    pub fn write<W: Width>(&mut self, field: Field<W>, value: W) {
        #[cfg(feature = "count-vmcs")]
        count::WRITES.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        // SAFETY: as for reads; none of the fields we name is read-only. What a
        // value does is decided at VM entry, which checks it.
        unsafe {
            asm!(
                "vmwrite {field}, {value}",
                value = in(reg) value.to_register(),
                field = in(reg) u64::from(field.encoding()),
                options(nostack, nomem),
            );
        }
    }
}
