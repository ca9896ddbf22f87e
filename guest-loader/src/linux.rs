//! Linux kernels as bzImage files, entered by the 64-bit boot protocol (Linux
//! documentation, "The Linux/x86 Boot Protocol").

use crate::{
    Copy, Field, IMAGE_FLOOR, LOW_MEMORY_END,
    acpi::{self, TABLES, TABLES_END},
    boot_area::{COMMAND_LINE, START_INFO},
    error::Error,
    put,
};
use alloc::{borrow::Cow, vec, vec::Vec};

/// Fields of the setup header, by their offsets in the file.
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_PARAGRAPHS: usize = 0x1f4;
const BOOT_FLAG: usize = 0x1fe;
const JUMP: usize = 0x200;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADER: usize = 0x210;
const LOAD_FLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const COMMAND_LINE_POINTER: usize = 0x228;
const RAMDISK_MOST: usize = 0x22c;
const ALIGNMENT: usize = 0x230;
const RELOCATABLE: usize = 0x234;
const EXTENDED_LOAD_FLAGS: usize = 0x236;
const COMMAND_LINE_MOST: usize = 0x238;
const PREFERRED: usize = 0x258;
const MEMORY_NEEDED: usize = 0x260;
/// Where the fields of protocol 2.12 end.
const HEADER_END: usize = 0x268;

const BOOT_FLAG_VALUE: u64 = 0xaa55;
const MAGIC_VALUE: [u8; 4] = *b"HdrS";
/// The first with a 64-bit entry point.
const LEAST_VERSION: u64 = 0x20c;
const KERNEL_64: u64 = 1 << 0;
const LOADED_HIGH: u64 = 1 << 0;
/// A boot loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
const SECTOR: u64 = 512;
/// What zero setup sectors mean.
const SETUP_SECTORS_OF_OLD: u64 = 4;
const PARAGRAPH: u64 = 16;
const ENTRY_64: u64 = 0x200;

/// Fields of the zero page (Linux documentation, "Zero Page").
const ZERO_PAGE_BYTES: usize = 4096;
const ZERO_PAGE_RSDP: usize = 0x70;
const ZERO_PAGE_MAP_ENTRIES: usize = 0x1e8;
const ZERO_PAGE_MAP: usize = 0x2d0;
/// Types of memory.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const PAGE: u64 = 4096;

/// Where a PC's firmware begins. A kernel that reboots may jump there in real mode.
const FIRMWARE_ENTRY: u64 = 0xf_fff0;
/// MOV DX, reset port; MOV AL, reset value; OUT DX, AL; HLT.
const RESET_CODE: [u8; 7] = {
    let [low, high] = acpi::RESET_PORT.to_le_bytes();
    [0xba, low, high, 0xb0, acpi::RESET_VALUE, 0xee, 0xf4]
};

/// A kernel laid out.
pub(crate) struct Kernel<'a> {
    pub(crate) copies: Vec<Copy<'a>>,
    pub(crate) entry: u64,
}

/// Whether `image` says that it is a bzImage.
pub(crate) fn is_linux(image: &[u8]) -> bool {
    image.get(MAGIC..MAGIC + MAGIC_VALUE.len()) == Some(&MAGIC_VALUE)
}

/// The setup header.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    /// A little-endian field of `bytes`, at most eight.
    fn get(&self, at: usize, bytes: usize) -> u64 {
        let field = self.0.iter().skip(at).take(bytes).rev();
        field.fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn expect(
        &self,
        name: &'static str,
        at: usize,
        bytes: usize,
        expected: &'static str,
        check: impl Fn(u64) -> bool,
    ) -> Result<u64, Error> {
        let found = self.get(at, bytes);
        if check(found) {
            return Ok(found);
        }
        Err(Error::Value {
            what: field(name, at),
            found,
            expected,
        })
    }
}

fn field(name: &'static str, at: usize) -> Field {
    Field {
        name,
        offset: at as u64,
    }
}

/// Lays `image` out in `memory` bytes.
pub(crate) fn load<'a>(
    image: &'a [u8],
    initrd: Option<&'a [u8]>,
    memory: u64,
    command_line: &str,
    vcpus: u32,
) -> Result<Kernel<'a>, Error> {
    let header = Header(image.get(..HEADER_END).ok_or(Error::Truncated {
        what: field("Linux setup header", SETUP_SECTORS),
        needed: HEADER_END as u64,
        found: image.len() as u64,
    })?);
    header.expect("boot_flag", BOOT_FLAG, 2, "0xaa55", |flag| {
        flag == BOOT_FLAG_VALUE
    })?;
    header.expect("version", VERSION, 2, "at least 0x20c", |version| {
        version >= LEAST_VERSION
    })?;
    header.expect("loadflags", LOAD_FLAGS, 1, "a bzImage", |flags| {
        flags & LOADED_HIGH != 0
    })?;
    header.expect(
        "xloadflags",
        EXTENDED_LOAD_FLAGS,
        2,
        "a 64-bit kernel",
        |flags| flags & KERNEL_64 != 0,
    )?;
    let payload = payload(image, &header)?;
    let place = place(&header, payload.len() as u64, memory)?;
    let allowed = header.get(COMMAND_LINE_MOST, 4) as usize;
    if command_line.len() > allowed {
        return Err(Error::CommandLine {
            bytes: command_line.len(),
            allowed,
        });
    }
    let mut copies = vec![
        (place.start, Cow::Borrowed(payload)),
        (TABLES, Cow::Owned(acpi::tables(vcpus))),
        (FIRMWARE_ENTRY, Cow::Borrowed(&RESET_CODE)),
    ];
    let ramdisk = match initrd {
        Some(initrd) => {
            let at = initrd_place(&header, initrd.len() as u64, place.end, memory)?;
            copies.push((at, Cow::Borrowed(initrd)));
            Some((at, initrd.len()))
        }
        None => None,
    };
    let zero_page = zero_page(image, &header, ramdisk, memory)?;
    copies.push((START_INFO, Cow::Owned(zero_page)));
    Ok(Kernel {
        copies,
        entry: place.start + ENTRY_64,
    })
}

/// The protected-mode part of the file.
fn payload<'a>(image: &'a [u8], header: &Header<'_>) -> Result<&'a [u8], Error> {
    let sectors = match header.get(SETUP_SECTORS, 1) {
        0 => SETUP_SECTORS_OF_OLD,
        sectors => sectors,
    };
    let start = (sectors + 1) * SECTOR;
    let bytes = header.get(PAYLOAD_PARAGRAPHS, 4) * PARAGRAPH;
    let end = start + bytes;
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let payload = range.and_then(|(start, end)| image.get(start..end));
    match payload {
        Some(payload) if payload.len() as u64 > ENTRY_64 => Ok(payload),
        Some(_) => Err(Error::Value {
            what: field("syssize", PAYLOAD_PARAGRAPHS),
            found: bytes / PARAGRAPH,
            expected: "more than the 64-bit entry point's offset",
        }),
        None => Err(Error::Truncated {
            what: field("kernel", start as usize),
            needed: end,
            found: image.len() as u64,
        }),
    }
}

/// The memory that the kernel needs until it looks after itself: where it prefers
/// it, or lower where there is not so much.
fn place(header: &Header<'_>, payload: u64, memory: u64) -> Result<core::ops::Range<u64>, Error> {
    let needed = header.get(MEMORY_NEEDED, 4).max(payload);
    let alignment = header.expect(
        "kernel_alignment",
        ALIGNMENT,
        4,
        "a power of two",
        |alignment| alignment.is_power_of_two(),
    )?;
    let preferred = header.get(PREFERRED, 8);
    let fits = |start: u64| {
        let end = start.checked_add(needed)?;
        (start >= IMAGE_FLOOR && end <= memory).then_some(start..end)
    };
    let lower = || {
        let relocatable = header.get(RELOCATABLE, 1) != 0;
        fits(IMAGE_FLOOR.next_multiple_of(alignment)).filter(|_| relocatable)
    };
    fits(preferred).or_else(lower).ok_or(Error::Place {
        what: field("pref_address", PREFERRED),
        start: preferred,
        end: preferred.saturating_add(needed),
        allowed: (IMAGE_FLOOR, memory),
    })
}

/// As high as the kernel allows, and above the kernel itself.
fn initrd_place(header: &Header<'_>, bytes: u64, kernel: u64, memory: u64) -> Result<u64, Error> {
    let end = memory.min(header.get(RAMDISK_MOST, 4) + 1);
    let start = end
        .checked_sub(bytes)
        .map(|start| start / PAGE * PAGE)
        .filter(|start| *start >= kernel);
    start.ok_or(Error::Place {
        what: field("initrd", 0),
        start: end.saturating_sub(bytes),
        end,
        allowed: (kernel, end),
    })
}

fn zero_page(
    image: &[u8],
    header: &Header<'_>,
    ramdisk: Option<(u64, usize)>,
    memory: u64,
) -> Result<Vec<u8>, Error> {
    let mut page = vec![0; ZERO_PAGE_BYTES];
    // The header ends where the jump over it leads.
    let end = MAGIC + header.get(JUMP + 1, 1) as usize;
    let copied = image.get(SETUP_SECTORS..end).ok_or(Error::Value {
        what: field("jump", JUMP),
        found: header.get(JUMP, 2),
        expected: "a jump over the header",
    })?;
    put(&mut page, SETUP_SECTORS, copied);
    put(&mut page, LOADER, &[UNDEFINED_LOADER]);
    put(
        &mut page,
        COMMAND_LINE_POINTER,
        &(COMMAND_LINE as u32).to_le_bytes(),
    );
    put(&mut page, ZERO_PAGE_RSDP, &TABLES.to_le_bytes());
    if let Some((at, bytes)) = ramdisk {
        put(&mut page, RAMDISK_IMAGE, &(at as u32).to_le_bytes());
        put(&mut page, RAMDISK_SIZE, &(bytes as u32).to_le_bytes());
    }
    let map = [
        (0, LOW_MEMORY_END, RAM),
        (TABLES, TABLES_END, RESERVED),
        (IMAGE_FLOOR, memory, RAM),
    ];
    put(&mut page, ZERO_PAGE_MAP_ENTRIES, &[map.len() as u8]);
    let entries = map.iter().flat_map(|(start, end, kind)| {
        let range = [start.to_le_bytes(), (end - start).to_le_bytes()].concat();
        range.into_iter().chain(kind.to_le_bytes())
    });
    put(&mut page, ZERO_PAGE_MAP, &entries.collect::<Vec<_>>());
    Ok(page)
}

#[cfg(test)]
mod tests;
