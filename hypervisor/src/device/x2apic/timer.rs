//! The local APIC's timer (SDM Vol. 3, "APIC Timer"). Time is the guest's TSC.

use super::{LVT_MASKED, X2Apic, register as reg};

/// How the timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl X2Apic {
    /// IA32_TSC_DEADLINE, which reads zero unless armed in that mode.
    pub fn tsc_deadline(&self) -> u64 {
        match self.timer_mode() {
            TimerMode::TscDeadline => self.deadline.unwrap_or(0),
            _ => 0,
        }
    }

    /// WRMSR of IA32_TSC_DEADLINE: ignored unless the timer is in that mode.
    pub fn set_tsc_deadline(&mut self, value: u64) {
        if self.timer_mode() == TimerMode::TscDeadline {
            self.deadline = (value != 0).then_some(value);
        }
    }

    /// TSC at which the timer fires next.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Lets the timer fire if its time has come.
    pub fn advance(&mut self, now: u64) {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            return;
        };
        let entry = self.lvt_entry(reg::LVT_TIMER);
        if entry & LVT_MASKED == 0 {
            self.accept(entry as u8, false);
        }
        self.deadline = match self.timer_mode() {
            TimerMode::Periodic => {
                let period = self.period();
                // Periods that nobody looked at are skipped, not made up for.
                Some(now.wrapping_add(period - (now - deadline) % period))
            }
            _ => None,
        };
    }

    pub(super) fn timer_mode(&self) -> TimerMode {
        match self.lvt_entry(reg::LVT_TIMER) >> 17 & 0b11 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    /// TSC ticks for each count: bits 3, 1 and 0 of the divide register encode a
    /// power of two, with 0b111 for one.
    fn ticks_per_count(&self) -> u64 {
        let code = self.divide & 0b11 | self.divide >> 1 & 0b100;
        self.bus_ratio << ((code + 1) % 8)
    }

    pub(super) fn period(&self) -> u64 {
        u64::from(self.initial_count) * self.ticks_per_count()
    }

    pub(super) fn current_count(&self, now: u64) -> u32 {
        match (self.timer_mode(), self.deadline) {
            (TimerMode::OneShot | TimerMode::Periodic, Some(deadline)) => {
                let left = deadline
                    .saturating_sub(now)
                    .div_ceil(self.ticks_per_count());
                u32::try_from(left).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }
}
