//! Runs a machine: streams its console, reads its verdict, ends it.

use crate::{
    machine::{Machine, Spec, bochs},
    operator::Operator,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The last line of a machine that ended well.
pub const SUCCESS: &str = "machine ends: success";
/// The last line of one that did not.
pub const FAILURE: &str = "machine ends: failure";

/// The key that asks the hypervisor what is running.
const STATUS_KEY: u8 = 0x14;
/// How long it may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long a machine may take to connect its console, and to go after its last
/// line.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The machine said so as its last line.
    Verdict {
        /// Whether it was success.
        success: bool,
    },
    /// The machine went without a verdict.
    Silent {
        /// What else is known of its end.
        why: String,
    },
    /// The time limit was reached.
    TimedOut {
        /// Who was still running, or what was found instead.
        report: String,
    },
}

/// A run that ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All console lines.
    pub console: Vec<String>,
    /// How it ended.
    pub ended: Ended,
}

/// Set by Ctrl-C; every run looks at it and ends its machine.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C end the machines, not only us.
///
/// # Errors
/// The handler is installed already.
pub fn end_machines_on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))?;
    Ok(())
}

/// Starts `machine` with `operator` at its console, and waits for its end, at most for
/// `limit`.
///
/// # Errors
/// The machine cannot be started, or we were interrupted.
pub fn run(
    machine: Machine,
    spec: &Spec<'_>,
    limit: Duration,
    operator: &mut dyn Operator,
) -> Result<Outcome> {
    let folder = tempfile::tempdir_in(run_folder()?)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let command = machine.command(spec, folder.path(), listener.local_addr()?.port())?;
    let mut process = Process::start(command, folder.path())?;
    let console = process.accept(&listener)?;
    let mut console = Console::new(console)?;
    let deadline = Instant::now().checked_add(limit);
    let ended = loop {
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        console.write(&operator.keys())?;
        match console.read(operator)? {
            Progress::Closed => break process.without_verdict(folder.path())?,
            _ if console.verdict().is_some() => {
                break process.with_verdict(&mut console, operator)?;
            }
            _ if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                let report = ask(machine, &mut process, &mut console, operator, folder.path())?;
                break Ended::TimedOut {
                    report: format!("time limit of {} s reached; {report}", limit.as_secs()),
                };
            }
            Progress::Some | Progress::None => {}
        }
    };
    Ok(Outcome {
        console: console.lines,
        ended,
    })
}

/// The place of runs' own folders.
///
/// # Errors
/// It cannot be made.
pub fn run_folder() -> Result<std::path::PathBuf> {
    let folder = crate::project::target().join("run");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The machine's process, ended when dropped.
struct Process {
    child: Child,
}

impl Process {
    fn start(mut command: Command, folder: &Path) -> Result<Self> {
        let output = fs::File::create(folder.join("output"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{:?} cannot be started", command.get_program()))?;
        Ok(Self { child })
    }

    /// Waits for the machine to connect its console.
    fn accept(&mut self, listener: &TcpListener) -> Result<TcpStream> {
        listener.set_nonblocking(true)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match listener.accept() {
                Ok((stream, _)) => return Ok(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the machine ended before it connected its console ({status})");
            }
            if Instant::now() >= deadline || INTERRUPTED.load(Ordering::Relaxed) {
                bail!("the machine did not connect its console");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait(&mut self) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn with_verdict(
        &mut self,
        console: &mut Console,
        operator: &mut dyn Operator,
    ) -> Result<Ended> {
        let success = console.verdict() == Some(true);
        if self.wait()?.is_none() {
            return Ok(Ended::Silent {
                why: "the machine said that it ends and did not".into(),
            });
        }
        console.read(operator)?;
        Ok(Ended::Verdict { success })
    }

    fn without_verdict(&mut self, folder: &Path) -> Result<Ended> {
        let status = match self.wait()? {
            Some(status) => status.to_string(),
            None => "it closed its console and goes on".into(),
        };
        let mut why = format!("the machine ended without a verdict ({status})");
        for file in ["output", bochs::LOG] {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            if !last.is_empty() {
                why.push_str(&format!("\nend of its {file}:\n{}", last.join("\n")));
            }
        }
        Ok(Ended::Silent { why })
    }

    /// Ends it the way that makes Bochs write the CPUs' registers to its log.
    fn interrupt(&mut self) -> Result<()> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-INT", &id]).status()?;
        self.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have gone by itself; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a read brought.
#[derive(PartialEq, Eq)]
enum Progress {
    Some,
    None,
    Closed,
}

/// The machine's console.
struct Console {
    stream: TcpStream,
    partial: Vec<u8>,
    lines: Vec<String>,
}

impl Console {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self {
            stream,
            partial: Vec::new(),
            lines: Vec::new(),
        })
    }

    /// Reads what is there, or waits a moment for it.
    fn read(&mut self, operator: &mut dyn Operator) -> Result<Progress> {
        let mut buffer = [0; 4096];
        let length = match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(Progress::Closed),
            Ok(length) => length,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                        Ok(Progress::None)
                    }
                    ErrorKind::ConnectionReset => Ok(Progress::Closed),
                    _ => Err(error.into()),
                };
            }
        };
        // The console is ASCII.
        operator.show(&String::from_utf8_lossy(&buffer[..length]).replace('\r', ""));
        for &byte in &buffer[..length] {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.partial)
                    .trim_end_matches('\r')
                    .to_owned();
                self.lines.push(line);
                self.partial.clear();
            } else {
                self.partial.push(byte);
            }
        }
        Ok(Progress::Some)
    }

    /// Sends what the operator types.
    fn write(&mut self, keys: &[u8]) -> Result<()> {
        match self.stream.write_all(keys) {
            // It has ended, which the next read tells.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result.context("the machine's console"),
        }
    }

    /// What the last line says of the machine's end.
    fn verdict(&self) -> Option<bool> {
        match self.lines.last()?.as_str() {
            SUCCESS => Some(true),
            FAILURE => Some(false),
            _ => None,
        }
    }
}

/// Asks a machine that does not end who is running.
fn ask(
    machine: Machine,
    process: &mut Process,
    console: &mut Console,
    operator: &mut dyn Operator,
    folder: &Path,
) -> Result<String> {
    let before = console.lines.len();
    console.stream.write_all(&[STATUS_KEY])?;
    let deadline = Instant::now() + ANSWER_TIME;
    let mut running = Vec::new();
    while Instant::now() < deadline {
        if console.read(operator)? == Progress::Closed {
            break;
        }
        let found = still_running(&console.lines[before..]);
        // The answer is complete when no more of it comes.
        if !found.is_empty() && found == running {
            break;
        }
        running = found;
    }
    if !running.is_empty() {
        return Ok(format!("still running: {}", running.join(", ")));
    }
    let mut report = "the hypervisor did not answer".to_owned();
    if machine == Machine::Bochs {
        process.interrupt()?;
        let log = fs::read_to_string(folder.join(bochs::LOG)).unwrap_or_default();
        let registers: Vec<&str> = log.lines().filter(|line| line.contains("] | ")).collect();
        report.push_str(&format!("; the CPUs' registers:\n{}", registers.join("\n")));
    }
    Ok(report)
}

/// The VMs that the hypervisor's answer names, each with its place.
fn still_running(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter_map(|line| {
            let rest = line.strip_prefix("tilevisor: VM \"")?;
            let (name, rest) = rest.split_once("\" vCPU ")?;
            let (what, rip) = rest.split_once(" at RIP ")?;
            let (vcpu, what) = what.split_once(' ')?;
            Some(format!("{name} (vCPU {vcpu} {what}, last RIP {rip})"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_each_vm_and_its_place() {
        let lines = [
            "tilevisor: VM \"a b\" vCPU 0 running at RIP 0x200010",
            "tilevisor: VM \"a b\" exits: CPUID 1",
            "a b: VM \"x\" vCPU 0 running at RIP 0x1",
            "tilevisor: VM \"c\" vCPU 1 halted at RIP 0x7",
        ]
        .map(str::to_owned);
        assert_eq!(
            still_running(&lines),
            [
                "a b (vCPU 0 running, last RIP 0x200010)",
                "c (vCPU 1 halted, last RIP 0x7)"
            ]
        );
    }
}
