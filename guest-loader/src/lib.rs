//! Guest images and the bundle they travel in.
//!
//! An image is recognised by its content, never by its name, and becomes a
//! [`Plan`]: which bytes go where in guest memory, and the registers to begin
//! with. Nothing here touches memory of a guest; every field of an image is
//! checked, and an error names image, field and offset.
//!
//! Linux kernels (bzImage) are entered by the 64-bit boot protocol, with ACPI tables
//! ([`acpi`]). An image with a Multiboot header is entered as that specification says,
//! and otherwise an ELF file with a PVH note as that note says: both in 32-bit protected
//! mode. A flat binary with the signature of a boot sector begins in real mode, at 0x7c00.
//! What any other ELF64 image (x86-64, `ET_EXEC`) can expect at its entry point:
//!
//! - 64-bit mode, CPL 0, interrupts off, RFLAGS = 2, no IDT;
//! - the first 4 GiB mapped one to one, writable and executable;
//! - flat segments of a GDT in guest memory: CS = 0x08, all others 0x10;
//! - RDI = address of a PVH `hvm_start_info` (Xen, `public/arch-x86/hvm/start_info.h`)
//!   with command line and memory map; other general-purpose registers are zero;
//! - RSP = top of a stack of [`boot_area::STACK_BYTES`];
//! - memory below 1 MiB holds all of that ([`boot_area`]); the rest is zero where
//!   no segment lies.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod boot_area;
mod boot_sector;
pub mod bundle;
mod elf;
mod error;
mod linux;
mod multiboot;

pub use error::{Error, Field};

use alloc::{borrow::Cow, vec::Vec};
use core::ops::Range;

/// Images may not use memory below this: it is the loader's ([`boot_area`]).
pub const IMAGE_FLOOR: u64 = 0x10_0000;

/// Bytes to copy, with the guest-physical address that they go to.
pub type Copy<'a> = (u64, Cow<'a, [u8]>);

/// How a VM's memory and first registers come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// What to copy. Nothing overlaps; memory that is in none of them stays zero.
    pub copies: Vec<Copy<'a>>,
    /// The registers to begin with.
    pub entry: Entry,
}

/// Registers at the first instruction, by kind of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode; see the crate's documentation.
    Long64(Long64),
    /// 32-bit protected mode without paging, with flat segments.
    Protected32(Protected32),
    /// Real mode with all segments at zero; the stack ends where the code begins.
    Real16 {
        /// Address of the first instruction.
        ip: u16,
    },
}

/// Registers of [`Entry::Long64`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Long64 {
    /// Address of the first instruction.
    pub rip: u64,
    /// Top of the stack.
    pub rsp: u64,
    /// RDI: address of the `hvm_start_info`, for images that take it.
    pub rdi: u64,
    /// RSI: address of the zero page, for Linux.
    pub rsi: u64,
    /// Address of the page tables' root.
    pub cr3: u64,
    /// The GDT and its segments.
    pub gdt: Gdt,
}

/// Registers of [`Entry::Protected32`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protected32 {
    /// Address of the first instruction.
    pub eip: u64,
    /// EAX: the loader's magic number, or zero.
    pub eax: u64,
    /// EBX: address of what is to be known.
    pub ebx: u64,
    /// The GDT and its segments.
    pub gdt: Gdt,
}

/// A GDT with a code segment and a data segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gdt {
    /// Its address.
    pub base: u64,
    /// Its limit in bytes.
    pub limit: u16,
    /// Selector of the code segment.
    pub code: u16,
    /// Selector of the data segment.
    pub data: u16,
}

/// An entry in protected mode.
fn protected32(eip: u64, [eax, ebx]: [u64; 2]) -> Entry {
    Entry::Protected32(Protected32 {
        eip,
        eax,
        ebx,
        gdt: boot_area::gdt(boot_area::CODE_SELECTOR),
    })
}

/// An entry in 64-bit mode with one pointer to what is to be known.
fn long64(rip: u64, [rdi, rsi]: [u64; 2], code_selector: u16) -> Entry {
    Entry::Long64(Long64 {
        rip,
        rsp: boot_area::STACK_TOP,
        rdi,
        rsi,
        cr3: boot_area::PAGE_TABLES,
        gdt: boot_area::gdt(code_selector),
    })
}

/// What is to be laid out.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The image that is booted.
    pub image: &'a [u8],
    /// The initial ramdisk, for a kernel that takes one.
    pub initrd: Option<&'a [u8]>,
    /// Bytes of guest memory, from address zero on.
    pub memory_bytes: u64,
    /// The command line.
    pub command_line: &'a str,
    /// Number of vCPUs.
    pub vcpus: u32,
}

/// Recognises the image and lays it out in guest memory.
///
/// # Errors
/// The image is of no known kind, or broken, or does not fit.
pub fn plan<'a>(request: &Request<'a>) -> Result<Plan<'a>, Error> {
    let &Request {
        image,
        initrd,
        memory_bytes,
        command_line,
        vcpus,
    } = request;
    if linux::is_linux(image) {
        let kernel = linux::load(image, initrd, memory_bytes, command_line, vcpus)?;
        let mut copies = boot_area::common(command_line, boot_area::LINUX_CODE_SELECTOR, true)?;
        copies.extend(kernel.copies);
        let registers = [0, boot_area::START_INFO];
        return Ok(Plan {
            copies,
            entry: long64(kernel.entry, registers, boot_area::LINUX_CODE_SELECTOR),
        });
    }
    if let Some(header) = multiboot::find(image) {
        let image = multiboot::load(image, &header, initrd, memory_bytes)?;
        let mut copies = boot_area::common(command_line, boot_area::CODE_SELECTOR, false)?;
        copies.extend(image.copies);
        let registers = [u64::from(multiboot::LOADER_MAGIC), boot_area::START_INFO];
        return Ok(Plan {
            copies,
            entry: protected32(image.entry, registers),
        });
    }
    let is_elf = elf::is_elf(image);
    if !is_elf && !boot_sector::is_boot_sector(image) {
        return Err(Error::UnknownImage {
            start: image.iter().copied().take(4).collect(),
        });
    }
    if initrd.is_some() {
        return Err(Error::Initrd);
    }
    if !is_elf {
        return Ok(Plan {
            copies: boot_sector::load(image, command_line)?,
            entry: Entry::Real16 {
                ip: boot_sector::ORIGIN,
            },
        });
    }
    let elf = elf::load(image, memory_bytes)?;
    let long = elf.pvh_entry.is_none();
    if long && !elf.long {
        return Err(Error::NoEntry32);
    }
    let mut copies = boot_area::common(command_line, boot_area::CODE_SELECTOR, long)?;
    copies.push(boot_area::start_info(memory_bytes));
    copies.extend(
        elf.segments
            .into_iter()
            .map(|(at, bytes)| (at, Cow::Borrowed(bytes))),
    );
    let entry = match elf.pvh_entry {
        Some(entry) => protected32(entry, [0, boot_area::START_INFO]),
        None => long64(
            elf.entry,
            [boot_area::START_INFO, 0],
            boot_area::CODE_SELECTOR,
        ),
    };
    Ok(Plan { copies, entry })
}

/// Where a PC's memory below its devices ends.
const LOW_MEMORY_END: u64 = 0xa_0000;

/// Writes `bytes` into `area` from `at` on, as far as there is room.
fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    area.iter_mut()
        .skip(at)
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
}

/// Whether two ranges share a byte.
fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
