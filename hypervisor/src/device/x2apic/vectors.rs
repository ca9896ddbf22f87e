//! The registers that the CPU itself may keep (SDM Vol. 3, "Virtual APIC State"),
//! in the layout that it knows: sixteen bytes a register, of which four count.

/// A register of 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub(super) struct Register(pub(super) u32);

/// A set of vectors: IRR, ISR or TMR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Vectors([Register; 8]);

impl Vectors {
    /// Puts `vector` in or takes it out.
    pub(super) fn set(&mut self, vector: u8, value: bool) {
        if let Some(Register(word)) = self.0.get_mut(usize::from(vector / 32)) {
            let bit = 1 << (vector % 32);
            *word = if value { *word | bit } else { *word & !bit };
        }
    }

    /// Whether `vector` is in it.
    pub(super) fn contains(&self, vector: u8) -> bool {
        self.word(u32::from(vector / 32)) & 1 << (vector % 32) != 0
    }

    /// The highest vector in it.
    pub(super) fn highest(&self) -> Option<u8> {
        let mut words = self.0.iter().enumerate().rev();
        let (index, Register(word)) = words.find(|(_, word)| word.0 != 0)?;
        Some((index as u32 * 32 + word.ilog2()) as u8)
    }

    /// The 32 vectors from `32 * index` on, as a register shows them.
    pub(super) fn word(&self, index: u32) -> u32 {
        self.0.get(index as usize).map_or(0, |word| word.0)
    }
}

/// Registers before TPR, and between PPR and ISR.
const BEFORE_PRIORITY: usize = 0x08;
const BEFORE_IN_SERVICE: usize = 0x10 - 0x0b;
/// Registers behind IRR.
const REST: usize = 0x100 - 0x28;

/// The virtual-APIC page.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(4096))]
pub struct Page {
    _before: [Register; BEFORE_PRIORITY],
    /// TPR.
    pub(super) task_priority: Register,
    _arbitration: Register,
    /// PPR, where the CPU keeps it.
    _processor_priority: Register,
    _between: [Register; BEFORE_IN_SERVICE],
    /// ISR.
    pub(super) in_service: Vectors,
    /// TMR: which vectors a device holds up until their end.
    pub(super) level: Vectors,
    /// IRR.
    pub(super) request: Vectors,
    _rest: [Register; REST],
}

const _: () = assert!(size_of::<Page>() == 4096);
const _: () = assert!(core::mem::offset_of!(Page, task_priority) == 0x80);
const _: () = assert!(core::mem::offset_of!(Page, in_service) == 0x100);
const _: () = assert!(core::mem::offset_of!(Page, request) == 0x200);

impl Default for Page {
    fn default() -> Self {
        Self {
            _before: [Register(0); BEFORE_PRIORITY],
            task_priority: Register(0),
            _arbitration: Register(0),
            _processor_priority: Register(0),
            _between: [Register(0); BEFORE_IN_SERVICE],
            in_service: Vectors::default(),
            level: Vectors::default(),
            request: Vectors::default(),
            _rest: [Register(0); REST],
        }
    }
}
