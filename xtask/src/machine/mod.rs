//! The machines that Tilevisor runs on, behind one interface: which work here,
//! and the command that starts one.

pub mod bochs;
mod bochs_build;
pub mod qemu;

use crate::{build::Firmware, packages};
use anyhow::{Result, bail};
use std::{
    fmt,
    fs::{self, OpenOptions},
    path::Path,
    process::Command,
};

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// QEMU on KVM with the host's CPU.
    Kvm,
    /// The emulated Sapphire Rapids.
    Bochs,
    /// QEMU without acceleration: no VMX.
    Tcg,
}

impl Machine {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Kvm, Self::Bochs, Self::Tcg];

    /// What it is good for.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Kvm => "QEMU on KVM with nested VMX and the host's own AMX",
            Self::Bochs => "emulated Sapphire Rapids with VMX, XFD and AMX",
            Self::Tcg => "QEMU without VMX: boots to the message that says so",
        }
    }

    /// Why it does not work here, in one line; `None` where it does.
    pub fn unusable(self) -> Option<String> {
        match self {
            Self::Kvm => no_nested_vmx(&HOST).or_else(|| packages::missing(&qemu::NEEDS)),
            Self::Bochs => bochs::unusable(),
            Self::Tcg => packages::missing(&qemu::NEEDS),
        }
    }

    /// `kvm` where VMX is really offered to guests, else `bochs`; with the
    /// reason why it is not `kvm`.
    pub fn auto() -> (Self, Option<String>) {
        match no_nested_vmx(&HOST) {
            None => (Self::Kvm, None),
            Some(reason) => (Self::Bochs, Some(reason)),
        }
    }

    /// Installs or builds what the machine needs.
    ///
    /// # Errors
    /// It cannot work here, or something cannot be had.
    pub fn prepare(self) -> Result<()> {
        match self {
            Self::Kvm => {
                if let Some(reason) = no_nested_vmx(&HOST) {
                    bail!("machine kvm does not work here: {reason}");
                }
                packages::ensure(&qemu::NEEDS)
            }
            Self::Bochs => bochs_build::emulator().map(drop),
            Self::Tcg => packages::ensure(&qemu::NEEDS),
        }
    }

    /// The command that starts it with its console connected to TCP port `port`
    /// of this host. `folder` is the run's own, for files that the machine writes.
    ///
    /// # Errors
    /// Something it needs is not there.
    pub fn command(self, spec: &Spec<'_>, folder: &Path, port: u16) -> Result<Command> {
        match self {
            Self::Kvm => Ok(qemu::command(qemu::Accelerator::Kvm, spec, port)),
            Self::Tcg => Ok(qemu::command(qemu::Accelerator::Tcg, spec, port)),
            Self::Bochs => bochs::command(spec, folder, port),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Bochs => "bochs",
            Self::Tcg => "tcg",
        })
    }
}

/// The CPU of the emulated machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processor {
    /// A Sapphire Rapids: all that there is.
    #[default]
    Full,
    /// The same without x2APIC.
    WithoutX2Apic,
    /// An Ivy Bridge: neither AMX, AVX-512, XSAVES nor APIC virtualisation.
    IvyBridge,
}

/// What a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// The disk it boots.
    pub disk: &'a Path,
    /// What the disk is for.
    pub firmware: Firmware,
    /// Number of CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// The CPU, where the machine is emulated.
    pub processor: Processor,
}

impl Spec<'_> {
    fn memory_mib(&self) -> u64 {
        self.memory >> 20
    }
}

/// Where a Linux host says whether guests get VMX.
struct Host {
    kvm: &'static str,
    cpuinfo: &'static str,
    nested: &'static str,
}

const HOST: Host = Host {
    kvm: "/dev/kvm",
    cpuinfo: "/proc/cpuinfo",
    nested: "/sys/module/kvm_intel/parameters/nested",
};

/// Why there is no nested VMX. `/dev/kvm` alone proves nothing: hosts exist that
/// have it on a CPU that offers guests no virtualisation of their own.
fn no_nested_vmx(host: &Host) -> Option<String> {
    if !Path::new(host.kvm).exists() {
        return Some(format!("no {}", host.kvm));
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open(host.kvm) {
        return Some(format!("{} cannot be opened: {error}", host.kvm));
    }
    let cpuinfo = fs::read_to_string(host.cpuinfo).unwrap_or_default();
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    if !flags.split_ascii_whitespace().any(|flag| flag == "vmx") {
        return Some(format!("the CPU flags in {} lack vmx", host.cpuinfo));
    }
    let nested = fs::read_to_string(host.nested).unwrap_or_default();
    if !matches!(nested.trim(), "Y" | "1") {
        return Some(format!("nested VMX is off ({})", host.nested));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_against_kvm_is_the_first_that_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path =
            |name: &str| -> &'static str { folder.path().join(name).display().to_string().leak() };
        let host = Host {
            kvm: path("kvm"),
            cpuinfo: path("cpuinfo"),
            nested: path("nested"),
        };
        let reason = || no_nested_vmx(&host);
        assert!(reason().unwrap().starts_with("no "));
        fs::write(host.kvm, "").unwrap();
        fs::write(host.cpuinfo, "flags\t\t: fpu svm vmxish\n").unwrap();
        assert!(reason().unwrap().contains("lack vmx"));
        fs::write(host.cpuinfo, "flags\t\t: fpu vmx\n").unwrap();
        assert!(reason().unwrap().contains("nested VMX is off"));
        fs::write(host.nested, "N\n").unwrap();
        assert!(reason().unwrap().contains("nested VMX is off"));
        fs::write(host.nested, "Y\n").unwrap();
        assert_eq!(reason(), None);
    }
}
