//! All CPUs but the first: started one by one, each on a stack of its own, and
//! then like the first in its scheduler's loop.

use super::{cpu, trampoline};
use crate::{
    cpu::{
        apic::{self, Apic},
        tables::InterruptStacks,
        tsc,
    },
    memory::{address::Hpa, host::Host},
    platform::power::halt,
    say,
    sched::MOST_CPUS,
};
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use raw_cpuid::CpuIdReaderNative;
use spin::Mutex;
use x86_64::VirtAddr;

/// How long CPUs take to reset (SDM Vol. 3, "Typical BSP Initialization Sequence").
const RESET_US: u64 = 10_000;
/// Between two start-up IPIs, for CPUs that lose the first (same place).
const START_UP_US: u64 = 200;
/// A CPU that has not answered by then is left out.
const PATIENCE_US: u64 = 200_000;

/// Top of the stack of the CPU that starts next.
static STACK: AtomicU64 = AtomicU64::new(0);
/// What else it needs.
static STARTING: Mutex<Option<(u16, InterruptStacks)>> = Mutex::new(None);
/// The CPU that began last.
static STARTED: AtomicU16 = AtomicU16::new(0);
/// CPUs that were taken over.
static ONLINE: AtomicU16 = AtomicU16::new(0);
/// The CPU that was taken over, or left out, last.
static DONE: AtomicU16 = AtomicU16::new(0);

/// Where the trampoline's page goes on.
pub fn go_on(root: Hpa) -> trampoline::GoOn {
    trampoline::GoOn {
        root,
        stack_slot: VirtAddr::from_ptr(&raw const STACK),
        entry: begin,
    }
}

/// Starts the CPUs with these APIC IDs, but for the one that this runs on; the
/// trampoline lies at `page`. Those that do not answer are left out.
pub fn start_all(ids: &[u32], apic: Apic, page: Hpa, host: &mut Host) {
    if ids.len() < 2 {
        return;
    }
    let ticks_per_us = tsc::ticks_per_microsecond(&CpuIdReaderNative);
    let wait = |microseconds: u64, until: &dyn Fn() -> bool| {
        let end = tsc::now().wrapping_add(microseconds * ticks_per_us);
        while tsc::now() < end && !until() {
            core::hint::spin_loop();
        }
    };
    let own = apic.id();
    apic.reset_others();
    wait(RESET_US, &|| false);
    // Below 1 MiB, so the number of its page fits.
    let page = (page.0 >> 12) as u8;
    for (index, &id) in (1_u16..).zip(ids.iter().filter(|id| **id != own)) {
        if usize::from(index) >= MOST_CPUS {
            say!("CPU {index} (APIC {id}) is left out: {MOST_CPUS} CPUs can be used");
            continue;
        }
        let (stacks, stack) = match (cpu::interrupt_stacks(host), host.stack()) {
            (Ok(stacks), Ok(stack)) => (stacks, stack),
            (Err(error), _) | (_, Err(error)) => {
                say!("CPU {index} (APIC {id}) is left out: {error}");
                continue;
            }
        };
        *STARTING.lock() = Some((index, stacks));
        STACK.store(stack.as_u64(), Ordering::Release);
        let began = || STARTED.load(Ordering::Acquire) == index;
        for _ in 0..2 {
            apic.start_up(id, page);
            wait(START_UP_US, &began);
        }
        wait(PATIENCE_US, &|| DONE.load(Ordering::Acquire) == index);
        if !began() {
            say!("CPU {index} (APIC {id}) does not answer and is left out");
        }
    }
    say!("{} CPUs", ONLINE.load(Ordering::Acquire) + 1);
}

/// The first function of a started CPU.
extern "C" fn begin() -> ! {
    let Some((index, stacks)) = STARTING.lock().take() else {
        // Started twice: the first start took what there was.
        halt()
    };
    STARTED.store(index, Ordering::Release);
    let Some(apic) = apic::machine() else { halt() };
    match cpu::own(index, apic, &stacks) {
        Ok(owned) => {
            ONLINE.fetch_add(1, Ordering::Release);
            DONE.store(index, Ordering::Release);
            owned.scheduler.run()
        }
        Err(error) => {
            say!("CPU {index} is left out: {error}");
            DONE.store(index, Ordering::Release);
            halt()
        }
    }
}
