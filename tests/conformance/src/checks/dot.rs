//! Dot products against scalar arithmetic (SDM Vol. 2, "TDPBSSD/TDPBSUD/TDPBUSD/
//! TDPBUUD" and "TDPBF16PS").

use guests::{
    exceptions::NONE,
    report::Report,
    tiles::{self, Config, ROW_BYTES, ROWS, Tile},
    vector_of,
};

const COLUMNS: usize = ROW_BYTES / 4;

/// A signed or unsigned byte.
type Extend = fn(u8) -> i32;
const SIGNED: Extend = |byte| i32::from(byte as i8);
const UNSIGNED: Extend = |byte| i32::from(byte);

pub(super) fn check(report: &mut Report) {
    for (name, instruction, left, right) in [
        (
            "TDPBSSD",
            (|| vector_of!("tdpbssd tmm0, tmm1, tmm2")) as fn() -> u64,
            SIGNED,
            SIGNED,
        ),
        (
            "TDPBSUD",
            || vector_of!("tdpbsud tmm0, tmm1, tmm2"),
            SIGNED,
            UNSIGNED,
        ),
        (
            "TDPBUSD",
            || vector_of!("tdpbusd tmm0, tmm1, tmm2"),
            UNSIGNED,
            SIGNED,
        ),
        (
            "TDPBUUD",
            || vector_of!("tdpbuud tmm0, tmm1, tmm2"),
            UNSIGNED,
            UNSIGNED,
        ),
    ] {
        let (a, b) = (tiles::pattern(0x5a, 1), tiles::pattern(0xc3, 2));
        let found = product(&tiles::pattern(0, 0), &a, &b, instruction);
        let element = |row: usize, column: usize| {
            let sum: i32 = (0..ROW_BYTES)
                .map(|k| left(a.0[row][k]) * right(b.0[k / 4][column * 4 + k % 4]))
                .sum();
            (word(&tiles::pattern(0, 0), row, column) as i32).wrapping_add(sum) as u32
        };
        report.holds(
            format_args!("dot: {name} is what scalar arithmetic says"),
            all_equal(&found, element),
        );
    }
    // Small integers, whose products and sums are exact in every order.
    let a = bf16(|row, k| (row * 5 + k * 3) as i32 % 23 - 11);
    let b = bf16(|row, index| ((row * 2 + index % 2) * 7 + index / 2 * 2) as i32 % 19 - 9);
    let mut c = Tile::ZERO;
    for (row, bytes) in c.0.iter_mut().enumerate() {
        for (column, place) in bytes.chunks_exact_mut(4).enumerate() {
            place.copy_from_slice(&start(row, column).to_le_bytes());
        }
    }
    let found = product(&c, &a, &b, || vector_of!("tdpbf16ps tmm0, tmm1, tmm2"));
    let element = |row: usize, column: usize| {
        let sum: i32 = (0..ROW_BYTES / 2)
            .map(|k| {
                let left = (row * 5 + k * 3) as i32 % 23 - 11;
                let right = (k * 7 + column * 2) as i32 % 19 - 9;
                left * right
            })
            .sum();
        ((sum + row as i32 * 16 + column as i32 - 100) as f32).to_bits()
    };
    report.holds(
        "dot: TDPBF16PS is what scalar arithmetic says",
        all_equal(&found, element),
    );
}

fn start(row: usize, column: usize) -> f32 {
    (row as i32 * 16 + column as i32 - 100) as f32
}

fn bf16(element: impl Fn(usize, usize) -> i32) -> Tile {
    let mut tile = Tile::ZERO;
    for (row, bytes) in tile.0.iter_mut().enumerate() {
        for (index, place) in bytes.chunks_exact_mut(2).enumerate() {
            place.copy_from_slice(&(element(row, index) as f32).to_le_bytes()[2..]);
        }
    }
    tile
}

fn product(c: &Tile, a: &Tile, b: &Tile, instruction: fn() -> u64) -> Tile {
    Config::FULL.load();
    for (number, tile) in [c, a, b].into_iter().enumerate() {
        tiles::load(number, tile);
    }
    assert_eq!(instruction(), NONE, "a dot product");
    tiles::store(0)
}

fn word(tile: &Tile, row: usize, column: usize) -> u32 {
    let bytes = &tile.0[row][column * 4..column * 4 + 4];
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

fn all_equal(found: &Tile, element: impl Fn(usize, usize) -> u32) -> bool {
    (0..ROWS).all(|row| (0..COLUMNS).all(|column| word(found, row, column) == element(row, column)))
}
