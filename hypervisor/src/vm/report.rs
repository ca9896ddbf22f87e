//! What a person reads of a VM: its status while it runs, and its end.

use super::{
    Vm,
    thread::{Thread, Waits},
};
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

/// Says what the vCPU of `thread` does, and where; the answer to an operator who
/// asks.
pub fn status(thread: &mut Thread) {
    let (rip, number) = (thread.runner.snapshot().rip, thread.number);
    let what = match thread.waits {
        Waits::Cpu => "running",
        Waits::Event { .. } => "halted",
        Waits::StartUp => "not started",
    };
    let name = &thread.vm.name;
    say!("VM {name:?} vCPU {number} {what} at RIP {rip:#x}");
    say!(
        "VM {name:?} vCPU {number} exits: {}",
        thread.runner.vcpu().counters
    );
}

/// Says how the VM of `thread` ended, and where if not by its own wish.
pub fn ended(thread: &mut Thread, end: End) {
    let name = &thread.vm.name;
    match end {
        End::Code(0) => say!("VM {name:?} ended with success"),
        End::Code(code) => say!("VM {name:?} ended with code {code}"),
        End::Fault(fault) => crashed(thread, fault),
    }
}

/// Says what the vCPUs of `vm` did in all.
pub fn totals(vm: &Vm, ticks_per_us: u64) {
    let totals = vm.totals.lock();
    say!("VM {:?} exits: {}", vm.name, totals.counters);
    say!(
        "VM {:?} got a CPU {} times, and waited for one at most {} us; went to another {} times",
        vm.name,
        totals.turns,
        totals.longest_wait / ticks_per_us,
        totals.moves
    );
}

fn crashed(thread: &mut Thread, fault: Fault) {
    say!(
        "VM {:?} was ended: {fault} (vCPU {})",
        thread.vm.name,
        thread.number
    );
    let vm = thread.vm.clone();
    let state = thread.runner.snapshot();
    let r = thread.runner.vcpu().frame.registers;
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
            vm: &vm,
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
