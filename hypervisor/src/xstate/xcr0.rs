//! Rule xs-06: which values XSETBV and a write of `IA32_XSS` accept.
//!
//! The paragraphs stand in the order of the manual's list of #GP(0) causes
//! (SDM Vol. 2, "XSETBV—Set Extended Control Register"); the processor has
//! checked CPL and CR4.OSXSAVE itself before the instruction exits.

use crate::xstate::features::XFeatures;

/// The rule that a refused XSETBV breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XsetbvFault {
    /// ECX names no extended control register but XCR0.
    NoSuchRegister(u32),
    /// Bits that the vCPU's CPUID does not offer.
    Unsupported(XFeatures),
    /// Bit 0 must stay set.
    X87Cleared,
    /// AVX state needs SSE state.
    AvxWithoutSse,
    /// The two MPX bits belong together.
    MpxSplit,
    /// AVX-512 state needs AVX state.
    Avx512WithoutAvx,
    /// The three AVX-512 bits belong together.
    Avx512Split,
    /// The two tile bits belong together.
    TilesSplit,
}

/// The new XCR0, if a guest to which `offered` is offered may set it.
///
/// # Errors
/// [`XsetbvFault`]; the guest gets #GP(0).
pub fn check_xsetbv(index: u32, value: u64, offered: XFeatures) -> Result<XFeatures, XsetbvFault> {
    let value = XFeatures::from_bits(value);

    if index != 0 {
        return Err(XsetbvFault::NoSuchRegister(index));
    }

    let unsupported = value - offered;
    if !unsupported.is_empty() {
        return Err(XsetbvFault::Unsupported(unsupported));
    }

    if !value.contains(XFeatures::X87) {
        return Err(XsetbvFault::X87Cleared);
    }

    if value.contains(XFeatures::AVX) && !value.contains(XFeatures::SSE) {
        return Err(XsetbvFault::AvxWithoutSse);
    }

    if value.splits(XFeatures::MPX) {
        return Err(XsetbvFault::MpxSplit);
    }

    if value.intersects(XFeatures::AVX512) && !value.contains(XFeatures::AVX) {
        return Err(XsetbvFault::Avx512WithoutAvx);
    }

    if value.splits(XFeatures::AVX512) {
        return Err(XsetbvFault::Avx512Split);
    }

    if value.splits(XFeatures::TILES) {
        return Err(XsetbvFault::TilesSplit);
    }

    Ok(value)
}

/// The new `IA32_XSS`, if a guest to which `offered` is offered may set it: it
/// has no rule but that unsupported bits are reserved (SDM Vol. 1, "Enabling
/// the XSAVE Feature Set and XSAVE-Enabled Features" (13.3)).
///
/// # Errors
/// The bits that are not offered; the guest gets #GP(0).
pub fn check_xss(value: u64, offered: XFeatures) -> Result<XFeatures, XFeatures> {
    let value = XFeatures::from_bits(value);
    let unsupported = value - offered;
    if unsupported.is_empty() {
        Ok(value)
    } else {
        Err(unsupported)
    }
}
