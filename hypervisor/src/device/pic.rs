//! The two interrupt controllers of a PC, the second behind input 2 of the first (Intel
//! 8259A, data sheet): edge-triggered inputs, fixed priorities.

/// Command and data port of the first, and of the second.
pub const PORTS: [u16; 4] = [0x20, 0x21, 0xa0, 0xa1];
/// The input of the first that the second drives.
const CASCADE: u8 = 2;
/// The input that answers when a request has gone before it was acknowledged.
const SPURIOUS: u8 = 7;

/// ICW1: initialisation begins; ICW4 will follow.
const ICW1: u8 = 1 << 4;
const ICW1_ICW4: u8 = 1 << 0;
/// ICW4: an interrupt ends when it is acknowledged.
const ICW4_AUTO_END: u8 = 1 << 1;
/// OCW3, and what it asks for: a register to read.
const OCW3: u8 = 1 << 3;
const OCW3_READ: u8 = 0b10;
const OCW3_IN_SERVICE: u8 = 0b01;
/// OCW2: an interrupt ends, the one with the number in the low bits.
const OCW2_END: u8 = 1 << 5;
const OCW2_SPECIFIC: u8 = 1 << 6;

/// One of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chip {
    lines: u8,
    requests: u8,
    in_service: u8,
    mask: u8,
    base: u8,
    auto_end: bool,
    read_in_service: bool,
    /// Bytes of the initialisation that are still to come, in reverse order.
    expected: &'static [Step],
}

/// A byte of the initialisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Base,
    Cascade,
    Mode,
}

impl Chip {
    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            let lines = self.lines;
            *self = Self {
                lines,
                expected: match value & ICW1_ICW4 {
                    0 => &[Step::Cascade, Step::Base],
                    _ => &[Step::Mode, Step::Cascade, Step::Base],
                },
                ..Self::default()
            };
        } else if value & OCW3 != 0 {
            if value & OCW3_READ != 0 {
                self.read_in_service = value & OCW3_IN_SERVICE != 0;
            }
        } else if value & OCW2_END != 0 {
            let number = match value & OCW2_SPECIFIC {
                0 => self.in_service.trailing_zeros(),
                _ => u32::from(value & 0b111),
            };
            self.in_service &= !1_u8.checked_shl(number).unwrap_or(0);
        }
    }

    fn write_data(&mut self, value: u8) {
        let Some((step, rest)) = self.expected.split_last() else {
            self.mask = value;
            return;
        };
        self.expected = rest;
        match step {
            Step::Base => self.base = value & !0b111,
            Step::Cascade => {}
            Step::Mode => self.auto_end = value & ICW4_AUTO_END != 0,
        }
    }

    fn read_command(&self) -> u8 {
        match self.read_in_service {
            true => self.in_service,
            false => self.requests,
        }
    }

    fn set_line(&mut self, number: u8, active: bool) {
        let bit = 1 << number;
        match active {
            true if self.lines & bit == 0 => self.requests |= bit,
            true => {}
            // A request that ends before it was acknowledged is none.
            false => self.requests &= !bit,
        }
        self.lines = self.lines & !bit | if active { bit } else { 0 };
    }

    /// The input that is to be served: above all that are being served.
    fn next(&self) -> Option<u8> {
        let number = (self.requests & !self.mask).trailing_zeros();
        (number < self.in_service.trailing_zeros().min(u8::BITS)).then_some(number as u8)
    }

    fn acknowledge(&mut self, number: u8) {
        let bit = 1 << number;
        self.requests &= !bit;
        if !self.auto_end {
            self.in_service |= bit;
        }
    }
}

/// Both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pic([Chip; 2]);

impl Default for Pic {
    /// As firmware leaves them to somebody who uses another controller: all masked.
    fn default() -> Self {
        Self(
            [Chip {
                mask: u8::MAX,
                ..Chip::default()
            }; 2],
        )
    }
}

impl Pic {
    /// A write of the port with this index in [`PORTS`].
    pub fn write(&mut self, port: usize, value: u8) {
        if let Some(chip) = self.0.get_mut(port / 2) {
            match port % 2 {
                0 => chip.write_command(value),
                _ => chip.write_data(value),
            }
        }
        self.cascade();
    }

    /// A read of the port with this index in [`PORTS`].
    pub fn read(&self, port: usize) -> u8 {
        self.0.get(port / 2).map_or(u8::MAX, |chip| match port % 2 {
            0 => chip.read_command(),
            _ => chip.mask,
        })
    }

    /// Input `line` of 16 is active or not.
    pub fn set_line(&mut self, line: usize, active: bool) {
        if let Some(chip) = self.0.get_mut(line / 8) {
            chip.set_line((line % 8) as u8, active);
        }
        self.cascade();
    }

    /// Whether input `line` leads anywhere.
    pub fn is_open(&self, line: usize) -> bool {
        let open = |chip: usize, number: usize| {
            let chip = self.0.get(chip);
            chip.is_some_and(|chip| chip.mask & 1 << (number % 8) == 0)
        };
        open(line / 8, line) && (line < 8 || open(0, CASCADE.into()))
    }

    /// Whether the CPU is asked to take an interrupt.
    pub fn asks(&self) -> bool {
        self.0[0].next().is_some()
    }

    /// The CPU takes the interrupt: its vector.
    pub fn acknowledge(&mut self) -> u8 {
        let [first, second] = &mut self.0;
        let take = |chip: &mut Chip| {
            let number = chip.next();
            if let Some(number) = number {
                chip.acknowledge(number);
            }
            (number, chip.base | number.unwrap_or(SPURIOUS))
        };
        let (number, mut vector) = take(first);
        if number == Some(CASCADE) {
            (_, vector) = take(second);
        }
        self.cascade();
        vector
    }

    fn cascade(&mut self) {
        let asks = self.0[1].next().is_some();
        self.0[0].set_line(CASCADE, asks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As a PC's software sets them up: vectors from 0x20 and 0x28, nothing masked.
    fn ready(mode: u8) -> Pic {
        let mut pic = Pic::default();
        for (port, bytes) in [(0, [0x20, 4]), (2, [0x28, 2])] {
            pic.write(port, 0x11);
            pic.write(port + 1, bytes[0]);
            pic.write(port + 1, bytes[1]);
            pic.write(port + 1, mode);
        }
        pic
    }

    fn pulse(pic: &mut Pic, line: usize) {
        pic.set_line(line, false);
        pic.set_line(line, true);
    }

    #[test]
    fn an_edge_is_delivered_once_with_its_vector() {
        let mut pic = ready(1);
        assert!(!pic.asks());
        pulse(&mut pic, 4);
        assert!(pic.asks());
        assert_eq!(pic.read(0), 1 << 4);
        assert_eq!(pic.acknowledge(), 0x24);
        pic.write(0, 0x0b);
        assert_eq!(pic.read(0), 1 << 4);
        // Not again before its end, and after it only with a new edge.
        pulse(&mut pic, 4);
        assert!(!pic.asks());
        pic.write(0, 0x20);
        assert!(pic.asks());
        assert_eq!(pic.acknowledge(), 0x24);
        pic.write(0, 0x64);
        pic.set_line(4, true);
        assert!(!pic.asks());
    }

    #[test]
    fn the_second_comes_through_the_first() {
        let mut pic = ready(1);
        pulse(&mut pic, 12);
        pulse(&mut pic, 8);
        assert_eq!(pic.acknowledge(), 0x28);
        assert!(!pic.asks());
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), 0x21);
        pic.write(0, 0x20);
        pic.write(2, 0x20);
        pic.write(0, 0x20);
        assert_eq!(pic.acknowledge(), 0x2c);
    }

    #[test]
    fn masks_hold_back_and_forgotten_requests_are_spurious() {
        let mut pic = ready(3);
        pic.write(1, 0xfe);
        pulse(&mut pic, 3);
        assert!(!pic.asks() && !pic.is_open(3) && pic.is_open(0) && !pic.is_open(9));
        pulse(&mut pic, 0);
        assert!(pic.asks());
        pic.set_line(0, false);
        assert!(!pic.asks());
        assert_eq!(pic.acknowledge(), 0x27);
        // With automatic end nothing is in service.
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x20);
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x20);
    }

    proptest! {
        #[test]
        fn what_is_acknowledged_was_asked_for_and_not_masked(
            steps in proptest::collection::vec((0_usize..4, any::<u8>(), 0_usize..16, any::<bool>()), 1..60),
        ) {
            let mut pic = ready(1);
            for (port, value, line, active) in steps {
                // Everything but a new initialisation.
                pic.write(port, if port % 2 == 0 { value & !ICW1 } else { value });
                pic.set_line(line, active);
                if pic.asks() {
                    let vector = pic.acknowledge();
                    prop_assert!((0x20..0x30).contains(&vector));
                    let line = usize::from(vector - 0x20);
                    prop_assert!(pic.is_open(line), "{line}");
                }
            }
        }
    }
}
