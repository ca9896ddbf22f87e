//! The local APIC of a vCPU, in x2APIC mode only (SDM Vol. 3, "Extended XAPIC
//! (x2APIC)"): registers are MSRs, so no instruction has to be decoded.
//!
//! Time is the guest's TSC, handed in with each access; nothing here waits.

mod ipi;
mod register;
mod timer;
mod vectors;

use alloc::boxed::Box;
use bitflags::bitflags;
use core::mem;
pub use ipi::{Ipi, IpiKind, IpiTarget};
use register as reg;
use timer::TimerMode;
pub use vectors::Page;
use vectors::{Register, Vectors};

/// First MSR of the x2APIC.
pub const FIRST_MSR: u32 = 0x800;
/// Last MSR of the x2APIC.
pub const LAST_MSR: u32 = 0x8ff;
/// Registers of [`Page`] that a CPU with APIC virtualisation reads for the guest:
/// TPR, and from ISR to IRR.
pub const READ_BY_CPU: [core::ops::Range<u32>; 2] = [
    FIRST_MSR + reg::TASK_PRIORITY..FIRST_MSR + reg::TASK_PRIORITY + 1,
    FIRST_MSR + reg::IN_SERVICE..FIRST_MSR + reg::ERROR_STATUS,
];
/// And those that it writes: TPR and EOI.
pub const WRITTEN_BY_CPU: [u32; 2] = [FIRST_MSR + reg::TASK_PRIORITY, FIRST_MSR + reg::EOI];

/// Integrated APIC of six LVT entries, without suppression of EOI broadcasts.
const VERSION: u32 = (LVT_ENTRIES as u32 - 1) << 16 | 0x14;
const LVT_ENTRIES: usize = 6;
const LVT_MASKED: u32 = 1 << 16;
/// The entry of the pin to which the 8259s are connected.
const LINT0: usize = 3;
/// Delivery mode: the 8259s tell the vector.
const LVT_EXTERNAL: u32 = 0b111 << 8;
const SPURIOUS_AT_RESET: u32 = 0xff;
const SPURIOUS_WRITABLE: u32 = 0x1ff;
const SPURIOUS_ENABLED: u32 = 1 << 8;
/// Bits of an LVT entry that can be written, in the order of their registers:
/// the timer has a mode, the performance counter, thermal sensor and LINT pins
/// a delivery mode, the pins polarity and trigger mode.
const LVT_WRITABLE: [u32; LVT_ENTRIES] =
    [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Bits of the LVT that hardware sets; a write of them is ignored.
const LVT_STATUS: u32 = 1 << 12 | 1 << 14;
/// The lowest vector that an interrupt can have.
const FIRST_VECTOR: u8 = 16;

bitflags! {
    /// What went wrong (SDM Vol. 3, "Error Handling").
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Errors: u32 {
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
    }
}

/// An access that raises #GP(0): no such register, or reserved bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What a write asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// An IPI to send.
    Send(Ipi),
    /// The interrupt that a device holds up on this vector has been served.
    EndOfLevel(u8),
    /// The timer was set or stopped, or an interrupt may have become
    /// deliverable.
    Changed,
}

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X2Apic {
    id: u32,
    /// TPR, ISR, TMR and IRR.
    page: Box<Page>,
    /// TMR has changed since the CPU was told which vectors have an end that exits.
    levels_changed: bool,
    spurious: u32,
    lvt: [u32; LVT_ENTRIES],
    errors: Errors,
    error_status: Errors,
    command: u64,
    initial_count: u32,
    divide: u32,
    /// TSC at which the timer fires; `None` while it is stopped.
    deadline: Option<u64>,
    /// TSC ticks for each tick of the APIC's timer clock: the ratio of CPUID
    /// leaf 0x15, so that a guest calibrates what the leaf says.
    bus_ratio: u64,
}

impl X2Apic {
    /// As firmware hands it over: after reset, but for the first one's LINT0, by which
    /// the 8259s reach it (SDM Vol. 3, "Interrupt Processing in Virtual Wire Mode").
    pub fn new(id: u32, bus_ratio: u64) -> Self {
        let mut lvt = [LVT_MASKED; LVT_ENTRIES];
        if id == 0 {
            lvt[LINT0] = LVT_EXTERNAL;
        }
        Self {
            id,
            page: Box::default(),
            levels_changed: false,
            spurious: SPURIOUS_AT_RESET,
            lvt,
            errors: Errors::empty(),
            error_status: Errors::empty(),
            command: 0,
            initial_count: 0,
            divide: 0,
            deadline: None,
            bus_ratio: bus_ratio.max(1),
        }
    }

    /// INIT: as after power-up, with the same ID, in the same mode and page.
    pub fn reset(&mut self) {
        self.page.task_priority = Register(0);
        for vectors in [
            &mut self.page.in_service,
            &mut self.page.level,
            &mut self.page.request,
        ] {
            *vectors = Vectors::default();
        }
        self.levels_changed = true;
        self.spurious = SPURIOUS_AT_RESET;
        self.lvt = [LVT_MASKED; LVT_ENTRIES];
        self.errors = Errors::empty();
        self.error_status = Errors::empty();
        self.command = 0;
        self.initial_count = 0;
        self.divide = 0;
        self.deadline = None;
    }

    /// The page of the registers that the CPU may keep for us.
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// What the CPU is told for the delivery of interrupts: the highest vector that
    /// waits, and above it the highest that is being served (SDM Vol. 3, "Guest
    /// Interrupt Status").
    pub fn interrupt_status(&self) -> u16 {
        let enabled = self.spurious & SPURIOUS_ENABLED != 0;
        let request = self.page.request.highest().filter(|_| enabled);
        let in_service = self.page.in_service.highest();
        u16::from_be_bytes([in_service.unwrap_or(0), request.unwrap_or(0)])
    }

    /// The vectors whose end a device must be told, if they are others than last time.
    pub fn take_levels(&mut self) -> Option<[u64; 4]> {
        let word = |index| u64::from(self.page.level.word(index));
        mem::take(&mut self.levels_changed)
            .then(|| [0, 2, 4, 6].map(|index| word(index) | word(index + 1) << 32))
    }

    /// Its ID.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// RDMSR of register `FIRST_MSR + offset`.
    ///
    /// # Errors
    /// The register does not exist or cannot be read.
    pub fn read(&self, offset: u32, now: u64) -> Result<u64, Refused> {
        let value = match offset {
            reg::ID => self.id,
            reg::VERSION => VERSION,
            reg::TASK_PRIORITY => self.page.task_priority.0,
            reg::PROCESSOR_PRIORITY => u32::from(self.processor_priority()),
            reg::LOGICAL_DESTINATION => ipi::logical_id(self.id),
            reg::SPURIOUS => self.spurious,
            reg::IN_SERVICE..reg::TRIGGER_MODE => {
                self.page.in_service.word(offset - reg::IN_SERVICE)
            }
            reg::TRIGGER_MODE..reg::REQUEST => self.page.level.word(offset - reg::TRIGGER_MODE),
            reg::REQUEST..reg::ERROR_STATUS => self.page.request.word(offset - reg::REQUEST),
            reg::ERROR_STATUS => self.error_status.bits(),
            reg::COMMAND => return Ok(self.command),
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt_entry(offset),
            reg::INITIAL_COUNT => self.initial_count,
            reg::CURRENT_COUNT => self.current_count(now),
            reg::DIVIDE => self.divide,
            _ => return Err(Refused),
        };
        Ok(u64::from(value))
    }

    /// WRMSR of register `FIRST_MSR + offset`.
    ///
    /// # Errors
    /// The register does not exist, cannot be written, or the value has
    /// reserved bits.
    pub fn write(&mut self, offset: u32, value: u64, now: u64) -> Result<Effect, Refused> {
        if offset == reg::COMMAND {
            return self.write_command(value);
        }
        let value = u32::try_from(value).map_err(|_| Refused)?;
        match offset {
            reg::TASK_PRIORITY if value <= 0xff => self.page.task_priority = Register(value),
            reg::EOI if value == 0 => {
                if let Some(vector) = self.page.in_service.highest() {
                    self.page.in_service.set(vector, false);
                    if self.page.level.contains(vector) {
                        return Ok(Effect::EndOfLevel(vector));
                    }
                }
            }
            reg::SPURIOUS if value & !SPURIOUS_WRITABLE == 0 => {
                self.spurious = value;
                if value & SPURIOUS_ENABLED == 0 {
                    // SDM Vol. 3, "Local APIC State After It Has Been Software Disabled".
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            reg::ERROR_STATUS if value == 0 => {
                self.error_status = core::mem::take(&mut self.errors);
            }
            reg::LVT_TIMER..=reg::LVT_ERROR => self.write_lvt(offset, value)?,
            reg::INITIAL_COUNT => {
                if self.timer_mode() != TimerMode::TscDeadline {
                    self.initial_count = value;
                    self.deadline = (value != 0).then(|| now.wrapping_add(self.period()));
                }
            }
            reg::DIVIDE if value & !0b1011 == 0 => self.divide = value,
            reg::SELF_IPI if value <= 0xff => self.accept(value as u8, false),
            _ => return Err(Refused),
        }
        Ok(Effect::Changed)
    }

    /// Makes an interrupt pending, which a device may hold up until its end.
    pub fn accept(&mut self, vector: u8, level: bool) {
        if vector < FIRST_VECTOR {
            self.report_error(Errors::RECEIVE_ILLEGAL_VECTOR);
        } else {
            self.page.request.set(vector, true);
            if self.page.level.contains(vector) != level {
                self.page.level.set(vector, level);
                self.levels_changed = true;
            }
        }
    }

    /// The interrupt that the vCPU would take now, were its interrupts on.
    #[inline]
    pub fn deliverable(&self) -> Option<u8> {
        if self.spurious & SPURIOUS_ENABLED == 0 {
            return None;
        }
        let vector = self.page.request.highest()?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// Whether the interrupts of the 8259s reach the vCPU.
    pub fn takes_external(&self) -> bool {
        self.lvt[LINT0] & (LVT_MASKED | LVT_EXTERNAL) == LVT_EXTERNAL
    }

    /// The vCPU takes `vector`, which was [`Self::deliverable`].
    pub fn deliver(&mut self, vector: u8) {
        self.page.request.set(vector, false);
        self.page.in_service.set(vector, true);
    }

    /// CR8 is bits 7:4 of the task priority.
    pub fn cr8(&self) -> u64 {
        u64::from(self.page.task_priority.0 >> 4)
    }

    /// MOV to CR8 of a value below 16.
    pub fn set_cr8(&mut self, value: u64) {
        self.page.task_priority = Register(u32::from(value as u8) << 4);
    }

    /// SDM Vol. 3, "Task and Processor Priorities".
    fn processor_priority(&self) -> u8 {
        let in_service = self.page.in_service.highest().unwrap_or(0);
        let task_priority = self.page.task_priority.0 as u8;
        if task_priority >> 4 >= in_service >> 4 {
            task_priority
        } else {
            in_service & 0xf0
        }
    }

    fn lvt_entry(&self, offset: u32) -> u32 {
        self.lvt
            .get((offset - reg::LVT_TIMER) as usize)
            .copied()
            .unwrap_or(LVT_MASKED)
    }

    fn write_lvt(&mut self, offset: u32, value: u32) -> Result<(), Refused> {
        let index = (offset - reg::LVT_TIMER) as usize;
        let writable = LVT_WRITABLE.get(index).copied().ok_or(Refused)?;
        if value & !(writable | LVT_STATUS) != 0 {
            return Err(Refused);
        }
        let before = self.timer_mode();
        let forced = if self.spurious & SPURIOUS_ENABLED == 0 {
            LVT_MASKED
        } else {
            0
        };
        if let Some(entry) = self.lvt.get_mut(index) {
            *entry = value & writable | forced;
        }
        let after = self.timer_mode();
        if before != after && (before == TimerMode::TscDeadline || after == TimerMode::TscDeadline)
        {
            // SDM Vol. 3, "TSC-Deadline Mode": a change of mode disarms the timer.
            self.deadline = None;
            self.initial_count = 0;
        }
        Ok(())
    }

    fn write_command(&mut self, value: u64) -> Result<Effect, Refused> {
        const RESERVED: u64 = 0xfff3_2000 | 1 << 12;
        if value & RESERVED != 0 {
            return Err(Refused);
        }
        self.command = value;
        let destination = (value >> 32) as u32;
        let vector = value as u8;
        let kind = match value >> 8 & 0b111 {
            0 | 1 if vector < FIRST_VECTOR => {
                self.report_error(Errors::SEND_ILLEGAL_VECTOR);
                return Ok(Effect::Changed);
            }
            0 => IpiKind::Fixed(vector),
            1 => IpiKind::LowestPriority(vector),
            4 => IpiKind::Nmi,
            // INIT de-assert has no effect on CPUs with an x2APIC.
            5 if value & 1 << 14 == 0 => return Ok(Effect::None),
            5 => IpiKind::Init,
            6 => IpiKind::StartUp(vector),
            _ => return Ok(Effect::None),
        };
        let to = match value >> 18 & 0b11 {
            0 if value & 1 << 11 == 0 => IpiTarget::Physical(destination),
            0 => IpiTarget::Logical(destination),
            1 => IpiTarget::SelfOnly,
            2 => IpiTarget::AllWithSelf,
            _ => IpiTarget::AllButSelf,
        };
        Ok(Effect::Send(Ipi { kind, to }))
    }

    fn report_error(&mut self, error: Errors) {
        self.errors |= error;
        let entry = self.lvt_entry(reg::LVT_ERROR);
        let vector = entry as u8;
        if entry & LVT_MASKED == 0 && vector >= FIRST_VECTOR {
            self.page.request.set(vector, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn enabled() -> X2Apic {
        let mut apic = X2Apic::new(3, 4);
        assert_eq!(apic.write(reg::SPURIOUS, 0x1ff, 0), Ok(Effect::Changed));
        apic
    }

    #[test]
    fn the_highest_vector_above_the_priority_is_delivered() {
        let mut apic = enabled();
        apic.accept(0x31, false);
        apic.accept(0x52, false);
        assert_eq!(apic.deliverable(), Some(0x52));
        apic.deliver(0x52);
        assert_eq!(apic.deliverable(), None);
        apic.accept(0x61, false);
        assert_eq!(apic.deliverable(), Some(0x61));
        apic.set_cr8(6);
        assert_eq!((apic.cr8(), apic.deliverable()), (6, None));
        apic.set_cr8(0);
        apic.deliver(0x61);
        assert_eq!(apic.read(reg::IN_SERVICE + 2, 0), Ok(1 << 18));
        assert_eq!(apic.write(reg::EOI, 0, 0), Ok(Effect::Changed));
        assert_eq!(apic.write(reg::EOI, 0, 0), Ok(Effect::Changed));
        assert_eq!(apic.deliverable(), Some(0x31));
    }

    #[test]
    fn a_disabled_apic_delivers_nothing_and_masks_its_timer() {
        let mut apic = X2Apic::new(0, 1);
        apic.accept(0x40, false);
        assert_eq!(apic.deliverable(), None);
        assert_eq!(apic.write(reg::LVT_TIMER, 0x40, 0), Ok(Effect::Changed));
        assert_eq!(apic.read(reg::LVT_TIMER, 0), Ok(0x1_0040));
    }

    #[test]
    fn the_timer_fires_once_periodically_or_at_a_deadline() {
        let mut apic = enabled();
        let write = |apic: &mut X2Apic, offset, value| {
            assert_eq!(apic.write(offset, value, 1000), Ok(Effect::Changed))
        };
        write(&mut apic, reg::LVT_TIMER, 0x40);
        write(&mut apic, reg::DIVIDE, 0b1011);
        write(&mut apic, reg::INITIAL_COUNT, 100);
        assert_eq!(apic.deadline(), Some(1400));
        assert_eq!(apic.read(reg::CURRENT_COUNT, 1200), Ok(50));
        apic.advance(1399);
        assert_eq!(apic.deliverable(), None);
        apic.advance(1400);
        assert_eq!((apic.deliverable(), apic.deadline()), (Some(0x40), None));

        write(&mut apic, reg::LVT_TIMER, 1 << 17 | 0x41);
        write(&mut apic, reg::DIVIDE, 0);
        write(&mut apic, reg::INITIAL_COUNT, 100);
        assert_eq!(apic.deadline(), Some(1800));
        apic.advance(3500);
        assert_eq!(
            (apic.deliverable(), apic.deadline()),
            (Some(0x41), Some(4200))
        );

        write(&mut apic, reg::LVT_TIMER, 2 << 17 | 0x42);
        assert_eq!(apic.deadline(), None);
        apic.set_tsc_deadline(7000);
        assert_eq!(apic.tsc_deadline(), 7000);
        apic.advance(7000);
        assert_eq!((apic.deliverable(), apic.tsc_deadline()), (Some(0x42), 0));
    }

    #[test]
    fn illegal_vectors_are_errors_and_not_interrupts() {
        let mut apic = enabled();
        assert_eq!(apic.write(reg::LVT_ERROR, 0x50, 0), Ok(Effect::Changed));
        assert_eq!(apic.write(reg::COMMAND, 0x4_000f, 0), Ok(Effect::Changed));
        assert_eq!(apic.write(reg::ERROR_STATUS, 0, 0), Ok(Effect::Changed));
        assert_eq!(apic.read(reg::ERROR_STATUS, 0), Ok(1 << 5));
        assert_eq!(apic.deliverable(), Some(0x50));
    }

    #[test]
    fn commands_name_kind_and_target() {
        let mut apic = enabled();
        let mut send = |value| apic.write(reg::COMMAND, value, 0);
        let ipi = |kind, to| Ok(Effect::Send(Ipi { kind, to }));
        assert_eq!(
            send(7 << 32 | 0x40),
            ipi(IpiKind::Fixed(0x40), IpiTarget::Physical(7))
        );
        assert_eq!(
            send(7 << 32 | 0x840),
            ipi(IpiKind::Fixed(0x40), IpiTarget::Logical(7))
        );
        assert_eq!(send(0x4_4500), ipi(IpiKind::Init, IpiTarget::SelfOnly));
        assert_eq!(
            send(0xc_4608),
            ipi(IpiKind::StartUp(8), IpiTarget::AllButSelf)
        );
        assert_eq!(send(0x8_0400), ipi(IpiKind::Nmi, IpiTarget::AllWithSelf));
        assert_eq!(send(0x500), Ok(Effect::None));
        assert_eq!(send(1 << 20), Err(Refused));
    }

    proptest! {
        #[test]
        fn no_access_of_a_guest_panics(
            accesses in proptest::collection::vec((0_u32..0x100, any::<u64>(), any::<u64>()), 1..50),
        ) {
            let mut apic = enabled();
            for (offset, value, now) in accesses {
                let _ = apic.write(offset, value, now);
                let _ = apic.write(offset, value & 0xff, now);
                apic.advance(now);
                let read = apic.read(offset, now);
                prop_assert!(read.is_err() || offset == reg::COMMAND || read.unwrap() <= u64::from(u32::MAX));
                if let Some(vector) = apic.deliverable() {
                    prop_assert!(vector >= FIRST_VECTOR);
                    apic.deliver(vector);
                }
            }
        }
    }
}
