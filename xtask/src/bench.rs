//! What exits cost: a guest measures itself on the emulated machine with one CPU, whose
//! TSC counts instructions, so that two runs give the same figures.

use crate::{
    boot::Boot, build, bundle, machine::Machine, operator::Script, project::root, run::Ended,
};
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::{path::Path, process::Command, time::Duration};

/// Far more than any run takes.
const LIMIT: Duration = Duration::from_secs(300);
/// VMs that are merely there in the run with many.
const SLEEPERS: u32 = 63;
/// How long they sleep: longer than the measurement takes.
const SLEEP_TICKS: u64 = 30_000_000;

/// A figure.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// The most that it should be.
    #[serde(skip)]
    target: Option<f64>,
}

/// All figures, as tools read them.
#[derive(Serialize)]
struct Figures {
    machine: String,
    commit: String,
    rows: Vec<Row>,
}

/// The most instructions that a round trip should take.
const TARGETS: [(&str, f64); 5] = [
    ("cpuid", 100.0),
    ("vmcall", 90.0),
    ("xsetbv", 130.0),
    ("wrmsr", 130.0),
    ("out", 200.0),
];
/// How much more an exit may cost beside other VMs.
const SCALE_TARGET: f64 = 1.05;
const IMAGE_TARGET: f64 = 512.0 * 1024.0;

/// Measures, prints a table, and writes it to `json` for tools.
///
/// # Errors
/// A machine does not run, or a figure is missing.
pub fn run(json: Option<&Path>) -> Result<()> {
    let (machine, reason) = Machine::auto();
    machine.prepare()?;
    if let Some(reason) = reason {
        println!("machine {machine}; not kvm: {reason}");
    }
    let alone = measure(machine, 0)?;
    let crowded = measure(machine, SLEEPERS)?;
    let mut rows: Vec<Row> = alone
        .iter()
        .map(|(name, value)| Row {
            name: name.clone(),
            value: *value,
            unit: "ticks",
            target: TARGETS
                .iter()
                .find(|(of, _)| of == name)
                .map(|(_, most)| *most),
        })
        .collect();
    // First those with a target, in its order.
    rows.sort_by_key(|row| {
        TARGETS
            .iter()
            .position(|(name, _)| *name == row.name)
            .unwrap_or(usize::MAX)
    });
    rows.push(Row {
        name: "scale_ratio".into(),
        value: worst_ratio(&alone, &crowded)?,
        unit: "64 VMs : 1",
        target: Some(SCALE_TARGET),
    });
    rows.push(Row {
        name: "image_bytes".into(),
        value: build::stripped_size(&build::hypervisor()?)? as f64,
        unit: "bytes",
        target: Some(IMAGE_TARGET),
    });
    for row in &rows {
        println!("{}", line(row));
    }
    if let Some(path) = json {
        let figures = Figures {
            machine: machine.to_string(),
            commit: commit()?,
            rows,
        };
        std::fs::write(path, serde_json::to_string_pretty(&figures)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn line(row: &Row) -> String {
    let target = row.target.map_or(String::new(), |most| {
        let met = if row.value <= most { "met" } else { "not met" };
        format!("  at most {most}: {met}")
    });
    format!("{:12} {:>10} {}{target}", row.name, row.value, row.unit)
}

fn commit() -> Result<String> {
    let mut git = Command::new("git");
    let output = git
        .args(["describe", "--always", "--dirty"])
        .current_dir(root())
        .output()
        .context("git cannot be started")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The figures of a guest beside `sleepers` others.
fn measure(machine: Machine, sleepers: u32) -> Result<Vec<(String, f64)>> {
    let mut toml = String::from(
        "[[vm]]\nname = \"guest\"\nimage = \"payload:bench\"\nmemory = \"4M\"\nxstate = { amx = true }\n",
    );
    for number in 0..sleepers {
        toml.push_str(&format!(
            "[[vm]]\nname = \"sleeper{number}\"\nimage = \"payload:bench\"\n\
             cmdline = \"sleep={SLEEP_TICKS}\"\nmemory = \"4M\"\n"
        ));
    }
    let (kernel, bundle) = (build::hypervisor()?, bundle::pack(&toml, Path::new("."))?);
    let boot = Boot {
        ramdisk: Some(&bundle),
        ..Boot::new(machine, &kernel, LIMIT)
    };
    let outcome = boot.run(&mut Script::default())?;
    if outcome.ended != (Ended::Verdict { success: true }) {
        bail!(
            "the machine ended with {:?}:\n{}",
            outcome.ended,
            outcome.console.join("\n")
        );
    }
    let figures: Vec<_> = outcome
        .console
        .iter()
        .filter_map(|line| figure(line))
        .collect();
    ensure!(
        TARGETS
            .iter()
            .all(|(name, _)| figures.iter().any(|(found, _)| found == name)),
        "figures are missing:\n{}",
        outcome.console.join("\n")
    );
    Ok(figures)
}

/// The name and value of a line of the payload `bench`.
pub fn figure(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.strip_prefix("guest: bench ")?.split_once(' ')?;
    Some((name.to_owned(), value.parse().ok()?))
}

/// How much more the row that suffers most costs.
fn worst_ratio(alone: &[(String, f64)], crowded: &[(String, f64)]) -> Result<f64> {
    let ratios = alone.iter().map(|(name, alone)| {
        let crowded = crowded.iter().find(|(other, _)| other == name);
        let (_, crowded) = crowded.with_context(|| format!("no figure of {name} beside others"))?;
        Ok(crowded / alone)
    });
    let ratios: Vec<f64> = ratios.collect::<Result<_>>()?;
    ratios.into_iter().reduce(f64::max).context("no figures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_compared() {
        assert_eq!(
            figure("guest: bench cpuid 88.5"),
            Some(("cpuid".into(), 88.5))
        );
        assert_eq!(figure("other: bench cpuid 88.5"), None);
        assert_eq!(figure("guest: bench cpuid"), None);
        let figures =
            |values: [f64; 2]| vec![("a".to_owned(), values[0]), ("b".to_owned(), values[1])];
        let (alone, crowded) = (figures([10.0, 100.0]), figures([11.0, 105.0]));
        assert_eq!(worst_ratio(&alone, &crowded).unwrap(), 1.1);
        assert!(worst_ratio(&alone, &crowded[..1]).is_err());
    }

    #[test]
    fn a_row_says_whether_it_meets_its_target() {
        let row = |value| Row {
            name: "cpuid".into(),
            value,
            unit: "ticks",
            target: Some(100.0),
        };
        assert!(line(&row(100.0)).ends_with("at most 100: met"));
        assert!(line(&row(100.1)).ends_with("at most 100: not met"));
        let json = serde_json::to_string(&row(88.0)).unwrap();
        assert_eq!(json, r#"{"name":"cpuid","value":88.0,"unit":"ticks"}"#);
    }
}
