//! Runs every test there is, and sums them up.

use crate::project::root;
use anyhow::{Context, Result};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// Packages whose unit tests run on the host.
const HOST_TESTED: [&str; 4] = ["cases", "guest-loader", "hypervisor", "xtask"];

/// Passed and failed tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// From the line with which cargo's test harness closes.
    fn from_line(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("test result: ")?;
        let count = |what| {
            rest.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
        })
    }
}

/// Runs all tests whose name contains `filter`; says whether none failed.
///
/// # Errors
/// Something cannot be started.
pub fn run(filter: Option<&str>) -> Result<bool> {
    let mut tally = Tally::default();
    for package in HOST_TESTED {
        let mut arguments = vec!["test", "--package", package, "--tests"];
        arguments.extend(filter.map_or(vec![], |filter| vec!["--", filter]));
        tally.add(tests_of(&arguments, &format!("unit tests of {package}"))?);
    }
    let mut arguments = vec!["run", "--package", "cases", "--"];
    arguments.extend(filter);
    tally.add(tests_of(&arguments, "whole-machine tests")?);
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

/// Runs one harness, passing its output on. One that ends without a closing
/// line, because it did not compile, say, counts as a failed test.
fn tests_of(arguments: &[&str], what: &str) -> Result<Tally> {
    println!("=== {what}");
    let mut child = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo cannot be started")?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            tally.add(Tally::from_line(&line).unwrap_or_default());
            println!("{line}");
        }
    }
    if !child.wait()?.success() && tally.failed == 0 {
        println!("{what}: the harness itself failed");
        tally.failed = 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_a_harness_is_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.1s";
        assert_eq!(
            Tally::from_line(line),
            Some(Tally {
                passed: 12,
                failed: 3
            })
        );
        assert_eq!(Tally::from_line("test x ... ok"), None);
    }
}
