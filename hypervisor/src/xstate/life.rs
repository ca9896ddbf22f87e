//! Rule xs-04: a vCPU is created, configured, finalized, and only then run.
//!
//! Running cannot come too early by construction: a run loop needs the
//! container, and finalizing makes it. The steps before that come from the
//! operator in any order, so each wrong order is an error of its own.

use crate::xstate::area::OutOfMemory;
use crate::xstate::fpstate::{Allocation, Fpstate};
use crate::xstate::layout::Layout;
use crate::xstate::permission::{Offer, Permission};
use crate::xstate::xfd::XfdErrPolicy;
use thiserror::Error;

/// The extended state of one vCPU, from its creation on.
pub struct VcpuXstate {
    stage: Stage,
}

enum Stage {
    Created,
    Configured(Offer),
    Finalized(Fpstate),
}

/// A step at the wrong time; the vCPU stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LifeError {
    /// Finalize before any CPUID was set.
    #[error("the vCPU has no CPUID yet: configure it first")]
    NotConfigured,
    /// Extended state was accessed, or the vCPU run, before finalize.
    #[error("the vCPU has no extended state yet: finalize it first")]
    NotFinalized,
    /// CPUID was set, or finalize asked for, after finalize.
    #[error("the vCPU is finalized: its CPUID can no longer change")]
    AlreadyFinalized,
    /// Finalize found no memory.
    #[error("{0}")]
    OutOfMemory(OutOfMemory),
}

impl VcpuXstate {
    /// A vCPU of a VM with `permission`, which is frozen from now on.
    pub fn create(permission: &mut Permission) -> Self {
        permission.freeze();
        Self {
            stage: Stage::Created,
        }
    }

    /// Sets what the vCPU's CPUID offers; may be repeated.
    ///
    /// # Errors
    /// [`LifeError::AlreadyFinalized`].
    pub fn configure(&mut self, offer: Offer) -> Result<(), LifeError> {
        match self.stage {
            Stage::Created | Stage::Configured(_) => {
                self.stage = Stage::Configured(offer);
                Ok(())
            }
            Stage::Finalized(_) => Err(LifeError::AlreadyFinalized),
        }
    }

    /// Allocates the container.
    ///
    /// # Errors
    /// [`LifeError`]; after [`LifeError::OutOfMemory`] it may be tried again.
    pub fn finalize(
        &mut self,
        layout: &Layout,
        allocation: Allocation,
        policy: XfdErrPolicy,
    ) -> Result<(), LifeError> {
        match self.stage {
            Stage::Created => Err(LifeError::NotConfigured),
            Stage::Configured(offer) => {
                let container = Fpstate::new(layout, offer, allocation, policy)
                    .map_err(LifeError::OutOfMemory)?;
                self.stage = Stage::Finalized(container);
                Ok(())
            }
            Stage::Finalized(_) => Err(LifeError::AlreadyFinalized),
        }
    }

    /// The container, for the run loop to keep.
    ///
    /// # Errors
    /// [`LifeError::NotFinalized`].
    pub fn into_container(self) -> Result<Fpstate, LifeError> {
        match self.stage {
            Stage::Finalized(container) => Ok(container),
            Stage::Created | Stage::Configured(_) => Err(LifeError::NotFinalized),
        }
    }

    /// The container.
    ///
    /// # Errors
    /// [`LifeError::NotFinalized`].
    pub fn container(&mut self) -> Result<&mut Fpstate, LifeError> {
        match &mut self.stage {
            Stage::Finalized(container) => Ok(container),
            Stage::Created | Stage::Configured(_) => Err(LifeError::NotFinalized),
        }
    }
}
