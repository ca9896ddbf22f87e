//! The conformance image: what silicon promises about XSAVE, XFD and AMX holds
//! on the machine that everything else is tested on.

use crate::harness::{Boot, Kernel, Ramdisk, case};
use anyhow::ensure;
use libtest_mimic::Trial;

/// Fewer checks than this, and something did not run.
const LEAST_CHECKS: usize = 60;

pub(crate) fn trials() -> Vec<Trial> {
    vec![case("conformance::silicon_keeps_its_promises", |log| {
        let boot = Boot {
            kernel: Kernel::Conformance,
            ramdisk: Ramdisk::None,
            ..Boot::bundle("")
        };
        let console = log.run(&boot)?;
        console.never_says("not ok ")?;
        let passed = console
            .0
            .console
            .iter()
            .filter(|line| line.starts_with("ok "))
            .count();
        ensure!(
            passed >= LEAST_CHECKS,
            "{passed} checks passed, at least {LEAST_CHECKS} expected"
        );
        console.says(&format!("conformance: {passed} passed, 0 failed"))?;
        console.succeeded()
    })]
}
