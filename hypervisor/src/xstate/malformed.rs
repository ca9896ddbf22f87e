//! Why extended state cannot be managed on a processor: what CPUID lacks or
//! contradicts, named with its sub-leaf.

use crate::xstate::features::XFeatures;
use core::fmt;

/// Why extended state cannot be managed on a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// CPUID.1:ECX.XSAVE is clear.
    NoXsave,
    /// CPUID ends before leaf 0xD.
    NoLeaf {
        /// The highest basic leaf.
        highest: u32,
    },
    /// Sub-leaf 0 does not report x87 and SSE.
    NoLegacy {
        /// What it reports.
        user: XFeatures,
    },
    /// Sub-leaves 0 and 1 both claim a component.
    UserAndSupervisor {
        /// The components claimed twice.
        both: XFeatures,
    },
    /// The sub-leaf of one component is unusable.
    SubLeaf {
        /// The component, which is the number of its sub-leaf.
        number: u8,
        /// What is wrong with it.
        fault: SubLeafFault,
    },
    /// The sub-leaves do not add up to the size in sub-leaf 0.
    StandardSize {
        /// The processor's figure, in bytes.
        reported: u32,
        /// Ours, in bytes.
        computed: u32,
    },
    /// The sub-leaves do not add up to the size in sub-leaf 1.
    CompactedSize {
        /// The processor's figure, in bytes.
        reported: u32,
        /// Ours, in bytes.
        computed: u32,
    },
}

/// What is wrong with one sub-leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubLeafFault {
    /// An enabled component without bytes.
    NoSize,
    /// ECX and the bitmaps disagree on whether it is a supervisor component.
    KindDisagrees,
    /// Its standard offset lies before the extended region.
    InsideLegacyOrHeader {
        /// The offset, in bytes.
        offset: u32,
    },
    /// Its standard place overlaps that of another component.
    Overlaps {
        /// The other component.
        other: u8,
    },
    /// The area would pass 4 GiB.
    TooLarge,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoXsave => f.write_str("this CPU has no XSAVE"),
            Self::NoLeaf { highest } => {
                write!(f, "CPUID ends at leaf {highest:#x}, before leaf 0xd")
            }
            Self::NoLegacy { user } => {
                write!(
                    f,
                    "CPUID.(0xd,0) reports only {user}; x87 and SSE must be there"
                )
            }
            Self::UserAndSupervisor { both } => {
                write!(f, "CPUID.(0xd,0) and CPUID.(0xd,1) both claim {both}")
            }
            Self::SubLeaf { number, fault } => write!(f, "CPUID.(0xd,{number}): {fault}"),
            Self::StandardSize { reported, computed } => write!(
                f,
                "CPUID.(0xd,0) reports {reported} bytes, its components need {computed}"
            ),
            Self::CompactedSize { reported, computed } => write!(
                f,
                "CPUID.(0xd,1) reports {reported} bytes, its components need {computed}"
            ),
        }
    }
}

impl fmt::Display for SubLeafFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSize => f.write_str("a supported component of size 0"),
            Self::KindDisagrees => {
                f.write_str("user or supervisor component? ECX bit 0 and the bitmaps disagree")
            }
            Self::InsideLegacyOrHeader { offset } => {
                write!(
                    f,
                    "offset {offset} lies inside the legacy region or the header"
                )
            }
            Self::Overlaps { other } => write!(f, "overlaps component {other}"),
            Self::TooLarge => f.write_str("the area would pass 4 GiB"),
        }
    }
}
