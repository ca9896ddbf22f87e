//! The vCPUs that are on no CPU: those that can run, and those that sleep, of which
//! nobody looks at one before its time has come or somebody sends it something.

use crate::{
    cpu::tsc::NEVER,
    vm::thread::{NOW, Thread},
};
use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::cmp::Reverse;

/// The TSC at which a vCPU wakes up by itself, and its number.
type Alarm = (u64, u16);

pub(super) struct Queue {
    /// Those that can run; the one that came first first.
    ready: VecDeque<Box<Thread>>,
    /// Those that sleep, each at its number, with the TSC at which it wakes up.
    asleep: Vec<Option<(u64, Box<Thread>)>>,
    /// One for each that wakes up by itself, the next one last.
    alarms: Vec<Alarm>,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            asleep: Vec::new(),
            alarms: Vec::new(),
        }
    }

    /// Takes in `thread`. The TSC at which it can run.
    pub(super) fn add(&mut self, mut thread: Box<Thread>, now: u64) -> u64 {
        let at = thread.ready_at(now);
        if at == NOW {
            thread.ready_since = thread.ready_since.min(now);
        }
        self.put(thread, at);
        at
    }

    /// Takes in `thread`, which can run at the TSC `at`.
    pub(super) fn put(&mut self, thread: Box<Thread>, at: u64) {
        let number = thread.inbox.number();
        if at == NOW {
            self.ready.push_back(thread);
            return;
        }
        if at != NEVER {
            let place = self.place_of((at, number)).unwrap_or_else(|place| place);
            self.alarms.insert(place, (at, number));
        }
        let place = usize::from(number);
        if self.asleep.len() <= place {
            self.asleep.resize_with(place + 1, || None);
        }
        if let Some(bed) = self.asleep.get_mut(place) {
            *bed = Some((at, thread));
        }
    }

    /// Looks at vCPU `number`, if it sleeps here: it may be able to run.
    pub(super) fn wake(&mut self, number: u16, now: u64) {
        let bed = self.asleep.get_mut(usize::from(number));
        if let Some((at, thread)) = bed.and_then(Option::take) {
            if at != NEVER
                && let Ok(place) = self.place_of((at, number))
            {
                self.alarms.remove(place);
            }
            self.add(thread, now);
        }
    }

    /// Looks at those whose time has come.
    pub(super) fn ring(&mut self, now: u64) {
        while let Some(&(at, number)) = self.alarms.last()
            && at <= now
        {
            self.wake(number, now);
        }
    }

    /// The TSC at which one can run; [`NOW`], if one can now.
    pub(super) fn next(&self) -> u64 {
        match self.ready.is_empty() {
            true => self.next_alarm(),
            false => NOW,
        }
    }

    /// The TSC at which the next one wakes up.
    pub(super) fn next_alarm(&self) -> u64 {
        self.alarms.last().map_or(NEVER, |(at, _)| *at)
    }

    /// Takes out the one that may run on CPU `index` and comes first: those that woke up
    /// with some of their slice left, then those that need a new one, if they have waited
    /// since before `spent_before`.
    pub(super) fn take(&mut self, index: u16, now: u64, spent_before: u64) -> Option<Box<Thread>> {
        let order = |thread: &Thread| (thread.budget == 0, thread.ready_since);
        for thread in &mut self.ready {
            // One of a new VM waits since a CPU first sees it.
            thread.ready_since = thread.ready_since.min(now);
        }
        let all = self.ready.iter().enumerate();
        let here = all.filter(|(_, thread)| thread.may_run_on(index));
        let (place, first) = here.min_by_key(|(_, thread)| order(thread))?;
        match order(first) {
            (true, since) if since >= spent_before => None,
            _ => self.ready.remove(place),
        }
    }

    /// Takes out those that `goes` says.
    pub(super) fn remove(
        &mut self,
        now: u64,
        goes: impl Fn(&Thread) -> bool,
    ) -> VecDeque<Box<Thread>> {
        let beds = core::mem::take(&mut self.asleep).into_iter().flatten();
        let all = core::mem::take(&mut self.ready).into_iter();
        let all = all.chain(beds.map(|(_, thread)| thread));
        self.alarms.clear();
        let (gone, rest): (_, VecDeque<_>) = all.partition(|thread| goes(thread));
        for thread in rest {
            self.add(thread, now);
        }
        gone
    }

    fn place_of(&self, alarm: Alarm) -> Result<usize, usize> {
        self.alarms
            .binary_search_by_key(&Reverse(alarm), |other| Reverse(*other))
    }
}
