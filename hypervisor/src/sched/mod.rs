//! Which vCPU runs on this CPU now, and what does the CPU do when none can?
//!
//! Every CPU has a scheduler of its own, and all take their work from one pool: a
//! CPU whose slice is over takes the VM that waited longest, if one may run here,
//! and puts its own back. A VM so goes to whichever CPU has time for it. The pool's
//! lock is held for a look into the queue, never while anything runs.

use crate::{
    cpu::{tables::Tables, tsc},
    platform::{
        console,
        power::{self, Verdict},
    },
    vcpu::{
        outcome::{End, Leave},
        run::Cpu,
    },
    vm::{Vm, report},
    vmx::root,
    xstate::layout::Layout,
};
use alloc::{boxed::Box, collections::VecDeque};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use spin::Mutex;
use x86_64::instructions::{hlt, interrupts};

/// The operator's key for "what is running?", as on BSD's terminals (SIGINFO).
const STATUS_KEY: u8 = 0x14;
/// The CPU that listens to the operator.
const FIRST_CPU: u16 = 0;

/// The VMs of the machine that are on no CPU.
pub struct Pool {
    /// The one that waited longest first.
    queue: Mutex<VecDeque<Box<Vm>>>,
    /// How many are in the queue: a CPU with nothing to do looks here and leaves
    /// the lock alone.
    waiting: AtomicUsize,
    /// VMs that have not ended, wherever they are.
    alive: AtomicUsize,
    /// A VM could not be made, or ended otherwise than with success.
    failed: AtomicBool,
    /// How often the operator asked what is running.
    asked: AtomicU32,
}

/// The machine's pool.
pub static POOL: Pool = Pool {
    queue: Mutex::new(VecDeque::new()),
    waiting: AtomicUsize::new(0),
    alive: AtomicUsize::new(0),
    failed: AtomicBool::new(false),
    asked: AtomicU32::new(0),
};

impl Pool {
    /// Takes in a VM that was created.
    pub fn add(&self, vm: Box<Vm>) {
        self.alive.fetch_add(1, Ordering::Relaxed);
        self.give_back(vm);
    }

    /// Counts a VM that could not be created as failed.
    pub fn count_failure(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// The VM that CPU `index` should run in the place of `current`: the one that
    /// waited longest of those that can run now, else the one that can first.
    /// `None`: `current` goes on, or there is nothing.
    fn take(&self, index: u16, current: Option<&mut Box<Vm>>) -> Option<Box<Vm>> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let now = tsc::now();
        let mut queue = self.queue.lock();
        let (mut best, mut soonest) = (None, current.map_or(u64::MAX, |vm| vm.wake().max(now + 1)));
        for (place, vm) in queue.iter_mut().enumerate() {
            let allowed = vm.pinned.is_none_or(|cpu| cpu == u32::from(index));
            let wake = vm.wake().max(now);
            if allowed && wake < soonest {
                (best, soonest) = (Some(place), wake);
            }
        }
        let vm = queue.remove(best?);
        self.waiting.store(queue.len(), Ordering::Release);
        vm
    }

    fn give_back(&self, vm: Box<Vm>) {
        let mut queue = self.queue.lock();
        queue.push_back(vm);
        self.waiting.store(queue.len(), Ordering::Release);
    }
}

/// The scheduler of one CPU.
pub struct Scheduler {
    index: u16,
    cpu: Cpu,
    tables: Tables,
    layout: Layout,
    /// The VM whose vCPU is on the CPU: its VMCS is current, its registers are
    /// loaded.
    current: Option<Box<Vm>>,
    /// How often this CPU answered the operator.
    answered: u32,
}

impl Scheduler {
    /// A scheduler of the CPU it runs on, number `index`.
    pub fn new(index: u16, cpu: Cpu, tables: Tables, layout: Layout) -> Self {
        Self {
            index,
            cpu,
            tables,
            layout,
            current: None,
            answered: 0,
        }
    }

    /// Runs VMs until the machine's last has ended, which ends the machine.
    pub fn run(mut self) -> ! {
        while POOL.alive.load(Ordering::Acquire) > 0 {
            match self.next() {
                Some(mut vm) => {
                    let end = match vm.wake() > tsc::now() {
                        false => self.run_slice(&mut vm),
                        true => self.idle(&mut vm),
                    };
                    match end {
                        None => self.current = Some(vm),
                        Some(end) => self.end(vm, end),
                    }
                }
                None => core::hint::spin_loop(),
            }
            self.listen();
        }
        if self.index != FIRST_CPU {
            halt();
        }
        power::end(match POOL.failed.load(Ordering::Relaxed) {
            false => Verdict::Success,
            true => Verdict::Failure,
        })
    }

    /// The VM whose turn it is, on the CPU.
    fn next(&mut self) -> Option<Box<Vm>> {
        loop {
            let Some(mut vm) = POOL.take(self.index, self.current.as_mut()) else {
                return self.current.take();
            };
            let mut outgoing = self.current.take();
            let before = outgoing.as_mut().map(|vm| &mut *vm.runner);
            let switched = vm
                .runner
                .switch_in(&mut self.cpu, self.index, &self.tables, before);
            if let Some(mut outgoing) = outgoing {
                outgoing.runner.leave_cpu();
                POOL.give_back(outgoing);
            }
            match switched {
                Ok(()) => return Some(vm),
                Err(end) => self.end(vm, end),
            }
        }
    }

    /// Lets the CPU halt until `vm`, the first that can run again, can.
    fn idle(&mut self, vm: &mut Vm) -> Option<End> {
        // Not longer than a slice, for the sake of the operator and other VMs.
        let until = vm.wake().min(tsc::now().wrapping_add(vm.slice));
        vm.runner.idle(&mut self.cpu, until);
        None
    }

    /// Runs `vm` until its slice is over or it ended.
    fn run_slice(&mut self, vm: &mut Vm) -> Option<End> {
        vm.halted = false;
        vm.runner.begin_slice(vm.slice);
        loop {
            match vm.runner.run(&mut self.cpu) {
                Leave::SliceOver | Leave::Interrupted => return None,
                Leave::Line => vm.show_line(),
                Leave::Halted => {
                    vm.halted = true;
                    return None;
                }
                Leave::Grow(features) => {
                    if let Err(end) = vm.runner.grow(&mut self.cpu, &self.layout, features) {
                        return Some(end);
                    }
                }
                Leave::Ended(end) => return Some(end),
            }
        }
    }

    /// Reports the end of `vm` and gives back what it had.
    fn end(&mut self, mut vm: Box<Vm>, end: End) {
        vm.show_rest();
        report::ended(&mut vm, end);
        if !end.is_success() {
            POOL.count_failure();
        }
        drop(vm);
        root::forget_guest_translations();
        POOL.alive.fetch_sub(1, Ordering::Release);
    }

    /// Looks whether the operator asks what is running, and answers for the VM on
    /// this CPU; the first CPU also for those that wait.
    fn listen(&mut self) {
        if self.index == FIRST_CPU && console::key() == Some(STATUS_KEY) {
            POOL.asked.fetch_add(1, Ordering::Relaxed);
            for vm in POOL.queue.lock().iter_mut() {
                report::status(vm);
                vm.runner.leave_cpu();
            }
        }
        let asked = POOL.asked.load(Ordering::Relaxed);
        if asked != self.answered {
            self.answered = asked;
            // After the others, because a report makes the VM's VMCS current.
            if let Some(vm) = &mut self.current {
                report::status(vm);
            }
        }
    }
}

/// Halts this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}
