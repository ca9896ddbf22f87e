//! What a person reads of a VM: its status while it runs, and its end.

use super::{
    Vm, code,
    thread::{Thread, Waits},
};
use crate::{
    say, say_registers,
    vcpu::outcome::{End, Fault},
};
use core::fmt;

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
        End::Reset => say!("VM {name:?} resets itself"),
        End::Code(code) => say!("VM {name:?} ended with code {code}"),
        End::Fault(fault) => crashed(thread, fault),
    }
}

/// Says what the vCPUs of `vm` did in all.
pub fn totals(vm: &Vm, ticks_per_us: u64) {
    let totals = vm.totals.lock();
    say!(
        "VM {:?} began at TSC {}, with {} bytes of extended state for each vCPU, {} moved by a switch",
        vm.name,
        vm.begun,
        totals.container,
        totals.moved
    );
    say!("VM {:?} exits: {}", vm.name, totals.counters);
    say!(
        "VM {:?} got a CPU {} times, and waited for one at most {} us; went to another {} times",
        vm.name,
        totals.turns,
        totals.longest_wait / ticks_per_us,
        totals.moves
    );
    #[cfg(feature = "count-vmcs")]
    say!(
        "{} VMREADs, {} VMWRITEs so far",
        crate::vmx::vmcs::count::READS.load(core::sync::atomic::Ordering::Relaxed),
        crate::vmx::vmcs::count::WRITES.load(core::sync::atomic::Ordering::Relaxed)
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
    say_registers!(r: rax rbx rcx rdx rsi rdi rbp r8 r9 r10 r11 r12 r13 r14 r15);
    say!(
        "  bytes at rip:{}",
        Bytes(code::at(&vm.memory, state.paging, state.instruction()))
    );
}

/// The first of these bytes, as many as could be read.
struct Bytes<const N: usize>(([u8; N], usize));

impl<const N: usize> fmt::Display for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, found) = self.0;
        for byte in bytes.iter().take(found) {
            write!(f, " {byte:02x}")?;
        }
        if found < N {
            f.write_str(" (not mapped)")?;
        }
        Ok(())
    }
}
