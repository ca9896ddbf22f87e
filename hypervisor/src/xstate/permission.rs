//! Which extended state a VM may use: asked for in its configuration, checked
//! against the processor, frozen when its first vCPU is created; and what one
//! vCPU's CPUID makes of it.
//!
//! Not prevented here: a CPUID that names instructions of a component without
//! naming the component; that is the business of the CPUID model, which holds
//! the table of such bits.

use crate::xstate::features::XFeatures;
use crate::xstate::layout::Layout;
use core::fmt;
use thiserror::Error;

/// The widest vectors a VM is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vector {
    /// 128 bits.
    Sse,
    /// 256 bits.
    Avx,
    /// 512 bits.
    Avx512,
}

impl Vector {
    /// The components that hold registers of this width, x87 among them.
    pub fn features(self) -> XFeatures {
        let sse = XFeatures::X87 | XFeatures::SSE;
        match self {
            Self::Sse => sse,
            Self::Avx => sse | XFeatures::AVX,
            Self::Avx512 => sse | XFeatures::AVX | XFeatures::AVX512,
        }
    }
}

/// What a VM's configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The widest vectors.
    pub vector: Vector,
    /// Components beyond vectors: both tile components, and any other that XFD
    /// can disable.
    pub beyond_vectors: XFeatures,
    /// Supervisor components.
    pub supervisor: XFeatures,
}

/// The supervisor components whose registers a VMX guest can own without the
/// hypervisor or other software of the machine using them. Others, such as
/// those of power management or tracing, act on the processor as a whole.
const VIRTUALISABLE_SUPERVISOR: XFeatures = XFeatures::CET;

/// The components that the vCPUs of one VM may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    user: XFeatures,
    supervisor: XFeatures,
    dynamic: XFeatures,
    frozen: bool,
}

impl Permission {
    /// Checks `request` against the processor.
    ///
    /// # Errors
    /// [`PermissionError`], naming the components.
    pub fn check(layout: &Layout, request: &Request) -> Result<Self, PermissionError> {
        let beyond = request.beyond_vectors;
        // Case 6: half of AMX is no state that XCR0 could enable.
        if beyond.splits(XFeatures::TILES) {
            return Err(PermissionError::HalfOfTiles);
        }
        let tiles_and_dynamic = XFeatures::TILES | layout.dynamic();
        let wanted = request.vector.features() | (beyond & tiles_and_dynamic);
        let available = layout.user() | layout.supervisor();
        let lacking = (wanted | beyond | request.supervisor) - available;
        if !lacking.is_empty() {
            return Err(PermissionError::Lacking(lacking));
        }
        let foreign =
            (beyond - tiles_and_dynamic) | (request.supervisor - VIRTUALISABLE_SUPERVISOR);
        if !foreign.is_empty() {
            return Err(PermissionError::NotVirtualised(foreign));
        }
        // Protection keys need no permission: eight bytes, always swapped.
        let user = wanted | (XFeatures::PKRU & layout.user());
        Ok(Self {
            user,
            supervisor: request.supervisor,
            dynamic: user & layout.dynamic(),
            frozen: false,
        })
    }

    /// Replaces the permission, as long as no vCPU has been created.
    ///
    /// # Errors
    /// [`PermissionError::Frozen`] afterwards, because containers have been
    /// sized by it; else as [`Permission::check`]. The old permission stays.
    pub fn change(&mut self, layout: &Layout, request: &Request) -> Result<(), PermissionError> {
        if self.frozen {
            return Err(PermissionError::Frozen);
        }
        *self = Self::check(layout, request)?;
        Ok(())
    }

    /// Called when a vCPU is created.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// User components permitted: what the guest's XCR0 may at most hold.
    pub const fn user(&self) -> XFeatures {
        self.user
    }

    /// Supervisor components permitted.
    pub const fn supervisor(&self) -> XFeatures {
        self.supervisor
    }

    /// Permitted components that XFD can disable.
    pub const fn dynamic(&self) -> XFeatures {
        self.dynamic
    }

    /// Rule xs-02: what a vCPU's CPUID names, held against the permission.
    ///
    /// # Errors
    /// [`Refused`] with everything that is missing.
    pub fn offer(&self, layout: &Layout, named: Named) -> Result<Offer, Refused> {
        let dynamic = named.user & self.dynamic;
        let extensions = layout.extensions();
        let refused = Refused {
            not_permitted: (named.user - self.user) | (named.supervisor - self.supervisor),
            half_of_tiles: named.user.splits(XFeatures::TILES),
            xfd: named.xfd && dynamic.is_empty(),
            xsaves: named.xsaves && !extensions.xsaves,
        };
        if refused != Refused::default() {
            return Err(refused);
        }
        Ok(Offer {
            user: named.user | XFeatures::X87,
            supervisor: named.supervisor,
            dynamic,
            xfd: named.xfd,
            xsaves: named.xsaves,
        })
    }
}

/// The extended state that one vCPU's CPUID leaf 0xD names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// CPUID.(0xD,0):EDX:EAX.
    pub user: XFeatures,
    /// CPUID.(0xD,1):EDX:ECX.
    pub supervisor: XFeatures,
    /// CPUID.(0xD,1):EAX.XFD.
    pub xfd: bool,
    /// CPUID.(0xD,1):EAX.XSAVES.
    pub xsaves: bool,
}

/// What a vCPU is offered: its CPUID, checked. Only [`Permission::offer`]
/// makes one, so a vCPU cannot be finalized with a CPUID that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    user: XFeatures,
    supervisor: XFeatures,
    dynamic: XFeatures,
    xfd: bool,
    xsaves: bool,
}

impl Offer {
    /// What guest XCR0 may hold.
    pub const fn user(&self) -> XFeatures {
        self.user
    }

    /// What guest `IA32_XSS` may hold.
    pub const fn supervisor(&self) -> XFeatures {
        self.supervisor
    }

    /// Components of [`Offer::user`] that XFD can disable.
    pub const fn dynamic(&self) -> XFeatures {
        self.dynamic
    }

    /// What guest `IA32_XFD` may hold; empty where XFD is not offered.
    pub const fn xfd(&self) -> XFeatures {
        if self.xfd {
            self.dynamic
        } else {
            XFeatures::EMPTY
        }
    }

    /// Whether the guest has XSAVES and `IA32_XSS`.
    pub const fn xsaves(&self) -> bool {
        self.xsaves
    }

    /// Every component that the vCPU's state can comprise.
    pub fn features(&self) -> XFeatures {
        self.user | self.supervisor
    }
}

/// Why a VM cannot have the extended state it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PermissionError {
    /// One tile component without the other.
    #[error("TILECFG and TILEDATA are permitted only together")]
    HalfOfTiles,
    /// The processor does not have these.
    #[error("this CPU does not have: {0}")]
    Lacking(XFeatures),
    /// The processor has these, but they are not given to guests.
    #[error("not given to guests: {0}")]
    NotVirtualised(XFeatures),
    /// A vCPU exists.
    #[error("the permission was frozen when the VM's first vCPU was created")]
    Frozen,
}

/// Rule xs-02: what a refused CPUID names without permission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Components named but not permitted.
    pub not_permitted: XFeatures,
    /// One tile component is named without the other.
    pub half_of_tiles: bool,
    /// XFD is named, but no component that it could disable.
    pub xfd: bool,
    /// XSAVES is named, but the processor does not have it.
    pub xsaves: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CPUID leaf 0xd names what the VM may not use:")?;
        let mut separator = " ";
        let mut item = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            write!(f, "{separator}{text}")?;
            separator = "; ";
            Ok(())
        };
        if !self.not_permitted.is_empty() {
            item(f, format_args!("{} (not permitted)", self.not_permitted))?;
        }
        if self.half_of_tiles {
            item(f, format_args!("one tile component without the other"))?;
        }
        if self.xfd {
            item(f, format_args!("XFD without a component it could disable"))?;
        }
        if self.xsaves {
            item(f, format_args!("XSAVES, which this CPU does not have"))?;
        }
        Ok(())
    }
}
