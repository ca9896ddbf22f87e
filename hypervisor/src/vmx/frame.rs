//! What entry and exit keep of a vCPU in memory.

use crate::cpu::bits::{join, split};
use core::mem::size_of;

/// The general-purpose registers that VMX leaves to software, in the order in
/// which they are popped; RSP, RIP and RFLAGS live in the VMCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// R15
    pub r15: u64,
    /// R14
    pub r14: u64,
    /// R13
    pub r13: u64,
    /// R12
    pub r12: u64,
    /// R11
    pub r11: u64,
    /// R10
    pub r10: u64,
    /// R9
    pub r9: u64,
    /// R8
    pub r8: u64,
    /// RBP
    pub rbp: u64,
    /// RDI
    pub rdi: u64,
    /// RSI
    pub rsi: u64,
    /// RDX
    pub rdx: u64,
    /// RCX
    pub rcx: u64,
    /// RBX
    pub rbx: u64,
    /// RAX
    pub rax: u64,
}

impl Registers {
    /// The register with this number in instruction encodings and exit
    /// qualifications; `None` for RSP, which is in the VMCS, and beyond 15.
    pub fn by_number(&self, number: u8) -> Option<u64> {
        let mut copy = *self;
        copy.by_number_mut(number).copied()
    }

    /// As [`Self::by_number`], to change it.
    pub fn by_number_mut(&mut self, number: u8) -> Option<&mut u64> {
        Some(match number {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            15 => &mut self.r15,
            _ => return None,
        })
    }

    /// EDX:EAX, as WRMSR and XSETBV take it.
    pub fn edx_eax(&self) -> u64 {
        join(self.rdx as u32, self.rax as u32)
    }

    /// Sets EDX and EAX as RDMSR does, clearing the registers' upper halves.
    pub fn set_edx_eax(&mut self, value: u64) {
        let (edx, eax) = split(value);
        self.rdx = u64::from(edx);
        self.rax = u64::from(eax);
    }

    /// ECX.
    pub fn ecx(&self) -> u32 {
        self.rcx as u32
    }
}

/// The registers and what the exit path needs to get back into Rust.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// The guest's.
    pub registers: Registers,
    /// The host's RSP while the guest runs; written by every `enter`.
    pub(super) host_stack: u64,
    /// Called at each exit with interrupts off and the VMCS current; says
    /// whether to resume the guest.
    pub on_exit: unsafe extern "sysv64" fn(*mut Frame) -> bool,
    /// Whether the VMCS was launched since it was last cleared.
    pub launched: bool,
}

impl Frame {
    /// Offset that HOST_RSP has from the frame: just behind the registers.
    pub const HOST_RSP: usize = size_of::<Registers>();

    /// A frame of a vCPU that has not run.
    pub fn new(on_exit: unsafe extern "sysv64" fn(*mut Frame) -> bool) -> Self {
        Self {
            registers: Registers::default(),
            host_stack: 0,
            on_exit,
            launched: false,
        }
    }
}

// The push order of the exit path relies on this.
const _: () = assert!(core::mem::offset_of!(Frame, registers) == 0);
const _: () = assert!(core::mem::offset_of!(Registers, rax) + 8 == Frame::HOST_RSP);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edx_eax_joins_and_splits() {
        let mut registers = Registers {
            rax: 0xffff_ffff_1234_5678,
            rdx: 0xffff_ffff_9abc_def0,
            ..Registers::default()
        };
        assert_eq!(registers.edx_eax(), 0x9abc_def0_1234_5678);
        registers.set_edx_eax(0x0102_0304_0506_0708);
        assert_eq!((registers.rdx, registers.rax), (0x0102_0304, 0x0506_0708));
    }

    #[test]
    fn numbers_follow_the_instruction_encoding() {
        let registers = Registers {
            rcx: 1,
            rbx: 3,
            rdi: 7,
            r15: 15,
            ..Registers::default()
        };
        assert_eq!(
            [1, 3, 7, 15].map(|n| registers.by_number(n)),
            [Some(1), Some(3), Some(7), Some(15)]
        );
        assert_eq!([4, 16].map(|n| registers.by_number(n)), [None, None]);
    }
}
