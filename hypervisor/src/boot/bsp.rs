//! The boot processor's way from the boot loader to the scheduler.
//!
//! True on entry: 64-bit long mode, interrupts off, the boot loader's page
//! tables, stack and descriptor tables. Done here: the hypervisor's own memory,
//! tables and heap, then the VMs of the bundle. Nothing of the boot loader's is
//! used once its page tables are left behind.

#![expect(unsafe_code, reason = "takes the machine over from the boot loader")]

use super::{ap, cpu, processors, trampoline};
use crate::{
    cpu::{
        apic::{self, Apic},
        tsc,
    },
    memory::{
        address::{FRAME_BYTES, Hpa},
        host::{self, Host},
    },
    platform::{
        pic,
        power::{self, Verdict},
    },
    say, sched,
    vm::create::{FACTORY, Factory},
};
use alloc::vec::Vec;
use bootloader_api::{BootInfo, info::MemoryRegionKind};
use core::{fmt, ops::Range};
use guest_loader::bundle::Bundle;
use linked_list_allocator::LockedHeap;
use raw_cpuid::CpuIdReaderNative;
use spin::Once;
use x86_64::{
    VirtAddr,
    registers::{
        control::{Cr0, Cr0Flags},
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
    /// APIC IDs of the CPUs that the firmware reports.
    processors: Vec<u32>,
    /// Where the others begin, if there is a page for that.
    trampoline: Option<Hpa>,
}

static MACHINE: Once<spin::Mutex<Option<Machine>>> = Once::new();

/// Ends the machine because it lacks something.
pub fn refuse(what: impl fmt::Display) -> ! {
    say!("cannot run: {what}");
    power::end(Verdict::Failure)
}

/// Takes the machine over.
pub fn start(hand_off: &'static mut BootInfo, heap: &'static LockedHeap) -> ! {
    let first = tsc::now();
    say!("Tilevisor {}, from TSC {first}", env!("CARGO_PKG_VERSION"));
    let trampoline = hand_off
        .memory_regions
        .iter()
        .filter(|region| region.kind == MemoryRegionKind::Usable)
        .map(|region| {
            region.start.next_multiple_of(FRAME_BYTES).max(FRAME_BYTES)
                ..region.end.min(LOW_MEMORY_END)
        })
        .find(|page| page.start + FRAME_BYTES <= page.end)
        .map(|page| Hpa(page.start));
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
    let direct_map = VirtAddr::new(direct_map);
    if let Some(page) = trampoline {
        // SAFETY: the boot loader says that the page is free, and maps it.
        unsafe { trampoline::install(direct_map, page, &ap::go_on(host.root())) };
        host.map_trampoline(page)
            .unwrap_or_else(|error| refuse(error));
    }
    let processors = hand_off
        .rsdp_addr
        .into_option()
        .map_or(Ok(Vec::new()), |rsdp| {
            // SAFETY: the boot loader found the RSDP, and its page tables are in use.
            unsafe { processors::apic_ids(direct_map, rsdp) }
        });
    let processors = processors.unwrap_or_else(|error| {
        say!("one CPU is used: the firmware's ACPI tables are broken ({error:?})");
        Vec::new()
    });

    // SAFETY: no-execute is what the new tables are built for, and write
    // protection only takes rights away.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT));
    }
    let machine = MACHINE.call_once(|| {
        spin::Mutex::new(Some(Machine {
            host,
            bundle,
            processors,
            trampoline,
        }))
    });
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
    say!(
        "own page tables, {} MiB free",
        host::with_frames(|frames| frames.free_bytes()) >> 20
    );
    pic::mask_all();
    let stacks = cpu::interrupt_stacks(&mut machine.host).unwrap_or_else(|error| refuse(error));
    let apic_page = apic::page_address(&CpuIdReaderNative).map(|page| {
        let page = machine.host.map_device(Hpa(page));
        page.unwrap_or_else(|error| refuse(error))
    });
    let apic = Apic::choose(&CpuIdReaderNative, apic_page);
    let own = cpu::own(0, apic, &stacks).unwrap_or_else(|error| refuse(error));

    let bundle = machine
        .bundle
        .unwrap_or_else(|| refuse("the boot loader brought no guest bundle"));
    let bundle =
        Bundle::parse(bundle).unwrap_or_else(|error| refuse(format_args!("guest bundle: {error}")));
    let factory = FACTORY.call_once(|| Factory {
        cpuid: CpuIdReaderNative,
        layout: own.layout,
        vmx: own.vmx,
        cpus: machine.processors.len().max(1),
        bundle,
    });
    for number in 0..factory.bundle.vms.len() {
        match factory.make(number) {
            Some(threads) => sched::POOL.add(threads),
            None => sched::POOL.count_failure(),
        }
    }
    if let Some(page) = machine.trampoline {
        ap::start_all(&machine.processors, apic, page, &mut machine.host);
    }
    own.scheduler.run()
}
