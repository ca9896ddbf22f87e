//! IN and OUT.

use crate::{
    device::bus::Effect,
    vcpu::{
        Vcpu,
        outcome::{End, Fault, Leave, Outcome},
    },
    vmx::exit::PortAccess,
};

#[inline(always)]
pub(super) fn handle(vcpu: &mut Vcpu, access: PortAccess) -> Outcome {
    if access.string {
        let fault = Fault::StringIo { port: access.port };
        return Outcome::Leave(Leave::Ended(End::Fault(fault)));
    }
    let rax = &mut vcpu.frame.registers.rax;
    let mut bus = vcpu.bus.lock();
    if access.input {
        let value = u64::from(bus.read(access));
        // AL and AX leave the rest of RAX alone, EAX clears its upper half.
        *rax = match access.bytes {
            1 => *rax & !0xff | value,
            2 => *rax & !0xffff | value,
            _ => value,
        };
        return Outcome::Skip;
    }
    let (effect, interrupt) = bus.write(access, *rax as u32);
    drop(bus);
    if let Some(interrupt) = interrupt {
        vcpu.send(interrupt);
    }
    match effect {
        Effect::None => Outcome::Skip,
        Effect::Line => Outcome::SkipAndLeave(Leave::Line),
        Effect::Reset => Outcome::SkipAndLeave(Leave::Ended(End::Reset)),
        Effect::End(code) => Outcome::SkipAndLeave(Leave::Ended(End::Code(code))),
    }
}
