//! Why a guest stopped: basic exit reasons and their qualifications
//! (SDM Vol. 3, appendix "VMX Basic Exit Reasons", and "Exit Qualification").

use core::fmt;

/// A basic exit reason. Open: silicon to come may report others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(pub u16);

macro_rules! reasons {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Reason {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// What happened, in words.
            pub fn text(self) -> &'static str {
                match self.0 {
                    $($number => $text,)*
                    _ => "an exit this hypervisor does not know",
                }
            }
        }
    };
}

reasons! {
    EXCEPTION_OR_NMI      = 0,  "exception or NMI";
    EXTERNAL_INTERRUPT    = 1,  "external interrupt";
    TRIPLE_FAULT          = 2,  "triple fault";
    INIT                  = 3,  "INIT signal";
    SIPI                  = 4,  "start-up IPI";
    INTERRUPT_WINDOW      = 7,  "interrupt window";
    NMI_WINDOW            = 8,  "NMI window";
    TASK_SWITCH           = 9,  "task switch";
    CPUID                 = 10, "CPUID";
    GETSEC                = 11, "GETSEC";
    HLT                   = 12, "HLT";
    INVD                  = 13, "INVD";
    RDPMC                 = 15, "RDPMC";
    VMCALL                = 18, "VMCALL";
    VMCLEAR               = 19, "VMCLEAR";
    VMLAUNCH              = 20, "VMLAUNCH";
    VMPTRLD               = 21, "VMPTRLD";
    VMPTRST               = 22, "VMPTRST";
    VMREAD                = 23, "VMREAD";
    VMRESUME              = 24, "VMRESUME";
    VMWRITE               = 25, "VMWRITE";
    VMXOFF                = 26, "VMXOFF";
    VMXON                 = 27, "VMXON";
    CR_ACCESS             = 28, "control-register access";
    DR_ACCESS             = 29, "debug-register access";
    IO                    = 30, "I/O instruction";
    RDMSR                 = 31, "RDMSR";
    WRMSR                 = 32, "WRMSR";
    INVALID_GUEST_STATE   = 33, "VM-entry failure: invalid guest state";
    MSR_LOADING           = 34, "VM-entry failure: MSR loading";
    MWAIT                 = 36, "MWAIT";
    MONITOR               = 39, "MONITOR";
    MACHINE_CHECK         = 41, "VM-entry failure: machine check";
    VIRTUALIZED_EOI       = 45, "end of an interrupt that a device holds up";
    EPT_VIOLATION         = 48, "EPT violation";
    EPT_MISCONFIGURATION  = 49, "EPT misconfiguration";
    INVEPT                = 50, "INVEPT";
    PREEMPTION_TIMER      = 52, "preemption timer";
    INVVPID               = 53, "INVVPID";
    WBINVD                = 54, "WBINVD";
    XSETBV                = 55, "XSETBV";
}

impl Reason {
    /// Reasons fit below this, a power of two; for tables by reason.
    pub const COUNT: usize = 128;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (reason {})", self.text(), self.0)
    }
}

/// A port access (SDM Vol. 3, "Exit Qualification for I/O Instructions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// The first port.
    pub port: u16,
    /// Bytes: 1, 2 or 4.
    pub bytes: u8,
    /// IN rather than OUT.
    pub input: bool,
    /// INS or OUTS, with or without REP.
    pub string: bool,
    /// With REP.
    pub repeated: bool,
}

impl PortAccess {
    /// From the exit qualification.
    pub fn decode(qualification: u64) -> Self {
        Self {
            port: (qualification >> 16) as u16,
            bytes: (qualification & 0b111) as u8 + 1,
            input: qualification & 1 << 3 != 0,
            string: qualification & 1 << 4 != 0,
            repeated: qualification & 1 << 5 != 0,
        }
    }
}

/// What a control-register access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrAccess {
    /// MOV from a general-purpose register, by its number.
    Write {
        /// Number of the control register.
        cr: u8,
        /// Number of the general-purpose register.
        gpr: u8,
    },
    /// MOV to a general-purpose register.
    Read {
        /// Number of the control register.
        cr: u8,
        /// Number of the general-purpose register.
        gpr: u8,
    },
    /// CLTS.
    ClearTs,
    /// LMSW with this operand.
    LoadStatusWord(u16),
}

impl CrAccess {
    /// From the exit qualification (SDM Vol. 3, "Exit Qualification for
    /// Control-Register Accesses").
    pub fn decode(qualification: u64) -> Self {
        let cr = (qualification & 0xf) as u8;
        let gpr = (qualification >> 8 & 0xf) as u8;
        match qualification >> 4 & 0b11 {
            0 => Self::Write { cr, gpr },
            1 => Self::Read { cr, gpr },
            2 => Self::ClearTs,
            _ => Self::LoadStatusWord((qualification >> 16) as u16),
        }
    }
}

/// VM-exit interruption information and IDT-vectoring information, and in the
/// same shape the event to inject (SDM Vol. 3, "VM-Entry Controls for Event
/// Injection").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventInfo(pub u32);

/// Type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An external interrupt.
    External,
    /// A non-maskable interrupt.
    Nmi,
    /// An exception that the processor raised.
    Exception,
    /// INT n.
    SoftwareInterrupt,
    /// INT1.
    PrivilegedSoftwareException,
    /// INT3 or INTO.
    SoftwareException,
    /// Reserved encodings.
    Other,
}

impl EventInfo {
    const VALID: u32 = 1 << 31;
    const ERROR_CODE: u32 = 1 << 11;

    /// An NMI for injection.
    pub const NMI: Self = Self(Self::VALID | 2 << 8 | 2);

    /// An exception of the processor for injection; with an error code where
    /// the vector has one.
    pub const fn exception(vector: u8, has_error_code: bool) -> Self {
        const HARDWARE_EXCEPTION: u32 = 3 << 8;
        let error_code = if has_error_code { Self::ERROR_CODE } else { 0 };
        Self(Self::VALID | HARDWARE_EXCEPTION | error_code | vector as u32)
    }

    /// An external interrupt for injection.
    pub const fn external(vector: u8) -> Self {
        Self(Self::VALID | vector as u32)
    }

    /// Whether there is an event at all.
    pub fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// The vector.
    pub fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Its type.
    pub fn kind(self) -> EventKind {
        match self.0 >> 8 & 0b111 {
            0 => EventKind::External,
            2 => EventKind::Nmi,
            3 => EventKind::Exception,
            4 => EventKind::SoftwareInterrupt,
            5 => EventKind::PrivilegedSoftwareException,
            6 => EventKind::SoftwareException,
            _ => EventKind::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_accesses_decode() {
        let out = PortAccess::decode(0x3f8 << 16);
        assert_eq!(
            (out.port, out.bytes, out.input, out.string),
            (0x3f8, 1, false, false)
        );
        let ins = PortAccess::decode(0xffff << 16 | 1 << 4 | 1 << 3 | 3);
        assert_eq!(
            (ins.port, ins.bytes, ins.input, ins.string),
            (0xffff, 4, true, true)
        );
    }

    #[test]
    fn control_register_accesses_decode() {
        assert_eq!(CrAccess::decode(0x504), CrAccess::Write { cr: 4, gpr: 5 });
        assert_eq!(CrAccess::decode(0x318), CrAccess::Read { cr: 8, gpr: 3 });
        assert_eq!(CrAccess::decode(0x020), CrAccess::ClearTs);
        assert_eq!(
            CrAccess::decode(0xabcd_0030),
            CrAccess::LoadStatusWord(0xabcd)
        );
    }

    #[test]
    fn events_keep_vector_kind_and_error_code() {
        let gp = EventInfo::exception(13, true);
        assert_eq!(gp.0, 0x8000_0b0d);
        assert_eq!((gp.vector(), gp.kind()), (13, EventKind::Exception));
        assert_eq!(EventInfo::exception(7, false).0, 0x8000_0307);
    }
}
