//! The bytes of one container: an XSAVE area of exactly the size its components
//! need, aligned as the XSAVE instructions demand, and without slack.
//!
//! Not prevented here: contents that XRSTOR refuses; whoever writes the header
//! or MXCSR answers for them. What is guaranteed is the room: an instruction
//! that saves [`Area::features`] in [`Area::format`] stays inside.

use crate::xstate::features::XFeatures;
use crate::xstate::layout::{Format, LEGACY_SIZE, Layout};
use alloc::vec::Vec;
use thiserror::Error;

/// Alignment of an XSAVE area, in bytes (SDM Vol. 1, "XSAVE Area" (13.4)).
const LINE: usize = 64;

/// `XCOMP_BV` bit that marks the compacted format.
const COMPACTED: u64 = 1 << 63;

/// Offset and initial value of MXCSR. Every restore in the standard format
/// loads it, even where SSE state is to be initialised.
pub(in crate::xstate) const MXCSR_OFFSET: u32 = 24;
pub(in crate::xstate) const MXCSR_INIT: [u8; 4] = 0x1f80_u32.to_le_bytes();

/// What lies behind the area while `debug_assertions` are on.
const GUARD: u8 = 0xa5;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Memory for `count` lines, if there is any.
fn reserve(count: usize) -> Option<Vec<Line>> {
    #[cfg(test)]
    if REFUSE.get() {
        return None;
    }
    let mut lines = Vec::new();
    lines.try_reserve_exact(count).ok()?;
    Some(lines)
}

#[cfg(test)]
std::thread_local! {
    /// Whether there is no memory for further areas.
    pub(in crate::xstate) static REFUSE: core::cell::Cell<bool> =
        const { core::cell::Cell::new(false) };
}

/// Memory for a container was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no memory for an XSAVE area of {bytes} bytes")]
pub struct OutOfMemory {
    /// What was asked for.
    pub bytes: u32,
}

/// An XSAVE area with room for a fixed set of components.
pub struct Area {
    lines: Vec<Line>,
    size: u32,
    features: XFeatures,
    format: Format,
}

impl Area {
    /// An area with room for `features` and the legacy components, in the
    /// format that this processor saves best, with all state initial.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(layout: &Layout, features: XFeatures) -> Result<Self, OutOfMemory> {
        let format = layout.format();
        let features = features | XFeatures::X87 | XFeatures::SSE;
        let size = layout.size(features, format);
        let used = (size as usize).div_ceil(LINE);
        let guard = usize::from(cfg!(debug_assertions));
        let mut lines = reserve(used + guard).ok_or(OutOfMemory { bytes: size })?;
        lines.resize(used + guard, Line([GUARD; LINE]));
        let mut area = Self {
            lines,
            size,
            features,
            format,
        };
        area.clear();
        Ok(area)
    }

    /// Makes all state initial and every byte zero.
    pub fn clear(&mut self) {
        for byte in self.bytes_mut() {
            *byte = 0;
        }
        self.write(MXCSR_OFFSET, &MXCSR_INIT);
        if self.format == Format::Compacted {
            self.set_header_word(1, COMPACTED | self.features.bits());
        }
    }

    /// Size in bytes.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// The components it has room for.
    pub const fn features(&self) -> XFeatures {
        self.features
    }

    /// How they are placed.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// `XSTATE_BV`: the components that hold something, the others being in
    /// their initial configuration.
    pub fn present(&self) -> XFeatures {
        let header = self.lines.get(LEGACY_SIZE as usize / LINE);
        let word = header.and_then(|line| line.0.first_chunk());
        XFeatures::from_bits(word.map_or(0, |&bytes| u64::from_le_bytes(bytes)))
    }

    /// Sets `XSTATE_BV`, which can name only what there is room for.
    pub fn set_present(&mut self, present: XFeatures) {
        self.set_header_word(0, (present & self.features).bits());
    }

    fn set_header_word(&mut self, index: u32, value: u64) {
        self.write(LEGACY_SIZE + 8 * index, &value.to_le_bytes());
    }

    /// Copies from offset `at` on; bytes beyond the area leave `into` as it was.
    pub fn read(&self, at: u32, into: &mut [u8]) {
        let from = self.lines.iter().flat_map(|line| &line.0);
        let from = from.take(self.size as usize).skip(at as usize);
        for (to, from) in into.iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// Copies to offset `at` on; nothing is written beyond the area.
    pub fn write(&mut self, at: u32, from: &[u8]) {
        for (to, from) in self.bytes_mut().skip(at as usize).zip(from) {
            *to = *from;
        }
    }

    /// Clears `size` bytes from offset `at` on.
    pub fn write_zeros(&mut self, at: u32, size: u32) {
        for byte in self.bytes_mut().skip(at as usize).take(size as usize) {
            *byte = 0;
        }
    }

    fn bytes_mut(&mut self) -> impl Iterator<Item = &mut u8> {
        let size = self.size as usize;
        self.lines
            .iter_mut()
            .flat_map(|line| &mut line.0)
            .take(size)
    }

    /// A new area with room for `features` too, holding the same state.
    ///
    /// # Errors
    /// [`OutOfMemory`]; this area is as it was.
    pub fn grown(&self, layout: &Layout, features: XFeatures) -> Result<Self, OutOfMemory> {
        let mut larger = Self::new(layout, self.features | features)?;
        self.copy(0, &mut larger, 0, LEGACY_SIZE);
        let places = layout.walk(larger.features, larger.format);
        let mut old = layout.walk(self.features, self.format).peekable();
        for new in places {
            if let Some(old) = old.next_if(|old| old.number == new.number) {
                self.copy(old.offset, &mut larger, new.offset, old.size);
            }
        }
        larger.set_present(self.present());
        Ok(larger)
    }

    fn copy(&self, from: u32, other: &mut Self, to: u32, size: u32) {
        let mut buffer = [0; LINE];
        let mut done = 0;
        while let Some(rest @ 1..) = size.checked_sub(done) {
            let step = rest.min(LINE as u32);
            let chunk = buffer.get_mut(..step as usize).unwrap_or_default();
            self.read(from + done, chunk);
            other.write(to + done, chunk);
            done += step;
        }
    }

    /// Whether nothing was written behind the area.
    #[cfg(debug_assertions)]
    pub fn guard_intact(&self) -> bool {
        let bytes = self.lines.iter().flat_map(|line| &line.0);
        let mut behind = bytes.skip(self.size as usize);
        behind
            .by_ref()
            .take(LINE)
            .filter(|&&byte| byte == GUARD)
            .count()
            == LINE
            && behind.all(|&byte| byte == GUARD)
    }

    /// Its address, for the instructions that restore from it.
    pub fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    /// Its address, for the instructions that save into it.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }
}
