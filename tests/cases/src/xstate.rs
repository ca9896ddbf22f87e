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
    pub(crate) vcpus: u32,
    /// The CPU of each vCPU; any, if empty.
    pub(crate) pins: &'a [u32],
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
    vcpus: 1,
    pins: &[],
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
            vcpus,
            pins,
            slice_us,
            vector,
            amx,
            allocation,
            xfd_err,
        } = self;
        format!(
            "[[vm]]\nname = \"{name}\"\nimage = \"payload:{payload}\"\ncmdline = \"{cmdline}\"\n\
             memory = \"16M\"\nvcpus = {vcpus}\ncpus = {pins:?}\nslice_us = {slice_us}\n[vm.xstate]\nvector = \"{vector}\"\namx = {amx}\n\
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
            "",
            "static",
            "intercept",
            Exits {
                nm: FAULTS,
                wrmsr: ONE_WRITE,
                rdmsr: 0,
            },
        ),
        storm(
            "xstate::storm_static_switch",
            "",
            "static",
            "switch",
            Exits {
                nm: 0,
                wrmsr: ONE_WRITE,
                rdmsr: 0,
            },
        ),
        storm(
            "xstate::storm_on_demand_intercept",
            "",
            "on-demand",
            "intercept",
            Exits {
                nm: FAULTS,
                wrmsr: ONE_WRITE,
                rdmsr: 0,
            },
        ),
        storm(
            "xstate::storm_on_demand_switch",
            "",
            "on-demand",
            "switch",
            Exits {
                nm: 0,
                wrmsr: ONE_WRITE,
                rdmsr: 0,
            },
        ),
        storm(
            "xstate::storm_armed_first_static_intercept",
            "arm-first",
            "static",
            "intercept",
            Exits {
                nm: FAULTS,
                wrmsr: ONE_WRITE,
                rdmsr: 0,
            },
        ),
        storm(
            "xstate::storm_armed_first_static_switch",
            "arm-first",
            "static",
            "switch",
            Exits {
                nm: 0,
                wrmsr: ONE_WRITE,
                rdmsr: 0,
            },
        ),
        storm(
            "xstate::storm_armed_first_on_demand_intercept",
            "arm-first",
            "on-demand",
            "intercept",
            Exits {
                nm: FAULTS,
                wrmsr: UNTIL_GROWN,
                rdmsr: 0,
            },
        ),
        storm(
            "xstate::storm_armed_first_on_demand_switch",
            "arm-first",
            "on-demand",
            "switch",
            Exits {
                nm: 0,
                wrmsr: UNTIL_GROWN,
                rdmsr: 0,
            },
        ),
        storm(
            "xstate::nm_is_not_intercepted_before_xfd_is_used",
            "ts-only",
            "static",
            "intercept",
            Exits {
                nm: 0,
                wrmsr: 0,
                rdmsr: 0,
            },
        ),
    ];
    trials.push(case(
        "xstate::case_2_state_of_an_operator_that_is_armed",
        |log| {
            let vm = |cmdline: &str| Vm {
                payload: "state",
                cmdline: cmdline.into(),
                ..PLAIN
            };
            let made = log.run(&bundle(&[vm("make")]))?;
            passed(&made, &["guest"])?;
            let xcr0 = made
                .find("guest: xcr0 ")?
                .trim_start_matches("guest: xcr0 ");
            let image = state_image(&made)?;
            let file = tempfile::NamedTempFile::new()?;
            std::fs::write(file.path(), &image)?;
            for (xfd_err, allocation) in [("intercept", "static"), ("switch", "on-demand")] {
                let vm = Vm {
                    xfd_err,
                    allocation,
                    ..vm("given")
                };
                let state = format!(
                    "[vm.state]\nimage = {:?}\nxcr0 = {xcr0}\nxfd = {}\n",
                    file.path(),
                    1 << 18
                );
                let console = log.run(&Boot::bundle(vm.toml() + &state))?;
                passed(&console, &["guest"])?;
                // XFD was not written by the guest, and is passed through all the same.
                ensure!(count(&console, "guest", "WRMSR").is_err(), "WRMSR exits");
            }
            // XSTATE_BV with a bit that is not offered: refused whole.
            let mut broken = image;
            if let Some(byte) = broken.get_mut(519) {
                *byte = 0x40;
            }
            std::fs::write(file.path(), &broken)?;
            let state = format!("[vm.state]\nimage = {:?}\nxcr0 = {xcr0}\n", file.path());
            let console = log.run(&Boot::bundle(vm("given").toml() + &state))?;
            console.says("VM \"guest\" cannot be made: state: ")?;
            console.failed()
        },
    ));
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
        // While both run, each slice of one ends in a swap to the other.
        let slices = |name| count(&console, name, "preemption timer");
        let swaps = 2 * slices("one")?.min(slices("two")?);
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
                        vcpus: 1,
                        pins: &[],
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
/// and #NM does by policy.
fn storm(
    name: &'static str,
    cmdline: &'static str,
    allocation: &'static str,
    xfd_err: &'static str,
    expected: Exits,
) -> Trial {
    case(name, move |log| {
        let vm = Vm {
            name: "storm",
            payload: "xfd-storm",
            cmdline: cmdline.into(),
            allocation,
            xfd_err,
            ..PLAIN
        };
        let console = log.run(&bundle(&[vm]))?;
        passed(&console, &["storm"])?;
        let exits = |reason| count(&console, "storm", reason).unwrap_or(0);
        ensure!(exits("I/O instruction") > 0, "no exits were counted");
        let found = Exits {
            nm: exits("exception or NMI"),
            wrmsr: exits("WRMSR"),
            rdmsr: exits("RDMSR"),
        };
        ensure!(found == expected, "expected {expected:?}, found {found:?}");
        Ok(())
    })
}

/// Exits that matter to XFD.
#[derive(Debug, PartialEq, Eq)]
struct Exits {
    nm: u64,
    wrmsr: u64,
    rdmsr: u64,
}

/// XFD-caused #NM of the payload `xfd-storm`.
const FAULTS: u64 = 100;
/// All that is seen where the container has room: the first write.
const ONE_WRITE: u64 = 1;
/// Armed first, a container grows on demand at the first write of zero: until then
/// XFD exits. Arming it before XCR0 and again in the first round, the write that
/// finds no room, and the same once there is.
const UNTIL_GROWN: u64 = 4;

/// The image that the payload `state` printed.
fn state_image(console: &Transcript) -> Result<Vec<u8>> {
    let lines = console
        .0
        .console
        .iter()
        .filter_map(|line| line.strip_prefix("guest: state "));
    let digits: String = lines.collect();
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2).unwrap_or_default(), 16);
    (0..digits.len())
        .step_by(2)
        .map(|at| byte(at).context("two digits a byte"))
        .collect()
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
