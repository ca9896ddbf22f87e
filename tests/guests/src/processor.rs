//! The registers of extended state, as a guest reaches them.

#![expect(
    unsafe_code,
    reason = "privileged instructions of a guest that owns its VM"
)]

use crate::vector_of;
use core::arch::asm;
use raw_cpuid::{CpuIdReader, CpuIdReaderNative, CpuIdResult};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

/// IA32_XSS
pub const XSS: u32 = 0xda0;
/// IA32_XFD
pub const XFD: u32 = 0x1c4;
/// IA32_XFD_ERR
pub const XFD_ERR: u32 = 0x1c5;

/// The component TILECFG.
pub const TILECFG: u64 = 1 << 17;
/// The component TILEDATA.
pub const TILEDATA: u64 = 1 << 18;

/// CPUID leaf `leaf`, sub-leaf `sub_leaf`.
pub fn cpuid(leaf: u32, sub_leaf: u32) -> CpuIdResult {
    CpuIdReaderNative.cpuid2(leaf, sub_leaf)
}

/// XCR0 bits that CPUID offers.
pub fn offered_xcr0() -> u64 {
    let leaf = cpuid(0xd, 0);
    u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
}

/// Makes XSAVE, XGETBV and the instructions that XCR0 governs usable.
pub fn enable_osxsave() {
    // SAFETY: takes nothing away from running code.
    unsafe {
        Cr0::update(|cr0| cr0.remove(Cr0Flags::TASK_SWITCHED | Cr0Flags::EMULATE_COPROCESSOR));
        Cr4::update(|cr4| cr4.insert(Cr4Flags::OSXSAVE | Cr4Flags::OSFXSR));
    }
}

/// Sets or clears CR4.OSXSAVE.
pub fn set_osxsave(on: bool) {
    // SAFETY: only instructions on trial depend on it.
    unsafe { Cr4::update(|cr4| cr4.set(Cr4Flags::OSXSAVE, on)) };
}

/// Sets or clears CR0.TS.
pub fn set_task_switched(on: bool) {
    // SAFETY: as above.
    unsafe { Cr0::update(|cr0| cr0.set(Cr0Flags::TASK_SWITCHED, on)) };
}

/// XCR0.
pub fn xcr0() -> u64 {
    xgetbv(0)
}

/// XCR0 & XINUSE.
pub fn in_use() -> u64 {
    xgetbv(1)
}

fn xgetbv(index: u32) -> u64 {
    let (eax, edx): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set by then.
    unsafe {
        asm!("xgetbv", in("ecx") index, out("eax") eax, out("edx") edx, options(nomem, nostack))
    };
    u64::from(edx) << 32 | u64::from(eax)
}

/// XSETBV; the vector of the exception that it raises.
pub fn try_xsetbv(index: u32, value: u64) -> u64 {
    vector_of!("xsetbv", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
}

/// WRMSR; the vector of the exception that it raises.
pub fn try_wrmsr(msr: u32, value: u64) -> u64 {
    vector_of!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32)
}

/// RDMSR: the value, or the vector of the exception that it raises.
pub fn try_rdmsr(msr: u32) -> Result<u64, u64> {
    let (mut eax, mut edx) = (0_u32, 0_u32);
    match vector_of!("rdmsr", in("ecx") msr, inout("eax") eax, inout("edx") edx) {
        crate::exceptions::NONE => Ok(u64::from(edx) << 32 | u64::from(eax)),
        vector => Err(vector),
    }
}

/// RDMSR of a register that exists.
pub fn rdmsr(msr: u32) -> u64 {
    let (eax, edx): (u32, u32);
    // SAFETY: an exception would end the payload with a report.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") eax, out("edx") edx, options(nomem, nostack))
    };
    u64::from(edx) << 32 | u64::from(eax)
}

/// WRMSR of a register that exists and takes the value.
pub fn wrmsr(msr: u32, value: u64) {
    // SAFETY: as for `rdmsr`.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}
