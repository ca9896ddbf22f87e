//! Interrupts on their way from the local APIC into the guest, by the CPU itself
//! where it virtualises the APIC, and the preemption timer that stands in for the
//! guest's own.

use super::Vcpu;
use crate::{
    cpu::tsc,
    device::x2apic::X2Apic,
    vmx::{
        capabilities::Vmx,
        controls::Primary,
        exit::EventInfo,
        field::{self, Field},
        vmcs::Loaded,
    },
};

const RFLAGS_IF: u64 = 1 << 9;
/// Interruptibility (SDM Vol. 3, "Guest Non-Register State"): blocking by STI and
/// by MOV SS.
const BLOCKED_FOR_ONE_INSTRUCTION: u32 = 0b11;
/// The same: blocking by NMI.
const BLOCKED_BY_NMI: u32 = 1 << 3;

/// What the CPU was told to exit for.
pub(super) struct Interrupts {
    /// The primary controls without any window.
    primary: u32,
    /// Exits as soon as the guest can take an interrupt, an NMI.
    windows: Primary,
    /// The preemption timer ticks once every `1 << this` TSC ticks.
    timer_shift: u32,
    /// The CPU keeps the local APIC.
    virtual_apic: bool,
}

/// The bitmaps of vectors whose end exits.
const EOI_EXITS: [Field<u64>; 4] = [
    field::EOI_EXIT_BITMAP_0,
    field::EOI_EXIT_BITMAP_1,
    field::EOI_EXIT_BITMAP_2,
    field::EOI_EXIT_BITMAP_3,
];

impl Interrupts {
    pub(super) fn new(vmx: &Vmx) -> Self {
        Self {
            primary: vmx.primary,
            windows: Primary::empty(),
            timer_shift: vmx.preemption_timer_shift,
            virtual_apic: vmx.virtual_apic,
        }
    }

    /// Delivers the NMI or interrupt that the guest can take, or asks for an exit
    /// when it can, and sets the preemption timer. `skipped` says that an
    /// instruction was completed for the guest since it ran, which ends what
    /// blocks for one instruction.
    #[inline(never)]
    pub(super) fn attend(&mut self, vmcs: &mut Loaded<'_>, vcpu: &mut Vcpu, skipped: bool) {
        let now = tsc::now();
        vcpu.collect(now);
        self.deliver(vmcs, vcpu, skipped, now);
    }

    /// As [`Self::attend`], when all has been collected.
    #[inline(never)]
    fn deliver(&mut self, vmcs: &mut Loaded<'_>, vcpu: &mut Vcpu, skipped: bool, now: u64) {
        vcpu.attention = false;
        let mut blocked = vmcs.read(field::GUEST_INTERRUPTIBILITY);
        if skipped && blocked & BLOCKED_FOR_ONE_INSTRUCTION != 0 {
            blocked &= !BLOCKED_FOR_ONE_INSTRUCTION;
            vmcs.write(field::GUEST_INTERRUPTIBILITY, blocked);
        }
        let event = EventInfo(vmcs.read(field::ENTRY_INTERRUPTION_INFO));
        let free = !event.is_valid() && blocked & BLOCKED_FOR_ONE_INSTRUCTION == 0;
        let event = if free && vcpu.nmi && blocked & BLOCKED_BY_NMI == 0 {
            vcpu.nmi = false;
            Some(EventInfo::NMI)
        } else if free && vcpu.external() {
            let on = vmcs.read(field::GUEST_RFLAGS) & RFLAGS_IF != 0;
            on.then(|| {
                let (vector, asks) = vcpu.bus.lock().acknowledge();
                vcpu.legacy = asks;
                EventInfo::external(vector)
            })
        } else if self.virtual_apic {
            None
        } else if free && let Some(vector) = vcpu.apic.deliverable() {
            let on = vmcs.read(field::GUEST_RFLAGS) & RFLAGS_IF != 0;
            on.then(|| {
                vcpu.apic.deliver(vector);
                EventInfo::external(vector)
            })
        } else {
            None
        };
        if let Some(event) = event {
            vmcs.write(field::ENTRY_INTERRUPTION_INFO, event.0);
        }
        let mut waits = vcpu.external();
        match self.virtual_apic {
            true => tell_cpu(vmcs, &mut vcpu.apic),
            false => waits |= vcpu.apic.deliverable().is_some(),
        }
        let mut windows = Primary::empty();
        windows.set(Primary::INTERRUPT_WINDOW_EXITING, waits);
        windows.set(Primary::NMI_WINDOW_EXITING, vcpu.nmi);
        if self.windows != windows {
            self.windows = windows;
            vmcs.write(field::PRIMARY_CONTROLS, self.primary | windows.bits());
        }
        self.set_timer(vmcs, vcpu.deadline().min(vcpu.slice_end), now);
    }

    /// Lets accesses to debug registers exit, or not.
    pub(super) fn set_debug_exits(&mut self, vmcs: &mut Loaded<'_>, exits: bool) {
        let mut primary = Primary::from_bits_retain(self.primary);
        primary.set(Primary::MOV_DR_EXITING, exits);
        self.primary = primary.bits();
        vmcs.write(field::PRIMARY_CONTROLS, self.primary | self.windows.bits());
    }

    /// Begins a time slice, when all has been collected: nothing but the timer is set where
    /// nothing has arrived since the CPU was told.
    pub(super) fn begin_slice(
        &mut self,
        vmcs: &mut Loaded<'_>,
        vcpu: &mut Vcpu,
        now: u64,
        deadline: u64,
    ) {
        if vcpu.attention {
            self.deliver(vmcs, vcpu, true, now);
        } else {
            self.set_timer(vmcs, deadline.min(vcpu.slice_end), now);
        }
    }

    fn set_timer(&self, vmcs: &mut Loaded<'_>, next: u64, now: u64) {
        let ticks = next.saturating_sub(now) >> self.timer_shift;
        vmcs.write(
            field::PREEMPTION_TIMER,
            u32::try_from(ticks).unwrap_or(u32::MAX),
        );
    }
}

/// Lets the CPU deliver what is in the virtual-APIC page.
fn tell_cpu(vmcs: &mut Loaded<'_>, apic: &mut X2Apic) {
    vmcs.write(field::GUEST_INTERRUPT_STATUS, apic.interrupt_status());
    if let Some(levels) = apic.take_levels() {
        for (field, level) in EOI_EXITS.into_iter().zip(levels) {
            vmcs.write(field, level);
        }
    }
}
