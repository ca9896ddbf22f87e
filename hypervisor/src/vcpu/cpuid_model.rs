//! What CPUID answers to one vCPU: a table of prepared answers.
//!
//! An exit costs one look-up. Whatever can change while the guest runs is
//! written into the table when it changes (CR4, XCR0, `IA32_XSS`), never worked
//! out at the exit. `supported.rs` builds the table (rule xs-01), `check.rs`
//! holds one that an operator has changed against it (rule xs-02).
//!
//! What is shown relies on other parts of the hypervisor:
//!
//! - x2APIC, TSC-deadline and ARAT: a local APIC with that timer, on every host;
//! - the hypervisor bit: RDMSR and WRMSR of unknown MSRs raise #GP;
//! - PAT, SEP, SYSCALL, NX, RDTSCP: `IA32_PAT`, `IA32_SYSENTER_*`, `IA32_STAR`
//!   and its kin, `IA32_EFER`, `IA32_TSC_AUX` are the guest's own;
//! - RDTSCP, RDPID, INVPCID, XSAVES: the VM-execution controls of those names;
//! - XFD, XSAVES: `xstate::events`.
//!
//! No MSR is needed beyond these: MTRR, machine check, performance monitoring,
//! speculation control, `IA32_ARCH_CAPABILITIES`, TSC_ADJUST, CET, PT, SGX, VMX,
//! HWP and MONITOR are not shown. The TSC and core frequencies of leaves 0x15
//! and 0x16 are those of the host.

pub mod check;
pub mod features;
pub mod supported;

use crate::xstate::features::XFeatures;
use crate::xstate::layout::{Format, Layout, XSTATE_LEAF};
use alloc::vec::Vec;
use features::{LEAF_1_ECX, LEAF_7_ECX, OFFERED, Register, Word};
use raw_cpuid::CpuIdResult;

/// Basic leaves that can be shown: 0 up to and including 0x1f.
const BASIC: usize = 0x20;
/// Extended leaves that can be shown, from 0x8000_0000 on.
const EXTENDED: usize = 9;
const EXTENDED_BASE: u32 = 0x8000_0000;
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// A second range, for guests that look for KVM, and its last leaf.
const KVM_BASE: u32 = 0x4000_0100;
const KVM_FEATURES: u32 = KVM_BASE + 1;

/// An answer without any feature.
const NOTHING: CpuIdResult = CpuIdResult {
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
};

/// A leaf; of 32 bytes, so that its place in a table is a shift away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(32))]
struct Leaf {
    /// The answer, for every sub-leaf that has none of its own.
    answer: CpuIdResult,
    /// Where its sub-leaves lie in [`CpuidModel::sub_leaves`], and how many
    /// from number 0 on have an answer of their own.
    first: u32,
    count: u32,
    /// The bits of a sub-leaf number that ECX repeats where there is no such
    /// sub-leaf: those of the topology leaves do.
    echo: u32,
}

/// KVM's features: none.
const NO_FEATURES: Leaf = Leaf::plain(NOTHING);

impl Leaf {
    const fn plain(answer: CpuIdResult) -> Self {
        Self {
            answer,
            first: 0,
            count: 0,
            echo: 0,
        }
    }
}

/// The answers for one vCPU.
#[derive(Clone)]
pub struct CpuidModel {
    basic: [Leaf; BASIC],
    extended: [Leaf; EXTENDED],
    hypervisor: Leaf,
    kvm: Leaf,
    /// The highest basic leaf, which answers for leaves out of range
    /// (SDM Vol. 2, "CPUID—CPU Identification").
    highest: Leaf,
    sub_leaves: Vec<CpuIdResult>,
    layout: Layout,
    /// The XCR0 and `IA32_XSS` whose sizes leaf 0xD states.
    shown: (XFeatures, XFeatures),
}

impl CpuidModel {
    /// The answer to CPUID with EAX = `leaf` and ECX = `sub_leaf`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, leaf: u32, sub_leaf: u32) -> CpuIdResult {
        let leaf = self.leaf(leaf);
        if leaf.count == 0 {
            return leaf.answer;
        }
        if sub_leaf < leaf.count
            && let Some(&answer) = self.sub_leaves.get((leaf.first + sub_leaf) as usize)
        {
            return answer;
        }
        let mut answer = leaf.answer;
        answer.ecx |= sub_leaf & leaf.echo;
        answer
    }

    #[inline]
    fn leaf(&self, leaf: u32) -> &Leaf {
        let extended = leaf.wrapping_sub(EXTENDED_BASE) as usize;
        if let Some(leaf) = self.basic.get(leaf as usize) {
            leaf
        } else if let Some(leaf) = self.extended.get(extended) {
            leaf
        } else {
            match leaf {
                HYPERVISOR_BASE => &self.hypervisor,
                KVM_BASE => &self.kvm,
                KVM_FEATURES => &NO_FEATURES,
                _ => &self.highest,
            }
        }
    }

    /// The place of the answer to exactly this leaf and sub-leaf.
    fn answer_mut(&mut self, leaf: u32, sub_leaf: u32) -> Option<&mut CpuIdResult> {
        let entry = match self.basic.get_mut(leaf as usize) {
            Some(entry) => entry,
            None => {
                let index = leaf.checked_sub(EXTENDED_BASE)?;
                self.extended.get_mut(index as usize)?
            }
        };
        if entry.count == 0 {
            return (sub_leaf == 0).then_some(&mut entry.answer);
        }
        if sub_leaf >= entry.count {
            return None;
        }
        self.sub_leaves.get_mut((entry.first + sub_leaf) as usize)
    }

    /// The feature bits of `word`.
    fn word(&self, word: Word) -> u32 {
        let answer = self.lookup(word.leaf, word.sub_leaf);
        match word.register {
            Register::Eax => answer.eax,
            Register::Ebx => answer.ebx,
            Register::Ecx => answer.ecx,
            Register::Edx => answer.edx,
        }
    }

    fn set_bits(&mut self, word: Word, mask: u32, value: bool) {
        if let Some(answer) = self.answer_mut(word.leaf, word.sub_leaf) {
            let register = match word.register {
                Register::Eax => &mut answer.eax,
                Register::Ebx => &mut answer.ebx,
                Register::Ecx => &mut answer.ecx,
                Register::Edx => &mut answer.edx,
            };
            if value {
                *register |= mask;
            } else {
                *register &= !mask;
            }
        }
    }

    /// CR4.OSXSAVE and CR4.PKE have mirrors in leaves 1 and 7.
    pub fn set_cr4(&mut self, osxsave: bool, pke: bool) {
        const OSXSAVE: u32 = 1 << 27;
        const OSPKE: u32 = 1 << 4;
        self.set_bits(LEAF_1_ECX, OSXSAVE, osxsave);
        self.set_bits(LEAF_7_ECX, OSPKE, pke);
    }

    /// Rule xs-03: leaf 0xD states the sizes for the current XCR0 and
    /// `IA32_XSS`, the second in the compacted format if there is one.
    #[inline]
    pub fn set_xstate(&mut self, xcr0: XFeatures, xss: XFeatures) {
        if self.shown != (xcr0, xss) {
            self.show_xstate(xcr0, xss);
        }
    }

    fn show_xstate(&mut self, xcr0: XFeatures, xss: XFeatures) {
        const XSAVEC_OR_XSAVES: u32 = 1 << 1 | 1 << 3;
        self.shown = (xcr0, xss);
        let standard = self.layout.size(xcr0, Format::Standard);
        let compacted = self.layout.size(xcr0 | xss, Format::Compacted);
        if let Some(answer) = self.answer_mut(XSTATE_LEAF, 0) {
            answer.ebx = standard;
        }
        if let Some(answer) = self.answer_mut(XSTATE_LEAF, 1)
            && answer.eax & XSAVEC_OR_XSAVES != 0
        {
            answer.ebx = compacted;
        }
    }

    /// The bits of CR4 whose feature this CPUID shows.
    #[must_use]
    pub fn offered_cr4(&self) -> u64 {
        /// Bits that no CPUID bit announces: PCE.
        const ALWAYS: u64 = 1 << 8;
        #[rustfmt::skip]
        const GATES: &[(u8, &str)] = &[
            (0, "VME"), (1, "VME"), (2, "TSC"), (3, "DE"), (4, "PSE"), (5, "PAE"), (7, "PGE"),
            (9, "FXSR"), (10, "SSE"), (11, "UMIP"), (16, "FSGSBASE"), (17, "PCID"),
            (18, "XSAVE"), (20, "SMEP"), (21, "SMAP"), (22, "PKU"),
        ];
        let shown = |feature| {
            OFFERED.iter().any(|group| {
                let word = self.word(group.word);
                let mut bits = group.bits.iter();
                bits.any(|&(bit, name)| name == feature && word & 1 << bit != 0)
            })
        };
        GATES
            .iter()
            .filter(|(_, feature)| shown(*feature))
            .fold(ALWAYS, |mask, (bit, _)| mask | 1 << bit)
    }
}

#[cfg(test)]
mod tests;
