//! Which vCPU runs on this CPU now, and what does the CPU do when none can?
//!
//! Every CPU has a scheduler of its own, and all take their work from one pool. A
//! vCPU runs for a slice; what it did not use when it halts it may use when it
//! wakes up, ahead of those that have used theirs up. So a vCPU that wakes up runs
//! within one slice, and one that never halts still gets its turn.

mod operator;
mod pool;
mod running;

use crate::{
    cpu::{apic::Apic, exceptions, tables::Tables, tsc},
    platform::{
        backtrace,
        power::{self, Verdict},
    },
    vcpu::{
        outcome::{End, Fault, Leave},
        peers::Peers,
        run::Cpu,
    },
    vm::{
        code,
        create::FACTORY,
        report, string_io,
        thread::{Thread, Waits},
    },
    vmx::root,
    xstate::layout::Layout,
};
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::Ordering;
use pool::Turn;
pub use pool::{MOST_CPUS, POOL};

/// The CPU that listens to the operator.
const FIRST_CPU: u16 = 0;
/// How often it listens while it has nothing else to do.
const LISTEN_US: u64 = 10_000;

/// The scheduler of one CPU.
pub struct Scheduler {
    index: u16,
    cpu: Cpu,
    apic: Apic,
    tables: Tables,
    layout: Layout,
    /// TSC ticks between two looks at the operator's keys.
    listen: u64,
    /// The vCPU that is on the CPU: its VMCS is current, its registers are loaded.
    current: Option<Box<Thread>>,
    /// VMs that had ended when this CPU last forgot translations.
    forgotten: u64,
    /// How often this CPU answered the operator.
    answered: u32,
}

/// How a vCPU's turn ended.
enum Stop {
    /// It waits, for the CPU or something else.
    Waits,
    /// Its VM ends.
    Ends(End),
    /// Its VM has ended.
    Ended,
}

impl Scheduler {
    /// A scheduler of the CPU it runs on, number `index`.
    pub fn new(
        index: u16,
        cpu: Cpu,
        apic: Apic,
        tables: Tables,
        layout: Layout,
        ticks_per_us: u64,
    ) -> Self {
        POOL.join(index, apic.id());
        backtrace::WHAT.call_once(|| running::report);
        Self {
            index,
            cpu,
            apic,
            tables,
            layout,
            listen: LISTEN_US * ticks_per_us,
            current: None,
            forgotten: 0,
            answered: 0,
        }
    }

    /// Runs vCPUs until the machine's last VM has ended, which ends the machine.
    pub fn run(mut self) -> ! {
        while POOL.alive() > 0 {
            if let Some(mut thread) = self.next() {
                match self.turn(&mut thread) {
                    Stop::Waits => self.current = Some(thread),
                    Stop::Ends(end) => self.end(thread, end),
                    Stop::Ended => self.retire(thread),
                }
            }
            self.listen();
        }
        if self.index != FIRST_CPU {
            power::halt();
        }
        power::stop_others();
        power::end(match POOL.has_failed() {
            false => Verdict::Success,
            true => Verdict::Failure,
        })
    }

    /// The vCPU whose turn it is, on the CPU; `None` after a halt, or for a look
    /// around.
    fn next(&mut self) -> Option<Box<Thread>> {
        let mut turn = POOL.next(self.index, self.current.as_deref_mut());
        if let Turn::Idle { .. } = turn {
            // Whoever makes a vCPU ready from here on sees that this CPU is idle.
            POOL.set_idle(self.index, true);
            turn = POOL.next(self.index, self.current.as_deref_mut());
            if let Turn::Idle { until } = turn {
                self.halt(until);
            }
            POOL.set_idle(self.index, false);
        }
        match turn {
            Turn::Idle { .. } => None,
            Turn::Current => self.current.take(),
            Turn::Other(thread) => self.switch_to(thread),
        }
    }

    /// Halts until the TSC is `until`, a notification comes, or it is time to
    /// listen to the operator.
    fn halt(&self, until: Option<u64>) {
        let look = (self.index == FIRST_CPU).then(|| tsc::now() + self.listen);
        let until = until.into_iter().chain(look).min();
        self.apic.set_timer(until);
        exceptions::wait_for_interrupt();
        self.apic.end_of_interrupt();
        self.apic.set_timer(None);
    }

    /// Puts `thread` on the CPU in the place of the current one.
    fn switch_to(&mut self, mut thread: Box<Thread>) -> Option<Box<Thread>> {
        self.forget_ended();
        let mut outgoing = self.current.take();
        let before = outgoing.as_mut().map(|thread| &mut *thread.runner);
        let switched = thread
            .runner
            .switch_in(&mut self.cpu, self.index, &self.tables, before);
        if let Some(mut outgoing) = outgoing {
            // Only where the swap was refused has it not been saved yet; and then it
            // is in this CPU's registers.
            let parked = self.cpu.park(&mut outgoing.runner.vcpu().xstate);
            outgoing.runner.leave_cpu();
            match parked {
                Ok(()) => self.give_back(outgoing),
                Err(_) => self.end(outgoing, End::Fault(Fault::XstateLost)),
            }
        }
        match switched {
            Ok(()) => {
                self.place(&thread, Some(self.index));
                Some(thread)
            }
            Err(end) => {
                self.end(thread, end);
                None
            }
        }
    }

    fn give_back(&self, thread: Box<Thread>) {
        self.place(&thread, None);
        if let Some(cpu) = POOL.give_back(thread) {
            self.apic.notify(cpu);
        }
    }

    fn place(&self, thread: &Thread, cpu: Option<u16>) {
        if let Some(inbox) = thread.vm.peers.inbox(thread.number) {
            inbox.set_place(cpu);
        }
    }

    /// Runs `thread` until it waits or ends.
    fn turn(&mut self, thread: &mut Thread) -> Stop {
        let now = tsc::now();
        thread.begin_turn(now);
        if thread.budget == 0 {
            thread.budget = thread.vm.slice;
        }
        let end = now.wrapping_add(thread.budget);
        running::set(self.index, thread);
        let stop = self.run_until(thread, end);
        running::clear(self.index);
        thread.budget = end.saturating_sub(tsc::now());
        stop
    }

    fn run_until(&mut self, thread: &mut Thread, end: u64) -> Stop {
        loop {
            if thread.vm.has_ended() {
                return Stop::Ended;
            }
            if let Err(end) = self.settle(thread) {
                return Stop::Ends(end);
            }
            if thread.waits != Waits::Cpu {
                return Stop::Waits;
            }
            thread.runner.begin_slice(end);
            let leave = thread.runner.run(&mut self.cpu);
            self.notify(thread);
            match leave {
                Leave::SliceOver => return Stop::Waits,
                Leave::Interrupted => {
                    if power::stopping() {
                        power::halt();
                    }
                    self.apic.end_of_interrupt();
                }
                Leave::Notify => {}
                Leave::Line => thread.vm.show_line(),
                Leave::Device(gpa) => {
                    if let Err(end) = code::access_device(thread, gpa) {
                        return Stop::Ends(end);
                    }
                    self.notify(thread);
                }
                Leave::StringIo(access) => {
                    if let Err(end) = string_io::element(thread, access) {
                        return Stop::Ends(end);
                    }
                    self.notify(thread);
                }
                Leave::Halted { interruptible } => {
                    thread.vm.show_begun();
                    return match thread.wait_for(Waits::Event { interruptible }) {
                        false => Stop::Waits,
                        true => Stop::Ends(End::Fault(Fault::HaltedForEver)),
                    };
                }
                Leave::Grow(features) => {
                    let grown = thread.runner.grow(&mut self.cpu, &self.layout, features);
                    if let Err(end) = grown {
                        return Stop::Ends(end);
                    }
                }
                Leave::Ended(end) => return Stop::Ends(end),
            }
        }
    }

    /// Brings `thread` up to date with what arrived for it: INIT and start-up IPIs,
    /// and whatever wakes it up.
    fn settle(&mut self, thread: &mut Thread) -> Result<(), End> {
        let Some(inbox) = thread.vm.peers.inbox(thread.number) else {
            return Ok(());
        };
        let signals = inbox.take_signals();
        if signals.init {
            thread.runner.restart(&mut self.cpu, None)?;
            // SDM Vol. 3, "MP Initialization Protocol Algorithm": the boot processor
            // begins at the reset vector, the others wait.
            let waits = match thread.number {
                0 => Waits::Cpu,
                _ => Waits::StartUp,
            };
            if thread.wait_for(waits) && signals.start_up.is_none() {
                return Err(End::Fault(Fault::HaltedForEver));
            }
        }
        if let Some(page) = signals.start_up.filter(|_| thread.waits == Waits::StartUp) {
            thread.runner.restart(&mut self.cpu, Some(page))?;
            thread.wait_for(Waits::Cpu);
        }
        let vcpu = thread.runner.vcpu();
        if signals.external || vcpu.timer_is_due(tsc::now()) {
            vcpu.look_at_legacy();
        }
        if let Waits::Event { interruptible } = thread.waits {
            let vcpu = thread.runner.vcpu();
            vcpu.collect(tsc::now());
            if vcpu.is_woken(interruptible) {
                thread.wait_for(Waits::Cpu);
            }
        }
        Ok(())
    }

    /// Makes those look into their inboxes whom `thread` sent something.
    fn notify(&self, thread: &mut Thread) {
        let targets = core::mem::take(&mut thread.runner.vcpu().notify);
        self.notify_all(&thread.vm.peers, targets);
    }

    fn notify_all(&self, peers: &Peers, targets: u64) {
        let inboxes = (0_u32..).zip(peers.inboxes());
        for (_, inbox) in inboxes.filter(|(number, _)| targets & 1 << number != 0) {
            let cpu = match inbox.place() {
                Some(cpu) => (cpu != self.index).then(|| POOL.apic_id(cpu)),
                None => POOL.idle_cpu(inbox.pinned()),
            };
            if let Some(cpu) = cpu {
                self.apic.notify(cpu);
            }
        }
    }

    /// Ends the VM of `thread`.
    fn end(&mut self, mut thread: Box<Thread>, end: End) {
        let vm = thread.vm.clone();
        if !vm.ended.swap(true, Ordering::AcqRel) {
            vm.show_begun();
            report::ended(&mut thread, end);
            vm.resets.store(end == End::Reset, Ordering::Release);
            if !end.is_success() {
                POOL.count_failure();
            }
            POOL.hang_up(vm.number);
            for waiting in POOL.remove(&vm) {
                self.retire(waiting);
            }
            let places = vm.peers.inboxes().iter().filter_map(|inbox| inbox.place());
            for cpu in places.filter(|cpu| *cpu != self.index) {
                self.apic.notify(POOL.apic_id(cpu));
            }
        }
        drop(vm);
        self.retire(thread);
    }

    /// Takes off a vCPU whose VM has ended. With the last one the VM's memory is
    /// given back.
    fn retire(&mut self, thread: Box<Thread>) {
        self.place(&thread, None);
        let Thread {
            mut runner,
            vm,
            turns,
            longest_wait,
            ..
        } = *thread;
        {
            let mut totals = vm.totals.lock();
            totals.counters.add(&runner.vcpu().counters);
            totals.moves += runner.moves();
            totals.turns += turns;
            totals.container = totals.container.max(runner.vcpu().xstate.bytes());
            totals.longest_wait = totals.longest_wait.max(longest_wait);
        }
        drop(runner);
        if let Some(vm) = Arc::into_inner(vm) {
            report::totals(&vm, self.listen / LISTEN_US);
            let again = vm.resets.load(Ordering::Acquire).then_some(vm.number);
            drop(vm);
            if let Some(number) = again {
                self.begin_again(number);
            }
            if POOL.count_end() == 0 && self.index != FIRST_CPU {
                self.apic.notify(POOL.apic_id(FIRST_CPU));
            }
        }
    }

    /// Makes VM `number` of the bundle once more.
    fn begin_again(&mut self, number: usize) {
        // Its tables may lie where the old ones lay.
        POOL.count_given_back();
        match FACTORY.get().and_then(|factory| factory.make(number)) {
            Some(threads) => POOL.add(threads),
            None => POOL.count_failure(),
        }
        if let Some(cpu) = POOL.idle_cpu(None) {
            self.apic.notify(cpu);
        }
    }

    /// Forgets what this CPU cached of guests, if tables were given back since it
    /// last did: their frames may be another VM's tables by now.
    fn forget_ended(&mut self) {
        let ended = POOL.ended();
        if self.forgotten != ended {
            self.forgotten = ended;
            root::forget_guest_translations();
        }
    }
}
