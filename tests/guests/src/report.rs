//! One line a check, and the sum of them.

use crate::{console, say};
use core::fmt::{self, Debug, LowerHex};

/// Checks so far.
#[derive(Default)]
pub struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Records the check `what`, which found `found`.
    pub fn equal<T: PartialEq + Debug>(&mut self, what: impl fmt::Display, found: T, expected: T) {
        if found == expected {
            self.passed += 1;
            say!("ok {what}");
        } else {
            self.failed += 1;
            say!("not ok {what}: expected {expected:x?}, found {found:x?}");
        }
    }

    /// Records the check `what`, which holds or not.
    pub fn holds(&mut self, what: impl fmt::Display, holds: bool) {
        self.equal(what, holds, true);
    }

    /// Records that every value of `values` passes `test`, as one check that
    /// names the first that does not.
    pub fn all<T: LowerHex + Copy>(
        &mut self,
        what: impl fmt::Display,
        values: impl Iterator<Item = T>,
        mut test: impl FnMut(T) -> bool,
    ) {
        let mut count = 0_u32;
        for value in values {
            count += 1;
            if !test(value) {
                self.failed += 1;
                say!("not ok {what}: not for {value:#x}");
                return;
            }
        }
        self.holds(format_args!("{what} ({count} values)"), count > 0);
    }

    /// Checks that passed and failed.
    pub fn sum(&self) -> (u32, u32) {
        (self.passed, self.failed)
    }

    /// Prints the sum and ends the VM: with code 0 if no check failed.
    pub fn finish(self) -> ! {
        say!("{} passed, {} failed", self.passed, self.failed);
        console::exit(u32::from(self.failed > 0))
    }
}
