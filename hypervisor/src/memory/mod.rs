//! Which frames are free, how is the hypervisor mapped, how is a guest mapped?

pub mod address;
pub mod ept;
pub mod frames;
#[cfg(target_os = "none")]
pub mod guest;
#[cfg(target_os = "none")]
pub mod host;
pub mod walk;
