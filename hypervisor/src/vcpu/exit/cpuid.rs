//! CPUID: a look-up in answers that were prepared before.

use crate::vcpu::Vcpu;

#[inline(always)]
pub(super) fn handle(vcpu: &mut Vcpu) {
    let registers = &mut vcpu.frame.registers;
    let answer = vcpu.cpuid.lookup(registers.rax as u32, registers.ecx());
    registers.rax = u64::from(answer.eax);
    registers.rbx = u64::from(answer.ebx);
    registers.rcx = u64::from(answer.ecx);
    registers.rdx = u64::from(answer.edx);
}
