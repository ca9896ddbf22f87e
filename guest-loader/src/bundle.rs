//! The guest bundle: one file with the descriptions of VMs and their images,
//! which travels as the boot ramdisk. Written by [`pack`], read by
//! [`Bundle::parse`]; the format is private to them and has a version.
//!
//! | offset | bytes | what |
//! |--------|-------|------|
//! | 0      | 8     | magic |
//! | 8      | 4     | version |
//! | 12     | 4     | CRC-32 (ISO-HDLC) of all that follows |
//! | 16     | 8     | bytes of the whole bundle |
//! | 24     | 8     | bytes of the manifest |
//! | 32     |       | the manifest: VM descriptions, postcard-encoded |
//! |        |       | images, each at a multiple of 4096 bytes |
//!
//! Numbers are little-endian.

use crate::{Error, Field, put};
use alloc::{string::String, vec::Vec};
use crc::{CRC_32_ISO_HDLC, Crc};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"TILEVISR";
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = 12;
/// What the checksum covers begins behind it.
const COVERED: usize = 16;
const TOTAL_AT: usize = 16;
const MANIFEST_BYTES_AT: usize = 24;
const HEADER_BYTES: usize = 32;
const IMAGE_ALIGNMENT: usize = 4096;
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Memory comes in pieces of this size, so that large pages can map it.
pub const MEMORY_UNIT: u64 = 2 << 20;
/// Memory ends below the addresses of devices.
const MOST_MEMORY: u64 = 3 << 30;
/// A time slice where a VM does not ask for another.
pub const DEFAULT_SLICE_US: u32 = 10_000;
/// In a shorter one a vCPU would get little done between two switches.
const SHORTEST_SLICE_US: u32 = 5;
/// Longest name of a VM.
pub const NAME_BYTES: usize = 31;

/// The widest vectors that a VM is offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vector {
    /// XMM.
    Sse,
    /// YMM.
    Avx,
    /// ZMM and mask registers.
    #[default]
    Avx512,
}

/// When a vCPU's container gets room for tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// When the vCPU is made.
    #[default]
    Static,
    /// When the guest first enables them.
    OnDemand,
}

/// How IA32_XFD_ERR is kept apart between guest and hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XfdErr {
    /// #NM is intercepted.
    #[default]
    Intercept,
    /// The register is exchanged when another vCPU gets the CPU.
    Switch,
}

/// Extended state of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XstateDescription {
    /// The widest vectors.
    pub vector: Vector,
    /// Whether it may use tiles.
    pub amx: bool,
    /// When room for tiles is allocated.
    pub allocation: Allocation,
    /// How IA32_XFD_ERR is handled.
    pub xfd_err: XfdErr,
}

/// Registers that belong to a state image ([`Vm::state`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRegisters {
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XFD.
    pub xfd: u64,
}

/// Where an image lies in the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Blob {
    offset: u64,
    bytes: u64,
}

/// A VM as it stands in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Described {
    config: VmConfig,
    image: Blob,
    initrd: Option<Blob>,
    state: Option<(StateRegisters, Blob)>,
}

/// What a VM is to be, apart from its images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Its name: 1 to [`NAME_BYTES`] printable ASCII characters without `:` and
    /// `"`; the prefix of its console lines.
    pub name: String,
    /// Its command line.
    pub cmdline: String,
    /// Bytes of memory, a multiple of [`MEMORY_UNIT`].
    pub memory: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// CPUs that its vCPUs are pinned to, in order; empty: any.
    pub cpus: Vec<u32>,
    /// Microseconds that a vCPU may run before another gets the CPU.
    pub slice_us: u32,
    /// Its extended state.
    pub xstate: XstateDescription,
}

/// A VM with its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm<'a> {
    /// What it is to be.
    pub config: VmConfig,
    /// The image that it boots.
    pub image: &'a [u8],
    /// The initial ramdisk for a kernel that takes one.
    pub initrd: Option<&'a [u8]>,
    /// The extended state that its vCPU begins with, an image in the standard
    /// XSAVE format, in place of that after reset.
    pub state: Option<(StateRegisters, &'a [u8])>,
}

impl VmConfig {
    fn check(&self) -> Result<(), Error> {
        let problem = |problem| {
            Err(Error::Description {
                vm: self.name.clone(),
                problem,
            })
        };
        let printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b':' && byte != b'"';
        if self.name.is_empty() || self.name.len() > NAME_BYTES || !self.name.bytes().all(printable)
        {
            return problem("a name has 1 to 31 printable ASCII characters, none of them : or \"");
        }
        if self.memory == 0 || !self.memory.is_multiple_of(MEMORY_UNIT) {
            return problem("memory is a multiple of 2 MiB, and not zero");
        }
        if self.memory > MOST_MEMORY {
            return problem("memory is at most 3 GiB");
        }
        if self.vcpus == 0 {
            return problem("a VM has at least one vCPU");
        }
        if self.slice_us < SHORTEST_SLICE_US {
            return problem("a time slice has at least 5 microseconds");
        }
        if !self.cpus.is_empty() && self.cpus.len() != self.vcpus as usize {
            return problem("cpus names one CPU for each vCPU, or none at all");
        }
        Ok(())
    }
}

fn check_all<'a>(configs: impl Iterator<Item = &'a VmConfig> + Clone) -> Result<(), Error> {
    for (index, config) in configs.clone().enumerate() {
        config.check()?;
        if configs
            .clone()
            .take(index)
            .any(|other| other.name == config.name)
        {
            return Err(Error::Description {
                vm: config.name.clone(),
                problem: "another VM has the same name",
            });
        }
    }
    Ok(())
}

/// Writes a bundle.
///
/// # Errors
/// A description that [`Bundle::parse`] would refuse.
pub fn pack(vms: &[Vm<'_>]) -> Result<Vec<u8>, Error> {
    check_all(vms.iter().map(|vm| &vm.config))?;
    // Offsets are encoded in as many bytes as they need, so where the images begin
    // depends on the manifest's length, which depends on them: room is left.
    let slack = vms.len() * 6 * size_of::<Blob>();
    let manifest = encode(vms, 0)?;
    let first = (HEADER_BYTES + manifest.len() + slack).next_multiple_of(IMAGE_ALIGNMENT);
    let manifest = encode(vms, first)?;

    let mut bundle = Vec::new();
    bundle.extend(MAGIC);
    bundle.extend(VERSION.to_le_bytes());
    bundle.extend([0; HEADER_BYTES - CHECKSUM_AT]);
    bundle.extend(&manifest);
    for image in images(vms) {
        bundle.resize(bundle.len().next_multiple_of(IMAGE_ALIGNMENT).max(first), 0);
        bundle.extend(image);
    }
    let total = bundle.len() as u64;
    put(&mut bundle, TOTAL_AT, &total.to_le_bytes());
    put(
        &mut bundle,
        MANIFEST_BYTES_AT,
        &(manifest.len() as u64).to_le_bytes(),
    );
    let checksum = CHECKSUM.checksum(bundle.get(COVERED..).unwrap_or(&[]));
    put(&mut bundle, CHECKSUM_AT, &checksum.to_le_bytes());
    Ok(bundle)
}

/// The images in the order in which they are written.
fn images<'a>(vms: &'a [Vm<'a>]) -> impl Iterator<Item = &'a [u8]> {
    vms.iter().flat_map(|vm| {
        let state = vm.state.map(|(_, image)| image);
        core::iter::once(vm.image).chain(vm.initrd).chain(state)
    })
}

/// The manifest for images that are written from `first` on.
fn encode(vms: &[Vm<'_>], first: usize) -> Result<Vec<u8>, Error> {
    let mut next = first;
    let mut blob = |image: &[u8]| {
        let offset = next.next_multiple_of(IMAGE_ALIGNMENT);
        next = offset + image.len();
        Blob {
            offset: offset as u64,
            bytes: image.len() as u64,
        }
    };
    let manifest: Vec<Described> = vms
        .iter()
        .map(|vm| Described {
            config: vm.config.clone(),
            image: blob(vm.image),
            initrd: vm.initrd.map(&mut blob),
            state: vm.state.map(|(registers, image)| (registers, blob(image))),
        })
        .collect();
    postcard::to_allocvec(&manifest).map_err(|_| Error::Manifest)
}

/// A bundle that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle<'a> {
    /// Its VMs.
    pub vms: Vec<Vm<'a>>,
}

impl<'a> Bundle<'a> {
    /// Checks `data`, which may be longer than the bundle in it, and decodes it.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(data: &'a [u8]) -> Result<Self, Error> {
        let found = data.len() as u64;
        let field = |name, offset| Field { name, offset };
        let header = data.get(..HEADER_BYTES).ok_or(Error::Truncated {
            what: field("bundle header", 0),
            needed: HEADER_BYTES as u64,
            found,
        })?;
        let long = |at| number::<8>(header, at).map_or(0, u64::from_le_bytes);
        let word = |at| number::<4>(header, at).map_or(0, u32::from_le_bytes);
        if !header.starts_with(&MAGIC) {
            return Err(Error::Value {
                what: field("bundle magic", 0),
                found: long(0),
                expected: "a guest bundle",
            });
        }
        if word(8) != VERSION {
            let found = u64::from(word(8));
            return Err(Error::Value {
                what: field("bundle version", 8),
                found,
                expected: "version 1",
            });
        }
        let total = long(TOTAL_AT);
        let data = usize::try_from(total)
            .ok()
            .and_then(|total| data.get(..total))
            .ok_or(Error::Truncated {
                what: field("bundle", 0),
                needed: total,
                found,
            })?;
        let covered = data.get(COVERED..).ok_or(Error::Value {
            what: field("bundle length", TOTAL_AT as u64),
            found: total,
            expected: "more than the header",
        })?;
        let (stated, computed) = (word(CHECKSUM_AT), CHECKSUM.checksum(covered));
        if stated != computed {
            return Err(Error::Checksum { stated, computed });
        }
        let bytes = long(MANIFEST_BYTES_AT);
        let manifest = slice(data, HEADER_BYTES as u64, bytes).ok_or(Error::Truncated {
            what: field("manifest", HEADER_BYTES as u64),
            needed: bytes,
            found: total - HEADER_BYTES as u64,
        })?;
        let described: Vec<Described> =
            postcard::from_bytes(manifest).map_err(|_| Error::Manifest)?;
        check_all(described.iter().map(|vm| &vm.config))?;
        let image = |blob: Blob, name| {
            slice(data, blob.offset, blob.bytes).ok_or(Error::Truncated {
                what: field(name, blob.offset),
                needed: blob.bytes,
                found: total.saturating_sub(blob.offset),
            })
        };
        let vms = described
            .into_iter()
            .map(|vm| {
                Ok(Vm {
                    image: image(vm.image, "image")?,
                    initrd: vm.initrd.map(|blob| image(blob, "initrd")).transpose()?,
                    state: match vm.state {
                        Some((registers, blob)) => Some((registers, image(blob, "state")?)),
                        None => None,
                    },
                    config: vm.config,
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { vms })
    }
}

fn number<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

fn slice(data: &[u8], offset: u64, bytes: u64) -> Option<&[u8]> {
    let (offset, bytes) = (usize::try_from(offset).ok()?, usize::try_from(bytes).ok()?);
    data.get(offset..offset.checked_add(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{string::ToString, vec};

    fn config(name: &str) -> VmConfig {
        VmConfig {
            name: name.to_string(),
            cmdline: "console=ttyS0".to_string(),
            memory: 64 << 20,
            vcpus: 2,
            cpus: vec![0, 1],
            slice_us: DEFAULT_SLICE_US,
            xstate: XstateDescription {
                amx: true,
                ..XstateDescription::default()
            },
        }
    }

    fn packed() -> Vec<u8> {
        let vms = [
            Vm {
                config: config("one"),
                image: &[1; 5000],
                initrd: Some(&[2; 10]),
                state: Some((StateRegisters::default(), &[4; 5])),
            },
            Vm {
                config: config("two"),
                image: &[3; 1],
                initrd: None,
                state: None,
            },
        ];
        pack(&vms).unwrap()
    }

    proptest! {
        #[test]
        fn what_was_packed_is_parsed(
            images in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..9000), any::<bool>()), 0..6),
            vcpus in 1_u32..300, memory in 1..=MOST_MEMORY / MEMORY_UNIT, slack in 0_usize..5000,
        ) {
            let vms: Vec<Vm<'_>> = (0..).zip(&images).map(|(index, (image, initrd))| Vm {
                config: VmConfig {
                    name: std::format!("vm{index}"),
                    memory: memory * MEMORY_UNIT,
                    vcpus,
                    cpus: vec![],
                    ..config("")
                },
                image,
                initrd: initrd.then_some(image.as_slice()),
                state: initrd.then_some((StateRegisters { xcr0: memory, xfd: 1 }, image.as_slice())),
            }).collect();
            let mut bundle = pack(&vms).unwrap();
            // A ramdisk is padded to whole sectors.
            bundle.resize(bundle.len() + slack, 0);
            prop_assert_eq!(Bundle::parse(&bundle).unwrap().vms, vms);
        }

        #[test]
        fn a_damaged_bundle_is_refused(at in any::<proptest::sample::Index>(), flip in 1_u8..) {
            let mut bundle = packed();
            let at = at.index(bundle.len());
            bundle[at] ^= flip;
            prop_assert!(Bundle::parse(&bundle).is_err());
        }

        #[test]
        fn garbage_behind_a_right_checksum_never_panics(
            manifest in proptest::collection::vec(any::<u8>(), 0..200), length in any::<u64>(),
        ) {
            let mut bundle = vec![0; HEADER_BYTES];
            bundle.extend(&manifest);
            let total = bundle.len() as u64;
            put(&mut bundle, 0, &MAGIC);
            put(&mut bundle, 8, &VERSION.to_le_bytes());
            put(&mut bundle, TOTAL_AT, &total.to_le_bytes());
            for length in [length, manifest.len() as u64] {
                put(&mut bundle, MANIFEST_BYTES_AT, &length.to_le_bytes());
                let checksum = CHECKSUM.checksum(&bundle[COVERED..]);
                put(&mut bundle, CHECKSUM_AT, &checksum.to_le_bytes());
                if let Ok(parsed) = Bundle::parse(&bundle) {
                    prop_assert!(parsed.vms.iter().all(|vm| vm.config.check().is_ok()));
                }
            }
        }
    }

    #[test]
    fn a_bundle_that_was_cut_off_says_so() {
        let bundle = packed();
        for length in [0, 31, 32, 4096, bundle.len() - 1] {
            let error = Bundle::parse(&bundle[..length]).unwrap_err();
            assert!(
                matches!(error, Error::Truncated { .. }),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn descriptions_are_checked_on_both_sides() {
        let refused = |config: VmConfig| {
            let vm = Vm {
                config,
                image: &[],
                initrd: None,
                state: None,
            };
            matches!(pack(&[vm]), Err(Error::Description { .. }))
        };
        assert!(!refused(config("fine")));
        for name in [
            "",
            "with:colon",
            "with\"quote",
            "ü",
            "x\n",
            "01234567890123456789012345678901",
        ] {
            assert!(refused(config(name)), "{name}");
        }
        assert!(refused(VmConfig {
            memory: 0,
            ..config("x")
        }));
        assert!(refused(VmConfig {
            memory: MEMORY_UNIT + 4096,
            ..config("x")
        }));
        assert!(refused(VmConfig {
            vcpus: 0,
            cpus: vec![],
            ..config("x")
        }));
        assert!(refused(VmConfig {
            vcpus: 3,
            ..config("x")
        }));
        assert!(refused(VmConfig {
            slice_us: SHORTEST_SLICE_US - 1,
            ..config("x")
        }));
        let twice = [0, 1].map(|_| Vm {
            config: config("x"),
            image: &[],
            initrd: None,
            state: None,
        });
        assert!(pack(&twice).is_err());
    }
}
