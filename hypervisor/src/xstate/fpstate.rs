//! The container of one vCPU's extended state: the area **and** all that belongs
//! to it. Because guest XCR0, `IA32_XSS`, XFD and XFD_ERR live beside the bytes
//! and move with them, they can never disagree with each other or with the
//! registers (case 3).
//!
//! Not prevented here: two run loops using one container at once; `&mut` does.

use crate::xstate::area::{Area, OutOfMemory};
use crate::xstate::features::XFeatures;
use crate::xstate::layout::Layout;
use crate::xstate::permission::Offer;
use crate::xstate::xfd::{Interception, Xfd, XfdErrPolicy};
use thiserror::Error;

/// When a container gets room for dynamic components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// At finalize.
    Static,
    /// When `XCR0 & !XFD` first includes one.
    OnDemand,
}

/// Identifies one loading of one container into one processor's registers.
/// Never used twice, so a container that was dropped, changed in memory or
/// loaded elsewhere since can not be mistaken for the one in the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::xstate) struct Loading(pub(in crate::xstate) u64);

/// Where the newest copy of the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::xstate) enum Residence {
    /// In the area.
    Memory,
    /// In the registers of the processor that made this loading.
    Registers(Loading),
    /// In the area and, if nobody else was loaded there since, in the registers.
    Both(Loading),
}

/// A container.
pub struct Fpstate {
    pub(in crate::xstate) area: Area,
    pub(in crate::xstate) offer: Offer,
    pub(in crate::xstate) xcr0: XFeatures,
    pub(in crate::xstate) xss: XFeatures,
    pub(in crate::xstate) xfd: Xfd,
    pub(in crate::xstate) residence: Residence,
    /// What the run loop was last told to intercept.
    announced: Interception,
}

/// The state is in the registers of a processor, where it cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the vCPU's extended state is in the registers of a running CPU")]
pub struct InRegisters;

/// Why a container did not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowError {
    /// Its state must be parked first.
    InRegisters,
    /// No memory; the container is as it was.
    OutOfMemory(OutOfMemory),
}

impl Fpstate {
    /// Rule xs-05: a container for exactly what the vCPU is offered, at reset
    /// values; without the dynamic components where they come on demand.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(
        layout: &Layout,
        offer: Offer,
        allocation: Allocation,
        policy: XfdErrPolicy,
    ) -> Result<Self, OutOfMemory> {
        let features = match allocation {
            Allocation::Static => offer.features(),
            Allocation::OnDemand => offer.features() - offer.dynamic(),
        };
        let mut container = Self {
            area: Area::new(layout, features)?,
            offer,
            xcr0: XFeatures::X87,
            xss: XFeatures::EMPTY,
            xfd: Xfd::new(offer.xfd(), policy),
            residence: Residence::Memory,
            announced: Interception::INITIAL,
        };
        container.reset();
        Ok(container)
    }

    /// Power-up and RESET (SDM Vol. 3, "Processor State After Reset", table of
    /// processor states following power-up, reset or INIT): what was in the
    /// registers is forgotten, whoever holds them.
    pub fn reset(&mut self) {
        /// FCW, FSW and abridged tag word: 0040H, 0, and all registers valid
        /// zeros, which is not what FNINIT gives.
        const X87_AT_RESET: [u8; 5] = [0x40, 0, 0, 0, 0xff];
        self.area.clear();
        self.area.write(0, &X87_AT_RESET);
        self.area.set_present(XFeatures::X87);
        self.xcr0 = XFeatures::X87;
        self.xss = XFeatures::EMPTY;
        self.xfd.reset();
        self.residence = Residence::Memory;
    }

    /// INIT keeps XCR0, `IA32_XSS`, XFD, XFD_ERR and all state (same table) but
    /// the CET registers.
    ///
    /// # Errors
    /// [`InRegisters`]: the state must be parked first.
    pub fn init_signal(&mut self) -> Result<(), InRegisters> {
        self.check_in_memory()?;
        self.area.set_present(self.area.present() - XFeatures::CET);
        self.residence = Residence::Memory;
        Ok(())
    }

    /// Rule xs-05: makes room for `features`, losing nothing. Called outside
    /// the run loop; where memory is missing, the VM can be ended and others
    /// go on.
    ///
    /// # Errors
    /// [`GrowError`]; the container is as it was.
    pub fn grow(&mut self, layout: &Layout, features: XFeatures) -> Result<(), GrowError> {
        self.check_in_memory()
            .map_err(|InRegisters| GrowError::InRegisters)?;
        let features = features & self.offer.features();
        if self.room().contains(features) {
            return Ok(());
        }
        self.area = self
            .area
            .grown(layout, features)
            .map_err(GrowError::OutOfMemory)?;
        // XSAVEOPT and XSAVES leave out what is unmodified since a restore from
        // the same address, which a later area may get: restore from this one.
        self.residence = Residence::Memory;
        Ok(())
    }

    /// Rule xs-05: the components that would come alive with `xcr0` and `xfd`
    /// and have no room.
    #[must_use]
    pub(in crate::xstate) fn lacking_room(&self, xcr0: XFeatures, xfd: XFeatures) -> XFeatures {
        ((xcr0 - xfd) & self.offer.dynamic()) - self.room()
    }

    pub(in crate::xstate) const fn check_in_memory(&self) -> Result<(), InRegisters> {
        match self.residence {
            Residence::Registers(_) => Err(InRegisters),
            Residence::Memory | Residence::Both(_) => Ok(()),
        }
    }

    /// What must exit while this vCPU runs, if that is other than what the run
    /// loop was told last; [`Interception::INITIAL`] to begin with. To be asked
    /// after whatever happens outside the run loop: growing, reset, new state.
    #[must_use]
    pub fn new_interception(&mut self) -> Option<Interception> {
        let interception = self.xfd.interception(self.room());
        if interception == self.announced {
            return None;
        }
        self.announced = interception;
        Some(interception)
    }

    /// What the vCPU is offered.
    pub const fn offer(&self) -> Offer {
        self.offer
    }

    /// The components there is room for.
    pub const fn room(&self) -> XFeatures {
        self.area.features()
    }

    /// Bytes of its XSAVE area (SDM Vol. 1, "XSAVE Area").
    pub const fn size(&self) -> u32 {
        self.area.size()
    }

    /// Bytes that saving wrote last, and that loading reads: the components that were in
    /// use, with the legacy region and the header.
    pub fn moved(&self, layout: &Layout) -> u32 {
        layout.size(self.area.present(), self.area.format())
    }

    /// Guest XCR0.
    pub const fn xcr0(&self) -> XFeatures {
        self.xcr0
    }

    /// Guest `IA32_XSS`.
    pub const fn xss(&self) -> XFeatures {
        self.xss
    }
}
