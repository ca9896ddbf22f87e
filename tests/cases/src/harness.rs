//! What cases share: boot a machine with a bundle, judge its console.

use anyhow::{Context, Result, bail};
use libtest_mimic::{Failed, Trial};
use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};
use xtask::{
    boot,
    build::{self, Firmware},
    bundle,
    machine::{Machine, Processor},
    operator::Script,
    run::{self, Ended, Outcome},
};

/// Longer than any case takes on a busy machine; one that hangs is a failure.
const LIMIT: Duration = Duration::from_secs(300);

/// Cases that need the same build at once wait for the first.
static BUILDING: Mutex<()> = Mutex::new(());

/// A machine to boot.
pub(crate) struct Boot {
    pub(crate) machine: Machine,
    pub(crate) firmware: Firmware,
    pub(crate) cpus: u32,
    pub(crate) memory: u64,
    pub(crate) processor: Processor,
    pub(crate) limit: Duration,
    /// What an operator types, each line when the console has shown some text.
    pub(crate) script: &'static [(&'static str, &'static str)],
    pub(crate) kernel: Kernel,
    pub(crate) ramdisk: Ramdisk,
}

/// What the machine boots.
pub(crate) enum Kernel {
    Hypervisor,
    /// The hypervisor with an invalid instruction at the start of the function
    /// whose symbol contains this.
    Broken(&'static str),
    /// What boots the image of the bundle's one VM on the machine itself.
    Bare,
    Conformance,
}

/// What travels with it.
pub(crate) enum Ramdisk {
    None,
    /// A bundle as TOML.
    Bundle(String),
    /// These bytes, whatever they are.
    Bytes(Vec<u8>),
}

impl Boot {
    /// The hypervisor with a bundle on the machine that `cargo xtask run` takes.
    pub(crate) fn bundle(toml: impl Into<String>) -> Self {
        Self {
            machine: Machine::auto().0,
            firmware: Firmware::Bios,
            cpus: 1,
            memory: 1 << 30,
            processor: Processor::Full,
            limit: LIMIT,
            script: &[],
            kernel: Kernel::Hypervisor,
            ramdisk: Ramdisk::Bundle(toml.into()),
        }
    }

    /// Boots it and waits for its end.
    pub(crate) fn run(&self) -> Result<Transcript> {
        let folder = tempfile::tempdir_in(run::run_folder()?)?;
        let (kernel, ramdisk) = {
            let _alone = BUILDING
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            self.machine.prepare()?;
            (self.kernel(folder.path())?, self.ramdisk(folder.path())?)
        };
        let boot = boot::Boot {
            machine: self.machine,
            firmware: self.firmware,
            cpus: self.cpus,
            memory: self.memory,
            processor: self.processor,
            limit: self.limit,
            kernel: &kernel,
            ramdisk: ramdisk.as_deref(),
        };
        boot.run(&mut Script::new(self.script)).map(Transcript)
    }

    fn kernel(&self, folder: &Path) -> Result<PathBuf> {
        match self.kernel {
            Kernel::Hypervisor => build::hypervisor(),
            Kernel::Bare => build::bare_launcher(),
            Kernel::Conformance => build::conformance(),
            Kernel::Broken(function) => {
                let path = folder.join("broken");
                std::fs::write(&path, broken(&build::hypervisor()?, function)?)?;
                Ok(path)
            }
        }
    }

    fn ramdisk(&self, folder: &Path) -> Result<Option<Vec<u8>>> {
        Ok(match &self.ramdisk {
            Ramdisk::None => None,
            Ramdisk::Bundle(toml) => Some(bundle::pack(toml, folder)?),
            Ramdisk::Bytes(bytes) => Some(bytes.clone()),
        })
    }
}

/// The image at `path` with UD2 at the start of `function`.
fn broken(path: &Path, function: &str) -> Result<Vec<u8>> {
    const UD2: [u8; 2] = [0x0f, 0x0b];
    let mut image = std::fs::read(path)?;
    let file = elf::ElfBytes::<elf::endian::LittleEndian>::minimal_parse(&image)?;
    let (symbols, names) = file.symbol_table()?.context("symbols")?;
    let address = symbols
        .iter()
        .find(|symbol| {
            let name = names.get(symbol.st_name as usize);
            name.is_ok_and(|name| name.contains(function))
        })
        .with_context(|| format!("no symbol contains {function:?}"))?
        .st_value;
    let segment = file
        .segments()
        .context("segments")?
        .iter()
        .find(|segment| (segment.p_vaddr..segment.p_vaddr + segment.p_filesz).contains(&address))
        .context("the segment of the function")?;
    let at = (address - segment.p_vaddr + segment.p_offset) as usize;
    image[at..at + UD2.len()].copy_from_slice(&UD2);
    Ok(image)
}

/// What a machine printed, and how it ended.
pub(crate) struct Transcript(pub(crate) Outcome);

impl Transcript {
    /// The machine ended with success.
    pub(crate) fn succeeded(&self) -> Result<()> {
        self.ended(&Ended::Verdict { success: true })
    }

    /// The machine ended with failure.
    pub(crate) fn failed(&self) -> Result<()> {
        self.ended(&Ended::Verdict { success: false })
    }

    fn ended(&self, expected: &Ended) -> Result<()> {
        if self.0.ended != *expected {
            bail!("expected {expected:?}, found {:?}", self.0.ended);
        }
        Ok(())
    }

    /// Some line contains `text`.
    pub(crate) fn says(&self, text: &str) -> Result<()> {
        self.find(text).map(drop)
    }

    /// The first line of the VM `name` that contains `text`.
    pub(crate) fn find_of(&self, name: &str, text: &str) -> Result<&str> {
        let prefix = format!("{name}: ");
        let mut lines = self
            .0
            .console
            .iter()
            .filter(|line| line.starts_with(&prefix));
        let line = lines.find(|line| line.contains(text));
        line.map(String::as_str)
            .with_context(|| format!("VM {name:?} does not say {text:?}"))
    }

    /// No line contains `text`.
    pub(crate) fn never_says(&self, text: &str) -> Result<()> {
        match self.0.console.iter().find(|line| line.contains(text)) {
            None => Ok(()),
            Some(line) => bail!("the console says {line:?}"),
        }
    }

    /// The first line that contains `text`.
    pub(crate) fn find(&self, text: &str) -> Result<&str> {
        let line = self.0.console.iter().find(|line| line.contains(text));
        line.map(String::as_str)
            .with_context(|| format!("no line of the console contains {text:?}"))
    }
}

/// The bytes between two labels.
///
/// # Safety
/// They enclose nothing but bytes that never change.
#[expect(unsafe_code, reason = "labels of assembly")]
pub(crate) unsafe fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: the caller says so.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// A case: `judge` runs machines and says what is wrong.
pub(crate) fn case(
    name: &'static str,
    judge: impl FnOnce(&mut Log) -> Result<()> + Send + 'static,
) -> Trial {
    Trial::test(name, move || {
        let mut log = Log(Vec::new());
        judge(&mut log).map_err(|error| {
            let console = log.0.join("\n  ");
            Failed::from(format!(
                "{error:#}\nconsole:\n  {console}\nrepeat: cargo xtask test {name}"
            ))
        })
    })
}

/// Consoles of the machines that a case ran.
pub(crate) struct Log(Vec<String>);

impl Log {
    /// Runs a machine and keeps its console for a report.
    pub(crate) fn run(&mut self, boot: &Boot) -> Result<Transcript> {
        let transcript = boot.run()?;
        self.0.extend(transcript.0.console.iter().cloned());
        Ok(transcript)
    }
}
