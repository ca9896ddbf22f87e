//! The 8259 interrupt controllers that every PC begins with.

#![expect(unsafe_code, reason = "port I/O")]

use x86_64::instructions::port::Port;

const MASKS: [u16; 2] = [0x21, 0xa1];

/// Masks all their inputs: firmware leaves its timer ticking, and each tick would
/// take the CPU from a guest for nothing.
pub fn mask_all() {
    for port in MASKS {
        // SAFETY: nothing in the hypervisor waits for an interrupt of theirs.
        unsafe { Port::new(port).write(u8::MAX) };
    }
}
