//! Machines with several CPUs: all are used, and vCPUs go from one to another.

use crate::{
    harness::{Boot, Transcript, case},
    xstate::{PLAIN, Vm, bundle, passed},
};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

/// VMs that each fill every component with a pattern of their own.
fn stressed(names: &[String], rounds: u32) -> Vec<Vm<'_>> {
    (0..)
        .zip(names)
        .map(|(number, name)| Vm {
            name,
            payload: "swap-stress",
            cmdline: format!("seed={} rounds={rounds}", 7 + number * 131),
            slice_us: 20,
            allocation: ["static", "on-demand"][number % 2],
            xfd_err: ["intercept", "switch"][number / 2 % 2],
            ..PLAIN
        })
        .collect()
}

/// What the report says of a VM's vCPUs.
pub(crate) struct Totals {
    pub(crate) turns: u64,
    pub(crate) longest_wait_us: u64,
    pub(crate) moves: u64,
}

pub(crate) fn totals(console: &Transcript, name: &str) -> Result<Totals> {
    let line = console.find(&format!("VM \"{name}\" got a CPU "))?;
    let mut numbers = line
        .rsplit('"')
        .next()
        .unwrap_or(line)
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok());
    let mut next = || numbers.next().context("a number");
    Ok(Totals {
        turns: next()?,
        longest_wait_us: next()?,
        moves: next()?,
    })
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("vm{number}")).collect()
}

/// One VM more than CPUs, so that none stays where it is.
fn moving(name: &'static str, cpus: u32) -> Trial {
    case(name, move |log| {
        let names = names(cpus as usize + 1);
        let boot = Boot {
            cpus,
            ..bundle(&stressed(&names, 3000))
        };
        let console = log.run(&boot)?;
        console.says(&format!("tilevisor: {cpus} CPUs"))?;
        passed(
            &console,
            &names.iter().map(String::as_str).collect::<Vec<_>>(),
        )?;
        for name in &names {
            let moves = totals(&console, name)?.moves;
            ensure!(
                moves >= 100,
                "{name} moved {moves} times, at least 100 expected"
            );
        }
        Ok(())
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        moving("cpus::case_3_vcpus_move_between_2_cpus", 2),
        moving("cpus::case_3_vcpus_move_between_4_cpus", 4),
        case("cpus::eight_cpus_run_nine_vms", |log| {
            let names = names(9);
            let boot = Boot {
                cpus: 8,
                ..bundle(&stressed(&names, 200))
            };
            let console = log.run(&boot)?;
            console.says("tilevisor: 8 CPUs")?;
            passed(
                &console,
                &names.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        }),
        case("cpus::a_pinned_vm_stays", |log| {
            let names = names(4);
            let mut vms = stressed(&names, 1000);
            vms.iter_mut().for_each(|vm| vm.pins = &[1]);
            let console = log.run(&Boot {
                cpus: 2,
                ..bundle(&vms)
            })?;
            for name in &names {
                ensure!(totals(&console, name)?.moves == 0, "{name} moved");
            }
            passed(
                &console,
                &names.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        }),
        case("cpus::a_pin_to_a_cpu_that_is_not_there_is_refused", |log| {
            let guest = Vm {
                pins: &[2],
                ..PLAIN
            };
            let console = log.run(&Boot {
                cpus: 2,
                ..bundle(&[guest])
            })?;
            console.says(
                "VM \"guest\" cannot be made: it is pinned to CPU 2, and the machine has 2",
            )?;
            console.failed()
        }),
        case("cpus::offenders_beside_vms_that_compute", offenders),
    ]
}

/// Guests that crash on one CPU while others compute on it and on the next.
fn offenders(log: &mut crate::harness::Log) -> Result<()> {
    let names = names(4);
    let crashes = ["memory", "triple-fault", "halt", "string-io"];
    let computing = stressed(&names, 500);
    let mut toml: String = computing.iter().map(Vm::toml).collect();
    for how in crashes {
        let vm = Vm {
            name: &format!("bad-{how}"),
            payload: "crash",
            cmdline: how.into(),
            amx: false,
            ..PLAIN
        };
        toml.push_str(&vm.toml());
    }
    let console = log.run(&Boot {
        cpus: 2,
        ..Boot::bundle(toml)
    })?;
    for how in crashes {
        console.says(&format!("tilevisor: VM \"bad-{how}\" was ended: "))?;
    }
    for name in &names {
        console.find_of(name, "5 passed, 0 failed")?;
        console.says(&format!("tilevisor: VM \"{name}\" ended with success"))?;
    }
    console.failed()
}
