//! Which vCPU each CPU runs, for the report of a CPU that died.

#![expect(
    unsafe_code,
    reason = "a pointer that outlives the borrow it came from"
)]

use super::pool::{MOST_CPUS, POOL};
use crate::{cpu::apic, say, vm::thread::Thread};
use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

static RUNNING: [AtomicPtr<Thread>; MOST_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MOST_CPUS];

/// CPU `index` begins to run `thread`.
pub(super) fn set(index: u16, thread: &Thread) {
    if let Some(slot) = RUNNING.get(usize::from(index)) {
        slot.store(ptr::from_ref(thread).cast_mut(), Relaxed);
    }
}

/// CPU `index` no longer runs what it ran.
pub(super) fn clear(index: u16) {
    if let Some(slot) = RUNNING.get(usize::from(index)) {
        slot.store(ptr::null_mut(), Relaxed);
    }
}

/// Says what this CPU does.
pub(super) fn report() {
    let Some(index) = apic::machine().and_then(|apic| POOL.index_of(apic.id())) else {
        return;
    };
    let thread = RUNNING
        .get(usize::from(index))
        .map_or(ptr::null(), |slot| slot.load(Relaxed).cast_const());
    // SAFETY: set and cleared by this CPU around the time that it owns the thread.
    match unsafe { thread.as_ref() } {
        Some(thread) => say!(
            "on CPU {index}, which ran VM {:?} vCPU {}",
            thread.vm.name,
            thread.number
        ),
        None => say!("on CPU {index}, which ran no vCPU"),
    }
}
