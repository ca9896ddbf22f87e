//! Images with a Multiboot header and with a PVH note, made here from a few
//! instructions: what they find in their registers and in memory.

#![expect(unsafe_code, reason = "the code of the image is read from our own")]

use crate::harness::{Boot, between, case};
use anyhow::Result;
use libtest_mimic::Trial;
use std::arch::global_asm;

// 32-bit code at 2 MiB. Prints the command line and the first word of the module, and
// ends with code 0 if EAX has the magic number.
global_asm!(
    ".section .rodata",
    ".balign 16",
    ".code32",
    "multiboot_code:",
    "cmpl $0x2badb002, %eax",
    "setne %cl",
    "movl $0x3f8, %edx",
    "movl 16(%ebx), %esi",
    "2:",
    "lodsb",
    "testb %al, %al",
    "jz 3f",
    "outb %al, %dx",
    "jmp 2b",
    "3:",
    "movb $32, %al",
    "outb %al, %dx",
    // The one module: its first four bytes.
    "movl 24(%ebx), %esi",
    "movl (%esi), %esi",
    "movl (%esi), %eax",
    "outb %al, %dx",
    "shrl $8, %eax",
    "outb %al, %dx",
    "shrl $8, %eax",
    "outb %al, %dx",
    "shrl $8, %eax",
    "outb %al, %dx",
    "movb $10, %al",
    "outb %al, %dx",
    "movb %cl, %al",
    "outb %al, $0xf4",
    "hlt",
    "multiboot_code_end:",
    ".code64",
    ".text",
    options(att_syntax),
);

unsafe extern "C" {
    static multiboot_code: u8;
    static multiboot_code_end: u8;
}

const LOAD: u32 = 0x20_0000;
const MAGIC: u32 = 0x1bad_b002;
const HAS_ADDRESSES: u32 = 1 << 16;

fn code() -> &'static [u8] {
    // SAFETY: the labels enclose the code.
    unsafe { between(&raw const multiboot_code, &raw const multiboot_code_end) }
}

/// The header with its addresses, and the code behind them.
fn image() -> Vec<u8> {
    let header = [
        MAGIC,
        HAS_ADDRESSES,
        0_u32.wrapping_sub(MAGIC).wrapping_sub(HAS_ADDRESSES),
        LOAD,
        LOAD,
        0,
        0,
        LOAD + 32,
    ];
    let header = header.iter().flat_map(|word| word.to_le_bytes());
    header.chain(code().iter().copied()).collect()
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![case("multiboot::an_image_finds_its_information", |log| {
        let folder = tempfile::tempdir()?;
        let path = |name: &str, content: &[u8]| -> Result<String> {
            let path = folder.path().join(name);
            std::fs::write(&path, content)?;
            Ok(format!("{path:?}"))
        };
        let toml = format!(
            "[[vm]]\nname = \"guest\"\nimage = {}\ninitrd = {}\n\
             cmdline = \"one two\"\nmemory = \"16M\"\n",
            path("image", &image())?,
            path("module", b"MODULE")?,
        );
        let console = log.run(&Boot::bundle(toml))?;
        console.says("guest: one two MODU")?;
        console.succeeded()
    })]
}
