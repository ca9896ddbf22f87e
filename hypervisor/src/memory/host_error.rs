//! What can go wrong when the hypervisor takes the machine's memory over.

use thiserror::Error;
use x86_64::VirtAddr;

/// Why the hypervisor's memory could not be set up.
#[derive(Clone, Copy, Debug, Error)]
pub enum HostError {
    /// No usable run of this many bytes.
    #[error("no run of {} KiB of memory is free", .0 / 1024)]
    NoMemory(u64),
    /// A page of the image is both writable and executable.
    #[error("page {0:?} of the image is writable and executable")]
    WritableCode(VirtAddr),
    /// A page of the image or of the bundle is not mapped by the boot loader.
    #[error("page {0:?} is not mapped by the boot loader")]
    NotMapped(VirtAddr),
    /// The boot loader's mapping and ours disagree about this address.
    #[error("page {0:?} is mapped twice")]
    Mapped(VirtAddr),
}
