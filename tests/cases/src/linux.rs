//! Debian's kernel, unchanged, in a VM, with programs that use AMX.

use crate::harness::{Boot, Log, case};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;

/// What `tests/linux` checks with tiles, and without.
const WITH_AMX: &str = "10 passed, 0 failed";
const WITHOUT_AMX: &str = "3 passed, 0 failed";

fn vm(init: &str, vcpus: u32, memory: &str, amx: bool) -> String {
    format!(
        "[[vm]]\nname = \"linux\"\nimage = \"debian:bookworm/linux-image-cloud-amd64\"\n\
         initrd = \"initramfs:{init}\"\ncmdline = \"console=ttyS0\"\nmemory = \"{memory}\"\n\
         vcpus = {vcpus}\n[vm.xstate]\namx = {amx}\n"
    )
}

/// Boots to userland, runs the checks there, and finds nothing to complain of.
fn userland(
    name: &'static str,
    (vcpus, cpus): (u32, u32),
    memory: &'static str,
    amx: bool,
) -> Trial {
    case(name, move |log| {
        let console = log.run(&Boot {
            cpus,
            ..Boot::bundle(vm("amx", vcpus, memory, amx))
        })?;
        console.never_says("linux: not ok")?;
        let checks = if amx { WITH_AMX } else { WITHOUT_AMX };
        console.says(&format!("linux: {checks}"))?;
        console.says(&format!("linux: vCPUs: {vcpus}, clock: tsc"))?;
        console.says("linux: no complaint")?;
        console.says("reboot: Power down")?;
        console.succeeded()
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        userland("linux::amx_on_2_vcpus_of_2_cpus", (2, 2), "256M", true),
        userland("linux::amx_on_1_vcpu", (1, 1), "128M", true),
        userland(
            "linux::without_amx_on_4_vcpus_of_1_cpu",
            (4, 1),
            "512M",
            false,
        ),
        case("linux::a_shell_and_a_reboot", shell_and_reboot),
    ]
}

/// An operator types at the shell, reboots the VM, and leaves the second one.
fn shell_and_reboot(log: &mut Log) -> Result<()> {
    let computing = "[[vm]]\nname = \"other\"\nimage = \"payload:amx-demo\"\nmemory = \"16M\"\n\
                     xstate = { amx = true }\n";
    let console = log.run(&Boot {
        script: &[
            ("linux: / #", "echo sum $((20 + 22))"),
            ("sum 42", "reboot -f"),
            ("type exit to end the VM", "exit"),
        ],
        ..Boot::bundle(vm("shell", 1, "128M", true) + computing)
    })?;
    console.says("sum 42")?;
    console.says("tilevisor: VM \"linux\" resets itself")?;
    console.says("tilevisor: VM \"linux\" ended with success")?;
    let begun = |line: &&String| line.starts_with("linux: ") && line.contains("Linux version 6.1");
    let boots = console.0.console.iter().filter(begun).count();
    ensure!(boots == 2, "the kernel began {boots} times");
    let others = |line: &&String| line.contains("VM \"other\" ended with success");
    let ends = console.0.console.iter().filter(others).count();
    ensure!(ends == 1, "the other VM ended {ends} times");
    console.succeeded()
}
