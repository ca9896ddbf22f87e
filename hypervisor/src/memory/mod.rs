//! Which frames are free, how is the hypervisor mapped, how is a guest mapped?

pub mod address;
pub mod ept;
pub mod frames;
#[cfg(target_os = "none")]
pub mod guest;
#[cfg(target_os = "none")]
pub mod host;
#[cfg(target_os = "none")]
mod host_error;
pub mod walk;
