//! The hypervisor.
#![no_std]
#[cfg(test)]
extern crate std;
