//! A vCPU as the scheduler sees it: when it can run, where, and for how long.

use super::Vm;
use crate::vcpu::run::Runner;
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

/// When a vCPU can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Now.
    Now,
    /// When the TSC has this value, if nothing comes before.
    At(u64),
    /// When something comes.
    OnEvent,
}

/// One vCPU of a VM.
pub struct Thread {
    /// Before the VM, whose memory it uses.
    pub runner: Box<Runner>,
    /// Its VM.
    pub vm: Arc<Vm>,
    /// Its number in the VM, which is its APIC ID.
    pub number: u32,
    /// The CPU it may run on; any, if none.
    pub pinned: Option<u32>,
    /// What it waits for while it does not run.
    pub waits: Waits,
    /// TSC ticks that it may still run before it waits for others again. What is
    /// left when it halts it keeps, so that it is first when it wakes up.
    pub budget: u64,
    /// TSC since when it could run; `None` while it runs or sleeps.
    pub ready_since: Option<u64>,
    /// How often it got a CPU.
    pub turns: u64,
    /// TSC ticks that it waited at most for one.
    pub longest_wait: u64,
}

impl Thread {
    /// The vCPU `number` of `vm`; all but the first wait for a start-up IPI.
    pub fn new(vm: Arc<Vm>, number: u32, runner: Box<Runner>, pinned: Option<u32>) -> Self {
        let mut thread = Self {
            runner,
            vm,
            number,
            pinned,
            waits: Waits::Cpu,
            budget: 0,
            ready_since: None,
            turns: 0,
            longest_wait: 0,
        };
        if number > 0 {
            thread.wait_for(Waits::StartUp);
        }
        thread
    }

    /// When it can run, as seen at `now`.
    #[inline(always)]
    pub fn wake(&mut self, now: u64) -> Wake {
        // One that has ended is to be taken off.
        let wake = if self.waits == Waits::Cpu || self.vm.has_ended() {
            Wake::Now
        } else {
            self.wake_asleep(now)
        };
        if wake == Wake::Now && self.ready_since.is_none() {
            self.ready_since = Some(now);
        }
        wake
    }

    #[inline(never)]
    fn wake_asleep(&mut self, now: u64) -> Wake {
        let interruptible = match self.waits {
            Waits::Event { interruptible } => interruptible,
            Waits::Cpu | Waits::StartUp => false,
        };
        let vcpu = self.runner.vcpu();
        vcpu.collect(now);
        let called = vcpu.nmi && self.waits != Waits::StartUp;
        let due = interruptible && (vcpu.is_woken(true) || vcpu.timer_is_due(now));
        if called || vcpu.has_news() || due {
            return Wake::Now;
        }
        match vcpu.deadline().filter(|_| interruptible) {
            Some(deadline) => Wake::At(deadline),
            None => Wake::OnEvent,
        }
    }

    /// Puts it to sleep, and says whether its whole VM sleeps for ever now.
    pub fn wait_for(&mut self, waits: Waits) -> bool {
        self.waits = waits;
        let deadline = self.runner.vcpu().deadline();
        let by_itself = match waits {
            Waits::Cpu => true,
            Waits::Event { interruptible } => interruptible && deadline.is_some(),
            Waits::StartUp => false,
        };
        if let Some(inbox) = self.vm.peers.inbox(self.number) {
            inbox.set_asleep(!by_itself);
        }
        !by_itself && self.vm.peers.all_asleep() && !self.vm.bus.lock().can_interrupt()
    }

    /// It got a CPU at `now`.
    pub fn begin_turn(&mut self, now: u64) {
        self.turns += 1;
        if let Some(since) = self.ready_since.take() {
            self.longest_wait = self.longest_wait.max(now.saturating_sub(since));
        }
    }
}
