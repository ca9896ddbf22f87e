//! Physical memory that the image does not use, from the top of the machine's.

#![expect(
    unsafe_code,
    reason = "physical memory is reached through the boot loader's map"
)]

use bootloader_api::{BootInfo, info::MemoryRegionKind};
use core::slice;
use linked_list_allocator::LockedHeap;

/// What is mapped one to one when the image begins.
const MAPPED: u64 = 4 << 30;
const PAGE_BYTES: u64 = 4096;

/// Memory that is taken from its end downwards.
pub(crate) struct Arena {
    direct_map: u64,
    start: u64,
    end: u64,
}

/// A piece of it.
pub(crate) struct Piece {
    /// Its physical address.
    pub(crate) at: u64,
    /// Its content, zero at first.
    pub(crate) bytes: &'static mut [u8],
}

impl Arena {
    /// The highest memory that is free, below 4 GiB.
    pub(crate) fn new(hand_off: &BootInfo) -> Option<Self> {
        let direct_map = hand_off.physical_memory_offset.into_option()?;
        let regions = hand_off.memory_regions.iter();
        let free = regions
            .filter(|region| region.kind == MemoryRegionKind::Usable && region.end <= MAPPED)
            .max_by_key(|region| region.end)?;
        Some(Self {
            direct_map,
            start: free.start,
            end: free.end,
        })
    }

    /// The lowest address that was taken.
    pub(crate) fn taken_from(&self) -> u64 {
        self.end
    }

    /// Takes zeroed pages for `bytes`.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<Piece> {
        let at = self.end.checked_sub(bytes)? / PAGE_BYTES * PAGE_BYTES;
        if at < self.start {
            return None;
        }
        let length = usize::try_from(self.end - at).ok()?;
        self.end = at;
        // SAFETY: the memory is free, mapped, and given away once.
        let bytes = unsafe { slice::from_raw_parts_mut(self.pointer(at), length) };
        bytes.fill(0);
        Some(Piece { at, bytes })
    }

    /// Makes `bytes` of it the heap, if there are so many.
    pub(crate) fn give_to(&mut self, heap: &LockedHeap, bytes: usize) {
        if let Some(piece) = self.take(bytes as u64) {
            // SAFETY: the piece is used for nothing else.
            unsafe {
                heap.lock()
                    .init(piece.bytes.as_mut_ptr(), piece.bytes.len())
            };
        }
    }

    /// Where physical memory at `at` is mapped.
    pub(crate) fn pointer(&self, at: u64) -> *mut u8 {
        (self.direct_map + at) as *mut u8
    }
}

/// The ramdisk.
pub(crate) fn ramdisk(hand_off: &BootInfo) -> Option<&'static [u8]> {
    let at = hand_off.ramdisk_addr.into_option()?;
    let bytes = usize::try_from(hand_off.ramdisk_len).ok()?;
    // SAFETY: the boot loader has put it there, and nobody writes to it.
    Some(unsafe { slice::from_raw_parts(at as *const u8, bytes) })
}
