//! Rule xs-13: the extended state of a vCPU as data.
//!
//! On entry: the state is parked. The whole user state is read and written as
//! an XSAVE area in the standard format, which does not depend on how this
//! processor saves; a component can be listed, read and written alone, in
//! slices. What the vCPU is not offered is neither listed nor accessible.
//! Everything is checked before anything is changed, so an image is taken
//! whole or not at all.
//!
//! Case 2: data of a component that XFD has armed is accepted and kept; it is
//! what the guest finds when it disarms the component (rule xs-10).
//!
//! Not reached here: supervisor components. Their contents are MSRs, each with
//! rules of its own for what may be written.

use crate::xstate::area::{Area, MXCSR_INIT, MXCSR_OFFSET, OutOfMemory};
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Fpstate, GrowError, InRegisters, Residence};
use crate::xstate::layout::{EXTENDED_START, Format, LEGACY_SIZE, Layout};
use crate::xstate::xcr0::XsetbvFault;
use crate::xstate::xfd::XfdFault;
use thiserror::Error;

/// FCW in the initial configuration.
const FCW_INIT: [u8; 2] = 0x37f_u16.to_le_bytes();

/// Bits of MXCSR that can be set on every processor with XSAVE; restoring any
/// other raises #GP (SDM Vol. 1, "MXCSR Control and Status Register" (10.2.3)).
const MXCSR_VALID: u32 = 0xffff;

/// Bytes of the legacy region that belong to each of the legacy components.
const X87_PIECES: [Piece; 2] = [piece(0, 24), piece(32, 128)];
const SSE_PIECES: [Piece; 2] = [piece(24, 4), piece(160, 256)];

/// Consecutive bytes of a component in an area.
#[derive(Clone, Copy)]
struct Piece {
    offset: u32,
    size: u32,
}

const fn piece(offset: u32, size: u32) -> Piece {
    Piece { offset, size }
}

/// Where component `number` lies in an area for `set`: nowhere, if it is not
/// in the set.
fn pieces(layout: &Layout, number: u8, set: XFeatures, format: Format) -> [Piece; 2] {
    match number {
        0 => X87_PIECES,
        1 => SSE_PIECES,
        _ => {
            let placed = layout.walk(set, format).find(|p| p.number == number);
            let first = placed.map_or(piece(0, 0), |p| piece(p.offset, p.size));
            [first, piece(0, 0)]
        }
    }
}

/// Where a component lies in `area`.
fn pieces_in(layout: &Layout, number: u8, area: &Area) -> [Piece; 2] {
    pieces(layout, number, area.features(), area.format())
}

/// The first bytes of the initial configuration of component `number`; all
/// others are zero (SDM Vol. 1, "XSAVE-Managed State" (13.5)).
const fn initial(number: u8) -> &'static [u8] {
    match number {
        0 => &FCW_INIT,
        1 => &MXCSR_INIT,
        _ => &[],
    }
}

/// Why extended state could not be read or written; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// The vCPU must be parked first.
    #[error("{}", InRegisters)]
    InRegisters,
    /// Components that the vCPU is not offered.
    #[error("not offered to this vCPU: {0}")]
    NotEnabled(XFeatures),
    /// A slice that reaches beyond the component, of this many bytes.
    #[error("the slice passes the component's {size} bytes")]
    BeyondComponent {
        /// The component's size.
        size: u32,
    },
    /// An image shorter than its contents.
    #[error("the image must have {needed} bytes")]
    TooShort {
        /// The bytes that are needed.
        needed: u32,
    },
    /// A header byte that must be zero in the standard format is not.
    #[error("byte {offset} of the XSAVE header must be zero")]
    Header {
        /// Its offset.
        offset: u32,
    },
    /// MXCSR with reserved bits set.
    #[error("MXCSR {0:#x} has reserved bits set")]
    Mxcsr(u32),
    /// An XCR0 that XSETBV would refuse.
    #[error("no value of XCR0: {0:?}")]
    Xcr0(XsetbvFault),
    /// Bits of `IA32_XSS` that are not offered.
    #[error("IA32_XSS with what is not offered: {0}")]
    Xss(XFeatures),
    /// An XFD or XFD_ERR that WRMSR would refuse.
    #[error("no value of IA32_XFD or IA32_XFD_ERR: {0:?}")]
    Xfd(XfdFault),
    /// The container could not grow.
    #[error("{0}")]
    OutOfMemory(OutOfMemory),
}

impl From<InRegisters> for StateError {
    fn from(InRegisters: InRegisters) -> Self {
        Self::InRegisters
    }
}

impl From<GrowError> for StateError {
    fn from(error: GrowError) -> Self {
        match error {
            GrowError::InRegisters => Self::InRegisters,
            GrowError::OutOfMemory(error) => Self::OutOfMemory(error),
        }
    }
}

impl Fpstate {
    /// Bytes of the full state in the standard format.
    pub fn state_size(&self, layout: &Layout) -> u32 {
        layout.size(self.offer.user(), Format::Standard)
    }

    /// Writes the full state into `image`; bytes behind it stay as they are.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read_state(&self, layout: &Layout, image: &mut [u8]) -> Result<(), StateError> {
        self.check_in_memory()?;
        let needed = self.state_size(layout);
        let image = image
            .get_mut(..needed as usize)
            .ok_or(StateError::TooShort { needed })?;
        image.fill(0);
        let user = self.offer.user();
        for number in user.numbers() {
            let mut done = 0;
            for place in pieces(layout, number, user, Format::Standard) {
                let range = place.offset as usize..(place.offset + place.size) as usize;
                if let Some(slot) = image.get_mut(range) {
                    self.copy_out(layout, number, done, slot);
                }
                done += place.size;
            }
        }
        let present = (self.area.present() & user).bits().to_le_bytes();
        let header = image.iter_mut().skip(LEGACY_SIZE as usize);
        for (to, from) in header.zip(present) {
            *to = from;
        }
        Ok(())
    }

    /// Replaces the full user state by `image`.
    ///
    /// # Errors
    /// [`StateError`]; the state is as it was.
    pub fn write_state(&mut self, layout: &Layout, image: &[u8]) -> Result<(), StateError> {
        let (present, mxcsr) = self.check_image(layout, image)?;
        self.grow(layout, present & self.offer.dynamic())?;

        let set = self.offer.user();
        let kept = self.area.present() & self.offer.supervisor();
        self.area.write(MXCSR_OFFSET, &mxcsr);
        for number in present.numbers() {
            let to = pieces_in(layout, number, &self.area);
            let from = pieces(layout, number, set, Format::Standard);
            for (to, from) in to.into_iter().zip(from) {
                let range = from.offset as usize..(from.offset + from.size) as usize;
                self.area
                    .write(to.offset, image.get(range).unwrap_or_default());
            }
        }
        self.area.set_present(present | kept);
        self.residence = Residence::Memory;
        Ok(())
    }

    /// What `image` holds, and the MXCSR that it means.
    fn check_image(
        &self,
        layout: &Layout,
        image: &[u8],
    ) -> Result<(XFeatures, [u8; 4]), StateError> {
        let needed = EXTENDED_START;
        let header = image
            .get(LEGACY_SIZE as usize..EXTENDED_START as usize)
            .and_then(<[u8]>::split_first_chunk);
        let legacy = image
            .get(MXCSR_OFFSET as usize..)
            .and_then(<[u8]>::first_chunk);
        let (Some((present, reserved)), Some(mxcsr)) = (header, legacy) else {
            return Err(StateError::TooShort { needed });
        };
        // XCOMP_BV among them: an image is never compacted.
        if let Some((offset, _)) = (LEGACY_SIZE + 8..).zip(reserved).find(|(_, b)| **b != 0) {
            return Err(StateError::Header { offset });
        }
        let present = XFeatures::from_bits(u64::from_le_bytes(*present));
        let foreign = present - self.offer.user();
        if !foreign.is_empty() {
            return Err(StateError::NotEnabled(foreign));
        }
        let needed = layout.size(present, Format::Standard);
        if image.len() < needed as usize {
            return Err(StateError::TooShort { needed });
        }
        // MXCSR belongs to both, in the standard format.
        if present.intersects(XFeatures::SSE | XFeatures::AVX) {
            check_mxcsr(*mxcsr)?;
            // In the compacted format only SSE carries it.
            let sse = if *mxcsr == MXCSR_INIT {
                XFeatures::EMPTY
            } else {
                XFeatures::SSE
            };
            return Ok((present | sse, *mxcsr));
        }
        Ok((present, MXCSR_INIT))
    }

    /// The user components that the vCPU is offered, with their sizes in bytes.
    pub fn components(&self, layout: &Layout) -> impl Iterator<Item = (u8, u32)> {
        let user = self.offer.user();
        user.numbers()
            .map(move |number| (number, component_size(layout, number)))
    }

    /// Reads a slice of one component, from byte `offset` on. x87 is read
    /// without, SSE with MXCSR in front of its registers.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read_component(
        &self,
        layout: &Layout,
        number: u8,
        offset: u32,
        into: &mut [u8],
    ) -> Result<(), StateError> {
        self.check_slice(layout, number, offset, into.len())?;
        self.copy_out(layout, number, offset, into);
        Ok(())
    }

    /// Writes a slice of one component, from byte `offset` on; the rest of it
    /// stays as it was.
    ///
    /// # Errors
    /// [`StateError`]; the state is as it was.
    pub fn write_component(
        &mut self,
        layout: &Layout,
        number: u8,
        offset: u32,
        from: &[u8],
    ) -> Result<(), StateError> {
        self.check_slice(layout, number, offset, from.len())?;
        let set = XFeatures::single(number);
        if set == XFeatures::SSE {
            let mut mxcsr = [0; 4];
            self.copy_out(layout, number, 0, &mut mxcsr);
            let changed = mxcsr.iter_mut().skip(offset as usize);
            for (to, from) in changed.zip(from) {
                *to = *from;
            }
            check_mxcsr(mxcsr)?;
        }
        self.grow(layout, set & self.offer.dynamic())?;

        if !self.area.present().contains(set) {
            // What is not written stays initial, so it must be so in memory.
            for place in pieces_in(layout, number, &self.area) {
                self.area.write_zeros(place.offset, place.size);
            }
            self.copy_in(layout, number, 0, initial(number));
            self.area.set_present(self.area.present() | set);
        }
        self.copy_in(layout, number, offset, from);
        self.residence = Residence::Memory;
        Ok(())
    }

    fn check_slice(
        &self,
        layout: &Layout,
        number: u8,
        offset: u32,
        len: usize,
    ) -> Result<(), StateError> {
        self.check_in_memory()?;
        let set = XFeatures::single(number);
        if set.is_empty() || !self.offer.user().contains(set) {
            return Err(StateError::NotEnabled(set));
        }
        let size = component_size(layout, number);
        if offset as usize + len > size as usize {
            return Err(StateError::BeyondComponent { size });
        }
        Ok(())
    }

    /// Copies bytes of a component out, those of the initial configuration if
    /// it is not present.
    fn copy_out(&self, layout: &Layout, number: u8, offset: u32, into: &mut [u8]) {
        if !self.area.present().contains(XFeatures::single(number)) {
            let start = initial(number).iter().skip(offset as usize);
            let bytes = start.chain(core::iter::repeat(&0));
            for (to, from) in into.iter_mut().zip(bytes) {
                *to = *from;
            }
            return;
        }
        let mut rest = into;
        let mut skip = offset;
        for place in pieces_in(layout, number, &self.area) {
            let start = skip.min(place.size);
            let len = rest.len().min((place.size - start) as usize);
            let (slot, more) = rest.split_at_mut(len);
            self.area.read(place.offset + start, slot);
            (rest, skip) = (more, skip - start);
        }
    }

    /// The inverse of [`Fpstate::copy_out`], for a component that is present.
    fn copy_in(&mut self, layout: &Layout, number: u8, offset: u32, from: &[u8]) {
        let mut rest = from;
        let mut skip = offset;
        for place in pieces_in(layout, number, &self.area) {
            let start = skip.min(place.size);
            let len = rest.len().min((place.size - start) as usize);
            let (slot, more) = rest.split_at(len);
            self.area.write(place.offset + start, slot);
            (rest, skip) = (more, skip - start);
        }
    }
}

fn component_size(layout: &Layout, number: u8) -> u32 {
    let set = XFeatures::single(number);
    let pieces = pieces(layout, number, set, Format::Compacted);
    pieces.iter().map(|piece| piece.size).sum()
}

fn check_mxcsr(bytes: [u8; 4]) -> Result<(), StateError> {
    let value = u32::from_le_bytes(bytes);
    if value & !MXCSR_VALID == 0 {
        Ok(())
    } else {
        Err(StateError::Mxcsr(value))
    }
}
