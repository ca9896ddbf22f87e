//! VMs with several vCPUs: on as many CPUs, on more and on fewer.

use crate::{
    cpus::totals,
    harness::{Boot, Log, case},
    xstate::{PLAIN, Vm, bundle},
};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use std::time::Duration;
use xtask::{bench, machine::Processor};

/// What `smp` checks.
const CHECKS: &str = "19 passed, 0 failed";

fn smp(name: &str, vcpus: u32, rounds: u32) -> Vm<'_> {
    Vm {
        name,
        payload: "smp",
        cmdline: format!("cpus={vcpus} rounds={rounds}"),
        vcpus,
        ..PLAIN
    }
}

/// Eight vCPUs that start, interrupt and reset each other, and compute in tiles.
fn eight_vcpus(name: &'static str, cpus: u32) -> Trial {
    case(name, move |log| {
        let console = log.run(&Boot {
            cpus,
            ..bundle(&[smp("guest", 8, 50)])
        })?;
        console.never_says("not ok")?;
        console.says(&format!("guest: {CHECKS}"))?;
        console.succeeded()?;
        let waited = totals(&console, "guest")?.longest_wait_us;
        if cpus == 8 {
            // A CPU for each: none ever waits for one that is busy. The time is the
            // machine's own, counted in instructions.
            ensure!(waited < 1000, "a vCPU waited {waited} us for one of 8 CPUs");
        }
        Ok(())
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        eight_vcpus("smp::eight_vcpus_on_1_cpu", 1),
        eight_vcpus("smp::eight_vcpus_on_2_cpus", 2),
        eight_vcpus("smp::eight_vcpus_on_4_cpus", 4),
        eight_vcpus("smp::eight_vcpus_on_8_cpus", 8),
        case("smp::three_vms_of_four_vcpus_share_four_cpus", |log| {
            let names = ["one", "two", "three"];
            let console = log.run(&Boot {
                cpus: 4,
                ..bundle(&names.map(|name| Vm {
                    slice_us: 100,
                    xfd_err: if name == "two" { "switch" } else { "intercept" },
                    ..smp(name, 4, 100)
                }))
            })?;
            console.never_says("not ok")?;
            for name in names {
                console.says(&format!("{name}: {CHECKS}"))?;
            }
            console.succeeded()
        }),
        case("smp::pinned_vcpus_stay", |log| {
            let guest = Vm {
                pins: &[1, 0, 1],
                ..smp("guest", 3, 50)
            };
            let console = log.run(&Boot {
                cpus: 2,
                ..bundle(&[guest])
            })?;
            console.says(&format!("guest: {CHECKS}"))?;
            ensure!(totals(&console, "guest")?.moves == 0, "a vCPU moved");
            console.succeeded()
        }),
        devices("smp::io_apic_and_uart_on_1_cpu", 1),
        devices("smp::io_apic_and_uart_on_2_cpus", 2),
        case("smp::all_vcpus_asleep_ends_the_vm", |log| {
            let vm = Vm {
                payload: "offend",
                cmdline: "halt".into(),
                vcpus: 3,
                ..PLAIN
            };
            let console = log.run(&bundle(&[vm]))?;
            console.says("VM \"guest\" was ended: halted with nothing left that could wake it")?;
            console.failed()
        }),
        case(
            "smp::without_x2apic_the_cpus_are_used_all_the_same",
            |log| {
                let console = log.run(&Boot {
                    cpus: 4,
                    processor: Processor::WithoutX2Apic,
                    ..bundle(&[smp("guest", 8, 20)])
                })?;
                console.says("tilevisor: 4 CPUs")?;
                console.says(&format!("guest: {CHECKS}"))?;
                console.succeeded()
            },
        ),
        case("smp::an_old_cpu_runs_what_needs_no_amx", old_cpu),
        case("smp::an_exit_costs_the_same_beside_63_vms", beside_others),
        case("smp::soak", soak),
        case("smp::nobody_starves", nobody_starves),
        case(
            "smp::a_vcpu_that_wakes_up_runs_within_a_slice",
            wakes_within_a_slice,
        ),
        case(
            "smp::an_idle_cpu_takes_one_that_waits_elsewhere",
            idle_cpu_takes,
        ),
    ]
}

/// One VM may run anywhere, and begins on CPU 1, where it is preempted for another that
/// stays there; when the one on CPU 0 has ended, it need not wait for the end of a slice.
fn idle_cpu_takes(log: &mut Log) -> Result<()> {
    const SLICE_US: u32 = 20_000;
    let vm = |name, rounds: u32, pins| Vm {
        name,
        payload: "swap-stress",
        cmdline: format!("rounds={rounds}"),
        pins,
        amx: false,
        slice_us: SLICE_US,
        ..PLAIN
    };
    let console = log.run(&Boot {
        cpus: 2,
        ..bundle(&[
            vm("free", 12_000, &[]),
            vm("stays", 20_000, &[1]),
            vm("ends", 9_000, &[0]),
        ])
    })?;
    console.succeeded()?;
    let free = totals(&console, "free")?;
    ensure!(
        free.moves == 1 && free.longest_wait_us < u64::from(SLICE_US) * 3 / 4,
        "it moved {} times and waited {} us",
        free.moves,
        free.longest_wait_us
    );
    Ok(())
}

/// What exits cost a VM alone on the machine's one CPU, and one beside 63 that sleep.
fn beside_others(log: &mut Log) -> Result<()> {
    let bench = |name, cmdline: &str| Vm {
        name,
        payload: "bench",
        cmdline: cmdline.into(),
        ..PLAIN
    };
    let names: Vec<String> = (0..63).map(|number| format!("sleeper{number}")).collect();
    let guest = Vm {
        vcpus: 2,
        ..bench("guest", "cpus=2 after=100000000")
    };
    let mut vms = vec![guest];
    let alone = log.run(&bundle(&vms))?;
    alone.succeeded()?;
    // Longer than the other needs.
    vms.extend(names.iter().map(|name| bench(name, "sleep=300000000")));
    let toml: String = vms.iter().map(Vm::toml).collect();
    let crowded = log.run(&Boot::bundle(toml.replace("16M", "4M")))?;
    crowded.succeeded()?;
    let mut rows = 0;
    for row in &alone.0.console {
        let Some((name, alone)) = bench::figure(row) else {
            continue;
        };
        let beside = crowded.find_of("guest", &format!("bench {name} "))?;
        let (_, beside) = bench::figure(beside).context("a figure")?;
        ensure!(
            (beside / alone - 1.0).abs() < 0.05,
            "{name} costs {alone} alone and {beside} beside 63 VMs"
        );
        rows += 1;
    }
    ensure!(rows >= 9, "{rows} rows");
    Ok(())
}

/// Eight VMs of two vCPUs on four CPUs, half of them with tiles, for 10^10
/// instructions: four CPUs that never halt, each until its TSC, which counts
/// instructions, is a quarter of that.
fn soak(log: &mut Log) -> Result<()> {
    const UNTIL: u64 = 2_500_000_000;
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let vms = names.map(|name| Vm {
        cmdline: format!("cpus=2 until={UNTIL}"),
        amx: name < "e",
        slice_us: 500,
        allocation: if name < "c" { "static" } else { "on-demand" },
        xfd_err: if name == "b" || name == "d" {
            "switch"
        } else {
            "intercept"
        },
        ..smp(name, 2, 0)
    });
    let console = log.run(&Boot {
        cpus: 4,
        ..bundle(&vms)
    })?;
    console.never_says("not ok")?;
    for name in names {
        console.says(&format!("{name}: {CHECKS}"))?;
        ensure!(totals(&console, name)?.moves > 100, "{name} hardly moved");
    }
    console.succeeded()
}

fn devices(name: &'static str, cpus: u32) -> Trial {
    case(name, move |log| {
        let console = log.run(&Boot {
            cpus,
            ..bundle(&[Vm {
                payload: "devices",
                vcpus: 2,
                ..PLAIN
            }])
        })?;
        console.says("guest: 20 passed, 0 failed")?;
        console.succeeded()
    })
}

fn old_cpu(log: &mut Log) -> Result<()> {
    let plain = |name, payload, vcpus| Vm {
        name,
        payload,
        vcpus,
        vector: "avx",
        amx: false,
        ..PLAIN
    };
    let wants_amx = Vm {
        name: "amx",
        payload: "amx-demo",
        ..PLAIN
    };
    let console = log.run(&Boot {
        cpus: 2,
        processor: Processor::IvyBridge,
        ..bundle(&[
            plain("timer", "timer", 1),
            plain("devices", "devices", 2),
            wants_amx,
        ])
    })?;
    console.says("VM \"amx\" cannot be made: xstate: this CPU does not have: ")?;
    console.says("timer: 13 passed, 0 failed")?;
    console.says("devices: 20 passed, 0 failed")?;
    console.failed()
}

/// More vCPUs than CPUs, none of which ever halts.
fn nobody_starves(log: &mut Log) -> Result<()> {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let console = log.run(&Boot {
        cpus: 2,
        ..bundle(&names.map(|name| Vm {
            name,
            payload: "swap-stress",
            cmdline: "rounds=2000".into(),
            slice_us: 200,
            ..PLAIN
        }))
    })?;
    console.succeeded()?;
    let turns = names.map(|name| totals(&console, name).map(|totals| totals.turns));
    let turns: Vec<u64> = turns.into_iter().collect::<Result<_>>()?;
    let (least, most) = (turns.iter().min(), turns.iter().max());
    // They all have the same work, so they need the same turns.
    ensure!(
        least.is_some_and(|least| *least > 20 && most.is_some_and(|most| *most < least * 2)),
        "turns are {turns:?}"
    );
    Ok(())
}

/// A VM that sleeps most of the time, beside others that never do.
fn wakes_within_a_slice(log: &mut Log) -> Result<()> {
    const SLICE_US: u32 = 10_000;
    let busy = |name| Vm {
        name,
        payload: "offend",
        cmdline: "spin".into(),
        slice_us: SLICE_US,
        ..PLAIN
    };
    let sleeper = Vm {
        name: "sleeper",
        payload: "timer",
        // More than it needs in all: it never waits for a new one.
        slice_us: 10 * SLICE_US,
        ..PLAIN
    };
    let mut boot = bundle(&[sleeper, busy("a"), busy("b"), busy("c")]);
    // The others never end.
    boot.limit = Duration::from_secs(20);
    let console = log.run(&boot)?;
    console.says("sleeper: 13 passed, 0 failed")?;
    let totals = totals(&console, "sleeper")?;
    // One slice, and the lines that the others print as they begin.
    ensure!(
        totals.turns > 20 && totals.longest_wait_us < u64::from(SLICE_US) * 2,
        "it got {} turns and waited {} us after it woke up",
        totals.turns,
        totals.longest_wait_us
    );
    Ok(())
}
