//! The end of the machine, told to every kind of machine we run on.

#![expect(unsafe_code, reason = "port I/O that powers off")]

use super::console;
use x86_64::instructions::{hlt, interrupts, port::Port};

/// How the machine ended; also its exit status where the machine has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every VM ended with success.
    Success,
    /// A VM failed, the machine lacks something, or the hypervisor has a bug.
    Failure,
}

/// QEMU's `isa-debug-exit` device: QEMU exits with `2 * value + 1`.
const QEMU_DEBUG_EXIT: u16 = 0xf4;
/// Bochs' APM port: powers off when this text was written to it.
const BOCHS_POWER: u16 = 0x8900;
const BOCHS_POWER_OFF: &[u8] = b"Shutdown";

/// Says the verdict as the last line and ends the machine.
///
/// Bare metal has neither port: there the CPU halts, and the verdict stands on
/// the console.
pub fn end(verdict: Verdict) -> ! {
    let (line, code) = match verdict {
        Verdict::Success => ("machine ends: success", 0x10_u32),
        Verdict::Failure => ("machine ends: failure", 0x11),
    };
    console::verdict_line(line);
    console::drain();
    // SAFETY: on the machines that decode these ports the write ends them, on
    // others it goes nowhere.
    unsafe { Port::new(QEMU_DEBUG_EXIT).write(code) };
    let mut power = Port::new(BOCHS_POWER);
    for &byte in BOCHS_POWER_OFF {
        // SAFETY: as above.
        unsafe { power.write(byte) };
    }
    loop {
        interrupts::disable();
        hlt();
    }
}
