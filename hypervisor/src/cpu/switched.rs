//! Registers that guests change without an exit and that neither VMX nor the
//! swap of extended state exchanges. The hypervisor uses none of them, so they
//! stay in the CPU until another vCPU needs it.

#![expect(unsafe_code, reason = "registers of the guest")]

use super::msr::{self, Msr};
use core::arch::asm;

/// MSRs that every CPU of ours has: it has long mode, and RDTSCP or RDPID. Guests read
/// them without an exit and write them with one, so that what is in the CPU is known.
pub const WRITTEN_BY_EXIT: [Msr; 5] = [
    Msr::IA32_STAR,
    Msr::IA32_LSTAR,
    Msr::IA32_CSTAR,
    Msr::IA32_FMASK,
    Msr::IA32_TSC_AUX,
];

/// DR6 after reset (SDM Vol. 3, "Processor State After Reset").
const DR6_AT_RESET: u64 = 0xffff_0ff0;

/// The registers of one vCPU; those of the one that uses the CPU are newer there, but
/// for the MSRs that are written by an exit.
pub struct Switched {
    written_by_exit: [u64; WRITTEN_BY_EXIT.len()],
    /// SWAPGS changes it.
    kernel_gs_base: u64,
    cr2: u64,
    dr: [u64; 4],
    dr6: u64,
    /// The debug registers of the vCPU are in the CPU whenever it is; if not, it has none
    /// of its breakpoints on, and its accesses to them exit.
    has_debug: bool,
}

impl Default for Switched {
    /// Values after reset.
    fn default() -> Self {
        Self {
            written_by_exit: [0; WRITTEN_BY_EXIT.len()],
            kernel_gs_base: 0,
            cr2: 0,
            dr: [0; 4],
            dr6: DR6_AT_RESET,
            has_debug: false,
        }
    }
}

impl Switched {
    /// INIT of the vCPU that uses the CPU: it keeps the MSRs.
    pub fn init_signal(&mut self) {
        let Self { cr2, dr, dr6, .. } = Self::default();
        (self.dr, self.dr6) = (dr, dr6);
        set_fault_address(cr2);
        if self.has_debug {
            self.load_debug();
        }
    }

    /// Whether the debug registers of the vCPU are in the CPU when it is.
    #[inline]
    pub fn has_debug(&self) -> bool {
        self.has_debug
    }

    /// Puts the debug registers of the vCPU that uses the CPU there, too.
    pub fn own_debug(&mut self) {
        self.has_debug = true;
        self.load_debug();
    }

    /// Leaves them in memory, where [`Self::save`] has put them.
    pub fn disown_debug(&mut self) {
        self.has_debug = false;
    }

    /// The vCPU that uses the CPU writes `msr`, one of [`WRITTEN_BY_EXIT`], with a
    /// `value` that this takes.
    pub fn write(&mut self, msr: Msr, value: u64) {
        let slots = self.written_by_exit.iter_mut().zip(WRITTEN_BY_EXIT);
        for (slot, _) in slots.filter(|(_, other)| *other == msr) {
            *slot = value;
            // SAFETY: the register exists and takes the value, and nothing in the
            // hypervisor depends on it.
            unsafe { msr::write(msr, value) };
        }
    }

    /// Takes from the CPU what changes without an exit.
    #[inline]
    pub fn save(&mut self) {
        // SAFETY: the register exists.
        self.kernel_gs_base = unsafe { msr::read(Msr::IA32_KERNEL_GS_BASE) };
        // SAFETY: reading the register changes nothing.
        unsafe { asm!("mov {}, cr2", out(reg) self.cr2, options(nomem, nostack, preserves_flags)) };
        if self.has_debug {
            self.save_debug();
        }
    }

    /// Puts them into the CPU, where those of `before` are if it is given.
    #[inline]
    pub fn load(&self, before: Option<&Self>) {
        let values = self.written_by_exit.iter().zip(WRITTEN_BY_EXIT);
        // SAFETY: the registers exist, held these values before, and nothing in the
        // hypervisor depends on them.
        let write = |(value, msr): (&u64, Msr)| unsafe { msr::write(msr, *value) };
        match before {
            Some(before) => values
                .zip(&before.written_by_exit)
                .filter(|((value, _), there)| value != there)
                .for_each(|(new, _)| write(new)),
            None => values.for_each(write),
        }
        // SAFETY: as above.
        unsafe { msr::write(Msr::IA32_KERNEL_GS_BASE, self.kernel_gs_base) };
        set_fault_address(self.cr2);
        if self.has_debug {
            self.load_debug();
        }
    }

    #[cold]
    fn save_debug(&mut self) {
        // SAFETY: reading these registers changes nothing; DR7 is zero in the
        // hypervisor, so no access to them traps.
        unsafe {
            asm!("mov {}, dr0", out(reg) self.dr[0], options(nomem, nostack, preserves_flags));
            asm!("mov {}, dr1", out(reg) self.dr[1], options(nomem, nostack, preserves_flags));
            asm!("mov {}, dr2", out(reg) self.dr[2], options(nomem, nostack, preserves_flags));
            asm!("mov {}, dr3", out(reg) self.dr[3], options(nomem, nostack, preserves_flags));
            asm!("mov {}, dr6", out(reg) self.dr6, options(nomem, nostack, preserves_flags));
        }
    }

    #[cold]
    fn load_debug(&self) {
        // SAFETY: a VM exit loads DR7 with breakpoints off.
        unsafe {
            asm!("mov dr0, {}", in(reg) self.dr[0], options(nomem, nostack, preserves_flags));
            asm!("mov dr1, {}", in(reg) self.dr[1], options(nomem, nostack, preserves_flags));
            asm!("mov dr2, {}", in(reg) self.dr[2], options(nomem, nostack, preserves_flags));
            asm!("mov dr3, {}", in(reg) self.dr[3], options(nomem, nostack, preserves_flags));
            asm!("mov dr6, {}", in(reg) self.dr6, options(nomem, nostack, preserves_flags));
        }
    }
}

/// Says where a page fault happened that the guest is going to get, or got.
#[inline]
pub fn set_fault_address(linear: u64) {
    // SAFETY: the register is the guest's; the hypervisor takes no page fault that it
    // reads it for after this.
    unsafe { asm!("mov cr2, {}", in(reg) linear, options(nomem, nostack, preserves_flags)) };
}

/// Adds `causes` to DR6 of the vCPU that uses the CPU and has its debug registers there,
/// as a debug exception does: bits 0 to 3 say which breakpoints, the rest adds up
/// (SDM Vol. 3, "Debug Status Register (DR6)").
pub fn add_debug_causes(causes: u64) {
    const BREAKPOINTS: u64 = 0xf;
    const ADDS_UP: u64 = 0b111 << 13;
    // Zero says that it happened inside a transaction.
    const OUTSIDE_TRANSACTION: u64 = 1 << 16;
    let mut dr6: u64;
    // SAFETY: the register is the guest's, and what is written has no reserved bit.
    unsafe {
        asm!("mov {}, dr6", out(reg) dr6, options(nomem, nostack, preserves_flags));
        dr6 = dr6 & !BREAKPOINTS | causes & (BREAKPOINTS | ADDS_UP) | OUTSIDE_TRANSACTION;
        asm!("mov dr6, {}", in(reg) dr6, options(nomem, nostack, preserves_flags));
    }
}
