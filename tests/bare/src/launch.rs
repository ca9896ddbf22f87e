//! The last step: everything moves to its place, over the boot loader and this program,
//! and the image begins.

#![expect(unsafe_code, reason = "code that leaves everything behind")]

use crate::arena::Arena;
use alloc::{boxed::Box, vec, vec::Vec};
use core::{
    arch::{asm, global_asm},
    error::Error,
    slice,
};
use guest_loader::{Entry, Plan};
use guests::bare;
use x86_64::{
    PhysAddr,
    registers::control::Cr3,
    structures::paging::{PageTable, PageTableFlags},
};

// In: RBX = steps, each (to, from, bytes), to copy or, where `from` is zero, to clear
// (whole quadwords), until one of no bytes; RBP = the registers that `Registers::words` writes; all memory
// below 4 GiB mapped one to one. Out: the image's first instruction, with control
// registers, EFER, RFLAGS and all general-purpose registers as a VM begins.
global_asm!(
    ".section .rodata.launch, \"a\"",
    "launch_code:",
    "cld",
    "2:",
    "mov rdi, [rbx]",
    "mov rsi, [rbx + 8]",
    "mov rcx, [rbx + 16]",
    "add rbx, 24",
    "test rcx, rcx",
    "jz 4f",
    "test rsi, rsi",
    "jz 3f",
    "rep movsb",
    "jmp 2b",
    "3:",
    "xor eax, eax",
    "shr rcx, 3",
    "rep stosq",
    "jmp 2b",
    "4:",
    // The TSC in hexadecimal, as many digits as the UART's buffer holds with the line's
    // end: nothing waits for it.
    "rdtsc",
    "shl rdx, 32",
    "or rdx, rax",
    "shl rdx, 8",
    "mov rsi, rdx",
    "mov edx, 0x3f8",
    "mov ecx, 14",
    "6:",
    "rol rsi, 4",
    "mov eax, esi",
    "and al, 0xf",
    "cmp al, 10",
    "jb 7f",
    "add al, 'a' - '9' - 1",
    "7:",
    "add al, '0'",
    "out dx, al",
    "loop 6b",
    "mov al, 0xa",
    "out dx, al",
    "mov rax, [rbp]",
    "mov cr3, rax",
    "lgdt [rbp + 8 + 6]",
    "lidt [rbp + 24 + 6]",
    "mov rsp, [rbp + 40]",
    "mov rax, [rbp + 56]",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov fs, eax",
    "mov gs, eax",
    "lea rax, [rip + 5f]",
    "push qword ptr [rbp + 48]",
    "push rax",
    "retfq",
    "5:",
    // EFER: LME, LMA. CR4: PAE. CR0: PG, WP, NE, ET, PE.
    "mov ecx, 0xc0000080",
    "mov eax, 0x500",
    "xor edx, edx",
    "wrmsr",
    "mov eax, 0x20",
    "mov cr4, rax",
    "mov eax, 0x80010031",
    "mov cr0, rax",
    "mov rdi, [rbp + 64]",
    "mov rsi, [rbp + 72]",
    "push qword ptr [rbp + 80]",
    "push 2",
    "xor eax, eax",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "xor edx, edx",
    "xor ebp, ebp",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r11d, r11d",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "xor r15d, r15d",
    "popfq",
    "ret",
    "launch_code_end:",
    ".text",
);

unsafe extern "C" {
    static launch_code: u8;
    static launch_code_end: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const launch_code;
    let bytes = &raw const launch_code_end as usize - start as usize;
    // SAFETY: the labels enclose the code.
    unsafe { slice::from_raw_parts(start, bytes) }
}

/// What the code takes from RBP on.
fn registers(entry: Entry) -> Result<Vec<u64>, &'static str> {
    let Entry::Long64(entry) = entry else {
        return Err("only images that begin in 64-bit mode run on the machine itself");
    };
    let gdt = entry.gdt;
    // The limit of a descriptor table ends where its base begins.
    let limit = u64::from(gdt.limit) << 48;
    let mut words = vec![entry.cr3, limit, gdt.base, 0, 0, entry.rsp];
    words.extend([gdt.code, gdt.data].map(u64::from));
    words.extend([entry.rdi, entry.rsi, entry.rip]);
    Ok(words)
}

/// Everything is where the code finds it: physical addresses.
pub(crate) struct Launch {
    root: PhysAddr,
    code: u64,
    steps: u64,
    registers: u64,
}

/// Where a PC's memory below its devices ends, and where it goes on above its firmware.
const LOW_MEMORY_END: u64 = 0xa_0000;
const HIGH_MEMORY: u64 = 0x10_0000;
const FULL: &str = "the machine needs more memory than the image gets";

/// Puts the plan's content, and what moves it, above the image's `memory` bytes.
pub(crate) fn prepare(
    arena: &mut Arena,
    plan: &Plan<'_>,
    memory: u64,
) -> Result<Launch, Box<dyn Error>> {
    let registers = bytes(&registers(plan.entry)?);
    let mut steps = vec![0, 0, LOW_MEMORY_END];
    steps.extend([HIGH_MEMORY, 0, memory.saturating_sub(HIGH_MEMORY)]);
    for (to, content) in &plan.copies {
        steps.extend([*to, keep(arena, content)?, content.len() as u64]);
    }
    steps.extend([0; 3]);
    let launch = Launch {
        code: keep(arena, code())?,
        steps: keep(arena, &bytes(&steps))?,
        registers: keep(arena, &registers)?,
        root: tables(arena).ok_or(FULL)?,
    };
    if arena.taken_from() < memory {
        return Err(FULL.into());
    }
    Ok(launch)
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The physical address of a copy.
fn keep(arena: &mut Arena, content: &[u8]) -> Result<u64, &'static str> {
    let piece = arena.take(content.len() as u64).ok_or(FULL)?;
    for (to, from) in piece.bytes.iter_mut().zip(content) {
        *to = *from;
    }
    Ok(piece.at)
}

/// Page tables that map what this program has, and the first 4 GiB one to one below.
fn tables(arena: &mut Arena) -> Option<PhysAddr> {
    const LARGE_PAGE: u64 = 2 << 20;
    const GIBIBYTES: u64 = 4;
    let table = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    let mut take = || {
        let piece = arena.take(size_of::<PageTable>() as u64)?;
        // SAFETY: a piece is a page of zeroes, which is an empty table.
        let table = unsafe { &mut *piece.bytes.as_mut_ptr().cast::<PageTable>() };
        Some((PhysAddr::new(piece.at), table))
    };
    let (pointers_at, pointers) = take()?;
    let mut page = 0;
    for pointer in pointers.iter_mut().take(GIBIBYTES as usize) {
        let (directory_at, directory) = take()?;
        pointer.set_addr(directory_at, table);
        for entry in directory.iter_mut() {
            entry.set_addr(PhysAddr::new(page), table | PageTableFlags::HUGE_PAGE);
            page += LARGE_PAGE;
        }
    }
    let (root_at, root) = take()?;
    let (current, _) = Cr3::read();
    let current = arena.pointer(current.start_address().as_u64());
    // SAFETY: the boot loader maps the tables in use.
    root.clone_from(unsafe { &*current.cast::<PageTable>() });
    root[0].set_addr(pointers_at, table);
    Some(root_at)
}

impl Launch {
    /// Leaves everything behind.
    pub(crate) fn go(self) -> ! {
        bare::say_and_wait("bare: the image begins at TSC 0x");
        // SAFETY: the tables hold what this code uses until it jumps, and the code only
        // uses what lies above the image's memory.
        unsafe {
            asm!(
                "cli",
                "mov cr3, {root}",
                "mov rbp, {registers}",
                "mov rbx, {steps}",
                "jmp {code}",
                root = in(reg) self.root.as_u64(),
                registers = in(reg) self.registers,
                steps = in(reg) self.steps,
                code = in(reg) self.code,
                options(noreturn),
            )
        }
    }
}
