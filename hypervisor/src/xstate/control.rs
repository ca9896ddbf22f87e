//! Rule xs-13: XCR0 and the MSRs of a container as data. Each is checked by the
//! rule that holds for the guest and depends on no other, so that any order of
//! XCR0, XFD and state gives the same result; what would come alive without
//! room makes the container grow.

use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Fpstate, InRegisters, Residence};
use crate::xstate::image::StateError;
use crate::xstate::layout::Layout;
use crate::xstate::registers::XMsr;
use crate::xstate::xcr0::{check_xsetbv, check_xss};

impl Fpstate {
    /// Sets XCR0, with the rules of XSETBV (xs-06).
    ///
    /// # Errors
    /// [`StateError`]; nothing has changed.
    pub fn set_xcr0(&mut self, layout: &Layout, value: u64) -> Result<(), StateError> {
        let xcr0 = check_xsetbv(0, value, self.offer.user()).map_err(StateError::Xcr0)?;
        self.grow(layout, self.lacking_room(xcr0, self.xfd.value()))?;
        self.xcr0 = xcr0;
        self.residence = Residence::Memory;
        Ok(())
    }

    /// Sets one of the MSRs, with the rules of WRMSR (xs-07). The run loop then
    /// asks for [`Fpstate::new_interception`].
    ///
    /// # Errors
    /// [`StateError`]; nothing has changed.
    pub fn set_msr(&mut self, layout: &Layout, msr: XMsr, value: u64) -> Result<(), StateError> {
        self.check_in_memory()?;
        match msr {
            XMsr::Xss => {
                self.xss = check_xss(value, self.offer.supervisor()).map_err(StateError::Xss)?;
            }
            XMsr::Xfd => {
                let xfd = self.xfd.check(value).map_err(StateError::Xfd)?;
                self.grow(layout, self.lacking_room(self.xcr0, xfd))?;
                self.xfd.set_value(xfd);
            }
            XMsr::XfdErr => {
                let error = self.xfd.check(value).map_err(StateError::Xfd)?;
                // The register gets it when the container is loaded.
                let _ = self.xfd.set_error(error);
            }
        }
        self.residence = Residence::Memory;
        Ok(())
    }

    /// One of the MSRs.
    ///
    /// # Errors
    /// [`InRegisters`]: the guest may have changed it since.
    pub fn msr(&self, msr: XMsr) -> Result<XFeatures, InRegisters> {
        self.check_in_memory()?;
        Ok(match msr {
            XMsr::Xss => self.xss,
            XMsr::Xfd => self.xfd.value(),
            XMsr::XfdErr => self.xfd.error(),
        })
    }
}
