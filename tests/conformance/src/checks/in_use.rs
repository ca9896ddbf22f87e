//! What is in use: XGETBV with ECX = 1, and XSTATE_BV as the save instructions
//! write it, armed and not (SDM Vol. 1, "XINUSE" in "Processor Tracking of
//! XSAVE-Managed State").

use super::{AMX, arm, begin, skipped_without_xfd};
use guests::area::{Area, Save};
use guests::{
    exceptions::NONE,
    processor::{self, TILECFG, TILEDATA},
    report::Report,
    tiles::{self, Config},
    vector_of,
};

const SSE: u64 = 1 << 1;
const HI16_ZMM: u64 = 1 << 7;
const MXCSR_INITIAL: u32 = 0x1f80;
/// With the inexact exception unmasked.
const MXCSR_OTHER: u32 = 0x0f80;

pub(super) fn check(report: &mut Report) {
    for live in [false, true] {
        for armed in [false, true] {
            if armed && skipped_without_xfd("in-use: armed") {
                continue;
            }
            begin();
            if live {
                tiles::load_all(1);
            }
            if armed {
                arm(true);
            }
            let state = match (live, armed) {
                (false, false) => "tiles initial",
                (false, true) => "tiles initial, armed",
                (true, false) => "tiles live",
                (true, true) => "tiles live, armed",
            };
            let expected = if live { AMX } else { 0 };
            report.equal(
                format_args!("in-use: XGETBV reports {state}"),
                processor::in_use() & AMX,
                expected,
            );
            for save in Save::ALL {
                let mut area = Area::filled(0);
                let vector = area.save(save, AMX);
                // SDM Vol. 1, 13.14: an armed component is saved as if initial.
                let expected = if armed {
                    expected & !TILEDATA
                } else {
                    expected
                };
                let what = format_args!("in-use: XSTATE_BV of {save:?} with {state}");
                report.equal(what, (vector, area.xstate_bv() & AMX), (NONE, expected));
            }
        }
    }
    begin();
    Config::FULL.load();
    report.equal(
        "in-use: LDTILECFG makes TILECFG in use",
        processor::in_use() & TILECFG,
        TILECFG,
    );

    begin();
    load_mxcsr(MXCSR_OTHER);
    report.equal(
        "in-use: MXCSR does not count for XGETBV",
        processor::in_use() & SSE,
        0,
    );
    for (save, expected) in [
        (Save::Xsave, 0),
        (Save::Xsaveopt, 0),
        (Save::Xsavec, SSE),
        (Save::Xsaves, SSE),
    ] {
        let mut area = Area::filled(0);
        area.save(save, SSE);
        report.equal(
            format_args!("in-use: MXCSR in XSTATE_BV[1] of {save:?}"),
            area.xstate_bv() & SSE,
            expected,
        );
    }
    load_mxcsr(MXCSR_INITIAL);
    // Whether an initial XMM register counts as in use is the CPU's choice as long
    // as it was written since; only a changed one must count.
    let _ = vector_of!("vpternlogd zmm20, zmm20, zmm20, 0xff");
    report.equal(
        "in-use: ZMM20 makes Hi16_ZMM in use",
        processor::in_use() & HI16_ZMM,
        HI16_ZMM,
    );
    // That Hi16_ZMM does not count outside 64-bit mode is left out: this program
    // lies where 32-bit code cannot run.
}

fn load_mxcsr(value: u32) {
    assert_eq!(
        vector_of!("ldmxcsr [{at}]", at = in(reg) &value),
        NONE,
        "LDMXCSR"
    );
}
