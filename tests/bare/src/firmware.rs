//! What firmware left that an image in a VM would not find.

#![expect(unsafe_code, reason = "port I/O of a machine that is ours alone")]

use crate::arena::Arena;
use guest_loader::acpi::TABLES;
use x86_64::instructions::port::Port;

/// The data ports of both 8259s.
const LEGACY_MASKS: [u16; 2] = [0x21, 0xa1];

/// Masks the interrupts of the timer that the firmware used.
pub(crate) fn silence_legacy_interrupts() {
    for port in LEGACY_MASKS {
        // SAFETY: nothing here waits for these interrupts.
        unsafe { Port::new(port).write(0xff_u8) };
    }
}

const CONFIGURATION_ADDRESS: u16 = 0xcf8;
const CONFIGURATION_DATA: u16 = 0xcfc;
/// The host bridge's vendor and device (Intel 440FX, "Register Description").
const I440FX: u32 = 0x1237_8086;
/// Its registers for 0xf0000 to 0xfffff, 0xe0000 to 0xe7fff and 0xe8000 to 0xeffff, and
/// the values with which reads and writes go to memory.
const MEMORY_INSTEAD_OF_ROM: [(u8, u8); 3] = [(0x59, 0x30), (0x5e, 0x33), (0x5f, 0x33)];

/// Puts memory where the firmware's ROM was, because an image's ACPI tables lie there.
pub(crate) fn open_table_area(arena: &Arena) -> Result<(), &'static str> {
    if configuration_read(0) == I440FX {
        for (register, value) in MEMORY_INSTEAD_OF_ROM {
            configuration_write(register, value);
        }
    }
    let probe = arena.pointer(TABLES);
    // SAFETY: firmware, which is not used any more, or memory.
    let holds = unsafe {
        let before = probe.read_volatile();
        probe.write_volatile(!before);
        probe.read_volatile() == !before
    };
    holds
        .then_some(())
        .ok_or("no memory can be had where the image's ACPI tables belong")
}

fn select(register: u8) -> u16 {
    const ENABLE: u32 = 1 << 31;
    let aligned = register & !3;
    // SAFETY: selects a register of device 0 of bus 0.
    unsafe { Port::new(CONFIGURATION_ADDRESS).write(ENABLE | u32::from(aligned)) };
    CONFIGURATION_DATA + u16::from(register - aligned)
}

fn configuration_read(register: u8) -> u32 {
    // SAFETY: a read without effect.
    unsafe { Port::new(select(register)).read() }
}

fn configuration_write(register: u8, value: u8) {
    // SAFETY: firmware's memory is not used any more.
    unsafe { Port::new(select(register)).write(value) }
}
