//! Tile data through every save and restore instruction, and where it lies (SDM
//! Vol. 1, "Operation of XSAVE", "XSAVEC", "XSAVES", "XRSTOR", "XRSTORS").

use super::{AMX, CFG, DATA, begin};
use guests::area::{Area, COMPACTED, Save, offset};
use guests::{
    exceptions::NONE,
    processor::{self, TILECFG, TILEDATA, XSS, cpuid, offered_xcr0},
    report::Report,
    tiles::{self, Config},
};

/// What untouched bytes of an area hold.
const UNTOUCHED: u8 = 0xee;

pub(super) fn check(report: &mut Report) {
    for save in Save::ALL {
        begin();
        tiles::load_all(2);
        let mut area = Area::filled(UNTOUCHED);
        let vector = area.save(save, AMX);
        let data = offset(save, AMX, DATA);
        report.equal(
            format_args!("save: {save:?} of tiles raises nothing"),
            vector,
            NONE,
        );
        report.holds(
            format_args!("save: {save:?} writes 16 rows of 8 tiles"),
            tiles::bytes_hold(&area.0[data..], 2),
        );
        let config = offset(save, AMX, CFG);
        report.holds(
            format_args!("save: {save:?} writes the configuration"),
            area.0[config..config + 64] == Config::FULL.bytes(),
        );
        let xcomp_bv = if save.is_compacted() {
            AMX | COMPACTED
        } else {
            0
        };
        report.equal(
            format_args!("save: {save:?} writes XCOMP_BV"),
            area.xcomp_bv(),
            xcomp_bv,
        );
        report.holds(
            format_args!("save: {save:?} leaves the legacy region alone"),
            area.0[..512].iter().all(|byte| *byte == UNTOUCHED),
        );

        tiles::release();
        report.equal(
            format_args!("save: XRSTOR of what {save:?} wrote"),
            (area.xrstor(AMX), back(2)),
            (NONE, true),
        );
        if save.is_compacted() {
            tiles::release();
            report.equal(
                format_args!("save: XRSTORS of what {save:?} wrote"),
                (area.xrstors(AMX), back(2)),
                (NONE, true),
            );
        }
    }
    compacted_offsets(report);
    parts(report);
}

/// Whether configuration and tiles are back. The configuration is not read before:
/// storing a tile that is not configured would raise #UD.
fn back(seed: u8) -> bool {
    processor::in_use() & AMX == AMX && tiles::all_hold(seed)
}

/// Tiles lie behind what comes before them, requested or not in use.
fn compacted_offsets(report: &mut Report) {
    let offered = offered_xcr0();
    let xss = cpuid(0xd, 1);
    let xss = u64::from(xss.edx) << 32 | u64::from(xss.ecx);
    for (name, set) in [
        ("tile data alone", TILEDATA),
        ("AVX before", 1 << 2 | AMX),
        ("PKRU before, which ends off a multiple of 64", 1 << 9 | AMX),
        ("AVX-512 before", 0b111 << 5 | AMX),
        ("everything before", offered),
    ] {
        for save in [Save::Xsavec, Save::Xsaves] {
            begin();
            tiles::load_all(3);
            let mut area = Area::filled(UNTOUCHED);
            let vector = area.save(save, set);
            let data = offset(save, set, DATA);
            let found = (
                vector,
                area.xcomp_bv(),
                tiles::bytes_hold(&area.0[data..], 3),
            );
            report.equal(
                format_args!("save: {save:?} with {name}: tiles at {data}"),
                found,
                (NONE, set | COMPACTED, true),
            );
        }
    }
    begin();
    processor::wrmsr(XSS, xss);
    tiles::load_all(4);
    let mut area = Area::filled(UNTOUCHED);
    let set = offered | xss;
    let vector = area.save(Save::Xsaves, set);
    let data = offset(Save::Xsaves, set, DATA);
    let found = (
        vector,
        area.xcomp_bv(),
        tiles::bytes_hold(&area.0[data..], 4),
    );
    report.equal(
        format_args!("save: XSAVES with supervisor components: tiles at {data}"),
        found,
        (NONE, set | COMPACTED, true),
    );
    processor::wrmsr(XSS, 0);
}

/// Restoring a part of a compacted area.
fn parts(report: &mut Report) {
    for instruction in [Area::xrstor, Area::xrstors] {
        let name = if core::ptr::fn_addr_eq(instruction, Area::xrstor as fn(&Area, u64) -> u64) {
            "XRSTOR"
        } else {
            "XRSTORS"
        };
        begin();
        tiles::load_all(5);
        let mut area = Area::filled(UNTOUCHED);
        assert_eq!(area.save(Save::Xsavec, offered_xcr0()), NONE, "XSAVEC");
        tiles::release();
        let vectors = [instruction(&area, TILECFG), instruction(&area, TILEDATA)];
        report.equal(
            format_args!("save: {name} of TILECFG, then of TILEDATA alone"),
            (vectors, back(5)),
            ([NONE; 2], true),
        );
        tiles::load_all(6);
        report.equal(
            format_args!("save: {name} of TILECFG alone keeps tile data"),
            (instruction(&area, TILECFG), back(6)),
            (NONE, true),
        );
        report.equal(
            format_args!("save: {name} of AVX alone keeps tiles"),
            (instruction(&area, 1 << 2), back(6)),
            (NONE, true),
        );
        report.equal(
            format_args!("save: {name} of everything"),
            (instruction(&area, u64::MAX), back(5)),
            (NONE, true),
        );
    }
}
