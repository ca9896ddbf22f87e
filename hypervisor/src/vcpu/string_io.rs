//! INS and OUTS: how the registers move on, an element at a time. Between two elements
//! the instruction can be interrupted and is executed again, as on hardware
//! (SDM Vol. 2, "REP/REPE/REPZ/REPNE/REPNZ").

use crate::{
    memory::walk::Paging,
    vmx::{exit::PortAccess, frame::Registers},
};

/// What the CPU says of an INS or OUTS that exited.
#[derive(Clone, Copy, Debug)]
pub struct StringInstruction {
    /// Its length in bytes.
    pub length: u64,
    /// The VM-exit instruction information.
    pub info: u32,
    /// The linear address of its operand in memory.
    pub operand: u64,
    /// The privilege level.
    pub level: u32,
    /// RFLAGS.
    pub rflags: u64,
    /// The control registers, as the hardware has them.
    pub paging: Paging,
}

/// Registers of an instruction with this address size use so many bits; it is 0 for 16
/// bits, 1 for 32, 2 for 64, as in the VM-exit instruction information
/// (SDM Vol. 3, "VM-Exit Instruction Information").
pub fn address_mask(address_size: u32) -> u64 {
    match address_size {
        0 => 0xffff,
        1 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Whether no element is left, because the count was zero.
pub fn is_over(registers: &Registers, access: PortAccess, mask: u64) -> bool {
    access.repeated && registers.rcx & mask == 0
}

/// Moves on behind one element, towards lower addresses if `down`. The instruction is
/// complete if this says so.
pub fn advance(registers: &mut Registers, access: PortAccess, mask: u64, down: bool) -> bool {
    let bytes = u64::from(access.bytes);
    let index = match access.input {
        true => &mut registers.rdi,
        false => &mut registers.rsi,
    };
    let next = match down {
        true => index.wrapping_sub(bytes),
        false => index.wrapping_add(bytes),
    };
    *index = merge(*index, next, mask);
    if !access.repeated {
        return true;
    }
    let left = registers.rcx.wrapping_sub(1);
    registers.rcx = merge(registers.rcx, left, mask);
    left & mask == 0
}

/// A register that was written with 16 bits keeps the others; with 32, it loses them
/// (SDM Vol. 1, "General-Purpose Registers in 64-Bit Mode").
fn merge(old: u64, new: u64, mask: u64) -> u64 {
    match mask {
        0xffff => old & !mask | new & mask,
        _ => new & mask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn access(bytes: u8, input: bool, repeated: bool) -> PortAccess {
        PortAccess {
            port: 0x3f8,
            bytes,
            input,
            string: true,
            repeated,
        }
    }

    #[test]
    fn sixteen_bits_wrap_and_leave_the_rest_alone() {
        let mut registers = Registers {
            rsi: 0xaaaa_ffff,
            rcx: 0xbbbb_0002,
            ..Registers::default()
        };
        let outs = access(1, false, true);
        let mask = address_mask(0);
        assert!(!is_over(&registers, outs, mask));
        assert!(!advance(&mut registers, outs, mask, false));
        assert_eq!((registers.rsi, registers.rcx), (0xaaaa_0000, 0xbbbb_0001));
        assert!(advance(&mut registers, outs, mask, true));
        assert_eq!((registers.rsi, registers.rcx), (0xaaaa_ffff, 0xbbbb_0000));
        assert!(is_over(&registers, outs, mask));
    }

    #[test]
    fn without_rep_the_count_means_nothing() {
        let mut registers = Registers::default();
        let ins = access(4, true, false);
        assert!(!is_over(&registers, ins, address_mask(2)));
        assert!(advance(&mut registers, ins, address_mask(2), true));
        assert_eq!((registers.rdi, registers.rcx), (4_u64.wrapping_neg(), 0));
    }

    proptest! {
        #[test]
        fn it_ends_after_as_many_elements_as_the_count_says(
            count in 1_u64..100, start in any::<u64>(), size in 0_u32..3,
            bytes in prop::sample::select(&[1_u8, 2, 4][..]), input in any::<bool>(),
        ) {
            let mut registers = Registers { rcx: count, rsi: start, rdi: start, ..Registers::default() };
            let (access, mask) = (access(bytes, input, true), address_mask(size));
            let mut elements = 1;
            while !advance(&mut registers, access, mask, false) {
                elements += 1;
            }
            prop_assert_eq!(elements, count);
            let moved = if input { registers.rdi } else { registers.rsi };
            let expected = start.wrapping_add(count * u64::from(bytes));
            prop_assert_eq!(moved & mask, expected & mask);
        }
    }
}
