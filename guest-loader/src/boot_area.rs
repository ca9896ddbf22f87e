//! What the loader itself puts below 1 MiB:
//!
//! | address            | what |
//! |--------------------|------|
//! | 0x1000 .. 0x2000   | `hvm_start_info` and its memory map, or Linux' zero page, or Multiboot information |
//! | 0x2000 .. 0x3000   | command line, zero-terminated |
//! | 0x3000 .. 0x3020   | GDT |
//! | 0x4000 .. 0xa000   | page tables: root, one directory pointer table, four directories |
//! | 0x10000 .. 0x20000 | stack |
//!
//! The first page stays zero, so that a null pointer leads to nothing.

use crate::{Copy, Gdt, error::Error};
use alloc::{borrow::Cow, vec, vec::Vec};

/// Address of the `hvm_start_info`.
pub const START_INFO: u64 = 0x1000;
/// Address of the command line.
pub const COMMAND_LINE: u64 = 0x2000;
/// Bytes of the command line, with the zero that ends it.
pub const COMMAND_LINE_BYTES: usize = 4096;
/// Address of the GDT.
pub const GDT: u64 = 0x3000;
/// Selector of the code segment; that of the data segment follows it.
pub const CODE_SELECTOR: u16 = 0x08;
/// The same for Linux: `__BOOT_CS`.
pub const LINUX_CODE_SELECTOR: u16 = 0x10;
/// Bytes of a descriptor, and from one selector to the next.
const DESCRIPTOR_BYTES: u16 = 8;
/// Address of the page tables' root.
pub const PAGE_TABLES: u64 = 0x4000;
/// Top of the stack.
pub const STACK_TOP: u64 = 0x2_0000;
/// Bytes of the stack.
pub const STACK_BYTES: u64 = 0x1_0000;

const PAGE_BYTES: u64 = 4096;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
const ENTRIES: u64 = 512;
const DIRECTORIES: u64 = 4;
/// Present and writable.
const TABLE: u64 = 0b11;
/// The same, for a page of 2 MiB.
const LARGE_PAGE: u64 = TABLE | 1 << 7;
/// Flat 64-bit code, readable, accessed (SDM Vol. 3, "Segment Descriptors").
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// The same for 32-bit code.
const CODE_32_DESCRIPTOR: u64 = 0x00cf_9b00_0000_ffff;
/// Flat data, writable, accessed.
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

/// `XEN_HVM_START_MAGIC_VALUE`.
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// The version with a memory map.
const START_INFO_VERSION: u32 = 1;
const START_INFO_BYTES: u64 = 56;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const MEMORY_MAP_RAM: u32 = 1;

/// The GDT whose code segment has this selector.
pub(crate) fn gdt(code: u16) -> Gdt {
    let data = code + DESCRIPTOR_BYTES;
    Gdt {
        base: GDT,
        limit: data + DESCRIPTOR_BYTES - 1,
        code,
        data,
    }
}

/// The command line, if it fits.
pub(crate) fn command_line<'a>(text: &str) -> Result<Copy<'a>, Error> {
    if text.len() >= COMMAND_LINE_BYTES {
        return Err(Error::CommandLine {
            bytes: text.len(),
            allowed: COMMAND_LINE_BYTES - 1,
        });
    }
    let mut zero_terminated = text.as_bytes().to_vec();
    zero_terminated.push(0);
    Ok((COMMAND_LINE, Cow::Owned(zero_terminated)))
}

/// What images find that are entered with flat segments, each with its guest-physical
/// address. For a 64-bit entry point if `long`, else for one of 32 bits without paging.
pub(crate) fn common<'a>(
    command_line: &str,
    code_selector: u16,
    long: bool,
) -> Result<Vec<Copy<'a>>, Error> {
    let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut gdt = vec![0; usize::from(code_selector / DESCRIPTOR_BYTES)];
    let code = match long {
        true => CODE_DESCRIPTOR,
        false => CODE_32_DESCRIPTOR,
    };
    gdt.extend([code, DATA_DESCRIPTOR]);
    let mut copies = vec![
        self::command_line(command_line)?,
        (GDT, Cow::Owned(bytes(&gdt))),
    ];
    if long {
        copies.push((PAGE_TABLES, Cow::Owned(bytes(&page_tables()))));
    }
    Ok(copies)
}

/// The first 4 GiB, one to one, in pages of 2 MiB.
fn page_tables() -> Vec<u64> {
    let pointers = PAGE_TABLES + PAGE_BYTES;
    let directories = pointers + PAGE_BYTES;
    let pad = |entries: u64| (entries..ENTRIES).map(|_| 0);
    let root = core::iter::once(pointers | TABLE).chain(pad(1));
    let pointers = (0..DIRECTORIES)
        .map(|index| (directories + index * PAGE_BYTES) | TABLE)
        .chain(pad(DIRECTORIES));
    let pages = (0..DIRECTORIES * ENTRIES).map(|index| (index * LARGE_PAGE_BYTES) | LARGE_PAGE);
    root.chain(pointers).chain(pages).collect()
}

/// The `hvm_start_info`.
pub(crate) fn start_info<'a>(memory_bytes: u64) -> Copy<'a> {
    let mut bytes = Vec::new();
    let flags = 0_u32;
    let modules = 0_u32;
    for word in [START_INFO_MAGIC, START_INFO_VERSION, flags, modules] {
        bytes.extend(word.to_le_bytes());
    }
    let (module_list, rsdp) = (0_u64, 0_u64);
    for address in [
        module_list,
        COMMAND_LINE,
        rsdp,
        START_INFO + START_INFO_BYTES,
    ] {
        bytes.extend(address.to_le_bytes());
    }
    let (entries, reserved) = (1_u32, 0_u32);
    for word in [entries, reserved] {
        bytes.extend(word.to_le_bytes());
    }
    // The one entry of the memory map: RAM from zero on.
    for address in [0, memory_bytes] {
        bytes.extend(address.to_le_bytes());
    }
    for word in [MEMORY_MAP_RAM, reserved] {
        bytes.extend(word.to_le_bytes());
    }
    (START_INFO, Cow::Owned(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(tables: &[u64], address: u64) -> u64 {
        let at = |table: u64, shift: u32| {
            let index = (address >> shift) % ENTRIES;
            tables[((table - PAGE_TABLES) / 8 + index) as usize]
        };
        let pointer = at(PAGE_TABLES, 39);
        let directory = at(pointer & !0xfff, 30);
        let page = at(directory & !0xfff, 21);
        assert_eq!((pointer & 3, directory & 3, page & 0x83), (3, 3, 0x83));
        (page & !0x1f_ffff) + address % LARGE_PAGE_BYTES
    }

    #[test]
    fn the_first_4_gib_are_mapped_one_to_one() {
        let tables = page_tables();
        for address in [
            0,
            0x12_3456,
            LARGE_PAGE_BYTES,
            (1 << 30) - 1,
            1 << 30,
            (4 << 30) - 1,
        ] {
            assert_eq!(walk(&tables, address), address);
        }
    }

    #[test]
    fn nothing_overlaps_and_all_lies_below_the_image() {
        let command_line = "x".repeat(COMMAND_LINE_BYTES - 1);
        let mut contents = common(&command_line, LINUX_CODE_SELECTOR, true).unwrap();
        contents.push(start_info(64 << 20));
        let mut ranges: Vec<_> = contents
            .iter()
            .map(|(at, bytes)| *at..at + bytes.len() as u64)
            .collect();
        ranges.push(STACK_TOP - STACK_BYTES..STACK_TOP);
        for (index, range) in ranges.iter().enumerate() {
            assert!(range.end <= crate::IMAGE_FLOOR);
            for other in &ranges[index + 1..] {
                assert!(!crate::overlap(range, other), "{range:x?} {other:x?}");
            }
        }
    }

    #[test]
    fn the_start_info_leads_to_command_line_and_memory_map() {
        let (_, bytes) = start_info(64 << 20);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(4)), (START_INFO_MAGIC, 1));
        assert_eq!(
            (long(24), long(40), word(48)),
            (COMMAND_LINE, START_INFO + 56, 1)
        );
        assert_eq!((long(56), long(64), word(72)), (0, 64 << 20, 1));
    }

    #[test]
    fn a_command_line_that_is_too_long_is_refused() {
        let error = common(&"x".repeat(COMMAND_LINE_BYTES), CODE_SELECTOR, true).unwrap_err();
        assert_eq!(
            error,
            Error::CommandLine {
                bytes: 4096,
                allowed: 4095
            }
        );
    }
}
