//! Loops for ever with interrupts off, at the address that it prints.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "an endless loop at a known address")]

use core::arch::asm;
use guests::{payload, say};

payload!(main);

fn main(_: &'static str) -> ! {
    let here: u64;
    // SAFETY: only takes an address.
    unsafe { asm!("lea {}, [rip + 2f]", "2:", out(reg) here) };
    say!("looping near {here:#x}");
    // SAFETY: touches nothing.
    unsafe { asm!("3:", "jmp 3b", options(noreturn)) }
}
