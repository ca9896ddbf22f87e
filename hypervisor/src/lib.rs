//! Tilevisor: a Type-1 microhypervisor that virtualises extended processor
//! state, from x87 to AMX tiles, exactly.
//!
//! Each folder answers one question and may use only those above it:
//!
//! | folder     | the question it answers |
//! |------------|-------------------------|
//! | `cpu`      | what is this processor? |
//! | `platform` | how does the machine speak, and how does it end? |
//! | `xstate`   | what extended state exists, who may use it, where is it kept, which is in the registers? |
//! | `memory`   | which frames are free, how are the hypervisor and its guests mapped? |
//! | `vmx`      | VMX as typed hardware |
//! | `device`   | what does a guest see on a port? |
//! | `vcpu`     | a virtual CPU: its exits, its CPUID and MSRs, its run loop |
//! | `vm`       | a virtual machine: its configuration and its life |
//! | `sched`    | which vCPU runs on this CPU now? |
//! | `boot`     | from the boot loader's hand-off to the scheduler's loop |
//!
//! Three principles: what a guest can reach never panics; what can be decided
//! without hardware is decided by safe code that the host tests; hardware is
//! reached through functions of a few lines.
//!
//! Modules that execute privileged instructions exist only where there is no
//! operating system (`target_os = "none"`).

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod cpu;
pub mod device;
pub mod memory;
pub mod platform;
pub mod vcpu;
pub mod vmx;
pub mod xstate;

#[cfg(target_os = "none")]
pub mod boot;
pub mod sched;
pub mod vm;
