//! Arms and disarms XFD 10,000 times and faults now and then: what a kernel does
//! that switches between processes with and without tiles. The hypervisor's
//! counters tell what it cost.
//!
//! With `arm-first` XFD is armed before XCR0 enables the tiles, as Linux does; with
//! `ts-only` it is never written, and #NM comes from CR0.TS.

#![no_std]
#![no_main]

use guests::{
    exceptions::{NM, NONE},
    payload,
    processor::{self, TILEDATA, XFD, XFD_ERR, rdmsr, wrmsr},
    report::Report,
    start::has_word,
    tiles::Config,
    vector_of,
};

payload!(main);

const ROUNDS: u32 = 10_000;
/// One round in so many touches a tile while it is armed.
const FAULT_EVERY: u32 = 100;

fn main(command_line: &'static str) -> ! {
    processor::enable_osxsave();
    if has_word(command_line, "ts-only") {
        without_xfd();
    }
    if has_word(command_line, "arm-first") {
        wrmsr(XFD, TILEDATA);
    }
    assert_eq!(
        processor::try_xsetbv(0, processor::offered_xcr0()),
        NONE,
        "XSETBV"
    );
    let mut report = Report::default();
    let (mut faults, mut wrong) = (0, 0);
    for round in 0..ROUNDS {
        wrmsr(XFD, TILEDATA);
        if round % FAULT_EVERY == 0 {
            Config::FULL.load();
            let found = (vector_of!("tilezero tmm0"), rdmsr(XFD_ERR));
            wrmsr(XFD_ERR, 0);
            faults += 1;
            wrong += u32::from(found != (NM, TILEDATA));
        }
        wrmsr(XFD, 0);
        wrong += u32::from(rdmsr(XFD) != 0 || rdmsr(XFD_ERR) != 0);
        if round % FAULT_EVERY == 0 {
            wrong += u32::from(vector_of!("tilezero tmm0") != NONE);
        }
    }
    report.equal("rounds with a wrong exception or value", wrong, 0);
    report.equal("#NM taken", faults, ROUNDS / FAULT_EVERY);
    report.finish()
}

/// #NM that XFD has no part in.
fn without_xfd() -> ! {
    let mut report = Report::default();
    report.all("CR0.TS raises #NM", 0..10_u32, |_| {
        processor::set_task_switched(true);
        let vector = vector_of!("fninit");
        processor::set_task_switched(false);
        vector == NM
    });
    report.finish()
}
