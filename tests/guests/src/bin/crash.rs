//! Ends its VM by a mistake, in the way that the command line names.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "mistakes on purpose")]

use core::arch::asm;
use guests::{console, payload, say, start::has_word};

payload!(main);

fn main(command_line: &'static str) -> ! {
    let how = |word| has_word(command_line, word);
    say!("about to crash by {command_line}");
    // SAFETY: none; each of these ends the VM, which is what is tested.
    unsafe {
        if how("memory") {
            // Behind the VM's memory, inside what its page tables map.
            asm!("mov [rax], eax", in("rax") 0xc0c0_ffee_u64);
        }
        if how("device") {
            // The I/O APIC takes words of 32 bits only.
            asm!("inc byte ptr [rax]", in("rax") 0xfec0_0000_u64);
        }
        if how("triple-fault") {
            asm!("lidt [{}]", "ud2", in(reg) &[0_u64; 2]);
        }
        if how("halt") {
            asm!("cli", "hlt");
        }
        if how("halt-for-ever") {
            asm!("sti", "hlt");
        }
        if how("string-io") {
            asm!("outsb", in("dx") 0x3f8_u16, in("rsi") 0xf000_0000_u64);
        }
    }
    say!("still there");
    console::exit(0)
}
