//! The first instructions of every CPU but the first: from real mode to 64-bit
//! mode on our page tables.
//!
//! A start-up IPI begins at a page below 1 MiB in real mode, so the code is copied
//! there and told by its own fields where to go on. The page stays mapped
//! one to one, executable and not writable, because paging is switched on while
//! the CPU runs in it.

#![expect(unsafe_code, reason = "code that is copied")]

use crate::memory::address::{FRAME_BYTES, Hpa};
use core::{arch::global_asm, slice};
use x86_64::VirtAddr;

// In: real mode, CS:IP = page:0 (SDM Vol. 3, "MP Initialization Protocol Algorithm
// for MP Systems"). EBX holds the page's address from the first lines on; EAX, ECX and EDX
// are clobbered; the rest is as INIT left it. Out: 64-bit mode with paging,
// write protection and no-execute, caches on, on the stack that the slot names, in
// the function that `entry` names.
global_asm!(
    ".section .rodata.trampoline, \"a\"",
    ".balign 16",
    ".global tilevisor_trampoline, tilevisor_trampoline_fields, tilevisor_trampoline_end",
    ".code16",
    "tilevisor_trampoline:",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "xorl %ebx, %ebx",
    "movw %ax, %bx",
    "shll $4, %ebx",
    // The far jumps and the GDT need linear addresses, known only here.
    "leal 3f - tilevisor_trampoline(%ebx), %eax",
    "movl %eax, 6f - tilevisor_trampoline + 2",
    "lgdtl 6f - tilevisor_trampoline",
    "leal 1f - tilevisor_trampoline(%ebx), %eax",
    "movl %eax, 4f - tilevisor_trampoline",
    "leal 2f - tilevisor_trampoline(%ebx), %eax",
    "movl %eax, 5f - tilevisor_trampoline",
    "movl %cr0, %eax",
    "orl $1, %eax",
    "movl %eax, %cr0",
    "ljmpl *(4f - tilevisor_trampoline)",
    ".code32",
    "1:",
    "movw $0x10, %ax",
    "movw %ax, %ds",
    "movw %ax, %ss",
    // CR4.PAE, EFER.LME and NXE, then CR0.PG, WP and caches on.
    "movl %cr4, %eax",
    "orl $0x20, %eax",
    "movl %eax, %cr4",
    "movl 7f - tilevisor_trampoline(%ebx), %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "rdmsr",
    "orl $0x900, %eax",
    "wrmsr",
    "movl %cr0, %eax",
    "andl $0x9fffffff, %eax",
    "orl $0x80010021, %eax",
    "movl %eax, %cr0",
    "ljmpl *(5f - tilevisor_trampoline)(%ebx)",
    ".code64",
    "2:",
    "movq 8f - tilevisor_trampoline(%rbx), %rax",
    "movq (%rax), %rsp",
    "xorl %ebp, %ebp",
    "call *9f - tilevisor_trampoline(%rbx)",
    "ud2",
    ".balign 8",
    // Flat 32-bit code, data, and 64-bit code.
    "3: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff",
    "4: .long 0",
    ".word 0x08",
    "5: .long 0",
    ".word 0x18",
    "6: .word 4 * 8 - 1",
    ".long 0",
    ".balign 8",
    "tilevisor_trampoline_fields:",
    "7: .quad 0",
    "8: .quad 0",
    "9: .quad 0",
    "tilevisor_trampoline_end:",
    ".text",
    options(att_syntax),
);

unsafe extern "C" {
    static tilevisor_trampoline: u8;
    static tilevisor_trampoline_fields: u8;
    static tilevisor_trampoline_end: u8;
}

/// Where a started CPU goes on.
pub struct GoOn {
    /// The page tables to use, below 4 GiB.
    pub root: Hpa,
    /// Where the top of its stack will be found.
    pub stack_slot: VirtAddr,
    /// The function to call.
    pub entry: extern "C" fn() -> !,
}

/// Writes the code to `page`, which the CPU writes to itself until paging is on.
///
/// # Safety
/// The page is free memory below 1 MiB, all of which is mapped at `direct_map`.
pub unsafe fn install(direct_map: VirtAddr, page: Hpa, go_on: &GoOn) {
    let start = &raw const tilevisor_trampoline;
    let bytes = &raw const tilevisor_trampoline_end as usize - start as usize;
    let fields = &raw const tilevisor_trampoline_fields as usize - start as usize;
    // SAFETY: the labels enclose the code; the page is free, mapped, and larger.
    let (code, target) = unsafe {
        let target = (direct_map + page.0).as_mut_ptr::<u8>();
        (
            slice::from_raw_parts(start, bytes),
            slice::from_raw_parts_mut(target, FRAME_BYTES as usize),
        )
    };
    target[..bytes].copy_from_slice(code);
    let values = [
        go_on.root.0,
        go_on.stack_slot.as_u64(),
        go_on.entry as usize as u64,
    ];
    for (place, value) in target[fields..bytes].chunks_exact_mut(8).zip(values) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}
