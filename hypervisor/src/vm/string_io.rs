//! INS and OUTS, executed for the guest: memory by the guest's own page tables and
//! with the rights that it has there.

use super::thread::Thread;
use crate::{
    cpu::switched,
    device::bus::Effect,
    memory::{
        address::Gpa,
        guest::OutsideMemory,
        walk::{self, Access},
    },
    vcpu::{
        outcome::{End, Exception, Fault},
        string_io::{StringInstruction, address_mask, advance, is_over},
    },
    vmx::exit::PortAccess,
};
use core::slice;

/// The longest element.
const MOST_BYTES: usize = 4;
/// The place of each byte of an element.
type Places = [Option<Gpa>; MOST_BYTES];

const DIRECTION: u64 = 1 << 10;
/// Alignment check, which with SMAP allows the kernel the user's pages.
const ALIGNMENT_CHECK: u64 = 1 << 18;
/// Where the VM-exit instruction information has the address size.
const ADDRESS_SIZE_SHIFT: u32 = 7;
/// The level of programs.
const USER_LEVEL: u32 = 3;

/// Executes one element of the instruction that the vCPU stands at.
///
/// # Errors
/// The VM ends, by an access to a port or because its page tables lead outside its
/// memory.
pub fn element(thread: &mut Thread, access: PortAccess) -> Result<(), End> {
    let state = thread.runner.string_instruction();
    let mask = address_mask(state.info >> ADDRESS_SIZE_SHIFT & 0b111);
    let registers = &thread.runner.vcpu().frame.registers;
    if is_over(registers, access, mask) {
        thread.runner.skip(state.length);
        return Ok(());
    }
    let Some(places) = operand(thread, &state, access) else {
        return Ok(());
    };
    let mut bytes = [0; MOST_BYTES];
    let vcpu = thread.runner.vcpu();
    let memory = &thread.vm.memory;
    let effect = if access.input {
        bytes = vcpu.on_bus(|bus| bus.read(access)).to_le_bytes();
        each(&mut bytes, &places, |gpa, byte| memory.write(gpa, byte))?;
        Effect::None
    } else {
        each(&mut bytes, &places, |gpa, byte| memory.read(gpa, byte))?;
        vcpu.on_bus(|bus| bus.write(access, u32::from_le_bytes(bytes)))
    };
    let down = state.rflags & DIRECTION != 0;
    if advance(&mut vcpu.frame.registers, access, mask, down) {
        thread.runner.skip(state.length);
    }
    match effect {
        Effect::None => Ok(()),
        Effect::Line => {
            thread.vm.show_line();
            Ok(())
        }
        Effect::End(code) => Err(End::Code(code)),
        Effect::Reset => Err(End::Reset),
    }
}

/// Where the bytes of the instruction's operand lie. If the guest may not access one of
/// them, it gets the page fault that the CPU would have raised.
fn operand(thread: &mut Thread, state: &StringInstruction, port: PortAccess) -> Option<Places> {
    let access = Access {
        write: port.input,
        user: state.level == USER_LEVEL,
        override_smap: state.rflags & ALIGNMENT_CHECK != 0,
    };
    let memory = &thread.vm.memory;
    let mut places = [None; MOST_BYTES];
    let used = places.iter_mut().take(usize::from(port.bytes));
    for (place, linear) in used.zip(state.operand..) {
        let mapping = walk::translate(state.paging, linear, |gpa| memory.read_u64(gpa));
        *place = mapping.and_then(|mapping| mapping.allows(state.paging, access));
        if place.is_none() {
            switched::set_fault_address(linear);
            let error_code = access.error_code(mapping.is_some());
            thread.runner.inject(Exception::page_fault(error_code));
            return None;
        }
    }
    Some(places)
}

/// Calls `copy` for each byte and its place.
fn each(
    bytes: &mut [u8; MOST_BYTES],
    places: &Places,
    copy: impl Fn(Gpa, &mut [u8]) -> Result<(), OutsideMemory>,
) -> Result<(), End> {
    for (byte, gpa) in bytes.iter_mut().zip(places.iter().flatten()) {
        copy(*gpa, slice::from_mut(byte))
            .map_err(|outside| End::Fault(Fault::StringIo { gpa: outside.gpa }))?;
    }
    Ok(())
}
