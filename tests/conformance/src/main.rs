//! Holds the machine against the manual: what silicon promises about XSAVE, XFD
//! and AMX, one line a check, without a hypervisor.
//!
//! Only promises are checked. What the manual leaves to the implementation is
//! left out, with the reason where it would stand.

#![no_std]
#![no_main]

mod checks;
mod machine;

use bootloader_api::{BootInfo, BootloaderConfig, entry_point};
use core::panic::PanicInfo;
use guests::{bare, exceptions, processor, report::Report, say};

/// Checks keep several XSAVE areas on the stack.
const STACK_BYTES: u64 = 1 << 20;

const CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = STACK_BYTES;
    config
};

entry_point!(start, config = &CONFIG);

fn start(_: &'static mut BootInfo) -> ! {
    bare::open_console();
    exceptions::install();
    if let Some(missing) = machine::missing_feature() {
        say!("conformance: this CPU has no {missing}; nothing can be checked");
        bare::end(false);
    }
    processor::enable_osxsave();
    let mut report = Report::default();
    checks::run(&mut report);
    let (passed, failed) = report.sum();
    say!("conformance: {passed} passed, {failed} failed");
    bare::end(failed == 0)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("conformance broke: {info}");
    bare::end(false)
}
