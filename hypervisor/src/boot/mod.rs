//! From the boot loader's hand-off to every CPU in its scheduler's loop.

pub mod ap;
pub mod bsp;
pub mod cpu;
pub mod processors;
pub mod trampoline;

/// Bytes of the stack that the boot loader gives us; used until our own page
/// tables are in place.
pub const BOOT_STACK_BYTES: u64 = 64 * 1024;

/// Where the boot loader may begin to map things.
pub const UPPER_HALF: u64 = 0xffff_8000_0000_0000;
