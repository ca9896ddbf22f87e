//! A laid-out guest as one file: what `guest-loader` plans, with nothing left to decide,
//! for those who start it elsewhere than in a VM of ours.
//!
//! | words | what |
//! |---|---|
//! | [`HEADER_WORDS`] | [`MAGIC`], then the fields of [`Registers`], then the number of pieces |
//! | 2 a piece | the address it goes to, and its bytes |
//! | | the pieces, without gaps |
//!
//! Words have 64 bits and are little-endian.

#![no_std]

/// "TILEFLAT"
pub const MAGIC: u64 = u64::from_le_bytes(*b"TILEFLAT");
/// Words before the list of pieces.
pub const HEADER_WORDS: usize = 10;
/// Words of a piece in the list.
pub const PIECE_WORDS: usize = 2;
/// Bytes of a word.
pub const WORD_BYTES: usize = 8;

/// Registers at an entry in 64-bit mode (`guest_loader::Entry::Long64`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// The first instruction.
    pub rip: u64,
    /// Top of the stack.
    pub rsp: u64,
    /// RDI
    pub rdi: u64,
    /// RSI
    pub rsi: u64,
    /// Root of the page tables.
    pub cr3: u64,
    /// Address of the GDT.
    pub gdt_base: u64,
    /// Its limit.
    pub gdt_limit: u64,
    /// Selector of the code segment; that of the data segment follows it.
    pub code_selector: u64,
}

/// Such a file.
#[derive(Clone, Copy, Debug)]
pub struct Flat<'a>(&'a [u8]);

impl<'a> Flat<'a> {
    /// The file, if it is one and whole.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let flat = Self(bytes);
        let end = flat.ends()?.last();
        let whole = end.unwrap_or(flat.data_start()?) == bytes.len();
        (flat.word(0)? == MAGIC && whole).then_some(flat)
    }

    fn word(&self, index: usize) -> Option<u64> {
        let at = index.checked_mul(WORD_BYTES)?;
        let bytes = self.0.get(at..at + WORD_BYTES)?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    fn count(&self) -> Option<usize> {
        usize::try_from(self.word(HEADER_WORDS - 1)?).ok()
    }

    fn data_start(&self) -> Option<usize> {
        let words = self.count()?.checked_mul(PIECE_WORDS)? + HEADER_WORDS;
        words.checked_mul(WORD_BYTES)
    }

    /// Where each piece ends in the file.
    fn ends(&self) -> Option<impl Iterator<Item = usize>> {
        let mut end = self.data_start().filter(|start| *start <= self.0.len())?;
        let list = *self;
        Some((0..self.count()?).map(move |piece| {
            let bytes = list.word(HEADER_WORDS + piece * PIECE_WORDS + 1);
            // A length that is none makes the file end nowhere.
            let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
            end = end.saturating_add(bytes.unwrap_or(usize::MAX));
            end
        }))
    }

    /// The registers to begin with.
    pub fn registers(&self) -> Registers {
        let word = |index| self.word(index).unwrap_or(0);
        Registers {
            rip: word(1),
            rsp: word(2),
            rdi: word(3),
            rsi: word(4),
            cr3: word(5),
            gdt_base: word(6),
            gdt_limit: word(7),
            code_selector: word(8),
        }
    }

    /// The pieces, each with the address it goes to.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &'a [u8])> {
        let flat = *self;
        let mut start = self.data_start().unwrap_or(0);
        self.ends()
            .into_iter()
            .flatten()
            .enumerate()
            .filter_map(move |(piece, end)| {
                let bytes = flat.0.get(start..end)?;
                start = end;
                Some((flat.word(HEADER_WORDS + piece * PIECE_WORDS)?, bytes))
            })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn file(pieces: &[(u64, &[u8])]) -> Vec<u8> {
        let mut words: Vec<u64> = Vec::from([MAGIC]);
        words.extend(1..9);
        words.push(pieces.len() as u64);
        words.extend(pieces.iter().flat_map(|(to, bytes)| [*to, bytes.len() as u64]));
        let mut file: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        file.extend(pieces.iter().flat_map(|(_, bytes)| *bytes));
        file
    }

    #[test]
    fn pieces_and_registers_are_found() {
        let pieces: [(u64, &[u8]); 3] = [(0x1000, b"abc"), (0x2000, b""), (0x3000, b"defgh")];
        let file = file(&pieces);
        let flat = Flat::parse(&file).unwrap();
        assert_eq!(flat.pieces().collect::<Vec<_>>(), pieces);
        let registers = flat.registers();
        assert_eq!((registers.rip, registers.code_selector), (1, 8));
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let good = file(&[(0x1000, b"abc"), (0x2000, b"de")]);
        assert!(Flat::parse(&good).is_some());
        for bytes in 0..good.len() {
            assert!(Flat::parse(&good[..bytes]).is_none(), "{bytes}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(Flat::parse(&longer).is_none());
        let mut huge = good.clone();
        let length = (HEADER_WORDS + 1) * WORD_BYTES;
        huge[length..length + WORD_BYTES].fill(0xff);
        assert!(Flat::parse(&huge).is_none());
        let mut many = good;
        many[(HEADER_WORDS - 1) * WORD_BYTES..HEADER_WORDS * WORD_BYTES].fill(0xff);
        assert!(Flat::parse(&many).is_none());
    }
}
