//! The vCPUs of the machine that are on no CPU, and what its CPUs know of each other.
//! The lock is held for a look into the queue, never while anything runs, prints or is
//! given back.

use super::queue::Queue;
use crate::{
    cpu::tsc::{self, NEVER},
    device::bus::Bus,
    vcpu::peers::Peers,
    vm::{Vm, thread::Thread},
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
    queue: Mutex<Queue>,
    /// The TSC at which one in the queue can run, or a time before that: until then
    /// CPUs leave the lock alone.
    look_at: AtomicU64,
    /// How many CPUs take from the queue.
    cpus: AtomicUsize,
    /// Those that halt, or are about to.
    idle: AtomicU64,
    /// Those with vCPUs that wait for a turn there.
    crowded: AtomicU64,
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
    queue: Mutex::new(Queue::new()),
    look_at: AtomicU64::new(NEVER),
    cpus: AtomicUsize::new(0),
    idle: AtomicU64::new(0),
    crowded: AtomicU64::new(0),
    ids: [const { AtomicU32::new(0) }; MOST_CPUS],
    alive: AtomicUsize::new(0),
    ended: AtomicU64::new(0),
    lines: Mutex::new(BTreeMap::new()),
    failed: AtomicBool::new(false),
    asked: AtomicU32::new(0),
};

/// Where the operator's input goes: what interrupts, and whom.
pub(super) type Line = (Arc<Mutex<Bus>>, Arc<Peers>);

/// Turns after which a vCPU goes through the queue, so that all get the same of CPUs
/// that have unequally many to run.
const TURNS_ON_A_CPU: u64 = 2;

impl Pool {
    /// Takes in the vCPUs of a VM that was created.
    pub fn add(&self, threads: Vec<Thread>) {
        self.alive.fetch_add(1, Relaxed);
        if let Some(thread) = threads.first() {
            let line = (thread.vm.bus.clone(), thread.vm.peers.clone());
            self.lines.lock().insert(thread.vm.number, line);
        }
        // Every CPU looks before it halts for the first time.
        self.with_queue(|queue| {
            for mut thread in threads {
                // No CPU may be there yet that it could wait for.
                let at = thread.ready_at(tsc::now());
                queue.put(Box::new(thread), at);
            }
        });
    }

    /// Changes the queue, and says from when on CPUs have to look into it again.
    fn with_queue<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue.lock();
        let result = change(&mut queue);
        self.look_at.store(queue.next(), SeqCst);
        result
    }

    /// vCPU `number` was sent something; it may be in the queue.
    pub(super) fn wake(&self, number: u16) {
        self.with_queue(|queue| queue.wake(number, tsc::now()));
    }

    /// Whether the CPU on which `current` was preempted may go on with its own vCPUs.
    #[inline]
    pub(super) fn leaves(&self, current: &Thread, now: u64) -> bool {
        // Whoever changes it tells an idle CPU; others may see it a slice later.
        self.look_at.load(Relaxed) > now && !self.wants(current)
    }

    /// Whether `thread`, which was preempted, is to go through the queue: another CPU is
    /// idle, or has fewer to run.
    #[inline]
    pub(super) fn wants(&self, thread: &Thread) -> bool {
        let is_shared = self.cpus.load(Relaxed) > 1 && thread.may_move();
        is_shared && (self.has_idle() || thread.turns.is_multiple_of(TURNS_ON_A_CPU))
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
            self.cpus.fetch_add(1, SeqCst);
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
        set_bit(&self.idle, index, idle);
    }

    pub(super) fn has_idle(&self) -> bool {
        self.idle.load(SeqCst) != 0
    }

    pub(super) fn set_crowded(&self, index: u16, crowded: bool) {
        // Seldom another value, and an atomic change is slow. Nobody else writes this bit.
        if (self.crowded.load(Relaxed) & 1 << index != 0) != crowded {
            set_bit(&self.crowded, index, crowded);
        }
    }

    /// The APIC ID of a CPU with vCPUs that wait for a turn there.
    pub(super) fn crowded_cpu(&self) -> Option<u32> {
        match self.crowded.load(SeqCst) {
            0 => None,
            crowded => Some(self.apic_id(crowded.trailing_zeros() as u16)),
        }
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

    /// Takes out the vCPU that may run on CPU `index` and comes first ([`Queue::take`]).
    /// If there is none, the TSC at which there may be one.
    pub(super) fn take(&self, index: u16, now: u64, spent_before: u64) -> Result<Box<Thread>, u64> {
        let at = self.look_at.load(SeqCst);
        if at > now {
            return Err(at);
        }
        self.with_queue(|queue| {
            queue.ring(now);
            let taken = queue.take(index, now, spent_before);
            taken.ok_or_else(|| queue.next_alarm())
        })
    }

    /// Takes in `thread`. The APIC ID of an idle CPU that should have it, now or when
    /// its time comes.
    pub(super) fn give_back(&self, thread: Box<Thread>, now: u64) -> Option<u32> {
        let pinned = thread.inbox.pinned();
        // Who sends it something from here on finds it in the queue.
        let at = self.with_queue(|queue| queue.add(thread, now));
        (at != NEVER).then(|| self.idle_cpu(pinned)).flatten()
    }

    /// Takes out the waiting vCPUs of `vm`, or of all.
    pub(super) fn remove(&self, vm: Option<&Arc<Vm>>) -> VecDeque<Box<Thread>> {
        let is_of = |thread: &Thread| vm.is_none_or(|vm| Arc::ptr_eq(&thread.vm, vm));
        self.with_queue(|queue| queue.remove(tsc::now(), is_of))
    }
}

fn set_bit(bits: &AtomicU64, index: u16, value: bool) {
    let bit = 1_u64 << index;
    match value {
        true => bits.fetch_or(bit, SeqCst),
        false => bits.fetch_and(!bit, SeqCst),
    };
}
