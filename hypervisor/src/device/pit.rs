//! The interval timer of a PC (Intel 8254, data sheet): channel 0 drives interrupt 0,
//! channel 2 the speaker. Counting in BCD and hardware-triggered modes are not there.
//!
//! Time is the TSC, handed in with each access; nothing here waits.

/// The ports of the three channels, and that of the control word.
pub const FIRST_PORT: u16 = 0x40;
/// See [`FIRST_PORT`].
pub const LAST_PORT: u16 = 0x43;
const CONTROL: usize = 3;
/// Ticks in a second.
const FREQUENCY: u64 = 1_193_182;
const CHANNELS: usize = 3;
/// The channel whose gate and output port 0x61 has.
const SPEAKER: usize = 2;
/// What a count of zero stands for.
const LONGEST: u64 = 0x1_0000;

/// How a channel counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// Mode 0, and for lack of their trigger 1, 4 and 5: to zero, once.
    #[default]
    Once,
    /// Mode 2: again and again, with a short pulse.
    Rate,
    /// Mode 3: the same with a square wave.
    Square,
}

/// Which bytes of the count an access moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Access {
    Low,
    High,
    #[default]
    LowThenHigh,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Channel {
    mode: Mode,
    /// The bits of the control word that the status shows.
    control: u8,
    access: Access,
    /// The low byte of a count whose high byte has not come yet.
    low: Option<u8>,
    /// The next read is of the high byte.
    read_high: bool,
    latched: Option<u16>,
    status: Option<u8>,
    /// Ticks that it counts, once it was told.
    reload: Option<u64>,
    /// When it began, in ticks.
    began: u64,
    /// Edges of its output that were reported.
    reported: u64,
    /// It does not count.
    gated: bool,
}

impl Channel {
    fn elapsed(&self, now: u64) -> u64 {
        match self.gated {
            true => 0,
            false => now.saturating_sub(self.began),
        }
    }

    fn count(&self, now: u64) -> u16 {
        let (reload, elapsed) = (self.reload.unwrap_or(LONGEST), self.elapsed(now));
        let left = match self.mode {
            Mode::Once => reload.wrapping_sub(elapsed),
            Mode::Rate => reload - elapsed % reload,
            Mode::Square => reload - elapsed * 2 % reload,
        };
        left as u16
    }

    fn output(&self, now: u64) -> bool {
        let Some(reload) = self.reload else {
            return self.mode != Mode::Once;
        };
        let elapsed = self.elapsed(now);
        match self.mode {
            Mode::Once => elapsed >= reload,
            Mode::Rate => elapsed % reload != reload - 1,
            Mode::Square => elapsed % reload < reload.div_ceil(2),
        }
    }

    /// Rising edges of the output since the count was written.
    fn edges(&self, now: u64) -> u64 {
        let Some(reload) = self.reload else {
            return 0;
        };
        match self.mode {
            Mode::Once => u64::from(self.elapsed(now) >= reload),
            Mode::Rate | Mode::Square => self.elapsed(now) / reload,
        }
    }

    /// The tick of the first edge that was not reported.
    fn next_edge(&self) -> Option<u64> {
        let reload = self.reload.filter(|_| !self.gated)?;
        match self.mode {
            Mode::Once if self.reported > 0 => None,
            _ => Some(self.began + reload * (self.reported + 1)),
        }
    }

    fn begin(&mut self, count: u16, now: u64) {
        self.reload = Some(match count {
            0 => LONGEST,
            // A period of one tick cannot be counted, and two are the least.
            1 if self.mode != Mode::Once => 2,
            count => u64::from(count),
        });
        self.began = now;
        self.reported = 0;
    }

    fn write(&mut self, value: u8, now: u64) {
        match (self.access, self.low.take()) {
            (Access::Low, _) => self.begin(value.into(), now),
            (Access::High, _) => self.begin(u16::from(value) << 8, now),
            (Access::LowThenHigh, None) => self.low = Some(value),
            (Access::LowThenHigh, Some(low)) => {
                self.begin(u16::from_le_bytes([low, value]), now);
            }
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or(self.count(now)).to_le_bytes();
        let is_high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::LowThenHigh => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if !self.read_high {
            self.latched = None;
        }
        if is_high { high } else { low }
    }

    fn latch(&mut self, now: u64) {
        self.latched = self.latched.or(Some(self.count(now)));
    }

    fn configure(&mut self, control: u8) {
        let gated = self.gated;
        *self = Self {
            mode: match control >> 1 & 0b111 {
                2 | 6 => Mode::Rate,
                3 | 7 => Mode::Square,
                _ => Mode::Once,
            },
            access: match control >> 4 & 0b11 {
                1 => Access::Low,
                2 => Access::High,
                _ => Access::LowThenHigh,
            },
            control: control & 0x3f,
            gated,
            ..Self::default()
        };
    }
}

/// The three channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pit {
    channels: [Channel; CHANNELS],
    tsc_frequency: u64,
}

impl Pit {
    /// Channels that count nothing yet, where the TSC ticks so often in a second.
    pub fn new(tsc_frequency: u64) -> Self {
        let mut channels = [Channel::default(); CHANNELS];
        channels[SPEAKER].gated = true;
        Self {
            channels,
            tsc_frequency: tsc_frequency.max(1),
        }
    }

    fn ticks(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc) * u128::from(FREQUENCY) / u128::from(self.tsc_frequency);
        ticks as u64
    }

    /// A write of the port with this offset from the first.
    pub fn write(&mut self, offset: usize, value: u8, tsc: u64) {
        const READ_BACK: u8 = 0b11;
        let now = self.ticks(tsc);
        if let Some(channel) = self.channels.get_mut(offset) {
            channel.write(value, now);
        }
        if offset != CONTROL {
            return;
        }
        if value >> 6 == READ_BACK {
            self.read_back(value, now);
        } else if let Some(channel) = self.channels.get_mut(usize::from(value >> 6)) {
            match value >> 4 & 0b11 {
                0 => channel.latch(now),
                _ => channel.configure(value),
            }
        }
    }

    fn read_back(&mut self, command: u8, now: u64) {
        const NO_COUNT: u8 = 1 << 5;
        const NO_STATUS: u8 = 1 << 4;
        const OUTPUT: u8 = 1 << 7;
        const NULL_COUNT: u8 = 1 << 6;
        let chosen = |index: usize| command & 2 << index != 0;
        for (_, channel) in (0..).zip(&mut self.channels).filter(|(at, _)| chosen(*at)) {
            if command & NO_COUNT == 0 {
                channel.latch(now);
            }
            if command & NO_STATUS == 0 {
                let output = if channel.output(now) { OUTPUT } else { 0 };
                let empty = if channel.reload.is_none() {
                    NULL_COUNT
                } else {
                    0
                };
                channel.status = Some(channel.control | output | empty);
            }
        }
    }

    /// A read of the port with this offset from the first.
    pub fn read(&mut self, offset: usize, tsc: u64) -> u8 {
        let now = self.ticks(tsc);
        let channel = self.channels.get_mut(offset);
        channel.map_or(u8::MAX, |channel| channel.read(now))
    }

    /// The gate of channel 2.
    pub fn set_gate(&mut self, open: bool, tsc: u64) {
        let now = self.ticks(tsc);
        let channel = &mut self.channels[SPEAKER];
        if open && channel.gated {
            channel.began = now;
        }
        channel.gated = !open;
    }

    /// The gate and the output of channel 2.
    pub fn speaker(&self, tsc: u64) -> (bool, bool) {
        let channel = &self.channels[SPEAKER];
        (!channel.gated, channel.output(self.ticks(tsc)))
    }

    /// Whether channel 0 has asked for an interrupt since it was last looked at.
    pub fn take_edge(&mut self, tsc: u64) -> bool {
        let now = self.ticks(tsc);
        let channel = &mut self.channels[0];
        let edges = channel.edges(now);
        let new = edges > channel.reported;
        channel.reported = edges.max(channel.reported);
        new
    }

    /// The TSC at which it is to be looked at next.
    pub fn deadline(&self) -> Option<u64> {
        let tick = u128::from(self.channels[0].next_edge()?);
        let tsc = (tick * u128::from(self.tsc_frequency)).div_ceil(u128::from(FREQUENCY));
        u64::try_from(tsc).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A TSC of two ticks for each of the timer's.
    const TSC: u64 = 2 * FREQUENCY;

    fn pit(control: u8, count: u16) -> Pit {
        let mut pit = Pit::new(TSC);
        pit.write(3, control, 0);
        let [low, high] = count.to_le_bytes();
        pit.write(0, low, 0);
        pit.write(0, high, 0);
        pit
    }

    #[test]
    fn a_rate_generator_ticks_on_and_on() {
        let mut pit = pit(0x34, 100);
        assert_eq!(pit.deadline(), Some(200));
        assert!(!pit.take_edge(199));
        assert!(pit.take_edge(200));
        assert!(!pit.take_edge(201));
        assert_eq!(pit.deadline(), Some(400));
        // Those that were missed count as one.
        assert!(pit.take_edge(1000));
        assert!(!pit.take_edge(1001));
        assert_eq!(pit.deadline(), Some(1200));
    }

    #[test]
    fn a_count_is_read_low_byte_first_and_can_be_latched() {
        let mut pit = pit(0x34, 0x1234);
        assert_eq!((pit.read(0, 0), pit.read(0, 0)), (0x34, 0x12));
        pit.write(3, 0x00, 0x200);
        assert_eq!((pit.read(0, 0x800), pit.read(0, 0x900)), (0x34, 0x11));
        assert_eq!((pit.read(0, 0x400), pit.read(0, 0x400)), (0x34, 0x10));
        // Status: output high, count there, both bytes, mode 2.
        pit.write(3, 0xe2, 0x400);
        assert_eq!(pit.read(0, 0x400), 0xb4);
    }

    #[test]
    fn a_one_shot_fires_once() {
        let mut pit = pit(0x30, 10);
        assert!(!pit.take_edge(19) && pit.take_edge(20) && !pit.take_edge(4000));
        assert_eq!(pit.deadline(), None);
    }

    #[test]
    fn the_speaker_s_channel_counts_while_its_gate_is_open() {
        let mut pit = Pit::new(TSC);
        pit.write(3, 0xb0, 0);
        pit.write(2, 50, 0);
        pit.write(2, 0, 0);
        assert_eq!(pit.speaker(1000), (false, false));
        pit.set_gate(true, 1000);
        assert_eq!(pit.speaker(1098), (true, false));
        assert_eq!(pit.speaker(1100), (true, true));
    }

    proptest! {
        #[test]
        fn a_deadline_is_the_first_moment_with_an_edge(
            mode in prop::sample::select(&[0x30_u8, 0x34, 0x36][..]), count in any::<u16>(), at in 0_u64..1 << 40,
        ) {
            let mut pit = pit(mode, count);
            let _ = pit.take_edge(at);
            if let Some(deadline) = pit.deadline() {
                prop_assert!(deadline > at);
                let mut early = pit;
                prop_assert!(!early.take_edge(deadline - 1));
                prop_assert!(pit.take_edge(deadline));
            }
        }
    }
}
