//! What is this processor?

#[cfg(target_os = "none")]
pub mod apic;
pub mod bits;
#[cfg(target_os = "none")]
pub mod exceptions;
pub mod msr;
#[cfg(target_os = "none")]
pub mod switched;
#[cfg(target_os = "none")]
pub mod tables;
pub mod tsc;
