//! What is this processor?

#[cfg(target_os = "none")]
pub mod exceptions;
pub mod msr;
#[cfg(target_os = "none")]
pub mod tables;
