//! Rules that the sources and the binary keep.

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Failed, Trial};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use xtask::{build, project};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        tidy("tidy::rustfmt", || cargo(&["fmt", "--all", "--check"])),
        tidy("tidy::clippy_on_the_host", || {
            cargo(&[
                "clippy",
                "--all-targets",
                "--package",
                "guest-loader",
                "--package",
                "xtask",
                "--package",
                "cases",
                "--",
                "-D",
                "warnings",
            ])?;
            cargo(&[
                "clippy",
                "--lib",
                "--tests",
                "--package",
                "hypervisor",
                "--",
                "-D",
                "warnings",
            ])
        }),
        tidy("tidy::clippy_on_bare_metal", || {
            cargo(&[
                "clippy",
                "--release",
                "--target",
                project::BARE,
                "--package",
                "hypervisor",
                "--package",
                "guests",
                "--package",
                "bare",
                "--package",
                "conformance",
                "--",
                "-D",
                "warnings",
            ])
        }),
        tidy(
            "tidy::no_vector_instruction_in_the_hypervisor",
            no_vector_instructions,
        ),
        tidy("tidy::long_files_have_a_reason", long_files_have_a_reason),
        tidy("tidy::no_static_mut", no_static_mut),
        tidy("tidy::the_vector_scanner_sees_what_it_should", scanner_sees),
    ]
}

fn tidy(name: &'static str, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        check().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(project::root())
        .output()
        .context("cargo cannot be started")?;
    ensure!(
        output.status.success(),
        "cargo {}:\n{}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Guests' vectors and tiles stay in the registers while the hypervisor runs, so
/// it may not touch them: XSAVE, XRSTOR and their kin move them without naming
/// one, and nothing else may.
fn no_vector_instructions() -> Result<()> {
    let output = Command::new(build::llvm_tool("llvm-objdump")?)
        .args([
            "--disassemble",
            "--no-show-raw-insn",
            "--x86-asm-syntax=intel",
        ])
        .arg(build::hypervisor()?)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let instructions = text
        .lines()
        .filter(|line| instruction(line).is_some())
        .count();
    ensure!(
        instructions > 1000,
        "only {instructions} instructions were disassembled"
    );
    let found: Vec<&str> = text
        .lines()
        .filter(|line| names_extended_state(line))
        .take(10)
        .collect();
    ensure!(
        found.is_empty(),
        "the hypervisor touches extended state:\n{}",
        found.join("\n")
    );
    Ok(())
}

/// Mnemonic and operands of a line of disassembly.
fn instruction(line: &str) -> Option<&str> {
    let (address, rest) = line.split_once(':')?;
    let is_address =
        !address.trim().is_empty() && address.trim().bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_address && address.starts_with(' ')).then(|| rest.trim())
}

/// Whether a line of disassembly is an instruction on an x87, MMX, vector, mask
/// or tile register, or one that uses such registers without naming them.
fn names_extended_state(line: &str) -> bool {
    const FAMILIES: [&str; 7] = ["xmm", "ymm", "zmm", "tmm", "mm", "st", "k"];
    const IMPLICIT: [&str; 9] = [
        "emms",
        "vzero",
        "tilerelease",
        "ldmxcsr",
        "fninit",
        "fxrstor",
        "fxsave",
        "fild",
        "fld",
    ];
    let Some(text) = instruction(line) else {
        return false;
    };
    // Comments of the disassembler name symbols.
    let text = text.split('#').next().unwrap_or(text);
    let text = text.split('<').next().unwrap_or(text);
    let is_register = |word: &str| {
        FAMILIES.iter().any(|family| {
            let number = word.strip_prefix(family);
            number.is_some_and(|number| {
                number.len() <= 2
                    && number.bytes().all(|byte| byte.is_ascii_digit())
                    && (!number.is_empty() || *family == "st")
            })
        })
    };
    let mnemonic = text.split_ascii_whitespace().next().unwrap_or("");
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    IMPLICIT.iter().any(|name| mnemonic.starts_with(name)) || words.any(is_register)
}

fn scanner_sees() -> Result<()> {
    let touching = [
        "   1000:      \tmovaps\txmm0, xmmword ptr [rax]",
        "   1000:      \tvpxor\tymm1, ymm1, ymm1",
        "   1000:      \tvmovdqu64\tzmm31, zmmword ptr [rdi]",
        "   1000:      \ttilezero\ttmm7",
        "   1000:      \tmovq\tmm3, rax",
        "   1000:      \tfadd\tst, st(1)",
        "   1000:      \tkmovq\tk1, rax",
        "   1000:      \tfninit",
        "   1000:      \tldmxcsr\tdword ptr [rsp]",
    ];
    let harmless = [
        "   1000:      \txsaves64\t[rdi]",
        "   1000:      \txrstors64\t[rdi]",
        "   1000:      \tmov\trax, qword ptr [rip + 0x20] # 0x2000 <st0_like_symbol>",
        "   1000:      \tcall\t0x2000 <_ZN3xmm3ymm0E>",
        "   1000:      \trep\t\tstosb\tbyte ptr es:[rdi], al",
        "0000000000001000 <mm0>:",
    ];
    for line in touching {
        ensure!(names_extended_state(line), "not seen: {line}");
    }
    for line in harmless {
        ensure!(!names_extended_state(line), "seen: {line}");
    }
    Ok(())
}

/// Source files of the project.
fn sources() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ["hypervisor", "guest-loader", "xtask", "tests"]
        .map(|folder| project::root().join(folder))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    ensure!(
        files.len() > 20,
        "only {} source files were found",
        files.len()
    );
    Ok(files)
}

fn each_source(check: impl Fn(&Path, &str) -> Option<String>) -> Result<()> {
    let mut problems = Vec::new();
    for file in sources()? {
        problems.extend(check(&file, &fs::read_to_string(&file)?));
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// A file that needs scrolling wants another shape, or says why not. Unit tests
/// at its end do not count.
fn long_files_have_a_reason() -> Result<()> {
    const MOST: usize = 400;
    each_source(|file, text| {
        let is_test = file
            .components()
            .any(|part| ["tests", "tests.rs"].contains(&part.as_os_str().to_str().unwrap_or("")))
            && file.starts_with(project::root().join("hypervisor"));
        let lines = text
            .split("\n#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or(text)
            .lines()
            .count();
        let long = !is_test && lines > MOST && !text.contains("// long: ");
        long.then(|| {
            format!(
                "{}: {lines} lines and no `// long: ` reason",
                file.display()
            )
        })
    })
}

fn no_static_mut() -> Result<()> {
    each_source(|file, text| {
        let declares = |line: &str| {
            line.trim_start()
                .trim_start_matches("pub ")
                .starts_with("static mut ")
        };
        let line = text.lines().find(|line| declares(line))?;
        Some(format!("{}: {line}", file.display()))
    })
}
