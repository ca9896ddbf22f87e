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

/// The bytes at linear address `linear`, as far as they are mapped.
pub fn at(memory: &GuestMemory, paging: Paging, linear: u64) -> [Option<u8>; LONGEST] {
    let read_u64 = |gpa: Gpa| {
        let mut bytes = [0; 8];
        memory.read(gpa, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let mut next = linear;
    [(); LONGEST].map(|()| {
        let gpa = walk::translate(paging, next, read_u64)?.gpa;
        next = next.wrapping_add(1);
        let mut byte = [0];
        memory.read(gpa, &mut byte).ok().map(|()| byte[0])
    })
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
    let code = at(&thread.vm.memory, state.paging, state.instruction());
    let mut bytes = [0; LONGEST];
    let mut length = 0;
    for (to, byte) in bytes
        .iter_mut()
        .zip(code.into_iter().map_while(|byte| byte))
    {
        *to = byte;
        length += 1;
    }
    let code = bytes.get(..length).unwrap_or(&[]);
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
