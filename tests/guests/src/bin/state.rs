//! Extended state as data, seen from inside: with `make` on the command line it
//! prints an image of its state, with live tiles, for an operator to give to
//! another VM; with `given` it looks whether it began with that image, armed.

#![no_std]
#![no_main]

use core::fmt;
use guests::{
    area::{Area, Save, standard_size},
    exceptions::{NM, NONE},
    payload,
    processor::{self, TILEDATA, XFD, XFD_ERR, offered_xcr0, rdmsr, wrmsr, xcr0},
    report::Report,
    say,
    start::has_word,
    tiles, vector_of,
};

payload!(main);

/// Bytes of the image in one console line.
const LINE: usize = 128;
const SEED: u8 = 0x39;

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn main(command_line: &'static str) -> ! {
    processor::enable_osxsave();
    let mut report = Report::default();
    if has_word(command_line, "make") {
        make(&mut report);
    } else {
        given(&mut report);
    }
    report.finish()
}

fn make(report: &mut Report) {
    let set = offered_xcr0();
    assert_eq!(processor::try_xsetbv(0, set), NONE, "XSETBV");
    tiles::load_all(SEED);
    let mut area = Area::filled(0);
    report.equal("XSAVE", area.save(Save::Xsave, set), NONE);
    say!("xcr0 {set}");
    for line in area.0[..standard_size(set)].chunks(LINE) {
        say!("state {}", Hex(line));
    }
}

/// Case 2: XSTATE_BV[18] = 1 in the image meets XFD[18] = 1.
fn given(report: &mut Report) {
    report.equal("XCR0 is as given", xcr0(), offered_xcr0());
    report.equal("XFD is as given", rdmsr(XFD), TILEDATA);
    report.equal("XFD_ERR is clear", rdmsr(XFD_ERR), 0);
    report.equal(
        "the tiles are in use",
        processor::in_use() & TILEDATA,
        TILEDATA,
    );
    report.equal(
        "and armed",
        (vector_of!("tilezero tmm7"), rdmsr(XFD_ERR)),
        (NM, TILEDATA),
    );
    wrmsr(XFD_ERR, 0);
    wrmsr(XFD, 0);
    report.holds("disarmed, they hold what was given", tiles::all_hold(SEED));
}
