//! AMX tiles: configuration, and the instructions on them.

#![expect(unsafe_code, reason = "tile instructions")]

use core::arch::asm;

/// Rows of a tile of palette 1.
pub const ROWS: usize = 16;
/// Bytes of a row of palette 1.
pub const ROW_BYTES: usize = 64;
/// Tiles of palette 1.
pub const TILES: usize = 8;

/// What LDTILECFG loads (SDM Vol. 1, "Tile Architecture Details").
#[repr(C, align(64))]
pub struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Palette 1 with all eight tiles as large as they can be.
    pub const FULL: Self = {
        let mut config = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let mut tile = 0;
        while tile < TILES {
            config.row_bytes[tile] = ROW_BYTES as u16;
            config.rows[tile] = ROWS as u8;
            tile += 1;
        }
        config
    };

    /// Its 64 bytes.
    pub fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = self.palette;
        bytes[1] = self.start_row;
        bytes[2..16].copy_from_slice(&self.reserved);
        for (place, value) in bytes[16..48].chunks_exact_mut(2).zip(self.row_bytes) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes[48..].copy_from_slice(&self.rows);
        bytes
    }

    /// LDTILECFG
    pub fn load(&self) {
        // SAFETY: reads 64 bytes of a configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly)) };
    }
}

/// The contents of one tile.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Tile(pub [[u8; ROW_BYTES]; ROWS]);

impl Tile {
    /// All zeros.
    pub const ZERO: Self = Self([[0; ROW_BYTES]; ROWS]);
}

/// Generates functions for each tile register.
macro_rules! per_tile {
    ($($number:literal $register:literal),*) => {
        /// TILELOADD of tile register `number`.
        pub fn load(number: usize, tile: &Tile) {
            match number {
                $($number =>
                    // SAFETY: reads 16 rows of 64 bytes.
                    unsafe {
                        asm!(concat!("tileloadd ", $register, ", [{base} + {stride}]"),
                            base = in(reg) tile, stride = in(reg) ROW_BYTES, options(nostack, readonly))
                    },)*
                _ => panic!("no tile register {number}"),
            }
        }

        /// TILESTORED of tile register `number`.
        pub fn store(number: usize) -> Tile {
            let mut tile = Tile::ZERO;
            match number {
                $($number =>
                    // SAFETY: writes 16 rows of 64 bytes.
                    unsafe {
                        asm!(concat!("tilestored [{base} + {stride}], ", $register),
                            base = in(reg) &mut tile, stride = in(reg) ROW_BYTES, options(nostack))
                    },)*
                _ => panic!("no tile register {number}"),
            }
            tile
        }
    };
}
per_tile!(0 "tmm0", 1 "tmm1", 2 "tmm2", 3 "tmm3", 4 "tmm4", 5 "tmm5", 6 "tmm6", 7 "tmm7");

/// TILERELEASE
pub fn release() {
    // SAFETY: nothing but this payload uses tiles.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// TILEZERO of the four accumulators, tiles 0 to 3.
pub fn zero_accumulators() {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, nomem)
        )
    };
}

/// Adds the products of the row tiles 4 and 5 with the column tiles 6 and 7 to the
/// accumulators: signed bytes into 32-bit integers.
pub fn multiply_int8() {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            options(nostack, nomem)
        );
    }
}

/// The same for pairs of bfloat16 into 32-bit floats.
pub fn multiply_bf16() {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            options(nostack, nomem)
        );
    }
}

/// Contents of tile `number` under `seed`: different in every byte's neighbours.
pub fn pattern(seed: u8, number: usize) -> Tile {
    let mut tile = Tile::ZERO;
    for (row, bytes) in tile.0.iter_mut().enumerate() {
        for (column, byte) in bytes.iter_mut().enumerate() {
            *byte = (number * 13 + row * 7 + column * 3 + 1) as u8 ^ seed;
        }
    }
    tile
}

/// Loads all tiles with the pattern of `seed`.
pub fn load_all(seed: u8) {
    Config::FULL.load();
    for number in 0..TILES {
        load(number, &pattern(seed, number));
    }
}

/// Whether all tiles have the pattern of `seed`.
pub fn all_hold(seed: u8) -> bool {
    (0..TILES).all(|number| store(number) == pattern(seed, number))
}

/// Whether the bytes are those of all tiles with the pattern of `seed`: 16 rows of
/// 8 tiles.
pub fn bytes_hold(bytes: &[u8], seed: u8) -> bool {
    (0..TILES).all(|number| {
        let tile = &bytes[number * ROWS * ROW_BYTES..];
        pattern(seed, number).0.as_flattened() == &tile[..ROWS * ROW_BYTES]
    })
}
