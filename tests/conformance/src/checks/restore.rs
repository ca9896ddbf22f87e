//! Restoring into armed components (SDM Vol. 1, "Extended Feature Disable (XFD)").

use super::{AMX, arm, begin, skipped_without_xfd, take_xfd_err};
use guests::area::{Area, Save};
use guests::{
    exceptions::{NM, NONE},
    processor::{TILECFG, TILEDATA, in_use},
    report::Report,
    tiles,
};

pub(super) fn check(report: &mut Report) {
    if skipped_without_xfd("restore: armed") {
        return;
    }
    for save in [Save::Xsave, Save::Xsavec, Save::Xsaves] {
        for instruction in [
            ("XRSTOR", Area::xrstor as fn(&Area, u64) -> u64),
            ("XRSTORS", Area::xrstors),
        ] {
            if instruction.0 == "XRSTORS" && !save.is_compacted() {
                continue;
            }
            from(report, save, instruction);
        }
    }
}

fn from(report: &mut Report, save: Save, (name, restore): (&str, fn(&Area, u64) -> u64)) {
    begin();
    tiles::load_all(7);
    let mut area = Area::filled(0);
    assert_eq!(area.save(save, AMX), NONE, "saving tiles");
    tiles::release();
    arm(true);
    report.equal(
        format_args!("restore: {name} of what {save:?} wrote, armed, raises #NM"),
        (restore(&area, AMX), take_xfd_err()),
        (NM, TILEDATA),
    );
    report.equal(
        format_args!("restore: {name} of what {save:?} wrote, without the armed component"),
        (restore(&area, TILECFG), take_xfd_err()),
        (NONE, 0),
    );
    arm(false);
    assert_eq!(restore(&area, AMX), NONE, "restoring tiles");
    report.holds(
        format_args!("restore: {name} of what {save:?} wrote, not armed"),
        tiles::all_hold(7),
    );

    arm(true);
    let initial = Area::filled(0).with_header(0, area.xcomp_bv());
    let found = (restore(&initial, AMX), take_xfd_err(), in_use() & TILECFG);
    report.equal(
        format_args!("restore: {name} initialises an armed component without #NM ({save:?})"),
        found,
        (NONE, 0, 0),
    );
    arm(false);
    report.equal(
        format_args!("restore: after {name} tile data is initial ({save:?})"),
        in_use() & TILEDATA,
        0,
    );
}
