//! What the hypervisor costs: guests measure themselves on the emulated machine with one
//! CPU, whose TSC counts instructions, so that two runs give the same figures.

mod code;
mod measure;
mod peer;
mod plot;

use crate::{build, machine::Machine, project::root};
use anyhow::{Context, Result};
pub use measure::figure;
use measure::{Figures, Measure};
use serde::Serialize;
use std::{fs, path::Path, process::Command};

/// What is read from the TSC.
const TICKS: &str = "ticks";

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

impl Row {
    /// Whether it was measured on a larger machine than the others.
    fn is_scaled(&self) -> bool {
        self.name.contains(measure::BESIDE)
    }
}

/// All figures, as tools read them.
#[derive(Serialize)]
struct Table {
    machine: String,
    commit: String,
    rows: Vec<Row>,
}

/// Rows with a target, in its order: name, unit, the most that it should be.
const TARGETS: [(&str, &str, f64); 19] = [
    ("cpuid", TICKS, 100.0),
    ("vmcall", TICKS, 90.0),
    ("xsetbv", TICKS, 130.0),
    ("wrmsr", TICKS, 130.0),
    ("out", TICKS, 200.0),
    ("xfd_write_exits", "exits", 0.0),
    ("nm_intercept", TICKS, 250.0),
    ("nm_switch", TICKS, 50.0),
    ("nm_switch_exits", "exits", 0.0),
    ("vcpu_switch_tiles", TICKS, 300.0),
    ("vmcs_accesses_cpuid", "VMREADs and VMWRITEs", 4.0),
    ("amx_ratio", "VM : bare", 1.001),
    ("avx512_ratio", "VM : bare", 1.001),
    ("integer_ratio", "VM : bare", 1.001),
    ("linux_boot_ratio", "VM : bare", 1.02),
    ("amx_unused_ratio", "offered : not", 1.001),
    ("scale_ratio", "worst : alone", 1.05),
    ("loc", "lines", 9000.0),
    ("image_bytes", "bytes", 512.0 * 1024.0),
];

/// What is measured and written besides the table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Linux' KVM too.
    pub kvm: bool,
    /// A file for tools.
    pub json: Option<&'a Path>,
    /// A folder for plots.
    pub plots: Option<&'a Path>,
}

/// Measures, prints a table, and writes what else is asked for.
///
/// # Errors
/// A machine does not run, or a figure is missing.
pub fn run(options: Options<'_>) -> Result<()> {
    let (machine, reason) = Machine::auto();
    machine.prepare()?;
    let reason = reason.map_or(String::new(), |reason| format!(" (not kvm: {reason})"));
    let commit = commit()?;
    println!("machine {machine}{reason}, 1 CPU, commit {commit}");
    println!("policy intercept, but for nm_switch and nm_switch_exits");
    let measure = Measure { machine, cpus: 1 };
    let mut figures = all_figures(&measure)?;
    if options.kvm {
        figures.extend(peer::figures(&measure)?);
    }
    let rows = rows(&figures)?;
    // People look at the worst of those on larger machines: `scale_`.
    for row in rows.iter().filter(|row| !row.is_scaled()) {
        println!("{}", line(row, &figures));
    }
    if let Some(folder) = options.plots {
        plot::draw(&rows, folder)?;
    }
    if let Some(path) = options.json {
        let table = Table {
            machine: machine.to_string(),
            commit,
            rows,
        };
        fs::write(path, serde_json::to_string_pretty(&table)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn all_figures(measure: &Measure) -> Result<Figures> {
    let mut figures = measure.exits()?;
    measure.scale(&mut figures)?;
    measure.exit_counts(&mut figures)?;
    measure.switches(&mut figures)?;
    measure.containers(&mut figures)?;
    measure.work(&mut figures)?;
    measure.linux(&mut figures)?;
    let image = build::stripped_size(&build::hypervisor()?)?;
    figures.insert("image_bytes".into(), image as f64);
    let source = root().join("hypervisor/src");
    let lines = code::lines(&source.join("lib.rs"))? + code::lines(&source.join("main.rs"))?;
    figures.insert("loc".into(), lines as f64);
    for folder in fs::read_dir(&source)? {
        let folder = folder?;
        let module = folder.path().join("mod.rs");
        if module.is_file() {
            let name = folder.file_name();
            let row = format!("loc_{}", name.to_string_lossy());
            figures.insert(row, code::lines(&module)? as f64);
        }
    }
    Ok(figures)
}

/// Those with a target first, in its order, and then all others.
fn rows(figures: &Figures) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, unit, target) in TARGETS {
        let value = *figures.get(name).with_context(|| format!("no {name}"))?;
        rows.push(Row {
            name: name.into(),
            value,
            unit,
            target: Some(target),
        });
    }
    let has_target = |name: &String| TARGETS.iter().any(|(of, ..)| of == name);
    let others = figures.iter().filter(|(name, _)| !has_target(name));
    rows.extend(others.map(|(name, value)| Row {
        name: name.clone(),
        value: *value,
        unit: unit(name),
        target: None,
    }));
    Ok(rows)
}

/// The unit of a row without a target.
fn unit(name: &str) -> &'static str {
    const OTHERS: [(&str, &str); 5] = [
        ("container_", "bytes a vCPU"),
        ("loc_", "lines"),
        ("scale_", "worst : alone"),
        ("swap_bytes_", "bytes saved, and loaded"),
        ("vmcs_accesses_", "VMREADs and VMWRITEs"),
    ];
    let other = OTHERS.iter().find(|(begin, _)| name.starts_with(begin));
    other.map_or(TICKS, |(_, unit)| unit)
}

/// A row as people read it, beside the same of KVM's.
fn line(row: &Row, figures: &Figures) -> String {
    let peer = figures.get(&format!("{}{}", peer::PREFIX, row.name));
    let peer = peer.map_or(String::new(), |peer| {
        format!("  KVM {peer}: {:.1} times as much", peer / row.value)
    });
    let target = row.target.map_or(String::new(), |most| {
        let met = if row.value <= most { "met" } else { "not met" };
        format!("  at most {most}: {met}")
    });
    // More digits than a ratio needs would only be noise.
    let value = (row.value * 10_000.0).round() / 10_000.0;
    format!("{:20} {value:>12} {}{target}{peer}", row.name, row.unit)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_it_meets_its_target() {
        let none = Figures::new();
        let row = |value| Row {
            name: "cpuid".into(),
            value,
            unit: TICKS,
            target: Some(100.0),
        };
        assert!(line(&row(100.0), &none).ends_with("at most 100: met"));
        assert!(line(&row(100.1), &none).ends_with("at most 100: not met"));
        let kvm = Figures::from([("kvm_cpuid".into(), 1000.0)]);
        assert!(line(&row(100.0), &kvm).ends_with("KVM 1000: 10.0 times as much"));
        let json = serde_json::to_string(&row(88.0)).unwrap();
        assert_eq!(json, r#"{"name":"cpuid","value":88.0,"unit":"ticks"}"#);
    }

    #[test]
    fn rows_with_a_target_come_first_and_none_may_be_missing() {
        let mut figures: Figures = TARGETS.map(|(name, ..)| (name.to_owned(), 1.0)).into();
        figures.insert("another".into(), 2.0);
        let rows = rows(&figures).unwrap();
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(
            (names[0], names[18], names[19]),
            ("cpuid", "image_bytes", "another")
        );
        figures.remove("loc");
        assert!(super::rows(&figures).is_err());
    }
}
