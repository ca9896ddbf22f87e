//! Build, run and test Tilevisor: what `cargo xtask` does, and what the
//! whole-machine tests share with it.

pub mod archive;
pub mod bench;
pub mod boot;
pub mod build;
pub mod bundle;
pub mod linux;
pub mod machine;
pub mod operator;
pub mod packages;
pub mod project;
pub mod run;
pub mod size;
pub mod test;
