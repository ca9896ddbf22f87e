//! The registers and instructions of extended state, as the rules see them:
//! one method for each, implemented by the processor (`silicon.rs`) and, in
//! tests, by a model that logs every write (`model.rs`).

use crate::cpu::msr::Msr;
use crate::xstate::area::Area;
use crate::xstate::features::XFeatures;

/// The MSRs of extended state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XMsr {
    /// `IA32_XFD`.
    Xfd,
    /// `IA32_XFD_ERR`.
    XfdErr,
    /// `IA32_XSS`.
    Xss,
}

impl XMsr {
    /// The one with this address, if it belongs to extended state.
    pub const fn from_address(address: u32) -> Option<Self> {
        match Msr(address) {
            Msr::IA32_XFD => Some(Self::Xfd),
            Msr::IA32_XFD_ERR => Some(Self::XfdErr),
            Msr::IA32_XSS => Some(Self::Xss),
            _ => None,
        }
    }
}

/// The extended-state registers of one logical processor.
///
/// None of the methods checks its argument: callers pass only values derived
/// from a [`Layout`](crate::xstate::layout::Layout) or checked by a rule, so
/// that no instruction of the hypervisor can fault on a guest's value (case 10).
pub trait XRegisters {
    /// XSETBV of XCR0.
    fn set_xcr0(&mut self, value: XFeatures);
    /// Writes `IA32_XSS`; called only where XSAVES exists.
    fn set_xss(&mut self, value: XFeatures);
    /// Reads `IA32_XFD`; called only where XFD exists.
    fn xfd(&self) -> XFeatures;
    /// Writes `IA32_XFD`; called only where XFD exists.
    fn set_xfd(&mut self, value: XFeatures);
    /// Reads `IA32_XFD_ERR`; called only where XFD exists.
    fn xfd_err(&self) -> XFeatures;
    /// Writes `IA32_XFD_ERR`; called only where XFD exists.
    fn set_xfd_err(&mut self, value: XFeatures);
    /// XGETBV with ECX = 1: the components of XCR0 in use, whether armed or
    /// not; every component where the processor cannot tell.
    fn in_use(&self) -> XFeatures;
    /// Saves the area's features, by the best instruction for its format.
    fn save(&mut self, area: &mut Area);
    /// Restores every component that XCR0 and `IA32_XSS` enable; what the area
    /// does not hold becomes initial.
    fn restore(&mut self, area: &Area);
}
