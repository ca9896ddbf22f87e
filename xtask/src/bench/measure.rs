//! The machines that are run for the figures, and what is read from their consoles.

use crate::{boot::Boot, build, bundle, machine::Machine, operator::Script, run::Ended};
use anyhow::{Context, Result, bail};
use std::{collections::BTreeMap, path::Path, time::Duration};

/// Figures by name.
pub(super) type Figures = BTreeMap<String, f64>;

/// Far more than any run takes.
const LIMIT: Duration = Duration::from_secs(300);
/// Larger machines: a name, CPUs, and VMs that are merely there.
const SCALES: [(&str, u32, usize); 5] = [
    ("8_vms", 1, 7),
    ("64_vms", 1, MOST_SLEEPERS),
    ("2_cpus", 2, 0),
    ("4_cpus", 4, 0),
    ("8_cpus", 8, 0),
];
/// Between the name of a row and that of a larger machine.
pub(super) const BESIDE: &str = "_with_";
const MOST_SLEEPERS: usize = 63;
/// How long a guest waits there until the other CPUs have started and halt.
const SETTLE_TICKS: u64 = 400_000_000;
/// How long the others sleep: longer than that and the measurement take.
const SLEEP_TICKS: u64 = 600_000_000;
/// Turns by which two VMs differ whose exits are compared.
const TURNS: u64 = 1000;
/// Exits whose accesses to the VMCS are counted.
const COUNTED: [&str; 7] = ["cpuid", "vmcall", "xsetbv", "wrmsr", "out", "rdmsr", "in"];
/// Long enough that a slice's end is no accident.
const SWITCH_SLICE_US: u32 = 100;

/// Runs machines of this kind, with so many CPUs.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    pub(super) machine: Machine,
    pub(super) cpus: u32,
}

/// A VM of a bundle.
pub(super) struct Vm<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a str,
    pub(super) command_line: String,
    /// What else its description says.
    pub(super) more: &'a str,
}

impl Vm<'_> {
    fn toml(&self) -> String {
        let Self {
            name,
            image,
            command_line,
            more,
        } = self;
        format!(
            "[[vm]]\nname = \"{name}\"\nimage = \"{image}\"\ncmdline = \"{command_line}\"\n{more}\n"
        )
    }
}

/// A payload with little memory and AMX.
fn payload<'a>(name: &'a str, image: &'a str, command_line: impl Into<String>) -> Vm<'a> {
    Vm {
        name,
        image,
        command_line: command_line.into(),
        more: "memory = \"4M\"\nxstate = { amx = true }",
    }
}

const TWO_VCPUS: &str = "memory = \"4M\"\nvcpus = 2\nxstate = { amx = true }";
const SWITCH: &str = "memory = \"4M\"\nxstate = { amx = true, xfd_err = \"switch\" }";

impl Measure {
    /// What exits cost, and what it takes to come to the guest.
    pub(super) fn exits(&self) -> Result<Figures> {
        let guest = Vm {
            more: TWO_VCPUS,
            ..payload("guest", "payload:bench", "cpus=2")
        };
        let console = self.in_vms(&[guest])?;
        let mut figures = guest_figures(&console);
        let begun = after(&console, "VM \"guest\" began at TSC ")?;
        let first = after(&console, "from TSC ")?;
        figures.insert("boot".into(), begun - first);
        name_policy(&mut figures).context("no figure of #NM")?;
        let switching = Vm {
            more: SWITCH,
            ..payload("guest", "payload:bench", "")
        };
        let switched = guest_figures(&self.in_vms(&[switching])?);
        let switched = switched.get("nm").context("no figure of #NM")?;
        figures.insert("nm_switch".into(), *switched);
        Ok(figures)
    }

    /// How much more the exit costs that suffers most from other VMs, or other CPUs.
    pub(super) fn scale(&self, figures: &mut Figures) -> Result<()> {
        let alone = figures.clone();
        let names: Vec<String> = (0..MOST_SLEEPERS)
            .map(|number| format!("sleeper{number}"))
            .collect();
        let mut worst: f64 = 0.0;
        for (name, cpus, sleepers) in SCALES {
            let sleepers = names.iter().take(sleepers).map(|name| Vm {
                more: "memory = \"4M\"",
                ..payload(name, "payload:bench", format!("sleep={SLEEP_TICKS}"))
            });
            // On several CPUs its vCPUs do not wait for each other's turns.
            let vcpus = if cpus == 1 { 2 } else { 1 };
            let guest = Vm {
                more: TWO_VCPUS,
                ..payload(
                    "guest",
                    "payload:bench",
                    format!("cpus={vcpus} after={SETTLE_TICKS}"),
                )
            };
            let vms: Vec<_> = std::iter::once(guest).chain(sleepers).collect();
            let larger = Self { cpus, ..*self };
            let mut found = guest_figures(&larger.in_vms(&vms)?);
            name_policy(&mut found).context("no figure of #NM")?;
            let compared = alone.iter().filter(|(name, _)| found.contains_key(*name));
            let ratio = worst_ratio(compared, &found)?;
            worst = worst.max(ratio);
            let rows = found.into_iter();
            figures.extend(rows.map(|(row, ticks)| (format!("{row}{BESIDE}{name}"), ticks)));
            figures.insert(format!("scale_{name}"), ratio);
        }
        figures.insert("scale_ratio".into(), worst);
        Ok(())
    }

    /// How often something exits, and how often an exit accesses the VMCS: two VMs that
    /// differ in so many turns are compared.
    pub(super) fn exit_counts(&self, figures: &mut Figures) -> Result<()> {
        let turns = |of: &str, more: u64| format!("{of}={}", 1 + more);
        let vms = [
            payload("xfd", "payload:bench", turns("xfd_write", 0)),
            payload("xfd+", "payload:bench", turns("xfd_write", TURNS)),
            Vm {
                more: SWITCH,
                ..payload("nm", "payload:bench", turns("nm", 0))
            },
            Vm {
                more: SWITCH,
                ..payload("nm+", "payload:bench", turns("nm", TURNS))
            },
        ];
        let console = self.in_vms(&vms)?;
        for (figure, name) in [("xfd_write_exits", "xfd"), ("nm_switch_exits", "nm")] {
            let more = exits(&console, &format!("{name}+"))? - exits(&console, name)?;
            figures.insert(figure.into(), more / TURNS as f64);
        }
        let kernel = build::counting_hypervisor()?;
        let accesses = |of, more| {
            let guest = payload("guest", "payload:bench", turns(of, more));
            let console = self.boot(&kernel, &[guest])?;
            let line = console.iter().find(|line| line.contains(" VMREADs, "));
            let numbers = line
                .context("no count of VMREADs")?
                .split_ascii_whitespace();
            Ok::<f64, anyhow::Error>(numbers.filter_map(|word| word.parse::<f64>().ok()).sum())
        };
        // One turn of each is the same but for that exit.
        for exit in COUNTED {
            let more = accesses(exit, TURNS)? - accesses(exit, 0)?;
            figures.insert(format!("vmcs_accesses_{exit}"), more / TURNS as f64);
        }
        Ok(())
    }

    /// What is kept for each vCPU, by what its VM may use.
    pub(super) fn containers(&self, figures: &mut Figures) -> Result<()> {
        let sizes = [
            ("sse", "vector = \"sse\""),
            ("avx", "vector = \"avx\""),
            ("avx512", "vector = \"avx512\""),
            ("amx", "amx = true"),
            ("amx_on_demand", "amx = true, allocation = \"on-demand\""),
        ];
        let more = sizes.map(|(_, state)| format!("memory = \"4M\"\nxstate = {{ {state} }}"));
        let vms: Vec<_> = sizes
            .iter()
            .zip(&more)
            .map(|((name, _), more)| Vm {
                more,
                ..payload(name, "payload:bench", "sleep=1")
            })
            .collect();
        let console = self.in_vms(&vms)?;
        for (name, _) in sizes {
            let text = format!("VM \"{name}\" began at TSC ");
            let line = console.iter().find(|line| line.contains(&text));
            let (_, rest) = line
                .and_then(|line| line.split_once(", with "))
                .with_context(|| format!("nobody says what {name} has"))?;
            let bytes = rest.split_ascii_whitespace().next().unwrap_or_default();
            figures.insert(format!("container_{name}"), bytes.parse()?);
        }
        Ok(())
    }

    /// From the last instruction of one vCPU to the first of another on the same CPU, and
    /// to its own where there is no other.
    pub(super) fn switches(&self, figures: &mut Figures) -> Result<()> {
        let slice =
            format!("memory = \"4M\"\nslice_us = {SWITCH_SLICE_US}\nxstate = {{ amx = true }}");
        let vm = |name, state| Vm {
            more: &slice,
            ..payload(name, "payload:bench-switch", format!("state={state}"))
        };
        for state in ["none", "avx512", "tiles", "armed"] {
            let console = self.in_vms(&[vm("a", state), vm("b", state)])?;
            figures.insert(format!("vcpu_switch_{state}"), switch(&console)?);
            let moved = before(&console, " moved by a switch")?;
            figures.insert(format!("swap_bytes_{state}"), moved);
        }
        let console = self.in_vms(&[vm("a", "tiles")])?;
        let (_, absence) = slices(&console, "a")?;
        figures.insert("vcpu_again_tiles".into(), absence);
        Ok(())
    }

    /// Work in a VM against the same on the machine itself.
    pub(super) fn work(&self, figures: &mut Figures) -> Result<()> {
        let guest = || [payload("guest", "payload:bench-work", "")];
        let vm = guest_figures(&self.in_vms(&guest())?);
        let console = self.boot(&build::bare_launcher()?, &guest())?;
        let bare: Figures = console.iter().filter_map(|line| bench_line(line)).collect();
        for (name, bare) in bare {
            let vm = vm
                .get(&name)
                .with_context(|| format!("no {name} in a VM"))?;
            figures.insert(format!("{name}_ratio"), vm / bare);
        }
        Ok(())
    }

    /// Linux from its first instruction to init: in a VM against the machine itself, and
    /// with AMX offered, which it does not use, against not offered. It says little,
    /// because the machine itself waits for its console where a VM does not.
    pub(super) fn linux(&self, figures: &mut Figures) -> Result<()> {
        let linux = |amx: bool| Vm {
            name: "linux",
            image: "debian:bookworm/linux-image-cloud-amd64",
            command_line: "console=ttyS0 no5lvl quiet".into(),
            more: match amx {
                true => "initrd = \"initramfs:time\"\nmemory = \"256M\"\nxstate = { amx = true }",
                false => "initrd = \"initramfs:time\"\nmemory = \"256M\"",
            },
        };
        let in_vm = |amx| {
            let console = self.in_vms(&[linux(amx)])?;
            let begun = after(&console, "VM \"linux\" began at TSC ")?;
            Ok::<f64, anyhow::Error>(after(&console, "init at TSC ")? - begun)
        };
        let console = self.boot(&build::bare_launcher()?, &[linux(true)])?;
        let begun = after(&console, "the image begins at TSC ")?;
        let bare = after(&console, "init at TSC ")? - begun;
        let (offered, not_offered) = (in_vm(true)?, in_vm(false)?);
        figures.insert("linux_boot".into(), offered);
        figures.insert("linux_boot_bare".into(), bare);
        figures.insert("linux_boot_ratio".into(), offered / bare);
        figures.insert("amx_unused_ratio".into(), offered / not_offered);
        Ok(())
    }

    fn in_vms(&self, vms: &[Vm<'_>]) -> Result<Vec<String>> {
        self.boot(&build::hypervisor()?, vms)
    }

    /// The console of a machine that boots `kernel` with `vms`.
    pub(super) fn boot(&self, kernel: &Path, vms: &[Vm<'_>]) -> Result<Vec<String>> {
        let toml: String = vms.iter().map(Vm::toml).collect();
        let bundle = bundle::pack(&toml, Path::new("."))?;
        let boot = Boot {
            cpus: self.cpus,
            ramdisk: Some(&bundle),
            ..Boot::new(self.machine, kernel, LIMIT)
        };
        let names: Vec<_> = vms.iter().take(2).map(|vm| vm.name).collect();
        let running = build::spinner(&format!("measuring {}", names.join(" and ")));
        let outcome = boot.run(&mut Script::default())?;
        running.finish_and_clear();
        if outcome.ended != (Ended::Verdict { success: true }) {
            bail!(
                "the machine ended with {:?}:\n{}",
                outcome.ended,
                outcome.console.join("\n")
            );
        }
        Ok(outcome.console)
    }
}

/// The name and value of a line of the VM `guest` with the payload `bench`.
pub fn figure(line: &str) -> Option<(String, f64)> {
    bench_line(line.strip_prefix("guest: ")?)
}

fn bench_line(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.strip_prefix("bench ")?.split_once(' ')?;
    Some((name.to_owned(), value.parse().ok()?))
}

pub(super) fn guest_figures(console: &[String]) -> Figures {
    console.iter().filter_map(|line| figure(line)).collect()
}

/// Says that #NM was intercepted when it was measured; `None` if it was not measured.
pub(super) fn name_policy(figures: &mut Figures) -> Option<()> {
    let intercepted = figures.remove("nm")?;
    figures.insert("nm_intercept".into(), intercepted);
    Some(())
}

/// The number behind the first `text`.
fn after(console: &[String], text: &str) -> Result<f64> {
    let found = console.iter().find_map(|line| line.split_once(text));
    let (_, rest) = found.with_context(|| format!("nobody says {text:?}"))?;
    let rest = rest.split(',').next().unwrap_or(rest).trim();
    let number = match rest.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16)?,
        None => rest.parse()?,
    };
    Ok(number as f64)
}

/// The number before the first `text`.
fn before(console: &[String], text: &str) -> Result<f64> {
    let found = console.iter().find_map(|line| line.split_once(text));
    let (rest, _) = found.with_context(|| format!("nobody says {text:?}"))?;
    let number = rest.rsplit(' ').next().unwrap_or(rest);
    Ok(number.parse()?)
}

/// Exits of VM `name` but for those at which nothing of the guest's is done.
fn exits(console: &[String], name: &str) -> Result<f64> {
    const OF_THE_CLOCK: [&str; 2] = ["preemption timer", "external interrupt"];
    let text = format!("VM \"{name}\" exits: ");
    let found = console.iter().find_map(|line| line.split_once(&text));
    let (_, list) = found.with_context(|| format!("nobody says {text:?}"))?;
    let kinds = list.split(", ").filter_map(|kind| kind.rsplit_once(' '));
    let counted = kinds.filter(|(kind, _)| !OF_THE_CLOCK.contains(kind));
    let mut sum = 0.0;
    for (_, count) in counted {
        sum += count.parse::<f64>()?;
    }
    Ok(sum)
}

/// Ticks of a switch between the VMs `a` and `b`, which have the CPU in turn: what `a` is
/// away for is a slice of `b` and two switches. Each has a TSC of its own.
pub(super) fn switch(console: &[String]) -> Result<f64> {
    let (_, absence) = slices(console, "a")?;
    let (presence, _) = slices(console, "b")?;
    Ok((absence - presence) / 2.0)
}

/// How many ticks VM `name` had the CPU for in a time slice, and how many not between two.
fn slices(console: &[String], name: &str) -> Result<(f64, f64)> {
    let prefix = format!("{name}: bench slice ");
    let slices: Vec<(f64, f64)> = console
        .iter()
        .filter_map(|line| {
            let (from, to) = line.strip_prefix(&prefix)?.split_once(' ')?;
            Some((from.parse().ok()?, to.parse().ok()?))
        })
        .collect();
    let here = slices.iter().map(|(from, to)| to - from).collect();
    let away = slices
        .windows(2)
        .map(|pair| pair[1].0 - pair[0].1)
        .collect();
    let found = median(here).zip(median(away));
    found.with_context(|| format!("{name} had no time slices"))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// How much more the figure that suffers most is.
fn worst_ratio<'a>(
    alone: impl Iterator<Item = (&'a String, &'a f64)>,
    crowded: &Figures,
) -> Result<f64> {
    let ratios = alone.map(|(name, alone)| {
        let crowded = crowded.get(name);
        let crowded = crowded.with_context(|| format!("no {name} beside others"))?;
        Ok(crowded / alone)
    });
    let ratios: Vec<f64> = ratios.collect::<Result<_>>()?;
    ratios.into_iter().reduce(f64::max).context("no figures")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn figures_are_read_and_compared() {
        assert_eq!(
            figure("guest: bench cpuid 88.5"),
            Some(("cpuid".into(), 88.5))
        );
        assert_eq!(figure("other: bench cpuid 88.5"), None);
        assert_eq!(figure("guest: bench cpuid"), None);
        let figures =
            |values: [f64; 2]| Figures::from([("a".into(), values[0]), ("b".into(), values[1])]);
        let (alone, crowded) = (figures([10.0, 100.0]), figures([11.0, 105.0]));
        assert_eq!(worst_ratio(alone.iter(), &crowded).unwrap(), 1.1);
        let less = Figures::from([("a".into(), 11.0)]);
        assert!(worst_ratio(alone.iter(), &less).is_err());
    }

    #[test]
    fn numbers_behind_a_text_are_read() {
        let console = console(&["x", "bare: it begins at TSC 0x1f", "init at TSC 77"]);
        assert_eq!(after(&console, "begins at TSC ").unwrap(), 31.0);
        assert_eq!(after(&console, "init at TSC ").unwrap(), 77.0);
        assert!(after(&console, "else").is_err());
    }

    #[test]
    fn exits_of_the_clock_are_not_counted() {
        let line =
            "tilevisor: VM \"a\" exits: CPUID 4, preemption timer 9, control-register access 1";
        assert_eq!(exits(&console(&[line]), "a").unwrap(), 5.0);
        assert!(exits(&console(&[line]), "b").is_err());
    }

    #[test]
    fn a_switch_is_half_of_what_remains_of_an_absence() {
        let console = console(&[
            "a: bench slice 100 200",
            "a: bench slice 350 450",
            "b: bench slice 1010 1140",
            "b: bench slice 1260 1390",
        ]);
        // Away for 150, of which b has the CPU for 130.
        assert_eq!(switch(&console).unwrap(), 10.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert!(switch(&console[..2]).is_err());
    }
}
