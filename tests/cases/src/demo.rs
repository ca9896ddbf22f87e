//! The main job: an AMX guest computes, and a wrong result is noticed.

use crate::harness::{Boot, case};
use anyhow::ensure;
use libtest_mimic::Trial;
use std::time::Duration;
use xtask::run::Ended;

/// A bundle of one VM.
pub(crate) fn one(payload: &str, cmdline: &str, amx: bool) -> String {
    format!(
        "[[vm]]\nname = \"guest\"\nimage = \"payload:{payload}\"\ncmdline = \"{cmdline}\"\nmemory = \"16M\"\n\
         [vm.xstate]\namx = {amx}\n"
    )
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        case("demo::computes_right", |log| {
            let console = log.run(&Boot::bundle(one("amx-demo", "", true)))?;
            console.says("guest: int8: 8 products 32 x 128 x 32, 8192 elements, all right")?;
            console.says("guest: bf16: 8 products 32 x 64 x 32, 8192 elements, all right")?;
            console.says("guest: #NM taken 16 times, XFD_ERR = 0x40000")?;
            console.says("VM \"guest\" ended with success")?;
            console.succeeded()
        }),
        case("demo::a_wrong_element_fails_the_run", |log| {
            let console = log.run(&Boot::bundle(one("amx-demo", "fault=element", true)))?;
            console.says("guest: WRONG: bf16 product 7, element [23][21]")?;
            console.says("VM \"guest\" ended with code 1")?;
            console.failed()
        }),
        case("demo::without_permission_there_is_no_amx", |log| {
            let console = log.run(&Boot::bundle(one("amx-demo", "", false)))?;
            console.says("guest: this VM offers no AMX")?;
            console.failed()
        }),
        case("demo::two_vms_share_the_cpu", |log| {
            let both = one("amx-demo", "", true)
                + &one("amx-demo", "", true).replace("\"guest\"", "\"other\"");
            let console = log.run(&Boot::bundle(both))?;
            console.says("guest: #NM taken 16 times")?;
            console.says("other: #NM taken 16 times")?;
            console.succeeded()
        }),
        case("demo::a_vm_that_fails_does_not_stop_another", |log| {
            let both = one("amx-demo", "fault=element", true)
                + &one("amx-demo", "", true).replace("\"guest\"", "\"other\"");
            let console = log.run(&Boot::bundle(both))?;
            console.says("VM \"guest\" ended with code 1")?;
            console.says("VM \"other\" ended with success")?;
            console.failed()
        }),
        case("demo::the_local_apic_and_its_timer", |log| {
            let console = log.run(&Boot::bundle(one("timer", "", false)))?;
            console.never_says("not ok")?;
            console.says("guest: 13 passed, 0 failed")?;
            console.succeeded()
        }),
        case("demo::timers_beside_a_vm_that_computes", |log| {
            let both = one("timer", "", false)
                + &one("amx-demo", "", true).replace("\"guest\"", "\"other\"");
            let console = log.run(&Boot::bundle(both))?;
            console.never_says("not ok")?;
            console.succeeded()
        }),
        case("demo::the_time_limit_names_the_vm_that_hangs", |log| {
            let mut boot = Boot::bundle(one("hang", "", false));
            boot.limit = Duration::from_secs(5);
            let console = log.run(&boot)?;
            let near = console.find("looping near 0x")?;
            let address = near.rsplit_once(' ').map_or("", |(_, address)| address);
            // The loop is the instruction or two behind the address it printed.
            let page = &address[..address.len().saturating_sub(2)];
            let Ended::TimedOut { report } = &console.0.ended else {
                anyhow::bail!("expected the time limit, found {:?}", console.0.ended);
            };
            ensure!(
                report.contains(&format!(
                    "still running: guest (vCPU 0 running, last RIP {page}"
                )),
                "report {report:?} does not name guest at {page}.."
            );
            Ok(())
        }),
    ]
}
