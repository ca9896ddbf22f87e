//! Images with a Multiboot header (Multiboot Specification, version 0.6.96): ELF files,
//! or plain ones that say themselves where they belong.

use crate::{
    Copy, Field, IMAGE_FLOOR, LOW_MEMORY_END,
    boot_area::{COMMAND_LINE, START_INFO},
    elf,
    error::Error,
};
use alloc::{borrow::Cow, vec, vec::Vec};

/// The header lies in the first bytes of the file, at a multiple of four.
const SEARCHED: usize = 8192;
const MAGIC: u32 = 0x1bad_b002;
/// What EAX has at the entry point.
pub(crate) const LOADER_MAGIC: u32 = 0x2bad_b002;

/// Flags: a table of addresses follows; and those that a loader must know. Modules
/// are aligned to pages and memory is described in any case; a video mode is not.
const HAS_ADDRESSES: u32 = 1 << 16;
const REQUIRED: u32 = 0xffff;
const KNOWN: u32 = 0b011;

/// Bits of the information: memory, command line, modules, memory map, loader's name.
const INFO_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// What lies behind the information in its page.
const MODULES_AT: u64 = START_INFO + 0x100;
const MAP_AT: u64 = START_INFO + 0x200;
const NAME_AT: u64 = START_INFO + 0x300;
const NAME: &[u8] = b"Tilevisor\0";
const INFO_BYTES: usize = 0x320;
const MODULE_BYTES: usize = 16;
const MAP_ENTRY_BYTES: u32 = 24;
const RAM: u32 = 1;
const PAGE: u64 = 4096;

/// A header that was found.
pub(crate) struct Header {
    at: usize,
    flags: u32,
}

/// An image laid out.
pub(crate) struct Image<'a> {
    pub(crate) copies: Vec<Copy<'a>>,
    pub(crate) entry: u64,
}

fn word(image: &[u8], at: usize) -> Option<u32> {
    let bytes = image.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// The header of `image`: magic, flags and a checksum that makes their sum zero.
pub(crate) fn find(image: &[u8]) -> Option<Header> {
    (0..SEARCHED).step_by(4).find_map(|at| {
        let [magic, flags, checksum] = [at, at + 4, at + 8].map(|at| word(image, at));
        let (magic, flags, checksum) = (magic?, flags?, checksum?);
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == MAGIC && sum == 0).then_some(Header { at, flags })
    })
}

/// Lays `image` out in `memory` bytes, with `initrd` as its one module.
pub(crate) fn load<'a>(
    image: &'a [u8],
    header: &Header,
    initrd: Option<&'a [u8]>,
    memory: u64,
) -> Result<Image<'a>, Error> {
    let unknown = header.flags & REQUIRED & !KNOWN;
    if unknown != 0 {
        return Err(Error::Value {
            what: field("Multiboot flags", header.at + 4),
            found: u64::from(header.flags),
            expected: "no requirement but aligned modules and memory information",
        });
    }
    let (segments, entry, end) = if header.flags & HAS_ADDRESSES != 0 {
        by_addresses(image, header, memory)?
    } else if elf::is_elf(image) {
        let elf = elf::load(image, memory)?;
        (elf.segments, elf.entry, elf.end)
    } else {
        return Err(Error::Value {
            what: field("Multiboot flags", header.at + 4),
            found: u64::from(header.flags),
            expected: "bit 16 with addresses, in an image that is no ELF file",
        });
    };
    let mut copies: Vec<Copy<'a>> = segments
        .into_iter()
        .map(|(at, bytes)| (at, Cow::Borrowed(bytes)))
        .collect();
    let module = match initrd {
        Some(initrd) => {
            let at = end.next_multiple_of(PAGE);
            let end = at.saturating_add(initrd.len() as u64);
            if end > memory {
                return Err(Error::Place {
                    what: field("module", 0),
                    start: at,
                    end,
                    allowed: (at, memory),
                });
            }
            copies.push((at, Cow::Borrowed(initrd)));
            Some((at as u32, end as u32))
        }
        None => None,
    };
    copies.push((START_INFO, Cow::Owned(information(module, memory))));
    Ok(Image { copies, entry })
}

fn field(name: &'static str, at: usize) -> Field {
    Field {
        name,
        offset: at as u64,
    }
}

type Laid<'a> = (Vec<(u64, &'a [u8])>, u64, u64);

/// By the table behind the header (Multiboot Specification, "The address fields of
/// Multiboot header").
fn by_addresses<'a>(image: &'a [u8], header: &Header, memory: u64) -> Result<Laid<'a>, Error> {
    let table = header.at + 12;
    let get = |index: usize| {
        word(image, table + 4 * index).ok_or(Error::Truncated {
            what: field("Multiboot addresses", table),
            needed: 20,
            found: (image.len() - table.min(image.len())) as u64,
        })
    };
    let [header_address, load, load_end, bss_end, entry] =
        [get(0)?, get(1)?, get(2)?, get(3)?, get(4)?].map(u64::from);
    let wrong = |name, index: usize, found, expected| {
        let what = field(name, table + 4 * index);
        Err(Error::Value {
            what,
            found,
            expected,
        })
    };
    // The text begins as far before the header in the file as in memory.
    let Some(start) = header_address
        .checked_sub(load)
        .and_then(|before| (header.at as u64).checked_sub(before))
    else {
        return wrong(
            "load_addr",
            1,
            load,
            "at most header_addr, by no more than the header's offset",
        );
    };
    let end = match load_end {
        0 => image.len() as u64,
        load_end if load_end >= load => start + (load_end - load),
        load_end => return wrong("load_end_addr", 2, load_end, "0, or at least load_addr"),
    };
    let bytes = usize::try_from(start)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(start, end)| image.get(start..end))
        .ok_or(Error::Truncated {
            what: field("Multiboot text and data", start as usize),
            needed: end.saturating_sub(start),
            found: (image.len() as u64).saturating_sub(start),
        })?;
    let loaded_end = load + bytes.len() as u64;
    let end = loaded_end.max(bss_end);
    if load < IMAGE_FLOOR || end > memory {
        return Err(Error::Place {
            what: field("load_addr", table + 4),
            start: load,
            end,
            allowed: (IMAGE_FLOOR, memory),
        });
    }
    if !(load..loaded_end).contains(&entry) {
        return Err(Error::Entry { at: entry });
    }
    Ok((vec![(load, bytes)], entry, end))
}

/// The information structure, with the one module and the memory map behind it.
fn information(module: Option<(u32, u32)>, memory: u64) -> Vec<u8> {
    let mut page = vec![0; INFO_BYTES];
    let mut put = |at: u64, words: &[u32]| {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        page.iter_mut()
            .skip((at - START_INFO) as usize)
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
    };
    let kib = |bytes: u64| (bytes >> 10) as u32;
    let map = [(0, LOW_MEMORY_END), (IMAGE_FLOOR, memory - IMAGE_FLOOR)];
    let map_bytes = map.len() as u32 * MAP_ENTRY_BYTES;
    let modules = u32::from(module.is_some());
    put(
        START_INFO,
        &[
            INFO_FLAGS,
            kib(LOW_MEMORY_END),
            kib(memory - IMAGE_FLOOR),
            0,
            COMMAND_LINE as u32,
            modules,
            MODULES_AT as u32,
        ],
    );
    // Behind the symbols of the kernel, which are not given.
    put(START_INFO + 44, &[map_bytes, MAP_AT as u32]);
    put(START_INFO + 64, &[NAME_AT as u32]);
    if let Some((start, end)) = module {
        let no_text = NAME_AT as u32 + NAME.len() as u32 - 1;
        put(MODULES_AT, &[start, end, no_text, 0]);
    }
    for (entry, (start, bytes)) in (MAP_AT..).step_by(MAP_ENTRY_BYTES as usize).zip(map) {
        // The size does not count itself.
        let size = MAP_ENTRY_BYTES - 4;
        let words = |value: u64| [value as u32, (value >> 32) as u32];
        let ([a, b], [c, d]) = (words(start), words(bytes));
        put(entry, &[size, a, b, c, d, RAM]);
    }
    page.iter_mut()
        .skip((NAME_AT - START_INFO) as usize)
        .zip(NAME)
        .for_each(|(to, from)| *to = *from);
    page
}

const _: () = assert!(MODULES_AT + MODULE_BYTES as u64 <= MAP_AT);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlap;
    use proptest::prelude::*;

    const MEMORY: u64 = 16 << 20;
    const LOAD: u32 = 0x20_0000;

    /// A plain image: header at 16, 0x100 bytes of text and 0x1000 of bss behind them.
    fn plain() -> Vec<u8> {
        let mut image = vec![0x90; 0x110];
        let flags = HAS_ADDRESSES | KNOWN;
        let words = [
            MAGIC,
            flags,
            0_u32.wrapping_sub(MAGIC).wrapping_sub(flags),
            LOAD + 16,
            LOAD,
            LOAD + 0x100,
            LOAD + 0x1100,
            LOAD + 0x40,
        ];
        for (index, word) in words.iter().enumerate() {
            image[16 + 4 * index..20 + 4 * index].copy_from_slice(&word.to_le_bytes());
        }
        image
    }

    fn loaded<'a>(image: &'a [u8], initrd: Option<&'a [u8]>) -> Result<Image<'a>, Error> {
        load(image, &find(image).expect("a header"), initrd, MEMORY)
    }

    #[test]
    fn a_plain_image_says_where_it_belongs() {
        let image = plain();
        let module = [7; 100];
        let loaded = loaded(&image, Some(&module)).unwrap();
        assert_eq!(loaded.entry, 0x20_0040);
        assert_eq!(
            (loaded.copies[0].0, loaded.copies[0].1.len()),
            (0x20_0000, 0x100)
        );
        // Behind the bss, at the next page.
        assert_eq!(
            (loaded.copies[1].0, &*loaded.copies[1].1),
            (0x20_2000, &module[..])
        );
        let info = &loaded.copies[2].1;
        let long = |at: usize| u64::from(word(info, at).unwrap());
        assert_eq!(long(0), 0x24d);
        assert_eq!((long(4), long(8)), (640, 15 << 10));
        assert_eq!((long(16), long(20)), (COMMAND_LINE, 1));
        let modules = (long(24) - START_INFO) as usize;
        assert_eq!((long(modules), long(modules + 4)), (0x20_2000, 0x20_2064));
        let map = (long(48) - START_INFO) as usize;
        assert_eq!((long(44), long(map), long(map + 12)), (48, 20, 0xa_0000));
        assert_eq!(
            (long(map + 28), long(map + 36)),
            (0x10_0000, MEMORY - 0x10_0000)
        );
        let name = (long(64) - START_INFO) as usize;
        assert_eq!(&info[name..name + 10], b"Tilevisor\0");
    }

    #[test]
    fn every_wrong_field_is_named() {
        let with = |index: usize, value: u32| {
            let mut image = plain();
            image[16 + 4 * index..20 + 4 * index].copy_from_slice(&value.to_le_bytes());
            loaded(&image, None)
                .err()
                .map(|error| std::string::ToString::to_string(&error))
        };
        for (index, value, message) in [
            (3, LOAD - 1, "load_addr at offset 0x20"),
            (3, LOAD + 0x1000, "load_addr at offset 0x20"),
            (4, 0x1000, "load_addr at offset 0x20"),
            (5, LOAD - 1, "load_end_addr at offset 0x24"),
            (5, LOAD + 0x10_0000, "Multiboot text and data"),
            (
                6,
                0xffff_ffff,
                "load_addr at offset 0x20: wants guest memory",
            ),
            (7, LOAD + 0x100, "entry point 0x200100"),
        ] {
            let error = with(index, value).expect("an error");
            assert!(error.contains(message), "{error}");
        }
        let mut video = plain();
        let flags = HAS_ADDRESSES | 0b111;
        video[20..24].copy_from_slice(&flags.to_le_bytes());
        video[24..28].copy_from_slice(&0_u32.wrapping_sub(MAGIC).wrapping_sub(flags).to_le_bytes());
        assert!(loaded(&video, None).is_err());
        let large = vec![0; MEMORY as usize];
        assert!(loaded(&plain(), Some(&large)).is_err());
        let mut unaligned = plain();
        unaligned.insert(0, 0);
        assert!(find(&unaligned).is_none());
    }

    proptest! {
        #[test]
        fn whatever_the_addresses_nothing_overlaps_or_leaves_memory(
            changes in proptest::collection::vec((28_usize..48, any::<u8>()), 0..5),
            initrd in 0_usize..10_000,
        ) {
            let mut image = plain();
            for (at, byte) in changes {
                image[at] = byte;
            }
            let initrd = vec![0; initrd];
            if let Ok(loaded) = loaded(&image, Some(&initrd)) {
                let ranges: Vec<_> = loaded
                    .copies
                    .iter()
                    .map(|(at, bytes)| *at..at + bytes.len() as u64)
                    .collect();
                for (index, range) in ranges.iter().enumerate() {
                    prop_assert!(range.end <= MEMORY);
                    for other in &ranges[index + 1..] {
                        prop_assert!(!overlap(range, other));
                    }
                }
            }
        }
    }
}
