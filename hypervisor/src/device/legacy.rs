//! What of a PC is older than APICs: the 8259s, the interval timer, and the port with
//! which the timer drives the speaker. Their interrupts reach the first vCPU only.

use super::{
    pic::{self, Pic},
    pit::{self, Pit},
};
use crate::cpu::tsc::NEVER;

/// The timer's input of the 8259s, and of the I/O APIC, as on every PC.
const TIMER_LINE: usize = 0;
/// See [`TIMER_LINE`].
pub(super) const TIMER_PIN: usize = 2;
/// The port of the speaker (IBM PC/AT, Technical Reference, "System Control Port B").
const SPEAKER: u16 = 0x61;
const SPEAKER_GATE: u8 = 1 << 0;
const SPEAKER_DATA: u8 = 1 << 1;
const REFRESH: u8 = 1 << 4;
const SPEAKER_OUTPUT: u8 = 1 << 5;

/// How a VM's devices know the time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Seconds since 1970.
    pub seconds: fn() -> u64,
    /// The TSC.
    pub tsc: fn() -> u64,
    /// How often that ticks in a second.
    pub tsc_frequency: u64,
}

/// What the first vCPU has to know of these devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asks {
    /// The 8259s have an interrupt for it.
    pub interrupt: bool,
    /// The TSC at which it has to look again.
    pub deadline: u64,
}

impl Asks {
    /// Nothing.
    pub const NONE: Self = Self {
        interrupt: false,
        deadline: NEVER,
    };
}

/// The devices.
#[derive(Clone, Debug)]
pub(super) struct Legacy {
    pic: Pic,
    pit: Pit,
    speaker: u8,
    tsc: fn() -> u64,
    /// What the first vCPU was told last, or will see when it looks.
    told: Asks,
}

impl Legacy {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            pic: Pic::default(),
            pit: Pit::new(clock.tsc_frequency),
            speaker: 0,
            tsc: clock.tsc,
            told: Asks::NONE,
        }
    }

    /// Whether `port` is one of theirs.
    pub(super) fn has(port: u16) -> bool {
        matches!(port, pit::FIRST_PORT..=pit::LAST_PORT | SPEAKER) || pic_port(port).is_some()
    }

    pub(super) fn write(&mut self, port: u16, value: u8) {
        if let Some(port) = pic_port(port) {
            self.pic.write(port, value);
        } else if port == SPEAKER {
            self.speaker = value & (SPEAKER_GATE | SPEAKER_DATA);
            self.pit.set_gate(value & SPEAKER_GATE != 0, (self.tsc)());
        } else {
            let offset = usize::from(port - pit::FIRST_PORT);
            self.pit.write(offset, value, (self.tsc)());
        }
    }

    pub(super) fn read(&mut self, port: u16) -> u8 {
        if let Some(port) = pic_port(port) {
            return self.pic.read(port);
        }
        if port != SPEAKER {
            let offset = usize::from(port - pit::FIRST_PORT);
            return self.pit.read(offset, (self.tsc)());
        }
        let (_, output) = self.pit.speaker((self.tsc)());
        // Each read finds memory refreshed once more.
        self.speaker ^= REFRESH;
        self.speaker | if output { SPEAKER_OUTPUT } else { 0 }
    }

    pub(super) fn set_line(&mut self, line: usize, active: bool) {
        self.pic.set_line(line, active);
    }

    pub(super) fn is_open(&self, line: usize) -> bool {
        self.pic.is_open(line)
    }

    /// Whether the timer has fired since it was last looked at.
    pub(super) fn take_tick(&mut self) -> bool {
        let fired = self.pit.take_edge((self.tsc)());
        if fired {
            self.pic.set_line(TIMER_LINE, false);
            self.pic.set_line(TIMER_LINE, true);
        }
        fired
    }

    pub(super) fn acknowledge(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    /// The first vCPU looks, so that there is nothing new to it.
    pub(super) fn look(&mut self) -> Asks {
        self.told = self.asks();
        self.told
    }

    fn asks(&self) -> Asks {
        Asks {
            interrupt: self.pic.asks(),
            deadline: self.pit.deadline().unwrap_or(NEVER),
        }
    }

    /// Whether the first vCPU has to look, because something has changed since.
    pub(super) fn has_news(&mut self) -> bool {
        let asks = self.asks();
        let news = self.told != asks;
        self.told = asks;
        news
    }
}

fn pic_port(port: u16) -> Option<usize> {
    pic::PORTS.iter().position(|of| *of == port)
}
