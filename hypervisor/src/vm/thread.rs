//! A vCPU as the scheduler sees it: when it can run, where, and for how long.

use super::Vm;
use crate::{
    cpu::tsc::NEVER,
    vcpu::{peers::Inbox, run::Runner},
};
use alloc::{boxed::Box, sync::Arc};

/// What a vCPU waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// For a CPU.
    Cpu,
    /// It halted, for an interrupt or only for an NMI.
    Event {
        /// Whether its interrupts are on.
        interruptible: bool,
    },
    /// For a start-up IPI.
    StartUp,
}

/// The TSC at which a vCPU can run that can now.
pub const NOW: u64 = 0;

/// One vCPU of a VM.
pub struct Thread {
    /// Before the VM, whose memory it uses.
    pub runner: Box<Runner>,
    /// Its VM.
    pub vm: Arc<Vm>,
    /// What its VM's vCPUs send it, and where it is.
    pub inbox: Arc<Inbox>,
    /// Its number in the VM, which is its APIC ID.
    pub number: u32,
    /// What it waits for while it does not run.
    pub waits: Waits,
    /// TSC ticks that it may still run before it waits for others again. What is
    /// left when it halts it keeps, so that it is first when it wakes up.
    pub budget: u64,
    /// TSC since when it could run; [`NEVER`] while it runs or sleeps.
    pub ready_since: u64,
    /// How often it got a CPU.
    pub turns: u64,
    /// TSC ticks that it waited at most for one.
    pub longest_wait: u64,
}

impl Thread {
    /// The vCPU `number` of `vm`; all but the first wait for a start-up IPI.
    pub fn new(vm: Arc<Vm>, number: u32, mut runner: Box<Runner>) -> Self {
        let waits = match number {
            0 => Waits::Cpu,
            _ => Waits::StartUp,
        };
        let mut thread = Self {
            inbox: runner.vcpu().inbox.clone(),
            runner,
            vm,
            number,
            waits,
            budget: 0,
            ready_since: NEVER,
            turns: 0,
            longest_wait: 0,
        };
        thread.tell();
        thread
    }

    /// The TSC at which something becomes due for it; `None` if something is or has
    /// arrived, or if it waits for that.
    #[inline]
    pub fn undisturbed_until(&mut self, now: u64) -> Option<u64> {
        let deadline = self.runner.vcpu().deadline();
        (self.can_run() && self.inbox.is_empty() && deadline > now).then_some(deadline)
    }

    /// Whether it waits for nothing but a CPU.
    #[inline]
    pub fn can_run(&self) -> bool {
        self.waits == Waits::Cpu
    }

    /// Whether it may run on another CPU than its own.
    pub fn may_move(&self) -> bool {
        self.inbox.pinned().is_none()
    }

    /// Whether it may run on CPU `index`.
    pub fn may_run_on(&self, index: u16) -> bool {
        let pinned = self.inbox.pinned();
        pinned.is_none_or(|cpu| cpu == u32::from(index))
    }

    /// The TSC at which it can run, as seen at `now`: [`NOW`], that of its own timer,
    /// or [`NEVER`] if it waits for something to come. Whether what has come wakes it up
    /// is seen when it runs.
    pub fn ready_at(&mut self, now: u64) -> u64 {
        let sleeps_until = match self.waits {
            Waits::Cpu => NOW,
            Waits::Event {
                interruptible: true,
            } => self.runner.vcpu().deadline(),
            Waits::Event { .. } | Waits::StartUp => NEVER,
        };
        match sleeps_until > now && self.inbox.is_empty() {
            true => sleeps_until,
            false => NOW,
        }
    }

    /// Says to the others of its VM what it waits for, and whether the whole VM sleeps for
    /// ever now.
    pub fn tell(&mut self) -> bool {
        let deadline = self.runner.vcpu().deadline();
        let by_itself = match self.waits {
            Waits::Cpu => true,
            Waits::Event { interruptible } => interruptible && deadline != NEVER,
            Waits::StartUp => false,
        };
        self.inbox.set_asleep(!by_itself);
        !by_itself && self.vm.peers.all_asleep() && !self.vm.bus.lock().can_interrupt()
    }

    /// It got a CPU at `now`, until the TSC that is returned.
    pub fn begin_turn(&mut self, now: u64) -> u64 {
        self.turns += 1;
        let waited = now.saturating_sub(self.ready_since);
        self.longest_wait = self.longest_wait.max(waited);
        self.ready_since = NEVER;
        now.wrapping_add(match self.budget {
            0 => self.vm.slice,
            left => left,
        })
    }
}
