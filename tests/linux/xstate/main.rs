//! Extended state as programs of a Linux guest see it. Prints one line a check, and
//! `N passed, N failed` as the last; with `no-amx` it expects a VM without permission.

#![expect(unsafe_code, reason = "tile instructions and system calls")]

mod system;
mod tiles;

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
};
use system::{Fate, fate_of, request_permission};
use tiles::{hold, load_all, multiply_bf16, multiply_int8};

/// Threads with tiles of their own, and how often each gives its CPU away.
const THREADS: u8 = 16;
const YIELDS: u32 = 1000;
/// How often a thread goes to another vCPU.
const MOVES: usize = 200;

#[derive(Default)]
struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    fn check(&mut self, what: &str, holds: bool) {
        match holds {
            true => self.passed += 1,
            false => self.failed += 1,
        }
        println!("{} {what}", if holds { "ok" } else { "not ok" });
    }
}

fn main() {
    let mut report = Report::default();
    if std::env::args().any(|argument| argument == "no-amx") {
        without_amx(&mut report);
    } else {
        with_amx(&mut report);
    }
    println!("{} passed, {} failed", report.passed, report.failed);
    std::process::exit(i32::from(report.failed > 0));
}

fn without_amx(report: &mut Report) {
    report.check("CPUID shows no AMX", !tiles::offered());
    report.check(
        "the kernel refuses permission for tiles",
        request_permission().is_err(),
    );
    report.check(
        "a tile instruction is an invalid opcode",
        fate_of(|| load_all(1)) == Fate::Signal(libc::SIGILL),
    );
}

fn with_amx(report: &mut Report) {
    report.check("CPUID shows AMX", tiles::offered());
    report.check(
        "without permission a tile instruction ends in SIGILL",
        fate_of(|| load_all(1)) == Fate::Signal(libc::SIGILL),
    );
    report.check("the kernel gives permission", request_permission().is_ok());
    report.check("int8 products are right", multiply_int8());
    report.check("bf16 products are right", multiply_bf16());
    threads(report);
    let cpus = system::cpus();
    if cpus > 1 {
        report.check("tiles go with a thread from vCPU to vCPU", moves(cpus));
    }
    report.check("tiles survive a signal handler that uses them", signals());
    report.check("a child has tiles of its own", fork());
    report.check(
        "a tracer reads the tiles of a stopped child",
        system::ptrace_sees_tiles(),
    );
}

/// More threads than CPUs: every switch exchanges tiles, and some threads move.
fn threads(report: &mut Report) {
    let (wrong, barrier) = (AtomicU32::new(0), Barrier::new(usize::from(THREADS)));
    let before = system::context_switches();
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (wrong, barrier) = (&wrong, &barrier);
            scope.spawn(move || {
                barrier.wait();
                load_all(seed);
                for _ in 0..YIELDS {
                    thread::yield_now();
                    if !hold(seed) {
                        wrong.fetch_add(1, SeqCst);
                        load_all(seed);
                    }
                }
                tiles::release();
            });
        }
    });
    let switches = system::context_switches() - before;
    println!("{switches} context switches of {THREADS} threads");
    report.check("at least 10000 context switches", switches >= 10_000);
    report.check("no tile of a thread has changed", wrong.load(SeqCst) == 0);
}

/// Whether a thread keeps its tiles on its way over all vCPUs, many times.
fn moves(cpus: usize) -> bool {
    load_all(0x55);
    let kept = (0..MOVES).all(|turn| system::go_to(turn % cpus) && hold(0x55));
    tiles::release();
    kept
}

/// Whether tiles are as they were after a handler has used them.
fn signals() -> bool {
    extern "C" fn handler(_: libc::c_int) {
        load_all(0xee);
    }
    if !system::on_signal(libc::SIGUSR1, handler) {
        return false;
    }
    load_all(0x11);
    (0..100).all(|_| {
        // SAFETY: the handler was installed.
        unsafe { libc::raise(libc::SIGUSR1) };
        hold(0x11)
    })
}

/// Whether a child that changes its tiles leaves those of its parent alone.
fn fork() -> bool {
    load_all(0x22);
    let child = fate_of(|| {
        load_all(0x33);
        if !hold(0x33) {
            std::process::abort();
        }
    });
    child == Fate::Exit(0) && hold(0x22)
}
