//! The ports and the devices in memory of a VM, and what an access to them does
//! outside.

use super::{
    ioapic::{self, IoApic},
    legacy::{Asks, Clock, Legacy, TIMER_PIN},
    rtc::{self, Rtc},
    uart::Uart,
    x2apic::{Ipi, IpiKind, IpiTarget},
};
use crate::memory::address::Gpa;
use crate::vmx::exit::PortAccess;
use alloc::{boxed::Box, vec::Vec};
use guest_loader::acpi::{
    RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_SOFT_OFF, SLEEP_STATUS_PORT,
};

/// First port of the guest's console, as on every PC.
const UART: u16 = 0x3f8;
const UART_LAST: u16 = UART + Uart::PORTS - 1;
/// Its input of the I/O APIC and of the 8259s, as on every PC.
const UART_PIN: usize = 4;
/// A write here ends the VM with the value written.
const EXIT: u16 = 0xf4;
/// Longest console line; a longer one is shown in pieces.
const LINE_BYTES: usize = 512;

/// What the machine has to do for an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// A console line is complete: [`Bus::take_line`].
    Line,
    /// The VM ends with this code.
    End(u32),
    /// The VM begins again.
    Reset,
}

/// Interrupts that came of accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// What the I/O APIC sends.
    pub message: Option<Ipi>,
    /// The first vCPU has to look at the devices that are older: [`Bus::legacy`].
    pub legacy: bool,
}

impl Raised {
    /// What is to be sent.
    pub fn messages(self) -> impl Iterator<Item = Ipi> {
        let look = Ipi {
            kind: IpiKind::External,
            to: IpiTarget::Physical(0),
        };
        self.message.into_iter().chain(self.legacy.then_some(look))
    }
}

/// Whether a device answers at `gpa`, where there is no memory.
pub fn is_device(gpa: Gpa) -> bool {
    (ioapic::BASE..ioapic::BASE + ioapic::BYTES).contains(&gpa.0)
}

/// The devices of one VM.
pub struct Bus {
    uart: Uart,
    /// Its interrupt line, as the I/O APIC was told last.
    uart_line: bool,
    ioapic: IoApic,
    legacy: Legacy,
    rtc: Rtc,
    line: Vec<u8>,
    raised: Option<Raised>,
}

impl Bus {
    /// The devices after reset.
    pub fn new(clock: Clock) -> Self {
        Self {
            rtc: Rtc::new(clock.seconds),
            legacy: Legacy::new(clock),
            uart: Uart::default(),
            uart_line: false,
            ioapic: IoApic::default(),
            // Room for any line, so that output never allocates.
            line: Vec::with_capacity(LINE_BYTES),
            raised: None,
        }
    }

    /// The interrupts that have come since this was asked last.
    #[inline(always)]
    pub fn take_raised(&mut self) -> Option<Raised> {
        self.raised.take()
    }

    fn raise(&mut self, message: Option<Ipi>) {
        let legacy = self.legacy.has_news();
        if message.is_some() || legacy {
            self.raised = Some(Raised { message, legacy });
        }
    }

    /// OUT of the low `bytes` of `value`. A port without a device swallows it. A device
    /// of byte registers sees a wide access as consecutive bytes.
    pub fn write(&mut self, access: PortAccess, value: u32) -> Effect {
        match access.port {
            UART..=UART_LAST if access.bytes == 1 => {
                let effect = self.write_uart(access.port - UART, value as u8);
                self.update_lines();
                effect
            }
            UART..=UART_LAST => {
                let mut effect = Effect::None;
                for (offset, byte) in (access.port - UART..).zip(bytes(access, value)) {
                    if self.write_uart(offset, byte) == Effect::Line {
                        effect = Effect::Line;
                    }
                }
                self.update_lines();
                effect
            }
            EXIT => Effect::End(value & mask(access)),
            rtc::INDEX => {
                self.rtc.select(value as u8);
                Effect::None
            }
            SLEEP_CONTROL_PORT if value as u8 == SLEEP_SOFT_OFF => Effect::End(0),
            RESET_PORT if value as u8 == RESET_VALUE => Effect::Reset,
            port if Legacy::has(port) => {
                self.legacy.write(port, value as u8);
                self.raise(None);
                Effect::None
            }
            _ => Effect::None,
        }
    }

    fn write_uart(&mut self, offset: u16, value: u8) -> Effect {
        match self.uart.write(offset, value) {
            Some(sent) if self.push(sent) => Effect::Line,
            _ => Effect::None,
        }
    }

    /// IN; a port without a device reads as all ones, like a bus that floats.
    #[must_use]
    pub fn read(&mut self, access: PortAccess) -> u32 {
        let value = match access.port {
            UART..=UART_LAST => {
                let value = (0..u16::from(access.bytes))
                    .map(|byte| u32::from(self.uart.read(access.port - UART + byte)) << (8 * byte))
                    .sum();
                self.update_lines();
                value
            }
            rtc::DATA => u32::from(self.rtc.read()) | !0xff,
            // Nothing has woken the machine from a sleep.
            SLEEP_CONTROL_PORT | SLEEP_STATUS_PORT => 0,
            port if Legacy::has(port) => u32::from(self.legacy.read(port)) | !0xff,
            _ => u32::MAX,
        };
        value & mask(access)
    }

    /// A read of 32 bits of the device at `gpa`.
    #[must_use]
    pub fn read_memory(&self, gpa: Gpa) -> u32 {
        self.ioapic.read(gpa.0.wrapping_sub(ioapic::BASE))
    }

    /// A write of 32 bits to the device at `gpa`.
    pub fn write_memory(&mut self, gpa: Gpa, value: u32) {
        let message = self.ioapic.write(gpa.0.wrapping_sub(ioapic::BASE), value);
        self.raise(message);
    }

    /// The first vCPU looks at the devices that are older than APICs: what they ask of
    /// it.
    pub fn legacy(&mut self) -> Asks {
        let ticked = self.legacy.take_tick();
        let asks = self.legacy.look();
        if ticked {
            let _ = self.ioapic.set_line(TIMER_PIN, false);
            let message = self.ioapic.set_line(TIMER_PIN, true);
            self.raise(message);
        }
        asks
    }

    /// The first vCPU takes the interrupt of the 8259s: its vector, and what they ask
    /// from now on.
    pub fn acknowledge(&mut self) -> (u8, Asks) {
        let vector = self.legacy.acknowledge();
        (vector, self.legacy.look())
    }

    /// Takes a byte of the operator's input.
    pub fn receive(&mut self, byte: u8) {
        self.uart.receive(byte);
        self.update_lines();
    }

    fn update_lines(&mut self) {
        let line = self.uart.line();
        if line != self.uart_line {
            self.uart_line = line;
            self.legacy.set_line(UART_PIN, line);
            let message = self.ioapic.set_line(UART_PIN, line);
            self.raise(message);
        }
    }

    /// The bytes of the finished or overlong line, without its line end.
    pub fn take_line(&mut self) -> Box<[u8]> {
        let line = self.line.as_slice().into();
        self.line.clear();
        line
    }

    /// Whether output waits for its line end.
    pub fn has_partial_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// The interrupt on `vector`, which a device holds up, was served.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        let message = self.ioapic.end_of_interrupt(vector);
        self.raise(message);
    }

    /// Whether the operator could interrupt the guest.
    pub fn can_interrupt(&self) -> bool {
        let open = self.ioapic.is_open(UART_PIN) || self.legacy.is_open(UART_PIN);
        self.uart.listens() && open
    }

    /// Takes a byte of output; says whether the line is to be shown.
    fn push(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' => true,
            b'\r' => false,
            _ => {
                self.line.push(byte);
                self.line.len() == LINE_BYTES
            }
        }
    }
}

fn mask(access: PortAccess) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(access.bytes.clamp(1, 4)))
}

fn bytes(access: PortAccess, value: u32) -> impl Iterator<Item = u8> {
    value
        .to_le_bytes()
        .into_iter()
        .take(usize::from(access.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    fn access(port: u16, bytes: u8, input: bool) -> PortAccess {
        PortAccess {
            port,
            bytes,
            input,
            string: false,
            repeated: false,
        }
    }

    fn bus() -> Bus {
        Bus::new(Clock {
            seconds: || 0,
            tsc: || 0,
            tsc_frequency: 1,
        })
    }

    #[test]
    fn a_line_is_complete_at_its_end_or_when_too_long() {
        let mut bus = bus();
        let mut out = |byte: u8| bus.write(access(UART, 1, false), u32::from(byte));
        assert_eq!(
            [out(b'h'), out(b'i'), out(b'\r'), out(b'\n')],
            [Effect::None, Effect::None, Effect::None, Effect::Line]
        );
        assert_eq!(&*bus.take_line(), b"hi");
        assert!(!bus.has_partial_line());
        for _ in 0..LINE_BYTES - 1 {
            assert_eq!(bus.write(access(UART, 1, false), 0x61), Effect::None);
        }
        assert_eq!(bus.write(access(UART, 1, false), 0x61), Effect::Line);
        assert_eq!(bus.take_line().len(), LINE_BYTES);
    }

    #[test]
    fn the_exit_port_gives_the_code_in_its_width() {
        let mut bus = bus();
        assert_eq!(
            bus.write(access(EXIT, 1, false), 0x1234_5600),
            Effect::End(0)
        );
        assert_eq!(
            bus.write(access(EXIT, 2, false), 0x1234_5600),
            Effect::End(0x5600)
        );
        assert_eq!(
            bus.write(access(EXIT, 4, false), 0x1234_5600),
            Effect::End(0x1234_5600)
        );
    }

    #[test]
    fn acpi_registers_switch_off_and_reset() {
        let mut bus = bus();
        let mut out = |port, value| bus.write(access(port, 1, false), value);
        assert_eq!(out(0x600, 0x34), Effect::End(0));
        // Another state, and the type without the bit that enters it.
        assert_eq!([out(0x600, 0x30), out(0x600, 0x14)], [Effect::None; 2]);
        assert_eq!(
            [out(0xcf9, 2), out(0xcf9, 6)],
            [Effect::None, Effect::Reset]
        );
        assert_eq!(bus.read(access(0x601, 1, true)), 0);
    }

    #[test]
    fn ports_without_a_device_float() {
        let mut bus = bus();
        assert_eq!(bus.write(access(0x80, 4, false), 7), Effect::None);
        assert_eq!(
            [1, 2, 4].map(|bytes| bus.read(access(0x510, bytes, true))),
            [0xff, 0xffff, 0xffff_ffff]
        );
    }

    #[test]
    fn wide_accesses_reach_consecutive_registers() {
        let mut bus = bus();
        assert_eq!(bus.write(access(UART + 6, 2, false), 0x5a00), Effect::None);
        assert_eq!(bus.read(access(UART + 6, 2, true)), 0x5ab0);
        assert_eq!(bus.read(access(UART + 7, 4, true)) & 0xff, 0x5a);
    }

    #[test]
    fn input_interrupts_through_the_io_apic() {
        let mut bus = bus();
        assert!(!bus.can_interrupt());
        // Input 4 to vector 0x34 of APIC 0; the UART's OUT2 and receiver interrupt.
        assert!(is_device(Gpa(ioapic::BASE)) && !is_device(Gpa(ioapic::BASE - 1)));
        bus.write_memory(Gpa(ioapic::BASE), 0x18);
        bus.write_memory(Gpa(ioapic::BASE + 0x10), 0x34);
        assert_eq!(bus.read_memory(Gpa(ioapic::BASE + 0x10)), 0x34);
        for (offset, value) in [(4, 0x08), (1, 0x01)] {
            let _ = bus.write(access(UART + offset, 1, false), value);
        }
        assert_eq!(bus.take_raised(), None);
        assert!(bus.can_interrupt());
        let sent = Ipi {
            kind: IpiKind::Fixed(0x34),
            to: IpiTarget::Physical(0),
        };
        let raised = |bus: &mut Bus| bus.take_raised().and_then(|raised| raised.message);
        bus.receive(b'a');
        assert_eq!(raised(&mut bus), Some(sent));
        bus.receive(b'b');
        assert_eq!(bus.read(access(UART, 1, true)), u32::from(b'a'));
        assert_eq!(bus.read(access(UART, 1, true)), u32::from(b'b'));
        assert_eq!(raised(&mut bus), None);
        bus.receive(b'c');
        assert_eq!(raised(&mut bus), Some(sent));
    }

    #[test]
    fn input_interrupts_through_the_8259s_too() {
        let mut bus = bus();
        let first = [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0x21, 0xef),
        ];
        for (port, value) in first
            .into_iter()
            .chain([(UART + 4, 0x08), (UART + 1, 0x01)])
        {
            let _ = bus.write(access(port, 1, false), value);
        }
        assert_eq!(bus.take_raised(), None);
        assert!(bus.can_interrupt());
        bus.receive(b'a');
        let raised = bus.take_raised().unwrap();
        let sent = Ipi {
            kind: IpiKind::External,
            to: IpiTarget::Physical(0),
        };
        assert!(raised.messages().eq([sent]));
        assert!(bus.legacy().interrupt);
        assert_eq!(bus.acknowledge(), (0x24, Asks::NONE));
    }

    #[test]
    fn the_timer_interrupts_both_ways() {
        static TSC: AtomicU64 = AtomicU64::new(0);
        let mut bus = Bus::new(Clock {
            seconds: || 0,
            tsc: || TSC.load(Relaxed),
            tsc_frequency: 1_193_182,
        });
        bus.write_memory(Gpa(ioapic::BASE), 0x14);
        bus.write_memory(Gpa(ioapic::BASE + 0x10), 0x30);
        let first = [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0x21, 0xfe),
        ];
        for (port, value) in first.into_iter().chain([(0x43, 0x34), (0x40, 100)]) {
            let _ = bus.write(access(port, 1, false), value);
        }
        assert_eq!(bus.take_raised(), None);
        // With the whole count it has a deadline, which the vCPU has to know.
        let _ = bus.write(access(0x40, 1, false), 0);
        assert!(bus.take_raised().is_some_and(|raised| raised.legacy));
        let waits = Asks {
            interrupt: false,
            deadline: 100,
        };
        assert_eq!(bus.legacy(), waits);
        TSC.store(100, Relaxed);
        let rings = Asks {
            interrupt: true,
            deadline: 200,
        };
        assert_eq!(bus.legacy(), rings);
        let raised = bus.take_raised().unwrap();
        let sent = Ipi {
            kind: IpiKind::Fixed(0x30),
            to: IpiTarget::Physical(0),
        };
        assert!(raised.messages().eq([sent]));
        assert_eq!(bus.acknowledge().0, 0x20);
    }
}
