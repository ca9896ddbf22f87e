//! Guests that make mistakes.

use crate::{
    demo::one,
    harness::{Boot, Kernel, case},
};
use anyhow::ensure;
use libtest_mimic::Trial;

/// A guest that makes a mistake ends with a report that says what and where, and
/// another one computes on.
fn crash(name: &'static str, how: &'static str, report: &'static str) -> Trial {
    case(name, move |log| {
        let both =
            one("crash", how, false) + &one("amx-demo", "", true).replace("\"guest\"", "\"other\"");
        let console = log.run(&Boot::bundle(both))?;
        console.says(&format!("guest: about to crash by {how}"))?;
        console.says(&format!("tilevisor: VM \"guest\" was ended: {report}"))?;
        console.says("tilevisor:   rip 0x")?;
        console.never_says("guest: still there")?;
        console.says("VM \"other\" ended with success")?;
        console.failed()
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        crash(
            "crash::memory_that_is_not_there",
            "memory",
            "write at guest-physical 0xc0c0ffee, where there is no memory",
        ),
        crash("crash::triple_fault", "triple-fault", "triple fault"),
        crash(
            "crash::halt_with_interrupts_off",
            "halt",
            "halted with nothing left that could wake it",
        ),
        crash(
            "crash::halt_without_a_timer",
            "halt-for-ever",
            "halted with nothing left that could wake it",
        ),
        crash(
            "crash::string_io",
            "string-io",
            "string I/O with guest-physical 0xf0000000, where there is no memory",
        ),
        own_fault("crash::a_fault_of_the_hypervisor_on_1_cpu", 1),
        own_fault("crash::a_fault_of_the_hypervisor_on_4_cpus", 4),
        case("crash::the_report_shows_the_bytes_at_rip", |log| {
            let console = log.run(&Boot::bundle(one("crash", "memory", false)))?;
            // MOV [RAX], EAX.
            console.says("bytes at rip: 89 00 ")?;
            console.never_says("(not mapped)")?;
            console.failed()
        }),
    ]
}

/// A hypervisor with a bug that the first VM exit finds: it reports where it was,
/// stops all CPUs, and the command that it prints names the function.
fn own_fault(name: &'static str, cpus: u32) -> Trial {
    case(name, move |log| {
        let boot = Boot {
            cpus,
            kernel: Kernel::Broken("on_exit"),
            ..Boot::bundle(one("amx-demo", "", true))
        };
        let console = log.run(&boot)?;
        console.says("tilevisor: hypervisor fault: #UD invalid opcode (vector 6)")?;
        console.says("tilevisor:   rax 0x")?;
        console.says(", which ran VM \"guest\" vCPU 0")?;
        let command = console.find("addr2line -Cfpie target/")?;
        let arguments = command.split_ascii_whitespace().skip(2);
        let output = std::process::Command::new("addr2line")
            .args(arguments)
            .current_dir(xtask::project::root())
            .output()?;
        let names = String::from_utf8_lossy(&output.stdout);
        ensure!(
            names.contains("on_exit") && names.contains("sched/scheduler.rs"),
            "the way there is {names}"
        );
        console.failed()
    })
}
