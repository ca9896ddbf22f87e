//! Debug registers. They are in the CPU only while they matter: from the guest's first
//! access to them in a turn, which exits, to the end of the turn, or as long as one of its
//! breakpoints is on. So a switch of vCPUs leaves them alone, ten accesses that are slow.

use super::{events, interrupts::Interrupts, outcome::Exception};
use crate::{
    cpu::switched::{self, Switched},
    vmx::{field, vmcs::Loaded},
};

/// DR7 (SDM Vol. 3, "Debug Control Register (DR7)"): L0 to G3, which turn breakpoints on.
const ENABLED: u64 = 0xff;
/// The same: accesses to debug registers raise #DB. The exception clears it.
const GENERAL_DETECT: u64 = 1 << 13;

/// Puts the vCPU's into the CPU, where it accesses them without an exit.
#[cold]
pub(super) fn enter(vmcs: &mut Loaded<'_>, switched: &mut Switched, interrupts: &mut Interrupts) {
    if !switched.has_debug() {
        switched.own_debug();
        interrupts.set_debug_exits(vmcs, false);
    }
}

/// Leaves them in memory, unless one of the vCPU's breakpoints is on.
#[cold]
pub(super) fn leave(vmcs: &mut Loaded<'_>, switched: &mut Switched, interrupts: &mut Interrupts) {
    if vmcs.read(field::GUEST_DR7) & ENABLED == 0 {
        switched.disown_debug();
        interrupts.set_debug_exits(vmcs, true);
    }
}

/// Delivers #DB with these causes. The vCPU's debug registers are in the CPU.
#[cold]
pub(super) fn inject(vmcs: &mut Loaded<'_>, causes: u64) {
    switched::add_debug_causes(causes);
    let dr7 = vmcs.read(field::GUEST_DR7);
    vmcs.write(field::GUEST_DR7, dr7 & !GENERAL_DETECT);
    events::inject(vmcs, Exception::DEBUG);
}
