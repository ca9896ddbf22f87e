//! Rule xs-02: a CPUID that an operator has changed is held against what is
//! supported; refused, it comes with the list of all that is missing, and the
//! vCPU keeps the one it had.
//!
//! Not checked: leaves that only describe, such as brand, caches and topology.

use super::features::{OFFERED, Register, Word};
use super::{CpuidModel, NOTHING};
use crate::cpu::bits::{join, split};
use crate::xstate::features::XFeatures;
use crate::xstate::layout::{Format, Layout, XSTATE_LEAF};
use crate::xstate::permission::{Named, Offer, Permission, Refused};
use alloc::vec::Vec;
use core::fmt;
use raw_cpuid::CpuIdResult;

/// A leaf, or sub-leaf, that an operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The leaf.
    pub leaf: u32,
    /// The sub-leaf; 0 where the leaf has none.
    pub sub_leaf: u32,
    /// What it shall answer.
    pub answer: CpuIdResult,
}

/// Something that a CPUID names and the vCPU cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A leaf or sub-leaf that the table does not have.
    Leaf {
        /// The leaf.
        leaf: u32,
        /// The sub-leaf.
        sub_leaf: u32,
    },
    /// A feature bit that is not supported.
    Bit {
        /// Its register.
        word: Word,
        /// Its number there.
        bit: u8,
    },
    /// A feature whose components the same CPUID does not name.
    Components {
        /// The feature.
        name: &'static str,
        /// Those of its components that are not named.
        lacks: XFeatures,
    },
    /// A description of the hardware that is neither the host's nor empty.
    Description {
        /// The leaf.
        leaf: u32,
        /// The sub-leaf.
        sub_leaf: u32,
    },
    /// What leaf 0xD names.
    Xstate(Refused),
}

/// Registers that consist of feature bits, of which a CPUID may have fewer.
const FEATURE_LEAVES: [(u32, u32); 7] = [
    (1, 0),
    (6, 0),
    (7, 0),
    (7, 1),
    (XSTATE_LEAF, 1),
    (0x8000_0001, 0),
    (0x8000_0007, 0),
];

/// Leaves that describe components: the host's answer, or none.
const DESCRIPTIONS: [u32; 3] = [XSTATE_LEAF, 0x1d, 0x1e];

impl CpuidModel {
    /// This model, which is what is supported, with `entries` in place of its
    /// own; and what it offers.
    ///
    /// # Errors
    /// Everything that is missing.
    pub fn changed(
        &self,
        layout: &Layout,
        permission: &Permission,
        entries: &[Entry],
    ) -> Result<(Self, Offer), Vec<Missing>> {
        let mut draft = self.clone();
        let mut missing = Vec::new();
        for &Entry {
            leaf,
            sub_leaf,
            answer,
        } in entries
        {
            match draft.answer_mut(leaf, sub_leaf) {
                Some(place) => *place = answer,
                None => missing.push(Missing::Leaf { leaf, sub_leaf }),
            }
        }
        // Not the operator's: these follow the vCPU's registers.
        draft.set_cr4(false, false);
        let named = draft.named();
        draft.check_features(self, named, &mut missing);
        draft.check_descriptions(self, &mut missing);
        match permission.offer(layout, named) {
            Ok(offer) if missing.is_empty() => {
                draft.describe(offer);
                Ok((draft, offer))
            }
            Ok(_) => Err(missing),
            Err(refused) => {
                missing.push(Missing::Xstate(refused));
                Err(missing)
            }
        }
    }

    /// What leaf 0xD names.
    fn named(&self) -> Named {
        const XSAVES: u32 = 1 << 3;
        const XFD: u32 = 1 << 4;
        let main = self.lookup(XSTATE_LEAF, 0);
        let second = self.lookup(XSTATE_LEAF, 1);
        Named {
            user: XFeatures::from_bits(join(main.edx, main.eax)),
            supervisor: XFeatures::from_bits(join(second.edx, second.ecx)),
            xfd: second.eax & XFD != 0,
            xsaves: second.eax & XSAVES != 0,
        }
    }

    fn check_features(&self, supported: &Self, named: Named, missing: &mut Vec<Missing>) {
        for (leaf, sub_leaf) in FEATURE_LEAVES {
            use Register::{Eax, Ebx, Ecx, Edx};
            let registers: &[_] = match leaf {
                // EAX and EBX identify the processor.
                1 => &[Ecx, Edx],
                // The rest is a size, and a set that has its own check.
                XSTATE_LEAF => &[Eax],
                _ => &[Eax, Ebx, Ecx, Edx],
            };
            for &register in registers {
                let word = Word {
                    leaf,
                    sub_leaf,
                    register,
                };
                let foreign = self.word(word) & !supported.word(word);
                let bits = (0..32).filter(|bit| foreign & 1 << bit != 0);
                missing.extend(bits.map(|bit| Missing::Bit { word, bit }));
            }
        }
        for group in OFFERED {
            let lacks = group.needs - (named.user | named.supervisor);
            if !lacks.is_empty() {
                let word = self.word(group.word);
                let bits = group.bits.iter().filter(|(bit, _)| word & 1 << bit != 0);
                missing.extend(bits.map(|&(_, name)| Missing::Components { name, lacks }));
            }
        }
    }

    fn check_descriptions(&self, supported: &Self, missing: &mut Vec<Missing>) {
        for leaf in DESCRIPTIONS {
            // What a component is, not which there are.
            let first = if leaf == XSTATE_LEAF { 2 } else { 0 };
            for sub_leaf in first..64 {
                let answer = self.lookup(leaf, sub_leaf);
                if answer != supported.lookup(leaf, sub_leaf) && answer != NOTHING {
                    missing.push(Missing::Description { leaf, sub_leaf });
                }
            }
        }
    }

    /// Rule xs-03: brings leaf 0xD in line with `offer`.
    fn describe(&mut self, offer: Offer) {
        let size = self.layout.size(offer.user(), Format::Standard);
        let (edx, eax) = split(offer.user().bits());
        if let Some(main) = self.answer_mut(XSTATE_LEAF, 0) {
            (main.eax, main.ecx, main.edx) = (eax, size, edx);
        }
        for number in 2..64 {
            let offered = offer.features().contains(XFeatures::single(number));
            if let Some(sub_leaf) = self.answer_mut(XSTATE_LEAF, u32::from(number))
                && !offered
            {
                *sub_leaf = NOTHING;
            }
        }
        self.set_xstate(XFeatures::X87, XFeatures::EMPTY);
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf { leaf, sub_leaf } => write!(f, "no leaf ({leaf:#x},{sub_leaf})"),
            Self::Bit { word, bit } => {
                let (leaf, sub_leaf) = (word.leaf, word.sub_leaf);
                let register = word.register;
                write!(f, "CPUID.({leaf:#x},{sub_leaf}):{register:?}[{bit}]")?;
                let group = OFFERED.iter().filter(|group| group.word == *word);
                let mut bits = group.flat_map(|group| group.bits);
                match bits.find(|(number, _)| number == bit) {
                    Some((_, name)) => write!(f, " ({name}) is not supported"),
                    None => f.write_str(" is not supported"),
                }
            }
            Self::Components { name, lacks } => write!(f, "{name} needs {lacks}"),
            Self::Description { leaf, sub_leaf } => {
                write!(f, "CPUID.({leaf:#x},{sub_leaf}) is not that of this CPU")
            }
            Self::Xstate(refused) => write!(f, "{refused}"),
        }
    }
}
