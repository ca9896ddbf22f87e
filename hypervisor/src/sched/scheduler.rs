//! The loop of one CPU: choose a vCPU, put it on the CPU, run it until it waits.

use super::{
    pool::POOL,
    running::{self, Running},
    turns::Turns,
};
use crate::{
    cpu::{apic::Apic, tables::Tables, tsc},
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
        code, string_io,
        thread::{Thread, Waits},
    },
    xstate::layout::Layout,
};
use alloc::boxed::Box;

/// The CPU that listens to the operator.
pub(super) const FIRST_CPU: u16 = 0;
/// How often it listens while it has nothing else to do.
pub(super) const LISTEN_US: u64 = 10_000;

/// The scheduler of one CPU.
pub struct Scheduler {
    pub(super) index: u16,
    pub(super) cpu: Cpu,
    pub(super) apic: Apic,
    pub(super) tables: Tables,
    pub(super) layout: Layout,
    /// TSC ticks between two looks at the operator's keys.
    pub(super) listen: u64,
    /// The TSC when it last looked at it, and when it looks at the keys next.
    pub(super) now: u64,
    pub(super) listen_at: u64,
    /// The vCPU that is on the CPU: its VMCS is current, its registers are loaded.
    pub(super) current: Option<Box<Thread>>,
    /// Those that can run and have used up their slices, the one that waits longest
    /// first. What the CPU caches of them it keeps.
    pub(super) preempted: Turns<Box<Thread>>,
    /// VMs that had ended when this CPU last forgot translations.
    pub(super) forgotten: u64,
    /// How often this CPU answered the operator.
    pub(super) answered: u32,
    pub(super) running: Running,
}

/// Why a vCPU does not run again.
enum Stop {
    /// Its VM ends.
    Ends(End),
    /// Its VM has ended.
    Ended,
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::Ends(end)
    }
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
            now: tsc::now(),
            listen_at: 0,
            current: None,
            preempted: Turns::default(),
            forgotten: 0,
            answered: 0,
            running: Running::on(index),
        }
    }

    /// Runs vCPUs until the machine's last VM has ended, which ends the machine.
    pub fn run(mut self) -> ! {
        loop {
            match self.next() {
                Some(thread) => self.stay(thread),
                None if POOL.alive() == 0 => break,
                None => {}
            }
            if self.now >= self.listen_at {
                self.listen();
            }
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

    /// Runs `thread`, and those that take turns with it on this CPU, until something
    /// else matters.
    #[inline(never)]
    fn stay(&mut self, mut thread: Box<Thread>) {
        loop {
            match self.turn(&mut thread) {
                Ok(()) => {}
                Err(Stop::Ends(end)) => return self.end(thread, end),
                Err(Stop::Ended) => return self.retire(*thread),
            }
            let here = thread.can_run() && POOL.leaves(&thread, self.now);
            if !here || self.now >= self.listen_at {
                self.current = Some(thread);
                return;
            }
            if thread.budget == 0
                && let Err(end) = self.rotate(&mut thread)
            {
                return self.end(thread, end);
            }
        }
    }

    /// Puts the vCPU that waits longest on the CPU in the place of `thread`, if there
    /// is one.
    ///
    /// # Errors
    /// It has to end.
    #[inline(always)]
    fn rotate(&mut self, thread: &mut Box<Thread>) -> Result<(), End> {
        if let Some(outgoing) = self.preempted.exchange(thread).map(|of| &mut **of) {
            outgoing.ready_since = self.now;
            let (before, index) = (Some(&mut *outgoing.runner), self.index);
            let runner = &mut thread.runner;
            runner.switch_in(&mut self.cpu, index, &self.tables, before)?;
            self.running.set(thread);
        }
        Ok(())
    }

    /// Runs `thread` until it waits.
    ///
    /// # Errors
    /// It does not run again.
    fn turn(&mut self, thread: &mut Thread) -> Result<(), Stop> {
        let end = thread.begin_turn(self.now);
        let stop = self.run_until(thread, end);
        self.now = tsc::now();
        thread.budget = end.saturating_sub(self.now);
        stop
    }

    fn run_until(&mut self, thread: &mut Thread, end: u64) -> Result<(), Stop> {
        loop {
            let Some(deadline) = thread.undisturbed_until(self.now) else {
                self.settle(thread)?;
                if !thread.can_run() {
                    return Ok(());
                }
                continue;
            };
            thread.runner.begin_slice(self.now, end, deadline);
            thread.runner.run(&mut self.cpu);
            if matches!(thread.runner.leave(), Leave::SliceOver) {
                return Ok(());
            }
            self.serve(thread)?;
            self.now = tsc::now();
        }
    }

    /// Does what `thread` left its run loop for.
    #[inline(never)]
    fn serve(&mut self, thread: &mut Thread) -> Result<(), Stop> {
        match thread.runner.leave() {
            Leave::SliceOver | Leave::Notify => {}
            Leave::Interrupted => {
                if power::stopping() {
                    power::halt();
                }
                self.apic.end_of_interrupt();
                self.share();
            }
            Leave::Line => thread.vm.show_line(),
            Leave::Device(gpa) => code::access_device(thread, gpa)?,
            Leave::StringIo(access) => string_io::element(thread, access)?,
            Leave::Halted { interruptible } => {
                thread.vm.show_begun();
                thread.waits = Waits::Event { interruptible };
            }
            Leave::Grow(features) => {
                let runner = &mut thread.runner;
                runner.grow(&mut self.cpu, &self.layout, features)?;
            }
            Leave::Ended(end) => return Err(Stop::Ends(end)),
        }
        self.notify(thread);
        Ok(())
    }

    /// Brings `thread` up to date with what arrived for it: INIT and start-up IPIs,
    /// and whatever wakes it up.
    #[inline(never)]
    fn settle(&mut self, thread: &mut Thread) -> Result<(), Stop> {
        if thread.inbox.has_ended() {
            return Err(Stop::Ended);
        }
        // While it looks nobody may find the inbox empty and think that it sleeps on.
        thread.inbox.set_asleep(false);
        // What came before an INIT or a start-up IPI is forgotten with them.
        thread.runner.vcpu().collect(self.now);
        let signals = thread.inbox.take_signals();
        if signals.init {
            thread.runner.restart(&mut self.cpu, None)?;
            // SDM Vol. 3, "MP Initialization Protocol Algorithm": the boot processor
            // begins at the reset vector, the others wait.
            thread.waits = match thread.number {
                0 => Waits::Cpu,
                _ => Waits::StartUp,
            };
        }
        if let Some(page) = signals.start_up.filter(|_| thread.waits == Waits::StartUp) {
            thread.runner.restart(&mut self.cpu, Some(page))?;
            thread.waits = Waits::Cpu;
        }
        let vcpu = thread.runner.vcpu();
        if signals.external || vcpu.timer_is_due(self.now) {
            vcpu.look_at_legacy();
        }
        vcpu.attention = true;
        if let Waits::Event { interruptible } = thread.waits
            && thread.runner.vcpu().is_woken(interruptible)
        {
            thread.waits = Waits::Cpu;
        }
        match thread.tell() {
            false => Ok(()),
            true => Err(Stop::Ends(End::Fault(Fault::HaltedForEver))),
        }
    }

    /// Makes those look into their inboxes whom `thread` sent something.
    fn notify(&self, thread: &mut Thread) {
        let targets = core::mem::take(&mut thread.runner.vcpu().notify);
        self.notify_all(&thread.vm.peers, targets);
    }

    pub(super) fn notify_all(&self, peers: &Peers, targets: u64) {
        let inboxes = (0_u32..).zip(peers.inboxes());
        for (_, inbox) in inboxes.filter(|(number, _)| targets & 1 << number != 0) {
            let cpu = match inbox.place() {
                Some(cpu) => (cpu != self.index).then(|| POOL.apic_id(cpu)),
                None => {
                    POOL.wake(inbox.number());
                    POOL.idle_cpu(inbox.pinned())
                }
            };
            if let Some(cpu) = cpu {
                self.apic.notify(cpu);
            }
        }
    }
}
