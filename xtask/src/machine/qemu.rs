//! QEMU, with KVM or without: one command line but for accelerator and CPU model.

use super::Spec;
use crate::{build::Firmware, packages::Need};
use std::process::Command;

/// UEFI firmware as Debian packages it: read-only, its variables are not kept.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

/// What must be installed.
pub const NEEDS: [Need; 2] = [
    Need {
        what: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Need {
        what: OVMF,
        package: "ovmf",
    },
];

/// Who executes the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's CPU.
    Kvm,
    /// QEMU itself.
    Tcg,
}

/// The command line.
pub fn command(accelerator: Accelerator, spec: &Spec<'_>, port: u16) -> Command {
    let (accelerator, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35", "-accel", accelerator, "-cpu", cpu])
        .args(["-smp", &spec.cpus.to_string()])
        .args(["-m", &format!("{}M", spec.memory_mib())])
        .arg("-drive")
        .arg(format!("format=raw,file={}", spec.disk.display()))
        .args([
            "-display",
            "none",
            "-no-reboot",
            "-nodefaults",
            "-vga",
            "std",
        ])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .args([
            "-chardev",
            &format!("socket,id=console,host=127.0.0.1,port={port}"),
        ])
        .args(["-serial", "chardev:console"]);
    if spec.firmware == Firmware::Uefi {
        command.args(["-bios", OVMF]);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Processor;
    use std::path::Path;

    #[test]
    fn kvm_and_tcg_differ_in_accelerator_and_cpu_alone() {
        let spec = Spec {
            disk: Path::new("disk.img"),
            firmware: Firmware::Bios,
            cpus: 4,
            memory: 1 << 30,
            processor: Processor::Full,
        };
        let line = |accelerator| {
            let command = command(accelerator, &spec, 1234);
            let arguments: Vec<String> = command
                .get_args()
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect();
            arguments.join(" ")
        };
        let kvm = line(Accelerator::Kvm);
        assert!(
            kvm.contains("-accel kvm -cpu host -smp 4 -m 1024M"),
            "{kvm}"
        );
        assert_eq!(
            kvm.replace("-accel kvm -cpu host", "-accel tcg -cpu max"),
            line(Accelerator::Tcg)
        );
    }
}
