//! The end of the machine, told to every kind of machine we run on.

#![expect(unsafe_code, reason = "port I/O that powers off")]

use super::console;
use crate::cpu::apic;
use core::sync::atomic::{AtomicU32, Ordering};
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

/// The CPU that ends the machine, by its APIC ID and one: every other halts as
/// soon as it is interrupted.
static ENDED_BY: AtomicU32 = AtomicU32::new(0);

/// Whether a CPU is ending the machine.
pub fn stopping() -> bool {
    ENDED_BY.load(Ordering::Acquire) != 0
}

/// Stops all other CPUs, whatever they do. Of several that want to, one goes on;
/// the others halt here.
pub fn stop_others() {
    let Some(apic) = apic::machine() else {
        // Before there was a second CPU.
        return;
    };
    let own = apic.id().wrapping_add(1);
    match ENDED_BY.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => apic.stop_others(),
        // Something went wrong while this CPU reported what went wrong.
        Err(other) if other == own => {}
        Err(_) => halt(),
    }
}

/// Says the verdict as the last line and ends the machine; the other CPUs were
/// stopped before.
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
    halt()
}

/// Halts this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}
