//! The one instruction that is decoded: a MOV of 32 bits between memory and a
//! register, with which guests reach devices in memory (SDM Vol. 2, "Instruction
//! Format" and "MOV"). All else that exits, the CPU describes itself; it also tells
//! the address, so that only the length of the addressing form matters. Crates that
//! know all instructions are larger than the hypervisor.

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads into the general-purpose register with this number.
    Load(u8),
    /// Writes the general-purpose register with this number.
    Store(u8),
    /// Writes this value.
    StoreImmediate(u32),
}

/// A MOV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// What it does.
    pub operation: Operation,
    /// Its length in bytes.
    pub length: u64,
}

/// Longest instruction (SDM Vol. 2, "Instruction Format").
pub const LONGEST: usize = 15;

/// Decodes `code`; `None` if it is something else. In 64-bit mode if `long`, else
/// with operands and addresses of 32 bits.
pub fn decode(code: &[u8], long: bool) -> Option<Move> {
    const LOAD: u8 = 0x8b;
    const STORE: u8 = 0x89;
    const STORE_IMMEDIATE: u8 = 0xc7;
    const LOAD_EAX: u8 = 0xa1;
    const STORE_EAX: u8 = 0xa3;
    const REX: u8 = 0x40;
    const REX_W: u8 = 1 << 3;
    const REX_R: u8 = 1 << 2;

    let mut at = code.iter().copied().zip(1_u64..);
    let (mut opcode, mut length) = at.find(|(byte, _)| !is_segment_override(*byte))?;
    let mut rex = 0;
    if long && opcode & 0xf0 == REX {
        rex = opcode;
        (opcode, length) = at.next()?;
    }
    if rex & REX_W != 0 {
        return None;
    }
    if matches!(opcode, LOAD_EAX | STORE_EAX) {
        length += if long { 8 } else { 4 };
        let operation = match opcode {
            LOAD_EAX => Operation::Load(0),
            _ => Operation::Store(0),
        };
        return fits(code, operation, length);
    }
    if !matches!(opcode, LOAD | STORE | STORE_IMMEDIATE) {
        return None;
    }
    let (modrm, _) = at.next()?;
    let (mode, middle, base) = (modrm >> 6, modrm >> 3 & 0b111, modrm & 0b111);
    length += 1;
    // SDM Vol. 2, "32-Bit Addressing Forms with the ModR/M Byte".
    let mut base_of_sib = None;
    if base == 0b100 {
        base_of_sib = Some(at.next()?.0 & 0b111);
        length += 1;
    }
    length += match mode {
        0 if base == 0b101 || base_of_sib == Some(0b101) => 4,
        0 => 0,
        1 => 1,
        2 => 4,
        // No memory at all.
        _ => return None,
    };
    let register = middle | if rex & REX_R != 0 { 1 << 3 } else { 0 };
    let operation = match opcode {
        LOAD => Operation::Load(register),
        STORE => Operation::Store(register),
        _ if middle != 0 => return None,
        _ => {
            let at = usize::try_from(length).ok()?;
            let value = code.get(at..)?.first_chunk()?;
            length += 4;
            Operation::StoreImmediate(u32::from_le_bytes(*value))
        }
    };
    fits(code, operation, length)
}

/// CS, SS, DS, ES, FS, GS.
fn is_segment_override(byte: u8) -> bool {
    matches!(byte, 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65)
}

fn fits(code: &[u8], operation: Operation, length: u64) -> Option<Move> {
    (length <= code.len() as u64).then_some(Move { operation, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moved(operation: Operation, length: u64) -> Option<Move> {
        Some(Move { operation, length })
    }

    #[test]
    fn moves_of_32_bits_are_decoded() {
        // MOV EAX, [RDI]; MOV [RSI + 16], R9D; MOV DWORD [RAX], 0x12345678.
        assert_eq!(decode(&[0x8b, 0x07], true), moved(Operation::Load(0), 2));
        assert_eq!(
            decode(&[0x44, 0x89, 0x4e, 0x10], true),
            moved(Operation::Store(9), 4)
        );
        assert_eq!(
            decode(&[0xc7, 0x00, 0x78, 0x56, 0x34, 0x12], true),
            moved(Operation::StoreImmediate(0x1234_5678), 6)
        );
        // MOV ECX, FS:[RIP + 8]; MOV [RBP + RAX * 4 - 8], EDX; MOV [RAX * 4 + 16], EBX.
        assert_eq!(
            decode(&[0x64, 0x8b, 0x0d, 8, 0, 0, 0], true),
            moved(Operation::Load(1), 7)
        );
        assert_eq!(
            decode(&[0x89, 0x54, 0x85, 0xf8], true),
            moved(Operation::Store(2), 4)
        );
        assert_eq!(
            decode(&[0x89, 0x1c, 0x85, 0x10, 0, 0, 0], true),
            moved(Operation::Store(3), 7)
        );
        // MOV EAX, moffs32 and MOV [EBX], ECX outside 64-bit mode.
        assert_eq!(
            decode(&[0xa1, 0, 0, 0xc0, 0xfe], false),
            moved(Operation::Load(0), 5)
        );
        assert_eq!(decode(&[0x89, 0x0b], false), moved(Operation::Store(1), 2));
    }

    #[test]
    fn all_else_is_refused() {
        // MOV AL, [RDI]; MOV RAX, [RDI]; ADD [RAX], EAX; MOV EAX, EBX; too short.
        for code in [
            &[0x8a, 0x07][..],
            &[0x48, 0x8b, 0x07],
            &[0x01, 0x00],
            &[0x89, 0xd8],
            &[0x8b],
        ] {
            assert_eq!(decode(code, true), None, "{code:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_code_panics(code: [u8; LONGEST], long: bool) {
            if let Some(decoded) = decode(&code, long) {
                prop_assert!((2..=LONGEST as u64).contains(&decoded.length));
                // Nothing behind its end matters, and all before does.
                let end = decoded.length as usize;
                prop_assert_eq!(decode(&code[..end], long), Some(decoded));
                prop_assert_eq!(decode(&code[..end - 1], long), None);
            }
        }
    }
}
