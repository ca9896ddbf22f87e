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
    /// An NMI.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI: execution begins at this page.
    StartUp(u8),
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
