//! The machine's console: the first serial port.
//!
//! Lines of the hypervisor begin with `tilevisor: `, lines of a guest with the
//! name of its VM, so that one stream can be told apart by people and by tests.

#![expect(unsafe_code, reason = "programs the serial port")]

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};
use spin::{Lazy, Mutex};
use uart_16550::SerialPort;
use x86_64::instructions::port::Port;

/// I/O base of the first serial port on every PC.
const COM1: u16 = 0x3f8;

static CONSOLE: Lazy<Mutex<SerialPort>> = Lazy::new(|| {
    // SAFETY: COM1 is the machine's console and this lock its only user.
    let mut port = unsafe { SerialPort::new(COM1) };
    port.init();
    set_fastest();
    Mutex::new(port)
});

/// Sets the highest speed of a PC's port, 115200 baud: `init` chooses less.
fn set_fastest() {
    const LINE_CONTROL: u16 = COM1 + 3;
    const DIVISOR_LATCH: u8 = 1 << 7;
    const EIGHT_BITS: u8 = 0b11;
    for (register, value) in [
        (LINE_CONTROL, EIGHT_BITS | DIVISOR_LATCH),
        (COM1, 1),
        (COM1 + 1, 0),
        (LINE_CONTROL, EIGHT_BITS),
    ] {
        // SAFETY: registers of the console, before anybody else uses it.
        unsafe { Port::<u8>::new(register).write(value) };
    }
}

/// The number and one of the VM whose line is not yet complete, if that is the last
/// line on the console; else zero. Used by whoever holds the console.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Ends the line that a guest has begun.
fn end_open(port: &mut SerialPort) {
    if OPEN.swap(0, Relaxed) != 0 {
        let _ = port.write_char('\n');
    }
}

/// Prints one line of the hypervisor.
pub fn say(what: fmt::Arguments<'_>) {
    let mut port = CONSOLE.lock();
    end_open(&mut port);
    // A serial port cannot fail: what nobody listens to is lost.
    let _ = writeln!(port, "tilevisor: {what}");
}

/// Prints output of the guest `name`, VM `number`; bytes that are not printable ASCII
/// are shown as `\xNN`, so that a guest cannot forge another's line or drive the
/// terminal. ESC, TAB and BS pass: guests colour, align and edit their output. A line
/// that is not `complete` may go on, if nobody else prints in between.
pub fn guest_line(name: &str, number: usize, line: &[u8], complete: bool) {
    const BACKSPACE: u8 = 0x08;
    const ESCAPE: u8 = 0x1b;
    let mut port = CONSOLE.lock();
    if OPEN.load(Relaxed) != number + 1 {
        end_open(&mut port);
        let _ = write!(port, "{name}: ");
    }
    for &byte in line {
        let _ = match byte {
            b' '..=b'~' | b'\t' | BACKSPACE | ESCAPE => port.write_char(char::from(byte)),
            _ => write!(port, "\\x{byte:02x}"),
        };
    }
    if complete {
        let _ = port.write_char('\n');
    }
    OPEN.store(if complete { 0 } else { number + 1 }, Relaxed);
}

/// Prints one line without a prefix: the machine's verdict, for tools.
pub(crate) fn verdict_line(line: &str) {
    let mut port = CONSOLE.lock();
    end_open(&mut port);
    let _ = writeln!(port, "{line}");
}

/// The key that the operator pressed, if any.
pub fn key() -> Option<u8> {
    CONSOLE.lock().try_receive().ok()
}

/// Waits until the last character has left: what is still in the transmitter
/// when an emulator powers off is lost.
pub(super) fn drain() {
    /// Line status register, and its bit for an empty transmitter.
    const LINE_STATUS: u16 = COM1 + 5;
    const TRANSMITTER_EMPTY: u8 = 1 << 6;
    let mut status = Port::<u8>::new(LINE_STATUS);
    // SAFETY: reading the line status changes nothing that we rely on.
    while unsafe { status.read() } & TRANSMITTER_EMPTY == 0 {
        core::hint::spin_loop();
    }
}

/// Frees the console for a report of a CPU that died, possibly while it printed.
pub fn break_lock() {
    // SAFETY: used only on the way to the end of the machine, where garbled
    // output is better than none; the port itself holds no invariant.
    unsafe { CONSOLE.force_unlock() }
}

/// Prints registers, four a line.
pub fn say_registers(all: &[(&str, u64)]) {
    for some in all.chunks(4) {
        say(format_args!("{}", Registers(some)));
    }
}

struct Registers<'a>(&'a [(&'a str, u64)]);

impl fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.0.iter();
        all.try_for_each(|(name, value)| write!(f, "  {name:3} {value:#018x}"))
    }
}

/// Prints the fields of these names, which are registers.
#[macro_export]
macro_rules! say_registers {
    ($all:ident: $($name:ident)*) => {
        $crate::platform::console::say_registers(&[$((stringify!($name), $all.$name)),*])
    };
}

/// Prints a line of the hypervisor, with the arguments of `format!`.
#[macro_export]
macro_rules! say {
    ($($what:tt)*) => { $crate::platform::console::say(format_args!($($what)*)) };
}
