//! Where the hypervisor was, for the report of its own death.
//!
//! It is compiled without frame pointers, so every word of the stack that points
//! into its code is shown: all return addresses, and now and then a stale one.

#![expect(unsafe_code, reason = "reads the stack")]

use crate::{memory::host, say};
use core::fmt;
use spin::Once;

const WORD_BYTES: u64 = 8;
/// Addresses that are shown.
const SHOWN: usize = 16;

unsafe extern "C" {
    /// The ELF header, where the image begins; defined by the linker.
    static __executable_start: u8;
    /// Where the code ends; the same.
    static etext: u8;
}

/// Says what this CPU was doing; set by the scheduler, which alone knows.
pub static WHAT: Once<fn()> = Once::new();

/// Prints the way to whoever calls this.
pub fn print_here() {
    let here = 0_u64;
    print(0, (&raw const here) as u64);
}

/// Prints the way to `rip` with the stack at `rsp`, as a command that names
/// functions and lines.
pub fn print(rip: u64, rsp: u64) {
    if let Some(what) = WHAT.get() {
        what();
    }
    say!("way here (functions and lines: run this):");
    say!(
        "  addr2line -Cfpie target/x86_64-unknown-none/release/tilevisor{}",
        Addresses { rip, rsp }
    );
}

struct Addresses {
    rip: u64,
    rsp: u64,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (
            (&raw const __executable_start) as u64,
            (&raw const etext) as u64,
        );
        let top = host::stack_top(self.rsp).unwrap_or(self.rsp);
        let stack = (self.rsp..top).step_by(WORD_BYTES as usize).map(|at| {
            // SAFETY: between the stack pointer and the top of one of our stacks.
            unsafe { (at as *const u64).read_unaligned() }
        });
        core::iter::once(self.rip)
            .chain(stack)
            .filter(|address| (start..end).contains(address))
            .take(SHOWN)
            .try_for_each(|address| write!(f, " {:#x}", address - start))
    }
}
