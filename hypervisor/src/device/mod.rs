//! What does a guest see on a port, in memory, or in an APIC register?
//!
//! Devices are values: registers as plain data, accesses in, effects out.

pub mod bus;
pub mod ioapic;
pub mod legacy;
pub mod pic;
pub mod pit;
pub mod rtc;
pub mod uart;
pub mod x2apic;
