use super::made_up;
use crate::xstate::features::XFeatures;
use crate::xstate::permission::{Named, Permission, PermissionError, Refused, Request, Vector};
use std::string::ToString;

const PLAIN: Request = Request {
    vector: Vector::Avx512,
    beyond_vectors: XFeatures::EMPTY,
    supervisor: XFeatures::EMPTY,
};

fn asking(beyond_vectors: XFeatures) -> Request {
    Request {
        beyond_vectors,
        ..PLAIN
    }
}

#[test]
fn rule_xs_01_permission_follows_the_request() {
    let layout = made_up::amx().layout();
    let sse = XFeatures::X87 | XFeatures::SSE | XFeatures::PKRU;
    for (vector, user) in [
        (Vector::Sse, sse),
        (Vector::Avx, sse | XFeatures::AVX),
        (Vector::Avx512, sse | XFeatures::AVX | XFeatures::AVX512),
    ] {
        let request = Request { vector, ..PLAIN };
        let permission = Permission::check(&layout, &request).unwrap();
        assert_eq!(permission.user(), user);
        assert_eq!(permission.dynamic(), XFeatures::EMPTY);
        let request = Request {
            vector,
            ..asking(XFeatures::TILES)
        };
        let permission = Permission::check(&layout, &request).unwrap();
        assert_eq!(permission.user(), user | XFeatures::TILES);
        assert_eq!(permission.dynamic(), XFeatures::TILE_DATA);
    }
}

#[test]
fn case_6_half_of_the_tiles_is_refused() {
    let layout = made_up::amx().layout();
    for half in [XFeatures::TILE_CONFIG, XFeatures::TILE_DATA] {
        assert_eq!(
            Permission::check(&layout, &asking(half)),
            Err(PermissionError::HalfOfTiles)
        );
    }
}

#[test]
fn what_the_cpu_lacks_is_named() {
    let error = Permission::check(&made_up::avx512().layout(), &asking(XFeatures::TILES));
    assert_eq!(error, Err(PermissionError::Lacking(XFeatures::TILES)));
    assert_eq!(
        error.unwrap_err().to_string(),
        "this CPU does not have: TILECFG, TILEDATA"
    );
    let error = Permission::check(&made_up::sse_only().layout(), &PLAIN);
    let vectors = XFeatures::AVX | XFeatures::AVX512;
    assert_eq!(error, Err(PermissionError::Lacking(vectors)));
}

#[test]
fn what_the_machine_needs_itself_is_not_given_away() {
    let mut cpu = made_up::future();
    let hwp = XFeatures::single(16);
    cpu.sub_leaves
        .push(made_up::sub_leaf(16, 8, 0, made_up::SUPERVISOR));
    let request = Request {
        supervisor: hwp | XFeatures::CET,
        ..PLAIN
    };
    assert_eq!(
        Permission::check(&cpu.layout(), &request),
        Err(PermissionError::NotVirtualised(hwp))
    );
    // A component that XFD cannot disable is no matter of permission.
    let apx = XFeatures::single(19);
    assert_eq!(
        Permission::check(&cpu.layout(), &asking(apx)),
        Err(PermissionError::NotVirtualised(apx))
    );
    // One that it can is, at whatever number.
    let future = XFeatures::single(40);
    let permission = Permission::check(&cpu.layout(), &asking(future)).unwrap();
    assert_eq!(permission.dynamic(), future);
}

#[test]
fn rule_xs_04_permission_is_frozen_by_the_first_vcpu() {
    let layout = made_up::amx().layout();
    let mut permission = Permission::check(&layout, &PLAIN).unwrap();
    permission
        .change(&layout, &asking(XFeatures::TILES))
        .unwrap();
    assert_eq!(permission.dynamic(), XFeatures::TILE_DATA);
    // A failed change leaves the old one.
    let before = permission;
    permission
        .change(&layout, &asking(XFeatures::TILE_DATA))
        .unwrap_err();
    assert_eq!(permission, before);
    permission.freeze();
    let frozen = permission;
    assert_eq!(
        permission.change(&layout, &PLAIN),
        Err(PermissionError::Frozen)
    );
    assert_eq!(permission, frozen);
}

#[test]
fn rule_xs_02_all_that_is_missing_is_listed() {
    let layout = made_up::amx_xsavec().layout();
    let permission = Permission::check(&layout, &PLAIN).unwrap();
    let named = Named {
        user: permission.user() | XFeatures::TILE_DATA | XFeatures::single(40),
        supervisor: XFeatures::CET,
        xfd: true,
        xsaves: true,
    };
    let refused = permission.offer(&layout, named).unwrap_err();
    assert_eq!(
        refused,
        Refused {
            not_permitted: XFeatures::TILE_DATA | XFeatures::single(40) | XFeatures::CET,
            half_of_tiles: true,
            xfd: true,
            xsaves: true,
        }
    );
    assert_eq!(
        refused.to_string(),
        "CPUID leaf 0xd names what the VM may not use: CET_U, CET_S, TILEDATA, component 40 \
         (not permitted); one tile component without the other; XFD without a component it \
         could disable; XSAVES, which this CPU does not have"
    );
}

#[test]
fn rule_xs_02_less_than_permitted_may_be_named() {
    let layout = made_up::amx().layout();
    let permission = made_up::permission(&layout);
    let named = Named {
        user: XFeatures::X87 | XFeatures::TILES,
        supervisor: XFeatures::EMPTY,
        xfd: false,
        xsaves: true,
    };
    let offer = permission.offer(&layout, named).unwrap();
    assert_eq!(offer.user(), XFeatures::X87 | XFeatures::TILES);
    assert_eq!(offer.dynamic(), XFeatures::TILE_DATA);
    // Dynamic to us, but not to a guest that has no XFD.
    assert_eq!(offer.xfd(), XFeatures::EMPTY);
}
