//! The registers of the processor this code runs on: each method is one
//! instruction. The instruction to save with is chosen once.
#![expect(
    unsafe_code,
    reason = "XSETBV, the MSRs and the XSAVE family exist as instructions only"
)]

use crate::cpu::bits::{join, split};
use crate::cpu::msr::{self, Msr};
use crate::xstate::area::Area;
use crate::xstate::features::XFeatures;
use crate::xstate::layout::{Extensions, Layout};
use crate::xstate::registers::XRegisters;
use core::arch::asm;

/// How extended state is saved without XSAVES, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Save {
    Xsavec,
    Xsaveopt,
    Xsave,
}

impl Save {
    const fn best(extensions: Extensions) -> Self {
        match extensions {
            Extensions { xsavec: true, .. } => Self::Xsavec,
            Extensions { xsaveopt: true, .. } => Self::Xsaveopt,
            _ => Self::Xsave,
        }
    }
}

/// Saves all that `area` has room for with one instruction of the family.
macro_rules! save {
    ($instruction:literal, $area:ident) => {{
        let (edx, eax) = split($area.features().bits());
        // SAFETY: the area is aligned to 64 bytes and has room for the components
        // EDX:EAX in the format this instruction writes.
        unsafe {
            asm!(concat!($instruction, " [{}]"), in(reg) $area.as_mut_ptr(), in("eax") eax,
                in("edx") edx, options(nostack, preserves_flags))
        }
    }};
}

/// The processor.
pub struct Silicon {
    xsaves: bool,
    otherwise: Save,
    xgetbv1: bool,
}

impl Silicon {
    /// The extended-state registers of this logical processor.
    ///
    /// # Safety
    /// `layout` describes this processor and is that of every area the value
    /// will be given, CPL is 0, CR4.OSXSAVE is set and
    /// CR0.TS clear whenever a method is called, the value is used on no other
    /// processor and there is no other, and nothing but guests keeps anything
    /// in extended-state registers.
    #[must_use]
    pub const unsafe fn new(layout: &Layout) -> Self {
        Self {
            xsaves: layout.extensions().xsaves,
            otherwise: Save::best(layout.extensions()),
            xgetbv1: layout.extensions().xgetbv1,
        }
    }

    #[cold]
    fn save_otherwise(&self, area: &mut Area) {
        match self.otherwise {
            Save::Xsavec => save!("xsavec64", area),
            Save::Xsaveopt => save!("xsaveopt64", area),
            Save::Xsave => save!("xsave64", area),
        }
    }
}

fn read(msr: Msr) -> XFeatures {
    // SAFETY: `XRegisters` promises that the register exists.
    XFeatures::from_bits(unsafe { msr::read(msr) })
}

fn write(msr: Msr, value: XFeatures) {
    // SAFETY: the register exists; values come from the layout or passed a
    // rule, and touch no memory and no register that Rust code lives in.
    unsafe { msr::write(msr, value.bits()) }
}

impl XRegisters for Silicon {
    fn set_xcr0(&mut self, value: XFeatures) {
        let (edx, eax) = split(value.bits());
        // SAFETY: CR4.OSXSAVE is set and the value passed the rules of XCR0.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") eax, in("edx") edx,
                options(nostack, preserves_flags));
        }
    }

    fn set_xss(&mut self, value: XFeatures) {
        write(Msr::IA32_XSS, value);
    }

    fn xfd(&self) -> XFeatures {
        read(Msr::IA32_XFD)
    }

    fn set_xfd(&mut self, value: XFeatures) {
        write(Msr::IA32_XFD, value);
    }

    fn xfd_err(&self) -> XFeatures {
        read(Msr::IA32_XFD_ERR)
    }

    fn set_xfd_err(&mut self, value: XFeatures) {
        write(Msr::IA32_XFD_ERR, value);
    }

    fn in_use(&self) -> XFeatures {
        if !self.xgetbv1 {
            return XFeatures::ALL;
        }
        let (eax, edx): (u32, u32);
        // SAFETY: CR4.OSXSAVE is set and CPUID reports XGETBV with ECX = 1.
        unsafe {
            asm!("xgetbv", in("ecx") 1, out("eax") eax, out("edx") edx,
                options(nomem, nostack, preserves_flags));
        }
        XFeatures::from_bits(join(edx, eax))
    }

    fn save(&mut self, area: &mut Area) {
        match self.xsaves {
            true => save!("xsaves64", area),
            false => self.save_otherwise(area),
        }
    }

    fn restore(&mut self, area: &Area) {
        let (edx, eax) = split(XFeatures::ALL.bits());
        let area = area.as_ptr();
        // SAFETY: `area` is aligned, its header and MXCSR are valid, and it has
        // room for all that XSTATE_BV names. No Rust code is compiled to use
        // the registers it loads (`x86_64-unknown-none` is soft-float).
        unsafe {
            match self.xsaves {
                true => asm!("xrstors64 [{}]", in(reg) area, in("eax") eax,
                    in("edx") edx, options(nostack, readonly, preserves_flags)),
                false => asm!("xrstor64 [{}]", in(reg) area, in("eax") eax, in("edx") edx,
                    options(nostack, readonly, preserves_flags)),
            }
        }
    }
}
