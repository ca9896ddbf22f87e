//! Other CPUs of a payload: started from real mode by INIT and start-up IPIs, as
//! every operating system does (SDM Vol. 3, "MP Initialization Protocol").

#![expect(unsafe_code, reason = "code that is copied below 1 MiB")]

use crate::{apic, exceptions, processor};
use core::{
    arch::global_asm,
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

/// CPUs that a payload can start.
pub const MOST_CPUS: usize = 16;
/// Where the code of a start-up IPI lies: memory that the loader leaves alone.
const PAGE: u64 = 0x2_0000;
const PAGE_NUMBER: u64 = PAGE >> 12;

// In: real mode, CS = page << 8. Out: 64-bit mode with the loader's page tables and
// descriptors, RDI = APIC ID, on a stack of 16 KiB of its own above 0x30000, in
// `begin`. All other registers are clobbered.
global_asm!(
    ".section .rodata.start_up, \"a\"",
    ".balign 16",
    "start_up_code:",
    ".code16",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "lgdtl 3f - start_up_code",
    "movl $0x20, %eax",
    "movl %eax, %cr4",
    "movl $0x4000, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x100, %eax",
    "wrmsr",
    "movl %cr0, %eax",
    "andl $0x9fffffff, %eax",
    "orl $0x80010021, %eax",
    "movl %eax, %cr0",
    "ljmpl $0x08, $(2f - start_up_code + 0x20000)",
    ".code64",
    "2:",
    "movl $0x10, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl $0x802, %ecx",
    "rdmsr",
    "movl %eax, %edi",
    "shll $14, %eax",
    "addl $0x34000, %eax",
    "movl %eax, %esp",
    "call *4f - start_up_code + 0x20000",
    "ud2",
    ".balign 8",
    "3: .word 3 * 8 - 1",
    ".long 0x3000",
    ".balign 8",
    "start_up_entry:",
    "4: .quad 0",
    "start_up_end:",
    ".text",
    options(att_syntax),
);

unsafe extern "C" {
    static start_up_code: u8;
    static start_up_entry: u8;
    static start_up_end: u8;
}

/// What started CPUs run.
static MAIN: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

extern "C" fn begin(id: u32) -> ! {
    exceptions::load();
    processor::enable_osxsave();
    apic::enable();
    let main = MAIN.load(Ordering::Acquire);
    // SAFETY: only `prepare` stores here, and only functions of this type.
    let main = unsafe { core::mem::transmute::<*mut (), fn(u32) -> !>(main) };
    main(id)
}

/// Makes everything ready for [`start`]; started CPUs run `main` with their ID.
pub fn prepare(main: fn(u32) -> !) {
    MAIN.store(main as *mut (), Ordering::Release);
    let start = &raw const start_up_code;
    let offset = |end: *const u8| end as usize - start as usize;
    let entry = begin as extern "C" fn(u32) -> ! as usize as u64;
    // SAFETY: the labels enclose the code, and the page is memory of ours that
    // nothing else uses.
    unsafe {
        let page = PAGE as *mut u8;
        page.copy_from_nonoverlapping(start, offset(&raw const start_up_end));
        page.add(offset(&raw const start_up_entry))
            .cast::<u64>()
            .write(entry);
    }
}

/// Resets CPU `id` and lets it begin.
pub fn start(id: u32) {
    apic::send(id, apic::INIT);
    start_up(id);
}

/// Sends CPU `id` a start-up IPI.
pub fn start_up(id: u32) {
    apic::send(id, apic::START_UP | PAGE_NUMBER);
}
