//! A machine without a hypervisor: its console's first setting, and its end.

#![expect(unsafe_code, reason = "port I/O")]

use crate::console;
use uart_16550::SerialPort;
use x86_64::instructions::{hlt, interrupts, port::Port};

const TRANSMITTER_EMPTY: u8 = 1 << 6;

/// Sets the serial port's speed, which firmware need not have done.
pub fn open_console() {
    // SAFETY: COM1 is the machine's console, and this its only program.
    unsafe { SerialPort::new(console::COM1) }.init();
}

/// Says `text` without a line's end, and waits until it has left.
pub fn say_and_wait(text: &str) {
    console::print(format_args!("{text}"));
    // SAFETY: the line status tells whether the last character has left.
    while unsafe { Port::<u8>::new(console::LINE_STATUS).read() } & TRANSMITTER_EMPTY == 0 {}
}

/// Says the verdict and ends the machine, as the hypervisor does.
pub fn end(success: bool) -> ! {
    say_and_wait(if success {
        "machine ends: success\n"
    } else {
        "machine ends: failure\n"
    });
    // SAFETY: these ports end the emulated machines and are nothing elsewhere.
    unsafe {
        Port::new(console::EXIT).write(if success { 0x10_u32 } else { 0x11 });
        for byte in *b"Shutdown" {
            Port::new(0x8900).write(byte);
        }
    }
    loop {
        interrupts::disable();
        hlt();
    }
}
