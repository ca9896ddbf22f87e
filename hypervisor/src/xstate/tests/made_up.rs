//! CPUID of processors that need not exist.

use crate::cpu::bits::split;
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Allocation, Fpstate};
use crate::xstate::layout::Layout;
use crate::xstate::permission::{Named, Permission, Request, Vector};
use crate::xstate::xfd::XfdErrPolicy;
use proptest::prelude::*;
use raw_cpuid::{CpuIdReader, CpuIdResult};
use std::vec::Vec;

pub(crate) const XSAVEOPT: u32 = 1 << 0;
pub(crate) const XSAVEC: u32 = 1 << 1;
pub(crate) const XGETBV1: u32 = 1 << 2;
pub(crate) const XSAVES: u32 = 1 << 3;
pub(crate) const XFD: u32 = 1 << 4;

pub(crate) const SUPERVISOR: u32 = 1 << 0;
pub(crate) const ALIGNED: u32 = 1 << 1;
pub(crate) const DYNAMIC: u32 = 1 << 2;

/// A sub-leaf of leaf 0xD.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubLeaf {
    pub(crate) number: u8,
    pub(crate) size: u32,
    pub(crate) offset: u32,
    pub(crate) flags: u32,
}

pub(crate) const fn sub_leaf(number: u8, size: u32, offset: u32, flags: u32) -> SubLeaf {
    SubLeaf {
        number,
        size,
        offset,
        flags,
    }
}

/// A processor, by what leaf 0xD says. It has every other feature there is.
#[derive(Clone, Debug)]
pub(crate) struct MadeUp {
    pub(crate) sub_leaves: Vec<SubLeaf>,
    pub(crate) extensions: u32,
    /// The current XCR0 and `IA32_XSS`.
    pub(crate) xcr0: u64,
    pub(crate) xss: u64,
}

impl MadeUp {
    pub(crate) fn new(extensions: u32, sub_leaves: &[SubLeaf]) -> Self {
        Self {
            sub_leaves: sub_leaves.to_vec(),
            extensions,
            xcr0: 1,
            xss: 0,
        }
    }

    fn set(&self, flags: u32) -> u64 {
        let matching = self.sub_leaves.iter();
        let matching = matching.filter(|leaf| leaf.flags & SUPERVISOR == flags);
        matching.fold(0, |set, leaf| set | 1 << leaf.number)
    }

    pub(crate) fn user(&self) -> u64 {
        self.set(0) | 0b11
    }

    pub(crate) fn supervisor(&self) -> u64 {
        self.set(SUPERVISOR)
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::from_cpuid(self).unwrap()
    }

    /// Furthest end of the user components in `set`.
    pub(crate) fn standard_size(&self, set: u64) -> u32 {
        let user = self.sub_leaves.iter();
        let user = user.filter(|leaf| leaf.flags & SUPERVISOR == 0 && set & 1 << leaf.number != 0);
        user.fold(576, |size, leaf| {
            size.max(leaf.offset.saturating_add(leaf.size))
        })
    }

    /// By the manual's words: each component follows the one before it, and
    /// first rounds up to 64 if its ECX bit 1 says so.
    pub(crate) fn compacted_size(&self, set: u64) -> u32 {
        let mut leaves = self.sub_leaves.clone();
        leaves.sort_by_key(|leaf| leaf.number);
        let mut size: u32 = 576;
        for leaf in leaves.iter().filter(|leaf| set & 1 << leaf.number != 0) {
            if leaf.flags & ALIGNED != 0 {
                size = (size + 63) & !63;
            }
            size = size.saturating_add(leaf.size);
        }
        size
    }
}

impl CpuIdReader for MadeUp {
    fn cpuid2(&self, leaf: u32, sub: u32) -> CpuIdResult {
        let result = |eax, ebx, ecx, edx| CpuIdResult { eax, ebx, ecx, edx };
        match (leaf, sub) {
            (0, _) => result(0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
            (1, _) => result(0x806f8, 0x0710_0800, u32::MAX, u32::MAX),
            (4, 0..=3) => {
                let (kind, level) = [(1, 1), (2, 1), (3, 2), (3, 3)][sub as usize];
                result(0xfc00_4000 | level << 5 | kind, 0x01c0_003f, 63, 0)
            }
            (4, _) => result(0, 0, 0, 0),
            (7, 0) => result(2, u32::MAX, u32::MAX, u32::MAX),
            (0xd, 0) => {
                let (edx, eax) = split(self.user());
                result(
                    eax,
                    self.standard_size(self.xcr0),
                    self.standard_size(u64::MAX),
                    edx,
                )
            }
            (0xd, 1) => {
                let (edx, ecx) = split(self.supervisor());
                let compacted = self.compacted_size(self.xcr0 | self.xss);
                result(self.extensions, compacted, ecx, edx)
            }
            (0xd, _) => {
                let mut leaves = self.sub_leaves.iter();
                match leaves.find(|leaf| u32::from(leaf.number) == sub) {
                    Some(leaf) => result(leaf.size, leaf.offset, leaf.flags, 0),
                    None => result(0, 0, 0, 0),
                }
            }
            (0x1d, 0) => result(1, 0, 0, 0),
            (0x1d, 1) => result(0x0400_2000, 0x0008_0040, 16, 0),
            (0x1e, 0) => result(0, 0x4010, 0, 0),
            (0x8000_0000, _) => result(0x8000_0008, 0, 0, 0),
            (0x8000_0008, _) => result(0x3934, u32::MAX, u32::MAX, u32::MAX),
            _ => result(u32::MAX, u32::MAX, u32::MAX, u32::MAX),
        }
    }
}

const AVX: SubLeaf = sub_leaf(2, 256, 576, 0);
const OPMASK: SubLeaf = sub_leaf(5, 64, 1088, 0);
const ZMM_HI256: SubLeaf = sub_leaf(6, 512, 1152, 0);
const HI16_ZMM: SubLeaf = sub_leaf(7, 1024, 1664, 0);
const PKRU: SubLeaf = sub_leaf(9, 8, 2688, 0);
const CET_U: SubLeaf = sub_leaf(11, 16, 0, SUPERVISOR);
const CET_S: SubLeaf = sub_leaf(12, 24, 0, SUPERVISOR);
const TILECFG: SubLeaf = sub_leaf(17, 64, 2752, ALIGNED);
const TILEDATA: SubLeaf = sub_leaf(18, 8192, 2816, ALIGNED | DYNAMIC);
const AVX512_SET: [SubLeaf; 5] = [AVX, OPMASK, ZMM_HI256, HI16_ZMM, PKRU];
const ALL_BUT_XFD: u32 = XSAVEOPT | XSAVEC | XGETBV1 | XSAVES;

pub(crate) fn sse_only() -> MadeUp {
    MadeUp::new(0, &[])
}

pub(crate) fn avx512() -> MadeUp {
    MadeUp::new(ALL_BUT_XFD, &AVX512_SET)
}

/// The set and the places of Sapphire Rapids.
pub(crate) fn amx() -> MadeUp {
    let mut cpu = avx512();
    cpu.extensions |= XFD;
    cpu.sub_leaves.extend([TILECFG, TILEDATA]);
    cpu
}

/// Compacted without supervisor state.
pub(crate) fn amx_xsavec() -> MadeUp {
    let mut cpu = amx();
    cpu.extensions -= XSAVES;
    cpu
}

/// Standard format, with and without the init optimisation; the latter cannot
/// even tell what is in use.
pub(crate) fn amx_xsaveopt() -> MadeUp {
    let mut cpu = amx();
    cpu.extensions = XSAVEOPT | XGETBV1 | XFD;
    cpu
}

pub(crate) fn amx_xsave() -> MadeUp {
    let mut cpu = amx();
    cpu.extensions = XFD;
    cpu
}

pub(crate) fn amx_with_cet() -> MadeUp {
    let mut cpu = amx();
    cpu.sub_leaves.extend([CET_U, CET_S]);
    cpu
}

/// A dynamic component at another number, with a size that is no multiple of
/// 64; and one (as APX) that is high by number but low by offset.
pub(crate) fn future() -> MadeUp {
    let mut cpu = amx_with_cet();
    cpu.sub_leaves.push(sub_leaf(19, 128, 960, 0));
    cpu.sub_leaves
        .push(sub_leaf(40, 4100, 11072, ALIGNED | DYNAMIC));
    cpu
}

/// A dynamic component that, in the compacted format, moves others when room
/// is made for it.
pub(crate) fn low_dynamic() -> MadeUp {
    let mut cpu = amx();
    cpu.sub_leaves
        .push(sub_leaf(4, 200, 11008, ALIGNED | DYNAMIC));
    cpu.sub_leaves
        .push(sub_leaf(3, 100, 11328, ALIGNED | DYNAMIC));
    cpu
}

pub(crate) fn all_with_tiles() -> Vec<MadeUp> {
    std::vec![
        amx(),
        amx_xsavec(),
        amx_xsaveopt(),
        amx_xsave(),
        amx_with_cet(),
        future(),
    ]
}

/// Everything that `layout` has and a VM can be given.
pub(crate) fn everything(layout: &Layout) -> Request {
    Request {
        vector: if layout.user().contains(XFeatures::AVX512) {
            Vector::Avx512
        } else {
            Vector::Sse
        },
        beyond_vectors: layout.dynamic() | (layout.user() & XFeatures::TILES),
        supervisor: layout.supervisor() & XFeatures::CET,
    }
}

pub(crate) fn permission(layout: &Layout) -> Permission {
    Permission::check(layout, &everything(layout)).unwrap()
}

/// A vCPU that is offered everything.
pub(crate) fn vcpu(layout: &Layout, allocation: Allocation, policy: XfdErrPolicy) -> Fpstate {
    let permission = permission(layout);
    let named = Named {
        user: permission.user(),
        supervisor: permission.supervisor(),
        xfd: layout.extensions().xfd,
        xsaves: layout.extensions().xsaves,
    };
    let offer = permission.offer(layout, named).unwrap();
    Fpstate::new(layout, offer, allocation, policy).unwrap()
}

/// Any processor: any components, sizes, alignments and order of offsets.
pub(crate) fn any() -> impl Strategy<Value = MadeUp> {
    let component = (2_u8..63, 1_u32..5000, 0_u32..8, 0_u32..200);
    (
        proptest::collection::vec(component, 0..12),
        any_extensions(),
    )
        .prop_map(|(components, extensions)| {
            let mut cpu = MadeUp::new(extensions, &[]);
            // In the order drawn, so that offsets do not follow numbers.
            let mut end = 576;
            for (number, size, flags, gap) in components {
                if cpu.sub_leaves.iter().any(|leaf| leaf.number == number) {
                    continue;
                }
                if flags & SUPERVISOR != 0 {
                    if extensions & XSAVES != 0 {
                        cpu.sub_leaves
                            .push(sub_leaf(number, size, 0, flags & !DYNAMIC));
                    }
                    continue;
                }
                cpu.sub_leaves
                    .push(sub_leaf(number, size, end + gap, flags));
                end += gap + size;
            }
            cpu
        })
}

fn any_extensions() -> impl Strategy<Value = u32> {
    0_u32..32
}
