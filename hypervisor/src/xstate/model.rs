//! A made-up processor for tests: the registers of extended state, the init
//! optimisation, XFD, and a log of every register write and state movement.
//!
//! It is as strict as silicon: where silicon would raise #GP or #NM in the
//! hypervisor, or write beyond a container, it panics.

use crate::xstate::area::Area;
use crate::xstate::features::XFeatures;
use crate::xstate::layout::{Format, Layout};
use crate::xstate::registers::XRegisters;
use std::collections::BTreeMap;
use std::vec::Vec;

/// What the processor was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Xcr0(XFeatures),
    Xss(XFeatures),
    Xfd(XFeatures),
    XfdErr(XFeatures),
    /// With the components written to memory as in use.
    Save(XFeatures),
    /// With the components loaded from memory.
    Restore(XFeatures),
}

/// Where the bytes of the legacy components lie.
const X87: [(u32, usize); 2] = [(0, 24), (32, 128)];
const SSE: [(u32, usize); 2] = [(24, 4), (160, 256)];

pub(crate) struct Model {
    pub(crate) layout: Layout,
    pub(crate) xcr0: XFeatures,
    pub(crate) xss: XFeatures,
    pub(crate) xfd: XFeatures,
    pub(crate) xfd_err: XFeatures,
    pub(crate) state: BTreeMap<u8, Vec<u8>>,
    pub(crate) log: Vec<Event>,
    /// Component bytes written to memory by saves.
    pub(crate) bytes_saved: usize,
}

impl Model {
    /// Not at reset values, as firmware leaves it.
    pub(crate) fn dirty(layout: &Layout) -> Self {
        let mut model = Self {
            layout: layout.clone(),
            xcr0: XFeatures::X87,
            xss: layout.supervisor(),
            xfd: layout.dynamic(),
            xfd_err: layout.dynamic(),
            state: BTreeMap::new(),
            log: Vec::new(),
            bytes_saved: 0,
        };
        for number in (layout.user() | layout.supervisor()).numbers() {
            let mut state = model.initial(number);
            state.fill(0xdd);
            model.state.insert(number, state);
        }
        model
    }

    pub(crate) fn initial(&self, number: u8) -> Vec<u8> {
        let mut state = Vec::new();
        match number {
            0 => {
                state.resize(152, 0);
                state[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
            }
            1 => {
                state.resize(260, 0);
                state[..4].copy_from_slice(&0x1f80_u32.to_le_bytes());
            }
            _ => {
                let set = XFeatures::single(number);
                let placed = self.layout.walk(set, Format::Compacted).next().unwrap();
                state.resize(placed.size as usize, 0);
            }
        }
        state
    }

    /// XINUSE.
    pub(crate) fn not_initial(&self) -> XFeatures {
        self.state
            .iter()
            .filter(|(number, state)| **state != self.initial(**number))
            .fold(XFeatures::EMPTY, |set, (number, _)| {
                set | XFeatures::single(*number)
            })
    }

    /// What a guest instruction on a component does: write a pattern, or raise
    /// #NM and record why, or #UD.
    pub(crate) fn guest_writes(&mut self, number: u8, pattern: u8) -> Result<(), &'static str> {
        let set = XFeatures::single(number);
        if !(self.xcr0 | self.xss).contains(set) {
            return Err("#UD");
        }
        if self.xfd.contains(set) {
            // Loaded, not accumulated.
            self.xfd_err = set;
            return Err("#NM");
        }
        self.state.get_mut(&number).unwrap().fill(pattern);
        Ok(())
    }

    fn places(&self, number: u8, set: XFeatures, format: Format) -> Vec<(u32, usize)> {
        match number {
            0 => X87.to_vec(),
            1 => SSE.to_vec(),
            _ => {
                let mut walk = self.layout.walk(set, format);
                let placed = walk.find(|placed| placed.number == number);
                placed
                    .map(|placed| (placed.offset, placed.size as usize))
                    .into_iter()
                    .collect()
            }
        }
    }

    fn store(&mut self, area: &mut Area, number: u8, set: XFeatures, state: &[u8]) {
        let mut from = state;
        for (offset, size) in self.places(number, set, area.format()) {
            assert!(
                offset as usize + size <= area.size() as usize,
                "component {number} does not fit into the container"
            );
            let (piece, rest) = from.split_at(size);
            area.write(offset, piece);
            from = rest;
            self.bytes_saved += size;
        }
    }

    fn load(&self, area: &Area, number: u8, set: XFeatures) -> Vec<u8> {
        let mut state = Vec::new();
        for (offset, size) in self.places(number, set, area.format()) {
            let mut piece = std::vec![0; size];
            area.read(offset, &mut piece);
            state.extend(piece);
        }
        state
    }
}

fn header(area: &Area) -> (XFeatures, u64) {
    let mut word = [0; 8];
    area.read(520, &mut word);
    (area.present(), u64::from_le_bytes(word))
}

impl XRegisters for Model {
    fn set_xcr0(&mut self, value: XFeatures) {
        let groups = [XFeatures::AVX512, XFeatures::TILES, XFeatures::MPX];
        assert!(
            value.contains(XFeatures::X87)
                && self.layout.user().contains(value)
                && !groups.iter().any(|group| value.splits(*group)),
            "#GP in the hypervisor: XCR0 = {value:?}"
        );
        self.xcr0 = value;
        self.log.push(Event::Xcr0(value));
    }

    fn set_xss(&mut self, value: XFeatures) {
        assert!(
            self.layout.supervisor().contains(value) && self.layout.extensions().xsaves,
            "#GP in the hypervisor: IA32_XSS = {value:?}"
        );
        self.xss = value;
        self.log.push(Event::Xss(value));
    }

    fn xfd(&self) -> XFeatures {
        assert!(self.layout.extensions().xfd, "#GP in the hypervisor");
        self.xfd
    }

    fn set_xfd(&mut self, value: XFeatures) {
        assert!(
            self.layout.extensions().xfd && self.layout.dynamic().contains(value),
            "#GP in the hypervisor: IA32_XFD = {value:?}"
        );
        self.xfd = value;
        self.log.push(Event::Xfd(value));
    }

    fn xfd_err(&self) -> XFeatures {
        assert!(self.layout.extensions().xfd, "#GP in the hypervisor");
        self.xfd_err
    }

    fn set_xfd_err(&mut self, value: XFeatures) {
        assert!(
            self.layout.extensions().xfd && self.layout.dynamic().contains(value),
            "#GP in the hypervisor: IA32_XFD_ERR = {value:?}"
        );
        self.xfd_err = value;
        self.log.push(Event::XfdErr(value));
    }

    fn in_use(&self) -> XFeatures {
        if self.layout.extensions().xgetbv1 {
            self.not_initial() & self.xcr0
        } else {
            XFeatures::ALL
        }
    }

    fn save(&mut self, area: &mut Area) {
        let extensions = self.layout.extensions();
        let enabled = if extensions.xsaves {
            self.xcr0 | self.xss
        } else {
            self.xcr0
        };
        let requested = area.features() & enabled;
        let in_use = self.not_initial() - self.xfd;
        let optimised = area.format() == Format::Compacted || extensions.xsaveopt;
        for number in requested.numbers() {
            let live = in_use.contains(XFeatures::single(number));
            if live {
                let state = self.state[&number].clone();
                self.store(area, number, requested, &state);
            } else if !optimised {
                let state = self.initial(number);
                self.store(area, number, requested, &state);
            }
        }
        let present = (area.present() - requested) | (requested & in_use);
        let mut words = [0; 16];
        words[..8].copy_from_slice(&present.bits().to_le_bytes());
        if area.format() == Format::Compacted {
            let compacted = requested.bits() | 1 << 63;
            words[8..].copy_from_slice(&compacted.to_le_bytes());
        }
        area.write(512, &words);
        self.log.push(Event::Save(requested & in_use));
    }

    fn restore(&mut self, area: &Area) {
        let enabled = self.xcr0 | self.xss;
        let (present, compacted) = header(area);
        let set = match area.format() {
            Format::Standard => {
                assert_eq!(compacted, 0, "#GP in the hypervisor: XCOMP_BV");
                self.layout.user()
            }
            Format::Compacted => {
                let set = XFeatures::from_bits(compacted & !(1 << 63));
                assert!(
                    compacted >> 63 == 1 && enabled.contains(set) && set.contains(present),
                    "#GP in the hypervisor: XCOMP_BV {set:?}, XSTATE_BV {present:?}"
                );
                set
            }
        };
        assert!(
            !self.xfd.intersects(present & enabled),
            "#NM in the hypervisor: XFD {:?}, XSTATE_BV {present:?}",
            self.xfd
        );
        for number in enabled.numbers() {
            let mut state = self.load(area, number, set);
            if !present.contains(XFeatures::single(number)) {
                let initial = self.initial(number);
                // The standard form loads MXCSR whatever XSTATE_BV says.
                let kept = if number == 1 && area.format() == Format::Standard {
                    4
                } else {
                    0
                };
                state.resize(initial.len(), 0);
                state[kept..].copy_from_slice(&initial[kept..]);
            }
            self.state.insert(number, state);
        }
        self.log.push(Event::Restore(present & enabled));
    }
}
