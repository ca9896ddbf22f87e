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
pub(crate) mod tests;
