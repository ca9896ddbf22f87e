//! Where things are.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Everything that is built or fetched lies here.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The target of everything that runs on the machine or in a VM.
pub const BARE: &str = "x86_64-unknown-none";
/// The target of programs that run in a Linux guest.
pub const STATIC: &str = "x86_64-unknown-linux-musl";
