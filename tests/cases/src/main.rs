//! Whole-machine tests: each boots a machine and judges what it prints.
//!
//! Run by `cargo xtask test`. A case that fails shows the console and the
//! command that repeats it alone.

mod boot;
mod conformance;
mod cpus;
mod crash;
mod demo;
mod dmesg;
mod harness;
mod legacy;
mod linux;
mod multiboot;
mod offend;
mod smp;
mod tidy;
mod xstate;

use libtest_mimic::Arguments;

fn main() {
    let mut arguments = Arguments::from_args();
    // Each machine is one busy thread, and they do not wait for anything.
    arguments.test_threads = arguments
        .test_threads
        .or(std::thread::available_parallelism().ok().map(usize::from));
    let mut trials = tidy::trials();
    trials.extend(boot::trials());
    trials.extend(demo::trials());
    trials.extend(crash::trials());
    trials.extend(conformance::trials());
    trials.extend(xstate::trials());
    trials.extend(cpus::trials());
    trials.extend(smp::trials());
    trials.extend(legacy::trials());
    trials.extend(linux::trials());
    trials.extend(multiboot::trials());
    trials.extend(offend::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
