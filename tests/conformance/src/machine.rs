//! The machine around the checks: console, features, end.

#![expect(unsafe_code, reason = "port I/O")]

use guests::{
    processor::{TILECFG, TILEDATA, cpuid, offered_xcr0},
    say,
};
use uart_16550::SerialPort;
use x86_64::instructions::{hlt, port::Port};

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 6;

/// Sets the serial port's speed, which firmware need not have done.
pub(crate) fn open_console() {
    // SAFETY: COM1 is the machine's console, and this its only program.
    unsafe { SerialPort::new(COM1) }.init();
}

/// What the checks need and this CPU lacks.
pub(crate) fn missing_feature() -> Option<&'static str> {
    const XSAVE: u32 = 1 << 26;
    if cpuid(1, 0).ecx & XSAVE == 0 {
        return Some("XSAVE");
    }
    if offered_xcr0() & (TILECFG | TILEDATA) == 0 {
        return Some("AMX");
    }
    // XFD is not in the list: a CPU with AMX that lacks it fails the check of CPUID
    // and is held against the rest.
    const XSAVEC_XGETBV1_XSAVES: u32 = 0b1110;
    let lacking = cpuid(0xd, 1).eax & XSAVEC_XGETBV1_XSAVES != XSAVEC_XGETBV1_XSAVES;
    lacking.then_some("XSAVEC, XGETBV with ECX = 1, or XSAVES")
}

/// Whether there is XFD.
pub(crate) fn has_xfd() -> bool {
    cpuid(0xd, 1).eax & 1 << 4 != 0
}

/// Says the verdict and ends the machine, as the hypervisor does.
pub(crate) fn end(success: bool) -> ! {
    say!(
        "machine ends: {}",
        if success { "success" } else { "failure" }
    );
    // SAFETY: these ports end the emulated machines and are nothing elsewhere; the
    // line status only tells when the last character has left.
    unsafe {
        while Port::<u8>::new(LINE_STATUS).read() & TRANSMITTER_EMPTY == 0 {}
        Port::new(0xf4).write(if success { 0x10_u32 } else { 0x11 });
        for byte in *b"Shutdown" {
            Port::new(0x8900).write(byte);
        }
    }
    loop {
        x86_64::instructions::interrupts::disable();
        hlt();
    }
}
