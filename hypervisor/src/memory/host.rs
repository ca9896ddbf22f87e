//! The hypervisor's own memory: frames, heap, page tables and stacks.
//!
//! On entry the boot loader's tables map all physical memory writable at a
//! fixed offset. [`Host::take_over`] replaces them by tables in which
//! - the image keeps the permissions of its segments, none of them both
//!   writable and executable;
//! - usable memory, the bundle (read-only) and nothing else is mapped at the same
//!   offset, never executable: no writable alias of the image's code exists;
//! - each stack has an unmapped page below it.
//!
//! Not prevented here: the hypervisor reading a guest's memory, which it must.

#![expect(unsafe_code, reason = "page tables and raw physical memory")]

pub use super::host_error::HostError;
use super::{
    address::{FRAME_BYTES, HUGE_BYTES, Hpa, LARGE_BYTES},
    ept::{Table, TableFrames},
    frames::Frames,
};
use core::ops::Range;
use spin::{Mutex, Once};
use x86_64::{
    PhysAddr, VirtAddr,
    registers::control::Cr3,
    structures::paging::{
        FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags,
        PhysFrame, Size1GiB, Size2MiB, Size4KiB, Translate,
        mapper::{MapToError, MapperFlush, TranslateResult},
    },
};

/// Usable bytes of one stack.
pub const STACK_BYTES: u64 = 64 * 1024;
/// Address space of one stack: the unused part below it is the guard.
const STACK_SLOT_BYTES: u64 = 2 * STACK_BYTES;
/// Where stacks are mapped: a top-level slot that nothing else uses, checked
/// when the first stack is mapped.
const STACKS: VirtAddr = VirtAddr::new_truncate(0xffff_f000_0000_0000);

/// Where the stack ends that `at` lies in, if it is one of ours.
pub fn stack_top(at: u64) -> Option<u64> {
    // A stack fills the upper half of its slot.
    let offset = at.checked_sub(STACKS.as_u64())?;
    let top = (offset / STACK_SLOT_BYTES + 1) * STACK_SLOT_BYTES;
    (top - offset <= STACK_BYTES).then_some(STACKS.as_u64() + top)
}

const DATA: PageTableFlags = PageTableFlags::PRESENT
    .union(PageTableFlags::WRITABLE)
    .union(PageTableFlags::NO_EXECUTE);
const READ_ONLY: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE);

static DIRECT_MAP: Once<VirtAddr> = Once::new();
static FRAMES: Once<Mutex<Frames<'static>>> = Once::new();

/// The address at which the hypervisor sees the physical address `hpa`, if it
/// is usable memory.
pub fn direct(hpa: Hpa) -> VirtAddr {
    *DIRECT_MAP.get().expect("memory was taken over") + hpa.0
}

/// The physical address of something on the heap or in a frame, which the direct
/// map shows.
pub fn physical<T>(at: *const T) -> Hpa {
    Hpa(at as u64 - direct(Hpa(0)).as_u64())
}

/// Runs `work` with the frame allocator. Never on the way of a VM exit.
pub fn with_frames<R>(work: impl FnOnce(&mut Frames<'static>) -> R) -> R {
    work(&mut FRAMES.get().expect("memory was taken over").lock())
}

/// Takes a zeroed run of frames.
pub fn allocate_zeroed(bytes: u64, alignment: u64) -> Option<Hpa> {
    let run = with_frames(|frames| frames.allocate(bytes, alignment))?;
    let bytes = bytes.next_multiple_of(FRAME_BYTES);
    // SAFETY: the run was just taken, so nobody else refers to it, and usable
    // memory is mapped writable.
    unsafe {
        direct(run)
            .as_mut_ptr::<u8>()
            .write_bytes(0, bytes as usize)
    };
    Some(run)
}

/// Sets up the frame allocator over `usable`; the bookkeeping is placed in it.
/// Returns a run of `heap_bytes` for the heap.
///
/// # Safety
/// Once, before anything else here; all of `usable` is free memory that the
/// boot loader maps at `direct_map`.
pub unsafe fn found(
    direct_map: VirtAddr,
    usable: &[Range<Hpa>],
    heap_bytes: impl FnOnce(u64) -> u64,
) -> Result<&'static mut [u8], HostError> {
    DIRECT_MAP.call_once(|| direct_map);
    let end = usable.iter().map(|range| range.end).max().unwrap_or(Hpa(0));
    let words = Frames::words_for(end);
    let bytes = (words as u64 * 8).next_multiple_of(FRAME_BYTES);
    let place = usable
        .iter()
        .map(|range| Hpa(range.start.0.next_multiple_of(FRAME_BYTES))..range.end)
        .find(|range| range.end.0.saturating_sub(range.start.0) >= bytes)
        .ok_or(HostError::NoMemory(bytes))?
        .start;
    // SAFETY: `place` is free memory, large enough, frame-aligned, and taken
    // out of the allocator's sight below.
    let storage =
        unsafe { core::slice::from_raw_parts_mut(direct(place).as_mut_ptr::<u64>(), words) };
    let hole = place..Hpa(place.0 + bytes);
    let around = usable.iter().flat_map(|range| {
        [
            range.start..range.end.min(hole.start).max(range.start),
            range.start.max(hole.end).min(range.end)..range.end,
        ]
    });
    let mut frames = Frames::new(storage, around);
    let heap_bytes = heap_bytes(frames.free_bytes());
    let heap = frames
        .allocate(heap_bytes, FRAME_BYTES)
        .ok_or(HostError::NoMemory(heap_bytes))?;
    FRAMES.call_once(|| Mutex::new(frames));
    // SAFETY: the run was just allocated and is mapped.
    Ok(unsafe { core::slice::from_raw_parts_mut(direct(heap).as_mut_ptr(), heap_bytes as usize) })
}

/// The hypervisor's page tables.
pub struct Host {
    table: OffsetPageTable<'static>,
    root: PhysFrame,
    stacks: u64,
}

/// Tables of page tables come from the frame allocator like everything else.
struct PageTables;

// SAFETY: the frames handed out are unused, which is all that is asked.
unsafe impl FrameAllocator<Size4KiB> for PageTables {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = allocate_zeroed(FRAME_BYTES, FRAME_BYTES)?;
        Some(PhysFrame::containing_address(PhysAddr::new(frame.0)))
    }
}

impl TableFrames for PageTables {
    fn allocate(&mut self) -> Option<Hpa> {
        allocate_zeroed(FRAME_BYTES, FRAME_BYTES)
    }
    fn table(&mut self, frame: Hpa) -> &mut Table {
        // SAFETY: EPT tables are reached only through their `Ept`, which one
        // owner holds; the frame is mapped, aligned, and every bit pattern is
        // a table.
        unsafe { &mut *direct(frame).as_mut_ptr::<Table>() }
    }
    fn free(&mut self, frame: Hpa) {
        with_frames(|frames| frames.free(frame, FRAME_BYTES));
    }
}

/// Where EPT tables live on the machine.
pub fn ept_frames() -> impl TableFrames {
    PageTables
}

impl Host {
    /// Builds the tables. `image` is the range of the hypervisor's image,
    /// `usable` as in [`found`]; `bundle`, in the boot loader's address space, is
    /// mapped too and returned as we will see it.
    pub fn build(
        image: Range<VirtAddr>,
        usable: &[Range<Hpa>],
        bundle: Option<Range<VirtAddr>>,
    ) -> Result<(Self, Option<&'static [u8]>), HostError> {
        let direct_map = direct(Hpa(0));
        let (old_root, _) = Cr3::read();
        // SAFETY: the boot loader maps all physical memory at `direct_map`, and
        // nobody else uses its tables.
        let old = unsafe {
            let table = direct_map + old_root.start_address().as_u64();
            OffsetPageTable::new(&mut *table.as_mut_ptr::<PageTable>(), direct_map)
        };
        let root = PageTables
            .allocate_frame()
            .ok_or(HostError::NoMemory(FRAME_BYTES))?;
        // SAFETY: as above, for the zeroed frame just taken.
        let table = unsafe {
            let table = direct_map + root.start_address().as_u64();
            OffsetPageTable::new(&mut *table.as_mut_ptr::<PageTable>(), direct_map)
        };
        let mut host = Self {
            table,
            root,
            stacks: 0,
        };
        host.map_image(&old, image)?;
        for range in usable {
            host.map_direct(range.clone(), DATA)?;
        }
        let bundle = match bundle {
            Some(range) => Some(host.map_bundle(&old, range)?),
            None => None,
        };
        Ok((host, bundle))
    }

    fn map_image(
        &mut self,
        old: &OffsetPageTable<'_>,
        image: Range<VirtAddr>,
    ) -> Result<(), HostError> {
        let pages = Page::<Size4KiB>::containing_address(image.start)
            ..=Page::containing_address(image.end - 1);
        for page in Page::range_inclusive(*pages.start(), *pages.end()) {
            let at = page.start_address();
            let TranslateResult::Mapped {
                frame,
                offset,
                flags,
            } = old.translate(at)
            else {
                return Err(HostError::NotMapped(at));
            };
            if flags.contains(PageTableFlags::WRITABLE)
                && !flags.contains(PageTableFlags::NO_EXECUTE)
            {
                return Err(HostError::WritableCode(at));
            }
            let frame = PhysFrame::containing_address(frame.start_address() + offset);
            let keep = PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE;
            self.map(page, frame, PageTableFlags::PRESENT | flags & keep)?;
        }
        Ok(())
    }

    fn map_bundle(
        &mut self,
        old: &OffsetPageTable<'_>,
        range: Range<VirtAddr>,
    ) -> Result<&'static [u8], HostError> {
        let start = old
            .translate_addr(range.start)
            .ok_or(HostError::NotMapped(range.start))?;
        let bytes = range.end - range.start;
        let hpa = Hpa(start.as_u64() & !(FRAME_BYTES - 1))
            ..Hpa((start.as_u64() + bytes).next_multiple_of(FRAME_BYTES));
        for offset in (0..bytes).step_by(FRAME_BYTES as usize) {
            // The boot loader loads the ramdisk in one run; a gap would show
            // other memory in its place.
            if old.translate_addr(range.start + offset) != Some(start + offset) {
                return Err(HostError::NotMapped(range.start + offset));
            }
        }
        self.map_direct(hpa, READ_ONLY)?;
        let at = direct(Hpa(start.as_u64())).as_ptr::<u8>();
        // SAFETY: the ramdisk is memory of its own, mapped read-only from the
        // next load of CR3 on and never unmapped or written.
        Ok(unsafe { core::slice::from_raw_parts(at, bytes as usize) })
    }

    /// Maps `range` at the direct map, with the largest pages that fit.
    fn map_direct(&mut self, range: Range<Hpa>, flags: PageTableFlags) -> Result<(), HostError> {
        let mut at = Hpa(range.start.0.next_multiple_of(FRAME_BYTES));
        while let left = range.end.0.saturating_sub(at.0)
            && left >= FRAME_BYTES
        {
            let fits = |size| at.is_aligned(size) && direct(at).is_aligned(size);
            let step = match () {
                () if fits(HUGE_BYTES) && left >= HUGE_BYTES => {
                    self.map_direct_page::<Size1GiB>(at, flags)?
                }
                () if fits(LARGE_BYTES) && left >= LARGE_BYTES => {
                    self.map_direct_page::<Size2MiB>(at, flags)?
                }
                () => self.map_direct_page::<Size4KiB>(at, flags)?,
            };
            at = Hpa(at.0 + step);
        }
        Ok(())
    }

    fn map_direct_page<S: PageSize>(
        &mut self,
        at: Hpa,
        flags: PageTableFlags,
    ) -> Result<u64, HostError>
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        let page = Page::<S>::containing_address(direct(at));
        let frame = PhysFrame::containing_address(PhysAddr::new(at.0));
        self.map(page, frame, flags)?;
        Ok(S::SIZE)
    }

    fn map<S: PageSize>(
        &mut self,
        page: Page<S>,
        frame: PhysFrame<S>,
        flags: PageTableFlags,
    ) -> Result<(), HostError>
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        // SAFETY: these tables are not in use yet, or the page was not mapped:
        // mapping one twice is an error below.
        unsafe { self.table.map_to(page, frame, flags, &mut PageTables) }
            .map(MapperFlush::ignore)
            .map_err(|error| match error {
                MapToError::FrameAllocationFailed => HostError::NoMemory(FRAME_BYTES),
                MapToError::ParentEntryHugePage | MapToError::PageAlreadyMapped(_) => {
                    HostError::Mapped(page.start_address())
                }
            })
    }

    /// Maps the page below 1 MiB in which other CPUs switch paging on, one to one.
    ///
    /// # Errors
    /// No memory for tables.
    pub fn map_trampoline(&mut self, page: Hpa) -> Result<(), HostError> {
        let at = Page::<Size4KiB>::containing_address(VirtAddr::new(page.0));
        let frame = PhysFrame::containing_address(PhysAddr::new(page.0));
        self.map(at, frame, PageTableFlags::PRESENT)
    }

    /// Maps the page of a device's registers at the direct map, uncached.
    ///
    /// # Errors
    /// No memory for tables, or memory is there.
    pub fn map_device(&mut self, page: Hpa) -> Result<VirtAddr, HostError> {
        self.map_direct_page::<Size4KiB>(page, DATA | PageTableFlags::NO_CACHE)?;
        Ok(direct(page))
    }

    /// A new stack with a guard page below it; returns its top.
    pub fn stack(&mut self) -> Result<VirtAddr, HostError> {
        let top = STACKS + (self.stacks + 1) * STACK_SLOT_BYTES;
        self.stacks += 1;
        let bottom = top - STACK_BYTES;
        for page in Page::range(
            Page::containing_address(bottom),
            Page::containing_address(top),
        ) {
            let frame = PageTables
                .allocate_frame()
                .ok_or(HostError::NoMemory(FRAME_BYTES))?;
            self.map::<Size4KiB>(page, frame, DATA)?;
        }
        Ok(top)
    }

    /// Physical address of the top-level table.
    pub fn root(&self) -> Hpa {
        Hpa(self.root.start_address().as_u64())
    }
}

/// Makes the tables at `root` the CPU's and goes on in `next` on a new stack.
///
/// # Safety
/// `root` is [`Host::root`]; `stack` came from [`Host::stack`] and is nobody
/// else's. Nothing that only the boot loader's tables mapped is used from here on.
pub unsafe fn enter(root: Hpa, stack: VirtAddr, next: extern "C" fn() -> !) -> ! {
    // SAFETY: the tables map the image, its data and the stack.
    unsafe {
        core::arch::asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {next}",
            "ud2",
            root = in(reg) root.0,
            stack = in(reg) stack.as_u64(),
            next = in(reg) next,
            options(noreturn),
        )
    }
}
