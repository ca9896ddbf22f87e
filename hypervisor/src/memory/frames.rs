//! The frame allocator: one bit a 4 KiB frame of the machine, set where the
//! frame is in use.
//!
//! Used when VMs are made and ended, never on the way of a VM exit, so first
//! fit over a bitmap is fast enough and cannot fragment its own bookkeeping.

use super::address::{FRAME_BYTES, Hpa};
use core::ops::Range;

const BITS: u64 = u64::BITS as u64;

/// Allocator of contiguous runs of frames.
pub struct Frames<'a> {
    used: &'a mut [u64],
    free: u64,
}

impl<'a> Frames<'a> {
    /// Words of bookkeeping needed for memory that ends at `end`.
    pub fn words_for(end: Hpa) -> usize {
        usize::try_from(end.0.div_ceil(FRAME_BYTES * BITS)).unwrap_or(usize::MAX)
    }

    /// An allocator of the frames that lie wholly inside `usable`, as far as
    /// `storage` has bits for them.
    pub fn new(storage: &'a mut [u64], usable: impl Iterator<Item = Range<Hpa>>) -> Self {
        storage.fill(u64::MAX);
        let mut frames = Self {
            used: storage,
            free: 0,
        };
        for range in usable {
            let first = range.start.0.div_ceil(FRAME_BYTES);
            let end = (range.end.0 / FRAME_BYTES).min(frames.len());
            for frame in first..end {
                frames.mark_free(frame);
            }
        }
        frames
    }

    /// Bytes that could be handed out, in whatever pieces.
    pub fn free_bytes(&self) -> u64 {
        self.free * FRAME_BYTES
    }

    /// Takes a run of `bytes` (rounded up to frames) aligned to `alignment`, a
    /// power of two of at least a frame; `None` where no such run is free.
    pub fn allocate(&mut self, bytes: u64, alignment: u64) -> Option<Hpa> {
        let count = bytes.div_ceil(FRAME_BYTES);
        let step = (alignment / FRAME_BYTES).max(1);
        let mut first = 0_u64;
        while first.checked_add(count)? <= self.len() {
            match (first..first + count)
                .rev()
                .find(|&frame| self.is_used(frame))
            {
                None => {
                    (first..first + count).for_each(|frame| self.mark_used(frame));
                    return Some(Hpa(first * FRAME_BYTES));
                }
                // Nothing that begins at or before the used frame can fit.
                Some(used) => first = (used + 1).next_multiple_of(step),
            }
        }
        None
    }

    /// Gives back a run that [`Self::allocate`] handed out, or a part of one.
    pub fn free(&mut self, start: Hpa, bytes: u64) {
        let first = start.0 / FRAME_BYTES;
        let end = (first + bytes.div_ceil(FRAME_BYTES)).min(self.len());
        for frame in first..end {
            debug_assert!(self.is_used(frame), "frame {frame:#x} freed twice");
            self.mark_free(frame);
        }
    }

    fn len(&self) -> u64 {
        self.used.len() as u64 * BITS
    }

    fn word_and_bit(frame: u64) -> (usize, u64) {
        ((frame / BITS) as usize, 1 << (frame % BITS))
    }

    fn is_used(&self, frame: u64) -> bool {
        let (word, bit) = Self::word_and_bit(frame);
        self.used.get(word).is_none_or(|word| word & bit != 0)
    }

    fn mark_used(&mut self, frame: u64) {
        let (word, bit) = Self::word_and_bit(frame);
        if let Some(word) = self.used.get_mut(word)
            && *word & bit == 0
        {
            *word |= bit;
            self.free -= 1;
        }
    }

    fn mark_free(&mut self, frame: u64) {
        let (word, bit) = Self::word_and_bit(frame);
        if let Some(word) = self.used.get_mut(word)
            && *word & bit != 0
        {
            *word &= !bit;
            self.free += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::address::LARGE_BYTES;
    use proptest::prelude::*;
    use std::vec::Vec;

    const END: u64 = 16 * LARGE_BYTES;

    #[test]
    fn only_whole_usable_frames_are_handed_out() {
        let mut storage = [0; 2];
        let usable = [Hpa(0x1800)..Hpa(0x3fff), Hpa(0x8000)..Hpa(0x9000)];
        let mut frames = Frames::new(&mut storage, usable.into_iter());
        assert_eq!(frames.free_bytes(), 2 * FRAME_BYTES);
        assert_eq!(frames.allocate(1, FRAME_BYTES), Some(Hpa(0x2000)));
        assert_eq!(frames.allocate(1, FRAME_BYTES), Some(Hpa(0x8000)));
        assert_eq!(frames.allocate(1, FRAME_BYTES), None);
    }

    #[test]
    fn a_run_does_not_bridge_a_hole() {
        let mut storage = [0; 1];
        let usable = [Hpa(0x1000)..Hpa(0x3000), Hpa(0x4000)..Hpa(0x7000)];
        let mut frames = Frames::new(&mut storage, usable.into_iter());
        assert_eq!(frames.allocate(0x3000, FRAME_BYTES), Some(Hpa(0x4000)));
    }

    proptest! {
        #[test]
        fn runs_are_aligned_disjoint_and_come_back(
            requests in proptest::collection::vec((1u64..600, 0u32..10), 1..40),
        ) {
            let mut storage = std::vec![0; Frames::words_for(Hpa(END))];
            let mut frames = Frames::new(&mut storage, core::iter::once(Hpa(0)..Hpa(END)));
            let all = frames.free_bytes();
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (count, shift) in requests {
                let (bytes, alignment) = (count * FRAME_BYTES, FRAME_BYTES << shift);
                if let Some(start) = frames.allocate(bytes, alignment) {
                    prop_assert!(start.is_aligned(alignment));
                    prop_assert!(start.0 + bytes <= END);
                    for &(other, length) in &taken {
                        prop_assert!(start.0 + bytes <= other || other + length <= start.0);
                    }
                    taken.push((start.0, bytes));
                }
            }
            for (start, bytes) in taken {
                frames.free(Hpa(start), bytes);
            }
            prop_assert_eq!(frames.free_bytes(), all);
        }
    }
}
