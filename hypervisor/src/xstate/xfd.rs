//! Rules xs-07, xs-08 and xs-09: what happens to `IA32_XFD`, `IA32_XFD_ERR` and
//! #NM. A state machine without hardware: events go in, actions come out.
//!
//! XFD makes the first use of a dynamic component fault (SDM Vol. 1, "Extended
//! Feature Disable (XFD)" (13.14)): #NM is raised and the component recorded
//! in `IA32_XFD_ERR` *before* a VM exit that #NM causes. Event injection does
//! not record anything, so the value must be in the register when the guest's
//! handler runs.
//!
//! | guest so far | XFD exits | XFD_ERR exits | #NM exits |
//! |---|---|---|---|
//! | never wrote XFD non-zero | yes | yes | no |
//! | did, container has room for all | no | no | by policy |
//! | did, container yet to grow | yes | no | by policy |

use crate::xstate::features::XFeatures;

/// What to do with `IA32_XFD_ERR` between guest and hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XfdErrPolicy {
    /// Intercept #NM; the hypervisor runs with `IA32_XFD_ERR` = 0.
    Intercept,
    /// Intercept nothing; the register is exchanged at the swap. Sound because
    /// the hypervisor never uses dynamic state, so nothing overwrites it.
    Switch,
}

/// What must exit. Applied to the MSR bitmap and the exception bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interception {
    /// RDMSR and WRMSR of `IA32_XFD`.
    pub xfd: bool,
    /// RDMSR and WRMSR of `IA32_XFD_ERR`.
    pub xfd_err: bool,
    /// #NM.
    pub nm: bool,
}

impl Interception {
    /// That of a vCPU which never wrote a non-zero XFD.
    pub const INITIAL: Self = Self {
        xfd: true,
        xfd_err: true,
        nm: false,
    };
}

/// What to do with the `IA32_XFD_ERR` register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the register keeps a value that belongs elsewhere"]
pub enum ErrRegister {
    /// Nothing.
    Leave,
    /// Write this value.
    Write(XFeatures),
}

/// One vCPU's `IA32_XFD` and `IA32_XFD_ERR` and what the guest did with them.
#[derive(Clone, Copy, Debug)]
pub struct Xfd {
    /// What the guest may set; empty where its CPUID has no XFD.
    settable: XFeatures,
    policy: XfdErrPolicy,
    value: XFeatures,
    error: XFeatures,
    /// The guest has written a non-zero XFD.
    used: bool,
    /// `error` was put into the register at the last entry.
    lent: bool,
}

impl Xfd {
    /// The state after reset.
    pub const fn new(settable: XFeatures, policy: XfdErrPolicy) -> Self {
        Self {
            settable,
            policy,
            value: XFeatures::EMPTY,
            error: XFeatures::EMPTY,
            used: false,
            lent: false,
        }
    }

    /// Both MSRs are 0 after reset, and nothing has been used.
    pub const fn reset(&mut self) {
        *self = Self::new(self.settable, self.policy);
    }

    /// `IA32_XFD`.
    pub const fn value(&self) -> XFeatures {
        self.value
    }

    /// `IA32_XFD_ERR`.
    pub const fn error(&self) -> XFeatures {
        self.error
    }

    /// Whether both MSRs are 0 in the registers for certain: no value was ever written
    /// to `IA32_XFD` without an exit, and none is in `IA32_XFD_ERR`.
    pub const fn is_out_of_play(&self) -> bool {
        !self.used && self.error.is_empty()
    }

    /// Rule xs-07: whether `value` may be written to either MSR.
    ///
    /// # Errors
    /// The bits that are reserved for this guest. Where it has no XFD, the
    /// MSRs do not exist and the answer is [`XfdFault::NoXfd`] even for 0.
    pub fn check(&self, value: u64) -> Result<XFeatures, XfdFault> {
        self.check_exists()?;
        let value = XFeatures::from_bits(value);
        let reserved = value - self.settable;
        if reserved.is_empty() {
            Ok(value)
        } else {
            Err(XfdFault::Reserved(reserved))
        }
    }

    /// Rule xs-07: whether the guest has the MSRs at all.
    ///
    /// # Errors
    /// [`XfdFault::NoXfd`].
    pub fn check_exists(&self) -> Result<(), XfdFault> {
        if self.settable.is_empty() {
            return Err(XfdFault::NoXfd);
        }
        Ok(())
    }

    /// The guest, or the operator, has set XFD to a checked value.
    pub fn set_value(&mut self, value: XFeatures) {
        self.value = value;
        self.used |= !value.is_empty();
    }

    /// The guest, by an access that exited, or the operator has set XFD_ERR to
    /// a checked value.
    pub fn set_error(&mut self, error: XFeatures) -> ErrRegister {
        self.error = error;
        self.lent = false;
        match self.policy {
            XfdErrPolicy::Intercept => ErrRegister::Leave,
            XfdErrPolicy::Switch => ErrRegister::Write(error),
        }
    }

    /// Rules xs-07, xs-08 and xs-09: what must exit, for a container with
    /// `room`. While a component has no room, disarming it must exit: passed
    /// through, it would let state come alive that nobody could save.
    pub const fn interception(&self, room: XFeatures) -> Interception {
        Interception {
            xfd: !self.used || !room.contains(self.settable),
            xfd_err: !self.used,
            nm: self.used && matches!(self.policy, XfdErrPolicy::Intercept),
        }
    }

    /// Rule xs-08: an #NM exit found `recorded` in the register. In either case
    /// the #NM is then injected. If XFD caused it, the value moves here until
    /// the next entry; if not (CR0.TS), a value that the guest has yet to read
    /// must survive, so nothing is overwritten with 0 (case 4).
    pub fn on_nm(&mut self, recorded: XFeatures) -> ErrRegister {
        if recorded.is_empty() {
            return ErrRegister::Leave;
        }
        self.error = recorded;
        ErrRegister::Write(XFeatures::EMPTY)
    }

    /// Rule xs-08: what the register must hold before the guest runs.
    #[inline]
    pub fn on_entry(&mut self) -> ErrRegister {
        if self.error.is_empty() || !self.used || self.policy == XfdErrPolicy::Switch {
            return ErrRegister::Leave;
        }
        self.lent = true;
        ErrRegister::Write(self.error)
    }

    /// Whether the register holds a value that was put there at the last entry
    /// and must be taken back at this exit.
    #[inline]
    pub const fn lent(&self) -> bool {
        self.lent
    }

    /// Rule xs-08: takes back what is left in the register at an exit. Once the
    /// guest has cleared it, later exits cost a test of [`Xfd::lent`] only.
    pub fn take_back(&mut self, register: XFeatures) -> ErrRegister {
        self.lent = false;
        self.error = register;
        if register.is_empty() {
            ErrRegister::Leave
        } else {
            ErrRegister::Write(XFeatures::EMPTY)
        }
    }

    /// Rules xs-07 and xs-09: the registers when the container is swapped out.
    pub fn on_swap_out(&mut self, xfd: XFeatures, register: XFeatures) {
        self.value = xfd;
        match self.policy {
            XfdErrPolicy::Switch => self.error = register,
            // Passed through, the register may hold what the guest itself wrote.
            // Empty, it says nothing: the value may be here, taken back.
            XfdErrPolicy::Intercept if register.is_empty() => {}
            XfdErrPolicy::Intercept => self.error = register,
        }
    }

    /// Rules xs-08 and xs-09: what the register holds in the hypervisor while
    /// this container is current.
    pub const fn resting_error(&self) -> XFeatures {
        match self.policy {
            XfdErrPolicy::Intercept => XFeatures::EMPTY,
            XfdErrPolicy::Switch => self.error,
        }
    }
}

/// Why an access to `IA32_XFD` or `IA32_XFD_ERR` raises #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XfdFault {
    /// The guest's CPUID has no XFD.
    NoXfd,
    /// Bits that are none of its dynamic components.
    Reserved(XFeatures),
}
