//! From a kernel and what travels with it to a machine that ended.

use crate::{
    build::{self, Firmware},
    machine::{Machine, Processor, Spec},
    operator::Operator,
    run::{self, Outcome},
};
use anyhow::Result;
use std::{fs, path::Path, process::Command, time::Duration};

/// What a machine boots, and what the machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The machine.
    pub machine: Machine,
    /// Its firmware.
    pub firmware: Firmware,
    /// Number of its CPUs.
    pub cpus: u32,
    /// Bytes of its memory.
    pub memory: u64,
    /// Its CPU, where the machine is emulated.
    pub processor: Processor,
    /// How long it may run.
    pub limit: Duration,
    /// What it boots.
    pub kernel: &'a Path,
    /// What the boot loader brings with it.
    pub ramdisk: Option<&'a [u8]>,
}

impl<'a> Boot<'a> {
    /// A machine with one CPU and a gibibyte that boots `kernel`.
    pub fn new(machine: Machine, kernel: &'a Path, limit: Duration) -> Self {
        Self {
            machine,
            firmware: Firmware::Bios,
            cpus: 1,
            memory: 1 << 30,
            processor: Processor::Full,
            limit,
            kernel,
            ramdisk: None,
        }
    }

    /// Boots it, and waits for its end.
    ///
    /// # Errors
    /// The disk cannot be written, or the machine not be started.
    pub fn run(&self, operator: &mut dyn Operator) -> Result<Outcome> {
        let folder = tempfile::tempdir_in(run::run_folder()?)?;
        let disk = folder.path().join("disk.img");
        self.write_disk(&disk)?;
        run::run(self.machine, &self.spec(&disk), self.limit, operator)
    }

    /// Writes the disk that the machine boots.
    ///
    /// # Errors
    /// Of the tools that do it.
    pub fn write_disk(&self, disk: &Path) -> Result<()> {
        let ramdisk = tempfile::NamedTempFile::new_in(run::run_folder()?)?;
        if let Some(bytes) = self.ramdisk {
            fs::write(ramdisk.path(), bytes)?;
        }
        let ramdisk = self.ramdisk.map(|_| ramdisk.path());
        build::disk(self.kernel, ramdisk, self.firmware, disk)
    }

    /// The command that starts the machine with its disk in `folder`.
    ///
    /// # Errors
    /// Something it needs is not there.
    pub fn command(&self, folder: &Path) -> Result<Command> {
        // The port is chosen when the machine is started.
        let disk = folder.join("disk.img");
        self.machine.command(&self.spec(&disk), folder, 0)
    }

    fn spec<'b>(&self, disk: &'b Path) -> Spec<'b> {
        Spec {
            disk,
            firmware: self.firmware,
            cpus: self.cpus,
            memory: self.memory,
            processor: self.processor,
        }
    }
}
