//! The same payloads under Linux' KVM, on the same machine.

use super::measure::{self, Figures, Measure, Vm};
use crate::{build, linux, run};
use anyhow::{Context, Result};
use std::fs;

/// The kernel, whose modules have KVM.
const KERNEL: &str = "bookworm/linux-image-amd64";
/// Its modules, in the order in which they are loaded.
const MODULES: [&str; 3] = [
    "virt/lib/irqbypass.ko",
    "arch/x86/kvm/kvm.ko",
    "arch/x86/kvm/kvm-intel.ko",
];
const PAYLOADS: [&str; 2] = ["bench", "bench-switch"];
/// KVM's rows begin with this.
pub(super) const PREFIX: &str = "kvm_";

/// What KVM's guests measure.
pub(super) fn figures(measure: &Measure) -> Result<Figures> {
    let modules = linux::modules(KERNEL)?;
    let mut files = Vec::new();
    for module in MODULES {
        let path = modules.join(module);
        let content = fs::read(&path).with_context(|| path.display().to_string())?;
        let (_, name) = module.rsplit_once('/').context("a module in a folder")?;
        files.push((name.to_owned(), content));
    }
    for payload in PAYLOADS {
        let stripped = build::strip(&build::payload(payload)?)?;
        files.push((payload.to_owned(), fs::read(stripped.path())?));
    }
    let folder = tempfile::tempdir_in(run::run_folder()?)?;
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, linux::initramfs("kvm", &files)?)?;
    let linux = Vm {
        name: "kvm",
        image: &format!("debian:{KERNEL}"),
        command_line: "console=ttyS0 no5lvl quiet".into(),
        more: &format!("initrd = {initrd:?}\nmemory = \"512M\""),
    };
    let console = measure.boot(&build::bare_launcher()?, &[linux])?;
    let mut figures = measure::guest_figures(&console);
    // Without AMX there is none.
    let _ = measure::name_policy(&mut figures);
    figures.insert("vcpu_switch_tiles".into(), measure::switch(&console)?);
    let prefixed = figures.into_iter();
    Ok(prefixed
        .map(|(name, ticks)| (format!("{PREFIX}{name}"), ticks))
        .collect())
}
