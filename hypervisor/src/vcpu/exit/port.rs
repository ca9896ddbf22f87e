//! IN and OUT.

use crate::{
    device::bus::Effect,
    vcpu::{
        Vcpu,
        outcome::{End, Leave, Outcome},
    },
    vmx::exit::PortAccess,
};

#[inline(always)]
pub(super) fn handle(vcpu: &mut Vcpu, access: PortAccess) -> Outcome {
    if access.string {
        return Outcome::Leave(Leave::StringIo(access));
    }
    if access.input {
        let value = u64::from(vcpu.on_bus(|bus| bus.read(access)));
        let rax = &mut vcpu.frame.registers.rax;
        // AL and AX leave the rest of RAX alone, EAX clears its upper half.
        *rax = match access.bytes {
            1 => *rax & !0xff | value,
            2 => *rax & !0xffff | value,
            _ => value,
        };
        return Outcome::Skip;
    }
    let value = vcpu.frame.registers.rax as u32;
    match vcpu.on_bus(|bus| bus.write(access, value)) {
        Effect::None => Outcome::Skip,
        Effect::Line => Outcome::SkipAndLeave(Leave::Line),
        Effect::Reset => Outcome::SkipAndLeave(Leave::Ended(End::Reset)),
        Effect::End(code) => Outcome::SkipAndLeave(Leave::Ended(End::Code(code))),
    }
}
