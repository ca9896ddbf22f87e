//! The checks, by family, and the state that each begins with.

mod amx;
mod cpuid;
mod dot;
mod header;
mod in_use;
mod legacy;
mod restore;
mod save;
mod xcr0;
mod xfd;

use crate::{area::Area, machine::has_xfd};
use guests::{
    exceptions::NONE,
    processor::{self, TILECFG, TILEDATA, XFD, XFD_ERR, XSS},
    report::Report,
    say,
    tiles::{self, Config, ROW_BYTES, ROWS, TILES, Tile},
};

/// Both tile components.
const AMX: u64 = TILECFG | TILEDATA;
/// Number of the component TILECFG.
const CFG: u32 = 17;
/// Number of the component TILEDATA.
const DATA: u32 = 18;

/// Runs all families.
pub(crate) fn run(report: &mut Report) {
    for family in [
        cpuid::check,
        xcr0::check,
        xfd::check,
        amx::check,
        dot::check,
        in_use::check,
        save::check,
        restore::check,
        header::check,
        legacy::check,
    ] {
        begin();
        family(report);
    }
}

/// XCR0 has all that CPUID offers, nothing is armed, everything is initial.
fn begin() {
    assert_eq!(
        processor::try_xsetbv(0, processor::offered_xcr0()),
        NONE,
        "XSETBV of what CPUID offers"
    );
    processor::wrmsr(XSS, 0);
    if has_xfd() {
        processor::wrmsr(XFD, 0);
        processor::wrmsr(XFD_ERR, 0);
    }
    assert_eq!(
        Area::filled(0).xrstor(u64::MAX),
        NONE,
        "XRSTOR of an area without components"
    );
}

/// Contents of tile `number` under `seed`: different in every byte's neighbours.
fn pattern(seed: u8, number: usize) -> Tile {
    let mut tile = Tile::ZERO;
    for (row, bytes) in tile.0.iter_mut().enumerate() {
        for (column, byte) in bytes.iter_mut().enumerate() {
            *byte = (number * 13 + row * 7 + column * 3 + 1) as u8 ^ seed;
        }
    }
    tile
}

/// Loads all tiles with the pattern of `seed`.
fn load_tiles(seed: u8) {
    Config::FULL.load();
    for number in 0..TILES {
        tiles::load(number, &pattern(seed, number));
    }
}

/// Whether all tiles have the pattern of `seed`.
fn tiles_hold(seed: u8) -> bool {
    (0..TILES).all(|number| tiles::store(number) == pattern(seed, number))
}

/// Whether the bytes are those of all tiles with the pattern of `seed`: 16 rows of
/// 8 tiles.
fn bytes_hold(bytes: &[u8], seed: u8) -> bool {
    (0..TILES).all(|number| {
        let tile = &bytes[number * ROWS * ROW_BYTES..];
        pattern(seed, number).0.as_flattened() == &tile[..ROWS * ROW_BYTES]
    })
}

/// XFD_ERR, which is cleared on the way.
fn take_xfd_err() -> u64 {
    let error = processor::rdmsr(XFD_ERR);
    processor::wrmsr(XFD_ERR, 0);
    error
}

/// Says that checks were left out because the CPU has no XFD; whether it is so.
fn skipped_without_xfd(what: &str) -> bool {
    let skipped = !has_xfd();
    if skipped {
        say!("skip {what}: XFD");
    }
    skipped
}

/// Arms the tiles or not.
fn arm(armed: bool) {
    processor::wrmsr(XFD, if armed { TILEDATA } else { 0 });
}
