//! What a VMCS holds before its first entry, and what of it depends on the CPU.

#![expect(unsafe_code, reason = "reads MSRs for the host state")]

use super::{
    boot_state::{self, BootState, DR7_AT_RESET, PAT_AT_RESET, RFLAGS_AT_START, Segment},
    control::ControlModel,
    events::ALWAYS_INTERCEPTED,
};
use crate::{
    cpu::{
        msr::{self, Msr},
        tables::Tables,
    },
    vmx::{
        capabilities::Vmx,
        controls::{EntryControls, Secondary},
        field::{self, Field},
        vmcs::Loaded,
    },
};
use x86_64::registers::control::{Cr0, Cr3, Cr4};

/// The controls.
pub(super) fn write_controls(vmcs: &mut Loaded<'_>, vmx: &Vmx) {
    vmcs.write(field::PIN_BASED_CONTROLS, vmx.pin_based);
    vmcs.write(field::PRIMARY_CONTROLS, vmx.primary);
    vmcs.write(field::SECONDARY_CONTROLS, vmx.secondary.bits());
    vmcs.write(field::EXIT_CONTROLS, vmx.exit);
    vmcs.write(field::ENTRY_CONTROLS, vmx.entry);
    if vmx.secondary.contains(Secondary::XSAVES) {
        vmcs.write(field::XSS_EXITING_BITMAP, 0);
    }
    vmcs.write(field::EXCEPTION_BITMAP, ALWAYS_INTERCEPTED);
    if vmx.virtual_apic {
        for none in [
            field::EOI_EXIT_BITMAP_0,
            field::EOI_EXIT_BITMAP_1,
            field::EOI_EXIT_BITMAP_2,
            field::EOI_EXIT_BITMAP_3,
        ] {
            vmcs.write(none, 0);
        }
        vmcs.write(field::GUEST_INTERRUPT_STATUS, 0);
    }
    // No page fault exits: bit 14 of the exception bitmap is clear, and mask and
    // match agree on everything.
    for zero in [
        field::PAGE_FAULT_ERROR_CODE_MASK,
        field::PAGE_FAULT_ERROR_CODE_MATCH,
        field::CR3_TARGET_COUNT,
        field::EXIT_MSR_STORE_COUNT,
        field::EXIT_MSR_LOAD_COUNT,
        field::ENTRY_MSR_LOAD_COUNT,
    ] {
        vmcs.write(zero, 0);
    }
}

type SegmentFields = (Field<u16>, Field<u64>, Field<u32>, Field<u32>);

fn write_segment(vmcs: &mut Loaded<'_>, fields: SegmentFields, segment: Segment) {
    let (selector, base, limit, rights) = fields;
    vmcs.write(selector, segment.selector);
    vmcs.write(base, segment.base);
    vmcs.write(limit, segment.limit);
    vmcs.write(rights, segment.rights);
}

#[rustfmt::skip]
const DATA_SEGMENTS: [SegmentFields; 5] = [
    (field::GUEST_SS_SELECTOR, field::GUEST_SS_BASE, field::GUEST_SS_LIMIT, field::GUEST_SS_ACCESS_RIGHTS),
    (field::GUEST_DS_SELECTOR, field::GUEST_DS_BASE, field::GUEST_DS_LIMIT, field::GUEST_DS_ACCESS_RIGHTS),
    (field::GUEST_ES_SELECTOR, field::GUEST_ES_BASE, field::GUEST_ES_LIMIT, field::GUEST_ES_ACCESS_RIGHTS),
    (field::GUEST_FS_SELECTOR, field::GUEST_FS_BASE, field::GUEST_FS_LIMIT, field::GUEST_FS_ACCESS_RIGHTS),
    (field::GUEST_GS_SELECTOR, field::GUEST_GS_BASE, field::GUEST_GS_LIMIT, field::GUEST_GS_ACCESS_RIGHTS),
];
#[rustfmt::skip]
const CODE_SEGMENT: SegmentFields =
    (field::GUEST_CS_SELECTOR, field::GUEST_CS_BASE, field::GUEST_CS_LIMIT, field::GUEST_CS_ACCESS_RIGHTS);
#[rustfmt::skip]
const LDT_SEGMENT: SegmentFields =
    (field::GUEST_LDTR_SELECTOR, field::GUEST_LDTR_BASE, field::GUEST_LDTR_LIMIT, field::GUEST_LDTR_ACCESS_RIGHTS);
#[rustfmt::skip]
const TASK_SEGMENT: SegmentFields =
    (field::GUEST_TR_SELECTOR, field::GUEST_TR_BASE, field::GUEST_TR_LIMIT, field::GUEST_TR_ACCESS_RIGHTS);

/// The guest's registers at its first instruction, or after INIT.
pub(super) fn write_guest_state(vmcs: &mut Loaded<'_>, boot: &BootState, control: ControlModel) {
    let mut entry = EntryControls::from_bits_retain(vmcs.read(field::ENTRY_CONTROLS));
    entry.set(
        EntryControls::GUEST_IA32E,
        boot.efer & boot_state::EFER_LMA != 0,
    );
    vmcs.write(field::ENTRY_CONTROLS, entry.bits());
    vmcs.write(field::ENTRY_INTERRUPTION_INFO, 0);
    vmcs.write(field::CR0_GUEST_HOST_MASK, control.cr0_owned());
    vmcs.write(field::CR0_READ_SHADOW, boot.cr0);
    vmcs.write(field::GUEST_CR0, control.hardware_cr0(boot.cr0));
    vmcs.write(field::CR4_GUEST_HOST_MASK, control.cr4_owned());
    vmcs.write(field::CR4_READ_SHADOW, boot.cr4);
    vmcs.write(field::GUEST_CR4, control.hardware_cr4(boot.cr4));
    write_segment(vmcs, CODE_SEGMENT, boot.code);
    for fields in DATA_SEGMENTS {
        write_segment(vmcs, fields, boot.data);
    }
    write_segment(vmcs, LDT_SEGMENT, boot_state::UNUSABLE);
    write_segment(vmcs, TASK_SEGMENT, boot_state::TASK);
    vmcs.write(field::GUEST_GDTR_BASE, boot.gdt.base);
    vmcs.write(field::GUEST_GDTR_LIMIT, boot.gdt.limit);
    vmcs.write(field::GUEST_IDTR_BASE, 0);
    vmcs.write(field::GUEST_IDTR_LIMIT, boot.idt_limit);
    vmcs.write(field::GUEST_CR3, boot.cr3);
    vmcs.write(field::GUEST_EFER, boot.efer);
    vmcs.write(field::GUEST_PAT, PAT_AT_RESET);
    vmcs.write(field::GUEST_DEBUGCTL, 0);
    vmcs.write(field::GUEST_DR7, DR7_AT_RESET);
    vmcs.write(field::GUEST_RIP, boot.rip);
    vmcs.write(field::GUEST_RSP, boot.rsp);
    vmcs.write(field::GUEST_RFLAGS, RFLAGS_AT_START);
    vmcs.write(field::GUEST_PENDING_DEBUG, 0);
    vmcs.write(field::GUEST_SYSENTER_CS, 0);
    vmcs.write(field::GUEST_SYSENTER_ESP, 0);
    vmcs.write(field::GUEST_SYSENTER_EIP, 0);
    vmcs.write(field::GUEST_INTERRUPTIBILITY, 0);
    vmcs.write(field::GUEST_ACTIVITY_STATE, 0);
    // No shadow VMCS.
    vmcs.write(field::VMCS_LINK_POINTER, u64::MAX);
}

/// What an exit on this CPU loads.
pub(super) fn write_host_state(vmcs: &mut Loaded<'_>, tables: &Tables) {
    vmcs.write(field::HOST_CR0, Cr0::read_raw());
    vmcs.write(field::HOST_CR3, Cr3::read().0.start_address().as_u64());
    vmcs.write(field::HOST_CR4, Cr4::read_raw());
    vmcs.write(field::HOST_CS_SELECTOR, tables.code.0);
    vmcs.write(field::HOST_SS_SELECTOR, tables.data.0);
    vmcs.write(field::HOST_DS_SELECTOR, tables.data.0);
    vmcs.write(field::HOST_ES_SELECTOR, tables.data.0);
    vmcs.write(field::HOST_FS_SELECTOR, 0);
    vmcs.write(field::HOST_GS_SELECTOR, 0);
    vmcs.write(field::HOST_TR_SELECTOR, tables.tss.0);
    vmcs.write(field::HOST_FS_BASE, 0);
    vmcs.write(field::HOST_GS_BASE, 0);
    vmcs.write(field::HOST_TR_BASE, tables.tss_base.as_u64());
    vmcs.write(field::HOST_GDTR_BASE, tables.gdt_base.as_u64());
    vmcs.write(field::HOST_IDTR_BASE, tables.idt_base.as_u64());
    vmcs.write(field::HOST_SYSENTER_CS, 0);
    vmcs.write(field::HOST_SYSENTER_ESP, 0);
    vmcs.write(field::HOST_SYSENTER_EIP, 0);
    // SAFETY: both registers exist on every CPU with long mode.
    let (pat, efer) = unsafe { (msr::read(Msr::IA32_PAT), msr::read(Msr::IA32_EFER)) };
    vmcs.write(field::HOST_PAT, pat);
    vmcs.write(field::HOST_EFER, efer);
}
