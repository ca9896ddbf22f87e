//! Model-specific registers: one row a register (SDM Vol. 4, "Model-Specific
//! Registers"), with the gate that says when it exists. Reading one that does
//! not exist raises #GP, so callers check the gate.

#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "RDMSR and WRMSR"))]

/// Number of a model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Msr(pub u32);

macro_rules! msrs {
    ($($name:ident = $number:literal, $gate:literal;)*) => {
        impl Msr {
            $(#[doc = concat!("Exists with: ", $gate, ".")] pub const $name: Self = Self($number);)*
        }
    };
}

msrs! {
    IA32_TSC                      = 0x0010,      "TSC";
    IA32_APIC_BASE                = 0x001b,      "APIC";
    IA32_FEATURE_CONTROL          = 0x003a,      "VMX or SMX";
    IA32_BIOS_SIGN_ID             = 0x008b,      "always";
    IA32_SYSENTER_CS              = 0x0174,      "SEP";
    IA32_SYSENTER_ESP             = 0x0175,      "SEP";
    IA32_SYSENTER_EIP             = 0x0176,      "SEP";
    IA32_MISC_ENABLE              = 0x01a0,      "always";
    IA32_XFD                      = 0x01c4,      "CPUID.(0xD,1).EAX[4]";
    IA32_XFD_ERR                  = 0x01c5,      "CPUID.(0xD,1).EAX[4]";
    IA32_PAT                      = 0x0277,      "PAT";
    IA32_VMX_BASIC                = 0x0480,      "VMX";
    IA32_VMX_PINBASED_CTLS        = 0x0481,      "VMX";
    IA32_VMX_PROCBASED_CTLS       = 0x0482,      "VMX";
    IA32_VMX_EXIT_CTLS            = 0x0483,      "VMX";
    IA32_VMX_ENTRY_CTLS           = 0x0484,      "VMX";
    IA32_VMX_MISC                 = 0x0485,      "VMX";
    IA32_VMX_CR0_FIXED0           = 0x0486,      "VMX";
    IA32_VMX_CR0_FIXED1           = 0x0487,      "VMX";
    IA32_VMX_CR4_FIXED0           = 0x0488,      "VMX";
    IA32_VMX_CR4_FIXED1           = 0x0489,      "VMX";
    IA32_VMX_PROCBASED_CTLS2      = 0x048b,      "primary control 31 allowed";
    IA32_VMX_EPT_VPID_CAP         = 0x048c,      "secondary control 1 or 5 allowed";
    IA32_VMX_TRUE_PINBASED_CTLS   = 0x048d,      "IA32_VMX_BASIC[55]";
    IA32_VMX_TRUE_PROCBASED_CTLS  = 0x048e,      "IA32_VMX_BASIC[55]";
    IA32_VMX_TRUE_EXIT_CTLS       = 0x048f,      "IA32_VMX_BASIC[55]";
    IA32_VMX_TRUE_ENTRY_CTLS      = 0x0490,      "IA32_VMX_BASIC[55]";
    IA32_TSC_DEADLINE             = 0x06e0,      "CPUID.1:ECX[24]";
    IA32_XSS                      = 0x0da0,      "CPUID.(0xD,1).EAX[3]";
    IA32_EFER                     = 0xc000_0080, "long mode";
    IA32_STAR                     = 0xc000_0081, "long mode";
    IA32_LSTAR                    = 0xc000_0082, "long mode";
    IA32_CSTAR                    = 0xc000_0083, "long mode";
    IA32_FMASK                    = 0xc000_0084, "long mode";
    IA32_FS_BASE                  = 0xc000_0100, "long mode";
    IA32_GS_BASE                  = 0xc000_0101, "long mode";
    IA32_KERNEL_GS_BASE           = 0xc000_0102, "long mode";
    IA32_TSC_AUX                  = 0xc000_0103, "RDTSCP or RDPID";
}

#[cfg(target_os = "none")]
mod hardware {
    use super::Msr;

    /// Reads `msr`.
    ///
    /// # Safety
    /// The register exists on this CPU: its gate was checked.
    pub unsafe fn read(msr: Msr) -> u64 {
        // SAFETY: the caller checked that the register exists.
        unsafe { x86_64::registers::model_specific::Msr::new(msr.0).read() }
    }

    /// Writes `value` to `msr`.
    ///
    /// # Safety
    /// The register exists, accepts the value, and what the value changes does
    /// not break the memory safety of running code.
    pub unsafe fn write(msr: Msr, value: u64) {
        // SAFETY: the caller vouches for register and value.
        unsafe { x86_64::registers::model_specific::Msr::new(msr.0).write(value) }
    }
}
#[cfg(target_os = "none")]
pub use hardware::{read, write};
