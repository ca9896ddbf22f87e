//! Debian's kernel, unchanged, in a VM, with programs that use AMX.

use crate::{
    dmesg,
    harness::{Boot, Kernel, Log, Transcript, case},
};
use anyhow::{Result, ensure};
use libtest_mimic::Trial;

/// What `tests/linux` checks with tiles, how much more with several vCPUs, and without.
const WITH_AMX: u32 = 10;
const MOVING: u32 = 1;
const WITHOUT_AMX: u32 = 3;

/// A VM with Linux.
struct Linux {
    package: &'static str,
    init: &'static str,
    more: &'static str,
    vcpus: u32,
    memory: &'static str,
    amx: bool,
}

const CLOUD: Linux = Linux {
    package: "bookworm/linux-image-cloud-amd64",
    init: "amx",
    more: "",
    vcpus: 1,
    memory: "128M",
    amx: true,
};

impl Linux {
    fn toml(&self) -> String {
        let &Self {
            package,
            init,
            more,
            vcpus,
            memory,
            amx,
        } = self;
        format!(
            "[[vm]]\nname = \"linux\"\nimage = \"debian:{package}\"\n\
             initrd = \"initramfs:{init}\"\ncmdline = \"console=ttyS0{more}\"\n\
             memory = \"{memory}\"\nvcpus = {vcpus}\n[vm.xstate]\namx = {amx}\n"
        )
    }

    /// Its kernel and programs found nothing to complain of, and it ended.
    fn is_content(&self, console: &Transcript) -> Result<()> {
        console.never_says("not ok")?;
        let checks = match (self.amx, self.vcpus) {
            (true, 1) => WITH_AMX,
            (true, _) => WITH_AMX + MOVING,
            (false, _) => WITHOUT_AMX,
        };
        console.says(&format!("{checks} passed, 0 failed"))?;
        console.says(&format!("vCPUs: {}, clock: tsc", self.vcpus))?;
        console.says("no complaint")?;
        console.succeeded()
    }
}

/// Boots to userland and runs the checks there.
fn userland(name: &'static str, cpus: u32, memory: u64, linux: Linux) -> Trial {
    case(name, move |log| {
        let console = log.run(&Boot {
            cpus,
            memory,
            ..Boot::bundle(linux.toml())
        })?;
        console.says("reboot: Power down")?;
        linux.is_content(&console)
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        userland(
            "linux::amx_on_2_vcpus_of_2_cpus",
            2,
            1 << 30,
            Linux {
                vcpus: 2,
                memory: "256M",
                ..CLOUD
            },
        ),
        userland(
            "linux::debian_13_with_amx",
            1,
            1 << 30,
            Linux {
                package: "trixie/linux-image-cloud-amd64",
                memory: "256M",
                ..CLOUD
            },
        ),
        // What of 4 GiB lies above the machine's devices is not enough.
        userland(
            "linux::without_amx_on_4_vcpus_of_1_cpu_with_3_gib",
            1,
            5 << 30,
            Linux {
                package: "bookworm/linux-image-amd64",
                vcpus: 4,
                memory: "3G",
                amx: false,
                ..CLOUD
            },
        ),
        case("linux::says_the_same_as_on_the_machine_itself", as_bare),
        case("linux::a_shell_and_a_reboot", shell_and_reboot),
    ]
}

/// The same kernel in a VM and without a hypervisor.
fn as_bare(log: &mut Log) -> Result<()> {
    let linux = Linux {
        // The boot loader has not the machine's 57 bits in use, and a VM has not got them.
        more: " no5lvl",
        ..CLOUD
    };
    let vm = log.run(&Boot::bundle(linux.toml()))?;
    linux.is_content(&vm)?;
    let bare = log.run(&Boot {
        kernel: Kernel::Bare,
        ..Boot::bundle(linux.toml())
    })?;
    linux.is_content(&bare)?;
    dmesg::compare(
        bare.0.console.iter().map(String::as_str),
        vm.0.console
            .iter()
            .filter_map(|line| line.strip_prefix("linux: ")),
    )
}

/// An operator types at the shell, reboots the VM, and leaves the second one.
fn shell_and_reboot(log: &mut Log) -> Result<()> {
    let shell = Linux {
        init: "shell",
        ..CLOUD
    };
    let computing = "[[vm]]\nname = \"other\"\nimage = \"payload:amx-demo\"\nmemory = \"16M\"\n\
                     xstate = { amx = true }\n";
    let console = log.run(&Boot {
        script: &[
            ("linux: / #", "echo sum $((20 + 22))"),
            ("sum 42", "reboot -f"),
            ("type exit to end the VM", "exit"),
        ],
        ..Boot::bundle(shell.toml() + computing)
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
