//! Memory that a VM gets is zero, whatever was in it before: finds nothing in its own,
//! fills it, and resets itself, until the TSC is `until=N`.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "memory behind the payload, and the reset port")]

use core::slice;
use guests::{apic, payload, report::Report, say, start::number};
use x86_64::instructions::port::Port;

payload!(main);

/// Behind the payload and all that the loader has put into memory.
const START: usize = 4 << 20;
/// What the VM has.
const END: usize = 16 << 20;
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

fn main(command_line: &'static str) -> ! {
    let until = number(command_line, "until", 0);
    // SAFETY: memory of the VM that nothing else here uses.
    let memory =
        unsafe { slice::from_raw_parts_mut(START as *mut u64, (END - START) / size_of::<u64>()) };
    let found = memory.iter().filter(|word| **word != 0).count();
    say!("{found} words are not zero");
    if found == 0 && apic::now() < until {
        memory.fill(SECRET);
        // SAFETY: the VM begins again.
        unsafe { Port::<u8>::new(0xcf9).write(6) };
    }
    let mut report = Report::default();
    report.equal("words that are not zero", found, 0);
    report.finish()
}
