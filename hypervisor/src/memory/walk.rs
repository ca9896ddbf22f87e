//! Where a guest's linear address leads, by the guest's own page tables, and what it
//! may do there (SDM Vol. 3, "Paging" and "Access Rights").
//!
//! Accessed and dirty bits are not set, and protection keys not looked at. What the
//! tables say is the guest's claim; every access they cause is checked by `read`.

use super::address::Gpa;

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const CR0_WP: u64 = 1 << 16;
const CR4_SMAP: u64 = 1 << 21;
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
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

/// Where a linear address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// Writable and user bits of all tables on the way.
    rights: u64,
}

/// An access to data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// A write rather than a read.
    pub write: bool,
    /// At privilege level 3.
    pub user: bool,
    /// RFLAGS.AC is set: SMAP lets the kernel access the user's pages.
    pub override_smap: bool,
}

impl Access {
    /// The error code of the page fault that it causes, where something is mapped or
    /// is not (SDM Vol. 3, "Page-Fault Exceptions").
    pub fn error_code(self, mapped: bool) -> u32 {
        u32::from(mapped) | u32::from(self.write) << 1 | u32::from(self.user) << 2
    }
}

impl Mapping {
    /// The guest-physical address, if `access` is allowed there.
    pub fn allows(self, paging: Paging, access: Access) -> Option<Gpa> {
        let has = |right| self.rights & right != 0;
        let reached = match access.user {
            true => has(USER),
            false => !has(USER) || paging.cr4 & CR4_SMAP == 0 || access.override_smap,
        };
        let must_be_writable = access.write && (access.user || paging.cr0 & CR0_WP != 0);
        // Without paging every access is that of a writable page of the kernel's.
        let free = paging.cr0 & CR0_PG == 0;
        (free || reached && (has(WRITABLE) || !must_be_writable)).then_some(self.gpa)
    }
}

/// What is behind `linear`; `None` where it is not mapped. `read` fetches eight bytes of guest memory.
pub fn translate(
    paging: Paging,
    linear: u64,
    mut read: impl FnMut(Gpa) -> Option<u64>,
) -> Option<Mapping> {
    let mut rights = WRITABLE | USER;
    if paging.cr0 & CR0_PG == 0 {
        return Some(Mapping {
            gpa: Gpa(linear),
            rights,
        });
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
        // The PDPTEs of PAE paging have neither rights nor a page-size bit.
        let has_rights = level < 3 || levels > 3;
        if has_rights {
            rights &= entry;
        }
        let may_be_leaf = level == 2 || level == 3 && levels > 3;
        if level == 1 || may_be_leaf && entry & PAGE_SIZE != 0 {
            let offset = (1 << shift) - 1;
            return Some(Mapping {
                gpa: Gpa(entry & ADDRESS & !offset | linear & offset),
                rights,
            });
        }
        table = entry & ADDRESS;
    }
    None
}

fn translate_32_bit(
    paging: Paging,
    linear: u64,
    mut read: impl FnMut(Gpa) -> Option<u64>,
) -> Option<Mapping> {
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
        return Some(Mapping {
            gpa: Gpa(high | directory & 0xffc0_0000 | linear & LARGE_OFFSET),
            rights: directory,
        });
    }
    let page = entry_at(directory & TABLE, linear >> 12 & 0x3ff)?;
    Some(Mapping {
        gpa: Gpa(page & TABLE | linear & 0xfff),
        rights: directory & page,
    })
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
        translate(paging, linear, |gpa| memory.get(&gpa.0).copied()).map(|found| found.gpa.0)
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

    #[test]
    fn an_access_needs_the_rights_of_every_table() {
        let to_page = |rights: [u64; 4]| {
            let [root, pointers, directory, page] = rights;
            [
                (0x1000, 0x2001 | root),
                (0x2000, 0x3001 | pointers),
                (0x3000, 0x4001 | directory),
                (0x4000, 0x5001 | page),
            ]
        };
        let (all, wp) = (WRITABLE | USER, CR0_PG | CR0_WP);
        let check = |rights, cr0, smap, [write, user, override_smap]: [bool; 3]| {
            let memory: BTreeMap<u64, u64> = to_page(rights).into_iter().collect();
            let cr4 = CR4_PAE | if smap { CR4_SMAP } else { 0 };
            let paging = Paging { cr0, cr4, ..LONG };
            let found = translate(paging, 0x123, |gpa| memory.get(&gpa.0).copied());
            let access = Access {
                write,
                user,
                override_smap,
            };
            found.unwrap().allows(paging, access).is_some()
        };
        let (user_read, user_write) = ([false, true, false], [true, true, false]);
        let kernel_write = [true, false, false];
        for level in 0..4 {
            let mut lacks = [all; 4];
            assert!(check(lacks, wp, false, user_write));
            lacks[level] = USER;
            assert!(check(lacks, wp, false, user_read));
            assert!(!check(lacks, wp, false, user_write));
            assert!(!check(lacks, wp, false, kernel_write));
            assert!(check(lacks, CR0_PG, false, kernel_write));
            lacks[level] = WRITABLE;
            assert!(!check(lacks, wp, false, user_read));
            assert!(check(lacks, wp, true, kernel_write));
        }
        assert!(!check([all; 4], wp, true, kernel_write));
        assert!(check([all; 4], wp, true, [true, false, true]));
    }
}
