//! How often a vCPU left its guest, by reason: what tests assert on, and what a
//! person asks first when a guest is slow.

use crate::vmx::exit::Reason;
use core::fmt;

/// Exits by reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters([u64; Reason::COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Reason::COUNT])
    }
}

impl Counters {
    /// Counts an exit; reasons that silicon may add beyond the table count as
    /// the last.
    #[inline]
    pub fn count(&mut self, reason: Reason) {
        // Of a reason beyond all that there are, the low bits have to do.
        if let Some(counter) = self.0.get_mut(usize::from(reason.0) % Reason::COUNT) {
            *counter = counter.wrapping_add(1);
        }
    }

    /// Adds those of another vCPU.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.wrapping_add(count);
        }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (reason, count) in (0_u16..).zip(self.0).filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{} {count}", Reason(reason).text())?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn exits_are_counted_and_shown_by_reason() {
        let mut counters = Counters::default();
        counters.count(Reason::CPUID);
        counters.count(Reason::CPUID);
        counters.count(Reason(0x7f));
        assert_eq!(
            counters.to_string(),
            "CPUID 2, an exit this hypervisor does not know 1"
        );
    }
}
