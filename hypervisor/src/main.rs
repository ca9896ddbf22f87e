//! The hypervisor's entry point, panic handler and global allocator; all else
//! is in the library.

#![no_std]
#![no_main]

use bootloader_api::{BootInfo, BootloaderConfig, config::Mapping, entry_point};
use core::panic::PanicInfo;
use hypervisor::{boot, platform};
use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Everything the boot loader maps lies in the upper half, so that no address
/// of the hypervisor can be mistaken for a guest-physical one.
const HAND_OFF: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = boot::BOOT_STACK_BYTES;
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_start = Some(boot::UPPER_HALF);
    config
};

entry_point!(enter, config = &HAND_OFF);

fn enter(hand_off: &'static mut BootInfo) -> ! {
    boot::bsp::start(hand_off, &HEAP)
}

/// A panic is a bug of ours: it names the broken invariant and stops the machine.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    platform::power::stop_others();
    platform::console::break_lock();
    platform::console::say(format_args!("hypervisor bug: {info}"));
    platform::backtrace::print_here();
    platform::power::end(platform::power::Verdict::Failure)
}
