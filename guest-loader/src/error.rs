//! What can be wrong with an image or a bundle.

use alloc::{string::String, vec::Vec};
use core::fmt;

/// A field of an image, with its offset in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in the format's own specification.
    pub name: &'static str,
    /// Where it begins.
    pub offset: u64,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {:#x}", self.name, self.offset)
    }
}

/// Why an image or bundle is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The image is of no known kind.
    UnknownImage {
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// The data ends before something that must be in it.
    Truncated {
        /// What is missing or cut off.
        what: Field,
        /// Bytes it needs.
        needed: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A field has a value that is not allowed.
    Value {
        /// The field.
        what: Field,
        /// Its value.
        found: u64,
        /// What would be allowed.
        expected: &'static str,
    },
    /// A range of guest memory that is not the image's to use.
    Place {
        /// What was to be placed.
        what: Field,
        /// Its first address.
        start: u64,
        /// The address behind its last byte.
        end: u64,
        /// The addresses that images may use.
        allowed: (u64, u64),
    },
    /// Two segments share memory.
    Overlap {
        /// One.
        first: Field,
        /// The other.
        second: Field,
    },
    /// The entry point lies in no executable segment.
    Entry {
        /// The entry point.
        at: u64,
    },
    /// A 32-bit ELF file that says nothing of how it is entered.
    NoEntry32,
    /// An initial ramdisk for an image that takes none.
    Initrd,
    /// The command line is longer than its place.
    CommandLine {
        /// Bytes it has.
        bytes: usize,
        /// Bytes it may have.
        allowed: usize,
    },
    /// The checksum does not match: the bundle was damaged on its way.
    Checksum {
        /// In the header.
        stated: u32,
        /// Of the data.
        computed: u32,
    },
    /// The manifest cannot be decoded.
    Manifest,
    /// A VM's description is not allowed.
    Description {
        /// The VM.
        vm: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownImage { start } => {
                write!(f, "the image is of no known kind (it begins with")?;
                start.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                f.write_str(
                    "); known: ELF executables, Linux bzImage, images with a Multiboot header",
                )
            }
            Self::Truncated {
                what,
                needed,
                found,
            } => {
                write!(f, "{what}: needs {needed} bytes, {found} are there")
            }
            Self::Value {
                what,
                found,
                expected,
            } => {
                write!(f, "{what}: found {found:#x}, expected {expected}")
            }
            Self::Place {
                what,
                start,
                end,
                allowed,
            } => write!(
                f,
                "{what}: wants guest memory {start:#x}..{end:#x}, allowed is {:#x}..{:#x}",
                allowed.0, allowed.1
            ),
            Self::Overlap { first, second } => write!(f, "{first} overlaps {second}"),
            Self::Entry { at } => {
                write!(f, "entry point {at:#x} lies in no executable segment")
            }
            Self::NoEntry32 => {
                f.write_str("a 32-bit ELF file with neither a Multiboot header nor a PVH note")
            }
            Self::Initrd => f.write_str("an initrd is given, and the image takes none"),
            Self::CommandLine { bytes, allowed } => {
                write!(
                    f,
                    "the command line has {bytes} bytes, {allowed} are allowed"
                )
            }
            Self::Checksum { stated, computed } => write!(
                f,
                "the bundle is damaged: its checksum says {stated:#010x}, its data {computed:#010x}"
            ),
            Self::Manifest => f.write_str("the bundle's manifest cannot be decoded"),
            Self::Description { vm, problem } => write!(f, "VM {vm:?}: {problem}"),
        }
    }
}

impl core::error::Error for Error {}
