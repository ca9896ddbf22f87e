//! The local APIC in x2APIC mode (SDM Vol. 3, "Extended XAPIC (x2APIC)").

#![expect(unsafe_code, reason = "RDTSC")]

use crate::processor::{rdmsr, wrmsr};

/// The ID.
pub const ID: u32 = 0x802;
/// Task priority.
pub const TASK_PRIORITY: u32 = 0x808;
/// End of interrupt.
pub const EOI: u32 = 0x80b;
/// Spurious vector, and the switch of the whole APIC.
pub const SPURIOUS: u32 = 0x80f;
/// Interrupt command.
pub const COMMAND: u32 = 0x830;
/// The timer's entry of the local vector table.
pub const LVT_TIMER: u32 = 0x832;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;

/// The command's delivery modes, each with the level bit set.
pub const FIXED: u64 = 0x4000;
/// NMI
pub const NMI: u64 = 0x4400;
/// INIT
pub const INIT: u64 = 0x4500;
/// Start-up
pub const START_UP: u64 = 0x4600;
/// Logical destination.
pub const LOGICAL: u64 = 1 << 11;
/// All, the sender included.
pub const ALL: u64 = 0b10 << 18;
/// All but the sender.
pub const OTHERS: u64 = 0b11 << 18;

/// TSC-deadline mode of the timer's entry.
const DEADLINE_MODE: u64 = 0b10 << 17;

/// This CPU's ID.
pub fn id() -> u32 {
    rdmsr(ID) as u32
}

/// Switches the APIC on.
pub fn enable() {
    const ENABLED: u64 = 0x1ff;
    wrmsr(SPURIOUS, ENABLED);
}

/// Sends `command` to `destination`.
pub fn send(destination: u32, command: u64) {
    wrmsr(COMMAND, u64::from(destination) << 32 | command);
}

/// Ends the interrupt that is being served.
pub fn end_of_interrupt() {
    wrmsr(EOI, 0);
}

/// Lets `vector` come when the TSC has advanced by `ticks`.
pub fn arm_timer(vector: u8, ticks: u64) {
    wrmsr(LVT_TIMER, DEADLINE_MODE | u64::from(vector));
    wrmsr(TSC_DEADLINE, now() + ticks);
}

/// The TSC.
pub fn now() -> u64 {
    // SAFETY: the instruction has no precondition.
    unsafe { core::arch::x86_64::_rdtsc() }
}
