//! Which vCPU runs next, and how it gets onto the CPU in the place of another.

use super::{
    pool::POOL,
    scheduler::{FIRST_CPU, Scheduler},
};
use crate::{
    cpu::{
        exceptions,
        tsc::{self, NEVER},
    },
    vcpu::outcome::{End, Fault},
    vm::thread::{NOW, Thread},
};
use alloc::boxed::Box;

impl Scheduler {
    /// The vCPU whose turn it is, on the CPU; `None` after a halt.
    pub(super) fn next(&mut self) -> Option<Box<Thread>> {
        let mut next = self.look();
        if next.is_err() {
            // Whoever makes a vCPU ready from here on sees that this CPU is idle.
            POOL.set_idle(self.index, true);
            if let Some(cpu) = POOL.crowded_cpu() {
                self.apic.notify(cpu);
            }
            next = self.look();
            if let Err(until) = next
                && POOL.alive() > 0
            {
                self.halt(until);
            }
            POOL.set_idle(self.index, false);
        }
        let thread = match next {
            Ok(Some(thread)) => self.switch_to(thread),
            Ok(None) => self.current.take(),
            Err(_) => None,
        };
        let is_crowded = self.preempted.iter().any(|thread| thread.may_move());
        POOL.set_crowded(self.index, is_crowded);
        if is_crowded {
            self.share();
        }
        thread
    }

    /// What is to run: another vCPU, or the current one (`None`). First come those of the pool
    /// that woke up with some of their slice left, then the current one if it has some,
    /// then the one that waits longest, then the current one.
    ///
    /// # Errors
    /// None can; the TSC at which one can.
    fn look(&mut self) -> Result<Option<Box<Thread>>, u64> {
        self.now = tsc::now();
        let (at, budget) = match &mut self.current {
            Some(thread) => (thread.ready_at(self.now), thread.budget),
            None => (NEVER, 0),
        };
        let goes_on = at == NOW && budget > 0;
        let spent_before = match self.preempted.first() {
            _ if goes_on => NOW,
            Some(first) => first.ready_since,
            None => NEVER,
        };
        match POOL.take(self.index, self.now, spent_before) {
            Ok(thread) => {
                thread.inbox.set_place(Some(self.index));
                Ok(Some(thread))
            }
            Err(_) if goes_on => Ok(None),
            Err(until) => match self.preempted.pop_first(|_| true) {
                Some(thread) => Ok(Some(thread)),
                None if at == NOW => Ok(None),
                None => Err(until.min(at)),
            },
        }
    }

    /// Halts until the TSC is `until`, a notification comes, or it is time to
    /// listen to the operator.
    fn halt(&mut self, until: u64) {
        let until = match self.index {
            FIRST_CPU => until.min(self.listen_at),
            _ => until,
        };
        self.apic.set_timer((until != NEVER).then_some(until));
        exceptions::wait_for_interrupt();
        self.apic.end_of_interrupt();
        self.apic.set_timer(None);
        self.now = tsc::now();
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
            if switched.is_ok() && outgoing.can_run() && !POOL.wants(&outgoing) {
                outgoing.ready_since = self.now;
                self.preempted.push_last(outgoing);
            } else {
                self.give_up(outgoing);
            }
        }
        match switched {
            Ok(()) => {
                self.running.set(&thread);
                Some(thread)
            }
            Err(end) => {
                self.end(thread, end);
                None
            }
        }
    }

    /// Lets others have `thread`, in whose place another was put on the CPU.
    #[cold]
    #[inline(never)]
    fn give_up(&mut self, mut thread: Box<Thread>) {
        // Only where the swap was refused has it not been saved yet; and then it is in
        // this CPU's registers.
        match self.cpu.park(&mut thread.runner.vcpu().xstate) {
            Ok(()) => self.give_back(thread),
            Err(_) => self.end(thread, End::Fault(Fault::XstateLost)),
        }
    }

    /// Puts `thread`, whose extended state is in memory, where other CPUs can take it.
    pub(super) fn give_back(&self, mut thread: Box<Thread>) {
        thread.runner.leave_cpu();
        thread.inbox.set_place(None);
        if let Some(cpu) = POOL.give_back(thread, self.now) {
            self.apic.notify(cpu);
        }
    }

    /// Gives the vCPU that waits longest on this CPU, of those that may go, to one that is
    /// idle.
    pub(super) fn share(&mut self) {
        if POOL.has_idle()
            && let Some(thread) = self.preempted.pop_first(|thread| thread.may_move())
        {
            self.give_back(thread);
        }
    }
}
