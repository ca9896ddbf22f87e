//! Descriptor tables of one CPU: GDT, TSS with its interrupt stacks, IDT.
//!
//! Each CPU owns a set for ever, on the heap: the TSS descriptor is marked busy
//! by the CPU that loads it, and a VM exit reloads TR from it.

#![expect(unsafe_code, reason = "loads descriptor tables")]

use super::{apic, exceptions};
use alloc::boxed::Box;
use x86_64::{
    VirtAddr,
    instructions::{segmentation, segmentation::Segment, tables::load_tss},
    registers::segmentation::SegmentSelector,
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable},
        idt::InterruptDescriptorTable,
        tss::TaskStateSegment,
    },
};

/// Stacks for the vectors that can strike when the current stack cannot be
/// trusted: while RSP points into a vCPU at VM exit, or after an overflow.
pub struct InterruptStacks {
    /// Top of the stack of #DF.
    pub double_fault: VirtAddr,
    /// Top of the stack of NMI.
    pub nmi: VirtAddr,
    /// Top of the stack of #MC.
    pub machine_check: VirtAddr,
}

/// What VMX's host-state area must repeat at every VM exit.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Selector of the flat code segment.
    pub code: SegmentSelector,
    /// Selector of the flat data segment.
    pub data: SegmentSelector,
    /// Selector of the TSS.
    pub tss: SegmentSelector,
    /// Linear address of the TSS.
    pub tss_base: VirtAddr,
    /// Linear address of the GDT.
    pub gdt_base: VirtAddr,
    /// Linear address of the IDT.
    pub idt_base: VirtAddr,
}

const DOUBLE_FAULT_IST: u16 = 0;
const NMI_IST: u16 = 1;
const MACHINE_CHECK_IST: u16 = 2;

/// Builds this CPU's tables and loads them.
pub fn load(stacks: &InterruptStacks) -> Tables {
    let mut tss = Box::new(TaskStateSegment::new());
    tss.interrupt_stack_table[usize::from(DOUBLE_FAULT_IST)] = stacks.double_fault;
    tss.interrupt_stack_table[usize::from(NMI_IST)] = stacks.nmi;
    tss.interrupt_stack_table[usize::from(MACHINE_CHECK_IST)] = stacks.machine_check;
    let tss: &'static TaskStateSegment = Box::leak(tss);

    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let tss_selector = gdt.append(Descriptor::tss_segment(tss));
    gdt.load();
    // SAFETY: the selectors name flat 64-bit segments of the GDT just loaded,
    // which lives for ever; the TSS likewise.
    unsafe {
        segmentation::CS::set_reg(code);
        segmentation::SS::set_reg(data);
        segmentation::DS::set_reg(data);
        segmentation::ES::set_reg(data);
        segmentation::FS::set_reg(SegmentSelector::NULL);
        segmentation::GS::set_reg(SegmentSelector::NULL);
        load_tss(tss_selector);
    }

    // After CS, because each gate takes the current code segment.
    let idt = Box::leak(Box::new(interrupt_table()));
    idt.load();

    Tables {
        code,
        data,
        tss: tss_selector,
        tss_base: VirtAddr::from_ptr(tss),
        gdt_base: VirtAddr::from_ptr(gdt.entries().as_ptr()),
        idt_base: VirtAddr::from_ptr(idt),
    }
}

fn interrupt_table() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    // SAFETY: the stubs build the frame that their vector needs and never
    // return; the interrupt stacks were set up in the TSS.
    unsafe {
        idt.divide_error.set_handler_addr(exceptions::stub(0));
        idt.debug.set_handler_addr(exceptions::stub(1));
        idt.non_maskable_interrupt
            .set_handler_addr(exceptions::stub(2))
            .set_stack_index(NMI_IST);
        idt.breakpoint.set_handler_addr(exceptions::stub(3));
        idt.overflow.set_handler_addr(exceptions::stub(4));
        idt.bound_range_exceeded
            .set_handler_addr(exceptions::stub(5));
        idt.invalid_opcode.set_handler_addr(exceptions::stub(6));
        idt.device_not_available
            .set_handler_addr(exceptions::stub(7));
        idt.double_fault
            .set_handler_addr(exceptions::stub(8))
            .set_stack_index(DOUBLE_FAULT_IST);
        idt.invalid_tss.set_handler_addr(exceptions::stub(10));
        idt.segment_not_present
            .set_handler_addr(exceptions::stub(11));
        idt.stack_segment_fault
            .set_handler_addr(exceptions::stub(12));
        idt.general_protection_fault
            .set_handler_addr(exceptions::stub(13));
        idt.page_fault.set_handler_addr(exceptions::stub(14));
        idt.x87_floating_point
            .set_handler_addr(exceptions::stub(16));
        idt.alignment_check.set_handler_addr(exceptions::stub(17));
        idt.machine_check
            .set_handler_addr(exceptions::stub(18))
            .set_stack_index(MACHINE_CHECK_IST);
        idt.simd_floating_point
            .set_handler_addr(exceptions::stub(19));
        idt.virtualization.set_handler_addr(exceptions::stub(20));
        idt.cp_protection_exception
            .set_handler_addr(exceptions::stub(21));
        for vector in 32..=u8::MAX {
            idt[vector].set_handler_addr(exceptions::stub(vector));
        }
        for vector in [apic::NOTIFICATION, apic::SPURIOUS] {
            idt[vector].set_handler_addr(exceptions::notification());
        }
    }
    idt
}
