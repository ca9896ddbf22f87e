//! The boot processor's way from the boot loader to the scheduler.
//!
//! True on entry: 64-bit long mode, interrupts off, the boot loader's page
//! tables, stack and descriptor tables. Done here: the hypervisor's own memory,
//! tables and heap, then the VMs of the bundle. Nothing of the boot loader's is
//! used once its page tables are left behind.

#![expect(unsafe_code, reason = "takes the machine over from the boot loader")]

use crate::{
    cpu::{
        msr,
        tables::{self, InterruptStacks},
    },
    memory::{
        address::Hpa,
        host::{self, Host},
    },
    platform::{
        pic,
        power::{self, Verdict},
    },
    say,
    sched::Scheduler,
    vm::create::Factory,
    vmx::capabilities::Vmx,
    xstate::{features::XFeatures, layout::Layout, silicon::Silicon, swap::CpuXstate},
};
use bootloader_api::{BootInfo, info::MemoryRegionKind};
use core::{fmt, ops::Range};
use guest_loader::bundle::Bundle;
use linked_list_allocator::LockedHeap;
use raw_cpuid::CpuIdReaderNative;
use spin::Once;
use x86_64::{
    VirtAddr,
    registers::{
        control::{Cr0, Cr0Flags, Cr4, Cr4Flags},
        model_specific::{Efer, EferFlags},
    },
};

/// Below this the firmware and the start of other CPUs have their places.
const LOW_MEMORY_END: u64 = 0x10_0000;
/// The heap gets this part of the machine's memory, within bounds: it holds
/// vCPUs and their containers, a few KiB each, not guests' memory.
const HEAP_SHARE: u64 = 32;
const HEAP_LEAST: u64 = 4 << 20;
const HEAP_MOST: u64 = 256 << 20;
/// Memory maps of real machines have some dozens of regions; those beyond
/// are left unused.
const REGIONS: usize = 256;

struct Machine {
    host: Host,
    bundle: Option<&'static [u8]>,
}

static MACHINE: Once<spin::Mutex<Option<Machine>>> = Once::new();

/// Ends the machine because it lacks something.
pub fn refuse(what: impl fmt::Display) -> ! {
    say!("cannot run: {what}");
    power::end(Verdict::Failure)
}

/// Takes the machine over.
pub fn start(hand_off: &'static mut BootInfo, heap: &'static LockedHeap) -> ! {
    say!("Tilevisor {}", env!("CARGO_PKG_VERSION"));
    let (mut regions, mut count) = ([const { Hpa(0)..Hpa(0) }; REGIONS], 0);
    for region in hand_off.memory_regions.iter() {
        let start = region.start.max(LOW_MEMORY_END);
        if region.kind == MemoryRegionKind::Usable && start < region.end && count < REGIONS {
            regions[count] = Hpa(start)..Hpa(region.end);
            count += 1;
        }
    }
    let usable = &regions[..count];
    let Some(direct_map) = hand_off.physical_memory_offset.into_option() else {
        refuse("the boot loader mapped no physical memory");
    };
    let heap_share = |free: u64| (free / HEAP_SHARE).clamp(HEAP_LEAST, HEAP_MOST);
    // SAFETY: first and only call; the boot loader says that these regions are
    // free and where it maps them.
    let heap_run = unsafe { host::found(VirtAddr::new(direct_map), usable, heap_share) }
        .unwrap_or_else(|error| refuse(error));
    say!("heap {} KiB", heap_run.len() / 1024);
    // SAFETY: the run is ours for ever and the heap is still empty.
    unsafe { heap.lock().init(heap_run.as_mut_ptr(), heap_run.len()) };

    let bundle = hand_off.ramdisk_addr.into_option().map(|at| {
        let at = VirtAddr::new(at);
        at..at + hand_off.ramdisk_len
    });
    let (mut host, bundle) = Host::build(image_range(hand_off.kernel_image_offset), usable, bundle)
        .unwrap_or_else(|error| refuse(error));
    let stack = host.stack().unwrap_or_else(|error| refuse(error));

    // SAFETY: no-execute is what the new tables are built for, and write
    // protection only takes rights away.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT));
    }
    let machine = MACHINE.call_once(|| spin::Mutex::new(Some(Machine { host, bundle })));
    let switch = machine
        .lock()
        .as_ref()
        .map(|machine| machine.host.root())
        .expect("just put there");
    // SAFETY: the stack is new; all that is used from here on lies in the image,
    // the heap and usable memory.
    unsafe { host::enter(switch, stack, continue_on_own_tables) }
}

/// The image as it lies in memory: from where the boot loader put it to the
/// end that the linker knows.
fn image_range(start: u64) -> Range<VirtAddr> {
    unsafe extern "C" {
        /// Defined by the linker just past the image.
        static _end: u8;
    }
    VirtAddr::new(start)..VirtAddr::from_ptr(&raw const _end)
}

extern "C" fn continue_on_own_tables() -> ! {
    let mut machine = MACHINE
        .get()
        .and_then(|machine| machine.lock().take())
        .expect("put there before the page tables were changed");
    let mut stack = || machine.host.stack().unwrap_or_else(|error| refuse(error));
    let tables = tables::load(&InterruptStacks {
        double_fault: stack(),
        nmi: stack(),
        machine_check: stack(),
    });
    say!(
        "own page tables, {} MiB free",
        host::with_frames(|frames| frames.free_bytes()) >> 20
    );
    let cpuid = CpuIdReaderNative;
    // SAFETY: `detect` asks only for registers that this CPU has.
    let read = |register| unsafe { msr::read(register) };
    let vmx = Vmx::detect(&cpuid, read).unwrap_or_else(|error| refuse(error));
    vmx.enter().unwrap_or_else(|error| refuse(error));
    let layout = Layout::from_cpuid(&cpuid).unwrap_or_else(|error| refuse(error));
    // SAFETY: the hypervisor itself uses no x87 or vector instruction, so this
    // only lets it save and restore what guests use.
    unsafe {
        Cr0::update(|cr0| cr0.remove(Cr0Flags::TASK_SWITCHED | Cr0Flags::EMULATE_COPROCESSOR));
        Cr4::update(|cr4| cr4.insert(Cr4Flags::OSXSAVE));
    }
    // SAFETY: the layout is this CPU's, CR4.OSXSAVE is set and CR0.TS clear for
    // good, and this is the only one made here.
    let silicon = unsafe { Silicon::new(&layout) };
    let cpu = CpuXstate::take_over(silicon, &layout, 0).unwrap_or_else(|error| refuse(error));
    layout
        .check_current_sizes(&cpuid, layout.user(), XFeatures::EMPTY)
        .unwrap_or_else(|error| refuse(error));
    pic::mask_all();
    let mut scheduler = Scheduler::new(cpu, tables, layout.clone());
    let bundle = machine
        .bundle
        .unwrap_or_else(|| refuse("the boot loader brought no guest bundle"));
    let bundle =
        Bundle::parse(bundle).unwrap_or_else(|error| refuse(format_args!("guest bundle: {error}")));
    let factory = Factory {
        cpuid,
        layout: &layout,
        vmx: &vmx,
    };
    for (number, vm) in bundle.vms.iter().enumerate() {
        match factory.create(number, vm) {
            Ok(vm) => scheduler.add(vm),
            Err(error) => {
                say!("VM {:?} cannot be made: {error}", vm.config.name);
                scheduler.count_failure();
            }
        }
    }
    power::end(scheduler.run())
}
