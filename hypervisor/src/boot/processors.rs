//! Which CPUs the firmware reports: the MADT, read by the `acpi` crate while the
//! boot loader's page tables still map all physical memory.

#![expect(unsafe_code, reason = "reads the firmware's tables")]

use acpi::{
    AcpiError, AcpiHandler, AcpiTables, PhysicalMapping,
    madt::{Madt, MadtEntry},
};
use alloc::vec::Vec;
use core::ptr::NonNull;
use x86_64::VirtAddr;

/// Flags of a MADT entry: the CPU is there, or can be switched on.
const ENABLED: u32 = 1 << 0;

/// Shows physical memory where the boot loader maps it.
#[derive(Clone)]
struct DirectMap(VirtAddr);

impl AcpiHandler for DirectMap {
    unsafe fn map_physical_region<T>(
        &self,
        physical: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let at = (self.0 + physical as u64).as_mut_ptr();
        let at = NonNull::new(at).expect("the direct map does not begin at zero");
        // SAFETY: all physical memory is mapped there, for as long as these page
        // tables are used.
        unsafe { PhysicalMapping::new(physical, at, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// The APIC IDs of all CPUs.
///
/// # Errors
/// The tables are broken, or there is no MADT.
///
/// # Safety
/// `rsdp` is where the firmware says, and all physical memory is mapped at
/// `direct_map`.
pub unsafe fn apic_ids(direct_map: VirtAddr, rsdp: u64) -> Result<Vec<u32>, AcpiError> {
    // SAFETY: the caller vouches for both addresses.
    let tables = unsafe { AcpiTables::from_rsdp(DirectMap(direct_map), rsdp as usize)? };
    let madt = tables.find_table::<Madt>()?;
    let id = |entry| match entry {
        MadtEntry::LocalApic(cpu) if cpu.flags & ENABLED != 0 => Some(u32::from(cpu.apic_id)),
        MadtEntry::LocalX2Apic(cpu) if cpu.flags & ENABLED != 0 => Some(cpu.x2apic_id),
        _ => None,
    };
    Ok(madt.get().entries().filter_map(id).collect())
}
