//! Which container is in the registers of one processor, and how another gets
//! there: rules xs-10, xs-11 and xs-12.
//!
//! The one order of every swap, each register written only if it differs:
//!
//! 1. XCR0 and `IA32_XSS` as wide as either container needs, so that data in
//!    components that a guest has disabled for the moment are saved too;
//! 2. XFD = 0, if a component in use is armed (XSAVES would take it for initial
//!    and lose it) or one to be loaded is (XRSTORS would raise #NM);
//!    where neither vCPU ever used XFD, its MSRs are known to be 0 and are not read;
//! 3. save into the outgoing container;
//! 4. restore from the incoming one, under the mask of all ones: what it does
//!    not hold becomes initial, so nothing of the predecessor is left;
//! 5. the incoming guest's XFD_ERR, XFD, `IA32_XSS` and XCR0.
//!
//! **Ownership.** A processor does not hold a pointer to the container in its
//! registers. It holds the number of that loading, and so does the container;
//! they belong together if the numbers are equal, which is one compare. Numbers
//! are never used twice, so dropping a container, changing it in memory or
//! loading it elsewhere makes the old one stale by itself. Saving is lazy: a
//! vCPU that halts keeps its state in the registers until another one, of the
//! same run loop, is made current, and finds it there when it wakes up first.
//! Before a vCPU may go to another processor, or its state be read, it is
//! parked: saved eagerly. A container that was never parked says so wherever
//! it turns up ([`SwapError`]); stale bytes are never used instead.

use crate::xstate::area::{Area, OutOfMemory};
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Fpstate, Loading, Residence};
use crate::xstate::layout::Layout;
use crate::xstate::registers::XRegisters;
use crate::xstate::xfd::ErrRegister;
use thiserror::Error;

/// The extended state of one logical processor.
pub struct CpuXstate<R> {
    pub(in crate::xstate) registers: R,
    /// What is in the registers.
    loaded: Loading,
    /// The next number of a loading.
    next: u64,
    /// All user components of the processor.
    user: XFeatures,
    /// Supervisor components that may be other than initial: those of the
    /// container loaded last, whether or not it still exists.
    residual_supervisor: XFeatures,
    has_xfd: bool,
    /// What the registers hold; guests cannot write them without an exit.
    xcr0: XFeatures,
    xss: XFeatures,
}

/// The state to be made current is in the registers of another processor, or
/// was overwritten there: its vCPU left that processor without being parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the vCPU left a CPU without its extended state being parked")]
pub struct SwapError;

impl<R: XRegisters> CpuXstate<R> {
    /// Takes over a processor whatever firmware or boot loader left in it: XFD
    /// and XFD_ERR become 0, all state initial, and XCR0 and `IA32_XSS` what is
    /// known from here on. `cpu` is a number that no
    /// other processor has: it keeps the numbers of loadings apart.
    ///
    /// # Errors
    /// [`OutOfMemory`] for the area that the state is initialised from.
    pub fn take_over(mut registers: R, layout: &Layout, cpu: u16) -> Result<Self, OutOfMemory> {
        let extensions = layout.extensions();
        let initial = Area::new(layout, layout.user())?;
        // XFD first: nothing may be armed when state is initialised.
        if extensions.xfd {
            registers.set_xfd(XFeatures::EMPTY);
            registers.set_xfd_err(XFeatures::EMPTY);
        }
        registers.set_xcr0(layout.user());
        if extensions.xsaves {
            registers.set_xss(XFeatures::EMPTY);
        }
        registers.restore(&initial);
        let none = u64::from(cpu) << 48;
        Ok(Self {
            registers,
            loaded: Loading(none),
            next: none + 1,
            user: layout.user(),
            residual_supervisor: XFeatures::EMPTY,
            has_xfd: extensions.xfd,
            xcr0: layout.user(),
            xss: XFeatures::EMPTY,
        })
    }

    /// Whether the registers hold the state of `container`.
    #[inline]
    pub fn holds(&self, container: &Fpstate) -> bool {
        container.residence == Residence::Registers(self.loaded)
    }

    /// Makes `incoming` the container in the registers, so that its vCPU can be
    /// entered. `outgoing` is the one made current here before, unless it was
    /// parked or dropped since. The same container again moves nothing.
    ///
    /// # Errors
    /// [`SwapError`]; the registers are as they were.
    #[inline(always)]
    pub fn make_current(
        &mut self,
        outgoing: Option<&mut Fpstate>,
        incoming: &mut Fpstate,
    ) -> Result<(), SwapError> {
        if incoming.residence != Residence::Memory && self.finds(incoming)? {
            return Ok(());
        }
        self.widen(incoming.offer.supervisor());
        let outgoing = outgoing.filter(|outgoing| self.holds(outgoing));
        let known = outgoing.as_ref().is_some_and(|of| of.xfd.is_out_of_play());
        let found = match known && incoming.xfd.is_out_of_play() {
            true => None,
            false => self.disarm_for_swap(incoming.area.present()),
        };
        if let Some(outgoing) = outgoing {
            self.save(outgoing, found);
            outgoing.residence = Residence::Memory;
        }

        // Rule xs-11.
        debug_assert!((self.xcr0 | self.xss).contains(incoming.area.features()));
        debug_assert!(found.is_none_or(|found| !found.now.intersects(incoming.area.present())));
        self.registers.restore(&incoming.area);
        self.residual_supervisor = incoming.offer.supervisor();

        self.load_controls(incoming, found);

        self.loaded = Loading(self.next);
        self.next += 1;
        incoming.residence = Residence::Registers(self.loaded);
        Ok(())
    }

    /// Whether `container` is in the registers, or was parked here and nobody else was
    /// loaded since.
    #[cold]
    fn finds(&self, container: &mut Fpstate) -> Result<bool, SwapError> {
        match container.residence {
            Residence::Registers(loading) | Residence::Both(loading) if loading == self.loaded => {
                container.residence = Residence::Registers(loading);
                Ok(true)
            }
            Residence::Registers(_) => Err(SwapError),
            Residence::Both(_) | Residence::Memory => Ok(false),
        }
    }

    /// Saves `container` if it is in the registers, so that its state can be
    /// read, written, grown, or go to another processor. Until another container
    /// is made current here, the registers keep the state too.
    ///
    /// # Errors
    /// [`SwapError`], if it is in the registers of another processor.
    pub fn park(&mut self, container: &mut Fpstate) -> Result<(), SwapError> {
        if container.check_in_memory().is_ok() {
            return Ok(());
        }
        if !self.holds(container) {
            return Err(SwapError);
        }
        self.widen(XFeatures::EMPTY);
        let found = self.disarm_for_swap(XFeatures::EMPTY);
        self.save(container, found);
        container.residence = Residence::Both(self.loaded);
        self.load_controls(container, found);
        Ok(())
    }

    /// Step 1.
    fn widen(&mut self, supervisor: XFeatures) {
        self.write_xss(self.residual_supervisor | supervisor);
        self.write_xcr0(self.user);
    }

    /// Step 2, rule xs-10. XGETBV reports only components that XCR0 enables,
    /// hence after step 1. An armed component that is not in use needs no
    /// disarming: saved as initial, it costs no bytes. `None` without XFD.
    fn disarm_for_swap(&mut self, to_load: XFeatures) -> Option<Found> {
        if !self.has_xfd {
            return None;
        }
        let (guest, error) = (self.registers.xfd(), self.registers.xfd_err());
        let now = if guest.is_empty() || !guest.intersects(self.registers.in_use() | to_load) {
            guest
        } else {
            self.registers.set_xfd(XFeatures::EMPTY);
            XFeatures::EMPTY
        };
        Some(Found { guest, now, error })
    }

    /// Step 3, and rule xs-07: the MSRs may have changed without an exit.
    fn save(&mut self, outgoing: &mut Fpstate, found: Option<Found>) {
        debug_assert!((self.xcr0 | self.xss).contains(outgoing.area.features()));
        self.registers.save(&mut outgoing.area);
        #[cfg(debug_assertions)]
        assert!(outgoing.area.guard_intact(), "saved beyond the container");
        if let Some(found) = found {
            outgoing.xfd.on_swap_out(found.guest, found.error);
        }
    }

    /// Step 5.
    fn load_controls(&mut self, incoming: &Fpstate, found: Option<Found>) {
        if let Some(found) = found {
            let (value, error) = (incoming.xfd.value(), incoming.xfd.resting_error());
            if found.error != error {
                self.registers.set_xfd_err(error);
            }
            if found.now != value {
                self.registers.set_xfd(value);
            }
        }
        self.write_xss(incoming.xss);
        self.write_xcr0(incoming.xcr0);
    }

    pub(in crate::xstate) fn write_xcr0(&mut self, value: XFeatures) {
        if self.xcr0 != value {
            self.registers.set_xcr0(value);
            self.xcr0 = value;
        }
    }

    pub(in crate::xstate) fn write_xss(&mut self, value: XFeatures) {
        if self.xss != value {
            self.registers.set_xss(value);
            self.xss = value;
        }
    }

    pub(in crate::xstate) fn apply(&mut self, action: ErrRegister) {
        if let ErrRegister::Write(value) = action {
            self.registers.set_xfd_err(value);
        }
    }
}

/// What a swap found in the registers of XFD, and what it made of it.
#[derive(Clone, Copy)]
struct Found {
    /// XFD, as the guest left it.
    guest: XFeatures,
    /// XFD, as it is now.
    now: XFeatures,
    /// XFD_ERR, untouched.
    error: XFeatures,
}
