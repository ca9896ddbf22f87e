use super::made_up::{self, ALIGNED, DYNAMIC, MadeUp, SUPERVISOR, XSAVES, sub_leaf};
use crate::xstate::features::XFeatures;
use crate::xstate::layout::{Format, Layout};
use crate::xstate::malformed::{LayoutError, SubLeafFault};
use proptest::prelude::*;
use raw_cpuid::CpuIdResult;
use std::string::ToString;
use std::vec::Vec;

fn fault(cpu: &MadeUp) -> LayoutError {
    Layout::from_cpuid(cpu).unwrap_err()
}

proptest! {
    #[test]
    fn rule_xs_03_our_sizes_are_those_the_cpu_states(
        mut cpu in made_up::any(), xcr0: u64, xss: u64,
    ) {
        let layout = cpu.layout();
        cpu.xcr0 = xcr0 & cpu.user();
        cpu.xss = xss & cpu.supervisor();
        let set = XFeatures::from_bits(cpu.xcr0 | cpu.xss);
        prop_assert_eq!(layout.size(set, Format::Standard), cpu.standard_size(cpu.xcr0));
        prop_assert_eq!(layout.size(set, Format::Compacted), cpu.compacted_size(set.bits()));
        prop_assert_eq!(
            layout.check_current_sizes(
                &cpu, XFeatures::from_bits(cpu.xcr0), XFeatures::from_bits(cpu.xss)),
            Ok(())
        );
    }

    #[test]
    fn rule_xs_03_places_are_aligned_ordered_and_dense(cpu in made_up::any(), set: u64) {
        let layout = cpu.layout();
        let set = XFeatures::from_bits(set);
        let mut end = 576;
        for placed in layout.walk(set, Format::Compacted) {
            let leaf = cpu.sub_leaves.iter().find(|leaf| leaf.number == placed.number).unwrap();
            let gap = placed.offset - end;
            if leaf.flags & ALIGNED == 0 {
                prop_assert_eq!(gap, 0);
            } else {
                prop_assert!(placed.offset % 64 == 0 && gap < 64);
            }
            prop_assert_eq!(placed.size, leaf.size);
            end = placed.offset + placed.size;
        }
        prop_assert_eq!(layout.size(set, Format::Compacted), end);
        let legacy = XFeatures::X87 | XFeatures::SSE;
        let extended = (layout.user() | layout.supervisor()) - legacy;
        let expected: Vec<u8> = (set & extended).numbers().collect();
        let walked: Vec<u8> = layout.walk(set, Format::Compacted).map(|p| p.number).collect();
        prop_assert_eq!(walked, expected);
    }

    #[test]
    fn no_cpuid_makes_it_panic(eax: u32, ebx: u32, ecx: u32, edx: u32, other: u32) {
        let cpu = |leaf: u32, sub: u32| {
            let mix = if sub.is_multiple_of(2) { eax } else { other };
            CpuIdResult { eax: mix ^ leaf, ebx: ebx ^ sub, ecx, edx }
        };
        if let Ok(layout) = Layout::from_cpuid(&cpu) {
            prop_assert!(layout.size(XFeatures::ALL, Format::Compacted) >= 576);
        }
    }
}

#[test]
fn case_5_alignment_counts_in_the_sapphire_rapids_set() {
    // With PASID (8 bytes) before the tiles, as on silicon.
    let mut cpu = made_up::amx();
    cpu.sub_leaves.push(sub_leaf(10, 8, 0, SUPERVISOR));
    let set = XFeatures::from_bits(cpu.user() | cpu.supervisor());
    assert_eq!(cpu.layout().size(set, Format::Compacted), 10752);
    for leaf in &mut cpu.sub_leaves {
        leaf.flags &= !ALIGNED;
    }
    assert_eq!(cpu.layout().size(set, Format::Compacted), 10704);
}

#[test]
fn case_7_size_is_neither_a_page_nor_that_of_the_other_format() {
    let layout = made_up::amx().layout();
    let user = layout.user();
    assert_eq!(layout.size(user, Format::Standard), 11008);
    assert_eq!(layout.size(user, Format::Compacted), 10752);
    let future = made_up::future().layout();
    let apx = XFeatures::single(19) | XFeatures::AVX512;
    // Highest by number, not by offset.
    assert_eq!(future.size(apx, Format::Standard), 1664 + 1024);
    assert_eq!(
        future.size(XFeatures::single(19), Format::Standard),
        960 + 128
    );
}

#[test]
fn what_exists_is_what_cpuid_reports() {
    let amx = made_up::amx().layout();
    assert_eq!(amx.dynamic(), XFeatures::TILE_DATA);
    assert_eq!(amx.format(), Format::Compacted);
    assert_eq!(made_up::amx_xsaveopt().layout().format(), Format::Standard);
    assert_eq!(made_up::amx_xsavec().layout().format(), Format::Compacted);
    let future = made_up::future().layout();
    assert_eq!(
        future.dynamic(),
        XFeatures::TILE_DATA | XFeatures::single(40)
    );
    assert_eq!(future.supervisor(), XFeatures::CET);
    // ECX[2] of a component means nothing on a CPU without XFD.
    let mut cpu = made_up::amx();
    cpu.extensions -= made_up::XFD;
    assert_eq!(cpu.layout().dynamic(), XFeatures::EMPTY);
    assert_eq!(
        made_up::sse_only()
            .layout()
            .size(XFeatures::ALL, Format::Standard),
        576
    );
}

#[test]
fn without_xsaves_there_is_no_supervisor_state() {
    let mut cpu = made_up::amx_with_cet();
    cpu.extensions -= XSAVES;
    assert_eq!(cpu.layout().supervisor(), XFeatures::EMPTY);
}

#[test]
fn contradictions_are_named_with_their_sub_leaf() {
    let with = |leaf| {
        let mut cpu = made_up::amx();
        cpu.sub_leaves.push(leaf);
        fault(&cpu)
    };
    let cases = [
        (sub_leaf(30, 0, 12000, 0), SubLeafFault::NoSize),
        (
            sub_leaf(30, 8, 100, 0),
            SubLeafFault::InsideLegacyOrHeader { offset: 100 },
        ),
        (
            sub_leaf(30, 64, 600, 0),
            SubLeafFault::Overlaps { other: 2 },
        ),
        (
            sub_leaf(30, u32::MAX - 100, 12000, 0),
            SubLeafFault::TooLarge,
        ),
        (
            sub_leaf(30, u32::MAX - 11100, 11008, 0),
            SubLeafFault::TooLarge,
        ),
    ];
    for (leaf, fault) in cases {
        assert_eq!(with(leaf), LayoutError::SubLeaf { number: 30, fault });
    }
    assert_eq!(
        with(sub_leaf(30, 0, 12000, 0)).to_string(),
        "CPUID.(0xd,30): a supported component of size 0"
    );

    let twice = |leaf, sub| {
        let mut result = raw_cpuid::CpuIdReader::cpuid2(&made_up::amx_with_cet(), leaf, sub);
        if (leaf, sub) == (0xd, 1) {
            result.ecx |= 1 << 2;
        }
        result
    };
    let both = XFeatures::AVX;
    assert_eq!(
        Layout::from_cpuid(&twice).unwrap_err(),
        LayoutError::UserAndSupervisor { both }
    );

    let kind = |leaf, sub| {
        let mut result = raw_cpuid::CpuIdReader::cpuid2(&made_up::amx(), leaf, sub);
        if (leaf, sub) == (0xd, 18) {
            result.ecx |= SUPERVISOR | DYNAMIC;
        }
        result
    };
    let fault = SubLeafFault::KindDisagrees;
    assert_eq!(
        Layout::from_cpuid(&kind).unwrap_err(),
        LayoutError::SubLeaf { number: 18, fault }
    );

    let too_small = |leaf, sub| {
        let mut result = raw_cpuid::CpuIdReader::cpuid2(&made_up::amx(), leaf, sub);
        if (leaf, sub) == (0xd, 0) {
            result.ecx = 4096;
        }
        result
    };
    assert_eq!(
        Layout::from_cpuid(&too_small).unwrap_err(),
        LayoutError::StandardSize {
            reported: 4096,
            computed: 11008
        }
    );
}

#[test]
fn a_cpu_without_xsave_is_told_apart() {
    let without = |leaf: u32, _: u32| CpuIdResult {
        eax: if leaf == 0 { 0xa } else { 0 },
        ebx: 0,
        ecx: 0,
        edx: 0,
    };
    assert_eq!(
        Layout::from_cpuid(&without).unwrap_err(),
        LayoutError::NoXsave
    );
    let short = |leaf: u32, _: u32| CpuIdResult {
        eax: if leaf == 0 { 0xa } else { 0 },
        ebx: 0,
        ecx: 1 << 26,
        edx: 0,
    };
    assert_eq!(
        Layout::from_cpuid(&short).unwrap_err(),
        LayoutError::NoLeaf { highest: 0xa }
    );
}
