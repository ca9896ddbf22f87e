//! Why extended state cannot be managed on a processor: what CPUID lacks or
//! contradicts, named with its sub-leaf.

use crate::xstate::features::XFeatures;
use thiserror::Error;

/// Why extended state cannot be managed on a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// CPUID.1:ECX.XSAVE is clear.
    #[error("this CPU has no XSAVE")]
    NoXsave,
    /// CPUID ends before leaf 0xD.
    #[error("CPUID ends at leaf {highest:#x}, before leaf 0xd")]
    NoLeaf {
        /// The highest basic leaf.
        highest: u32,
    },
    /// Sub-leaf 0 does not report x87 and SSE.
    #[error("CPUID.(0xd,0) reports only {user}; x87 and SSE must be there")]
    NoLegacy {
        /// What it reports.
        user: XFeatures,
    },
    /// Sub-leaves 0 and 1 both claim a component.
    #[error("CPUID.(0xd,0) and CPUID.(0xd,1) both claim {both}")]
    UserAndSupervisor {
        /// The components claimed twice.
        both: XFeatures,
    },
    /// The sub-leaf of one component is unusable.
    #[error("CPUID.(0xd,{number}): {fault}")]
    SubLeaf {
        /// The component, which is the number of its sub-leaf.
        number: u8,
        /// What is wrong with it.
        fault: SubLeafFault,
    },
    /// The sub-leaves do not add up to the size in sub-leaf 0.
    #[error("CPUID.(0xd,0) reports {reported} bytes, its components need {computed}")]
    StandardSize {
        /// The processor's figure, in bytes.
        reported: u32,
        /// Ours, in bytes.
        computed: u32,
    },
    /// The sub-leaves do not add up to the size in sub-leaf 1.
    #[error("CPUID.(0xd,1) reports {reported} bytes, its components need {computed}")]
    CompactedSize {
        /// The processor's figure, in bytes.
        reported: u32,
        /// Ours, in bytes.
        computed: u32,
    },
}

/// What is wrong with one sub-leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SubLeafFault {
    /// An enabled component without bytes.
    #[error("a supported component of size 0")]
    NoSize,
    /// ECX and the bitmaps disagree on whether it is a supervisor component.
    #[error("user or supervisor component? ECX bit 0 and the bitmaps disagree")]
    KindDisagrees,
    /// Its standard offset lies before the extended region.
    #[error("offset {offset} lies inside the legacy region or the header")]
    InsideLegacyOrHeader {
        /// The offset, in bytes.
        offset: u32,
    },
    /// Its standard place overlaps that of another component.
    #[error("overlaps component {other}")]
    Overlaps {
        /// The other component.
        other: u8,
    },
    /// The area would pass 4 GiB.
    #[error("the area would pass 4 GiB")]
    TooLarge,
}
