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

/// What one CPU runs.
pub(super) struct Running(&'static AtomicPtr<Thread>);

static RUNNING: [AtomicPtr<Thread>; MOST_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MOST_CPUS];

impl Running {
    /// That of CPU `index`, which is one of the machine's.
    pub(super) fn on(index: u16) -> Self {
        Self(&RUNNING[usize::from(index)])
    }

    /// The CPU begins to run `thread`.
    #[inline]
    pub(super) fn set(&self, thread: &Thread) {
        self.0.store(ptr::from_ref(thread).cast_mut(), Relaxed);
    }

    /// It no longer runs what it ran.
    pub(super) fn clear(&self) {
        self.0.store(ptr::null_mut(), Relaxed);
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
