//! Which MSR accesses of a guest exit (SDM Vol. 3, "MSR-Bitmap Address"):
//! four bitmaps of 1 KiB, for reads and writes of the low and the high range.
//! An MSR outside both ranges always exits.

use crate::cpu::msr::Msr;

const RANGE: u32 = 0x2000;
const HIGH_BASE: u32 = 0xc000_0000;
/// Offsets of the bitmaps of a range within a half, and of the halves.
const LOW: usize = 0;
const HIGH: usize = 1024;
const READS: usize = 0;
const WRITES: usize = 2048;

/// The page that the VMCS points to.
#[repr(C, align(4096))]
pub struct MsrBitmap([u8; 4096]);

impl MsrBitmap {
    /// Every access exits.
    pub const fn intercept_all() -> Self {
        Self([u8::MAX; 4096])
    }

    /// Reads and writes of `msr` no longer exit.
    pub fn pass_through(&mut self, msr: Msr) {
        self.set_intercepted(msr, false);
    }

    /// Whether reads and writes of `msr` exit. An MSR outside both ranges always
    /// does, as the architecture has it.
    pub fn set_intercepted(&mut self, msr: Msr, intercepted: bool) {
        self.set(READS, msr, intercepted);
        self.set(WRITES, msr, intercepted);
    }

    /// Reads of `msr` no longer exit.
    pub fn pass_reads(&mut self, msr: Msr) {
        self.set(READS, msr, false);
    }

    /// Writes of `msr` no longer exit.
    pub fn pass_writes(&mut self, msr: Msr) {
        self.set(WRITES, msr, false);
    }

    fn set(&mut self, half: usize, msr: Msr, intercepted: bool) {
        let (base, index) = match msr.0 {
            low if low < RANGE => (LOW, low),
            high if (HIGH_BASE..HIGH_BASE + RANGE).contains(&high) => (HIGH, high - HIGH_BASE),
            _ => return,
        };
        let bit = 1 << (index % 8);
        if let Some(byte) = self.0.get_mut(half + base + (index / 8) as usize) {
            *byte = if intercepted {
                *byte | bit
            } else {
                *byte & !bit
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleared(bitmap: &MsrBitmap) -> std::vec::Vec<(usize, u8)> {
        let open = bitmap
            .0
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte != u8::MAX);
        open.map(|(index, byte)| (index, !byte)).collect()
    }

    #[test]
    fn exactly_the_bits_of_the_msr_are_opened() {
        for (msr, read) in [
            (Msr(0), (0, 1)),
            (Msr::IA32_XFD, (0x1c4 / 8, 1 << 4)),
            (Msr(0x1fff), (1023, 0x80)),
            (Msr(0xc000_0000), (1024, 1)),
            (Msr(0xc000_1fff), (2047, 0x80)),
        ] {
            let mut bitmap = MsrBitmap::intercept_all();
            bitmap.pass_through(msr);
            assert_eq!(cleared(&bitmap), [read, (read.0 + 2048, read.1)], "{msr:?}");
            bitmap.set_intercepted(msr, true);
            assert!(cleared(&bitmap).is_empty(), "{msr:?}");
            bitmap.pass_reads(msr);
            assert_eq!(cleared(&bitmap), [read], "{msr:?}");
            bitmap.set_intercepted(msr, true);
            bitmap.pass_writes(msr);
            assert_eq!(cleared(&bitmap), [(read.0 + 2048, read.1)], "{msr:?}");
        }
        for outside in [0x2000, 0xbfff_ffff, 0xc000_2000, u32::MAX] {
            let mut bitmap = MsrBitmap::intercept_all();
            bitmap.pass_through(Msr(outside));
            assert!(cleared(&bitmap).is_empty());
        }
    }
}
