//! Builds what runs on the machine, and disks that boot it.

use crate::project::{BARE, STATIC, root, target};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Firmware that a disk image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// The PC's BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

impl Firmware {
    fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

/// Builds the hypervisor.
///
/// # Errors
/// The build's own.
pub fn hypervisor() -> Result<PathBuf> {
    bare("hypervisor", "tilevisor", &[])
}

/// Builds the hypervisor with counters of VMREADs and VMWRITEs.
///
/// # Errors
/// The build's own.
pub fn counting_hypervisor() -> Result<PathBuf> {
    let features = ["--features", "count-vmcs", "--target-dir"];
    let folder = target().join("counting");
    let folder = folder.to_string_lossy();
    let mut arguments = features.to_vec();
    arguments.push(&folder);
    bare("hypervisor", "tilevisor", &arguments)?;
    let place = Path::new(&*folder).join(BARE);
    Ok(place.join("release/tilevisor"))
}

/// Builds the payload `name` of `tests/guests`.
///
/// # Errors
/// There is none of that name, or the build's own.
pub fn payload(name: &str) -> Result<PathBuf> {
    bare("guests", name, &[])
}

/// Builds the conformance image's kernel.
///
/// # Errors
/// The build's own.
pub fn conformance() -> Result<PathBuf> {
    bare("conformance", "conformance", &[])
}

/// Builds what boots an image on the machine itself.
///
/// # Errors
/// The build's own.
pub fn bare_launcher() -> Result<PathBuf> {
    bare("bare", "bare", &[])
}

/// Builds the program `name` of `tests/linux`, which needs nothing but a kernel.
///
/// # Errors
/// The build's own.
pub fn linux_program(name: &str) -> Result<PathBuf> {
    release("linux-programs", name, STATIC, &[])
}

fn bare(package: &str, binary: &str, more: &[&str]) -> Result<PathBuf> {
    release(package, binary, BARE, more)
}

fn release(package: &str, binary: &str, platform: &str, more: &[&str]) -> Result<PathBuf> {
    let arguments = [
        "build",
        "--release",
        "--target",
        platform,
        "--package",
        package,
        "--bin",
        binary,
    ];
    let mut command = cargo();
    command.args(arguments).args(more).current_dir(root());
    quietly(&mut command, &format!("building {binary}"))?;
    Ok(target().join(platform).join("release").join(binary))
}

/// The cargo that runs us, without what it told us about our own package.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `command`, showing what it does in one line; its output only if it fails.
///
/// # Errors
/// It cannot be started, or fails: the error has its output.
pub fn quietly(command: &mut Command, what: &str) -> Result<()> {
    let progress = spinner(what);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: {:?} cannot be started", command.get_program()))?;
    let mut log = String::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines() {
            let line = line?;
            progress.set_message(format!("{what}: {}", line.trim()));
            log.push_str(&line);
            log.push('\n');
        }
    }
    let status = child.wait()?;
    progress.finish_and_clear();
    if !status.success() {
        bail!("{what} failed ({status}):\n{log}");
    }
    Ok(())
}

/// How long something may take before it is said to people without a terminal.
const SOON: Duration = Duration::from_secs(2);

/// A line that shows that something is going on; where there is no terminal,
/// it says once what, if it takes long.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let progress = ProgressBar::new_spinner().with_message(what.to_owned());
    if progress.is_hidden() {
        let (waiting, what) = (progress.clone(), what.to_owned());
        thread::spawn(move || {
            thread::sleep(SOON);
            if !waiting.is_finished() {
                eprintln!("{what} ...");
            }
        });
    }
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    progress
}

/// A tool of the toolchain's `llvm-tools` component.
///
/// # Errors
/// The component is not installed; the error has the command that installs it.
pub fn llvm_tool(name: &str) -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir"])
        .current_dir(root())
        .output()
        .context("rustc cannot be started")?;
    let libdir = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let tool = libdir.with_file_name("bin").join(name);
    if !tool.is_file() {
        bail!(
            "{} is missing; install it with:\n  rustup toolchain install",
            tool.display()
        );
    }
    Ok(tool)
}

/// Bytes of `kernel` without symbols and debug information.
///
/// # Errors
/// Of the tool that strips it.
pub fn stripped_size(kernel: &Path) -> Result<u64> {
    // By its name: the tool puts a new file in the place of the old.
    Ok(std::fs::metadata(strip(kernel)?.path())?.len())
}

/// A copy of `kernel` without symbols and debug information: firmware that loads it
/// reads the whole file.
///
/// # Errors
/// Of the tool that does it.
pub(crate) fn strip(kernel: &Path) -> Result<tempfile::NamedTempFile> {
    let stripped = tempfile::NamedTempFile::new_in(target())?;
    let mut strip = Command::new(llvm_tool("llvm-objcopy")?);
    strip.arg("--strip-all").arg(kernel).arg(stripped.path());
    quietly(&mut strip, "stripping")?;
    Ok(stripped)
}

/// Writes a disk image that boots `kernel` with `ramdisk` to `out`.
///
/// # Errors
/// Of the tools it takes.
pub fn disk(kernel: &Path, ramdisk: Option<&Path>, firmware: Firmware, out: &Path) -> Result<()> {
    let stripped = strip(kernel)?;

    let ramdisk = ramdisk.unwrap_or(Path::new("-"));
    let mut make = Command::new(disk_image_tool()?);
    make.arg(stripped.path())
        .arg(ramdisk)
        .arg(firmware.name())
        .arg(out);
    quietly(&mut make, "writing the disk image")
}

/// The tool that writes disk images. Its build takes the boot loader's stages
/// from source, which needs unstable features of the pinned compiler.
fn disk_image_tool() -> Result<PathBuf> {
    let folder = target().join("disk-image");
    let mut command = cargo();
    command
        .args(["build", "--release", "--manifest-path"])
        .arg(root().join("xtask/disk-image/Cargo.toml"))
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(root());
    quietly(&mut command, "building the boot loader (takes a minute)")?;
    Ok(folder.join("release/disk-image"))
}
