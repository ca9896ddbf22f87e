//! The clock and memory that a PC keeps by battery (Motorola MC146818A, data sheet):
//! the time can be read, and nothing interrupts.

use time::OffsetDateTime;

/// Index and data port.
pub const INDEX: u16 = 0x70;
/// See [`INDEX`].
pub const DATA: u16 = 0x71;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_B: u8 = 0x0b;
const STATUS_D: u8 = 0x0d;
/// Where PCs keep the century.
const CENTURY: u8 = 0x32;
/// Hours count to 24; numbers are decimal, four bits a digit.
const HOURS_24: u8 = 1 << 1;
/// The battery is good.
const VALID: u8 = 1 << 7;
/// Bit 7 of the index masks NMIs of a PC's bus, of which there are none.
const INDEX_BITS: u8 = 0x7f;

/// The registers.
#[derive(Clone, Copy, Debug)]
pub struct Rtc {
    index: u8,
    /// Seconds since 1970.
    clock: fn() -> u64,
}

impl Rtc {
    /// A clock that shows what `clock` tells.
    pub fn new(clock: fn() -> u64) -> Self {
        Self { index: 0, clock }
    }

    /// A write of the index port.
    pub fn select(&mut self, value: u8) {
        self.index = value & INDEX_BITS;
    }

    /// A read of the data port.
    pub fn read(&self) -> u8 {
        let seconds = i64::try_from((self.clock)()).unwrap_or(0);
        let now = OffsetDateTime::from_unix_timestamp(seconds);
        let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let year = now.year().unsigned_abs();
        let decimal = |value: u32| (value / 10 % 10 * 16 + value % 10) as u8;
        match self.index {
            SECONDS => decimal(now.second().into()),
            MINUTES => decimal(now.minute().into()),
            HOURS => decimal(now.hour().into()),
            WEEKDAY => now.weekday().number_from_sunday(),
            DAY => decimal(now.day().into()),
            MONTH => decimal(u8::from(now.month()).into()),
            YEAR => decimal(year % 100),
            CENTURY => decimal(year / 100),
            STATUS_B => HOURS_24,
            STATUS_D => VALID,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_in_decimal_digits() {
        // 2026-11-21 03:04:59 UTC, a Saturday.
        let mut rtc = Rtc::new(|| 1_795_230_299);
        let mut read = |index| {
            rtc.select(index | 0x80);
            rtc.read()
        };
        let date = [CENTURY, YEAR, MONTH, DAY, WEEKDAY].map(&mut read);
        assert_eq!(date, [0x20, 0x26, 0x11, 0x21, 7]);
        assert_eq!([HOURS, MINUTES, SECONDS].map(&mut read), [0x03, 0x04, 0x59]);
        // No update is in progress, and the battery is good.
        assert_eq!(
            [0x0a, STATUS_B, 0x0c, STATUS_D].map(&mut read),
            [0, 2, 0, 0x80]
        );
    }
}
