//! The VM's console and its end.

#![expect(unsafe_code, reason = "port I/O")]

use crate::bare;
use core::fmt::{self, Write};
use x86_64::instructions::port::Port;

pub(crate) const COM1: u16 = 0x3f8;
pub(crate) const LINE_STATUS: u16 = COM1 + 5;
const TRANSMIT_HOLDING_EMPTY: u8 = 1 << 5;
pub(crate) const EXIT: u16 = 0xf4;

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the console is a 16550, which these accesses only use.
            unsafe {
                while Port::<u8>::new(LINE_STATUS).read() & TRANSMIT_HOLDING_EMPTY == 0 {}
                Port::new(COM1).write(byte);
            }
        }
        Ok(())
    }
}

/// Prints `what`, without a line's end.
pub(crate) fn print(what: fmt::Arguments<'_>) {
    // The port cannot fail.
    let _ = Console.write_fmt(what);
}

/// Prints one line.
pub fn line(what: fmt::Arguments<'_>) {
    print(format_args!("{what}\n"));
}

/// Prints one line, with the arguments of `format!`.
#[macro_export]
macro_rules! say {
    ($($what:tt)*) => { $crate::console::line(format_args!($($what)*)) };
}

/// Ends the VM with `code`; zero is success.
pub fn exit(code: u32) -> ! {
    // SAFETY: the hypervisor ends this VM at this write.
    unsafe { Port::new(EXIT).write(code) };
    // Whoever goes on is not in a VM.
    bare::end(code == 0)
}
