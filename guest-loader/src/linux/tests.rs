//! Kernels made by hand.

use super::*;
use crate::overlap;
use proptest::prelude::*;
use std::string::ToString;

const MEMORY: u64 = 64 << 20;
const PAYLOAD: usize = 0x400;

/// A kernel of one setup sector that wants 1 MiB at 16 MiB.
fn kernel() -> Vec<u8> {
    let mut image = vec![0; 2 * SECTOR as usize + PAYLOAD];
    let mut set = |at, bytes: &[u8]| put(&mut image, at, bytes);
    set(SETUP_SECTORS, &[1]);
    set(PAYLOAD_PARAGRAPHS, &(PAYLOAD as u32 / 16).to_le_bytes());
    set(BOOT_FLAG, &[0x55, 0xaa, 0xeb, 0x6a]);
    set(MAGIC, &MAGIC_VALUE);
    set(VERSION, &0x20f_u16.to_le_bytes());
    set(LOAD_FLAGS, &[1]);
    set(RAMDISK_MOST, &0x7fff_ffff_u32.to_le_bytes());
    set(ALIGNMENT, &0x20_0000_u32.to_le_bytes());
    set(RELOCATABLE, &[1]);
    set(EXTENDED_LOAD_FLAGS, &[1]);
    set(COMMAND_LINE_MOST, &2047_u32.to_le_bytes());
    set(PREFERRED, &0x100_0000_u64.to_le_bytes());
    set(MEMORY_NEEDED, &0x10_0000_u32.to_le_bytes());
    image
}

fn loaded(image: &[u8], memory: u64) -> Result<Kernel<'_>, Error> {
    load(image, None, memory, "quiet", 2)
}

fn page_of(kernel: &Kernel<'_>) -> Vec<u8> {
    let (_, page) = kernel
        .copies
        .iter()
        .find(|(at, _)| *at == START_INFO)
        .unwrap();
    page.to_vec()
}

#[test]
fn a_kernel_lies_where_it_prefers_and_knows_its_memory() {
    let image = kernel();
    assert!(is_linux(&image));
    let initrd = [7; 5000];
    let kernel = load(&image, Some(&initrd), MEMORY, "quiet", 2).unwrap();
    assert_eq!(kernel.entry, 0x100_0200);
    assert_eq!(
        (kernel.copies[0].0, kernel.copies[0].1.len()),
        (0x100_0000, PAYLOAD)
    );
    let page = page_of(&kernel);
    let page = Header(&page);
    assert_eq!(
        page.get(MAGIC, 4),
        u64::from(u32::from_le_bytes(MAGIC_VALUE))
    );
    assert_eq!(page.get(LOADER, 1), 0xff);
    assert_eq!(page.get(COMMAND_LINE_POINTER, 4), COMMAND_LINE);
    assert_eq!(page.get(ZERO_PAGE_RSDP, 8), TABLES);
    let at = MEMORY - 2 * PAGE;
    assert_eq!(
        (page.get(RAMDISK_IMAGE, 4), page.get(RAMDISK_SIZE, 4)),
        (at, 5000)
    );
    assert!(
        kernel
            .copies
            .iter()
            .any(|(place, bytes)| *place == at && **bytes == initrd)
    );
    let entry = |index: usize| {
        let at = ZERO_PAGE_MAP + 20 * index;
        (page.get(at, 8), page.get(at + 8, 8), page.get(at + 16, 4))
    };
    assert_eq!(page.get(ZERO_PAGE_MAP_ENTRIES, 1), 3);
    assert_eq!(entry(0), (0, 0xa_0000, 1));
    assert_eq!(entry(1), (0xe_0000, 0x2_0000, 2));
    assert_eq!(entry(2), (0x10_0000, MEMORY - 0x10_0000, 1));
}

#[test]
fn the_entry_of_the_firmware_resets() {
    let image = kernel();
    let kernel = loaded(&image, MEMORY).unwrap();
    let mut copies = kernel.copies.iter();
    let (_, code) = copies.find(|(at, _)| *at == 0xf_fff0).unwrap();
    assert_eq!(**code, [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4]);
}

#[test]
fn with_little_memory_a_relocatable_kernel_lies_lower() {
    let mut image = kernel();
    assert_eq!(loaded(&image, 16 << 20).unwrap().entry, 0x20_0200);
    put(&mut image, RELOCATABLE, &[0]);
    let error = loaded(&image, 16 << 20).err().unwrap().to_string();
    assert!(error.contains("pref_address at offset 0x258"), "{error}");
}

#[test]
fn every_wrong_field_is_named() {
    for (at, bytes, message) in [
        (BOOT_FLAG, &[0, 0][..], "boot_flag at offset 0x1fe"),
        (
            VERSION,
            &[0x0b, 0x02],
            "version at offset 0x206: found 0x20b",
        ),
        (LOAD_FLAGS, &[0], "loadflags at offset 0x211"),
        (EXTENDED_LOAD_FLAGS, &[0, 0], "xloadflags at offset 0x236"),
        (
            PAYLOAD_PARAGRAPHS,
            &[0xff, 0xff],
            "kernel at offset 0x400: needs",
        ),
        (PAYLOAD_PARAGRAPHS, &[0, 0], "syssize at offset 0x1f4"),
        (SETUP_SECTORS, &[0xff], "kernel at offset 0x20000"),
        (ALIGNMENT, &[1, 0, 0x20], "kernel_alignment at offset 0x230"),
        (
            MEMORY_NEEDED,
            &[0, 0, 0, 0xff],
            "pref_address at offset 0x258",
        ),
    ] {
        let mut image = kernel();
        put(&mut image, at, bytes);
        let error = loaded(&image, MEMORY).err().unwrap().to_string();
        assert!(error.contains(message), "{error}");
    }
    let image = kernel();
    let error = load(&image, None, MEMORY, &"x".repeat(2048), 1)
        .err()
        .unwrap();
    assert_eq!(
        error,
        Error::CommandLine {
            bytes: 2048,
            allowed: 2047
        }
    );
    let large = vec![0; MEMORY as usize];
    let error = load(&image, Some(&large), MEMORY, "", 1)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("initrd"), "{error}");
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let image = kernel();
    for end in 0..image.len() {
        assert!(loaded(&image[..end], MEMORY).is_err(), "{end}");
    }
}

proptest! {
    #[test]
    fn whatever_the_header_says_nothing_overlaps_or_leaves_memory(
        changes in proptest::collection::vec((SETUP_SECTORS..HEADER_END, any::<u8>()), 0..6),
        initrd in 0_usize..100_000, megabytes in 2_u64..100,
    ) {
        let mut image = kernel();
        for (at, byte) in changes {
            image[at] = byte;
        }
        let initrd = vec![0; initrd];
        let memory = megabytes << 20;
        if let Ok(kernel) = load(&image, Some(&initrd), memory, "", 1) {
            let ranges: Vec<_> = kernel
                .copies
                .iter()
                .map(|(at, bytes)| *at..at + bytes.len() as u64)
                .collect();
            for (index, range) in ranges.iter().enumerate() {
                prop_assert!(range.end <= memory);
                for other in &ranges[index + 1..] {
                    prop_assert!(!overlap(range, other), "{range:x?} {other:x?}");
                }
            }
        }
    }
}
