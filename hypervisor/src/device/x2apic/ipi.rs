//! Inter-processor interrupts.

/// An inter-processor interrupt that the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// What is delivered.
    pub kind: IpiKind,
    /// Who gets it.
    pub to: IpiTarget,
}

/// What an IPI delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpiKind {
    /// An interrupt with this vector.
    Fixed(u8),
    /// An interrupt with this vector for one of the targets.
    LowestPriority(u8),
    /// An interrupt with this vector that a device holds up until its end.
    Level(u8),
    /// An NMI.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI: execution begins at this page.
    StartUp(u8),
    /// A device that is older than APICs has something for the target.
    External,
}

/// Who gets an IPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpiTarget {
    /// The APIC with this ID, or all with `u32::MAX`.
    Physical(u32),
    /// The APICs of this logical destination.
    Logical(u32),
    /// The sender.
    SelfOnly,
    /// All.
    AllWithSelf,
    /// All but the sender.
    AllButSelf,
}

impl IpiTarget {
    /// Whether the APIC with ID `id` is among them, for an IPI of the APIC with
    /// ID `sender`.
    pub fn includes(self, id: u32, sender: u32) -> bool {
        match self {
            Self::Physical(target) => target == id || target == u32::MAX,
            Self::Logical(u32::MAX) | Self::AllWithSelf => true,
            Self::Logical(target) => {
                let own = logical_id(id);
                target >> 16 == own >> 16 && target & own & 0xffff != 0
            }
            Self::SelfOnly => sender == id,
            Self::AllButSelf => sender != id,
        }
    }
}

/// The logical ID that x2APIC mode derives from the ID (SDM Vol. 3, "Deriving
/// Logical x2APIC ID from the Local x2APIC ID").
pub(super) fn logical_id(id: u32) -> u32 {
    id >> 4 << 16 | 1 << (id & 0xf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_by_id_cluster_and_sender() {
        let includes = |target: IpiTarget, sender| target.includes(0x13, sender);
        assert!(includes(IpiTarget::Physical(0x13), 0));
        assert!(includes(IpiTarget::Physical(u32::MAX), 0));
        assert!(!includes(IpiTarget::Physical(3), 0));
        assert!(includes(IpiTarget::Logical(1 << 16 | 0b1100), 0));
        assert!(!includes(IpiTarget::Logical(2 << 16 | 0b1000), 0));
        assert!(!includes(IpiTarget::Logical(1 << 16 | 0b0100), 0));
        assert!(includes(IpiTarget::Logical(u32::MAX), 0));
        assert!(includes(IpiTarget::AllWithSelf, 0x13));
        assert!(!includes(IpiTarget::AllButSelf, 0x13));
        assert!(includes(IpiTarget::AllButSelf, 0));
        assert!(includes(IpiTarget::SelfOnly, 0x13));
        assert!(!includes(IpiTarget::SelfOnly, 0));
    }
}
