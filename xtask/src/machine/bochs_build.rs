//! The emulator's build: Debian's pinned source, our patch, cached by what went
//! into it. It is built aside and moved into place when complete, so that what
//! is in the cache is always whole.

use super::bochs;
use crate::{
    archive::Archive,
    build::{quietly, spinner},
    packages::{self, Need},
    project::{root, target},
};
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

/// Names an unpacked source tree or a tarball, for machines without Debian's
/// archive.
const SOURCE_VARIABLE: &str = "TILEVISOR_BOCHS_SOURCE";
const PACKAGE: &str = "bochs=3.0+dfsg-1";
const TARBALL: &str = "bochs_3.0+dfsg.orig.tar.xz";
const TARBALL_SHA256: &str = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b";
const SUITE: &str = "trixie";

const CONFIGURE: [&str; 16] = [
    "--with-nogui",
    "--enable-smp",
    "--enable-cpu-level=6",
    "--enable-x86-64",
    "--enable-vmx=2",
    "--enable-avx",
    "--enable-evex",
    "--enable-amx",
    "--enable-all-optimizations",
    "--enable-pci",
    "--enable-cet",
    "--enable-memtype",
    "--enable-protection-keys",
    "--enable-uintr",
    "--enable-x86-debugger",
    "--disable-docbook",
];

const NEEDS: [Need; 5] = [
    Need {
        what: "g++",
        package: "g++",
    },
    Need {
        what: "make",
        package: "make",
    },
    Need {
        what: "patch",
        package: "patch",
    },
    Need {
        what: "tar",
        package: "tar",
    },
    Need {
        what: "xz",
        package: "xz-utils",
    },
];

/// Two cases of one test run may want it at once; the first builds it.
static BUILDING: Mutex<()> = Mutex::new(());

/// The emulator's program, built first if it is not there yet.
///
/// # Errors
/// What could not be fetched, verified, patched or built.
pub(super) fn emulator() -> Result<PathBuf> {
    packages::ensure(&bochs::NEEDS)?;
    let _alone = BUILDING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let cache = target().join("bochs");
    let program = cache.join(key()?).join("bochs");
    if !program.is_file() {
        packages::ensure(&NEEDS)?;
        build(&cache, &program)?;
    }
    Ok(program)
}

/// Whether the emulator is there.
pub(super) fn is_built() -> Result<bool> {
    Ok(target().join("bochs").join(key()?).join("bochs").is_file())
}

fn patch() -> PathBuf {
    root().join("xtask/bochs/extended-state.patch")
}

/// What went into a build: patch, configuration, source.
fn key() -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(fs::read(patch()).with_context(|| patch().display().to_string())?);
    hash.update(CONFIGURE.join(" "));
    match std::env::var(SOURCE_VARIABLE) {
        Ok(source) if Path::new(&source).is_dir() => hash.update(source),
        _ => hash.update(TARBALL_SHA256),
    }
    Ok(hex(&hash.finalize()[..8]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn build(cache: &Path, program: &Path) -> Result<()> {
    fs::create_dir_all(cache)?;
    let aside = tempfile::tempdir_in(cache)?;
    let tree = aside.path().join("source");
    fs::create_dir(&tree)?;
    provide_source(cache, &tree)?;
    apply(&patch(), &tree)?;
    let mut configure = Command::new("./configure");
    configure
        .args(CONFIGURE)
        .arg("--disable-debugger")
        .current_dir(&tree);
    quietly(&mut configure, "configuring the emulator")?;
    make(&tree)?;

    let finished = aside.path().join("finished");
    fs::create_dir(&finished)?;
    fs::rename(tree.join("bochs"), finished.join("bochs"))
        .context("the emulator's build made no program")?;
    let place = program
        .parent()
        .context("the cache has a folder for each build")?;
    // One that lacks its program is left from before this was moved into place.
    let _ = fs::remove_dir_all(place);
    fs::rename(&finished, place).with_context(|| place.display().to_string())
}

/// Puts the source into `tree`.
fn provide_source(cache: &Path, tree: &Path) -> Result<()> {
    match std::env::var_os(SOURCE_VARIABLE).map(PathBuf::from) {
        Some(source) if source.is_dir() => {
            let mut copy = Command::new("cp");
            copy.arg("-a").arg(source.join(".")).arg(tree);
            quietly(&mut copy, "copying the emulator's source")
        }
        Some(tarball) => unpack(&tarball, tree),
        None => unpack(&fetch(cache)?, tree),
    }
}

fn unpack(tarball: &Path, tree: &Path) -> Result<()> {
    verify(tarball)?;
    let mut tar = Command::new("tar");
    tar.arg("-xJf")
        .arg(tarball)
        .arg("--strip-components=1")
        .arg("-C")
        .arg(tree);
    quietly(&mut tar, "unpacking the emulator's source")
}

fn verify(tarball: &Path) -> Result<()> {
    let data =
        fs::read(tarball).with_context(|| format!("emulator source {}", tarball.display()))?;
    let found = hex(&Sha256::digest(&data));
    ensure!(
        found == TARBALL_SHA256,
        "emulator source {}: sha256 is {found}, expected {TARBALL_SHA256}",
        tarball.display()
    );
    Ok(())
}

fn apply(patch: &Path, tree: &Path) -> Result<()> {
    let mut command = Command::new("patch");
    command
        .args(["-p1", "--fuzz=0", "--batch", "--forward", "--input"])
        .arg(patch)
        .current_dir(tree);
    // It reports on its standard output.
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("patch cannot be started")?;
    if !output.status.success() {
        bail!(
            "{} does not apply:\n{}",
            patch.display(),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(())
}

/// Fetches Debian's tarball with an apt configuration of our own, whose mirror
/// is the machine's.
fn fetch(cache: &Path) -> Result<PathBuf> {
    let tarball = cache.join(TARBALL);
    if tarball.is_file() && verify(&tarball).is_ok() {
        return Ok(tarball);
    }
    let archive = Archive::new(cache, "deb-src", SUITE).with_context(no_archive)?;
    // Without --tar-only apt also wants the .dsc, which not every mirror has.
    archive
        .run(
            &["source", "--tar-only", "--download-only", PACKAGE],
            "fetching the emulator's source",
        )
        .with_context(no_archive)?;
    verify(&archive.folder().join(TARBALL))?;
    fs::rename(archive.folder().join(TARBALL), &tarball)?;
    Ok(tarball)
}

fn no_archive() -> String {
    format!(
        "the emulator's source cannot be fetched; get {TARBALL} (Debian source package {PACKAGE}) \
         and name it: {SOURCE_VARIABLE}=/path/to/{TARBALL}"
    )
}

/// Compiles the tree, showing how far it got.
fn make(tree: &Path) -> Result<()> {
    let compilations = |text: &str| text.lines().filter(|line| is_compilation(line)).count() as u64;
    let planned = Command::new("make")
        .arg("-n")
        .current_dir(tree)
        .output()
        .context("make cannot be started")?;
    let progress = ProgressBar::new(compilations(&String::from_utf8_lossy(&planned.stdout)));
    let waiting = progress
        .is_hidden()
        .then(|| spinner("building the emulator (takes a minute)"));
    if let Ok(style) =
        ProgressStyle::with_template("building the emulator {wide_bar} {pos}/{len} {elapsed}")
    {
        progress.set_style(style);
    }
    let jobs = thread::available_parallelism().map_or(1, |jobs| jobs.get());
    let log = tree.join("make.log");
    let mut child = Command::new("make")
        .arg(format!("-j{jobs}"))
        .current_dir(tree)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .context("make cannot be started")?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            if is_compilation(&line?) {
                progress.inc(1);
            }
        }
    }
    let status = child.wait()?;
    progress.finish_and_clear();
    waiting.inspect(ProgressBar::finish_and_clear);
    if !status.success() {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let errors: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("rror"))
            .take(20)
            .collect();
        bail!("building the emulator failed:\n{}", errors.join("\n"));
    }
    Ok(())
}

fn is_compilation(line: &str) -> bool {
    line.contains(" -c ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tarball_with_another_hash_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let tarball = folder.path().join(TARBALL);
        fs::write(&tarball, "not it").unwrap();
        let error = unpack(&tarball, folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(TARBALL_SHA256) && error.contains(TARBALL),
            "{error}"
        );
    }

    #[test]
    fn a_patch_that_does_not_apply_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "one\n").unwrap();
        let patch = folder.path().join("p");
        fs::write(
            &patch,
            "--- a/file\n+++ b/file\n@@ -1 +1 @@\n-two\n+three\n",
        )
        .unwrap();
        let error = apply(&patch, folder.path()).unwrap_err().to_string();
        assert!(error.contains("does not apply"), "{error}");
        fs::write(
            &patch,
            "--- a/file\n+++ b/file\n@@ -1 +1 @@\n-one\n+three\n",
        )
        .unwrap();
        apply(&patch, folder.path()).unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("file")).unwrap(),
            "three\n"
        );
    }
}
