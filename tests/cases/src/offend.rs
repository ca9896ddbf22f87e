//! Guests that do what they must not, beside one that computes: it ends with the
//! right result, whatever they do, and the report says what became of them.

use crate::{
    harness::{Boot, Transcript, case},
    xstate::{PLAIN, Vm, bundle},
};
use anyhow::Result;
use libtest_mimic::Trial;
use std::time::Duration;

/// An offence, and the line of the console that says what became of it.
struct Offence {
    how: &'static str,
    end: &'static str,
}

const OFFENCES: [Offence; 12] = [
    Offence {
        how: "wrmsr",
        end: "VM \"wrmsr\" ended with success",
    },
    Offence {
        how: "rdmsr",
        end: "VM \"rdmsr\" ended with success",
    },
    Offence {
        how: "ports",
        end: "VM \"ports\" ended with success",
    },
    Offence {
        how: "exceptions",
        end: "exceptions: 6 passed, 0 failed",
    },
    Offence {
        how: "vmx",
        end: "vmx: 13 passed, 0 failed",
    },
    Offence {
        how: "xstate",
        end: "VM \"xstate\" ended with success",
    },
    Offence {
        how: "mov-ss-step",
        end: "VM \"mov-ss-step\" ended with success",
    },
    Offence {
        how: "halt",
        end: "VM \"halt\" was ended: halted with nothing left that could wake it",
    },
    Offence {
        how: "init-self",
        end: "VM \"init-self\" was ended: instruction fetch at guest-physical 0xfffffff0",
    },
    Offence {
        how: "memory",
        end: "VM \"memory\" was ended: write at guest-physical 0xc0c0ffee",
    },
    Offence {
        how: "triple-fault",
        end: "VM \"triple-fault\" was ended: triple fault",
    },
    Offence {
        how: "device",
        end: "VM \"device\" was ended: the device at guest-physical 0xfec00000 is accessed by",
    },
];

impl Offence {
    fn vm(&self) -> Vm<'static> {
        let payload = match self.how {
            "memory" | "triple-fault" | "device" => "crash",
            _ => "offend",
        };
        Vm {
            name: self.how,
            payload,
            cmdline: self.how.into(),
            ..PLAIN
        }
    }
}

/// The guest that minds its own business.
fn computing(name: &str) -> Vm<'_> {
    Vm {
        name,
        payload: "swap-stress",
        cmdline: format!("rounds=300 seed={}", name.len()),
        slice_us: 50,
        ..PLAIN
    }
}

fn is_right(console: &Transcript, name: &str) -> Result<()> {
    console.find_of(name, "5 passed, 0 failed")?;
    console.says(&format!("VM \"{name}\" ended with success"))
}

/// All offenders at once, and two that compute.
fn all_on(name: &'static str, cpus: u32) -> Trial {
    case(name, move |log| {
        let mut vms = vec![computing("good"), computing("better")];
        vms.extend(OFFENCES.iter().map(Offence::vm));
        let console = log.run(&Boot {
            cpus,
            ..bundle(&vms)
        })?;
        for offence in &OFFENCES {
            console.says(offence.end)?;
        }
        is_right(&console, "good")?;
        is_right(&console, "better")?;
        console.never_says("hypervisor")?;
        console.failed()
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        all_on("offend::everything_at_once_on_1_cpu", 1),
        all_on("offend::everything_at_once_on_2_cpus", 2),
        all_on("offend::everything_at_once_on_4_cpus", 4),
        all_on("offend::everything_at_once_on_8_cpus", 8),
        case("offend::what_a_vm_leaves_in_memory_is_zeroed", |log| {
            let vm = |name, until: u64| Vm {
                name,
                payload: "memory",
                cmdline: format!("until={until}"),
                ..PLAIN
            };
            // Two that begin again and again, so that each gets what the other had.
            let console = log.run(&Boot {
                cpus: 2,
                ..bundle(&[vm("one", 1_500_000_000), vm("two", 1_600_000_000)])
            })?;
            for name in ["one", "two"] {
                console.says(&format!("tilevisor: VM \"{name}\" resets itself"))?;
                console.says(&format!("{name}: 1 passed, 0 failed"))?;
            }
            console.never_says("not ok")?;
            console.succeeded()
        }),
        case("offend::loops_with_interrupts_off_on_every_cpu", |log| {
            let spin = |name| Vm {
                name,
                payload: "offend",
                cmdline: "spin".into(),
                ..PLAIN
            };
            let mut boot = Boot {
                cpus: 2,
                ..bundle(&[spin("a"), spin("b"), spin("c"), computing("good")])
            };
            // The loops never end; what the other one says is there long before.
            boot.limit = Duration::from_secs(20);
            let console = log.run(&boot)?;
            is_right(&console, "good")
        }),
    ]
}
