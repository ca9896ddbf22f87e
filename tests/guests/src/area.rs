//! XSAVE areas: the instructions on them, their header, and where components lie
//! by a walk of our own over CPUID leaf 0xD.

#![expect(unsafe_code, reason = "the XSAVE family")]

use crate::{processor::cpuid, vector_of};

/// Bytes of the legacy region and the header (SDM Vol. 1, "Legacy Region of an
/// XSAVE Area" and "XSAVE Header").
const EXTENDED_REGION: usize = 576;
const XSTATE_BV: usize = 512;
const XCOMP_BV: usize = 520;
/// First byte of the header that is reserved.
pub const HEADER_RESERVED: usize = 528;
/// Bit 63 of XCOMP_BV: the area is in the compacted format.
pub const COMPACTED: u64 = 1 << 63;
/// Room for every area of the CPUs we know; checked against CPUID.
pub const CAPACITY: usize = 16 * 1024;

/// An area.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Area(pub [u8; CAPACITY]);

/// The save instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// XSAVE
    Xsave,
    /// XSAVEOPT
    Xsaveopt,
    /// XSAVEC
    Xsavec,
    /// XSAVES
    Xsaves,
}

impl Save {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Xsave, Self::Xsaveopt, Self::Xsavec, Self::Xsaves];

    /// Whether it writes the compacted format.
    pub fn is_compacted(self) -> bool {
        matches!(self, Self::Xsavec | Self::Xsaves)
    }
}

impl Area {
    /// Every byte is `byte`, but the header, which is zero.
    pub fn filled(byte: u8) -> Self {
        let mut area = Self([byte; CAPACITY]);
        area.0[XSTATE_BV..EXTENDED_REGION].fill(0);
        area
    }

    /// The eight bytes at `at`.
    pub fn word(&self, at: usize) -> u64 {
        self.0[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
    }

    /// Sets the eight bytes at `at`.
    pub fn set_word(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// XSTATE_BV
    pub fn xstate_bv(&self) -> u64 {
        self.word(XSTATE_BV)
    }

    /// XCOMP_BV
    pub fn xcomp_bv(&self) -> u64 {
        self.word(XCOMP_BV)
    }

    /// Sets both words of the header.
    pub fn with_header(mut self, xstate_bv: u64, xcomp_bv: u64) -> Self {
        self.set_word(XSTATE_BV, xstate_bv);
        self.set_word(XCOMP_BV, xcomp_bv);
        self
    }

    /// Saves the components `mask`; the vector of the exception raised.
    pub fn save(&mut self, save: Save, mask: u64) -> u64 {
        let (at, eax, edx) = (&raw mut *self, mask as u32, (mask >> 32) as u32);
        match save {
            Save::Xsave => {
                vector_of!("xsave64 [{at}]", at = in(reg) at, in("eax") eax, in("edx") edx)
            }
            Save::Xsaveopt => {
                vector_of!("xsaveopt64 [{at}]", at = in(reg) at, in("eax") eax, in("edx") edx)
            }
            Save::Xsavec => {
                vector_of!("xsavec64 [{at}]", at = in(reg) at, in("eax") eax, in("edx") edx)
            }
            Save::Xsaves => {
                vector_of!("xsaves64 [{at}]", at = in(reg) at, in("eax") eax, in("edx") edx)
            }
        }
    }

    /// XRSTOR of the components `mask`; the vector of the exception raised.
    pub fn xrstor(&self, mask: u64) -> u64 {
        let (at, eax, edx) = (&raw const *self, mask as u32, (mask >> 32) as u32);
        vector_of!("xrstor64 [{at}]", at = in(reg) at, in("eax") eax, in("edx") edx)
    }

    /// XRSTORS of the components `mask`; the vector of the exception raised.
    pub fn xrstors(&self, mask: u64) -> u64 {
        let (at, eax, edx) = (&raw const *self, mask as u32, (mask >> 32) as u32);
        vector_of!("xrstors64 [{at}]", at = in(reg) at, in("eax") eax, in("edx") edx)
    }

    /// XSAVE and XRSTOR at an address that is not a multiple of 64.
    pub fn misaligned(&mut self) -> [u64; 2] {
        let at = (&raw mut *self).wrapping_byte_add(8);
        [
            vector_of!("xsave64 [{at}]", at = in(reg) at, in("eax") 1, in("edx") 0),
            vector_of!("xrstor64 [{at}]", at = in(reg) at, in("eax") 1, in("edx") 0),
        ]
    }
}

/// One component of the extended region.
#[derive(Clone, Copy)]
pub struct Component {
    /// Its number.
    pub number: u32,
    /// Its bytes.
    pub size: usize,
    /// Offset in the standard format; zero for supervisor components.
    pub offset: usize,
    /// IA32_XSS governs it rather than XCR0.
    pub supervisor: bool,
    /// It begins at a multiple of 64 in the compacted format.
    pub aligned: bool,
}

/// The components of the extended region that `set` names.
pub fn components(set: u64) -> impl Iterator<Item = Component> {
    (2..63)
        .filter(move |number| set & 1 << number != 0)
        .map(|number| {
            let leaf = cpuid(0xd, number);
            Component {
                number,
                size: leaf.eax as usize,
                offset: leaf.ebx as usize,
                supervisor: leaf.ecx & 1 != 0,
                aligned: leaf.ecx & 1 << 1 != 0,
            }
        })
}

/// Bytes of an area of the components `set` in the standard format.
pub fn standard_size(set: u64) -> usize {
    components(set)
        .filter(|component| !component.supervisor)
        .map(|component| component.offset + component.size)
        .fold(EXTENDED_REGION, usize::max)
}

/// The same in the compacted format (SDM Vol. 1, "Extended Region of an XSAVE
/// Area"): in order of number, some rounded up to 64 bytes.
pub fn compacted_size(set: u64) -> usize {
    compacted_end(set, 63)
}

/// Where component `number` of an area of `set` lies in the compacted format.
pub fn compacted_offset(set: u64, number: u32) -> usize {
    let end = compacted_end(set, number);
    match components(1 << number).next() {
        Some(component) if component.aligned => end.next_multiple_of(64),
        _ => end,
    }
}

/// Where the components of `set` below `number` end.
fn compacted_end(set: u64, number: u32) -> usize {
    components(set & ((1 << number) - 1)).fold(EXTENDED_REGION, |end, component| {
        let start = if component.aligned {
            end.next_multiple_of(64)
        } else {
            end
        };
        start + component.size
    })
}

/// Where component `number` lies in what `save` writes for `set`.
pub fn offset(save: Save, set: u64, number: u32) -> usize {
    if save.is_compacted() {
        compacted_offset(set, number)
    } else {
        components(1 << number)
            .next()
            .map_or(0, |component| component.offset)
    }
}
