//! A virtual machine: what it was configured as, its memory, its vCPU, its end.

#[cfg(target_os = "none")]
pub mod create;
#[cfg(target_os = "none")]
pub mod report;

#[cfg(target_os = "none")]
mod machine {
    use crate::{
        device::bus::Bus, memory::guest::GuestMemory, platform::console, vcpu::run::Runner,
    };
    use alloc::{boxed::Box, string::String, sync::Arc};
    use spin::Mutex;

    /// A VM that was created and not yet ended; what it owns is given back when
    /// it is dropped.
    pub struct Vm {
        /// Unique on the machine; the console's prefix.
        pub name: String,
        /// Its vCPU. Before the memory, so that nothing translates through tables
        /// that are gone.
        pub runner: Box<Runner>,
        /// The CPU it may run on; any, if none.
        pub pinned: Option<u32>,
        /// TSC ticks of a time slice.
        pub slice: u64,
        /// Whether it waits for its timer.
        pub halted: bool,
        /// Its memory.
        pub memory: GuestMemory,
        /// Its devices.
        pub bus: Arc<Mutex<Bus>>,
    }

    impl Vm {
        /// TSC at which it can run on; zero if it can now.
        pub fn wake(&mut self) -> u64 {
            match self.halted {
                true => self.runner.vcpu().apic.deadline().unwrap_or(0),
                false => 0,
            }
        }

        /// Shows a console line that is complete.
        pub fn show_line(&self) {
            let line = self.bus.lock().take_line();
            console::guest_line(&self.name, &line);
        }

        /// Shows output that the guest did not end with a line end.
        pub fn show_rest(&self) {
            if self.bus.lock().has_partial_line() {
                self.show_line();
            }
        }
    }
}
#[cfg(target_os = "none")]
pub use machine::Vm;
