//! Joining and splitting EDX:EAX: the only place where halves meet.
//!
//! RDMSR, WRMSR, XGETBV, XSETBV and CPUID all pass 64-bit values in two
//! registers. Joined by hand, one of many places sooner or later takes the
//! wrong half or forgets to cut off the upper bits of a 64-bit register.

/// The 64-bit value whose upper half is `edx` and whose lower half is `eax`.
#[must_use]
pub const fn join(edx: u32, eax: u32) -> u64 {
    ((edx as u64) << 32) | eax as u64
}

/// The halves of `value`, in the order of [`join`]: EDX, EAX.
#[must_use]
pub const fn split(value: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
    let eax = value as u32;
    ((value >> 32) as u32, eax)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn split_undoes_join(edx: u32, eax: u32) {
            prop_assert_eq!(split(join(edx, eax)), (edx, eax));
        }
    }

    #[test]
    fn edx_is_the_upper_half() {
        assert_eq!(join(1, 2), 0x1_0000_0002);
    }
}
