//! Guest images and the bundle they travel in.
//!
//! An image is recognised by its content, never by its name, and becomes a
//! [`Plan`]: which bytes go where in guest memory, and the registers to begin
//! with. Nothing here touches memory of a guest; every field of an image is
//! checked, and an error names image, field and offset.
//!
//! What an ELF64 image (x86-64, `ET_EXEC`) can expect at its entry point:
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

pub mod boot_area;
pub mod bundle;
mod elf;
mod error;

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
    Long64 {
        /// Address of the first instruction.
        rip: u64,
        /// Top of the stack.
        rsp: u64,
        /// Address of the `hvm_start_info`.
        start_info: u64,
        /// Address of the page tables' root.
        cr3: u64,
        /// Address of the GDT.
        gdt_base: u64,
        /// Limit of the GDT in bytes.
        gdt_limit: u16,
        /// Selector of the code segment.
        code_selector: u16,
        /// Selector of the data segment.
        data_selector: u16,
    },
}

/// Recognises `image` and lays it out in `memory_bytes` of guest memory.
///
/// # Errors
/// The image is of no known kind, or broken, or does not fit.
pub fn plan<'a>(image: &'a [u8], memory_bytes: u64, command_line: &str) -> Result<Plan<'a>, Error> {
    if !elf::is_elf(image) {
        return Err(Error::UnknownImage {
            start: image.iter().copied().take(4).collect(),
        });
    }
    let elf = elf::load(image, memory_bytes)?;
    let mut copies = boot_area::build(memory_bytes, command_line)?;
    copies.extend(
        elf.segments
            .into_iter()
            .map(|(at, bytes)| (at, Cow::Borrowed(bytes))),
    );
    Ok(Plan {
        copies,
        entry: Entry::Long64 {
            rip: elf.entry,
            rsp: boot_area::STACK_TOP,
            start_info: boot_area::START_INFO,
            cr3: boot_area::PAGE_TABLES,
            gdt_base: boot_area::GDT,
            gdt_limit: boot_area::GDT_LIMIT,
            code_selector: boot_area::CODE_SELECTOR,
            data_selector: boot_area::DATA_SELECTOR,
        },
    })
}

/// Whether two ranges share a byte.
fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
