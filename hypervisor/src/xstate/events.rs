//! What a guest does to its extended state, applied to its container and to the
//! processor that just left it: XSETBV, the three MSRs, #NM, and the two tests
//! around every entry.
//!
//! On entry of each: the vCPU exited on this processor, so its container is the
//! one in the registers. Every value is checked by a rule before it reaches the
//! container or an instruction (case 10).

use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::Fpstate;
use crate::xstate::registers::{XMsr, XRegisters};
use crate::xstate::swap::CpuXstate;
use crate::xstate::xcr0::{XsetbvFault, check_xsetbv, check_xss};
use crate::xstate::xfd::{Interception, XfdFault};

/// What the run loop does after the guest's access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Advance the guest past the instruction.
    Done,
    /// Advance it, and apply the new interception.
    Intercept(Interception),
    /// Park the container, grow it by these components, and execute the
    /// instruction again: nothing has been changed yet.
    Grow(XFeatures),
}

/// Why the guest gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestFault {
    /// A rule of XSETBV.
    Xsetbv(XsetbvFault),
    /// `IA32_XSS` on a vCPU without XSAVES.
    NoXss,
    /// Bits of `IA32_XSS` that are not offered.
    XssReserved(XFeatures),
    /// A rule of `IA32_XFD` or `IA32_XFD_ERR`.
    Xfd(XfdFault),
}

impl<R: XRegisters> CpuXstate<R> {
    /// Rules xs-08 and xs-12: before every entry. Costs a test unless an
    /// XFD_ERR has to be handed to the guest.
    #[inline]
    pub fn before_entry(&mut self, vcpu: &mut Fpstate) {
        let action = vcpu.xfd.on_entry();
        self.apply(action);
    }

    /// Rules xs-08 and xs-12: after every exit. Costs a test unless an XFD_ERR
    /// was handed to the guest at the entry.
    #[inline]
    pub fn after_exit(&mut self, vcpu: &mut Fpstate) {
        if vcpu.xfd.lent() {
            let action = vcpu.xfd.take_back(self.registers.xfd_err());
            self.apply(action);
        }
    }

    /// Rule xs-08: an #NM exit. The caller then injects #NM, whatever its cause.
    pub fn on_nm(&mut self, vcpu: &mut Fpstate) {
        let action = vcpu.xfd.on_nm(self.registers.xfd_err());
        self.apply(action);
    }

    /// Rule xs-06: XSETBV of register `index`.
    ///
    /// # Errors
    /// The rule broken; the guest gets #GP(0) and nothing has changed.
    pub fn xsetbv(
        &mut self,
        vcpu: &mut Fpstate,
        index: u32,
        value: u64,
    ) -> Result<Outcome, GuestFault> {
        const XCR0: u32 = 0;
        if index == XCR0 && value == vcpu.xcr0.bits() {
            // It was checked when it was set, and room was made for it.
            return Ok(Outcome::Done);
        }
        let xcr0 = check_xsetbv(index, value, vcpu.offer.user()).map_err(GuestFault::Xsetbv)?;
        let lacking = vcpu.lacking_room(xcr0, vcpu.xfd.value());
        if !lacking.is_empty() {
            return Ok(Outcome::Grow(lacking));
        }
        vcpu.xcr0 = xcr0;
        if self.holds(vcpu) {
            self.write_xcr0(xcr0);
        }
        Ok(done(vcpu))
    }

    /// An RDMSR that exited.
    ///
    /// # Errors
    /// The guest's CPUID has no such MSR: it gets #GP(0).
    pub fn read_msr(&self, vcpu: &Fpstate, msr: XMsr) -> Result<u64, GuestFault> {
        let value = match msr {
            XMsr::Xss if !vcpu.offer.xsaves() => return Err(GuestFault::NoXss),
            XMsr::Xss => vcpu.xss,
            XMsr::Xfd | XMsr::XfdErr => {
                vcpu.xfd.check_exists().map_err(GuestFault::Xfd)?;
                match msr {
                    XMsr::Xfd => vcpu.xfd.value(),
                    _ => vcpu.xfd.error(),
                }
            }
        };
        Ok(value.bits())
    }

    /// Rule xs-07: a WRMSR that exited.
    ///
    /// # Errors
    /// The rule broken; the guest gets #GP(0) and nothing has changed.
    pub fn write_msr(
        &mut self,
        vcpu: &mut Fpstate,
        msr: XMsr,
        value: u64,
    ) -> Result<Outcome, GuestFault> {
        match msr {
            XMsr::Xss => self.write_guest_xss(vcpu, value),
            XMsr::Xfd => self.write_guest_xfd(vcpu, value),
            XMsr::XfdErr => {
                let error = vcpu.xfd.check(value).map_err(GuestFault::Xfd)?;
                let action = vcpu.xfd.set_error(error);
                if self.holds(vcpu) {
                    self.apply(action);
                }
                Ok(Outcome::Done)
            }
        }
    }

    fn write_guest_xss(&mut self, vcpu: &mut Fpstate, value: u64) -> Result<Outcome, GuestFault> {
        if !vcpu.offer.xsaves() {
            return Err(GuestFault::NoXss);
        }
        let xss = check_xss(value, vcpu.offer.supervisor()).map_err(GuestFault::XssReserved)?;
        vcpu.xss = xss;
        if self.holds(vcpu) {
            self.write_xss(xss);
        }
        Ok(Outcome::Done)
    }

    fn write_guest_xfd(&mut self, vcpu: &mut Fpstate, value: u64) -> Result<Outcome, GuestFault> {
        let xfd = vcpu.xfd.check(value).map_err(GuestFault::Xfd)?;
        let lacking = vcpu.lacking_room(vcpu.xcr0, xfd);
        if !lacking.is_empty() {
            return Ok(Outcome::Grow(lacking));
        }
        vcpu.xfd.set_value(xfd);
        if self.holds(vcpu) {
            self.registers.set_xfd(xfd);
        }
        Ok(done(vcpu))
    }
}

/// The access is done; room made for it before may have changed what must exit.
fn done(vcpu: &mut Fpstate) -> Outcome {
    vcpu.new_interception()
        .map_or(Outcome::Done, Outcome::Intercept)
}
