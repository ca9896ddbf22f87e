//! Debian packages that a command needs: installed where that is possible,
//! else named with the command that installs them.

use anyhow::{Context, Result, bail};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Something that must exist, and the package that brings it.
pub struct Need {
    /// A program in `PATH`, or an absolute path.
    pub what: &'static str,
    /// Debian's package.
    pub package: &'static str,
}

impl Need {
    /// Whether it is there.
    pub fn is_met(&self) -> bool {
        let path = Path::new(self.what);
        if path.is_absolute() {
            return path.exists();
        }
        std::env::var_os("PATH").is_some_and(|paths| {
            std::env::split_paths(&paths).any(|folder| folder.join(self.what).is_file())
        })
    }
}

/// What of `needs` is missing, in one line; `None` where nothing is.
pub fn missing(needs: &[Need]) -> Option<String> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    (!missing.is_empty()).then(|| {
        let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
        let packages = names(&missing);
        format!(
            "{} missing (Debian: apt-get install {packages})",
            what.join(", ")
        )
    })
}

fn names(needs: &[&Need]) -> String {
    let mut packages: Vec<&str> = needs.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages.join(" ")
}

/// Sees to it that all `needs` are met.
///
/// # Errors
/// Something is missing and cannot be installed here: the error has the command.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = names(&missing);
    let command = format!("apt-get install --yes --no-install-recommends {packages}");
    let apt = Need {
        what: "apt-get",
        package: "apt",
    };
    if !apt.is_met() || !is_root() {
        let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
        bail!(
            "{} missing; on Debian, install with:\n  sudo {command}",
            what.join(", ")
        );
    }
    eprintln!("installing: {packages}");
    // A new machine has no package lists yet.
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages.split(' '));
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("apt-get cannot be started")?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {} failed:\n{log}", arguments.join(" "));
    }
    Ok(())
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let needs = [
            Need {
                what: "sh",
                package: "dash",
            },
            Need {
                what: "/nonexistent/bios",
                package: "some-bios",
            },
            Need {
                what: "no-such-program",
                package: "some-tool",
            },
        ];
        let text = missing(&needs).unwrap();
        assert_eq!(
            text,
            "/nonexistent/bios, no-such-program missing (Debian: apt-get install some-bios some-tool)"
        );
        assert_eq!(missing(&needs[..1]), None);
    }
}
