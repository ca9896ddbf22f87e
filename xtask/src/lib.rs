//! Build, run and test Tilevisor: what `cargo xtask` does, and what the
//! whole-machine tests share with it.

pub mod build;
pub mod bundle;
pub mod machine;
pub mod packages;
pub mod project;
pub mod run;
pub mod size;
pub mod test;
