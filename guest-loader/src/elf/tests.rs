//! Executables made by hand.

use super::*;
use proptest::prelude::*;
use std::vec;

const MEMORY: u64 = 16 << 20;
const AT: u64 = 2 << 20;

struct Segment {
    offset: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    flags: u32,
}

const TEXT: Segment = Segment {
    offset: 0x1000,
    paddr: AT,
    filesz: 16,
    memsz: 32,
    flags: 5,
};

/// A 32-bit executable with a segment at [`AT`], whose note at 0x1100 names the
/// entry point `pvh`.
fn made_32(pvh: u32) -> Vec<u8> {
    let mut image = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let (executable, machine, version) = (2_u16, 3_u16, 1_u32);
    image.extend(executable.to_le_bytes());
    image.extend(machine.to_le_bytes());
    for word in [version, AT as u32, 52, 0, 0] {
        image.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 2, 40, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    let (load, note, at) = (1_u32, 4_u32, AT as u32);
    for header in [
        [load, 0x1000, at, at, 16, 32, 5, 4],
        [note, 0x1100, at + 0x100, at + 0x100, 20, 20, 4, 4],
    ] {
        header
            .iter()
            .for_each(|word| image.extend(word.to_le_bytes()));
    }
    image.resize(0x1100, 0);
    for word in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), pvh] {
        image.extend(word.to_le_bytes());
    }
    image
}

#[test]
fn a_32_bit_file_has_the_entry_point_of_its_note() {
    let image = made_32(AT as u32 + 8);
    let elf = load(&image, MEMORY).unwrap();
    assert_eq!((elf.long, elf.pvh_entry), (false, Some(AT + 8)));
    assert_eq!((elf.entry, elf.end), (AT, AT + 32));
    assert_eq!(elf.segments, [(AT, &image[0x1000..0x1010])]);
    let outside = made_32(AT as u32 + 32);
    let error = load(&outside, MEMORY).err();
    assert_eq!(error, Some(Error::Entry { at: AT + 32 }));
}

/// An executable with these segments and some bytes at 0x1000.
fn made(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let (executable, machine, version) = (2_u16, 62_u16, 1_u32);
    image.extend(executable.to_le_bytes());
    image.extend(machine.to_le_bytes());
    image.extend(version.to_le_bytes());
    for field in [entry, HEADER_BYTES, 0] {
        image.extend(field.to_le_bytes());
    }
    image.extend(0_u32.to_le_bytes());
    for half in [64, 56, segments.len() as u16, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    for segment in segments {
        image.extend(1_u32.to_le_bytes());
        image.extend(segment.flags.to_le_bytes());
        for field in [
            segment.offset,
            segment.paddr,
            segment.paddr,
            segment.filesz,
            segment.memsz,
            0x1000,
        ] {
            image.extend(field.to_le_bytes());
        }
    }
    image.resize(0x1000, 0);
    image.extend((0..16).collect::<Vec<u8>>());
    image
}

#[test]
fn a_good_image_is_laid_out() {
    let image = made(AT + 4, &[TEXT]);
    let elf = load(&image, MEMORY).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(elf.entry, AT + 4);
    assert_eq!(elf.segments, vec![(AT, &image[0x1000..])]);
}

fn error(image: &[u8]) -> Error {
    load(image, MEMORY).err().expect("a broken image")
}

#[test]
fn truncation_is_named_at_each_boundary() {
    let image = made(AT, &[TEXT]);
    for (length, name) in [
        (63, "ELF header"),
        (64, "program headers"),
        (119, "program headers"),
        (0x100f, "segment"),
    ] {
        match error(&image[..length]) {
            Error::Truncated { what, .. } => assert_eq!(what.name, name, "{length}"),
            other => panic!("{length}: {other}"),
        }
    }
}

#[test]
fn every_check_names_its_field() {
    let with = |entry, segments: &[Segment]| error(&made(entry, segments));
    let outside = |error| matches!(error, Error::Place { .. });
    assert!(outside(with(
        AT,
        &[Segment {
            paddr: IMAGE_FLOOR - 1,
            ..TEXT
        }]
    )));
    assert!(outside(with(
        AT,
        &[Segment {
            paddr: MEMORY - 31,
            ..TEXT
        }]
    )));
    assert!(outside(with(
        AT,
        &[Segment {
            memsz: u64::MAX,
            ..TEXT
        }]
    )));
    let too_long = with(AT, &[Segment { filesz: 33, ..TEXT }]);
    assert!(matches!(
        too_long,
        Error::Value {
            what: Field {
                name: "p_filesz",
                offset: 96
            },
            ..
        }
    ));
    let overflow = with(
        AT,
        &[Segment {
            offset: u64::MAX,
            ..TEXT
        }],
    );
    assert!(matches!(overflow, Error::Truncated { .. }));
    let second = Field {
        name: "program header",
        offset: 120,
    };
    let twice = with(
        AT,
        &[
            TEXT,
            Segment {
                paddr: AT + 31,
                ..TEXT
            },
        ],
    );
    assert!(matches!(twice, Error::Overlap { second: found, .. } if found == second));
    assert_eq!(with(AT + 32, &[TEXT]), Error::Entry { at: AT + 32 });
    assert_eq!(
        with(AT, &[Segment { flags: 6, ..TEXT }]),
        Error::Entry { at: AT }
    );
    for (offset, name) in [(4, "e_ident[EI_CLASS]"), (16, "e_type"), (18, "e_machine")] {
        let mut image = made(AT, &[TEXT]);
        image[offset] = 1;
        match error(&image) {
            Error::Value { what, .. } => {
                assert!(what.name == name || what.name == "ELF header")
            }
            Error::Truncated { .. } if offset == 4 => {}
            other => panic!("{name}: {other}"),
        }
    }
}

proptest! {
    #[test]
    fn a_mutated_image_never_panics_and_stays_inside(
        changes in proptest::collection::vec((0_usize..0x1010, any::<u8>()), 1..8),
        length in 0_usize..0x1010,
    ) {
        let mut image = made(AT, &[TEXT, Segment { paddr: AT + 0x1000, flags: 6, ..TEXT }]);
        for (at, value) in changes {
            image[at] = value;
        }
        for image in [&image[..], &image[..length]] {
            if let Ok(elf) = load(image, MEMORY) {
                for (at, bytes) in elf.segments {
                    prop_assert!(at >= IMAGE_FLOOR && at + bytes.len() as u64 <= MEMORY);
                }
            }
        }
    }
}
