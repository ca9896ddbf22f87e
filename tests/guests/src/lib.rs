//! What payloads and the conformance image share: console and report, exceptions,
//! the registers of extended state, XSAVE areas, tiles.
//!
//! A payload is entered as `guest-loader` documents. It reports one line a
//! check, and ends its VM with code 0 if all checks passed.

#![no_std]

pub mod apic;
pub mod area;
pub mod bare;
pub mod console;
pub mod exceptions;
pub mod processor;
pub mod report;
pub mod smp;
pub mod start;
pub mod tiles;
