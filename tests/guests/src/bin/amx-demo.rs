//! The demo: matrix products in tiles, with XFD armed before each.
//!
//! A Linux process that uses AMX for the first time goes the same way: the
//! kernel has XFD armed, the first tile instruction raises #NM, the handler
//! reads and clears XFD_ERR, disarms XFD, and the instruction is retried. Every
//! element of every product is compared with a scalar result. With
//! `fault=element` on the command line one element is made wrong before that,
//! to show that the comparison would notice.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use guests::{
    console, exceptions, payload,
    processor::{self, TILECFG, TILEDATA, XFD, XFD_ERR},
    say,
    start::has_word,
    tiles::{self, Config, ROW_BYTES, ROWS, TILES, Tile},
};

payload!(main);

/// Products of each kind.
const ROUNDS: u32 = 8;
/// Rows and columns of a product: two tiles of 16 each way.
const SIDE: usize = 32;
/// Blocks of the inner dimension, each one tile deep.
const BLOCKS: usize = 2;
/// 32-bit elements of a tile's row.
const COLUMNS: usize = ROW_BYTES / 4;

static NM_COUNT: AtomicU32 = AtomicU32::new(0);
static XFD_ERR_SEEN: AtomicU64 = AtomicU64::new(0);

/// What an operating system's #NM handler does.
fn handle_nm() {
    NM_COUNT.fetch_add(1, Ordering::Relaxed);
    XFD_ERR_SEEN.fetch_or(processor::rdmsr(XFD_ERR), Ordering::Relaxed);
    processor::wrmsr(XFD_ERR, 0);
    processor::wrmsr(XFD, 0);
}

/// A kind of element: how it is stored, and how a sum of products reads.
struct Kind {
    name: &'static str,
    /// Elements in 32 bits: the depth of one step of a tile product.
    packed: usize,
    /// The bytes of a small integer, little-endian.
    encode: fn(i32) -> [u8; 2],
    multiply: fn(),
    /// The integer that 32 bits of an accumulator stand for, if they do.
    decode: fn(u32) -> Option<i32>,
}

const INT8: Kind = Kind {
    name: "int8",
    packed: 4,
    encode: |value| [value as i8 as u8, 0],
    multiply: tiles::multiply_int8,
    decode: |bits| Some(bits as i32),
};

/// Integers below 2^8 have exact bfloat16 forms, and sums of their products stay
/// below 2^24, so 32-bit floats hold them exactly in whatever order they are
/// added: the comparison can demand equality.
const BF16: Kind = Kind {
    name: "bf16",
    packed: 2,
    encode: |value| {
        ((value as f32).to_bits() >> 16).to_le_bytes()[..2]
            .try_into()
            .unwrap_or([0; 2])
    },
    multiply: tiles::multiply_bf16,
    decode: |bits| {
        let value = f32::from_bits(bits) as i32;
        ((value as f32).to_bits() == bits).then_some(value)
    },
};

impl Kind {
    fn element_bytes(&self) -> usize {
        4 / self.packed
    }

    /// The inner dimension of one tile product, and of the whole.
    fn block_depth(&self) -> usize {
        COLUMNS * self.packed
    }
    fn depth(&self) -> usize {
        BLOCKS * self.block_depth()
    }

    /// Rows `16 * half` and on of the left matrix, one block.
    fn left_tile(&self, seed: u32, half: usize, block: usize) -> Tile {
        self.tile(|row, index| left(seed, half * ROWS + row, block * self.block_depth() + index))
    }

    /// Columns `16 * half` and on of the right matrix, one block: each row of the
    /// tile holds `packed` rows of the matrix, interleaved.
    fn right_tile(&self, seed: u32, half: usize, block: usize) -> Tile {
        self.tile(|row, index| {
            let depth = block * self.block_depth() + row * self.packed + index % self.packed;
            right(seed, depth, half * COLUMNS + index / self.packed)
        })
    }

    fn tile(&self, element: impl Fn(usize, usize) -> i32) -> Tile {
        let mut tile = Tile::ZERO;
        for (row, bytes) in tile.0.iter_mut().enumerate() {
            for (index, place) in bytes.chunks_exact_mut(self.element_bytes()).enumerate() {
                let encoded = (self.encode)(element(row, index));
                place.copy_from_slice(&encoded[..self.element_bytes()]);
            }
        }
        tile
    }

    /// Computes one product in tiles and compares it; the number of elements
    /// compared, or a report of the first that differs.
    fn round(&self, seed: u32, fault: bool) -> Result<usize, Wrong> {
        // As a kernel does when it switches to a process: this one must fault first.
        processor::wrmsr(XFD, TILEDATA);
        Config::FULL.load();
        tiles::zero_accumulators();
        for block in 0..BLOCKS {
            for half in 0..2 {
                tiles::load(4 + half, &self.left_tile(seed, half, block));
                tiles::load(6 + half, &self.right_tile(seed, half, block));
            }
            (self.multiply)();
        }
        let mut accumulators: [Tile; 4] = core::array::from_fn(tiles::store);
        tiles::release();
        if fault {
            accumulators[3].0[7][20] ^= 1;
        }
        self.compare(seed, &accumulators)
    }

    fn compare(&self, seed: u32, accumulators: &[Tile; 4]) -> Result<usize, Wrong> {
        for row in 0..SIDE {
            for column in 0..SIDE {
                let tile = &accumulators[row / ROWS * 2 + column / COLUMNS];
                let at = column % COLUMNS * 4;
                let bytes: [u8; 4] = tile.0[row % ROWS][at..at + 4].try_into().unwrap_or([0; 4]);
                let found = (self.decode)(u32::from_le_bytes(bytes));
                let expected = (0..self.depth())
                    .map(|k| left(seed, row, k) * right(seed, k, column))
                    .sum();
                if found != Some(expected) {
                    return Err(Wrong {
                        row,
                        column,
                        expected,
                        found,
                    });
                }
            }
        }
        Ok(SIDE * SIDE)
    }
}

/// An element that differs; `found` is none where the bits are no integer.
struct Wrong {
    row: usize,
    column: usize,
    expected: i32,
    found: Option<i32>,
}

/// Elements of the two matrices: small, of both signs, different everywhere.
fn left(seed: u32, row: usize, depth: usize) -> i32 {
    small(seed, row as u32, depth as u32)
}
fn right(seed: u32, depth: usize, column: usize) -> i32 {
    small(!seed, depth as u32, column as u32)
}
fn small(seed: u32, row: u32, column: u32) -> i32 {
    let mixed = (seed ^ row.wrapping_mul(0x9e37_79b1))
        .wrapping_add(column)
        .wrapping_mul(0x85eb_ca6b);
    (mixed >> 24) as i8 as i32 / 2
}

fn main(command_line: &'static str) -> ! {
    processor::enable_osxsave();
    let offered = processor::offered_xcr0();
    if offered & (TILECFG | TILEDATA) != TILECFG | TILEDATA {
        say!("this VM offers no AMX (XCR0 bits {offered:#x}): give it amx = true");
        console::exit(1);
    }
    let palette = processor::cpuid(0x1d, 1);
    let tile_bytes = palette.eax >> 16;
    let (rows, row_bytes) = (palette.ecx & 0xffff, palette.ebx & 0xffff);
    say!("AMX: {TILES} tiles of {rows} rows x {row_bytes} bytes, {tile_bytes} bytes each");
    assert_eq!(
        (rows as usize, row_bytes as usize),
        (ROWS, ROW_BYTES),
        "palette 1 of another shape"
    );

    assert_eq!(
        processor::try_xsetbv(0, offered),
        exceptions::NONE,
        "XSETBV of what CPUID offers"
    );
    say!(
        "XCR0 = {offered:#x}: XSAVE area of {} bytes",
        processor::cpuid(0xd, 0).ebx
    );
    exceptions::on_nm(handle_nm);

    let fault = has_word(command_line, "fault=element");
    for kind in [INT8, BF16] {
        let mut compared = 0;
        for round in 0..ROUNDS {
            let last = round + 1 == ROUNDS;
            match kind.round(round, fault && last && kind.name == BF16.name) {
                Ok(elements) => compared += elements,
                Err(Wrong {
                    row,
                    column,
                    expected,
                    found,
                }) => {
                    say!(
                        "WRONG: {} product {round}, element [{row}][{column}]: expected {expected}, found {found:?}",
                        kind.name
                    );
                    console::exit(1);
                }
            }
        }
        say!(
            "{}: {ROUNDS} products {SIDE} x {} x {SIDE}, {compared} elements, all right",
            kind.name,
            kind.depth()
        );
    }
    let (count, seen) = (
        NM_COUNT.load(Ordering::Relaxed),
        XFD_ERR_SEEN.load(Ordering::Relaxed),
    );
    say!("#NM taken {count} times, XFD_ERR = {seen:#x}");
    let expected = (2 * ROUNDS, TILEDATA);
    if (count, seen) != expected {
        say!("WRONG: expected {} times and {:#x}", expected.0, expected.1);
        console::exit(1);
    }
    console::exit(0)
}
