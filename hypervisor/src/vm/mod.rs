//! A virtual machine: what it was configured as, its memory, its end.

#[cfg(target_os = "none")]
pub mod code;
#[cfg(target_os = "none")]
pub mod create;
#[cfg(target_os = "none")]
pub mod report;
#[cfg(target_os = "none")]
pub mod string_io;
#[cfg(target_os = "none")]
pub mod thread;

#[cfg(target_os = "none")]
mod machine {
    use crate::{
        device::bus::Bus,
        memory::guest::GuestMemory,
        platform::console,
        vcpu::{counters::Counters, peers::Peers},
    };
    use alloc::{string::String, sync::Arc};
    use core::sync::atomic::AtomicBool;
    use spin::Mutex;

    /// A VM that was created. Its vCPUs share it, and what it owns is given back
    /// when the last of them has gone.
    pub struct Vm {
        /// Unique on the machine; the console's prefix.
        pub name: String,
        /// Its number in the bundle.
        pub number: usize,
        /// Whether it is to begin again after its end.
        pub resets: AtomicBool,
        /// The TSC when it could begin.
        pub begun: u64,
        /// TSC ticks of a time slice.
        pub slice: u64,
        /// Its memory.
        pub memory: GuestMemory,
        /// Its devices.
        pub bus: Arc<Mutex<Bus>>,
        /// The inboxes of its vCPUs.
        pub peers: Arc<Peers>,
        /// What its vCPUs did that have gone.
        pub totals: Mutex<Totals>,
    }

    /// Sums over vCPUs, and the worst of them.
    #[derive(Default)]
    pub struct Totals {
        /// Exits.
        pub counters: Counters,
        /// How often a vCPU went to another CPU.
        pub moves: u64,
        /// How often a vCPU got a CPU.
        pub turns: u64,
        /// Bytes of the largest container.
        pub container: u32,
        /// Bytes of it that its last switch moved.
        pub moved: u32,
        /// TSC ticks that one waited at most for a CPU, when it could have run.
        pub longest_wait: u64,
    }

    impl Vm {
        /// Shows a console line that is complete.
        pub fn show_line(&self) {
            let line = self.bus.lock().take_line();
            console::guest_line(&self.name, self.number, &line, true);
        }

        /// Shows a line that may go on, because nothing of it comes for a while: a
        /// prompt.
        pub fn show_begun(&self) {
            let mut bus = self.bus.lock();
            if bus.has_partial_line() {
                let line = bus.take_line();
                drop(bus);
                console::guest_line(&self.name, self.number, &line, false);
            }
        }
    }
}
#[cfg(target_os = "none")]
pub use machine::{Totals, Vm};
