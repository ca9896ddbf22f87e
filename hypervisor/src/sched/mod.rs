//! Which vCPU runs on this CPU now, and what does the CPU do when none can?
//!
//! Every CPU has a scheduler of its own with the vCPUs that it preempted, which take
//! turns without a lock. Those that sleep, and those that another CPU should have, are
//! in a pool that all take from. A vCPU runs for a slice; what it did not use when it
//! halts it may use when it wakes up, ahead of those that have used theirs up. So a vCPU
//! that wakes up runs within one slice, and one that never halts still gets its turn.

#[cfg(target_os = "none")]
mod choice;
#[cfg(target_os = "none")]
mod end;
#[cfg(target_os = "none")]
mod operator;
#[cfg(target_os = "none")]
mod pool;
#[cfg(target_os = "none")]
mod queue;
#[cfg(target_os = "none")]
mod running;
#[cfg(target_os = "none")]
mod scheduler;
pub mod turns;

#[cfg(target_os = "none")]
pub use pool::{MOST_CPUS, POOL};
#[cfg(target_os = "none")]
pub use scheduler::Scheduler;
