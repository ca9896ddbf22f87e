//! The rules of extended state, as guests see them: `docs/extended-state.md` says
//! which case holds which rule.

use crate::harness::{Boot, Transcript, case};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

/// A VM of a bundle.
pub(crate) struct Vm<'a> {
    pub(crate) name: &'a str,
    pub(crate) payload: &'a str,
    pub(crate) cmdline: String,
    pub(crate) slice_us: u32,
    pub(crate) vector: &'a str,
    pub(crate) amx: bool,
    pub(crate) allocation: &'a str,
    pub(crate) xfd_err: &'a str,
}

/// Every component, in the usual way.
pub(crate) const PLAIN: Vm<'_> = Vm {
    name: "guest",
    payload: "xstate-rules",
    cmdline: String::new(),
    slice_us: 10_000,
    vector: "avx512",
    amx: true,
    allocation: "static",
    xfd_err: "intercept",
};

impl Vm<'_> {
    /// It as part of a bundle.
    pub(crate) fn toml(&self) -> String {
        let Self {
            name,
            payload,
            cmdline,
            slice_us,
            vector,
            amx,
            allocation,
            xfd_err,
        } = self;
        format!(
            "[[vm]]\nname = \"{name}\"\nimage = \"payload:{payload}\"\ncmdline = \"{cmdline}\"\n\
             memory = \"16M\"\nslice_us = {slice_us}\n[vm.xstate]\nvector = \"{vector}\"\namx = {amx}\n\
             allocation = \"{allocation}\"\nxfd_err = \"{xfd_err}\"\n"
        )
    }
}

/// A machine with these VMs.
pub(crate) fn bundle(vms: &[Vm<'_>]) -> Boot {
    Boot::bundle(vms.iter().map(Vm::toml).collect::<String>())
}

const POLICIES: [&str; 2] = ["intercept", "switch"];
const ALLOCATIONS: [&str; 2] = ["static", "on-demand"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        rules("xstate::rules_static_intercept", "static", "intercept"),
        rules("xstate::rules_static_switch", "static", "switch"),
        rules(
            "xstate::rules_on_demand_intercept",
            "on-demand",
            "intercept",
        ),
        rules("xstate::rules_on_demand_switch", "on-demand", "switch"),
        storm(
            "xstate::storm_static_intercept",
            "static",
            "intercept",
            Some(100),
        ),
        storm("xstate::storm_static_switch", "static", "switch", None),
        storm(
            "xstate::storm_on_demand_intercept",
            "on-demand",
            "intercept",
            Some(100),
        ),
        storm(
            "xstate::storm_on_demand_switch",
            "on-demand",
            "switch",
            None,
        ),
    ];
    trials.push(case("xstate::case_9_two_vms_swapped_anywhere", |log| {
        let vm = |name, seed: u32, allocation, xfd_err| Vm {
            name,
            payload: "swap-stress",
            cmdline: format!("seed={seed} rounds=60000"),
            slice_us: 5,
            allocation,
            xfd_err,
            ..PLAIN
        };
        let vms = [
            vm("one", 7, "static", "intercept"),
            vm("two", 1_000_003, "on-demand", "switch"),
        ];
        let console = log.run(&bundle(&vms))?;
        passed(&console, &["one", "two"])?;
        let swaps = count(&console, "one", "preemption timer")?
            + count(&console, "two", "preemption timer")?;
        ensure!(swaps >= 100_000, "{swaps} swaps, at least 100000 expected");
        Ok(())
    }));
    trials.push(case("xstate::case_9_every_mixture_at_once", |log| {
        let mut vms = Vec::new();
        let names: Vec<String> = (0..12).map(|number| format!("vm{number}")).collect();
        let mut free = names.iter();
        for (vector, amx) in [("sse", false), ("avx", true), ("avx512", true)] {
            for allocation in ALLOCATIONS {
                for xfd_err in POLICIES {
                    let name = free.next().context("a name for each")?;
                    vms.push(Vm {
                        name,
                        payload: "swap-stress",
                        cmdline: format!("seed={} rounds=2000", 1 + vms.len() * 7919),
                        slice_us: 20,
                        vector,
                        amx,
                        allocation,
                        xfd_err,
                    });
                }
            }
        }
        let console = log.run(&bundle(&vms))?;
        passed(
            &console,
            &names.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    }));
    trials
}

/// Every vector width, with tiles and without, under one policy and allocation.
fn rules(name: &'static str, allocation: &'static str, xfd_err: &'static str) -> Trial {
    case(name, move |log| {
        let mut vms = Vec::new();
        for (name, vector, amx) in [
            ("sse", "sse", false),
            ("sse+amx", "sse", true),
            ("avx", "avx", false),
            ("avx+amx", "avx", true),
            ("avx512", "avx512", false),
            ("avx512+amx", "avx512", true),
        ] {
            vms.push(Vm {
                name,
                cmdline: format!("expect={name}"),
                vector,
                amx,
                allocation,
                xfd_err,
                ..PLAIN
            });
        }
        let console = log.run(&bundle(&vms))?;
        // The known size: 10704 without the alignment of tile data.
        console.says("avx512+amx: areas: 11008 bytes standard, 10752 bytes compacted")?;
        passed(&console, &vms.iter().map(|vm| vm.name).collect::<Vec<_>>())
    })
}

/// Rules xs-07 to xs-09 in numbers: after the first non-zero XFD no access exits,
/// and #NM does by policy. On demand, XFD exits until the container has grown.
fn storm(
    name: &'static str,
    allocation: &'static str,
    xfd_err: &'static str,
    faults: Option<u64>,
) -> Trial {
    case(name, move |log| {
        let vm = Vm {
            name: "storm",
            payload: "xfd-storm",
            allocation,
            xfd_err,
            ..PLAIN
        };
        let console = log.run(&bundle(&[vm]))?;
        passed(&console, &["storm"])?;
        let exceptions = count(&console, "storm", "exception or NMI").ok();
        ensure!(
            exceptions == faults,
            "#NM exits: expected {faults:?}, found {exceptions:?}"
        );
        // XCR0 has enabled the tiles with XFD clear, so both kinds of container have
        // room before XFD is written.
        let writes = count(&console, "storm", "WRMSR")?;
        ensure!(writes == 1, "{writes} WRMSR exits, 1 expected");
        ensure!(count(&console, "storm", "RDMSR").is_err(), "RDMSR exits");
        Ok(())
    })
}

/// Every VM reported checks, none failed, and the machine ended well.
pub(crate) fn passed(console: &Transcript, names: &[&str]) -> Result<()> {
    console.never_says("not ok")?;
    for name in names {
        let sum = console.find_of(name, " passed, 0 failed")?;
        ensure!(!sum.contains(": 0 passed"), "{name} checked nothing");
    }
    console.succeeded()
}

/// Exits of `vm` for `reason`, as the hypervisor counted them.
fn count(console: &Transcript, vm: &str, reason: &str) -> Result<u64> {
    let line = console.find(&format!("tilevisor: VM \"{vm}\" exits: "))?;
    let exits = line.rsplit_once(" exits: ").map_or("", |(_, exits)| exits);
    exits
        .split(", ")
        .find_map(|exit| exit.strip_prefix(reason)?.trim().parse().ok())
        .with_context(|| format!("no exits for {reason} in {line:?}"))
}
