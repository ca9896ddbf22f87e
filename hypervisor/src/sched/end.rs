//! The end of a VM: its vCPUs are taken off, its memory is given back, and it begins
//! again if it asked for that.

use super::{
    pool::POOL,
    scheduler::{FIRST_CPU, LISTEN_US, Scheduler},
};
use crate::{
    vcpu::outcome::End,
    vm::{create::FACTORY, report, thread::Thread},
    vmx::root,
};
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::Ordering;

impl Scheduler {
    /// Ends the VM of `thread`.
    pub(super) fn end(&mut self, mut thread: Box<Thread>, end: End) {
        let vm = thread.vm.clone();
        if vm.peers.end() {
            vm.show_begun();
            report::ended(&mut thread, end);
            vm.resets.store(end == End::Reset, Ordering::Release);
            if !end.is_success() {
                POOL.count_failure();
            }
            POOL.hang_up(vm.number);
            for waiting in POOL.remove(Some(&vm)) {
                self.retire(*waiting);
            }
            let places = vm.peers.inboxes().iter().filter_map(|inbox| inbox.place());
            for cpu in places.filter(|cpu| *cpu != self.index) {
                self.apic.notify(POOL.apic_id(cpu));
            }
        }
        drop(vm);
        self.retire(*thread);
    }

    /// Takes off a vCPU whose VM has ended. With the last one the VM's memory is
    /// given back.
    pub(super) fn retire(&mut self, thread: Thread) {
        thread.inbox.set_place(None);
        self.running.clear();
        let Thread {
            mut runner,
            vm,
            turns,
            longest_wait,
            ..
        } = thread;
        {
            let mut totals = vm.totals.lock();
            totals.counters.add(&runner.vcpu().counters);
            totals.moves += runner.moves();
            totals.turns += turns;
            totals.container = totals.container.max(runner.vcpu().xstate.size());
            totals.moved = totals.moved.max(runner.vcpu().xstate.moved(&self.layout));
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
    pub(super) fn forget_ended(&mut self) {
        let ended = POOL.ended();
        if self.forgotten != ended {
            self.forgotten = ended;
            root::forget_guest_translations();
        }
    }
}
