//! Several CPUs of one VM: started by INIT and start-up IPIs, interrupted in every
//! form of IPI, halted and woken, and all of them with tiles of their own.
//!
//! `cpus=N` says how many, `rounds=N` for how long each computes at least, and
//! `until=N` until which TSC. Without tiles they compute with integers.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use guests::{
    apic, exceptions, payload,
    processor::{self, TILECFG, TILEDATA, cpuid, offered_xcr0, try_xsetbv, xcr0},
    report::Report,
    smp::{self, MOST_CPUS},
    start::number,
    tiles,
};
use x86_64::instructions::interrupts;

payload!(main);

const TILES: u64 = TILECFG | TILEDATA;
/// An interrupt for its own sake.
const CALL: u8 = 0x40;
/// One that is answered with [`PONG`] to the first CPU.
const PING: u8 = 0x51;
const PONG: u8 = 0x52;

/// What one CPU does and has seen.
struct Seen {
    starts: AtomicU32,
    interrupts: AtomicU32,
    nmis: AtomicU32,
    xcr0: AtomicU64,
    task: AtomicU32,
    done: AtomicU32,
    wrong: AtomicU64,
}

/// Tasks of a CPU.
const HALT: u32 = 0;
const COMPUTE: u32 = 1;
/// Turn round with interrupts off, for ever.
const SPIN: u32 = 2;

static SEEN: [Seen; MOST_CPUS] = [const {
    Seen {
        starts: AtomicU32::new(0),
        interrupts: AtomicU32::new(0),
        nmis: AtomicU32::new(0),
        xcr0: AtomicU64::new(0),
        task: AtomicU32::new(HALT),
        done: AtomicU32::new(0),
        wrong: AtomicU64::new(0),
    }
}; MOST_CPUS];
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static UNTIL: AtomicU64 = AtomicU64::new(0);

fn seen(id: u32) -> &'static Seen {
    &SEEN[id as usize]
}

fn handle(vector: u8) {
    let seen = seen(apic::id());
    if u64::from(vector) == exceptions::NMI {
        seen.nmis.fetch_add(1, SeqCst);
        return;
    }
    seen.interrupts.fetch_add(1, SeqCst);
    apic::end_of_interrupt();
    match vector {
        PING => apic::send(0, apic::FIXED | u64::from(PONG)),
        PONG => _ = seen.done.fetch_add(1, SeqCst),
        _ => {}
    }
}

/// What every CPU but the first does.
fn work(id: u32) -> ! {
    let seen = seen(id);
    seen.xcr0.store(xcr0(), SeqCst);
    seen.starts.fetch_add(1, SeqCst);
    loop {
        interrupts::disable();
        match seen.task.load(SeqCst) {
            COMPUTE => {
                interrupts::enable();
                compute(id);
                seen.task.store(HALT, SeqCst);
                seen.done.fetch_add(1, SeqCst);
            }
            SPIN => {
                seen.done.fetch_add(1, SeqCst);
                loop {
                    core::hint::spin_loop();
                }
            }
            _ => interrupts::enable_and_hlt(),
        }
    }
}

/// Computes, and counts what went wrong.
fn compute(id: u32) {
    let amx = offered_xcr0() & TILES == TILES;
    if try_xsetbv(0, offered_xcr0()) != exceptions::NONE {
        seen(id).wrong.fetch_add(1, SeqCst);
    }
    let mut round = 0;
    while round < ROUNDS.load(SeqCst) || apic::now() < UNTIL.load(SeqCst) {
        let right = if amx {
            in_tiles(id, round)
        } else {
            with_integers(u64::from(id) << 32 | round)
        };
        if !right {
            seen(id).wrong.fetch_add(1, SeqCst);
        }
        round += 1;
    }
    if amx {
        tiles::release();
    }
}

/// Multiplies in tiles, and keeps a pattern of this CPU's own in them.
fn in_tiles(id: u32, round: u64) -> bool {
    let seed = (id * 37 + round as u32) as u8;
    tiles::load_all(seed);
    for _ in 0..200 * (id + 1) {
        core::hint::spin_loop();
    }
    let held = tiles::all_hold(seed);
    tiles::multiply_int8();
    tiles::load_all(!seed);
    processor::cpuid(0, 0);
    held && tiles::all_hold(!seed)
}

/// Takes a number through a permutation and back again.
fn with_integers(start: u64) -> bool {
    const STEPS: u32 = 1000;
    const FACTOR: u64 = 6_364_136_223_846_793_005;
    let inverse = (0..6).fold(FACTOR, |inverse: u64, _| {
        // Newton's iteration modulo 2^64.
        inverse.wrapping_mul(2_u64.wrapping_sub(FACTOR.wrapping_mul(inverse)))
    });
    let there = (0..STEPS).fold(start, |value, _| value.wrapping_mul(FACTOR).wrapping_add(1));
    processor::cpuid(0, 0);
    let back = (0..STEPS).fold(there, |value, _| {
        value.wrapping_sub(1).wrapping_mul(inverse)
    });
    core::hint::black_box(there) != start && back == start
}

/// Waits until `done`, halting; `false` if that takes too long.
fn wait(done: impl Fn() -> bool) -> bool {
    /// Far more than anything here takes, and the machine's own limit is behind it.
    const PATIENCE: u64 = 4_000_000_000;
    const TICK: u8 = 0x30;
    let end = apic::now().max(UNTIL.load(SeqCst)) + PATIENCE;
    loop {
        interrupts::disable();
        if done() {
            return true;
        }
        if apic::now() > end {
            return false;
        }
        // Halted, so that others can run where CPUs are few.
        apic::arm_timer(TICK, 100_000);
        interrupts::enable_and_hlt();
    }
}

fn main(command_line: &'static str) -> ! {
    let mut report = Report::default();
    let cpus = number(command_line, "cpus", 2) as u32;
    ROUNDS.store(number(command_line, "rounds", 100), SeqCst);
    UNTIL.store(number(command_line, "until", 0), SeqCst);
    let others = 1..cpus;
    let each = |check: &dyn Fn(&Seen) -> bool| others.clone().all(|id| check(seen(id)));
    exceptions::on_interrupt(handle);
    processor::enable_osxsave();
    apic::enable();
    smp::prepare(work);

    report.equal("leaf 0xB counts the CPUs", cpuid(0xb, 1).ebx, cpus);
    report.equal("the first CPU has APIC ID 0", apic::id(), 0);
    apic::send(0, apic::OTHERS | apic::NMI);
    for id in others.clone() {
        smp::start_up(id);
    }
    report.holds(
        "a start-up IPI without INIT starts those that wait",
        wait(|| each(&|seen| seen.starts.load(SeqCst) == 1)),
    );
    report.holds(
        "an NMI does not reach a CPU that waits to be started",
        each(&|seen| seen.nmis.load(SeqCst) == 0),
    );
    report.holds(
        "a CPU begins with XCR0 = 1",
        each(&|seen| seen.xcr0.load(SeqCst) == 1),
    );

    let interrupted = |count| each(&|seen| seen.interrupts.load(SeqCst) == count);
    let own = || seen(0).interrupts.load(SeqCst);
    for id in others.clone() {
        apic::send(id, apic::FIXED | u64::from(CALL));
    }
    report.holds("fixed, physical, to each", wait(|| interrupted(1)));
    apic::send(0, apic::OTHERS | apic::FIXED | u64::from(CALL));
    report.holds("fixed, all but self", wait(|| interrupted(2)));
    let before = own();
    apic::send(0, apic::ALL | apic::FIXED | u64::from(CALL));
    report.holds("fixed, all", wait(|| interrupted(3) && own() > before));
    let logical = (1_u32 << cpus) - 2;
    apic::send(logical, apic::LOGICAL | apic::FIXED | u64::from(CALL));
    report.holds("fixed, logical", wait(|| interrupted(4)));
    apic::send(u32::MAX, apic::NMI);
    report.holds(
        "NMI to all wakes halted CPUs",
        wait(|| each(&|seen| seen.nmis.load(SeqCst) == 1) && seen(0).nmis.load(SeqCst) == 1),
    );
    report.holds("no IPI came twice", interrupted(4));

    let mut answered = 0;
    for round in 1..=50 {
        apic::send(1, apic::FIXED | u64::from(PING));
        answered += u32::from(wait(|| seen(0).done.load(SeqCst) == round));
    }
    report.equal("pings that were answered", answered, 50);

    for id in others.clone() {
        seen(id).task.store(COMPUTE, SeqCst);
        apic::send(id, apic::FIXED | u64::from(CALL));
    }
    interrupts::enable();
    compute(0);
    report.holds(
        "every CPU has computed",
        wait(|| each(&|seen| seen.done.load(SeqCst) == 1)),
    );
    let wrong = (0..cpus).map(|id| seen(id).wrong.load(SeqCst)).sum::<u64>();
    report.equal("rounds with a wrong result", wrong, 0);

    let first = seen(1);
    first.task.store(SPIN, SeqCst);
    apic::send(1, apic::FIXED | u64::from(CALL));
    report.holds(
        "one turns round with interrupts off",
        wait(|| first.done.load(SeqCst) == 2),
    );
    apic::send(1, apic::NMI);
    report.holds("an NMI reaches it", wait(|| first.nmis.load(SeqCst) == 2));
    first.task.store(HALT, SeqCst);
    smp::start(1);
    report.holds(
        "INIT and a start-up IPI start it again",
        wait(|| first.starts.load(SeqCst) == 2),
    );
    report.equal("INIT keeps XCR0", first.xcr0.load(SeqCst), offered_xcr0());
    let count = first.interrupts.load(SeqCst);
    apic::send(1, apic::FIXED | u64::from(CALL));
    report.holds(
        "and it takes interrupts",
        wait(|| first.interrupts.load(SeqCst) == count + 1),
    );
    report.finish()
}
