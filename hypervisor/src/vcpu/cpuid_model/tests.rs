use super::CpuidModel;
use super::check::{Entry, Missing};
use super::features::{OFFERED, Word};
use super::supported::Topology;
use crate::xstate::features::XFeatures;
use crate::xstate::layout::{Format, Layout};
use crate::xstate::permission::{Permission, Request, Vector};
use crate::xstate::tests::made_up::{self, MadeUp};
use proptest::prelude::*;
use raw_cpuid::{CpuIdReader, CpuIdResult};
use std::string::ToString;
use std::vec::Vec;

const ONE: Topology = Topology {
    vcpus: 1,
    apic_id: 0,
};

fn request(vector: Vector, amx: bool) -> Request {
    Request {
        vector,
        beyond_vectors: if amx {
            XFeatures::TILES
        } else {
            XFeatures::EMPTY
        },
        supervisor: XFeatures::EMPTY,
    }
}

struct Offered {
    layout: Layout,
    permission: Permission,
    model: CpuidModel,
}

fn offered(cpu: &MadeUp, request: &Request, topology: Topology) -> Offered {
    let layout = cpu.layout();
    let permission = Permission::check(&layout, request).unwrap();
    let model = CpuidModel::supported(cpu, &layout, &permission, topology);
    Offered {
        layout,
        permission,
        model,
    }
}

fn amx(vector: Vector, amx: bool) -> CpuidModel {
    offered(&made_up::amx(), &request(vector, amx), ONE).model
}

/// The features that are shown, by name.
fn shown(model: &CpuidModel) -> Vec<&'static str> {
    let mut names = Vec::new();
    for group in OFFERED {
        let word = model.word(group.word);
        let bits = group.bits.iter();
        names.extend(bits.filter(|(bit, _)| word & 1 << bit != 0).map(|b| b.1));
    }
    names
}

#[test]
fn rule_xs_01_no_trace_of_amx_without_permission() {
    let without = amx(Vector::Avx512, false);
    assert!(!shown(&without).iter().any(|name| name.contains("AMX")));
    for leaf in [0x1d, 0x1e] {
        for sub in 0..3 {
            assert_eq!(without.lookup(leaf, sub), super::NOTHING);
        }
    }
    for sub in [17, 18] {
        assert_eq!(without.lookup(0xd, sub), super::NOTHING);
    }
    assert_eq!(without.lookup(0xd, 0).eax, 0x2e7);
    assert_eq!(without.lookup(0xd, 0).ecx, 2696);
    // XFD goes with the last dynamic component.
    assert_eq!(without.lookup(0xd, 1).eax, 0xf);

    let with = amx(Vector::Avx512, true);
    let names = shown(&with);
    for name in ["AMX-BF16", "AMX-TILE", "AMX-INT8", "AMX-FP16"] {
        assert!(names.contains(&name), "{name}");
    }
    let host = made_up::amx();
    for (leaf, sub) in [(0x1d, 0), (0x1d, 1), (0x1e, 0), (0xd, 17), (0xd, 18)] {
        assert_eq!(with.lookup(leaf, sub), host.cpuid2(leaf, sub));
    }
    assert_eq!(with.lookup(0xd, 0).eax, 0x602e7);
    assert_eq!(with.lookup(0xd, 0).ecx, 11008);
    assert_eq!(with.lookup(0xd, 1).eax, 0x1f);
}

#[test]
fn rule_xs_01_vectors_are_as_wide_as_configured() {
    for (vector, xcr0) in [
        (Vector::Sse, 0x203),
        (Vector::Avx, 0x207),
        (Vector::Avx512, 0x2e7),
    ] {
        let model = amx(vector, false);
        assert_eq!(model.lookup(0xd, 0).eax, xcr0);
        let names = shown(&model);
        let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        assert_eq!(has("AVX512"), vector == Vector::Avx512);
        for name in ["AVX", "AVX2", "FMA", "F16C", "VAES", "AVX-VNNI", "SHA512"] {
            assert_eq!(names.contains(&name), vector >= Vector::Avx, "{name}");
        }
        assert!(names.contains(&"AES") && names.contains(&"PKU"));
    }
}

#[test]
fn rule_xs_01_what_nobody_models_is_not_shown() {
    let model = amx(Vector::Avx512, true);
    let leaf_1 = model.lookup(1, 0);
    // MONITOR, VMX, SMX, EIST, PDCM in ECX; MCE, MTRR, MCA, DS, ACPI in EDX.
    for bit in [2, 3, 5, 6, 7, 11, 15] {
        assert_eq!(leaf_1.ecx >> bit & 1, 0, "ECX {bit}");
    }
    for bit in [7, 12, 14, 21, 22, 28, 29] {
        assert_eq!(leaf_1.edx >> bit & 1, 0, "EDX {bit}");
    }
    let leaf_7 = model.lookup(7, 0);
    // TSC_ADJUST, SGX, HLE, RTM, MPX, PT; WAITPKG, CET, LA57, PKS; UINTR,
    // PCONFIG, IBT, speculation control, ARCH_CAPABILITIES.
    for bit in [1, 2, 4, 11, 14, 25] {
        assert_eq!(leaf_7.ebx >> bit & 1, 0, "EBX {bit}");
    }
    for bit in [5, 7, 16, 31] {
        assert_eq!(leaf_7.ecx >> bit & 1, 0, "ECX {bit}");
    }
    for bit in [5, 18, 20, 26, 27, 29, 31] {
        assert_eq!(leaf_7.edx >> bit & 1, 0, "EDX {bit}");
    }
    // LAM, FRED.
    assert_eq!(model.lookup(7, 1).eax & (1 << 26 | 1 << 17), 0);
    for leaf in [3, 5, 9, 0xa, 0xf, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1a, 0x1c] {
        assert_eq!(model.lookup(leaf, 0), super::NOTHING, "leaf {leaf:#x}");
    }
    assert_eq!(model.lookup(6, 0).eax, 1 << 2);
    assert_eq!(model.lookup(0x8000_0008, 0).eax, 48 << 8 | 0x34);
}

#[test]
fn a_guest_knows_its_hypervisor_and_its_timer() {
    // Even on a host that lacks them, because they are emulated.
    let mut host = made_up::amx();
    host.xcr0 = 1;
    let plain = |leaf: u32, sub: u32| {
        let mut answer = host.cpuid2(leaf, sub);
        if leaf == 1 {
            answer.ecx = 1 << 26;
        }
        answer
    };
    let layout = Layout::from_cpuid(&plain).unwrap();
    let permission = Permission::check(&layout, &request(Vector::Sse, false)).unwrap();
    let model = CpuidModel::supported(&plain, &layout, &permission, ONE);
    assert_eq!(
        model.lookup(1, 0).ecx,
        1 << 31 | 1 << 26 | 1 << 24 | 1 << 21
    );
    let leaf = model.lookup(0x4000_0000, 0);
    let mut signature = Vec::new();
    for register in [leaf.ebx, leaf.ecx, leaf.edx] {
        signature.extend(register.to_le_bytes());
    }
    assert_eq!(signature, b"Tilevisor\0\0\0");
    assert_eq!(leaf.eax, 0x4000_0000);
}

#[test]
fn leaves_out_of_range_answer_like_the_highest() {
    let model = amx(Vector::Avx512, true);
    assert_eq!(model.lookup(0, 0).eax, 0x1f);
    for sub in 0..3 {
        let highest = model.lookup(0x1f, sub);
        assert_ne!(highest.ecx, 0);
        for leaf in [0x20, 0x3fff_ffff, 0x4000_0001, 0x8000_0009, u32::MAX] {
            assert_eq!(model.lookup(leaf, sub), highest, "leaf {leaf:#x}");
        }
    }
    // A host that ends earlier.
    let host = |leaf: u32, sub: u32| {
        let mut answer = made_up::amx().cpuid2(leaf, sub);
        if leaf == 0 {
            answer.eax = 0x16;
        }
        answer
    };
    let layout = Layout::from_cpuid(&host).unwrap();
    let permission = made_up::permission(&layout);
    let model = CpuidModel::supported(&host, &layout, &permission, ONE);
    assert_eq!(model.lookup(0, 0).eax, 0x16);
    assert_eq!(model.lookup(0x1d, 1), model.lookup(0x16, 0));
}

#[test]
fn each_vcpu_finds_its_place() {
    let topology = Topology {
        vcpus: 3,
        apic_id: 2,
    };
    let model = offered(&made_up::amx(), &request(Vector::Avx, false), topology).model;
    let leaf_1 = model.lookup(1, 0);
    assert_eq!(leaf_1.ebx, 2 << 24 | 4 << 16 | 0x800);
    assert_eq!(leaf_1.edx >> 28 & 1, 1);
    for leaf in [0xb, 0x1f] {
        let [thread, core, none] = [0, 1, 2].map(|sub| model.lookup(leaf, sub));
        assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, 1 << 8));
        assert_eq!((core.eax, core.ebx, core.ecx), (2, 3, 2 << 8 | 1));
        // No such level: ECX[7:0] comes back, EDX as ever.
        assert_eq!((none.eax, none.ebx, none.ecx, none.edx), (0, 0, 2, 2));
        assert_eq!((thread.edx, core.edx), (2, 2));
        assert_eq!(model.lookup(leaf, 0x1234).ecx, 0x34);
    }
    // Caches: private to a core but for the last level.
    let sharing = |sub| model.lookup(4, sub).eax >> 14 & 0xfff;
    assert_eq!([0, 1, 2, 3].map(sharing), [0, 0, 0, 3]);
    assert_eq!(model.lookup(4, 0).eax >> 26, 3);
    assert_eq!(model.lookup(4, 4), super::NOTHING);
}

#[test]
fn control_register_bits_follow_and_are_followed() {
    const OSXSAVE: u32 = 1 << 27;
    const OSPKE: u32 = 1 << 4;
    let mut model = amx(Vector::Avx, false);
    let bits = |model: &CpuidModel| {
        (
            model.lookup(1, 0).ecx & OSXSAVE,
            model.lookup(7, 0).ecx & OSPKE,
        )
    };
    assert_eq!(bits(&model), (0, 0));
    model.set_cr4(true, false);
    assert_eq!(bits(&model), (OSXSAVE, 0));
    model.set_cr4(false, true);
    assert_eq!(bits(&model), (0, OSPKE));

    // All but MCE, VMXE, SMXE, LA57, CET, PKS, UINTR.
    assert_eq!(model.offered_cr4(), 0x77_0fbf);
    let sse = offered(&made_up::sse_only(), &request(Vector::Sse, false), ONE);
    // No PKRU, no PKE.
    assert_eq!(sse.model.offered_cr4(), 0x37_0fbf);
}

proptest! {
    #[test]
    fn rule_xs_03_sizes_follow_xcr0_and_xss(kind in 0..6_usize, xcr0: u64, xss: u64) {
        let cpu = made_up::all_with_tiles().swap_remove(kind);
        let mut offered = offered(&cpu, &made_up::everything(&cpu.layout()), ONE);
        let xcr0 = xcr0 & offered.permission.user().bits();
        let xss = xss & offered.permission.supervisor().bits();
        offered.model.set_xstate(XFeatures::from_bits(xcr0), XFeatures::from_bits(xss));
        prop_assert_eq!(offered.model.lookup(0xd, 0).ebx, cpu.standard_size(xcr0));
        let compacted = if offered.layout.format() == Format::Compacted {
            cpu.compacted_size(xcr0 | xss)
        } else {
            0
        };
        prop_assert_eq!(offered.model.lookup(0xd, 1).ebx, compacted);
    }

    #[test]
    fn rule_xs_01_what_is_offered_is_a_cpu_without_contradictions(
        cpu in made_up::any(), vcpus in 1_u32..9,
    ) {
        let layout = cpu.layout();
        let request = Request {
            vector: Vector::Sse,
            beyond_vectors: layout.dynamic() - XFeatures::TILES,
            supervisor: layout.supervisor() & XFeatures::CET,
        };
        let permission = Permission::check(&layout, &request).unwrap();
        let topology = Topology { vcpus, apic_id: 0 };
        let model = CpuidModel::supported(&cpu, &layout, &permission, topology);
        let seen = |leaf, sub| model.lookup(leaf, sub);
        let guest = Layout::from_cpuid(&seen).unwrap();
        prop_assert_eq!(guest.user(), permission.user());
        prop_assert_eq!(guest.supervisor(), permission.supervisor());
        prop_assert_eq!(guest.dynamic(), permission.dynamic());
        prop_assert_eq!(guest.extensions().xfd, !permission.dynamic().is_empty());
        prop_assert_eq!(
            guest.check_current_sizes(&seen, XFeatures::X87, XFeatures::EMPTY), Ok(()));
        // And it is accepted as it stands.
        let (_, offer) = model.changed(&layout, &permission, &[]).unwrap();
        prop_assert_eq!(offer.user(), permission.user());
    }
}

fn entry(leaf: u32, sub_leaf: u32, answer: CpuIdResult) -> Entry {
    Entry {
        leaf,
        sub_leaf,
        answer,
    }
}

#[test]
fn rule_xs_02_a_cpuid_that_names_too_much_is_refused_with_the_list() {
    let offered = offered(&made_up::amx(), &request(Vector::Avx, false), ONE);
    let model = &offered.model;
    let mut leaf_7 = model.lookup(7, 0);
    leaf_7.edx |= 1 << 24 | 1 << 5;
    let mut main = model.lookup(0xd, 0);
    main.eax |= 1 << 18;
    let mut second = model.lookup(0xd, 1);
    second.eax |= 1 << 4;
    let mut tile_data = super::NOTHING;
    tile_data.eax = 4096;
    let entries = [
        entry(7, 0, leaf_7),
        entry(0xd, 0, main),
        entry(0xd, 1, second),
        entry(0xd, 18, tile_data),
        entry(0x30, 0, super::NOTHING),
    ];
    let missing = model
        .changed(&offered.layout, &offered.permission, &entries)
        .map(|_| ())
        .unwrap_err();
    let texts: Vec<_> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "no leaf (0x30,0)",
            "CPUID.(0x7,0):Edx[5] is not supported",
            "CPUID.(0x7,0):Edx[24] (AMX-TILE) is not supported",
            "CPUID.(0xd,1):Eax[4] is not supported",
            "AMX-TILE needs TILECFG",
            "CPUID.(0xd,18) is not that of this CPU",
            "CPUID leaf 0xd names what the VM may not use: TILEDATA (not permitted); one tile \
             component without the other; XFD without a component it could disable",
        ]
    );
}

#[test]
fn rule_xs_02_less_may_be_named_if_it_is_consistent() {
    let offered = offered(&made_up::amx(), &request(Vector::Avx512, true), ONE);
    let model = &offered.model;
    let mut main = model.lookup(0xd, 0);
    main.eax = 0b11;
    let only_xcr0 = [entry(0xd, 0, main)];
    let missing = model
        .changed(&offered.layout, &offered.permission, &only_xcr0)
        .map(|_| ())
        .unwrap_err();
    let lacks = XFeatures::AVX;
    let name = "AVX2";
    assert!(missing.contains(&Missing::Components { name, lacks }));

    let clear = |word: Word| {
        let mut answer = model.lookup(word.leaf, word.sub_leaf);
        for group in OFFERED {
            let same = (group.word.leaf, group.word.sub_leaf) == (word.leaf, word.sub_leaf);
            if same && !group.needs.is_empty() {
                let mask = group.bits.iter().fold(0, |mask, bit| mask | 1 << bit.0);
                match group.word.register {
                    super::Register::Eax => answer.eax &= !mask,
                    super::Register::Ebx => answer.ebx &= !mask,
                    super::Register::Ecx => answer.ecx &= !mask,
                    super::Register::Edx => answer.edx &= !mask,
                }
            }
        }
        entry(word.leaf, word.sub_leaf, answer)
    };
    let mut entries: Vec<_> = OFFERED.iter().map(|group| clear(group.word)).collect();
    let mut second = model.lookup(0xd, 1);
    second.eax &= !(1 << 4);
    entries.extend([entry(0xd, 0, main), entry(0xd, 1, second)]);
    let (changed, offer) = model
        .changed(&offered.layout, &offered.permission, &entries)
        .unwrap();
    assert_eq!(offer.user(), XFeatures::X87 | XFeatures::SSE);
    // Rule xs-03: leaf 0xD is brought in line.
    assert_eq!(changed.lookup(0xd, 0).ecx, 576);
    assert_eq!(changed.lookup(0xd, 18), super::NOTHING);
    let seen = |leaf, sub| changed.lookup(leaf, sub);
    assert_eq!(Layout::from_cpuid(&seen).unwrap().user(), offer.user());
}
