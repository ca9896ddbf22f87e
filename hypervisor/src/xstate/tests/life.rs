use super::made_up;
use crate::xstate::area::{OutOfMemory, REFUSE};
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::Allocation;
use crate::xstate::life::{LifeError, VcpuXstate};
use crate::xstate::permission::{Named, PermissionError};
use crate::xstate::xfd::XfdErrPolicy;

const POLICY: XfdErrPolicy = XfdErrPolicy::Intercept;

#[test]
fn rule_xs_04_each_wrong_order_is_its_own_error() {
    let layout = made_up::amx().layout();
    let mut permission = made_up::permission(&layout);
    let named = Named {
        user: permission.user(),
        supervisor: XFeatures::EMPTY,
        xfd: true,
        xsaves: true,
    };
    let offer = permission.offer(&layout, named).unwrap();

    let mut vcpu = VcpuXstate::create(&mut permission);
    let request = made_up::everything(&layout);
    assert_eq!(
        permission.change(&layout, &request),
        Err(PermissionError::Frozen)
    );
    assert_eq!(vcpu.container().err(), Some(LifeError::NotFinalized));
    assert_eq!(
        vcpu.finalize(&layout, Allocation::Static, POLICY),
        Err(LifeError::NotConfigured)
    );

    vcpu.configure(offer).unwrap();
    vcpu.configure(offer).unwrap();
    assert_eq!(vcpu.container().err(), Some(LifeError::NotFinalized));

    REFUSE.set(true);
    let refused = LifeError::OutOfMemory(OutOfMemory { bytes: 10752 });
    assert_eq!(
        vcpu.finalize(&layout, Allocation::Static, POLICY),
        Err(refused)
    );
    REFUSE.set(false);
    vcpu.finalize(&layout, Allocation::Static, POLICY).unwrap();
    assert_eq!(
        vcpu.container().map(|container| container.size()),
        Ok(10752)
    );
    assert_eq!(vcpu.configure(offer), Err(LifeError::AlreadyFinalized));
    assert_eq!(
        vcpu.finalize(&layout, Allocation::Static, POLICY),
        Err(LifeError::AlreadyFinalized)
    );
    assert!(vcpu.container().is_ok());
}
