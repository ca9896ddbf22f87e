//! Rule xs-01: what a VM is offered, made from the host's CPUID and the VM's
//! permission. Leaves that are not named here answer zeros.

use super::features::{self, LEAF_1_ECX, LEAF_1_EDX, Register, Word};
use super::{
    BASIC, CpuidModel, EXTENDED, EXTENDED_BASE, HYPERVISOR_BASE, KVM_FEATURES, Leaf, NOTHING,
};
use crate::cpu::bits::split;
use crate::xstate::features::XFeatures;
use crate::xstate::layout::{Format, Layout, XSTATE_LEAF};
use crate::xstate::permission::Permission;
use alloc::vec::Vec;
use raw_cpuid::{CpuIdReader, CpuIdResult};

/// EBX, ECX and EDX of leaf 0x4000_0000.
const SIGNATURE: [u8; 12] = *b"Tilevisor\0\0\0";
/// The same of leaf 0x4000_0100: KVM's interface, with none of its features. Linux
/// leaves the APIC in x2APIC mode only under a hypervisor that it knows (Linux
/// documentation, "KVM CPUID bits").
const KVM_SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";

/// Sub-leaves of a leaf are looked for up to this number, so that a broken
/// host cannot make the table endless. All that are shown have far fewer.
const MAX_SUB_LEAVES: u32 = 16;

/// The place of a vCPU among those of its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// vCPUs of the VM, each a core of one package.
    pub vcpus: u32,
    /// This vCPU's APIC ID.
    pub apic_id: u32,
}

impl Topology {
    /// Bits of an APIC ID that number the cores.
    const fn core_bits(self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }

    /// What leaf 4 and leaf 1 want: the number of IDs set aside for cores.
    const fn core_ids(self) -> u32 {
        1 << self.core_bits()
    }
}

impl CpuidModel {
    /// Rule xs-01: everything that a VM with `permission` can be offered on
    /// this host.
    #[must_use]
    pub fn supported(
        host: &impl CpuIdReader,
        layout: &Layout,
        permission: &Permission,
        topology: Topology,
    ) -> Self {
        Builder {
            host,
            layout,
            permission,
            topology,
            sub_leaves: Vec::new(),
        }
        .build()
    }
}

struct Builder<'a, C> {
    host: &'a C,
    layout: &'a Layout,
    permission: &'a Permission,
    topology: Topology,
    sub_leaves: Vec<CpuIdResult>,
}

impl<C: CpuIdReader> Builder<'_, C> {
    fn build(mut self) -> CpuidModel {
        let highest = self.host.cpuid1(0).eax.min(BASIC as u32 - 1);
        let mut basic = [Leaf::plain(NOTHING); BASIC];
        for (number, leaf) in (0..=highest).zip(&mut basic) {
            *leaf = self.basic(number, highest);
        }
        // One topology, told twice: sub-leaves are shared.
        if highest >= 0x1f {
            basic[0x1f] = basic[0xb];
        }
        let highest_leaf = basic[highest as usize];
        // Out of range is answered like the highest leaf, in the table too.
        for leaf in basic.iter_mut().skip(highest as usize + 1) {
            *leaf = highest_leaf;
        }

        let mut extended = [Leaf::plain(NOTHING); EXTENDED];
        let host_highest = self.host.cpuid1(EXTENDED_BASE).eax;
        let highest = host_highest.min(EXTENDED_BASE + EXTENDED as u32 - 1);
        for (number, leaf) in (EXTENDED_BASE..).zip(&mut extended) {
            *leaf = if number <= highest {
                Leaf::plain(self.extended(number, highest))
            } else {
                highest_leaf
            };
        }

        let mut model = CpuidModel {
            basic,
            extended,
            hypervisor: hypervisor(HYPERVISOR_BASE, SIGNATURE),
            kvm: hypervisor(KVM_FEATURES, KVM_SIGNATURE),
            highest: highest_leaf,
            sub_leaves: self.sub_leaves,
            layout: self.layout.clone(),
            // Nothing yet.
            shown: (XFeatures::EMPTY, XFeatures::EMPTY),
        };
        model.set_cr4(false, false);
        model.set_xstate(XFeatures::X87, XFeatures::EMPTY);
        model
    }

    fn basic(&mut self, number: u32, highest: u32) -> Leaf {
        let host = self.host.cpuid1(number);
        match number {
            0 => Leaf::plain(CpuIdResult {
                eax: highest,
                ..host
            }),
            1 => Leaf::plain(self.identity(host)),
            // Cache descriptors and frequencies say nothing that a guest could not
            // find out, and nothing that needs support.
            2 | 0x15 | 0x16 => Leaf::plain(host),
            4 => self.caches(),
            6 => Leaf::plain(self.filtered(6, 0)),
            7 => {
                let mut main = self.filtered(7, 0);
                main.eax = host.eax.min(1);
                let count = main.eax + 1;
                let second = self.filtered(7, 1);
                self.with_sub_leaves([main, second].into_iter().take(count as usize))
            }
            0xb => self.topology(),
            XSTATE_LEAF => self.xstate(),
            // Tile palettes, and TMUL: no trace without permission.
            0x1d | 0x1e if self.permission.user().contains(XFeatures::TILES) => {
                let count = host.eax.min(MAX_SUB_LEAVES - 1) + 1;
                let host = self.host;
                self.with_sub_leaves((0..count).map(|sub| host.cpuid2(number, sub)))
            }
            _ => Leaf::plain(NOTHING),
        }
    }

    fn extended(&self, number: u32, highest: u32) -> CpuIdResult {
        /// Linear addresses of 48 bits, since LA57 is not shown.
        const LINEAR_48: u32 = 48 << 8;
        let host = self.host.cpuid1(number);
        match number {
            EXTENDED_BASE => CpuIdResult {
                eax: highest,
                ..NOTHING
            },
            // The brand string, and the L2 cache.
            0x8000_0002..=0x8000_0004 | 0x8000_0006 => host,
            0x8000_0008 => CpuIdResult {
                eax: LINEAR_48 | host.eax & 0xff,
                ..NOTHING
            },
            _ => self.filtered(number, 0),
        }
    }

    /// A leaf of feature bits, reduced to those that may be seen.
    fn filtered(&self, leaf: u32, sub_leaf: u32) -> CpuIdResult {
        let host = self.host.cpuid2(leaf, sub_leaf);
        let permitted = self.permission.user() | self.permission.supervisor();
        let visible = |register| {
            let word = Word {
                leaf,
                sub_leaf,
                register,
            };
            features::visible(word, permitted)
        };
        CpuIdResult {
            eax: host.eax & visible(Register::Eax),
            ebx: host.ebx & visible(Register::Ebx),
            ecx: host.ecx & visible(Register::Ecx),
            edx: host.edx & visible(Register::Edx),
        }
    }

    fn identity(&self, host: CpuIdResult) -> CpuIdResult {
        const X2APIC: u32 = 1 << 21;
        const TSC_DEADLINE: u32 = 1 << 24;
        const HYPERVISOR: u32 = 1 << 31;
        const SEVERAL_IDS: u32 = 1 << 28;
        /// Brand index and CLFLUSH line size.
        const KEPT: u32 = 0xffff;
        debug_assert_eq!(LEAF_1_ECX.leaf, LEAF_1_EDX.leaf);
        let features = self.filtered(1, 0);
        let ids = self.topology.core_ids();
        CpuIdResult {
            eax: host.eax,
            ebx: host.ebx & KEPT | (ids.min(0xff) << 16) | (self.topology.apic_id << 24),
            ecx: features.ecx | X2APIC | TSC_DEADLINE | HYPERVISOR,
            edx: features.edx | if ids > 1 { SEVERAL_IDS } else { 0 },
        }
    }

    /// Leaf 4: the host's caches, the last level shared by all vCPUs.
    fn caches(&mut self) -> Leaf {
        const NO_CACHE: u32 = 0;
        const GEOMETRY: u32 = 0x3fff;
        let last_id = self.topology.core_ids() - 1;
        let host = self.host;
        let caches = (0..MAX_SUB_LEAVES)
            .map(|sub| host.cpuid2(4, sub))
            .take_while(|cache| cache.eax & 0x1f != NO_CACHE)
            .map(|cache| {
                let level = cache.eax >> 5 & 7;
                let sharing = if level > 2 { last_id } else { 0 };
                CpuIdResult {
                    eax: cache.eax & GEOMETRY | sharing.min(0xfff) << 14 | last_id.min(63) << 26,
                    ..cache
                }
            });
        let caches: Vec<_> = caches.collect();
        self.with_sub_leaves(caches.into_iter())
    }

    /// Leaf 0xB: one thread a core, all cores in one package.
    fn topology(&mut self) -> Leaf {
        let edx = self.topology.apic_id;
        let level = |number: u32, kind: u32, shift, count| CpuIdResult {
            eax: shift,
            ebx: count,
            ecx: number | kind << 8,
            edx,
        };
        let thread = level(0, 1, 0, 1);
        let core = level(1, 2, self.topology.core_bits(), self.topology.vcpus);
        let leaf = self.with_sub_leaves([thread, core].into_iter());
        Leaf {
            answer: CpuIdResult { edx, ..NOTHING },
            echo: 0xff,
            ..leaf
        }
    }

    /// Leaf 0xD, but for the two sizes that depend on XCR0 and `IA32_XSS`.
    fn xstate(&mut self) -> Leaf {
        let (user, supervisor) = (self.permission.user(), self.permission.supervisor());
        let extensions = self.layout.extensions();
        let (edx, eax) = split(user.bits());
        let main = CpuIdResult {
            eax,
            ebx: 0,
            ecx: self.layout.size(user, Format::Standard),
            edx,
        };
        let (edx, ecx) = split(supervisor.bits());
        let second = CpuIdResult {
            eax: u32::from(extensions.xsaveopt)
                | u32::from(extensions.xsavec) << 1
                | u32::from(extensions.xgetbv1) << 2
                | u32::from(extensions.xsaves) << 3
                | u32::from(!self.permission.dynamic().is_empty()) << 4,
            ebx: 0,
            ecx,
            edx,
        };
        let permitted = user | supervisor;
        let host = self.host;
        let components = (2..64).map(|number| {
            if permitted.contains(XFeatures::single(number)) {
                host.cpuid2(XSTATE_LEAF, u32::from(number))
            } else {
                NOTHING
            }
        });
        self.with_sub_leaves([main, second].into_iter().chain(components))
    }

    fn with_sub_leaves(&mut self, answers: impl Iterator<Item = CpuIdResult>) -> Leaf {
        let first = self.sub_leaves.len();
        self.sub_leaves.extend(answers);
        Leaf {
            answer: NOTHING,
            first: first as u32,
            count: (self.sub_leaves.len() - first) as u32,
            echo: 0,
        }
    }
}

/// The first leaf of a range of hypervisor leaves: the highest of the range, and who
/// answers.
fn hypervisor(highest: u32, signature: [u8; 12]) -> Leaf {
    let [ebx, ecx, edx] = [0, 4, 8].map(|at| {
        let bytes = signature.get(at..).and_then(|rest| rest.first_chunk());
        u32::from_le_bytes(*bytes.unwrap_or(&[0; 4]))
    });
    Leaf::plain(CpuIdResult {
        eax: highest,
        ebx,
        ecx,
        edx,
    })
}
