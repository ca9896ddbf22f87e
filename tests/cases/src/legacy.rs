//! A flat binary in real mode, made here: what of a PC is older than APICs, string I/O,
//! and another CPU that is started below 1 MiB.

#![expect(unsafe_code, reason = "the code of the image is read from our own")]

use crate::harness::{Boot, between, case};
use libtest_mimic::Trial;
use std::arch::global_asm;

// 16-bit code at 0x7c00. Says a letter for each thing that is right, or a minus, and
// ends with code 0.
global_asm!(
    ".section .rodata",
    ".balign 16",
    ".code16",
    "legacy_code:",
    "jmp 10f",
    // A letter for what is right: AL if the zero flag is set, else a minus.
    "1:",
    "je 2f",
    "movb $'-', %al",
    "2:",
    "movw $0x3f8, %dx",
    "outb %al, %dx",
    "ret",
    // Interrupt 0x20: counts, and ends at the first 8259.
    "3:",
    "pushw %ax",
    "incb 0x600",
    "movb $0x20, %al",
    "outb %al, $0x20",
    "popw %ax",
    "iretw",
    // The other CPU begins here, at the start of a page.
    "4:",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "movw $0x5a5a, 0x100",
    "cli",
    "hlt",
    "5:",
    "10:",
    // S: OUTS writes what lies in memory, downwards and upwards.
    "movw $0x7c00 + 20f - legacy_code, %si",
    "movw $0x3f8, %dx",
    "movw $21f - 20f, %cx",
    "rep outsb",
    // I: INS reads what the scratch register has, into each byte.
    "movw $0x3ff, %dx",
    "movb $0x77, %al",
    "outb %al, %dx",
    "movw $0x602, %di",
    "movw $3, %cx",
    "std",
    "rep insb",
    "cld",
    "cmpl $0x77777700, 0x5ff",
    "jne 6f",
    "cmpw $0x5ff, %di",
    "6:",
    "movb $'I', %al",
    "call 1b",
    // F: where no device is, ports read all ones.
    "movw $0x510, %dx",
    "inw %dx, %ax",
    "cmpw $0xffff, %ax",
    "movb $'F', %al",
    "call 1b",
    // C: the clock's battery is good.
    "movb $0x0d, %al",
    "outb %al, $0x70",
    "inb $0x71, %al",
    "cmpb $0x80, %al",
    "movb $'C', %al",
    "call 1b",
    // T: ten ticks of the timer arrive through the 8259s, each of which ends a halt.
    "movw $0x7c00 + 3b - legacy_code, 0x80",
    "movw $0, 0x82",
    "movb $0, 0x600",
    "movb $0x11, %al",
    "outb %al, $0x20",
    "movb $0x20, %al",
    "outb %al, $0x21",
    "movb $4, %al",
    "outb %al, $0x21",
    "movb $1, %al",
    "outb %al, $0x21",
    "movb $0xfe, %al",
    "outb %al, $0x21",
    "movb $0x34, %al",
    "outb %al, $0x43",
    "movb $0x50, %al",
    "outb %al, $0x40",
    "movb $0, %al",
    "outb %al, $0x40",
    "sti",
    "7:",
    "hlt",
    "cmpb $10, 0x600",
    "jb 7b",
    "cli",
    "cmpb $10, 0x600",
    "movb $'T', %al",
    "call 1b",
    // P: channel 2 counts down to its output.
    "movb $1, %al",
    "outb %al, $0x61",
    "movb $0xb0, %al",
    "outb %al, $0x43",
    "movb $0xff, %al",
    "outb %al, $0x42",
    "movb $0, %al",
    "outb %al, $0x42",
    "inb $0x61, %al",
    "testb $0x20, %al",
    "jnz 9f",
    "8:",
    "inb $0x61, %al",
    "testb $0x20, %al",
    "jz 8b",
    "cmpb %al, %al",
    "9:",
    "movb $'P', %al",
    "call 1b",
    // A: INIT and start-up bring the other CPU to page 0x90.
    "movw $0x9000, %ax",
    "movw %ax, %es",
    "xorw %di, %di",
    "movw $0x7c00 + 4b - legacy_code, %si",
    "movw $5b - 4b, %cx",
    "rep movsb",
    "movl $0x830, %ecx",
    "movl $1, %edx",
    "movl $0x4500, %eax",
    "wrmsr",
    "movl $0x4690, %eax",
    "wrmsr",
    "11:",
    "cmpw $0x5a5a, %es:0x100",
    "jne 11b",
    "movb $'A', %al",
    "call 1b",
    "movb $10, %al",
    "call 1b",
    "xorb %al, %al",
    "outb %al, $0xf4",
    "hlt",
    "20:",
    ".ascii \"S\"",
    "21:",
    ".org legacy_code + 510",
    ".byte 0x55, 0xaa",
    "legacy_code_end:",
    ".code64",
    ".text",
    options(att_syntax),
);

unsafe extern "C" {
    static legacy_code: u8;
    static legacy_code_end: u8;
}

fn image() -> &'static [u8] {
    // SAFETY: the labels enclose the code.
    unsafe { between(&raw const legacy_code, &raw const legacy_code_end) }
}

fn real_mode(name: &'static str, cpus: u32) -> Trial {
    case(name, move |log| {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("flat");
        std::fs::write(&path, image())?;
        let toml =
            format!("[[vm]]\nname = \"guest\"\nimage = {path:?}\nmemory = \"2M\"\nvcpus = 2\n");
        let console = log.run(&Boot {
            cpus,
            ..Boot::bundle(toml)
        })?;
        console.says("guest: SIFCTPA")?;
        console.succeeded()
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        real_mode("legacy::real_mode_on_1_cpu", 1),
        real_mode("legacy::real_mode_on_2_cpus", 2),
    ]
}
