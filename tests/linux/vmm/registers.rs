//! The registers with which a vCPU begins, as the hypervisor sets them.

use guest_loader::Long64;
use kvm_bindings::{CpuId, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS: u64 = 1 << 1;
/// Enabled, in x2APIC mode, of the first CPU.
const APIC_BASE: u64 = 0xfee0_0000 | 1 << 11 | 1 << 10 | 1 << 8;
/// Segment types: code that can be read, data that can be written, both accessed.
const CODE: u8 = 0b1011;
const DATA: u8 = 0b0011;

/// What KVM supports, and the timer that its APIC has but leaves to us to offer.
pub(crate) fn offered(mut cpuid: CpuId) -> CpuId {
    const TSC_DEADLINE: u32 = 1 << 24;
    for entry in cpuid.as_mut_slice() {
        if entry.function == 1 {
            entry.ecx |= TSC_DEADLINE;
        }
    }
    cpuid
}

/// Sets all that is not as after reset.
pub(crate) fn set(vcpu: &VcpuFd, entry: Long64) -> Result<(), kvm_ioctls::Error> {
    let flat = |selector, type_, long: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..kvm_segment::default()
    };
    let mut special = vcpu.get_sregs()?;
    special.cs = flat(entry.gdt.code, CODE, 1);
    let data = flat(entry.gdt.data, DATA, 0);
    for segment in [
        &mut special.ds,
        &mut special.es,
        &mut special.fs,
        &mut special.gs,
        &mut special.ss,
    ] {
        *segment = data;
    }
    special.gdt.base = entry.gdt.base;
    special.gdt.limit = entry.gdt.limit;
    special.idt.limit = 0;
    special.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    special.cr3 = entry.cr3;
    special.cr4 = CR4_PAE;
    special.efer = EFER_LME | EFER_LMA;
    special.apic_base = APIC_BASE;
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs {
        rip: entry.rip,
        rsp: entry.rsp,
        rdi: entry.rdi,
        rsi: entry.rsi,
        rflags: RFLAGS,
        ..kvm_regs::default()
    })
}
