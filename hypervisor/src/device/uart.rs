//! A 16550A UART, the guest's console (National Semiconductor PC16550D, data
//! sheet, "Registers"). What it sends is the VM's output, and its line is always
//! ready; what arrives is the operator's input.

use alloc::collections::VecDeque;
use bitflags::bitflags;

bitflags! {
    /// Line control register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct LineControl: u8 {
        /// The first two registers are the divisor latch.
        const DIVISOR_LATCH = 1 << 7;
        const REST = !0;
    }

    /// Interrupt enable register: the bits that exist.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct InterruptEnable: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMIT_HOLDING_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// Line status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct LineStatus: u8 {
        const DATA_READY = 1 << 0;
        const TRANSMIT_HOLDING_EMPTY = 1 << 5;
        const TRANSMITTER_EMPTY = 1 << 6;
    }

    /// Modem control register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct ModemControl: u8 {
        const DATA_TERMINAL_READY = 1 << 0;
        const REQUEST_TO_SEND = 1 << 1;
        const OUT1 = 1 << 2;
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    /// Modem status register, its upper half.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct ModemStatus: u8 {
        const CLEAR_TO_SEND = 1 << 4;
        const DATA_SET_READY = 1 << 5;
        const RING_INDICATOR = 1 << 6;
        const CARRIER_DETECT = 1 << 7;
    }
}

/// Interrupt identification: none pending, the transmitter is empty, data arrived.
const NO_INTERRUPT: u8 = 0x01;
const TRANSMITTER_INTERRUPT: u8 = 0x02;
const RECEIVER_INTERRUPT: u8 = 0x04;
/// Interrupt identification: the FIFOs are enabled, by which drivers know a 16550A.
const FIFOS_ENABLED: u8 = 0xc0;
/// FIFO control: enable, and empty the receiver.
const FIFO_ENABLE: u8 = 1 << 0;
const FIFO_CLEAR_RECEIVER: u8 = 1 << 1;
/// Bytes of input that wait for the guest: what an operator types or pastes at a
/// time. More are lost, as on any line without flow control.
const INPUT_BYTES: usize = 1024;

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uart {
    interrupt_enable: InterruptEnable,
    /// The transmitter became empty, and nobody was told yet.
    sent: bool,
    input: VecDeque<u8>,
    fifo: bool,
    line_control: LineControl,
    modem_control: ModemControl,
    scratch: u8,
    divisor: [u8; 2],
}

impl Default for Uart {
    /// After reset.
    fn default() -> Self {
        Self {
            interrupt_enable: InterruptEnable::empty(),
            sent: false,
            // Room for all, so that input never allocates.
            input: VecDeque::with_capacity(INPUT_BYTES),
            fifo: false,
            line_control: LineControl::default(),
            modem_control: ModemControl::default(),
            scratch: 0,
            divisor: [0; 2],
        }
    }
}

impl Uart {
    /// Ports that it occupies.
    pub const PORTS: u16 = 8;

    /// Takes a byte of input.
    pub fn receive(&mut self, byte: u8) {
        if self.input.len() < INPUT_BYTES {
            self.input.push_back(byte);
        }
    }

    /// Whether its interrupt line is active: on PCs OUT2 connects it.
    pub fn line(&self) -> bool {
        self.modem_control.contains(ModemControl::OUT2) && self.pending() != NO_INTERRUPT
    }

    /// Whether input would interrupt the guest.
    pub fn listens(&self) -> bool {
        self.interrupt_enable.contains(InterruptEnable::RECEIVED)
    }

    /// The pending interrupt of the highest priority.
    fn pending(&self) -> u8 {
        let enabled = self.interrupt_enable;
        if enabled.contains(InterruptEnable::RECEIVED) && !self.input.is_empty() {
            RECEIVER_INTERRUPT
        } else if enabled.contains(InterruptEnable::TRANSMIT_HOLDING_EMPTY) && self.sent {
            TRANSMITTER_INTERRUPT
        } else {
            NO_INTERRUPT
        }
    }

    /// A write of `value` to register `offset`; the byte that goes out on the
    /// line, if any.
    #[must_use]
    pub fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        let latch = self.line_control.contains(LineControl::DIVISOR_LATCH);
        match offset {
            0 if latch => self.divisor[0] = value,
            0 if self.modem_control.contains(ModemControl::LOOPBACK) => self.receive(value),
            0 => {
                self.sent = true;
                return Some(value);
            }
            1 if latch => self.divisor[1] = value,
            1 => {
                let before = self.interrupt_enable;
                self.interrupt_enable = InterruptEnable::from_bits_truncate(value);
                // Switched on while the transmitter is empty, it interrupts at once.
                self.sent |= (self.interrupt_enable - before)
                    .contains(InterruptEnable::TRANSMIT_HOLDING_EMPTY);
            }
            2 => {
                self.fifo = value & FIFO_ENABLE != 0;
                if value & FIFO_CLEAR_RECEIVER != 0 {
                    self.input.clear();
                }
            }
            3 => self.line_control = LineControl::from_bits_retain(value),
            4 => self.modem_control = ModemControl::from_bits_truncate(value),
            7 => self.scratch = value,
            // Line and modem status cannot be written.
            _ => {}
        }
        None
    }

    /// A read of register `offset`.
    #[must_use]
    pub fn read(&mut self, offset: u16) -> u8 {
        let latch = self.line_control.contains(LineControl::DIVISOR_LATCH);
        match offset {
            0 if latch => self.divisor[0],
            0 => self.input.pop_front().unwrap_or(0),
            1 if latch => self.divisor[1],
            1 => self.interrupt_enable.bits(),
            2 => {
                let pending = self.pending();
                // Having been told of it ends it.
                self.sent &= pending != TRANSMITTER_INTERRUPT;
                pending | if self.fifo { FIFOS_ENABLED } else { 0 }
            }
            3 => self.line_control.bits(),
            4 => self.modem_control.bits(),
            5 => {
                let mut status = LineStatus::TRANSMIT_HOLDING_EMPTY | LineStatus::TRANSMITTER_EMPTY;
                status.set(LineStatus::DATA_READY, !self.input.is_empty());
                status.bits()
            }
            6 => self.modem_status().bits(),
            7 => self.scratch,
            _ => 0,
        }
    }

    /// A line that is always ready, or in loopback the modem control's outputs.
    fn modem_status(&self) -> ModemStatus {
        let control = self.modem_control;
        if !control.contains(ModemControl::LOOPBACK) {
            return ModemStatus::CLEAR_TO_SEND
                | ModemStatus::DATA_SET_READY
                | ModemStatus::CARRIER_DETECT;
        }
        let mut status = ModemStatus::empty();
        status.set(
            ModemStatus::CLEAR_TO_SEND,
            control.contains(ModemControl::REQUEST_TO_SEND),
        );
        status.set(
            ModemStatus::DATA_SET_READY,
            control.contains(ModemControl::DATA_TERMINAL_READY),
        );
        status.set(
            ModemStatus::RING_INDICATOR,
            control.contains(ModemControl::OUT1),
        );
        status.set(
            ModemStatus::CARRIER_DETECT,
            control.contains(ModemControl::OUT2),
        );
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_the_holding_register_goes_out() {
        let mut uart = Uart::default();
        assert_eq!(uart.write(0, b'x'), Some(b'x'));
        assert_eq!(uart.read(5), 0x60);
    }

    #[test]
    fn the_divisor_latch_hides_data_and_interrupt_enable() {
        let mut uart = Uart::default();
        assert_eq!(uart.write(1, 0xff), None);
        assert_eq!(uart.write(3, 0x83), None);
        assert_eq!((uart.write(0, 0x34), uart.write(1, 0x12)), (None, None));
        assert_eq!((uart.read(0), uart.read(1)), (0x34, 0x12));
        assert_eq!(uart.write(3, 0x03), None);
        assert_eq!((uart.read(0), uart.read(1)), (0, 0x0f));
    }

    #[test]
    fn drivers_find_a_16550a() {
        let mut uart = Uart::default();
        assert_eq!(uart.read(2), 0x01);
        assert_eq!(uart.write(2, 0x01), None);
        assert_eq!(uart.read(2), 0xc1);
        assert_eq!(uart.write(7, 0x5a), None);
        assert_eq!(uart.read(7), 0x5a);
    }

    #[test]
    fn input_and_an_empty_transmitter_interrupt_if_asked_for() {
        let mut uart = Uart::default();
        uart.receive(b'a');
        uart.receive(b'b');
        assert_eq!(
            (uart.read(5), uart.line(), uart.listens()),
            (0x61, false, false)
        );
        assert_eq!((uart.write(4, 0x08), uart.write(1, 0x03)), (None, None));
        assert!(uart.line() && uart.listens());
        assert_eq!(
            (uart.read(2), uart.read(0), uart.read(0)),
            (0x04, b'a', b'b')
        );
        assert_eq!(
            (uart.read(5), uart.read(2), uart.read(2)),
            (0x60, 0x02, 0x01)
        );
        assert!(!uart.line());
        assert_eq!(uart.write(0, b'x'), Some(b'x'));
        assert!(uart.line());
        assert_eq!(uart.write(4, 0), None);
        assert!(!uart.line());
        for byte in 0..=INPUT_BYTES {
            uart.receive(byte as u8);
        }
        assert_eq!(uart.input.len(), INPUT_BYTES);
        assert_eq!(uart.write(2, 0x03), None);
        assert_eq!(uart.read(5), 0x60);
    }

    #[test]
    fn loopback_shows_the_outputs_and_sends_nothing() {
        let mut uart = Uart::default();
        assert_eq!(uart.read(6), 0xb0);
        for (outputs, inputs) in [(0x1, 0x20), (0x2, 0x10), (0x4, 0x40), (0x8, 0x80)] {
            assert_eq!(uart.write(4, 0x10 | outputs), None);
            assert_eq!(uart.read(6), inputs);
        }
        assert_eq!(uart.write(0, b'x'), None);
    }
}
