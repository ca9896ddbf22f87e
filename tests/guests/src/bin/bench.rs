//! What exits cost, in ticks of the TSC for each: on the emulated machine with one
//! CPU those are instructions. Prints `bench NAME TICKS`, the loop itself taken off.
//!
//! `sleep=N` does nothing but halt for N ticks: a VM that is merely there.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "instructions that exit")]

use core::arch::{asm, x86_64::_rdtsc};
use guests::{
    apic, console, exceptions, payload,
    processor::{self, offered_xcr0, rdmsr, try_xsetbv, wrmsr},
    say,
    start::number,
};
use x86_64::instructions::interrupts;

payload!(main);

/// Executions of each.
const TURNS: u64 = 1000;
/// An MSR that exits, whatever the CPU virtualises.
const MISC_ENABLE: u32 = 0x1a0;

/// Ticks of `TURNS` turns, in tenths for each.
fn ticks(mut turn: impl FnMut()) -> u64 {
    // SAFETY: the instruction has no precondition.
    let now = || unsafe { _rdtsc() };
    // Once before, so that nothing happens for the first time.
    turn();
    let start = now();
    for _ in 0..TURNS {
        turn();
    }
    (now() - start) * 10 / TURNS
}

fn main(command_line: &'static str) -> ! {
    processor::enable_osxsave();
    let sleep = number(command_line, "sleep", 0);
    if sleep > 0 {
        exceptions::on_interrupt(|_| apic::end_of_interrupt());
        apic::enable();
        apic::arm_timer(0x40, sleep);
        interrupts::enable_and_hlt();
        console::exit(0);
    }
    let xcr0 = offered_xcr0();
    assert_eq!(try_xsetbv(0, xcr0), exceptions::NONE, "XSETBV");
    let (low, high) = (xcr0 as u32, (xcr0 >> 32) as u32);
    let misc = rdmsr(MISC_ENABLE);
    // SAFETY: nothing of these has an effect but the exit.
    let empty = ticks(|| unsafe { asm!("nop", options(nomem, nostack)) });
    let row = |name, turn: &mut dyn FnMut()| {
        let ticks = ticks(turn) - empty;
        say!("bench {name} {}.{}", ticks / 10, ticks % 10);
    };
    row("cpuid", &mut || {
        // SAFETY: as above.
        unsafe {
            asm!("push rbx", "cpuid", "pop rbx", inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _)
        }
    });
    row("vmcall", &mut || {
        // SAFETY: as above; what it answers is discarded.
        unsafe { asm!("vmcall", inout("rax") 0x7fff_u64 => _) }
    });
    row("xsetbv", &mut || {
        // SAFETY: as above: the value is the one that is there.
        unsafe { asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high) }
    });
    row("rdmsr", &mut || _ = rdmsr(MISC_ENABLE));
    row("wrmsr", &mut || wrmsr(MISC_ENABLE, misc));
    row("out", &mut || {
        // SAFETY: the UART's scratch register.
        unsafe { asm!("out dx, al", in("dx") 0x3ff_u16, in("al") 0_u8) }
    });
    row("in", &mut || {
        // SAFETY: as above.
        unsafe { asm!("in al, dx", in("dx") 0x3ff_u16, out("al") _) }
    });
    console::exit(0)
}
