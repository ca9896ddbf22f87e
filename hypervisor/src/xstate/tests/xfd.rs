use super::made_up::{self, vcpu};
use crate::xstate::area::{OutOfMemory, REFUSE};
use crate::xstate::events::{GuestFault, Outcome};
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Allocation, Fpstate, GrowError};
use crate::xstate::layout::{Format, Layout};
use crate::xstate::model::{Event, Model};
use crate::xstate::registers::XMsr;
use crate::xstate::swap::CpuXstate;
use crate::xstate::xfd::{Interception, XfdErrPolicy, XfdFault};

const TILE_DATA: u64 = 1 << 18;
const TILES: XFeatures = XFeatures::TILE_DATA;
const NONE: XFeatures = XFeatures::EMPTY;

struct Guest {
    layout: Layout,
    cpu: CpuXstate<Model>,
    vcpu: Fpstate,
}

impl Guest {
    /// One that is current, has enabled all of XCR0, and has an empty log.
    fn new(cpu: &made_up::MadeUp, allocation: Allocation, policy: XfdErrPolicy) -> Self {
        let layout = cpu.layout();
        let mut guest = Self {
            cpu: CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap(),
            vcpu: vcpu(&layout, allocation, policy),
            layout,
        };
        guest.cpu.make_current(None, &mut guest.vcpu).unwrap();
        if allocation == Allocation::Static {
            let all = guest.vcpu.offer().user();
            let outcome = guest.cpu.xsetbv(&mut guest.vcpu, 0, all.bits());
            assert_eq!(outcome, Ok(Outcome::Done));
        }
        guest.cpu.registers.log.clear();
        guest
    }

    fn amx(policy: XfdErrPolicy) -> Self {
        Self::new(&made_up::amx(), Allocation::Static, policy)
    }

    fn write(&mut self, msr: XMsr, value: u64) -> Result<Outcome, GuestFault> {
        self.cpu.write_msr(&mut self.vcpu, msr, value)
    }

    fn read(&self, msr: XMsr) -> Result<u64, GuestFault> {
        self.cpu.read_msr(&self.vcpu, msr)
    }

    fn enter(&mut self) {
        self.cpu.before_entry(&mut self.vcpu);
    }

    fn exit(&mut self) {
        self.cpu.after_exit(&mut self.vcpu);
    }

    fn error(&self) -> XFeatures {
        self.cpu.registers.xfd_err
    }

    /// Arms, uses a tile, and takes the #NM exit.
    fn take_nm(&mut self) {
        assert!(self.write(XMsr::Xfd, TILE_DATA).is_ok());
        self.enter();
        assert_eq!(self.cpu.registers.guest_writes(18, 1), Err("#NM"));
        self.exit();
        self.cpu.on_nm(&mut self.vcpu);
    }
}

#[test]
fn rule_xs_07_each_bit_of_both_msrs() {
    let mut guest = Guest::new(
        &made_up::future(),
        Allocation::Static,
        XfdErrPolicy::Intercept,
    );
    for msr in [XMsr::Xfd, XMsr::XfdErr] {
        for bit in 0..64_u8 {
            let result = guest.write(msr, 1 << bit);
            if bit == 18 || bit == 40 {
                assert!(result.is_ok(), "{msr:?} bit {bit}");
                assert_eq!(guest.read(msr), Ok(1 << bit));
            } else {
                let reserved = XFeatures::single(bit);
                let fault = GuestFault::Xfd(XfdFault::Reserved(reserved));
                assert_eq!(result, Err(fault), "{msr:?} bit {bit}");
            }
            assert!(guest.write(msr, 0).is_ok());
        }
        assert!(guest.write(msr, 1 << 40 | TILE_DATA).is_ok());
        assert!(guest.write(msr, 1 << 40 | TILE_DATA | 2).is_err());
        // A refused write changes nothing.
        assert_eq!(guest.read(msr), Ok(1 << 40 | TILE_DATA));
    }
}

#[test]
fn rule_xs_07_no_xfd_without_cpuid() {
    let no_xfd = Err(GuestFault::Xfd(XfdFault::NoXfd));
    let mut guest = Guest::new(
        &made_up::avx512(),
        Allocation::Static,
        XfdErrPolicy::Intercept,
    );
    for msr in [XMsr::Xfd, XMsr::XfdErr] {
        assert_eq!(guest.read(msr).map(|_| Outcome::Done), no_xfd);
        assert_eq!(guest.write(msr, 0), no_xfd);
    }
    let mut guest = Guest::new(
        &made_up::amx_xsavec(),
        Allocation::Static,
        XfdErrPolicy::Intercept,
    );
    assert_eq!(guest.read(XMsr::Xss), Err(GuestFault::NoXss));
    assert_eq!(guest.write(XMsr::Xss, 0), Err(GuestFault::NoXss));
}

#[test]
fn rule_xs_06_xss_reaches_the_register_when_it_is_allowed() {
    let mut guest = Guest::new(
        &made_up::amx_with_cet(),
        Allocation::Static,
        XfdErrPolicy::Intercept,
    );
    for bit in 0..64_u8 {
        let allowed = XFeatures::CET.contains(XFeatures::single(bit));
        let result = guest.write(XMsr::Xss, 1 << bit);
        assert_eq!(result.is_ok(), allowed, "bit {bit}");
    }
    assert!(guest.write(XMsr::Xss, XFeatures::CET.bits()).is_ok());
    assert_eq!(guest.cpu.registers.xss, XFeatures::CET);
    assert_eq!(guest.read(XMsr::Xss), Ok(XFeatures::CET.bits()));
}

#[test]
fn rule_xs_07_interception_ends_with_the_first_non_zero_xfd() {
    for (policy, nm) in [
        (XfdErrPolicy::Intercept, true),
        (XfdErrPolicy::Switch, false),
    ] {
        let mut guest = Guest::amx(policy);
        assert_eq!(guest.vcpu.new_interception(), None);
        assert_eq!(guest.write(XMsr::Xfd, 0), Ok(Outcome::Done));
        assert_eq!(guest.write(XMsr::XfdErr, TILE_DATA), Ok(Outcome::Done));
        assert_eq!(guest.write(XMsr::XfdErr, 0), Ok(Outcome::Done));
        let open = Interception {
            xfd: false,
            xfd_err: false,
            nm,
        };
        assert_eq!(
            guest.write(XMsr::Xfd, TILE_DATA),
            Ok(Outcome::Intercept(open))
        );
        assert_eq!(guest.cpu.registers.xfd, TILES);
        assert_eq!(guest.vcpu.new_interception(), None);
        guest.vcpu.reset();
        assert_eq!(guest.vcpu.new_interception(), Some(Interception::INITIAL));
    }
}

#[test]
fn rule_xs_05_xfd_exits_until_there_is_room() {
    let mut guest = Guest::new(
        &made_up::future(),
        Allocation::OnDemand,
        XfdErrPolicy::Intercept,
    );
    let all = guest.vcpu.offer().user().bits();
    let both = TILE_DATA | 1 << 40;
    // XCR0 with XFD = 0 would bring both alive.
    assert_eq!(
        guest.cpu.xsetbv(&mut guest.vcpu, 0, all),
        Ok(Outcome::Grow(XFeatures::from_bits(both)))
    );
    assert_eq!(guest.vcpu.xcr0(), XFeatures::X87);
    assert_eq!(guest.cpu.registers.xcr0, XFeatures::X87);
    let closed = Interception {
        xfd: true,
        xfd_err: false,
        nm: true,
    };
    assert_eq!(guest.write(XMsr::Xfd, both), Ok(Outcome::Intercept(closed)));
    // Armed, they stay initial: no room is needed.
    assert_eq!(guest.cpu.xsetbv(&mut guest.vcpu, 0, all), Ok(Outcome::Done));
    // Disarmed one by one, each needs room first, and XFD exits until the last.
    assert_eq!(guest.write(XMsr::Xfd, 1 << 40), Ok(Outcome::Grow(TILES)));
    assert_eq!(guest.cpu.registers.xfd.bits(), both);
    guest.cpu.park(&mut guest.vcpu).unwrap();
    REFUSE.set(true);
    let refused = guest.vcpu.grow(&guest.layout, TILES);
    let bytes = guest
        .layout
        .size(guest.vcpu.room() | TILES, Format::Compacted);
    assert_eq!(refused, Err(GrowError::OutOfMemory(OutOfMemory { bytes })));
    REFUSE.set(false);
    guest.vcpu.grow(&guest.layout, TILES).unwrap();
    guest.cpu.make_current(None, &mut guest.vcpu).unwrap();
    assert_eq!(guest.write(XMsr::Xfd, 1 << 40), Ok(Outcome::Done));
    let future = XFeatures::single(40);
    assert_eq!(guest.write(XMsr::Xfd, 0), Ok(Outcome::Grow(future)));
    guest.cpu.park(&mut guest.vcpu).unwrap();
    guest.vcpu.grow(&guest.layout, future).unwrap();
    guest.cpu.make_current(None, &mut guest.vcpu).unwrap();
    let open = Interception {
        xfd: false,
        ..closed
    };
    assert_eq!(guest.write(XMsr::Xfd, 0), Ok(Outcome::Intercept(open)));
}

#[test]
fn rule_xs_07_room_made_for_xsetbv_opens_xfd_too() {
    let mut guest = Guest::new(
        &made_up::future(),
        Allocation::OnDemand,
        XfdErrPolicy::Switch,
    );
    // One armed, the other to come alive with XCR0.
    assert!(guest.write(XMsr::Xfd, 1 << 40).is_ok());
    let all = guest.vcpu.offer().user().bits();
    assert_eq!(
        guest.cpu.xsetbv(&mut guest.vcpu, 0, all),
        Ok(Outcome::Grow(TILES))
    );
    guest.cpu.park(&mut guest.vcpu).unwrap();
    let dynamic = guest.vcpu.offer().dynamic();
    guest.vcpu.grow(&guest.layout, dynamic).unwrap();
    guest.cpu.make_current(None, &mut guest.vcpu).unwrap();
    let open = Interception {
        xfd: false,
        xfd_err: false,
        nm: false,
    };
    assert_eq!(
        guest.cpu.xsetbv(&mut guest.vcpu, 0, all),
        Ok(Outcome::Intercept(open))
    );
}

#[test]
fn rule_xs_08_the_hypervisor_runs_with_xfd_err_clear() {
    let mut guest = Guest::amx(XfdErrPolicy::Intercept);
    guest.take_nm();
    assert_eq!(guest.error(), NONE);
    // Through any number of exits, until the guest clears it.
    for _ in 0..3 {
        guest.enter();
        assert_eq!(guest.error(), TILES);
        guest.exit();
        assert_eq!(guest.error(), NONE);
    }
    guest.enter();
    guest.cpu.registers.xfd_err = NONE;
    guest.exit();
    // From then on nothing is written any more.
    guest.cpu.registers.log.clear();
    guest.enter();
    guest.exit();
    assert_eq!(guest.error(), NONE);
    assert_eq!(guest.cpu.registers.log, []);
}

#[test]
fn case_4_rule_xs_08_an_nm_of_another_cause_leaves_xfd_err_alone() {
    let mut guest = Guest::amx(XfdErrPolicy::Intercept);
    guest.take_nm();
    guest.enter();
    // CR0.TS: #NM again before the handler has read the value.
    guest.exit();
    guest.cpu.on_nm(&mut guest.vcpu);
    assert_eq!(guest.error(), NONE);
    guest.enter();
    assert_eq!(guest.error(), TILES);

    // And with nothing recorded, nothing is made up.
    guest.cpu.registers.xfd_err = NONE;
    guest.exit();
    guest.cpu.registers.log.clear();
    guest.cpu.on_nm(&mut guest.vcpu);
    guest.enter();
    assert_eq!(guest.error(), NONE);
    assert_eq!(guest.cpu.registers.log, []);
}

#[test]
fn rule_xs_08_a_value_set_by_the_guest_itself_survives_a_swap() {
    for policy in [XfdErrPolicy::Intercept, XfdErrPolicy::Switch] {
        let mut guest = Guest::amx(policy);
        assert!(guest.write(XMsr::Xfd, TILE_DATA).is_ok());
        guest.enter();
        guest.cpu.registers.xfd_err = TILES;
        guest.exit();
        // Parked and still in the registers, it is put back just as well.
        guest.cpu.park(&mut guest.vcpu).unwrap();
        if policy == XfdErrPolicy::Intercept {
            assert_eq!(guest.error(), NONE);
        }
        guest.cpu.make_current(None, &mut guest.vcpu).unwrap();
        guest.enter();
        assert_eq!(guest.error(), TILES);
        guest.exit();
        let mut other = vcpu(&guest.layout, Allocation::Static, policy);
        guest
            .cpu
            .make_current(Some(&mut guest.vcpu), &mut other)
            .unwrap();
        assert_eq!(guest.error(), NONE, "{policy:?}: the other guest sees it");
        guest
            .cpu
            .make_current(Some(&mut other), &mut guest.vcpu)
            .unwrap();
        guest.enter();
        assert_eq!(guest.error(), TILES, "{policy:?}");
    }
}

#[test]
fn rule_xs_09_switching_exchanges_xfd_err_at_the_swap_only() {
    let mut guest = Guest::amx(XfdErrPolicy::Switch);
    assert!(guest.write(XMsr::Xfd, TILE_DATA).is_ok());
    guest.enter();
    assert_eq!(guest.cpu.registers.guest_writes(18, 1), Err("#NM"));
    guest.cpu.registers.log.clear();
    for _ in 0..3 {
        guest.exit();
        guest.enter();
        assert_eq!(guest.error(), TILES);
    }
    assert_eq!(guest.cpu.registers.log, []);
    guest.exit();
    let mut other = vcpu(&guest.layout, Allocation::Static, XfdErrPolicy::Switch);
    guest
        .cpu
        .make_current(Some(&mut guest.vcpu), &mut other)
        .unwrap();
    assert!(guest.cpu.registers.log.contains(&Event::XfdErr(NONE)));
    guest
        .cpu
        .make_current(Some(&mut other), &mut guest.vcpu)
        .unwrap();
    assert_eq!(guest.error(), TILES);
}

#[test]
fn rule_xs_09_an_xfd_err_goes_with_its_guest_though_nobody_used_xfd() {
    let mut guest = Guest::amx(XfdErrPolicy::Switch);
    assert!(guest.write(XMsr::XfdErr, TILE_DATA).is_ok());
    assert_eq!(guest.error(), TILES);
    let mut other = vcpu(&guest.layout, Allocation::Static, XfdErrPolicy::Switch);
    let (cpu, vcpu) = (&mut guest.cpu, &mut guest.vcpu);
    cpu.make_current(Some(vcpu), &mut other).unwrap();
    assert_eq!(cpu.registers.xfd_err, NONE);
    cpu.make_current(Some(&mut other), vcpu).unwrap();
    assert_eq!(guest.error(), TILES);
}

#[test]
fn case_10_impossible_values_never_reach_an_instruction() {
    // The model panics where silicon would raise #GP.
    let mut guest = Guest::new(&made_up::future(), Allocation::Static, XfdErrPolicy::Switch);
    for value in (0..64).map(|bit| 1 << bit).chain([u64::MAX, 0]) {
        let _ = guest.cpu.xsetbv(&mut guest.vcpu, 0, value);
        let _ = guest.cpu.xsetbv(&mut guest.vcpu, 0, value | 1);
        for msr in [XMsr::Xfd, XMsr::XfdErr, XMsr::Xss] {
            let _ = guest.write(msr, value);
        }
        let mut other = vcpu(&guest.layout, Allocation::Static, XfdErrPolicy::Switch);
        guest
            .cpu
            .make_current(Some(&mut guest.vcpu), &mut other)
            .unwrap();
        guest
            .cpu
            .make_current(Some(&mut other), &mut guest.vcpu)
            .unwrap();
    }
    assert_eq!(guest.cpu.registers.xcr0, guest.vcpu.xcr0());
}
