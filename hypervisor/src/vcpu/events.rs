//! Exceptions into the guest, and which of them and which MSR accesses exit.

use super::outcome::Exception;
use crate::{
    cpu::{msr::Msr, switched::WRITTEN_BY_EXIT},
    device::x2apic::{READ_BY_CPU, WRITTEN_BY_CPU},
    vmx::{capabilities::Vmx, field, msr_bitmap::MsrBitmap, vmcs::Loaded},
    xstate::xfd::Interception,
};

/// Exceptions that exit whatever the guest does (`exit/exception.rs`).
pub(super) const ALWAYS_INTERCEPTED: u32 =
    1 << Exception::DEBUG.vector | 1 << Exception::ALIGNMENT_CHECK.vector;

/// MSRs that belong to the guest while it runs: the hypervisor never uses them,
/// or VM entry and exit exchange them.
const PASSED_THROUGH: [Msr; 8] = [
    Msr::IA32_SYSENTER_CS,
    Msr::IA32_SYSENTER_ESP,
    Msr::IA32_SYSENTER_EIP,
    Msr::IA32_PAT,
    Msr::IA32_EFER,
    Msr::IA32_FS_BASE,
    Msr::IA32_GS_BASE,
    Msr::IA32_KERNEL_GS_BASE,
];

/// Which MSR accesses exit before the guest has done anything.
pub(super) fn accessible(vmx: &Vmx) -> MsrBitmap {
    let mut bitmap = MsrBitmap::intercept_all();
    for msr in PASSED_THROUGH {
        bitmap.pass_through(msr);
    }
    for msr in WRITTEN_BY_EXIT {
        bitmap.pass_reads(msr);
    }
    if vmx.virtual_apic {
        for msr in READ_BY_CPU.into_iter().flatten() {
            bitmap.pass_reads(Msr(msr));
        }
        for msr in WRITTEN_BY_CPU {
            bitmap.pass_writes(Msr(msr));
        }
    }
    bitmap
}

#[inline(always)]
pub(super) fn inject(vmcs: &mut Loaded<'_>, exception: Exception) {
    if let Some(error_code) = exception.error_code {
        vmcs.write(field::ENTRY_EXCEPTION_ERROR_CODE, error_code);
    }
    vmcs.write(field::ENTRY_INTERRUPTION_INFO, exception.info().0);
}

/// Rules xs-07, xs-08, xs-09: which accesses and exceptions exit from now on.
#[cold]
pub(super) fn intercept(vmcs: &mut Loaded<'_>, bitmap: &mut MsrBitmap, interception: Interception) {
    let exceptions = if interception.nm {
        ALWAYS_INTERCEPTED | 1 << Exception::DEVICE_NOT_AVAILABLE.vector
    } else {
        ALWAYS_INTERCEPTED
    };
    bitmap.set_intercepted(Msr::IA32_XFD, interception.xfd);
    bitmap.set_intercepted(Msr::IA32_XFD_ERR, interception.xfd_err);
    vmcs.write(field::EXCEPTION_BITMAP, exceptions);
}
