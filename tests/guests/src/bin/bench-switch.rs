//! When this vCPU had a CPU, and when not: prints `bench slice FROM TO`, the TSC at the
//! first and the last moment of each time slice. Where one of another VM begins after
//! one of this ended, what lies between is the switch.
//!
//! `state=` says what is in use: nothing, `avx512`, `tiles`, or tiles while XFD is
//! `armed`.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "an instruction on a vector register")]

use core::arch::asm;
use guests::{
    apic, console, exceptions, payload,
    processor::{self, TILEDATA, XFD, offered_xcr0, try_xsetbv, wrmsr},
    say,
    start::has_word,
    tiles,
};

payload!(main);

/// Slices to see.
const SLICES: usize = 24;
/// The loop below takes fewer ticks; an exit and the way back more.
const GAP: u64 = 40;

fn main(command_line: &'static str) -> ! {
    processor::enable_osxsave();
    assert_eq!(try_xsetbv(0, offered_xcr0()), exceptions::NONE, "XSETBV");
    if has_word(command_line, "state=avx512") {
        // SAFETY: the register is nobody's.
        unsafe { asm!("vpternlogd zmm20, zmm20, zmm20, 0xff") };
    }
    if has_word(command_line, "state=tiles") || has_word(command_line, "state=armed") {
        tiles::load_all(7);
    }
    if has_word(command_line, "state=armed") {
        wrmsr(XFD, TILEDATA);
    }
    let mut seen = [(0, 0); SLICES];
    let mut from = apic::now();
    let mut last = from;
    for slice in &mut seen {
        loop {
            let now = apic::now();
            if now - last > GAP {
                *slice = (from, last);
                (from, last) = (now, now);
                break;
            }
            last = now;
        }
    }
    for (from, to) in seen {
        say!("bench slice {from} {to}");
    }
    console::exit(0)
}
