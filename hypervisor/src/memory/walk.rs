//! Where a guest's linear address leads, by the guest's own page tables: for
//! reports that show the bytes at RIP (SDM Vol. 3, "Paging").
//!
//! Permissions are not checked and accessed bits not set: nothing is executed
//! here. What the tables say is the guest's claim; every access they cause is
//! checked by `read`.

use super::address::Gpa;

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const PRESENT: u64 = 1 << 0;
const PAGE_SIZE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The registers that say how a guest pages, as the hardware has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// CR0
    pub cr0: u64,
    /// CR3
    pub cr3: u64,
    /// CR4
    pub cr4: u64,
    /// IA32_EFER
    pub efer: u64,
}

/// The guest-physical address behind `linear`; `None` where it is not mapped.
/// `read` fetches eight bytes of guest memory.
pub fn translate(
    paging: Paging,
    linear: u64,
    mut read: impl FnMut(Gpa) -> Option<u64>,
) -> Option<Gpa> {
    if paging.cr0 & CR0_PG == 0 {
        return Some(Gpa(linear));
    }
    if paging.cr4 & CR4_PAE == 0 {
        return translate_32_bit(paging, linear, read);
    }
    let levels = match (paging.efer & EFER_LMA != 0, paging.cr4 & CR4_LA57 != 0) {
        (false, _) => 3,
        (true, false) => 4,
        (true, true) => 5,
    };
    let mut table = paging.cr3 & if levels == 3 { 0xffff_ffe0 } else { ADDRESS };
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (level - 1);
        let entry = read(Gpa(table + (linear >> shift & 0x1ff) * 8))?;
        if entry & PRESENT == 0 {
            return None;
        }
        // The PDPTEs of PAE paging have no page-size bit.
        let may_be_leaf = level == 2 || level == 3 && levels > 3;
        if level == 1 || may_be_leaf && entry & PAGE_SIZE != 0 {
            let offset = (1 << shift) - 1;
            return Some(Gpa(entry & ADDRESS & !offset | linear & offset));
        }
        table = entry & ADDRESS;
    }
    None
}

fn translate_32_bit(
    paging: Paging,
    linear: u64,
    mut read: impl FnMut(Gpa) -> Option<u64>,
) -> Option<Gpa> {
    const TABLE: u64 = 0xffff_f000;
    const LARGE_OFFSET: u64 = 0x3f_ffff;
    let mut entry_at = |table: u64, index: u64| {
        let entry = read(Gpa(table + index * 4))? & 0xffff_ffff;
        (entry & PRESENT != 0).then_some(entry)
    };
    let directory = entry_at(paging.cr3 & TABLE, linear >> 22 & 0x3ff)?;
    if directory & PAGE_SIZE != 0 && paging.cr4 & CR4_PSE != 0 {
        // Bits 20:13 of the entry are bits 39:32 of the address (PSE-36).
        let high = (directory >> 13 & 0xff) << 32;
        return Some(Gpa(high | directory & 0xffc0_0000 | linear & LARGE_OFFSET));
    }
    let page = entry_at(directory & TABLE, linear >> 12 & 0x3ff)?;
    Some(Gpa(page & TABLE | linear & 0xfff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const LONG: Paging = Paging {
        cr0: CR0_PG,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LMA,
    };

    fn walk(paging: Paging, entries: &[(u64, u64)], linear: u64) -> Option<u64> {
        let memory: BTreeMap<u64, u64> = entries.iter().copied().collect();
        translate(paging, linear, |gpa| memory.get(&gpa.0).copied()).map(|gpa| gpa.0)
    }

    #[test]
    fn without_paging_addresses_are_physical() {
        assert_eq!(walk(Paging { cr0: 0, ..LONG }, &[], 0x1234), Some(0x1234));
    }

    #[test]
    fn four_levels_lead_through_each_page_size() {
        let linear = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 5;
        let to_pd = [(0x1008, 0x2001), (0x2010, 0x3001)];
        let with = |entries: &[(u64, u64)]| walk(LONG, &[&to_pd, entries].concat(), linear);
        assert_eq!(
            with(&[(0x3018, 0x4001), (0x4020, 0x8000_0000_7000_0001)]),
            Some(0x7000_0005)
        );
        assert_eq!(
            with(&[(0x3018, 0x4020_0081)]),
            Some(0x4020_0000 | 4 << 12 | 5)
        );
        assert_eq!(with(&[(0x3018, 0x4020_0080)]), None);
        assert_eq!(with(&[]), None);
        let huge = walk(LONG, &[(0x1008, 0x2001), (0x2010, 0xc000_0081)], linear);
        assert_eq!(huge, Some(0xc000_0000 | 3 << 21 | 4 << 12 | 5));
    }

    #[test]
    fn five_levels_and_legacy_modes_walk_their_own_shape() {
        let la57 = Paging {
            cr4: CR4_PAE | CR4_LA57,
            ..LONG
        };
        let entries = [(0x1008, 0x2001), (0x2000, 0x3001), (0x3000, 0x81)];
        assert_eq!(walk(la57, &entries, 1 << 48 | 0x123), Some(0x123));

        let pae = Paging {
            efer: 0,
            cr3: 0x1020,
            ..LONG
        };
        let entries = [(0x1028, 0x2001), (0x2000, 0x40_0081)];
        assert_eq!(walk(pae, &entries, 1 << 30 | 0x123), Some(0x40_0123));

        let legacy = Paging {
            efer: 0,
            cr4: CR4_PSE,
            ..LONG
        };
        let entries = [(0x1004, 0x2001), (0x2008, 0x5001), (0x1008, 0x0080_2081)];
        assert_eq!(walk(legacy, &entries, 1 << 22 | 2 << 12 | 7), Some(0x5007));
        assert_eq!(
            walk(legacy, &entries, 2 << 22 | 0x1_2345),
            Some(1 << 32 | 0x81_2345)
        );
    }
}
