//! Debian's archive, read with an apt configuration of our own: the machine's mirror,
//! but suites that the machine itself need not use, and nothing installed.

use crate::{
    build::quietly,
    packages::{self, Need},
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A suite of the archive, whose lists have been read.
pub struct Archive(TempDir);

impl Archive {
    /// Reads the lists of `suite`, of `deb` or `deb-src` packages; files come to a
    /// folder in `place`.
    ///
    /// # Errors
    /// There is no apt, no mirror, or no such suite.
    pub fn new(place: &Path, kind: &str, suite: &str) -> Result<Self> {
        packages::ensure(&[Need {
            what: "apt-get",
            package: "apt",
        }])?;
        let mirror = mirror()?;
        let apt = tempfile::tempdir_in(place)?;
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.path().join(folder))?;
        }
        let folder = apt.path().display();
        fs::write(
            apt.path().join("sources.list"),
            format!("{kind} {mirror} {suite} main\n"),
        )?;
        fs::write(
            apt.path().join("apt.conf"),
            format!(
                "Dir::Etc::SourceList \"{folder}/sources.list\";\n\
                 Dir::Etc::SourceParts \"/dev/null\";\n\
                 Dir::State::Lists \"{folder}/lists\";\n\
                 Dir::Cache \"{folder}/cache\";\n\
                 APT::Sandbox::User \"root\";\n"
            ),
        )?;
        let archive = Self(apt);
        archive.run(&["update"], &format!("reading the lists of Debian {suite}"))?;
        Ok(archive)
    }

    /// Where files come to.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Runs apt-get.
    ///
    /// # Errors
    /// It cannot be started, or fails.
    pub fn run(&self, arguments: &[&str], what: &str) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(arguments);
        quietly(&mut command, what)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.folder().join("apt.conf"))
            .current_dir(self.folder());
        command
    }

    /// The package that the metapackage `name` stands for, or `name` itself.
    ///
    /// # Errors
    /// There is no such package.
    pub fn resolve(&self, name: &str) -> Result<String> {
        let mut command = self.command("apt-cache");
        let output = command.args(["depends", "--important", name]).output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("package {name}: {}", error.trim());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(dependency(&text, name).unwrap_or(name).to_owned())
    }
}

/// The kernel that `apt-cache depends` of a kernel's metapackage names.
fn dependency<'a>(text: &'a str, metapackage: &str) -> Option<&'a str> {
    let stem = metapackage
        .split_once("-cloud")
        .map_or_else(|| metapackage.trim_end_matches("-amd64"), |(stem, _)| stem);
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|dependency| dependency.starts_with(stem))
}

/// The mirror that the machine's own apt sources name.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter(|file| {
            file.extension()
                .is_some_and(|end| end == "list" || end == "sources")
        })
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text))
        .context("no Debian mirror in /etc/apt/sources.list or /etc/apt/sources.list.d")
}

/// The first Debian mirror in a list of sources, whichever of apt's two formats
/// it has.
fn mirror_in(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let first = words.next()?;
        let is_mirror =
            |word: &&str| word.contains("://") && word.trim_end_matches('/').ends_with("/debian");
        matches!(first, "deb" | "deb-src" | "URIs:")
            .then(|| words.find(is_mirror))?
            .map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats_of_apt() {
        let expected = Some("http://mirror.example/debian".to_owned());
        let lines = "# deb http://other.example/debian x main\n\
                     deb http://mirror.example/debian-security x main\n\
                     deb [signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian bookworm main\n";
        assert_eq!(mirror_in(lines), expected);
        let deb822 = "Types: deb\n# http://old.example/debian\nURIs: http://mirror.example/debian\nSuites: bookworm\n";
        assert_eq!(mirror_in(deb822), expected);
        assert_eq!(
            mirror_in("deb http://vendor.example/apt stable main\n"),
            None
        );
    }

    #[test]
    fn a_metapackage_stands_for_its_kernel() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        let kernel = Some("linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(dependency(text, "linux-image-cloud-amd64"), kernel);
        let text = "busybox-static\n  Depends: libc6\n";
        assert_eq!(dependency(text, "busybox-static"), None);
    }
}
