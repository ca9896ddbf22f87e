//! What init wants of the machine that it runs on, be it a VM or not:
//!
//! - `machine tsc` prints the TSC, which counts instructions on the emulated machine;
//! - `machine end` powers off. On the emulated machine without a hypervisor, where the
//!   ACPI tables are those of a VM and nothing would happen, it gives the verdict that a
//!   hypervisor would have given.

#![expect(unsafe_code, reason = "port I/O and system calls")]

use std::{
    arch::{
        asm,
        x86_64::{__cpuid, _rdtsc},
    },
    io,
    process::ExitCode,
};

/// The port at which the emulated machine ends when it is told to, a byte at a time.
const SHUTDOWN: u16 = 0x8900;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        // SAFETY: the instruction has no precondition.
        Some("tsc") => println!("init at TSC {}", unsafe { _rdtsc() }),
        Some("end") => {
            let error = if is_vm() { power_off() } else { shut_down() };
            eprintln!("the machine does not end: {error}");
            return ExitCode::FAILURE;
        }
        _ => {
            eprintln!("machine tsc, or machine end");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// CPUID.1:ECX.HYPERVISOR, which no silicon has.
fn is_vm() -> bool {
    __cpuid(1).ecx & 1 << 31 != 0
}

fn power_off() -> io::Error {
    // SAFETY: init has nothing left to lose.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    io::Error::last_os_error()
}

fn shut_down() -> io::Error {
    println!("machine ends: success");
    // SAFETY: a program of the superuser in a machine that is to end; the line leaves
    // first.
    unsafe {
        if libc::tcdrain(1) != 0 || libc::iopl(3) != 0 {
            return io::Error::last_os_error();
        }
        for byte in *b"Shutdown" {
            asm!("out dx, al", in("dx") SHUTDOWN, in("al") byte);
        }
    }
    io::Error::other("it is not the emulated one")
}
