//! What the kernel says in a VM against what it says on the machine itself, which
//! differ only where they may.

use anyhow::{Result, bail};
use std::collections::BTreeSet;

/// Why a line may be on one side only.
const ACCEPTED: [(&str, &[&str]); 8] = [
    (
        "a VM has no SMBIOS tables, and no PCI",
        &["SMBIOS ", "DMI", "PCI:"],
    ),
    (
        "the hypervisor says that it is one, so that Linux need not calibrate the TSC",
        &[
            "Hypervisor detected: KVM",
            "Booting paravirtualized kernel on ",
            "kvm-guest: PV spinlocks disabled, single CPU",
        ],
    ),
    (
        "a VM has neither MTRRs nor what depends on them: EPT says how memory is cached",
        &["Disabled", "x#/PAT: "],
    ),
    (
        "a VM's APIC is an x2APIC from the start",
        &[
            "x#apic: ",
            "Setting APIC routing to cluster x#apic.",
            "Switched APIC routing to physical x#apic.",
        ],
    ),
    (
        "a VM is not offered speculation control, so Linux helps itself",
        &[
            "Kernel/User page tables isolation: enabled",
            "x#/mm: Checking user space page tables",
            "Spectre V# : ",
            "RETBleed: ",
            "Speculative Store Bypass: ",
            "VMSCAPE: ",
            "ITS: ",
            "active return thunk: ",
        ],
    ),
    (
        "a VM has no power management, so it has no MWAIT either",
        &[
            "CPU#: Thermal monitoring enabled",
            "process: using mwait in idle threads",
            "ENERGY_PERF_BIAS: ",
            "intel_pstate: ",
            "cpufreq: ",
        ],
    ),
    (
        "a VM has no performance counters, and the machine's are broken",
        &["Performance Events: ", "Failed to access perfctr msr "],
    ),
    (
        "only a VM's kernel has told, before it ends, how it powers off",
        &[
            "ACPI: PM: Preparing to enter system sleep state S#",
            "reboot: Power down",
        ],
    ),
];

/// The kernel's lines of a console, without times and numbers: none of them is the same
/// twice.
fn kernel_lines<'a>(console: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    console
        .filter_map(|line| line.strip_prefix('[')?.split_once("] "))
        .filter(|(time, _)| time.trim().parse::<f64>().is_ok())
        .map(|(_, text)| without_numbers(text))
        .collect()
}

/// `text` with each number in it as `#`.
fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        let hexadecimal = plain.ends_with("#x") || plain.ends_with("#x#");
        let digit = letter.is_ascii_digit() || hexadecimal && letter.is_ascii_hexdigit();
        match digit {
            true if plain.ends_with('#') => {}
            true => plain.push('#'),
            false => plain.push(letter),
        }
    }
    plain.replace("#x#", "#")
}

/// Compares the console of the machine itself with that of a VM, whose lines come
/// without its name.
pub(crate) fn compare<'a>(
    bare: impl Iterator<Item = &'a str>,
    vm: impl Iterator<Item = &'a str>,
) -> Result<()> {
    let (bare, vm) = (kernel_lines(bare), kernel_lines(vm));
    let accepted = |line: &&String| {
        let mut begins = ACCEPTED.iter().flat_map(|(_, begins)| *begins);
        begins.any(|begin| line.starts_with(begin))
    };
    let list = |lines: Vec<&String>| {
        let lines: Vec<String> = lines.iter().map(|line| format!("\n  {line}")).collect();
        lines.concat()
    };
    let only_vm: Vec<_> = vm
        .difference(&bare)
        .filter(|line| !accepted(line))
        .collect();
    let only_bare: Vec<_> = bare
        .difference(&vm)
        .filter(|line| !accepted(line))
        .collect();
    if !only_vm.is_empty() || !only_bare.is_empty() {
        bail!(
            "only the VM's kernel says:{}\nonly the machine's kernel says:{}",
            list(only_vm),
            list(only_bare)
        );
    }
    // What was accepted once and is not needed any more would hide something later.
    let differ: BTreeSet<_> = vm.symmetric_difference(&bare).collect();
    let idle: Vec<_> = ACCEPTED
        .iter()
        .flat_map(|(_, begins)| *begins)
        .filter(|begin| !differ.iter().any(|line| line.starts_with(**begin)))
        .collect();
    if !idle.is_empty() {
        bail!("accepted differences that there are not: {idle:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_other_lines_do_not_count() {
        let lines = [
            "[    0.1] a 0xfa of 12",
            "x",
            "[ note] b",
            "[    0.2] a 7 of 0x0",
            "[    0.3] x2apic",
        ];
        let lines = kernel_lines(lines.into_iter());
        assert_eq!(
            lines.into_iter().collect::<Vec<_>>(),
            ["a # of #", "x#apic"]
        );
    }
}
