//! The instruction that a vCPU stands at: read for reports, and executed in the
//! guest's stead where it accesses a device in memory.

use super::thread::Thread;
use crate::{
    memory::{
        address::Gpa,
        guest::GuestMemory,
        walk::{self, Paging},
    },
    vcpu::{
        instruction::{self, LONGEST, Operation},
        outcome::{End, Fault},
    },
};

/// The smallest page.
const PAGE_BYTES: u64 = 4096;

/// The bytes at linear address `linear`, as far as they are mapped; how many they are.
pub fn at(memory: &GuestMemory, paging: Paging, linear: u64) -> ([u8; LONGEST], usize) {
    let (mut bytes, mut found) = ([0; LONGEST], 0);
    while let Some(rest) = bytes.get_mut(found..).filter(|rest| !rest.is_empty()) {
        let next = linear.wrapping_add(found as u64);
        let room = PAGE_BYTES - next % PAGE_BYTES;
        let (piece, _) = rest.split_at_mut(rest.len().min(room as usize));
        let mapping = walk::translate(paging, next, |gpa| memory.read_u64(gpa));
        let read = mapping.map(|mapping| memory.read(mapping.gpa, piece));
        if !matches!(read, Some(Ok(()))) {
            break;
        }
        found += piece.len();
    }
    (bytes, found)
}

/// Executes the access to the device at `gpa` that the vCPU stands at.
///
/// # Errors
/// The instruction is not one that is emulated.
pub fn access_device(thread: &mut Thread, gpa: Gpa) -> Result<(), End> {
    let unknown = End::Fault(Fault::DeviceAccess { gpa });
    let state = thread.runner.snapshot();
    if state.delivering {
        // Not an instruction, but a stack or a descriptor table in a device.
        return Err(unknown);
    }
    let (code, found) = at(&thread.vm.memory, state.paging, state.instruction());
    let code = code.get(..found).unwrap_or(&[]);
    let decoded = instruction::decode(code, state.long_mode).ok_or(unknown)?;
    let vcpu = thread.runner.vcpu();
    match decoded.operation {
        Operation::Load(number) => {
            let value = u64::from(vcpu.on_bus(|bus| bus.read_memory(gpa)));
            let register = vcpu.frame.registers.by_number_mut(number);
            *register.ok_or(unknown)? = value;
        }
        Operation::Store(number) => {
            let value = vcpu.frame.registers.by_number(number).ok_or(unknown)?;
            vcpu.on_bus(|bus| bus.write_memory(gpa, value as u32));
        }
        Operation::StoreImmediate(value) => vcpu.on_bus(|bus| bus.write_memory(gpa, value)),
    }
    thread.runner.skip(decoded.length);
    Ok(())
}
