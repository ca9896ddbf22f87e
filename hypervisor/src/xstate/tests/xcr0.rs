use crate::xstate::features::XFeatures;
use crate::xstate::xcr0::{XsetbvFault, check_xsetbv, check_xss};
use proptest::prelude::*;

const SSE: u64 = 0b11;
const AVX: u64 = 0b111;
const AVX512: u64 = 0xe7;
const TILES: u64 = 0x60000;
/// What Sapphire Rapids offers, and MPX.
const OFFERED: u64 = TILES | 1 << 9 | AVX512 | 0b11 << 3;

fn xsetbv(value: u64) -> Result<XFeatures, XsetbvFault> {
    check_xsetbv(0, value, XFeatures::from_bits(OFFERED))
}

#[test]
fn rule_xs_06_each_bit_alone() {
    for bit in 0..64_u8 {
        let alone = xsetbv(1 << bit);
        let with_x87 = xsetbv(1 << bit | 1);
        let unsupported = XsetbvFault::Unsupported(XFeatures::single(bit));
        let (expected_alone, expected_with) = match bit {
            0 => (None, None),
            1 | 9 => (Some(XsetbvFault::X87Cleared), None),
            2 => (
                Some(XsetbvFault::X87Cleared),
                Some(XsetbvFault::AvxWithoutSse),
            ),
            3 | 4 => (Some(XsetbvFault::X87Cleared), Some(XsetbvFault::MpxSplit)),
            5..=7 => (
                Some(XsetbvFault::X87Cleared),
                Some(XsetbvFault::Avx512WithoutAvx),
            ),
            17 | 18 => (Some(XsetbvFault::X87Cleared), Some(XsetbvFault::TilesSplit)),
            _ => (Some(unsupported), Some(unsupported)),
        };
        assert_eq!(alone.err(), expected_alone, "bit {bit} alone");
        assert_eq!(with_x87.err(), expected_with, "bits 0 and {bit}");
    }
}

#[test]
fn rule_xs_06_the_named_groups() {
    use XsetbvFault::{
        Avx512Split, Avx512WithoutAvx, AvxWithoutSse, MpxSplit, TilesSplit, X87Cleared,
    };
    for (value, fault) in [
        (0, Some(X87Cleared)),
        (1, None),
        (SSE, None),
        (AVX, None),
        (0b101, Some(AvxWithoutSse)),
        (AVX512, None),
        (AVX512 & !0b100, Some(Avx512WithoutAvx)),
        (AVX512 & !0b010, Some(AvxWithoutSse)),
        (AVX | 1 << 5, Some(Avx512Split)),
        (AVX | 1 << 6, Some(Avx512Split)),
        (AVX | 1 << 7, Some(Avx512Split)),
        (AVX | 0b011 << 5, Some(Avx512Split)),
        (AVX | 0b101 << 5, Some(Avx512Split)),
        (AVX | 0b110 << 5, Some(Avx512Split)),
        (SSE | 0b01 << 3, Some(MpxSplit)),
        (SSE | 0b10 << 3, Some(MpxSplit)),
        (SSE | 0b11 << 3, None),
        (1 | TILES, None),
        (AVX512 | TILES, None),
        (AVX512 | 1 << 17, Some(TilesSplit)),
        (AVX512 | 1 << 18, Some(TilesSplit)),
        (OFFERED, None),
    ] {
        assert_eq!(xsetbv(value).err(), fault, "XCR0 = {value:#x}");
    }
}

#[test]
fn rule_xs_06_only_what_is_offered() {
    let avx = XFeatures::from_bits(AVX);
    assert_eq!(check_xsetbv(0, AVX, avx), Ok(avx));
    let unsupported = XsetbvFault::Unsupported(XFeatures::AVX512);
    assert_eq!(check_xsetbv(0, AVX512, avx), Err(unsupported));
}

#[test]
fn rule_xs_06_xcr0_is_the_only_register() {
    assert_eq!(
        check_xsetbv(1, 1, XFeatures::ALL),
        Err(XsetbvFault::NoSuchRegister(1))
    );
}

proptest! {
    #[test]
    fn rule_xs_06_no_other_register(index in 1_u32.., value: u64) {
        prop_assert_eq!(
            check_xsetbv(index, value, XFeatures::ALL),
            Err(XsetbvFault::NoSuchRegister(index))
        );
    }

    #[test]
    fn rule_xs_06_what_is_accepted_is_set_unchanged(value: u64, offered: u64) {
        let offered = XFeatures::from_bits(offered);
        if let Ok(accepted) = check_xsetbv(0, value & (OFFERED | offered.bits()), offered) {
            prop_assert_eq!(accepted.bits(), value & (OFFERED | offered.bits()));
            prop_assert!(offered.contains(accepted));
        }
    }

    #[test]
    fn rule_xs_06_xss_accepts_what_is_offered(value: u64, offered: u64) {
        let result = check_xss(value, XFeatures::from_bits(offered));
        if value & !offered == 0 {
            prop_assert_eq!(result, Ok(XFeatures::from_bits(value)));
        } else {
            prop_assert_eq!(result, Err(XFeatures::from_bits(value & !offered)));
        }
    }
}
