//! Exceptions into the guest, and which of them and which MSR accesses exit.

use super::outcome::Exception;
use crate::{
    cpu::{msr::Msr, switched},
    vmx::{field, msr_bitmap::MsrBitmap, vmcs::Loaded},
    xstate::xfd::Interception,
};

/// Exceptions that exit whatever the guest does (`exit/exception.rs`).
pub(super) const ALWAYS_INTERCEPTED: u32 =
    1 << Exception::DEBUG.vector | 1 << Exception::ALIGNMENT_CHECK.vector;

#[inline(always)]
pub(super) fn inject(vmcs: &mut Loaded<'_>, exception: Exception) {
    if let Some(error_code) = exception.error_code {
        vmcs.write(field::ENTRY_EXCEPTION_ERROR_CODE, error_code);
    }
    vmcs.write(field::ENTRY_INTERRUPTION_INFO, exception.info().0);
}

#[cold]
pub(super) fn inject_debug(vmcs: &mut Loaded<'_>, causes: u64) {
    // SDM Vol. 3, "Debug Control Register (DR7)": the exception clears it.
    const GENERAL_DETECT: u64 = 1 << 13;
    switched::add_debug_causes(causes);
    let dr7 = vmcs.read(field::GUEST_DR7);
    vmcs.write(field::GUEST_DR7, dr7 & !GENERAL_DETECT);
    inject(vmcs, Exception::DEBUG);
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
