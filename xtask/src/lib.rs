//! Build, run and test Tilevisor.
