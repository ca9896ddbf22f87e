//! What a person reads of a VM: its status while it runs, and its end.

use super::Vm;
use crate::{
    memory::{
        address::Gpa,
        walk::{self, Paging},
    },
    say,
    vcpu::outcome::{End, Fault},
};
use core::fmt;

/// Bytes at RIP that a report shows: the longest instruction has 15.
const CODE_BYTES: usize = 16;

/// Says that `vm` runs, and where; the answer to an operator who asks.
pub fn status(vm: &mut Vm) {
    let rip = vm.runner.snapshot().rip;
    say!("VM {:?} vCPU 0 running at RIP {rip:#x}", vm.name);
    say!("VM {:?} exits: {}", vm.name, vm.runner.vcpu().counters);
}

/// Says how `vm` ended, and where if not by its own wish.
pub fn ended(vm: &mut Vm, end: End) {
    match end {
        End::Code(0) => say!("VM {:?} ended with success", vm.name),
        End::Code(code) => say!("VM {:?} ended with code {code}", vm.name),
        End::Fault(fault) => crashed(vm, fault),
    }
    say!("VM {:?} exits: {}", vm.name, vm.runner.vcpu().counters);
    if vm.runner.moves() > 0 {
        say!(
            "VM {:?} went to another CPU {} times",
            vm.name,
            vm.runner.moves()
        );
    }
}

fn crashed(vm: &mut Vm, fault: Fault) {
    say!("VM {:?} was ended: {fault}", vm.name);
    let state = vm.runner.snapshot();
    let r = vm.runner.vcpu().frame.registers;
    say!(
        "  exit reason {:#x}, qualification {:#x}",
        state.reason,
        state.qualification
    );
    say!(
        "  rip {:#018x}  rsp {:#018x}  rflags {:#x}",
        state.rip,
        state.rsp,
        state.rflags
    );
    say!(
        "  cr0 {:#x}  cr3 {:#x}  cr4 {:#x}  efer {:#x}",
        state.paging.cr0,
        state.paging.cr3,
        state.paging.cr4,
        state.paging.efer
    );
    say!(
        "  rax {:#018x}  rbx {:#018x}  rcx {:#018x}  rdx {:#018x}",
        r.rax,
        r.rbx,
        r.rcx,
        r.rdx
    );
    say!(
        "  rsi {:#018x}  rdi {:#018x}  rbp {:#018x}  r8  {:#018x}",
        r.rsi,
        r.rdi,
        r.rbp,
        r.r8
    );
    say!(
        "  r9  {:#018x}  r10 {:#018x}  r11 {:#018x}  r12 {:#018x}",
        r.r9,
        r.r10,
        r.r11,
        r.r12
    );
    say!(
        "  r13 {:#018x}  r14 {:#018x}  r15 {:#018x}",
        r.r13,
        r.r14,
        r.r15
    );
    say!(
        "  bytes at rip:{}",
        Code {
            vm,
            paging: state.paging,
            linear: state.code_base.wrapping_add(state.rip)
        }
    );
}

/// The guest's bytes at a linear address, as far as they are mapped.
struct Code<'a> {
    vm: &'a Vm,
    paging: Paging,
    linear: u64,
}

impl fmt::Display for Code<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let byte = |linear| {
            let gpa = walk::translate(self.paging, linear, |gpa| self.read_u64(gpa))?;
            let mut byte = [0];
            self.vm.memory.read(gpa, &mut byte).ok().map(|()| byte[0])
        };
        for offset in 0..CODE_BYTES as u64 {
            match byte(self.linear.wrapping_add(offset)) {
                Some(byte) => write!(f, " {byte:02x}")?,
                None => return f.write_str(" (not mapped)"),
            }
        }
        Ok(())
    }
}

impl Code<'_> {
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        let mut bytes = [0; 8];
        self.vm.memory.read(gpa, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}
