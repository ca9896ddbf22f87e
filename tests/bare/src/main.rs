//! Boots the image of a bundle's one VM on the machine itself, laid out and entered
//! exactly as in a VM: what a VM does and costs is compared with this.
//!
//! The machine must have more memory than the VM: above the VM's memory lies what is
//! needed until the image begins.

#![no_std]
#![no_main]

extern crate alloc;

mod arena;
mod firmware;
mod launch;

use alloc::boxed::Box;
use arena::Arena;
use bootloader_api::{BootInfo, BootloaderConfig, config::Mapping, entry_point};
use core::{error::Error, panic::PanicInfo};
use guest_loader::{Request, bundle::Bundle};
use guests::{bare, say};
use launch::Launch;
use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Enough for what a plan owns: page tables and ACPI tables.
const HEAP_BYTES: usize = 1 << 20;
const STACK_BYTES: u64 = 1 << 18;
/// The lower half is the image's.
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

const CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = STACK_BYTES;
    config.mappings.physical_memory = Some(Mapping::Dynamic);
    config.mappings.dynamic_range_start = Some(UPPER_HALF);
    config
};

entry_point!(start, config = &CONFIG);

fn start(hand_off: &'static mut BootInfo) -> ! {
    bare::open_console();
    match prepare(hand_off) {
        Ok(launch) => launch.go(),
        Err(error) => {
            say!("bare: {error}");
            bare::end(false)
        }
    }
}

fn prepare(hand_off: &'static BootInfo) -> Result<Launch, Box<dyn Error>> {
    let mut arena = Arena::new(hand_off).ok_or("the boot loader gives no memory")?;
    arena.give_to(&HEAP, HEAP_BYTES);
    let ramdisk = arena::ramdisk(hand_off).ok_or("there is no bundle")?;
    let bundle = Bundle::parse(ramdisk)?;
    let [vm] = bundle.vms.as_slice() else {
        return Err("the bundle has not exactly one VM".into());
    };
    let plan = guest_loader::plan(&Request {
        image: vm.image,
        initrd: vm.initrd,
        memory_bytes: vm.config.memory,
        command_line: &vm.config.cmdline,
        vcpus: vm.config.vcpus,
    })?;
    firmware::silence_legacy_interrupts();
    firmware::open_table_area(&arena)?;
    launch::prepare(&mut arena, &plan, vm.config.memory)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("bare broke: {info}");
    bare::end(false)
}
