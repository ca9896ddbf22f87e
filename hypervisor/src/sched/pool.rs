//! The vCPUs of the machine that are on no CPU. The lock is held for a look into
//! the queue, never while anything runs, prints or is given back.

use crate::{
    cpu::tsc,
    device::bus::Bus,
    vcpu::peers::Peers,
    vm::{
        Vm,
        thread::{Thread, Wake},
    },
};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use spin::Mutex;

/// CPUs that can be used: a set of them is a word.
pub const MOST_CPUS: usize = u64::BITS as usize;

/// The queue, and what is counted of the machine's VMs.
pub struct Pool {
    /// The one that came first first.
    queue: Mutex<VecDeque<Box<Thread>>>,
    /// How many are in the queue: a CPU alone with its vCPU looks here and leaves
    /// the lock alone.
    waiting: AtomicUsize,
    /// CPUs that halt, or are about to.
    idle: AtomicU64,
    /// APIC IDs of the CPUs.
    ids: [AtomicU32; MOST_CPUS],
    /// VMs that have not ended, wherever their vCPUs are.
    alive: AtomicUsize,
    /// VMs whose memory was given back.
    ended: AtomicU64,
    /// The devices and vCPUs that the operator's input can go to, by the numbers of
    /// their VMs.
    lines: Mutex<BTreeMap<usize, Line>>,
    /// A VM could not be made, or ended otherwise than with success.
    failed: AtomicBool,
    /// How often the operator asked what is running.
    asked: AtomicU32,
}

/// The machine's pool.
pub static POOL: Pool = Pool {
    queue: Mutex::new(VecDeque::new()),
    waiting: AtomicUsize::new(0),
    idle: AtomicU64::new(0),
    ids: [const { AtomicU32::new(0) }; MOST_CPUS],
    alive: AtomicUsize::new(0),
    ended: AtomicU64::new(0),
    lines: Mutex::new(BTreeMap::new()),
    failed: AtomicBool::new(false),
    asked: AtomicU32::new(0),
};

/// Where the operator's input goes: what interrupts, and whom.
pub(super) type Line = (Arc<Mutex<Bus>>, Arc<Peers>);

/// What a CPU does next.
pub(super) enum Turn {
    /// Runs the vCPU that is on it.
    Current,
    /// Runs this one instead.
    Other(Box<Thread>),
    /// Halts.
    Idle {
        /// TSC at which a vCPU can run again; `None` if only an event can bring
        /// one back.
        until: Option<u64>,
    },
}

impl Pool {
    /// Takes in the vCPUs of a VM that was created.
    pub fn add(&self, threads: Vec<Thread>) {
        self.alive.fetch_add(1, Relaxed);
        if let Some(thread) = threads.first() {
            let line = (thread.vm.bus.clone(), thread.vm.peers.clone());
            self.lines.lock().insert(thread.vm.number, line);
        }
        let mut queue = self.queue.lock();
        queue.extend(threads.into_iter().map(Box::new));
        // Every CPU looks before it halts for the first time.
        self.waiting.store(queue.len(), SeqCst);
    }

    /// Counts a VM that could not be created, or failed.
    pub fn count_failure(&self) {
        self.failed.store(true, Relaxed);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    pub(super) fn alive(&self) -> usize {
        self.alive.load(Acquire)
    }

    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Acquire)
    }

    /// Counts a VM whose memory was given back.
    pub(super) fn count_given_back(&self) {
        self.ended.fetch_add(1, Release);
    }

    /// Counts the end of a VM; how many are left.
    pub(super) fn count_end(&self) -> usize {
        self.count_given_back();
        self.alive.fetch_sub(1, Release) - 1
    }

    /// The line of the first VM that has not ended.
    pub(super) fn line(&self) -> Option<Line> {
        self.lines
            .lock()
            .first_key_value()
            .map(|(_, line)| line.clone())
    }

    /// VM `number` no longer takes input.
    pub(super) fn hang_up(&self, number: usize) {
        self.lines.lock().remove(&number);
    }

    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, Relaxed);
    }

    pub(super) fn asked(&self) -> u32 {
        self.asked.load(Relaxed)
    }

    /// Makes CPU `index` known by its APIC ID.
    pub(super) fn join(&self, index: u16, id: u32) {
        if let Some(slot) = self.ids.get(usize::from(index)) {
            slot.store(id, SeqCst);
        }
    }

    /// The APIC ID of CPU `index`, which has joined.
    pub(super) fn apic_id(&self, index: u16) -> u32 {
        self.ids
            .get(usize::from(index))
            .map_or(0, |id| id.load(SeqCst))
    }

    /// The CPU with this APIC ID.
    pub(super) fn index_of(&self, id: u32) -> Option<u16> {
        let joined = self.ids.iter().position(|slot| slot.load(SeqCst) == id)?;
        u16::try_from(joined).ok()
    }

    pub(super) fn set_idle(&self, index: u16, idle: bool) {
        let bit = 1_u64 << index;
        match idle {
            true => self.idle.fetch_or(bit, SeqCst),
            false => self.idle.fetch_and(!bit, SeqCst),
        };
    }

    /// The APIC ID of an idle CPU on which a vCPU with this pin may run. It counts
    /// as busy from now on, so that the next vCPU gets another one.
    pub(super) fn idle_cpu(&self, pinned: Option<u32>) -> Option<u32> {
        let allowed = pinned.map_or(u64::MAX, |cpu| 1 << cpu);
        loop {
            let idle = self.idle.load(SeqCst) & allowed;
            let bit = idle & idle.wrapping_neg();
            if bit == 0 {
                return None;
            }
            if self.idle.fetch_and(!bit, SeqCst) & bit != 0 {
                return Some(self.apic_id(bit.trailing_zeros() as u16));
            }
        }
    }

    /// What CPU `index` does next, with `current` on it. First come those that woke
    /// up with some of their slice left, then those that waited for a new one, then
    /// `current`; each in the order in which they came.
    pub(super) fn next(&self, index: u16, current: Option<&mut Thread>) -> Turn {
        let now = tsc::now();
        let (mut until, mut current_can, mut current_goes_on) = (None, false, false);
        let mut note = |wake| match wake {
            Wake::At(at) => until = Some(until.map_or(at, |until: u64| until.min(at))),
            Wake::Now | Wake::OnEvent => {}
        };
        if let Some(thread) = current {
            let wake = thread.wake(now);
            note(wake);
            current_can = wake == Wake::Now;
            current_goes_on = current_can && thread.budget > 0;
        }
        if self.waiting.load(SeqCst) != 0 {
            let mut queue = self.queue.lock();
            let mut best: Option<(bool, usize)> = None;
            for (place, thread) in queue.iter_mut().enumerate() {
                let here = thread.pinned.is_none_or(|cpu| cpu == u32::from(index));
                if !here && !thread.vm.has_ended() {
                    continue;
                }
                let wake = thread.wake(now);
                note(wake);
                let spent = thread.budget == 0;
                if wake == Wake::Now && best.is_none_or(|(other, _)| other && !spent) {
                    best = Some((spent, place));
                    if !spent {
                        break;
                    }
                }
            }
            if let Some((spent, place)) = best
                && !(spent && current_goes_on)
                && let Some(thread) = queue.remove(place)
            {
                self.waiting.store(queue.len(), SeqCst);
                return Turn::Other(thread);
            }
        }
        match current_can {
            true => Turn::Current,
            false => Turn::Idle { until },
        }
    }

    /// Takes in `thread`. The APIC ID of an idle CPU that should have it, now or when
    /// its time comes.
    pub(super) fn give_back(&self, thread: Box<Thread>) -> Option<u32> {
        let pinned = thread.pinned;
        let mut queue = self.queue.lock();
        queue.push_back(thread);
        self.waiting.store(queue.len(), SeqCst);
        // Only now: who sends it something from here on finds it in the queue.
        let now = tsc::now();
        let wake = queue.back_mut().map(|thread| thread.wake(now));
        drop(queue);
        match wake {
            Some(Wake::Now | Wake::At(_)) => self.idle_cpu(pinned),
            Some(Wake::OnEvent) | None => None,
        }
    }

    /// Takes out the waiting vCPUs of `vm`.
    pub(super) fn remove(&self, vm: &Arc<Vm>) -> VecDeque<Box<Thread>> {
        let mut queue = self.queue.lock();
        let (removed, rest) = core::mem::take(&mut *queue)
            .into_iter()
            .partition(|thread| Arc::ptr_eq(&thread.vm, vm));
        *queue = rest;
        self.waiting.store(queue.len(), SeqCst);
        removed
    }

    /// Takes out all waiting vCPUs.
    pub(super) fn remove_all(&self) -> VecDeque<Box<Thread>> {
        let mut queue = self.queue.lock();
        self.waiting.store(0, SeqCst);
        core::mem::take(&mut *queue)
    }
}
