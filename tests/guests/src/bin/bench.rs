//! What exits cost, in ticks of the TSC for each: on the emulated machine with one CPU
//! those are instructions. Prints `bench NAME TICKS`, the loop itself taken off.
//!
//! `sleep=N` does nothing but halt for N ticks: a VM that is merely there; `after=N` does
//! that first, until the machine's other CPUs have come to rest. `NAME=N`, for
//! any row by one instruction, does nothing but that many turns, so that the exits of two
//! VMs can be compared.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "instructions that exit")]

use core::{
    arch::{asm, naked_asm},
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use guests::{
    apic, console, exceptions, payload,
    processor::{self, TILEDATA, XFD, offered_xcr0, rdmsr, try_xsetbv, wrmsr},
    say, smp,
    start::number,
    tiles::Config,
};
use x86_64::instructions::interrupts;

payload!(main);

/// Executions of each.
const TURNS: u64 = 1000;
/// An MSR that exits, whatever the CPU virtualises.
const MISC_ENABLE: u32 = 0x1a0;
/// Where a register of the I/O APIC is.
const IO_APIC: u64 = 0xfec0_0000;
const TIMER: u8 = 0x40;
const PING: u8 = 0x41;
/// How long the timer is set for.
const NAP_TICKS: u64 = 100_000;

/// What that MSR has.
static MISC: AtomicU64 = AtomicU64::new(0);

/// What a turn is, to be executed so often.
type Turn = (&'static str, fn());

/// Exits by one instruction.
const EXITS: [Turn; 8] = [
    ("cpuid", cpuid),
    ("vmcall", vmcall),
    ("xsetbv", xsetbv),
    ("wrmsr", || wrmsr(MISC_ENABLE, MISC.load(Relaxed))),
    ("out", out),
    ("rdmsr", || _ = rdmsr(MISC_ENABLE)),
    ("in", input),
    ("mmio", mmio),
];
/// What takes AMX.
const XFD_TURNS: [Turn; 2] = [("xfd_write", xfd_write), ("nm", nm)];

fn cpuid() {
    // SAFETY: no effect but the exit.
    unsafe {
        asm!("push rbx", "cpuid", "pop rbx", inout("eax") 0 => _, inout("ecx") 0 => _, out("edx") _)
    }
}

fn vmcall() {
    // SAFETY: as above; what it answers is discarded.
    unsafe { asm!("vmcall", inout("rax") 0x7fff_u64 => _) }
}

fn xsetbv() {
    // SAFETY: the value is the one that is there.
    unsafe { asm!("mov ecx, 0", "xgetbv", "xsetbv", out("eax") _, out("ecx") _, out("edx") _) }
}

fn out() {
    // SAFETY: the UART's scratch register.
    unsafe { asm!("out dx, al", in("dx") 0x3ff_u16, in("al") 0_u8) }
}

fn input() {
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") 0x3ff_u16, out("al") _) }
}

fn mmio() {
    // SAFETY: a read without effect.
    unsafe { asm!("mov eax, [{}]", in(reg) IO_APIC, out("eax") _) }
}

fn xfd_write() {
    wrmsr(XFD, 0);
}

/// Arms XFD, takes #NM, and executes the instruction again.
fn nm() {
    wrmsr(XFD, TILEDATA);
    // SAFETY: changes a tile that nobody uses.
    unsafe { asm!("tilezero tmm0") };
}

/// As short as a handler can be that reads and clears XFD_ERR and disarms XFD.
#[unsafe(naked)]
unsafe extern "C" fn on_nm() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "mov ecx, 0x1c5",
        "rdmsr",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "dec ecx",
        "wrmsr",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
    )
}

/// Ticks of `TURNS` turns, in tenths for each.
fn ticks(turn: fn()) -> u64 {
    // The same calls for each, even where there is nothing to call.
    let turn = black_box(turn);
    // Once before, so that nothing happens for the first time.
    turn();
    let start = apic::now();
    for _ in 0..TURNS {
        turn();
    }
    (apic::now() - start) * 10 / TURNS
}

fn print(name: &str, tenths: u64) {
    say!("bench {name} {}.{}", tenths / 10, tenths % 10);
}

/// From the moment at which the timer of a CPU that halts is due to its first
/// instruction behind the HLT, the handler's taken in.
fn wake_up() -> u64 {
    let late: u64 = (0..TURNS / 10)
        .map(|_| {
            apic::arm_timer(TIMER, NAP_TICKS);
            let due = rdmsr(apic::TSC_DEADLINE);
            interrupts::enable_and_hlt();
            let woken = apic::now();
            interrupts::disable();
            woken - due
        })
        .sum();
    late * 10 / (TURNS / 10)
}

/// An IPI to another CPU that halts, and one back: each wakes the other.
fn ping_pong() -> u64 {
    let start = apic::now();
    for _ in 0..TURNS / 10 {
        apic::send(1, apic::FIXED | u64::from(PING));
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
    (apic::now() - start) * 10 / (TURNS / 10)
}

/// The other CPU: answers each interrupt.
fn other(_: u32) -> ! {
    loop {
        interrupts::enable_and_hlt();
        interrupts::disable();
        apic::send(0, apic::FIXED | u64::from(PING));
    }
}

/// Halts for so many ticks.
fn nap(ticks: u64) {
    if ticks > 0 {
        apic::enable();
        apic::arm_timer(TIMER, ticks);
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
}

fn main(command_line: &'static str) -> ! {
    processor::enable_osxsave();
    exceptions::on_interrupt(|_| apic::end_of_interrupt());
    let sleep = number(command_line, "sleep", 0);
    if sleep > 0 {
        nap(sleep);
        console::exit(0);
    }
    nap(number(command_line, "after", 0));
    assert_eq!(try_xsetbv(0, offered_xcr0()), exceptions::NONE, "XSETBV");
    MISC.store(rdmsr(MISC_ENABLE), Relaxed);
    let tiles = offered_xcr0() & TILEDATA != 0;
    let empty = ticks(|| {
        // SAFETY: it does nothing.
        unsafe { asm!("nop") }
    });
    let counted = EXITS.iter().chain(&XFD_TURNS).find_map(|(name, turn)| {
        let turns = number(command_line, name, 0);
        (turns > 0).then_some((turns, turn))
    });
    if tiles {
        exceptions::nm_gate(on_nm);
        Config::FULL.load();
        if counted.is_none() {
            // Zero disables nothing, so that the next write exits, too.
            print("xfd_write_before", ticks(xfd_write) - empty);
        }
        // The first write of a feature exits, whatever comes later.
        nm();
    }
    if let Some((turns, turn)) = counted {
        (0..turns).for_each(|_| turn());
        console::exit(0);
    }
    for (name, turn) in EXITS.iter().chain(XFD_TURNS.iter().filter(|_| tiles)) {
        // The XGETBV that finds the value is not the XSETBV's.
        let beside = if *name == "xsetbv" { 10 } else { 0 };
        print(name, ticks(*turn) - empty - beside);
    }
    apic::enable();
    print("hlt_wake", wake_up());
    if number(command_line, "cpus", 1) > 1 {
        smp::prepare(other);
        smp::start(1);
        // It halts before the first one comes.
        nap(NAP_TICKS);
        print("ipi_round", ping_pong());
    }
    console::exit(0)
}
