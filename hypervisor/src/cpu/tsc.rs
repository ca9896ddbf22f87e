//! How fast the TSC ticks, as CPUID says (SDM Vol. 3, "Determining the
//! Processor Base Frequency" and "Time-Stamp Counter").

#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "reads the TSC"))]

use raw_cpuid::CpuIdReader;

const HIGHEST_LEAF: u32 = 0;
const CRYSTAL_LEAF: u32 = 0x15;
const FREQUENCY_LEAF: u32 = 0x16;

/// A TSC that no CPU reaches.
pub const NEVER: u64 = u64::MAX;

/// TSC ticks in a second; `None` where this CPU does not tell.
pub fn ticks_per_second(cpuid: &impl CpuIdReader) -> Option<u64> {
    let highest = cpuid.cpuid1(HIGHEST_LEAF).eax;
    if highest >= CRYSTAL_LEAF {
        let leaf = cpuid.cpuid1(CRYSTAL_LEAF);
        let [denominator, numerator, crystal] = [leaf.eax, leaf.ebx, leaf.ecx].map(u64::from);
        if denominator != 0 && numerator != 0 && crystal != 0 {
            return Some(crystal * numerator / denominator);
        }
    }
    if highest >= FREQUENCY_LEAF {
        let megahertz = u64::from(cpuid.cpuid1(FREQUENCY_LEAF).eax & 0xffff);
        return (megahertz != 0).then_some(megahertz * 1_000_000);
    }
    None
}

/// As [`ticks_per_second`]; where the CPU does not tell, more than any has, so that what
/// waits for a device waits long enough.
pub fn frequency(cpuid: &impl CpuIdReader) -> u64 {
    const GUESS: u64 = 5_000_000_000;
    ticks_per_second(cpuid).unwrap_or(GUESS)
}

/// TSC ticks in a microsecond, a part counted as one.
pub fn ticks_per_microsecond(cpuid: &impl CpuIdReader) -> u64 {
    frequency(cpuid).div_ceil(1_000_000)
}

/// TSC ticks for each tick of the crystal, which also drives the local APIC's
/// timer; one where the CPU does not tell.
pub fn ticks_per_crystal_tick(cpuid: &impl CpuIdReader) -> u64 {
    if cpuid.cpuid1(HIGHEST_LEAF).eax < CRYSTAL_LEAF {
        return 1;
    }
    let leaf = cpuid.cpuid1(CRYSTAL_LEAF);
    let ratio = leaf.ebx.checked_div(leaf.eax).unwrap_or(1);
    u64::from(ratio.max(1))
}

/// The TSC.
#[cfg(target_os = "none")]
#[inline]
pub fn now() -> u64 {
    // SAFETY: the instruction has no precondition.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raw_cpuid::CpuIdResult;

    #[derive(Clone)]
    struct Made {
        highest: u32,
        crystal: [u32; 3],
        megahertz: u32,
    }

    impl CpuIdReader for Made {
        fn cpuid2(&self, leaf: u32, _: u32) -> CpuIdResult {
            let [eax, ebx, ecx] = match leaf {
                HIGHEST_LEAF => [self.highest, 0, 0],
                CRYSTAL_LEAF => self.crystal,
                FREQUENCY_LEAF => [self.megahertz, 0, 0],
                _ => [0; 3],
            };
            CpuIdResult {
                eax,
                ebx,
                ecx,
                edx: 0,
            }
        }
    }

    #[test]
    fn the_crystal_wins_and_what_is_not_told_is_not_guessed() {
        let full = Made {
            highest: 0x20,
            crystal: [2, 176, 25_000_000],
            megahertz: 2000,
        };
        assert_eq!(ticks_per_second(&full), Some(2_200_000_000));
        assert_eq!(ticks_per_crystal_tick(&full), 88);
        let no_crystal = Made {
            crystal: [2, 176, 0],
            ..full.clone()
        };
        assert_eq!(ticks_per_second(&no_crystal), Some(2_000_000_000));
        assert_eq!(
            ticks_per_second(&Made {
                megahertz: 0,
                ..no_crystal.clone()
            }),
            None
        );
        assert_eq!(
            ticks_per_second(&Made {
                highest: 0x14,
                ..full
            }),
            None
        );
    }

    #[test]
    fn a_microsecond_is_rounded_and_a_second_is_not() {
        let uneven = Made {
            highest: 0x20,
            crystal: [1000, 95_776, 25_000_000],
            megahertz: 0,
        };
        assert_eq!(frequency(&uneven), 2_394_400_000);
        assert_eq!(ticks_per_microsecond(&uneven), 2395);
    }
}
