//! The I/O APIC: which vCPU gets which device's interrupt (Intel 82093AA I/O
//! Advanced Programmable Interrupt Controller, data sheet, "Registers").

use super::x2apic::{Ipi, IpiKind, IpiTarget};

/// Where its registers are, as on every PC.
pub const BASE: u64 = 0xfec0_0000;
/// Bytes that it occupies.
pub const BYTES: u64 = 0x1000;
/// Inputs.
const PINS: usize = 24;
/// The version register: the last entry, and the version of the first one that was
/// a part of its own.
const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x11;

/// Offsets of the two registers that memory shows.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
/// Numbers of the registers behind the window.
const ID: u8 = 0x00;
const VERSION_NUMBER: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const FIRST_ENTRY: u8 = 0x10;
const ID_BITS: u32 = 0x0f00_0000;

/// Bits of an entry.
const VECTOR: u64 = 0xff;
const LOGICAL: u64 = 1 << 11;
const IN_SERVICE: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const WRITABLE: u64 = 0xff00_0000_0001_afff;
const DESTINATION_SHIFT: u32 = 56;
const EVERYONE: u32 = 0xff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pin {
    entry: u64,
    /// The line is active.
    line: bool,
}

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApic {
    select: u8,
    id: u32,
    pins: [Pin; PINS],
}

impl Default for IoApic {
    /// After reset.
    fn default() -> Self {
        Self {
            select: 0,
            id: 0,
            pins: [Pin {
                entry: MASKED,
                line: false,
            }; PINS],
        }
    }
}

impl IoApic {
    /// A read of 32 bits at `offset`; what is not there reads zero.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => u32::from(self.select),
            WINDOW => match self.select {
                ID | ARBITRATION => self.id,
                VERSION_NUMBER => VERSION,
                number => self.entry(number).map_or(0, |(entry, high)| {
                    let entry = self.pins.get(entry).map_or(0, |pin| pin.entry);
                    (if high { entry >> 32 } else { entry }) as u32
                }),
            },
            _ => 0,
        }
    }

    /// A write of 32 bits at `offset`; the interrupt that it sets free, if any.
    #[must_use]
    pub fn write(&mut self, offset: u64, value: u32) -> Option<Ipi> {
        match (offset, self.select) {
            (SELECT, _) => self.select = value as u8,
            (WINDOW, ID) => self.id = value & ID_BITS,
            (WINDOW, number) => {
                let (index, high) = self.entry(number)?;
                let pin = self.pins.get_mut(index)?;
                let (shift, kept) = if high {
                    (32, u32::MAX as u64)
                } else {
                    (0, !0 << 32)
                };
                let new = pin.entry & kept | u64::from(value) << shift;
                pin.entry = new & WRITABLE | pin.entry & IN_SERVICE;
                if pin.entry & LEVEL == 0 {
                    pin.entry &= !IN_SERVICE;
                }
                return pin.raise_level();
            }
            _ => {}
        }
        None
    }

    /// The line of input `pin` is active or not; the interrupt that comes of it.
    #[must_use]
    pub fn set_line(&mut self, pin: usize, active: bool) -> Option<Ipi> {
        let pin = self.pins.get_mut(pin)?;
        let rises = active && !pin.line;
        pin.line = active;
        if pin.entry & LEVEL != 0 {
            return pin.raise_level();
        }
        (rises && pin.entry & MASKED == 0).then(|| pin.message())?
    }

    /// The interrupt on `vector` was served; the one that comes again at once,
    /// because its line is still active.
    #[must_use]
    pub fn end_of_interrupt(&mut self, vector: u8) -> Option<Ipi> {
        self.pins
            .iter_mut()
            .filter(|pin| pin.entry & LEVEL != 0 && pin.entry & VECTOR == u64::from(vector))
            .filter_map(|pin| {
                pin.entry &= !IN_SERVICE;
                pin.raise_level()
            })
            .next()
    }

    /// Whether input `pin` leads anywhere.
    pub fn is_open(&self, pin: usize) -> bool {
        self.pins
            .get(pin)
            .is_some_and(|pin| pin.entry & MASKED == 0)
    }

    /// The entry behind register `number`, and whether it is its upper half.
    fn entry(&self, number: u8) -> Option<(usize, bool)> {
        let number = number.checked_sub(FIRST_ENTRY)?;
        Some((usize::from(number / 2), number % 2 == 1))
    }
}

impl Pin {
    /// A level-triggered interrupt is sent once until its end.
    fn raise_level(&mut self) -> Option<Ipi> {
        let waits = self.line && self.entry & (LEVEL | MASKED | IN_SERVICE) == LEVEL;
        if !waits {
            return None;
        }
        self.entry |= IN_SERVICE;
        self.message()
    }

    fn message(&self) -> Option<Ipi> {
        let vector = (self.entry & VECTOR) as u8;
        let destination = (self.entry >> DESTINATION_SHIFT) as u32;
        let level = self.entry & LEVEL != 0;
        let kind = match self.entry >> 8 & 0b111 {
            0 | 1 if level => IpiKind::Level(vector),
            0 => IpiKind::Fixed(vector),
            1 => IpiKind::LowestPriority(vector),
            4 => IpiKind::Nmi,
            5 => IpiKind::Init,
            // SMI, ExtINT and reserved modes: no such source is here.
            _ => return None,
        };
        let to = match (self.entry & LOGICAL != 0, destination) {
            (false, EVERYONE) => IpiTarget::Physical(u32::MAX),
            (true, EVERYONE) => IpiTarget::Logical(u32::MAX),
            (false, id) => IpiTarget::Physical(id),
            (true, id) => IpiTarget::Logical(id),
        };
        Some(Ipi { kind, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set_entry(apic: &mut IoApic, pin: u32, entry: u64) -> Option<Ipi> {
        let number = u32::from(FIRST_ENTRY) + 2 * pin;
        let mut last = None;
        for (number, value) in [(number + 1, (entry >> 32) as u32), (number, entry as u32)] {
            assert_eq!(apic.write(SELECT, number), None);
            last = apic.write(WINDOW, value);
        }
        last
    }

    #[test]
    fn an_edge_is_sent_once_and_not_while_masked() {
        let mut apic = IoApic::default();
        assert_eq!(apic.set_line(4, true), None);
        assert_eq!(apic.set_line(4, false), None);
        assert_eq!(set_entry(&mut apic, 4, 3 << 56 | 0x44), None);
        let sent = Some(Ipi {
            kind: IpiKind::Fixed(0x44),
            to: IpiTarget::Physical(3),
        });
        assert_eq!(apic.set_line(4, true), sent);
        assert_eq!(apic.set_line(4, true), None);
        assert_eq!(apic.set_line(4, false), None);
        assert_eq!(apic.set_line(4, true), sent);
        assert!(apic.is_open(4) && !apic.is_open(5));
    }

    #[test]
    fn a_level_is_sent_again_after_its_end_while_it_lasts() {
        let mut apic = IoApic::default();
        assert_eq!(apic.set_line(9, true), None);
        let sent = Some(Ipi {
            kind: IpiKind::Level(0x59),
            to: IpiTarget::Logical(2),
        });
        let entry = 2 << 56 | LEVEL | LOGICAL | 0x59;
        assert_eq!(set_entry(&mut apic, 9, entry), sent);
        assert_eq!(apic.read(WINDOW), (entry | IN_SERVICE) as u32);
        assert_eq!(apic.end_of_interrupt(0x58), None);
        assert_eq!(apic.end_of_interrupt(0x59), sent);
        assert_eq!(apic.set_line(9, false), None);
        assert_eq!(apic.end_of_interrupt(0x59), None);
        assert_eq!(apic.set_line(9, true), sent);
    }

    #[test]
    fn drivers_find_24_inputs() {
        let mut apic = IoApic::default();
        assert_eq!(apic.write(SELECT, 1), None);
        assert_eq!(apic.read(WINDOW), 0x17_0011);
        assert_eq!(apic.write(SELECT, 0), None);
        assert_eq!(apic.write(WINDOW, u32::MAX), None);
        assert_eq!(apic.read(WINDOW), ID_BITS);
        assert_eq!(apic.write(SELECT, 0x40), None);
        assert_eq!(apic.read(WINDOW), 0);
    }

    proptest! {
        #[test]
        fn no_access_panics_and_reserved_bits_stay_clear(
            writes in proptest::collection::vec((any::<u8>(), any::<u32>(), 0_usize..30, any::<bool>()), 1..50),
        ) {
            let mut apic = IoApic::default();
            for (number, value, pin, line) in writes {
                let _ = apic.write(SELECT, u32::from(number));
                let _ = apic.write(WINDOW, value);
                let _ = apic.set_line(pin, line);
                let _ = apic.end_of_interrupt(value as u8);
            }
            for pin in apic.pins {
                prop_assert_eq!(pin.entry & !(WRITABLE | IN_SERVICE), 0);
                prop_assert!(pin.entry & (LEVEL | IN_SERVICE) != IN_SERVICE);
            }
        }
    }
}
