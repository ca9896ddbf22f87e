//! Build, run and test Tilevisor.
fn main() {}
