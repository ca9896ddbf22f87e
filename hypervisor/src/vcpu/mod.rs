//! A virtual CPU.

pub mod cpuid_model;
