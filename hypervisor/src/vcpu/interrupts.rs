//! Interrupts on their way from the local APIC into the guest, and the
//! preemption timer that stands in for the guest's own.

use super::Vcpu;
use crate::{
    cpu::tsc,
    vmx::{capabilities::Vmx, controls::Primary, exit::EventInfo, field, vmcs::Loaded},
};

/// Guest activity states (SDM Vol. 3, "Guest Non-Register State").
pub(super) const ACTIVE: u32 = 0;
const HALTED: u32 = 1;

const RFLAGS_IF: u64 = 1 << 9;
/// Interruptibility: blocking by STI and by MOV SS.
const BLOCKED_FOR_ONE_INSTRUCTION: u32 = 0b11;

/// What the CPU was told to exit for.
pub(super) struct Interrupts {
    /// The primary controls without the interrupt window.
    primary: u32,
    /// Exits as soon as the guest can take an interrupt.
    window: bool,
    /// The preemption timer ticks once every `1 << this` TSC ticks.
    timer_shift: u32,
}

impl Interrupts {
    pub(super) fn new(vmx: &Vmx) -> Self {
        Self {
            primary: vmx.primary,
            window: false,
            timer_shift: vmx.preemption_timer_shift,
        }
    }

    /// Delivers the interrupt that the guest can take, or asks for an exit when it
    /// can, and sets the preemption timer. `skipped` says that an instruction was
    /// completed for the guest since it ran, which ends what blocks for one
    /// instruction.
    #[cold]
    pub(super) fn attend(&mut self, vmcs: &mut Loaded<'_>, vcpu: &mut Vcpu, skipped: bool) {
        vcpu.attention = false;
        let now = tsc::now();
        vcpu.apic.advance(now);
        if skipped {
            unblock(vmcs);
        }
        if let Some(vector) = vcpu.apic.deliverable()
            && can_take_interrupt(vmcs)
        {
            vcpu.apic.deliver(vector);
            vmcs.write(
                field::ENTRY_INTERRUPTION_INFO,
                EventInfo::external(vector).0,
            );
        }
        self.set_window(vmcs, vcpu.apic.deliverable().is_some());
        let next = vcpu
            .apic
            .deadline()
            .map_or(vcpu.slice_end, |deadline| deadline.min(vcpu.slice_end));
        self.set_timer(vmcs, next.saturating_sub(now));
    }

    /// Prepares an entry in which the CPU halts until the end of the slice.
    pub(super) fn halt(&mut self, vmcs: &mut Loaded<'_>, vcpu: &mut Vcpu) {
        vcpu.attention = false;
        // SDM Vol. 3, "Checks on Guest Non-Register State": a halted guest is not
        // blocked.
        unblock(vmcs);
        self.set_window(vmcs, false);
        self.set_timer(vmcs, vcpu.slice_end.saturating_sub(tsc::now()));
        vmcs.write(field::GUEST_ACTIVITY_STATE, HALTED);
    }

    fn set_window(&mut self, vmcs: &mut Loaded<'_>, window: bool) {
        if self.window != window {
            self.window = window;
            let exiting = if window {
                Primary::INTERRUPT_WINDOW_EXITING.bits()
            } else {
                0
            };
            vmcs.write(field::PRIMARY_CONTROLS, self.primary | exiting);
        }
    }

    fn set_timer(&self, vmcs: &mut Loaded<'_>, ticks: u64) {
        let ticks = ticks >> self.timer_shift;
        vmcs.write(
            field::PREEMPTION_TIMER,
            u32::try_from(ticks).unwrap_or(u32::MAX),
        );
    }
}

fn unblock(vmcs: &mut Loaded<'_>) {
    let blocked = vmcs.read(field::GUEST_INTERRUPTIBILITY);
    if blocked & BLOCKED_FOR_ONE_INSTRUCTION != 0 {
        vmcs.write(
            field::GUEST_INTERRUPTIBILITY,
            blocked & !BLOCKED_FOR_ONE_INSTRUCTION,
        );
    }
}

fn can_take_interrupt(vmcs: &Loaded<'_>) -> bool {
    vmcs.read(field::GUEST_RFLAGS) & RFLAGS_IF != 0
        && vmcs.read(field::GUEST_INTERRUPTIBILITY) & BLOCKED_FOR_ONE_INSTRUCTION == 0
        && !EventInfo(vmcs.read(field::ENTRY_INTERRUPTION_INFO)).is_valid()
}
