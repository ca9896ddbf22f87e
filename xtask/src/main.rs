//! `cargo xtask`: one command for people.

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use xtask::{
    bench,
    boot::Boot,
    build::{self, Firmware},
    bundle,
    machine::Machine,
    operator::Person,
    run::{self, Ended},
    size, test,
};

/// How long a run may take where nobody sits at a terminal.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// Build, run and test Tilevisor.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a machine with the hypervisor and a bundle of guests
    Run {
        /// The guests (a TOML file) [default: the AMX demo]
        #[arg(long)]
        bundle: Option<PathBuf>,
        /// The machine to boot
        #[arg(long, default_value = "auto")]
        machine: Choice,
        /// Number of its CPUs
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
        cpus: u32,
        /// Its memory, with the unit K, M or G
        #[arg(long, default_value = "1G", value_parser = size::parse)]
        memory: u64,
        /// Seconds after which it is ended [default: 60, or never at a terminal]
        #[arg(long)]
        timeout: Option<u64>,
        /// Boot the image of the bundle's one VM on the machine itself, for comparison
        #[arg(long)]
        bare: bool,
        /// Print the command that starts the machine instead of starting it
        #[arg(long)]
        dry_run: bool,
    },
    /// Measure what exits cost, in instructions where the machine is emulated
    Bench {
        /// Write the figures to this file too
        #[arg(long)]
        json: Option<PathBuf>,
        /// Draw them to files in this folder (SVG)
        #[arg(long)]
        plot: Option<PathBuf>,
        /// Measure this hypervisor too, on the same machine
        #[arg(long)]
        peer: Option<Peer>,
    },
    /// Run all tests, or those whose name contains FILTER
    Test {
        /// Part of a test's name
        filter: Option<String>,
    },
    /// Write a disk image that boots the hypervisor and a bundle
    Image {
        /// For machines with a BIOS
        #[arg(long, required_unless_present = "uefi", conflicts_with = "uefi")]
        bios: bool,
        /// For machines with UEFI
        #[arg(long)]
        uefi: bool,
        /// Where to write it
        #[arg(short)]
        out: PathBuf,
        /// The guests (a TOML file) [default: the AMX demo]
        #[arg(long)]
        bundle: Option<PathBuf>,
    },
    /// List the machines and say which work here, and why the others do not
    Machine {
        /// Build or install what the emulated machine needs
        #[arg(long)]
        build: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    /// That of Debian's Linux
    Kvm,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    /// kvm where nested VMX is real, else bochs
    Auto,
    /// QEMU on KVM with the host's CPU
    Kvm,
    /// Emulated Sapphire Rapids
    Bochs,
    /// QEMU without VMX
    Tcg,
}

impl Choice {
    fn machine(self) -> Machine {
        match self {
            Self::Kvm => Machine::Kvm,
            Self::Bochs => Machine::Bochs,
            Self::Tcg => Machine::Tcg,
            Self::Auto => {
                let (machine, reason) = Machine::auto();
                if let Some(reason) = reason {
                    eprintln!("machine {machine}; not kvm: {reason}");
                }
                machine
            }
        }
    }
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<bool> {
    match command {
        Command::Run {
            bundle,
            machine,
            cpus,
            memory,
            timeout,
            bare,
            dry_run,
        } => {
            let machine = machine.machine();
            let limit = match timeout {
                Some(seconds) => Duration::from_secs(seconds),
                None if std::io::stdin().is_terminal() => Duration::MAX,
                None => DEFAULT_LIMIT,
            };
            let mut boot = Boot {
                cpus,
                memory,
                ..Boot::new(machine, Path::new(""), limit)
            };
            if dry_run {
                let folder = tempfile::tempdir_in(run::run_folder()?)?;
                println!("{:?}", boot.command(folder.path())?);
                return Ok(true);
            }
            machine.prepare()?;
            let bundle = pack(bundle)?;
            let kernel = if bare {
                build::bare_launcher()?
            } else {
                build::hypervisor()?
            };
            boot.kernel = &kernel;
            boot.ramdisk = Some(&bundle);
            run::end_machines_on_interrupt()?;
            match boot.run(&mut Person::sit_down())?.ended {
                Ended::Verdict { success } => Ok(success),
                Ended::Silent { why } => bail!("{why}"),
                Ended::TimedOut { report } => bail!("{report}"),
            }
        }
        Command::Bench { json, plot, peer } => {
            let options = bench::Options {
                kvm: peer.is_some(),
                json: json.as_deref(),
                plots: plot.as_deref(),
            };
            bench::run(options).map(|()| true)
        }
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Image {
            bios: _,
            uefi,
            out,
            bundle,
        } => {
            let (kernel, bundle) = (build::hypervisor()?, pack(bundle)?);
            let boot = Boot {
                firmware: if uefi { Firmware::Uefi } else { Firmware::Bios },
                ramdisk: Some(&bundle),
                ..Boot::new(Machine::auto().0, &kernel, Duration::MAX)
            };
            boot.write_disk(&out)?;
            println!("{} boots on a machine with VMX and AMX", out.display());
            Ok(true)
        }
        Command::Machine { build } => {
            if build {
                Machine::Bochs.prepare()?;
            }
            let (chosen, _) = Machine::auto();
            for machine in Machine::ALL {
                let mark = if machine == chosen { '*' } else { ' ' };
                let name = machine.to_string();
                let state = machine
                    .unusable()
                    .map_or("works here".to_owned(), |reason| {
                        format!("not here: {reason}")
                    });
                println!("{mark} {name:6} {}\n           {state}", machine.purpose());
            }
            println!("(* is what `auto` takes)");
            Ok(true)
        }
    }
}

fn pack(bundle: Option<PathBuf>) -> Result<Vec<u8>> {
    bundle::pack_file(&bundle.unwrap_or_else(bundle::default))
}
