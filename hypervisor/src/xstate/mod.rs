//! Extended state: what exists, who may use it, where it is kept, and which is
//! in the registers.
//!
//! The words:
//!
//! - **Component**: one numbered part of XSAVE-managed state, described by CPUID
//!   leaf 0xD and by nothing else. **Dynamic**: XFD can disable it.
//! - **Permission**: the components that a VM may use. **Offer**: those that
//!   one vCPU's CPUID names, checked against it.
//! - **Container** ([`fpstate::Fpstate`]): an XSAVE area and the XCR0,
//!   `IA32_XSS`, XFD and XFD_ERR that belong to it.
//! - **Swap**: another container becomes the one in the registers.
//!   **Parked**: saved, though the registers may still hold it.
//! - **In use**: not in the initial configuration. **Armed**: disabled by XFD,
//!   so that touching it raises #NM; it may still be in use.
//!
//! The rules, each with its source in `docs/extended-state.md`:
//!
//! | rule | file | tests | about |
//! |---|---|---|---|
//! | xs-01 | `vcpu/cpuid_model/supported.rs` | `vcpu/cpuid_model/tests.rs` | what a VM is offered |
//! | xs-02 | [`permission`], `vcpu/cpuid_model/check.rs` | `permission`, `cpuid_model` | what a CPUID may name |
//! | xs-03 | [`layout`], `vcpu/cpuid_model.rs` | `layout`, `cpuid_model` | sizes in leaf 0xD |
//! | xs-04 | [`life`] | `life`, `permission`, `image` | configured, finalized, run |
//! | xs-05 | [`fpstate`], [`area`] | `fpstate`, `xfd`, `image` | size and growth |
//! | xs-06 | [`xcr0`] | `xcr0`, `xfd` | XSETBV and `IA32_XSS` |
//! | xs-07 | [`xfd`], [`events`] | `xfd` | `IA32_XFD` and `IA32_XFD_ERR` |
//! | xs-08 | [`xfd`], [`events`] | `xfd` | #NM intercepted |
//! | xs-09 | [`xfd`] | `xfd`, `world` | #NM not intercepted |
//! | xs-10, xs-11 | [`swap`] | `swap`, `world` | nothing lost, nothing left |
//! | xs-12 | [`events`], [`swap`] | `swap`, `xfd` | the fast path |
//! | xs-13 | [`image`], [`control`] | `image` | state as data |
//!
//! Everything here but `silicon.rs` is safe code that runs on any host; the
//! tests hold it against made-up processors. Nothing here knows of VMX.

pub mod area;
pub mod control;
pub mod events;
pub mod features;
pub mod fpstate;
pub mod image;
pub mod layout;
pub mod life;
pub mod malformed;
pub mod permission;
pub mod registers;
pub mod swap;
pub mod xcr0;
pub mod xfd;

#[cfg(target_os = "none")]
pub mod silicon;

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
pub(crate) mod tests;
