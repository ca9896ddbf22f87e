//! The time of day: the machine's battery-backed clock, read once, and the TSC since
//! (Motorola MC146818A, data sheet).

#![expect(unsafe_code, reason = "port I/O")]

use crate::cpu::tsc;
use raw_cpuid::CpuIdReaderNative;
use spin::Lazy;
use time::{Date, Month, Time};
use x86_64::instructions::port::Port;

struct Start {
    seconds: u64,
    tsc: u64,
    ticks_per_second: u64,
}

static START: Lazy<Start> = Lazy::new(|| Start {
    seconds: read(),
    tsc: tsc::now(),
    ticks_per_second: tsc::frequency(&CpuIdReaderNative),
});

/// Seconds since 1970; from then on, where the machine has no such clock.
pub fn now() -> u64 {
    START.seconds + tsc::now().wrapping_sub(START.tsc) / START.ticks_per_second
}

fn register(index: u8) -> u8 {
    // SAFETY: reads a register of the clock, which nothing else here uses.
    unsafe {
        Port::new(0x70).write(index);
        Port::new(0x71).read()
    }
}

/// Reads the clock; zero if it shows no time.
fn read() -> u64 {
    const UPDATING: u8 = 1 << 7;
    const BINARY: u8 = 1 << 2;
    const HOURS_24: u8 = 1 << 1;
    /// An update takes 2 ms; a machine without the clock reads as updating for ever.
    const PATIENCE: u32 = 10_000;
    let settled = (0..PATIENCE).any(|_| register(0x0a) & UPDATING == 0);
    let format = register(0x0b);
    let number = |index| match (register(index), format & BINARY) {
        (value, 0) => (value >> 4) * 10 + (value & 0xf),
        (value, _) => value,
    };
    let date = Month::try_from(number(0x08))
        .ok()
        .and_then(|month| {
            Date::from_calendar_date(2000 + i32::from(number(0x09)), month, number(0x07)).ok()
        })
        .zip(Time::from_hms(number(0x04), number(0x02), number(0x00)).ok());
    date.filter(|_| settled && format & HOURS_24 != 0)
        .and_then(|(date, time)| {
            u64::try_from(date.with_time(time).assume_utc().unix_timestamp()).ok()
        })
        .unwrap_or(0)
}
