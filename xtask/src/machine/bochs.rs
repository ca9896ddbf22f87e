//! Bochs as a Sapphire Rapids, with our patch.

use super::{Processor, Spec, bochs_build};
use crate::packages::{self, Need};
use anyhow::Result;
use std::{fs, path::Path, process::Command};

const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// What must be installed to run it, apart from what its build needs.
pub(super) const NEEDS: [Need; 2] = [
    Need {
        what: BIOS,
        package: "bochsbios",
    },
    Need {
        what: VGA_BIOS,
        package: "vgabios",
    },
];

/// Where it writes what happened, in a run's folder.
pub const LOG: &str = "bochs.log";

/// Why it does not work here.
pub(super) fn unusable() -> Option<String> {
    packages::missing(&NEEDS).or_else(|| {
        let built = bochs_build::is_built().unwrap_or(false);
        (!built).then(|| "emulator not built (cargo xtask machine --build builds it)".to_owned())
    })
}

/// The command that starts it, after its configuration was written to `folder`.
pub(super) fn command(spec: &Spec<'_>, folder: &Path, port: u16) -> Result<Command> {
    let emulator = bochs_build::emulator()?;
    let configuration = folder.join("bochsrc");
    fs::write(&configuration, text(spec, folder, port))?;
    let mut command = Command::new(emulator);
    command
        .arg("-q")
        .arg("-f")
        .arg(configuration)
        .current_dir(folder);
    Ok(command)
}

/// The configuration. Of the display's messages there is one a second, from a signal
/// handler that takes the log's lock: while another message is written, for ever.
fn text(spec: &Spec<'_>, folder: &Path, port: u16) -> String {
    let (memory, cpus) = (spec.memory_mib(), spec.cpus);
    let (disk, log) = (spec.disk.display(), folder.join(LOG));
    let log = log.display();
    let processor = match spec.processor {
        Processor::Full => "sapphire_rapids",
        Processor::WithoutX2Apic => "sapphire_rapids, exclude_features=\"x2apic\"",
        Processor::IvyBridge => "corei7_ivy_bridge_3770k",
    };
    format!(
        "config_interface: textconfig\n\
         display_library: nogui\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VGA_BIOS}\n\
         memory: guest={memory}, host={memory}\n\
         cpu: model={processor}, count={cpus}, ips=100000000, reset_on_triple_fault=0\n\
         ata0-master: type=disk, path={disk}, mode=flat\n\
         boot: disk\n\
         com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}\n\
         clock: sync=none\n\
         panic: action=fatal\n\
         info: action=report, nogui=ignore\n\
         log: {log}\n"
    )
}
