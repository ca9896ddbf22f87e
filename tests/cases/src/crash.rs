//! Guests that make mistakes.

use crate::{
    demo::one,
    harness::{Boot, case},
};
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
            "string I/O on port 0x3f8, which is not emulated",
        ),
        case("crash::the_report_shows_the_bytes_at_rip", |log| {
            let console = log.run(&Boot::bundle(one("crash", "memory", false)))?;
            // MOV [RAX], EAX.
            console.says("bytes at rip: 89 00 ")?;
            console.never_says("(not mapped)")?;
            console.failed()
        }),
    ]
}
