//! Tiles (SDM Vol. 1, "Programming with Intel AMX").

use std::arch::{asm, x86_64::__cpuid_count};

const ROWS: usize = 16;
const ROW_BYTES: usize = 64;
const TILES: usize = 8;

/// What LDTILECFG loads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles, as large as they can be.
static FULL: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The contents of a tile.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Tile([u8; ROWS * ROW_BYTES]);

/// Whether CPUID shows AMX-TILE.
pub(crate) fn offered() -> bool {
    const AMX_TILE: u32 = 1 << 24;
    __cpuid_count(7, 0).edx & AMX_TILE != 0
}

macro_rules! per_tile {
    ($($number:literal $register:literal),*) => {
        fn load(number: usize, tile: &Tile) {
            match number {
                // SAFETY: reads 16 rows of 64 bytes.
                $($number => unsafe {
                    asm!(concat!("tileloadd ", $register, ", [{base} + {stride}]"),
                        base = in(reg) tile, stride = in(reg) ROW_BYTES, options(nostack, readonly))
                },)*
                _ => unreachable!("eight tiles"),
            }
        }

        fn store(number: usize) -> Tile {
            let mut tile = Tile([0; ROWS * ROW_BYTES]);
            match number {
                // SAFETY: writes 16 rows of 64 bytes.
                $($number => unsafe {
                    asm!(concat!("tilestored [{base} + {stride}], ", $register),
                        base = in(reg) &mut tile, stride = in(reg) ROW_BYTES, options(nostack))
                },)*
                _ => unreachable!("eight tiles"),
            }
            tile
        }
    };
}
per_tile!(0 "tmm0", 1 "tmm1", 2 "tmm2", 3 "tmm3", 4 "tmm4", 5 "tmm5", 6 "tmm6", 7 "tmm7");

fn configure() {
    // SAFETY: reads 64 bytes of a configuration.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &FULL, options(nostack, readonly)) };
}

/// TILERELEASE
pub(crate) fn release() {
    // SAFETY: the thread's own tiles.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// The contents of tile `number` under `seed`.
pub(crate) fn pattern(seed: u8, number: usize) -> [u8; ROWS * ROW_BYTES] {
    let mut bytes = [0; ROWS * ROW_BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (number * 13 + index * 7 + index / 64) as u8 ^ seed;
    }
    bytes
}

/// Loads every tile with the pattern of `seed`.
pub(crate) fn load_all(seed: u8) {
    configure();
    for number in 0..TILES {
        load(number, &Tile(pattern(seed, number)));
    }
}

/// Whether every tile has the pattern of `seed`.
pub(crate) fn hold(seed: u8) -> bool {
    (0..TILES).all(|number| store(number).0 == pattern(seed, number))
}

/// Multiplies 16 x 64 signed bytes with 64 x 16, and compares with plain arithmetic.
pub(crate) fn multiply_int8() -> bool {
    configure();
    let (a, b) = (Tile(pattern(3, 1)), Tile(pattern(5, 2)));
    load(1, &a);
    load(2, &b);
    // SAFETY: the tiles are configured.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tdpbssd tmm0, tmm1, tmm2",
            options(nostack, nomem)
        )
    };
    let product = store(0);
    let signed = |byte: u8| i32::from(byte as i8);
    let right = (0..ROWS).all(|row| {
        (0..16).all(|column| {
            // Rows of B hold four rows of the matrix each, interleaved.
            let expected: i32 = (0..64)
                .map(|k| {
                    let b = b.0[k / 4 * ROW_BYTES + column * 4 + k % 4];
                    signed(a.0[row * ROW_BYTES + k]) * signed(b)
                })
                .sum();
            let at = row * ROW_BYTES + column * 4;
            product.0[at..at + 4] == expected.to_le_bytes()
        })
    });
    release();
    right
}

/// The same for 16 x 32 and 32 x 16 small integers as bfloat16: exact in 32 bits.
pub(crate) fn multiply_bf16() -> bool {
    configure();
    let value = |seed: usize, index: usize| ((index * 7 + seed) % 17) as f32 - 8.0;
    let tile = |seed: usize| {
        let mut tile = Tile([0; ROWS * ROW_BYTES]);
        for (index, pair) in tile.0.chunks_exact_mut(2).enumerate() {
            // The upper half of a float is its bfloat16.
            pair.copy_from_slice(&value(seed, index).to_le_bytes()[2..]);
        }
        tile
    };
    load(1, &tile(1));
    load(2, &tile(2));
    // SAFETY: the tiles are configured.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tdpbf16ps tmm0, tmm1, tmm2",
            options(nostack, nomem)
        )
    };
    let product = store(0);
    let right = (0..ROWS).all(|row| {
        (0..16).all(|column| {
            let expected: f32 = (0..32)
                .map(|k| value(1, row * 32 + k) * value(2, k / 2 * 32 + column * 2 + k % 2))
                .sum();
            let at = row * ROW_BYTES + column * 4;
            product.0[at..at + 4] == expected.to_le_bytes()
        })
    });
    release();
    right
}
