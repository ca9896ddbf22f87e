//! The local APIC: its timer in all modes, priorities, and a halted CPU that
//! wakes up.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use guests::{
    exceptions::{self, GP},
    payload,
    processor::{rdmsr, try_rdmsr, try_wrmsr, wrmsr},
    report::Report,
};
use x86_64::instructions::interrupts;

payload!(main);

const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
const TASK_PRIORITY: u32 = 0x808;
const EOI: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
const LVT_TIMER: u32 = 0x832;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;

const ONE_SHOT: u64 = 0;
const PERIODIC: u64 = 1 << 17;
const DEADLINE: u64 = 2 << 17;
const VECTOR: u8 = 0x40;

/// Interrupts taken, and the last one's vector and time.
static COUNT: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
static AT: AtomicU64 = AtomicU64::new(0);

fn handle(vector: u8) {
    AT.store(now(), Ordering::Relaxed);
    LAST.store(u64::from(vector), Ordering::Relaxed);
    COUNT.fetch_add(1, Ordering::Relaxed);
    wrmsr(EOI, 0);
}

fn now() -> u64 {
    rdmsr(0x10)
}

/// Halts that ended although no interrupt was taken.
static WOKEN_BY_NOTHING: AtomicU64 = AtomicU64::new(0);

/// Halts until `count` interrupts were taken in all.
fn halt_until(count: u64) {
    interrupts::disable();
    while taken() < count {
        let before = taken();
        interrupts::enable_and_hlt();
        interrupts::disable();
        if taken() == before {
            WOKEN_BY_NOTHING.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn taken() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

fn main(_: &'static str) -> ! {
    let mut report = Report::default();
    exceptions::on_interrupt(handle);

    report.equal(
        "x2APIC mode is on and stays on",
        rdmsr(APIC_BASE) & 0xc00,
        0xc00,
    );
    report.equal(
        "leaving x2APIC mode raises #GP",
        try_wrmsr(APIC_BASE, 0xfee0_0800),
        GP,
    );
    report.equal(
        "a register that does not exist raises #GP",
        try_rdmsr(0x801),
        Err(GP),
    );
    report.equal(
        "reserved bits raise #GP",
        try_wrmsr(TASK_PRIORITY, 0x100),
        GP,
    );
    wrmsr(SPURIOUS, 0x1ff);

    wrmsr(LVT_TIMER, DEADLINE | u64::from(VECTOR));
    for round in 1..=20 {
        let deadline = now() + 100_000;
        wrmsr(TSC_DEADLINE, deadline);
        halt_until(round);
        if AT.load(Ordering::Relaxed) < deadline || rdmsr(TSC_DEADLINE) != 0 {
            report.holds("no deadline interrupt is early", false);
        }
    }
    report.equal(
        "20 deadlines woke a halted CPU",
        (taken(), LAST.load(Ordering::Relaxed)),
        (20, u64::from(VECTOR)),
    );

    interrupts::disable();
    wrmsr(TSC_DEADLINE, now() + 1000);
    while now() < AT.load(Ordering::Relaxed) + 200_000 {}
    report.equal("with interrupts off nothing is delivered", taken(), 20);
    interrupts::enable();
    x86_64::instructions::nop();
    interrupts::disable();
    report.equal("what waited is delivered when they are on", taken(), 21);

    wrmsr(LVT_TIMER, ONE_SHOT | 0x41);
    wrmsr(DIVIDE, 0b1011);
    wrmsr(INITIAL_COUNT, 1000);
    report.holds(
        "the count goes down",
        (1..=1000).contains(&rdmsr(CURRENT_COUNT)),
    );
    halt_until(22);
    report.equal(
        "one-shot fires once",
        (LAST.load(Ordering::Relaxed), rdmsr(CURRENT_COUNT)),
        (0x41, 0),
    );

    wrmsr(LVT_TIMER, PERIODIC | 0x42);
    // Long enough for an interrupt to be served in, whatever the clock.
    wrmsr(INITIAL_COUNT, 20_000);
    halt_until(32);
    wrmsr(INITIAL_COUNT, 0);
    report.equal("periodic fires on", LAST.load(Ordering::Relaxed), 0x42);
    let before = taken();

    wrmsr(TASK_PRIORITY, 0x50);
    wrmsr(SELF_IPI, 0x45);
    interrupts::enable();
    x86_64::instructions::nop();
    interrupts::disable();
    report.equal("the task priority holds an interrupt back", taken(), before);
    wrmsr(TASK_PRIORITY, 0);
    interrupts::enable();
    x86_64::instructions::nop();
    interrupts::disable();
    report.equal(
        "a lower one lets it in",
        (taken(), LAST.load(Ordering::Relaxed)),
        (before + 1, 0x45),
    );
    report.equal(
        "every halt ends with its interrupt",
        WOKEN_BY_NOTHING.load(Ordering::Relaxed),
        0,
    );
    report.finish()
}
