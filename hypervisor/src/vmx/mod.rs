//! VMX as typed hardware: capabilities, control structure, entry and exit.

pub mod capabilities;
pub mod controls;
#[cfg(target_os = "none")]
pub mod entry;
pub mod exit;
pub mod field;
pub mod frame;
pub mod msr_bitmap;
#[cfg(target_os = "none")]
pub mod root;
#[cfg(target_os = "none")]
pub mod vmcs;
