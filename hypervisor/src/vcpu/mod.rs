//! A virtual CPU: plain data, and what its exits do to it.
//!
//! `exit/` decides: safe functions from the vCPU and a decoded exit to an
//! [`outcome::Outcome`]. `run` alone reads and writes the VMCS and applies outcomes.

pub mod boot_state;
pub mod control;
pub mod counters;
pub mod cpuid_model;
pub mod exit;
#[cfg(target_os = "none")]
mod interrupts;
pub mod outcome;
#[cfg(target_os = "none")]
pub mod run;
pub mod snapshot;
#[cfg(target_os = "none")]
mod vmcs_state;

use crate::{
    device::{bus::Bus, x2apic::X2Apic},
    vmx::frame::Frame,
    xstate::fpstate::Fpstate,
};
use alloc::sync::Arc;
use control::ControlModel;
use counters::Counters;
use cpuid_model::CpuidModel;
use spin::Mutex;

/// A virtual CPU.
///
/// The frame comes first: the exit path finds the vCPU by it.
#[repr(C)]
pub struct Vcpu {
    /// General-purpose registers and the way back from the guest.
    pub frame: Frame,
    /// Exits so far.
    pub counters: Counters,
    /// What CPUID answers.
    pub cpuid: CpuidModel,
    /// The container of its extended state.
    pub xstate: Fpstate,
    /// Which CR0 and CR4 it may have.
    pub control: ControlModel,
    /// Its local APIC.
    pub apic: X2Apic,
    /// An interrupt may have become deliverable or the timer was set: looked at
    /// before the next entry.
    pub attention: bool,
    /// TSC at which its time slice is over.
    pub slice_end: u64,
    /// The devices of its VM.
    pub bus: Arc<Mutex<Bus>>,
}

impl Vcpu {
    /// A vCPU after reset.
    pub fn new(
        frame: Frame,
        cpuid: CpuidModel,
        xstate: Fpstate,
        control: ControlModel,
        apic: X2Apic,
        bus: Arc<Mutex<Bus>>,
    ) -> Self {
        Self {
            frame,
            counters: Counters::default(),
            cpuid,
            xstate,
            control,
            apic,
            attention: false,
            slice_end: 0,
            bus,
        }
    }
}

const _: () = assert!(core::mem::offset_of!(Vcpu, frame) == 0);
