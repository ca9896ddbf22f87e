//! Which feature bits a guest may see, and which component each needs: rule
//! xs-01 reads the list to build CPUID, rule xs-02 to check one.
//!
//! A bit that is not listed is never shown: what nobody has looked at might
//! need an MSR, an exit or a component that is not there.

use crate::xstate::features::XFeatures;

/// A register of a CPUID leaf that consists of feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The leaf.
    pub leaf: u32,
    /// The sub-leaf.
    pub sub_leaf: u32,
    /// Which register.
    pub register: Register,
}

/// A register that CPUID answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Feature bits of one word that need the same components.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Where they are.
    pub word: Word,
    /// What the VM must be permitted.
    pub needs: XFeatures,
    /// Bit number and the manual's name.
    pub bits: &'static [(u8, &'static str)],
}

const fn word(leaf: u32, sub_leaf: u32, register: Register) -> Word {
    Word {
        leaf,
        sub_leaf,
        register,
    }
}

const fn group(word: Word, needs: XFeatures, bits: &'static [(u8, &'static str)]) -> Group {
    Group { word, needs, bits }
}

/// Leaf 1, ECX.
pub const LEAF_1_ECX: Word = word(1, 0, Register::Ecx);
/// Leaf 1, EDX.
pub const LEAF_1_EDX: Word = word(1, 0, Register::Edx);
/// Leaf 7, ECX.
pub const LEAF_7_ECX: Word = word(7, 0, Register::Ecx);
const THERMAL_EAX: Word = word(6, 0, Register::Eax);
const LEAF_7_EBX: Word = word(7, 0, Register::Ebx);
const LEAF_7_EDX: Word = word(7, 0, Register::Edx);
const LEAF_7_1_EAX: Word = word(7, 1, Register::Eax);
const LEAF_7_1_EDX: Word = word(7, 1, Register::Edx);
const EXTENDED_1_ECX: Word = word(0x8000_0001, 0, Register::Ecx);
const EXTENDED_1_EDX: Word = word(0x8000_0001, 0, Register::Edx);
const EXTENDED_7_EDX: Word = word(0x8000_0007, 0, Register::Edx);

const NONE: XFeatures = XFeatures::EMPTY;
const AVX: XFeatures = XFeatures::AVX;
const AVX512: XFeatures = XFeatures::AVX512;
const TILES: XFeatures = XFeatures::TILES;

/// All of them.
#[rustfmt::skip]
pub const OFFERED: &[Group] = &[
    group(LEAF_1_ECX, NONE, &[
        (0, "SSE3"), (1, "PCLMULQDQ"), (9, "SSSE3"), (13, "CMPXCHG16B"), (17, "PCID"),
        (19, "SSE4.1"), (20, "SSE4.2"), (22, "MOVBE"), (23, "POPCNT"), (25, "AES"),
        (26, "XSAVE"), (30, "RDRAND"),
    ]),
    group(LEAF_1_ECX, AVX, &[(12, "FMA"), (28, "AVX"), (29, "F16C")]),
    group(LEAF_1_EDX, NONE, &[
        (0, "FPU"), (1, "VME"), (2, "DE"), (3, "PSE"), (4, "TSC"), (5, "MSR"), (6, "PAE"),
        (8, "CX8"), (9, "APIC"), (11, "SEP"), (13, "PGE"), (15, "CMOV"), (16, "PAT"),
        (17, "PSE-36"), (19, "CLFSH"), (23, "MMX"), (24, "FXSR"), (25, "SSE"), (26, "SSE2"),
        (27, "SS"),
    ]),
    group(THERMAL_EAX, NONE, &[(2, "ARAT")]),
    group(LEAF_7_EBX, NONE, &[
        (0, "FSGSBASE"), (3, "BMI1"), (6, "FDP_EXCPTN_ONLY"), (7, "SMEP"), (8, "BMI2"),
        (9, "ERMS"), (10, "INVPCID"), (13, "no FPU CS and DS"), (18, "RDSEED"), (19, "ADX"),
        (20, "SMAP"), (23, "CLFLUSHOPT"), (24, "CLWB"), (29, "SHA"),
    ]),
    group(LEAF_7_EBX, AVX, &[(5, "AVX2")]),
    group(LEAF_7_EBX, AVX512, &[
        (16, "AVX512F"), (17, "AVX512DQ"), (21, "AVX512_IFMA"), (26, "AVX512PF"),
        (27, "AVX512ER"), (28, "AVX512CD"), (30, "AVX512BW"), (31, "AVX512VL"),
    ]),
    group(LEAF_7_ECX, NONE, &[
        (2, "UMIP"), (8, "GFNI"), (22, "RDPID"), (25, "CLDEMOTE"), (27, "MOVDIRI"),
        (28, "MOVDIR64B"),
    ]),
    group(LEAF_7_ECX, XFeatures::PKRU, &[(3, "PKU")]),
    group(LEAF_7_ECX, AVX, &[(9, "VAES"), (10, "VPCLMULQDQ")]),
    group(LEAF_7_ECX, AVX512, &[
        (1, "AVX512_VBMI"), (6, "AVX512_VBMI2"), (11, "AVX512_VNNI"), (12, "AVX512_BITALG"),
        (14, "AVX512_VPOPCNTDQ"),
    ]),
    group(LEAF_7_EDX, NONE, &[(4, "FSRM"), (10, "MD_CLEAR"), (14, "SERIALIZE")]),
    group(LEAF_7_EDX, AVX512, &[
        (2, "AVX512_4VNNIW"), (3, "AVX512_4FMAPS"), (8, "AVX512_VP2INTERSECT"),
        (23, "AVX512_FP16"),
    ]),
    group(LEAF_7_EDX, TILES, &[(22, "AMX-BF16"), (24, "AMX-TILE"), (25, "AMX-INT8")]),
    group(LEAF_7_1_EAX, NONE, &[
        (7, "CMPCCXADD"), (10, "fast zero-length MOVSB"), (11, "fast short STOSB"),
        (12, "fast short CMPSB"),
    ]),
    group(LEAF_7_1_EAX, AVX, &[
        (0, "SHA512"), (1, "SM3"), (2, "SM4"), (4, "AVX-VNNI"), (23, "AVX-IFMA"),
    ]),
    group(LEAF_7_1_EAX, AVX512, &[(5, "AVX512_BF16")]),
    group(LEAF_7_1_EAX, TILES, &[(21, "AMX-FP16")]),
    group(LEAF_7_1_EDX, NONE, &[(14, "PREFETCHI")]),
    group(LEAF_7_1_EDX, AVX, &[
        (4, "AVX-VNNI-INT8"), (5, "AVX-NE-CONVERT"), (10, "AVX-VNNI-INT16"),
    ]),
    group(LEAF_7_1_EDX, TILES, &[(8, "AMX-COMPLEX")]),
    group(EXTENDED_1_ECX, NONE, &[(0, "LAHF64"), (5, "LZCNT"), (8, "PREFETCHW")]),
    group(EXTENDED_1_EDX, NONE, &[
        (11, "SYSCALL"), (20, "NX"), (26, "1 GiB pages"), (27, "RDTSCP"), (29, "long mode"),
    ]),
    group(EXTENDED_7_EDX, NONE, &[(8, "invariant TSC")]),
];

/// The bits of `word` that a VM with `permitted` components may see.
#[must_use]
pub fn visible(word: Word, permitted: XFeatures) -> u32 {
    OFFERED
        .iter()
        .filter(|group| group.word == word && permitted.contains(group.needs))
        .flat_map(|group| group.bits)
        .fold(0, |mask, &(bit, _)| mask | 1 << bit)
}
