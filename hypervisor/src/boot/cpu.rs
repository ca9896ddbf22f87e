//! What every CPU goes through, the first and the others alike: its descriptor
//! tables, VMX operation, its extended state, its scheduler.

#![expect(unsafe_code, reason = "takes a CPU over")]

use crate::{
    cpu::{
        apic::Apic,
        msr,
        tables::{self, InterruptStacks},
        tsc,
    },
    memory::host::{Host, HostError},
    sched::Scheduler,
    vmx::capabilities::{Vmx, VmxError},
    xstate::{
        area::OutOfMemory, features::XFeatures, layout::Layout, malformed::LayoutError,
        silicon::Silicon, swap::CpuXstate,
    },
};
use raw_cpuid::CpuIdReaderNative;
use thiserror::Error;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

/// Why a CPU cannot run guests.
#[derive(Debug, Error)]
pub enum Unfit {
    /// Its VMX.
    #[error("{0}")]
    Vmx(#[from] VmxError),
    /// Its extended state.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// Memory for its extended state.
    #[error("{0}")]
    Memory(#[from] OutOfMemory),
}

/// The interrupt stacks of one CPU.
///
/// # Errors
/// No memory.
pub fn interrupt_stacks(host: &mut Host) -> Result<InterruptStacks, HostError> {
    Ok(InterruptStacks {
        double_fault: host.stack()?,
        nmi: host.stack()?,
        machine_check: host.stack()?,
    })
}

/// A CPU that was taken over.
pub struct Owned {
    /// What its VMX can do.
    pub vmx: Vmx,
    /// What its extended state looks like.
    pub layout: Layout,
    /// Its scheduler.
    pub scheduler: Scheduler,
}

/// Takes over the CPU that this runs on, number `index`.
///
/// # Errors
/// What it lacks.
pub fn own(index: u16, apic: Apic, stacks: &InterruptStacks) -> Result<Owned, Unfit> {
    let tables = tables::load(stacks);
    apic.enable();
    let cpuid = CpuIdReaderNative;
    // SAFETY: `detect` asks only for registers that this CPU has.
    let read = |register| unsafe { msr::read(register) };
    let vmx = Vmx::detect(&cpuid, read)?;
    vmx.enter()?;
    let layout = Layout::from_cpuid(&cpuid)?;
    // SAFETY: the hypervisor itself uses no x87 or vector instruction, so this
    // only lets it save and restore what guests use; and it needs no memory that is
    // not cached. Entries to guests leave the two bits for caches as they are here.
    unsafe {
        Cr0::update(|cr0| {
            cr0.remove(Cr0Flags::TASK_SWITCHED | Cr0Flags::EMULATE_COPROCESSOR);
            cr0.remove(Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH);
        });
        Cr4::update(|cr4| cr4.insert(Cr4Flags::OSXSAVE));
    }
    // SAFETY: the layout is this CPU's, CR4.OSXSAVE is set and CR0.TS clear for
    // good, and this is the only one made here.
    let silicon = unsafe { Silicon::new(&layout) };
    let xstate = CpuXstate::take_over(silicon, &layout, index)?;
    layout.check_current_sizes(&cpuid, layout.user(), XFeatures::EMPTY)?;
    let ticks_per_us = tsc::ticks_per_microsecond(&cpuid);
    let scheduler = Scheduler::new(index, xstate, apic, tables, layout.clone(), ticks_per_us);
    Ok(Owned {
        vmx,
        layout,
        scheduler,
    })
}
