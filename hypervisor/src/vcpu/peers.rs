//! What the vCPUs of a VM send each other. An inbox is a handful of atomic words,
//! so that sending is never waiting: the sender sets bits, and whoever runs the
//! target takes them before it is entered next.

use crate::device::x2apic::{Ipi, IpiKind, X2Apic};
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

/// vCPUs that a VM can have: a set of them is a word.
pub const MOST_VCPUS: u32 = u64::BITS;

const INTERRUPT: u32 = 1 << 8;
const NMI: u32 = 1 << 9;
const INIT: u32 = 1 << 10;
const EXTERNAL: u32 = 1 << 12;
/// Stays: nothing that comes later matters.
const ENDED: u32 = 1 << 13;
/// The page to begin at is in the low eight bits.
const START_UP: u32 = 1 << 11;
const START_UP_PAGE: u32 = 0xff;

/// What waits for one vCPU.
#[derive(Default)]
pub struct Inbox {
    /// Vectors, as in an IRR.
    requests: [AtomicU32; 8],
    /// Which of them devices hold up until their end.
    levels: [AtomicU32; 8],
    /// What else, and whether there are vectors.
    events: AtomicU32,
    /// Nothing but an inbox that fills can wake it.
    asleep: AtomicBool,
    /// The number of the CPU that it is on, and one; zero while it is on none.
    place: AtomicU32,
    /// The only CPU that it may be on, if there is one.
    pinned: Option<u32>,
    /// The vCPU's number among all of the bundle: its VPID.
    number: u16,
}

fn set(words: &[AtomicU32; 8], vector: u8) {
    if let Some(word) = words.get(usize::from(vector / 32)) {
        word.fetch_or(1 << (vector % 32), SeqCst);
    }
}

/// What reaches a vCPU between its instructions, and is no interrupt yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// INIT.
    pub init: bool,
    /// After that, a start-up IPI with this page.
    pub start_up: Option<u8>,
    /// A device that is older than APICs has something for it.
    pub external: bool,
}

impl Inbox {
    /// Puts in what an IPI delivers.
    pub fn post(&self, kind: IpiKind) {
        match kind {
            IpiKind::Level(vector) => {
                set(&self.levels, vector);
                self.post(IpiKind::Fixed(vector));
            }
            IpiKind::Fixed(vector) | IpiKind::LowestPriority(vector) => {
                set(&self.requests, vector);
                self.events.fetch_or(INTERRUPT, SeqCst);
            }
            IpiKind::Nmi => drop(self.events.fetch_or(NMI, SeqCst)),
            IpiKind::External => drop(self.events.fetch_or(EXTERNAL, SeqCst)),
            // A start-up IPI that came before means nothing after a reset.
            IpiKind::Init => self.change(|events| events & !(START_UP | START_UP_PAGE) | INIT),
            // SDM Vol. 3, "MP Initialization Protocol": the first one counts.
            IpiKind::StartUp(page) => self.change(|events| match events & START_UP {
                0 => events | START_UP | u32::from(page),
                _ => events,
            }),
        }
    }

    fn change(&self, change: impl Fn(u32) -> u32) {
        // Cannot fail: the closure always gives a value.
        let _ = self
            .events
            .fetch_update(SeqCst, SeqCst, |events| Some(change(events)));
    }

    /// Says that the VM has ended, and whether that is new.
    fn end(&self) -> bool {
        self.events.fetch_or(ENDED, SeqCst) & ENDED == 0
    }

    /// Whether the VM has ended.
    pub fn has_ended(&self) -> bool {
        self.events.load(SeqCst) & ENDED != 0
    }

    /// Whether anything is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.events.load(SeqCst) == 0
    }

    /// Moves waiting interrupts to `apic`; whether an NMI waited too.
    pub fn take_interrupts(&self, apic: &mut X2Apic) -> bool {
        let events = self.events.fetch_and(!(INTERRUPT | NMI), SeqCst);
        if events & INTERRUPT != 0 {
            let words = self.requests.iter().zip(&self.levels);
            for (index, (word, level)) in (0..8).zip(words) {
                let mut bits = word.swap(0, SeqCst);
                while bits != 0 {
                    let bit = bits.trailing_zeros();
                    let level = level.fetch_and(!(1 << bit), SeqCst) & 1 << bit != 0;
                    apic.accept(index * 32 + bit as u8, level);
                    bits &= bits - 1;
                }
            }
        }
        events & NMI != 0
    }

    /// Takes out what is no interrupt.
    pub fn take_signals(&self) -> Signals {
        if self.events.load(SeqCst) & (INIT | START_UP | EXTERNAL) == 0 {
            return Signals::default();
        }
        let taken = INIT | START_UP | START_UP_PAGE | EXTERNAL;
        let events = self.events.fetch_and(!taken, SeqCst);
        Signals {
            init: events & INIT != 0,
            start_up: (events & START_UP != 0).then_some((events & START_UP_PAGE) as u8),
            external: events & EXTERNAL != 0,
        }
    }

    /// The CPU that the vCPU is on.
    pub fn place(&self) -> Option<u16> {
        self.place.load(SeqCst).checked_sub(1).map(|cpu| cpu as u16)
    }

    /// The only CPU that the vCPU may be on, if there is one.
    pub fn pinned(&self) -> Option<u32> {
        self.pinned
    }

    /// The vCPU's number among all of the bundle: its VPID.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Says which CPU the vCPU is on.
    pub fn set_place(&self, cpu: Option<u16>) {
        self.place
            .store(cpu.map_or(0, |cpu| u32::from(cpu) + 1), SeqCst);
    }

    /// Says whether only an inbox that fills can wake it.
    pub fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, SeqCst);
    }
}

/// The inboxes of a VM's vCPUs, by APIC ID.
pub struct Peers(Box<[Arc<Inbox>]>);

impl Peers {
    /// One for each vCPU, with its VPID and the CPU that it is pinned to.
    pub fn new(vcpus: impl Iterator<Item = (u16, Option<u32>)>) -> Self {
        let inbox = |(number, pinned)| {
            Arc::new(Inbox {
                pinned,
                number,
                ..Inbox::default()
            })
        };
        Self(vcpus.map(inbox).collect())
    }

    /// All inboxes, in the order of APIC IDs.
    pub fn inboxes(&self) -> &[Arc<Inbox>] {
        &self.0
    }

    /// Says that the VM has ended. Whether that is new: of several who say so at once it
    /// is to one.
    pub fn end(&self) -> bool {
        let first = self.0.first().is_some_and(|inbox| inbox.end());
        self.0.iter().for_each(|inbox| _ = inbox.end());
        first
    }

    /// Delivers `ipi` of the vCPU `sender`; the set of vCPUs that got it.
    pub fn post(&self, ipi: Ipi, sender: u32) -> u64 {
        let mut posted = 0;
        for (id, inbox) in (0..).zip(&self.0) {
            if ipi.to.includes(id, sender) {
                inbox.post(ipi.kind);
                posted |= 1 << id;
                if matches!(ipi.kind, IpiKind::LowestPriority(_)) {
                    // Any of the targets may take it; the first is as good as another.
                    break;
                }
            }
        }
        posted
    }

    /// Whether no vCPU will ever run again by itself.
    pub fn all_asleep(&self) -> bool {
        self.0
            .iter()
            .all(|inbox| inbox.asleep.load(SeqCst) && inbox.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::x2apic::IpiTarget;
    use proptest::prelude::*;

    #[test]
    fn an_ipi_reaches_exactly_its_targets() {
        let peers = Peers::new([(1, None); 4].into_iter());
        let fixed = |to| Ipi {
            kind: IpiKind::Fixed(0x40),
            to,
        };
        assert_eq!(peers.post(fixed(IpiTarget::AllButSelf), 1), 0b1101);
        assert_eq!(peers.post(fixed(IpiTarget::Physical(9)), 1), 0);
        assert!(peers.inboxes()[1].is_empty());
        assert!(!peers.inboxes()[3].is_empty());
        let lowest = Ipi {
            kind: IpiKind::LowestPriority(0x40),
            to: IpiTarget::Logical(0b1110),
        };
        assert_eq!(peers.post(lowest, 0), 0b0010);
    }

    #[test]
    fn the_first_start_up_after_an_init_counts() {
        let inbox = Inbox::default();
        inbox.post(IpiKind::StartUp(1));
        inbox.post(IpiKind::Init);
        inbox.post(IpiKind::StartUp(8));
        inbox.post(IpiKind::StartUp(9));
        assert_eq!(
            inbox.take_signals(),
            Signals {
                init: true,
                start_up: Some(8),
                external: false,
            }
        );
        assert_eq!(inbox.take_signals(), Signals::default());
        assert!(inbox.is_empty());
    }

    #[test]
    fn nobody_is_asleep_whom_something_waits_for() {
        let peers = Peers::new([(1, None); 2].into_iter());
        peers
            .inboxes()
            .iter()
            .for_each(|inbox| inbox.set_asleep(true));
        assert!(peers.all_asleep());
        peers.inboxes()[1].post(IpiKind::Nmi);
        assert!(!peers.all_asleep());
        assert!(peers.inboxes()[1].take_interrupts(&mut X2Apic::new(1, 1)));
        peers.inboxes()[0].set_asleep(false);
        assert!(!peers.all_asleep());
    }

    #[test]
    fn the_end_of_a_vm_is_new_once_and_stays() {
        let peers = Peers::new([(1, None); 2].into_iter());
        assert!(peers.end() && !peers.end());
        for inbox in peers.inboxes() {
            inbox.take_interrupts(&mut X2Apic::new(0, 1));
            assert_eq!(inbox.take_signals(), Signals::default());
            assert!(inbox.has_ended() && !inbox.is_empty());
        }
    }

    proptest! {
        #[test]
        fn every_vector_arrives_once(vectors in proptest::collection::btree_set(16_u8.., 0..50)) {
            let (inbox, mut apic) = (Inbox::default(), X2Apic::new(0, 1));
            prop_assert!(apic.write(0x0f, 0x1ff, 0).is_ok());
            vectors.iter().for_each(|&vector| inbox.post(IpiKind::Fixed(vector)));
            prop_assert!(!inbox.take_interrupts(&mut apic));
            prop_assert!(inbox.is_empty());
            let mut found = std::vec::Vec::new();
            while let Some(vector) = apic.deliverable() {
                apic.deliver(vector);
                prop_assert!(apic.write(0x0b, 0, 0).is_ok());
                found.push(vector);
            }
            prop_assert_eq!(found, vectors.into_iter().rev().collect::<std::vec::Vec<_>>());
        }
    }
}
