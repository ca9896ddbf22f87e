//! Sets of state components, in the bit numbering of XCR0 and `IA32_XSS`.
//!
//! The set is open: a bit without a name is kept, tested and passed on like
//! any other. Names exist for printing and for the rules that the manual
//! states by name; nothing else may depend on them.

use core::fmt;
use core::ops::{BitAnd, BitOr, BitOrAssign, Sub};

/// A set of XSAVE-managed state components: bit *n* stands for component *n*
/// (SDM Vol. 1, "XSAVE-Supported Features and State-Component Bitmaps" (13.1)).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct XFeatures(u64);

impl XFeatures {
    /// No component.
    pub const EMPTY: Self = Self(0);
    /// Every bit, named or not.
    pub const ALL: Self = Self(u64::MAX);
    /// x87 (and MMX) state; always enabled in XCR0.
    pub const X87: Self = Self::single(0);
    /// XMM registers and MXCSR.
    pub const SSE: Self = Self::single(1);
    /// Upper halves of the YMM registers.
    pub const AVX: Self = Self::single(2);
    /// The two MPX components.
    pub const MPX: Self = Self(0b11 << 3);
    /// The three AVX-512 components: opmasks, upper halves of ZMM0 to ZMM15,
    /// and ZMM16 to ZMM31.
    pub const AVX512: Self = Self(0b111 << 5);
    /// Protection-key rights of user pages.
    pub const PKRU: Self = Self::single(9);
    /// The user and the supervisor component of control-flow enforcement.
    pub const CET: Self = Self(0b11 << 11);
    /// The tile configuration, TILECFG.
    pub const TILE_CONFIG: Self = Self::single(17);
    /// The tile registers, TILEDATA.
    pub const TILE_DATA: Self = Self::single(18);
    /// Both AMX components.
    pub const TILES: Self = Self(Self::TILE_CONFIG.0 | Self::TILE_DATA.0);

    /// The set whose bitmap is `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bitmap, as XCR0, `IA32_XSS`, XFD or `XSTATE_BV` would hold it.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set of component `number` alone; empty beyond bit 63.
    pub const fn single(number: u8) -> Self {
        Self(if number < 64 { 1 << number } else { 0 })
    }

    /// Whether every component of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether the two sets have a component in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether some, but not all, components of `group` are in this set.
    pub const fn splits(self, group: Self) -> bool {
        self.intersects(group) && !self.contains(group)
    }

    /// The component numbers in ascending order.
    pub fn numbers(self) -> impl Iterator<Item = u8> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let number = rest.trailing_zeros() as u8;
            // Clears the lowest set bit; nothing is left of an empty set.
            rest &= rest.wrapping_sub(1);
            (number < 64).then_some(number)
        })
    }
}

impl BitOr for XFeatures {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for XFeatures {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for XFeatures {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Set difference.
impl Sub for XFeatures {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The name the manual gives component `number`.
const fn name(number: u8) -> Option<&'static str> {
    Some(match number {
        0 => "x87",
        1 => "SSE",
        2 => "AVX",
        3 => "BNDREGS",
        4 => "BNDCSR",
        5 => "opmask",
        6 => "ZMM_Hi256",
        7 => "Hi16_ZMM",
        8 => "PT",
        9 => "PKRU",
        10 => "PASID",
        11 => "CET_U",
        12 => "CET_S",
        13 => "HDC",
        14 => "UINTR",
        15 => "LBR",
        16 => "HWP",
        17 => "TILECFG",
        18 => "TILEDATA",
        19 => "APX",
        _ => return None,
    })
}

impl fmt::Display for XFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (index, number) in self.numbers().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match name(number) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "component {number}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for XFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} ({self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn nameless_components_are_printed_by_number() {
        let set = XFeatures::X87 | XFeatures::TILE_DATA | XFeatures::single(40);
        assert_eq!(set.to_string(), "x87, TILEDATA, component 40");
        assert_eq!(XFeatures::EMPTY.to_string(), "none");
    }

    proptest! {
        #[test]
        fn no_bit_is_lost(bits: u64) {
            let set = XFeatures::from_bits(bits);
            prop_assert_eq!(set.bits(), bits);
            let again = set.numbers().fold(XFeatures::EMPTY, |sum, n| sum | XFeatures::single(n));
            prop_assert_eq!(again, set);
        }

        #[test]
        fn a_group_is_split_when_neither_whole_nor_absent(bits: u64, group: u64) {
            let (set, group) = (XFeatures::from_bits(bits), XFeatures::from_bits(group));
            let inside = set & group;
            prop_assert_eq!(set.splits(group), inside != group && !inside.is_empty());
        }
    }
}
