//! The operator's keys.

use super::{
    pool::POOL,
    scheduler::{FIRST_CPU, Scheduler},
};
use crate::{device::bus::Raised, platform::console, vm::report};

/// The key for "what is running?", as on BSD's terminals (SIGINFO).
const STATUS_KEY: u8 = 0x14;
/// The sender of what no vCPU sends.
const NOBODY: u32 = u32::MAX;

impl Scheduler {
    /// Listens to the operator, if this is the first CPU: keys go to the first VM that
    /// has not ended, but for the one that asks what is running. That each CPU answers
    /// for its own vCPUs, the first also for those that are on none.
    pub(super) fn listen(&mut self) {
        if self.index == FIRST_CPU {
            while let Some(key) = console::key() {
                if key == STATUS_KEY {
                    POOL.ask();
                    for mut thread in POOL.remove(None) {
                        report::status(&mut thread);
                        self.give_back(thread);
                    }
                } else if let Some((bus, peers)) = POOL.line() {
                    let raised = {
                        let mut bus = bus.lock();
                        bus.receive(key);
                        bus.take_raised()
                    };
                    let messages = raised.into_iter().flat_map(Raised::messages);
                    let post = |targets, message| targets | peers.post(message, NOBODY);
                    let targets = messages.fold(0, post);
                    self.notify_all(&peers, targets);
                }
            }
        }
        let asked = POOL.asked();
        if asked != self.answered {
            self.answered = asked;
            // The current one last, because a report makes the vCPU's VMCS current.
            for thread in self.preempted.iter_mut().chain(&mut self.current) {
                report::status(thread);
            }
        }
        self.listen_at = self.now + self.listen;
    }
}
