//! How does the machine speak, and how does it end?

#[cfg(target_os = "none")]
pub mod backtrace;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod pic;
#[cfg(target_os = "none")]
pub mod power;
