//! What can go wrong when the hypervisor takes the machine's memory over.

use core::fmt;
use x86_64::VirtAddr;

/// Why the hypervisor's memory could not be set up.
#[derive(Clone, Copy, Debug)]
pub enum HostError {
    /// No usable run of this many bytes.
    NoMemory(u64),
    /// A page of the image is both writable and executable.
    WritableCode(VirtAddr),
    /// A page of the image or of the bundle is not mapped by the boot loader.
    NotMapped(VirtAddr),
    /// The boot loader's mapping and ours disagree about this address.
    Mapped(VirtAddr),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory(bytes) => write!(f, "no run of {} KiB of memory is free", bytes / 1024),
            Self::WritableCode(at) => {
                write!(f, "page {at:?} of the image is writable and executable")
            }
            Self::NotMapped(at) => write!(f, "page {at:?} is not mapped by the boot loader"),
            Self::Mapped(at) => write!(f, "page {at:?} is mapped twice"),
        }
    }
}
