//! The CPU's own local APIC, as far as starting other CPUs needs it (SDM Vol. 3,
//! "Extended XAPIC (x2APIC)" and "Multiple-Processor Initialization").

#![expect(unsafe_code, reason = "APIC registers are MSRs")]

use super::{
    bits::join,
    msr::{self, Msr},
};
use raw_cpuid::CpuIdReader;

const X2APIC_ID: Msr = Msr(0x802);
const X2APIC_COMMAND: Msr = Msr(0x830);
const BASE_X2APIC_ENABLED: u64 = 0b11 << 10;

const INIT: u32 = 0x4500;
const START_UP: u32 = 0x4600;
const ALL_BUT_SELF: u32 = 0b11 << 18;

/// This CPU's APIC, in x2APIC mode.
pub struct Apic(());

impl Apic {
    /// Switches to x2APIC mode; `None` where the CPU has none.
    pub fn enable(cpuid: &impl CpuIdReader) -> Option<Self> {
        const X2APIC: u32 = 1 << 21;
        if cpuid.cpuid1(1).ecx & X2APIC == 0 {
            return None;
        }
        // SAFETY: the register exists; no interrupt is expected or enabled, so the
        // mode matters to nobody but us.
        unsafe {
            let base = msr::read(Msr::IA32_APIC_BASE);
            msr::write(Msr::IA32_APIC_BASE, base | BASE_X2APIC_ENABLED);
        }
        Some(Self(()))
    }

    /// Its ID.
    pub fn id(&self) -> u32 {
        // SAFETY: in x2APIC mode the register exists.
        unsafe { msr::read(X2APIC_ID) as u32 }
    }

    /// Resets all other CPUs, which then wait for a start-up IPI.
    pub fn reset_others(&self) {
        self.command(0, ALL_BUT_SELF | INIT);
    }

    /// Lets CPU `id` begin in real mode at `page`, a page below 1 MiB, if it waits
    /// for that.
    pub fn start_up(&self, id: u32, page: u8) {
        self.command(id, START_UP | u32::from(page));
    }

    fn command(&self, destination: u32, command: u32) {
        // SAFETY: the register exists, and other CPUs run nothing of ours yet that
        // an INIT or start-up IPI could hurt.
        unsafe { msr::write(X2APIC_COMMAND, join(destination, command)) };
    }
}
