//! Sets of interrupt vectors.

/// A set of vectors: IRR, ISR or TMR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    /// Puts `vector` in or takes it out.
    pub(super) fn set(&mut self, vector: u8, value: bool) {
        if let Some(word) = self.0.get_mut(usize::from(vector / 32)) {
            let bit = 1 << (vector % 32);
            *word = if value { *word | bit } else { *word & !bit };
        }
    }

    /// Whether `vector` is in it.
    pub(super) fn contains(&self, vector: u8) -> bool {
        self.word(u32::from(vector / 32)) & 1 << (vector % 32) != 0
    }

    /// The highest vector in it.
    pub(super) fn highest(&self) -> Option<u8> {
        let (index, word) = (0_u8..).zip(self.0).filter(|(_, word)| *word != 0).last()?;
        Some(index * 32 + (31 - word.leading_zeros()) as u8)
    }

    /// The 32 vectors from `32 * index` on, as a register shows them.
    pub(super) fn word(&self, index: u32) -> u32 {
        self.0.get(index as usize).copied().unwrap_or(0)
    }
}
