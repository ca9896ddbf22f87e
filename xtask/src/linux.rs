//! Linux for a VM: Debian's own kernels, unchanged, and an initial ramdisk with
//! busybox and programs of ours.

use crate::{
    archive::Archive,
    build,
    project::{root, target},
};
use anyhow::{Context, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

/// The package with a busybox that needs nothing else, and its place in it.
const BUSYBOX: &str = "busybox-static";
const BUSYBOX_PROGRAM: &str = "bin/busybox";
/// The suite that it comes from.
const BUSYBOX_SUITE: &str = "bookworm";

/// The programs of `tests/linux`.
const PROGRAMS: [&str; 3] = ["machine", "vmm", "xstate"];

/// One fetch at a time: the second finds what the first has fetched.
static FETCHING: Mutex<()> = Mutex::new(());

/// The kernel of Debian's package `SUITE/PACKAGE`, fetched if it is not there yet.
///
/// # Errors
/// There is none, or it cannot be fetched.
pub fn kernel(name: &str) -> Result<PathBuf> {
    let (suite, package) = name
        .split_once('/')
        .with_context(|| format!("kernel {name:?} is not SUITE/PACKAGE"))?;
    let boot = package_tree(suite, package)?.join("boot");
    let kernel = fs::read_dir(&boot)
        .with_context(|| format!("{package} has no kernel"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        });
    kernel.with_context(|| format!("{package} has no kernel"))
}

/// The unpacked tree of a package.
fn package_tree(suite: &str, package: &str) -> Result<PathBuf> {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    if !plain(suite) || !plain(package) {
        bail!("{suite:?} or {package:?} is no name of Debian's");
    }
    let _alone = FETCHING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let place = target().join("debian").join(suite);
    let tree = place.join(package);
    if tree.is_dir() {
        return Ok(tree);
    }
    fs::create_dir_all(&place)?;
    let archive = Archive::new(&place, "deb", suite)?;
    let real = archive.resolve(package)?;
    archive.run(&["download", &real], &format!("fetching {real}"))?;
    let file = fs::read_dir(archive.folder())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .with_context(|| format!("{real} was not fetched"))?;
    let unpacked = archive.folder().join("unpacked");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(file).arg(&unpacked);
    build::quietly(&mut unpack, &format!("unpacking {real}"))?;
    fs::rename(unpacked, &tree)?;
    Ok(tree)
}

/// The folder with the modules of the kernel of Debian's package `SUITE/PACKAGE`.
///
/// # Errors
/// As for [`kernel`].
pub fn modules(name: &str) -> Result<PathBuf> {
    let kernel = kernel(name)?;
    let version = kernel.file_name().and_then(|name| name.to_str());
    let version = version.and_then(|name| name.strip_prefix("vmlinuz-"));
    let version = version.with_context(|| format!("{} has no version", kernel.display()))?;
    let tree = kernel.parent().and_then(Path::parent).context("a tree")?;
    Ok(tree.join("lib/modules").join(version).join("kernel"))
}

/// An initial ramdisk whose init is the script `tests/linux/NAME.sh`, with busybox and
/// the programs of `tests/linux` that it names in /bin, and with `files`.
///
/// # Errors
/// There is no such script, or something cannot be fetched or built.
pub fn initramfs(name: &str, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let script = root().join("tests/linux").join(format!("{name}.sh"));
    let script = fs::read(&script).with_context(|| format!("init {}", script.display()))?;
    let busybox = package_tree(BUSYBOX_SUITE, BUSYBOX)?.join(BUSYBOX_PROGRAM);
    let busybox = fs::read(&busybox).with_context(|| busybox.display().to_string())?;
    let mut archive = Vec::new();
    for folder in ["bin", "dev", "proc", "sys", "tmp"] {
        archive = entry(archive, folder, FOLDER, &[])?;
    }
    for (name, content) in [("init", &script), ("bin/busybox", &busybox)] {
        archive = entry(archive, name, PROGRAM, content)?;
    }
    // What it does not need it need not load.
    let text = String::from_utf8_lossy(&script);
    for name in PROGRAMS.iter().filter(|name| text.contains(**name)) {
        let program = build::strip(&build::linux_program(name)?)?;
        let program = read(program.path())?;
        archive = entry(archive, &format!("bin/{name}"), PROGRAM, &program)?;
    }
    for (name, content) in files {
        archive = entry(archive, name, PROGRAM, content)?;
    }
    archive = entry(archive, "bin/sh", LINK, b"busybox")?;
    // What init speaks through, before it has mounted anything.
    archive = device(archive, "dev/console", 5, 1)?;
    trailer(archive).context("initramfs")
}

const FOLDER: (ModeFileType, u32) = (ModeFileType::Directory, 0o755);
const PROGRAM: (ModeFileType, u32) = (ModeFileType::Regular, 0o755);
const LINK: (ModeFileType, u32) = (ModeFileType::Symlink, 0o777);

fn entry(
    archive: Vec<u8>,
    name: &str,
    (kind, mode): (ModeFileType, u32),
    content: &[u8],
) -> Result<Vec<u8>> {
    let entry = Builder::new(name).mode(mode).set_mode_file_type(kind);
    write(archive, entry, content)
}

fn device(archive: Vec<u8>, name: &str, major: u32, minor: u32) -> Result<Vec<u8>> {
    let entry = Builder::new(name)
        .mode(0o600)
        .set_mode_file_type(ModeFileType::Char)
        .rdev_major(major)
        .rdev_minor(minor);
    write(archive, entry, &[])
}

fn write(archive: Vec<u8>, entry: Builder, content: &[u8]) -> Result<Vec<u8>> {
    let bytes = u32::try_from(content.len()).context("a file of the initramfs")?;
    let mut writer = entry.write(archive, bytes);
    std::io::Write::write_all(&mut writer, content)?;
    Ok(writer.finish()?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}
