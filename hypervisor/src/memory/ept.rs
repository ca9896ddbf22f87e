//! Extended page tables: what a guest-physical address means
//! (SDM Vol. 3, "The Extended Page Table Mechanism (EPT)").
//!
//! Four levels of 512 entries. Everything a VM sees is its own memory, mapped
//! read-write-execute and write-back with the largest pages that fit; all else
//! is absent and exits. Entries are only ever added before the VM runs, so
//! nothing here invalidates.

use super::address::{FRAME_BYTES, Gpa, HUGE_BYTES, Hpa, LARGE_BYTES};
use bitflags::bitflags;

/// Entries of one table.
pub const ENTRIES: usize = 512;
/// One table: a frame of entries.
pub type Table = [u64; ENTRIES];

/// Where tables come from and how they are reached; the host tests keep them
/// in a map.
pub trait TableFrames {
    /// A zeroed frame for a table; `None` when memory has run out.
    fn allocate(&mut self) -> Option<Hpa>;
    /// The table in a frame that [`Self::allocate`] handed out.
    fn table(&mut self, frame: Hpa) -> &mut Table;
    /// Takes back a frame that [`Self::allocate`] handed out.
    fn free(&mut self, frame: Hpa);
}

bitflags! {
    /// Bits of an entry (SDM Vol. 3, "Format of an EPT Page-Table Entry").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Entry: u64 {
        const READ = 1 << 0;
        const WRITE = 1 << 1;
        const EXECUTE = 1 << 2;
        /// Memory type write-back, in leaves.
        const WRITE_BACK = 6 << 3;
        /// The entry maps a page although it is not in a last-level table.
        const LEAF = 1 << 7;
        const ADDRESS = 0x000f_ffff_ffff_f000;
    }
}

const ALL_ACCESS: Entry = Entry::READ.union(Entry::WRITE).union(Entry::EXECUTE);

/// The largest page sizes this CPU's EPT can map (IA32_VMX_EPT_VPID_CAP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizes {
    /// 2 MiB pages, bit 16.
    pub large: bool,
    /// 1 GiB pages, bit 17.
    pub huge: bool,
}

/// Why a mapping could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No frame is left for a table.
    OutOfMemory,
    /// Something is mapped at this address already.
    Occupied(Gpa),
    /// Address or length is not a multiple of 4 KiB, or beyond 48 bits.
    BadRange,
}

/// The tables of one VM.
pub struct Ept {
    root: Hpa,
}

/// Bytes that one entry of a level covers; level 1 is the last.
const fn span(level: u32) -> u64 {
    FRAME_BYTES << (9 * (level - 1))
}

fn index(gpa: Gpa, level: u32) -> usize {
    (gpa.0 / span(level)) as usize % ENTRIES
}

impl Ept {
    const LEVELS: u32 = 4;

    /// An empty address space.
    pub fn new(frames: &mut impl TableFrames) -> Result<Self, MapError> {
        let root = frames.allocate().ok_or(MapError::OutOfMemory)?;
        Ok(Self { root })
    }

    /// The EPT pointer for the VMCS: write-back tables, a walk of four levels
    /// (SDM Vol. 3, "Extended-Page-Table Pointer (EPTP)").
    pub fn pointer(&self) -> u64 {
        const WRITE_BACK: u64 = 6;
        self.root.0 | WRITE_BACK | u64::from(Self::LEVELS - 1) << 3
    }

    /// Maps `bytes` of guest memory at `gpa` to the run of frames at `hpa`, with
    /// the largest pages that both addresses, the length and the CPU allow.
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        sizes: PageSizes,
        gpa: Gpa,
        hpa: Hpa,
        bytes: u64,
    ) -> Result<(), MapError> {
        let end = gpa.checked_add(bytes).ok_or(MapError::BadRange)?;
        let aligned = gpa.is_aligned(FRAME_BYTES)
            && hpa.is_aligned(FRAME_BYTES)
            && bytes.is_multiple_of(FRAME_BYTES);
        if !aligned || end.0 > span(Self::LEVELS + 1) {
            return Err(MapError::BadRange);
        }
        let mut done = 0;
        while done < bytes {
            let (gpa, hpa) = (Gpa(gpa.0 + done), Hpa(hpa.0 + done));
            let fits = |size| gpa.is_aligned(size) && hpa.is_aligned(size) && bytes - done >= size;
            let level = match () {
                () if sizes.huge && fits(HUGE_BYTES) => 3,
                () if sizes.large && fits(LARGE_BYTES) => 2,
                () => 1,
            };
            self.map_page(frames, gpa, hpa, level)?;
            done += span(level);
        }
        Ok(())
    }

    fn map_page(
        &mut self,
        frames: &mut impl TableFrames,
        gpa: Gpa,
        hpa: Hpa,
        leaf_level: u32,
    ) -> Result<(), MapError> {
        let mut table = self.root;
        for level in (leaf_level + 1..=Self::LEVELS).rev() {
            let entry = frames.table(table)[index(gpa, level)];
            let entry = Entry::from_bits_retain(entry);
            table = if entry.is_empty() {
                let next = frames.allocate().ok_or(MapError::OutOfMemory)?;
                frames.table(table)[index(gpa, level)] = next.0 | ALL_ACCESS.bits();
                next
            } else if entry.contains(Entry::LEAF) {
                return Err(MapError::Occupied(gpa));
            } else {
                Hpa((entry & Entry::ADDRESS).bits())
            };
        }
        let slot = &mut frames.table(table)[index(gpa, leaf_level)];
        if *slot != 0 {
            return Err(MapError::Occupied(gpa));
        }
        let mut entry = ALL_ACCESS | Entry::WRITE_BACK;
        entry.set(Entry::LEAF, leaf_level > 1);
        *slot = hpa.0 | entry.bits();
        Ok(())
    }

    /// Gives every table back. The memory that was mapped is its owner's to free.
    pub fn release(self, frames: &mut impl TableFrames) {
        release_table(frames, self.root, Self::LEVELS);
    }
}

fn release_table(frames: &mut impl TableFrames, table: Hpa, level: u32) {
    if level > 1 {
        for slot in 0..ENTRIES {
            let entry = Entry::from_bits_retain(frames.table(table)[slot]);
            if !entry.is_empty() && !entry.contains(Entry::LEAF) {
                release_table(frames, Hpa((entry & Entry::ADDRESS).bits()), level - 1);
            }
        }
    }
    frames.free(table);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{boxed::Box, collections::BTreeMap};

    /// Tables in a map; allocation fails once `left` is used up.
    struct FakeFrames {
        tables: BTreeMap<u64, Box<Table>>,
        next: u64,
        left: usize,
    }

    impl FakeFrames {
        fn with(left: usize) -> Self {
            Self {
                tables: BTreeMap::new(),
                next: 0x10_0000,
                left,
            }
        }
    }

    impl TableFrames for FakeFrames {
        fn allocate(&mut self) -> Option<Hpa> {
            self.left = self.left.checked_sub(1)?;
            self.next += FRAME_BYTES;
            self.tables.insert(self.next, Box::new([0; ENTRIES]));
            Some(Hpa(self.next))
        }
        fn table(&mut self, frame: Hpa) -> &mut Table {
            self.tables
                .get_mut(&frame.0)
                .expect("a table that was allocated")
        }
        fn free(&mut self, frame: Hpa) {
            assert!(self.tables.remove(&frame.0).is_some(), "freed twice");
            self.left += 1;
        }
    }

    const ALL_SIZES: PageSizes = PageSizes {
        large: true,
        huge: true,
    };

    #[test]
    fn the_largest_pages_that_fit_are_used() {
        let mut frames = FakeFrames::with(100);
        let mut ept = Ept::new(&mut frames).unwrap();
        // Root and one PDPT for the 1 GiB page; a PD for 2 MiB; a PT for 4 KiB.
        for (bytes, tables) in [(HUGE_BYTES, 2), (LARGE_BYTES, 3), (FRAME_BYTES, 4)] {
            let at = match bytes {
                HUGE_BYTES => 0,
                LARGE_BYTES => HUGE_BYTES,
                _ => HUGE_BYTES + LARGE_BYTES,
            };
            ept.map(&mut frames, ALL_SIZES, Gpa(at), Hpa(at), bytes)
                .unwrap();
            assert_eq!(frames.tables.len(), tables);
        }
        ept.release(&mut frames);
        assert!(frames.tables.is_empty());
    }

    #[test]
    fn without_memory_or_with_bad_ranges_mapping_is_refused() {
        let mut frames = FakeFrames::with(2);
        let mut ept = Ept::new(&mut frames).unwrap();
        let mut map = |gpa, hpa, bytes| ept.map(&mut frames, ALL_SIZES, Gpa(gpa), Hpa(hpa), bytes);
        assert_eq!(map(0, 0, FRAME_BYTES), Err(MapError::OutOfMemory));
        assert_eq!(map(1, 0, FRAME_BYTES), Err(MapError::BadRange));
        assert_eq!(map(0, 1, FRAME_BYTES), Err(MapError::BadRange));
        assert_eq!(map(0, 0, 1), Err(MapError::BadRange));
        assert_eq!(map(1 << 48, 0, FRAME_BYTES), Err(MapError::BadRange));
        assert_eq!(map(!4095, 0, 2 * FRAME_BYTES), Err(MapError::BadRange));
        assert_eq!(map(0, 0, HUGE_BYTES), Ok(()));
        assert_eq!(map(0, 0, HUGE_BYTES), Err(MapError::Occupied(Gpa(0))));
        assert_eq!(
            map(LARGE_BYTES, 0, LARGE_BYTES),
            Err(MapError::Occupied(Gpa(LARGE_BYTES)))
        );
    }

    /// Where `gpa` leads, as the CPU would walk it.
    fn translate(ept: &Ept, frames: &mut impl TableFrames, gpa: Gpa) -> Option<Hpa> {
        if gpa.0 >= span(Ept::LEVELS + 1) {
            return None;
        }
        let mut table = ept.root;
        for level in (1..=Ept::LEVELS).rev() {
            let entry = Entry::from_bits_retain(frames.table(table)[index(gpa, level)]);
            if !entry.intersects(ALL_ACCESS) {
                return None;
            }
            let address = (entry & Entry::ADDRESS).bits();
            if level == 1 || entry.contains(Entry::LEAF) {
                return Some(Hpa(address + gpa.0 % span(level)));
            }
            table = Hpa(address);
        }
        None
    }

    proptest! {
        #[test]
        fn every_address_in_the_range_translates_and_none_beside_it(
            gpa in 0u64..1 << 20, hpa in 0u64..1 << 20, pages in 1u64..2000,
            large: bool, huge: bool, offset in 0u64..FRAME_BYTES,
        ) {
            let (gpa, hpa, bytes) = (gpa * FRAME_BYTES, hpa * FRAME_BYTES, pages * FRAME_BYTES);
            let mut frames = FakeFrames::with(10_000);
            let mut ept = Ept::new(&mut frames).unwrap();
            ept.map(&mut frames, PageSizes { large, huge }, Gpa(gpa), Hpa(hpa), bytes).unwrap();
            for page in 0..pages {
                let at = page * FRAME_BYTES + offset;
                prop_assert_eq!(translate(&ept, &mut frames, Gpa(gpa + at)), Some(Hpa(hpa + at)));
            }
            prop_assert_eq!(translate(&ept, &mut frames, Gpa(gpa + bytes)), None);
            if gpa > 0 {
                prop_assert_eq!(translate(&ept, &mut frames, Gpa(gpa - 1)), None);
            }
        }
    }
}
