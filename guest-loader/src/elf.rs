//! ELF executables for x86-64 and i386 (Tool Interface Standard, "ELF-64 Object File
//! Format"; System V ABI, "Object Files"), parsed by the `elf` crate and then checked:
//! what is placed is inside the file, inside memory, and nowhere twice.

use crate::{Error, Field, IMAGE_FLOOR, overlap};
use alloc::vec::Vec;
use core::ops::Range;
use elf::{
    ElfBytes,
    abi::{EM_386, EM_X86_64, ET_EXEC, PF_X, PT_LOAD, PT_NOTE},
    endian::LittleEndian,
    file::Class,
    note::Note,
    segment::ProgramHeader,
};

const MAGIC: &[u8] = b"\x7fELF";
/// Bytes of the file header.
const HEADER_BYTES: u64 = 64;
/// Bytes of one program header, and of one of 32 bits.
const PROGRAM_HEADER_BYTES: u64 = 56;
const PROGRAM_HEADER_32_BYTES: u64 = 32;
/// Offset of `p_filesz` in either.
const FILE_SIZE_AT: u64 = 32;
const FILE_SIZE_32_AT: u64 = 16;
/// The note with a 32-bit entry point (Xen, `public/elfnote.h`).
const NOTE_OWNER: &[u8] = b"Xen\0";
const NOTE_ENTRY_32: u64 = 18;
/// Where the file header states the first program header's offset.
const PHOFF_AT: usize = 32;

/// Segments and entry point of a checked image.
pub(crate) struct Elf<'a> {
    /// Guest-physical addresses and the bytes that go there; the rest of a
    /// segment's memory is zero anyway.
    pub(crate) segments: Vec<(u64, &'a [u8])>,
    /// The entry point.
    pub(crate) entry: u64,
    /// Whether it is a 64-bit file.
    pub(crate) long: bool,
    /// The entry point of its PVH note, if it has one.
    pub(crate) pvh_entry: Option<u64>,
    /// The address behind its last segment.
    pub(crate) end: u64,
}

/// Whether the image claims to be an ELF file.
pub(crate) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

/// One loadable segment: where its program header is, and the memory it takes.
struct Placed {
    header: Field,
    memory: Range<u64>,
    executable: bool,
}

/// Checks `image` and lays it out.
pub(crate) fn load(image: &[u8], memory_bytes: u64) -> Result<Elf<'_>, Error> {
    let found = image.len() as u64;
    let whole = Field {
        name: "ELF header",
        offset: 0,
    };
    if found < HEADER_BYTES {
        return Err(Error::Truncated {
            what: whole,
            needed: HEADER_BYTES,
            found,
        });
    }
    let broken = || Error::Value {
        what: whole,
        found: 0,
        expected: "a little-endian ELF file",
    };
    let file =
        ElfBytes::<LittleEndian>::minimal_parse(image).map_err(|_| program_headers_error(image))?;
    let header = &file.ehdr;
    let long = header.class == Class::ELF64;
    check(
        "e_type",
        16,
        u64::from(header.e_type),
        u64::from(ET_EXEC),
        "2 (ET_EXEC, linked to a fixed address)",
    )?;
    let (machine, expected) = match long {
        true => (EM_X86_64, "62 (x86-64)"),
        false => (EM_386, "3 (i386, in a 32-bit file)"),
    };
    check(
        "e_machine",
        18,
        u64::from(header.e_machine),
        u64::from(machine),
        expected,
    )?;
    let mut placed: Vec<Placed> = Vec::new();
    let mut segments = Vec::new();
    let table = file.segments().ok_or_else(broken)?;
    for (index, segment) in (0_u64..).zip(table.iter()) {
        if segment.p_type != PT_LOAD || segment.p_memsz == 0 {
            continue;
        }
        let (size, file_size_at) = match long {
            true => (PROGRAM_HEADER_BYTES, FILE_SIZE_AT),
            false => (PROGRAM_HEADER_32_BYTES, FILE_SIZE_32_AT),
        };
        let at = header.e_phoff.saturating_add(index * size);
        let header = Field {
            name: "program header",
            offset: at,
        };
        segments.push((segment.p_paddr, bytes(image, &segment, at + file_size_at)?));
        let memory = place(&segment, header, memory_bytes)?;
        if let Some(other) = placed.iter().find(|other| overlap(&other.memory, &memory)) {
            return Err(Error::Overlap {
                first: other.header,
                second: header,
            });
        }
        placed.push(Placed {
            header,
            memory,
            executable: segment.p_flags & PF_X != 0,
        });
    }
    let entry = header.e_entry;
    let pvh_entry = pvh_entry(&file);
    for at in [Some(entry), pvh_entry].into_iter().flatten() {
        let inside = |segment: &Placed| segment.executable && segment.memory.contains(&at);
        if !placed.iter().any(inside) {
            return Err(Error::Entry { at });
        }
    }
    let end = placed.iter().map(|segment| segment.memory.end).max();
    Ok(Elf {
        segments,
        entry,
        long,
        pvh_entry,
        end: end.unwrap_or(IMAGE_FLOOR),
    })
}

/// The entry point that a PVH note names, if there is one.
fn pvh_entry(file: &ElfBytes<'_, LittleEndian>) -> Option<u64> {
    let notes = file
        .segments()?
        .iter()
        .filter(|segment| segment.p_type == PT_NOTE);
    let mut notes = notes.filter_map(|segment| file.segment_data_as_notes(&segment).ok());
    notes.find_map(|mut notes| {
        notes.find_map(|note| match note {
            Note::Unknown(note) if note.n_type == NOTE_ENTRY_32 && note.name == NOTE_OWNER => {
                let entry = note.desc.first_chunk()?;
                Some(u64::from(u32::from_le_bytes(*entry)))
            }
            _ => None,
        })
    })
}

fn check(
    name: &'static str,
    offset: u64,
    found: u64,
    wanted: u64,
    expected: &'static str,
) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Value {
        what: Field { name, offset },
        found,
        expected,
    })
}

/// The segment's bytes in the file; its size is stated at `at`.
fn bytes<'a>(image: &'a [u8], segment: &ProgramHeader, at: u64) -> Result<&'a [u8], Error> {
    if segment.p_filesz > segment.p_memsz {
        return Err(Error::Value {
            what: Field {
                name: "p_filesz",
                offset: at,
            },
            found: segment.p_filesz,
            expected: "at most p_memsz",
        });
    }
    let what = Field {
        name: "segment",
        offset: segment.p_offset,
    };
    let truncated = Error::Truncated {
        what,
        needed: segment.p_filesz,
        found: (image.len() as u64).saturating_sub(segment.p_offset),
    };
    let range = segment
        .p_offset
        .checked_add(segment.p_filesz)
        .and_then(|end| Some(usize::try_from(segment.p_offset).ok()?..usize::try_from(end).ok()?));
    range.and_then(|range| image.get(range)).ok_or(truncated)
}

/// The memory that the segment takes: a physical address, because the image
/// is entered with memory mapped one to one.
fn place(segment: &ProgramHeader, what: Field, memory_bytes: u64) -> Result<Range<u64>, Error> {
    let start = segment.p_paddr;
    match start.checked_add(segment.p_memsz) {
        Some(end) if start >= IMAGE_FLOOR && end <= memory_bytes => Ok(start..end),
        end => Err(Error::Place {
            what,
            start,
            end: end.unwrap_or(u64::MAX),
            allowed: (IMAGE_FLOOR, memory_bytes),
        }),
    }
}

/// The parser refuses the file as a whole; says whether its program headers
/// are cut off, which is what happens to files that were copied in part.
fn program_headers_error(image: &[u8]) -> Error {
    let offset = image
        .get(PHOFF_AT..PHOFF_AT + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes);
    let left = (image.len() as u64).saturating_sub(offset);
    if left < PROGRAM_HEADER_BYTES {
        return Error::Truncated {
            what: Field {
                name: "program headers",
                offset,
            },
            needed: PROGRAM_HEADER_BYTES,
            found: left,
        };
    }
    Error::Value {
        what: Field {
            name: "ELF header",
            offset: 0,
        },
        found: u64::from(image.get(4).copied().unwrap_or(0)),
        expected: "a 64-bit little-endian file whose tables lie inside it",
    }
}

#[cfg(test)]
pub(crate) mod tests {
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
}
