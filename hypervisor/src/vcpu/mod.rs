//! A virtual CPU: plain data, and what its exits do to it.
//!
//! `exit/` decides: safe functions from the vCPU and a decoded exit to an
//! [`outcome::Outcome`]. `run` alone reads and writes the VMCS and applies outcomes.

pub mod boot_state;
pub mod control;
pub mod counters;
pub mod cpuid_model;
#[cfg(target_os = "none")]
mod debug;
#[cfg(target_os = "none")]
mod events;
pub mod exit;
pub mod instruction;
#[cfg(target_os = "none")]
mod interrupts;
pub mod outcome;
pub mod peers;
#[cfg(target_os = "none")]
pub mod run;
pub mod snapshot;
pub mod string_io;
#[cfg(target_os = "none")]
mod vmcs_report;
#[cfg(target_os = "none")]
mod vmcs_state;

use crate::{
    cpu::tsc,
    device::{
        bus::{Bus, Raised},
        legacy::Asks,
        x2apic::{Ipi, X2Apic},
    },
    vmx::frame::Frame,
    xstate::fpstate::Fpstate,
};
use alloc::sync::Arc;
use boot_state::BootState;
use control::ControlModel;
use counters::Counters;
use cpuid_model::CpuidModel;
use peers::{Inbox, Peers};
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
    /// An interrupt may have become deliverable, the timer was set, or an instruction was
    /// completed outside the run loop: looked at before the next entry.
    pub attention: bool,
    /// TSC at which its time slice is over.
    pub slice_end: u64,
    /// An NMI waits to be taken.
    pub nmi: bool,
    /// What devices ask of it that are older than APICs, as it last looked.
    pub legacy: Asks,
    /// The vCPUs of its VM, by APIC ID, that must look into their inboxes.
    pub notify: u64,
    /// What the others send it.
    pub inbox: Arc<Inbox>,
    /// The inboxes of its VM's vCPUs.
    pub peers: Arc<Peers>,
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
        peers: Arc<Peers>,
        bus: Arc<Mutex<Bus>>,
    ) -> Self {
        let inbox = peers.inboxes().get(apic.id() as usize);
        Self {
            inbox: inbox.cloned().unwrap_or_default(),
            frame,
            counters: Counters::default(),
            cpuid,
            xstate,
            control,
            apic,
            attention: true,
            slice_end: 0,
            nmi: false,
            legacy: Asks::NONE,
            notify: 0,
            peers,
            bus,
        }
    }

    /// Takes in what has become due or arrived since it was last looked at.
    pub fn collect(&mut self, now: u64) {
        self.nmi |= self.inbox.take_interrupts(&mut self.apic);
        self.apic.advance(now);
    }

    /// Whether what was collected ends a halt, with interrupts on or off.
    pub fn is_woken(&self, interruptible: bool) -> bool {
        let interrupt = self.apic.deliverable().is_some() || self.external();
        self.nmi || interruptible && interrupt
    }

    /// Whether the 8259s have an interrupt that reaches it.
    pub fn external(&self) -> bool {
        self.legacy.interrupt && self.apic.takes_external()
    }

    /// The TSC at which something becomes due by itself.
    pub fn deadline(&self) -> u64 {
        let apic = self.apic.deadline().unwrap_or(tsc::NEVER);
        apic.min(self.legacy.deadline)
    }

    /// Whether its time slice is over at `now`.
    pub fn slice_is_over(&self, now: u64) -> bool {
        now >= self.slice_end
    }

    /// Whether the interval timer is to be looked at.
    pub fn timer_is_due(&self, now: u64) -> bool {
        self.legacy.deadline <= now
    }

    /// Looks at the devices that are older than APICs.
    pub fn look_at_legacy(&mut self) {
        self.legacy = self.on_bus(Bus::legacy);
        self.attention = true;
    }

    /// An access to a device, and the interrupts that come of it.
    #[inline(always)]
    pub fn on_bus<T>(&mut self, access: impl FnOnce(&mut Bus) -> T) -> T {
        let mut bus = self.bus.lock();
        let result = access(&mut bus);
        let raised = bus.take_raised();
        drop(bus);
        if let Some(raised) = raised {
            self.raise(raised);
        }
        result
    }

    /// Whether the scheduler has something to do for other vCPUs, or for this one
    /// before it can run on.
    pub fn has_news(&self) -> bool {
        self.notify != 0 || !self.inbox.is_empty()
    }

    /// Registers as in `boot`.
    pub fn begin(&mut self, boot: &BootState) {
        self.frame.registers = boot.registers;
        self.cpuid.set_cr4(false, false);
    }

    /// INIT: registers as in `boot`, and a local APIC as after reset.
    pub fn restart(&mut self, boot: &BootState) {
        self.begin(boot);
        self.attention = true;
        self.apic.reset();
        self.nmi = false;
    }

    /// Sends the interrupts of a device.
    #[cold]
    fn raise(&mut self, raised: Raised) {
        raised.messages().for_each(|message| self.send(message));
    }

    /// Sends an IPI.
    pub fn send(&mut self, ipi: Ipi) {
        let own = self.apic.id();
        self.notify |= self.peers.post(ipi, own) & !(1 << own);
        self.attention = true;
    }
}

const _: () = assert!(core::mem::offset_of!(Vcpu, frame) == 0);
