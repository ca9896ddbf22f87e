//! Which vCPU runs on this CPU now, and what does the CPU do when none can?

use crate::{
    cpu::{tables::Tables, tsc},
    platform::{console, power::Verdict},
    vcpu::{
        outcome::{End, Leave},
        run::Cpu,
    },
    vm::{Vm, report},
    vmx::root,
    xstate::layout::Layout,
};
use alloc::{boxed::Box, collections::VecDeque};

/// The operator's key for "what is running?", as on BSD's terminals (SIGINFO).
const STATUS_KEY: u8 = 0x14;

/// The scheduler of one CPU: round robin over its VMs.
pub struct Scheduler {
    cpu: Cpu,
    tables: Tables,
    layout: Layout,
    /// The VM whose vCPU is on the CPU: its VMCS is current, its registers are
    /// loaded.
    current: Option<Box<Vm>>,
    /// Those that wait for the CPU, the next one first.
    queue: VecDeque<Box<Vm>>,
    /// Whether every VM so far could be made and ended with success.
    success: bool,
}

impl Scheduler {
    /// A scheduler of the CPU it runs on.
    pub fn new(cpu: Cpu, tables: Tables, layout: Layout) -> Self {
        Self {
            cpu,
            tables,
            layout,
            current: None,
            queue: VecDeque::new(),
            success: true,
        }
    }

    /// Takes in a VM that was created.
    pub fn add(&mut self, mut vm: Box<Vm>) {
        vm.runner.settle(&self.tables);
        self.queue.push_back(vm);
    }

    /// Counts a VM that could not be created as failed.
    pub fn count_failure(&mut self) {
        self.success = false;
    }

    /// Runs the VMs until the last has ended.
    pub fn run(mut self) -> Verdict {
        while let Some(mut vm) = self.next() {
            let end = match vm.wake().checked_sub(tsc::now()) {
                None | Some(0) => self.run_slice(&mut vm),
                Some(_) => self.idle(&mut vm),
            };
            match end {
                None => self.current = Some(vm),
                Some(end) => self.end(vm, end),
            }
            if console::key() == Some(STATUS_KEY) {
                self.report_status();
            }
        }
        if self.success {
            Verdict::Success
        } else {
            Verdict::Failure
        }
    }

    /// The VM whose turn it is, on the CPU: the first in the queue that can run,
    /// else the one that ran last if it still can, else the one that can first.
    fn next(&mut self) -> Option<Box<Vm>> {
        loop {
            let now = tsc::now();
            let first = (0..self.queue.len()).min_by_key(|&index| {
                self.queue
                    .get_mut(index)
                    .map_or(u64::MAX, |vm| vm.wake().max(now))
            });
            let wake = |vm: Option<&mut Box<Vm>>| vm.map_or(u64::MAX, |vm| vm.wake().max(now));
            let waiting = wake(first.and_then(|index| self.queue.get_mut(index)));
            let staying = wake(self.current.as_mut());
            let stays = staying < waiting;
            let Some(mut vm) = first
                .filter(|_| !stays)
                .and_then(|index| self.queue.remove(index))
            else {
                return self.current.take();
            };
            let mut outgoing = self.current.take();
            let switched = vm
                .runner
                .switch_in(&mut self.cpu, outgoing.as_mut().map(|vm| &mut *vm.runner));
            self.queue.extend(outgoing);
            match switched {
                Ok(()) => return Some(vm),
                Err(end) => self.end(vm, end),
            }
        }
    }

    /// Lets the CPU halt until `vm`, the first that can run again, can.
    fn idle(&mut self, vm: &mut Vm) -> Option<End> {
        // Not longer than a slice, for the operator's sake.
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
        self.success &= end.is_success();
        drop(vm);
        root::forget_guest_translations();
    }

    /// Says of every VM where it is.
    fn report_status(&mut self) {
        for vm in &mut self.queue {
            report::status(vm);
        }
        // Last, because a report makes the VM's VMCS current.
        if let Some(vm) = &mut self.current {
            report::status(vm);
        }
    }
}
