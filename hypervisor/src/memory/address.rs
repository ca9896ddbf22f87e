//! Addresses of the two physical address spaces, which must never be mixed.

use core::fmt;

/// Bytes in a 4 KiB frame or page.
pub const FRAME_BYTES: u64 = 4096;
/// Bytes in a page mapped by a page directory.
pub const LARGE_BYTES: u64 = 512 * FRAME_BYTES;
/// Bytes in a page mapped by a page-directory-pointer table.
pub const HUGE_BYTES: u64 = 512 * LARGE_BYTES;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further, unless it leaves the address space.
            pub fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// Whether the address is a multiple of `bytes`, a power of two.
            pub fn is_aligned(self, bytes: u64) -> bool {
                self.0 & (bytes - 1) == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A host-physical address: what the machine's memory bus sees.
    Hpa
}
address! {
    /// A guest-physical address: what a guest believes its memory bus sees. An
    /// allegation until looked up in the guest's own memory.
    Gpa
}
