use super::made_up::{self, MadeUp, vcpu};
use crate::xstate::events::Outcome;
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Allocation, Fpstate};
use crate::xstate::layout::Layout;
use crate::xstate::model::{Event, Model};
use crate::xstate::registers::XMsr;
use crate::xstate::swap::{CpuXstate, SwapError};
use crate::xstate::xfd::XfdErrPolicy::Intercept;
use std::vec::Vec;

const NONE: XFeatures = XFeatures::EMPTY;
const TILE_DATA: XFeatures = XFeatures::TILE_DATA;

struct Two {
    layout: Layout,
    cpu: CpuXstate<Model>,
    first: Fpstate,
    second: Fpstate,
}

impl Two {
    /// Two vCPUs, the first current with all of XCR0 enabled; an empty log.
    fn new(cpu: &MadeUp) -> Self {
        let layout = cpu.layout();
        let mut two = Self {
            cpu: CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap(),
            first: vcpu(&layout, Allocation::Static, Intercept),
            second: vcpu(&layout, Allocation::Static, Intercept),
            layout,
        };
        two.cpu.make_current(None, &mut two.first).unwrap();
        let all = two.first.offer().user().bits();
        assert_eq!(two.cpu.xsetbv(&mut two.first, 0, all), Ok(Outcome::Done));
        two.cpu.registers.log.clear();
        two
    }

    fn load_second(&mut self) -> Vec<Event> {
        self.cpu.registers.log.clear();
        let outgoing = Some(&mut self.first);
        self.cpu.make_current(outgoing, &mut self.second).unwrap();
        std::mem::take(&mut self.cpu.registers.log)
    }

    fn load_first(&mut self) -> Vec<Event> {
        self.cpu.registers.log.clear();
        let outgoing = Some(&mut self.second);
        self.cpu.make_current(outgoing, &mut self.first).unwrap();
        std::mem::take(&mut self.cpu.registers.log)
    }

    fn arm_first(&mut self) {
        let armed = self
            .cpu
            .write_msr(&mut self.first, XMsr::Xfd, TILE_DATA.bits());
        assert!(armed.is_ok());
    }
}

#[test]
fn case_8_what_firmware_left_is_put_right() {
    for cpu in made_up::all_with_tiles() {
        let layout = cpu.layout();
        let cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
        let registers = &cpu.registers;
        assert_eq!((registers.xfd, registers.xfd_err), (NONE, NONE));
        assert!(!registers.not_initial().intersects(layout.user()));
        assert_eq!(registers.xcr0, layout.user());
        // Nothing may be armed while state is initialised.
        let initialised = registers
            .log
            .iter()
            .position(|e| *e == Event::Restore(NONE));
        let disarmed = registers.log.iter().position(|e| *e == Event::Xfd(NONE));
        assert!(disarmed < initialised);
        if layout.extensions().xsaves {
            assert_eq!(registers.xss, NONE);
        }
    }
}

#[test]
fn case_8_the_first_entry_finds_reset_values() {
    let layout = made_up::amx().layout();
    let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
    let mut state = vcpu(&layout, Allocation::Static, Intercept);
    cpu.make_current(None, &mut state).unwrap();
    assert_eq!(cpu.registers.xcr0, XFeatures::X87);
    assert_eq!(cpu.registers.xss, NONE);
    assert_eq!(cpu.registers.not_initial(), XFeatures::X87);
}

#[test]
fn rule_xs_12_the_same_container_again_moves_nothing() {
    let mut two = Two::new(&made_up::amx());
    two.cpu.make_current(None, &mut two.first).unwrap();
    two.cpu.before_entry(&mut two.first);
    two.cpu.after_exit(&mut two.first);
    assert_eq!(two.cpu.registers.log, []);
    // Parked, it is still there.
    two.cpu.park(&mut two.first).unwrap();
    two.cpu.registers.log.clear();
    two.cpu.make_current(None, &mut two.first).unwrap();
    assert_eq!(two.cpu.registers.log, []);
    // And parked twice, it is saved once.
    two.cpu.park(&mut two.first).unwrap();
    two.cpu.registers.log.clear();
    two.cpu.park(&mut two.first).unwrap();
    assert_eq!(two.cpu.registers.log, []);
}

#[test]
fn rule_xs_12_registers_that_agree_are_not_written() {
    let mut two = Two::new(&made_up::amx());
    two.load_second();
    let all = two.second.offer().user().bits();
    assert!(two.cpu.xsetbv(&mut two.second, 0, all).is_ok());
    let log = two.load_first();
    assert!(
        matches!(log[..], [Event::Save(_), Event::Restore(_)]),
        "{log:?}"
    );
}

#[test]
fn rule_xs_10_armed_live_data_is_saved_in_this_order() {
    let mut two = Two::new(&made_up::amx());
    two.cpu.registers.guest_writes(18, 0x77).unwrap();
    two.arm_first();
    let log = two.load_second();
    let live = XFeatures::X87 | TILE_DATA;
    assert_eq!(
        log,
        [
            Event::Xfd(NONE),
            Event::Save(live),
            Event::Restore(XFeatures::X87),
            Event::Xcr0(XFeatures::X87),
        ]
    );
    let log = two.load_first();
    assert_eq!(
        log,
        [
            Event::Xcr0(two.layout.user()),
            Event::Save(XFeatures::X87),
            Event::Restore(live),
            Event::Xfd(TILE_DATA),
        ]
    );
    assert_eq!(two.cpu.registers.state[&18], std::vec![0x77; 8192]);
}

#[test]
fn rule_xs_10_an_armed_component_not_in_use_costs_no_bytes() {
    for cpu in made_up::all_with_tiles() {
        let layout = cpu.layout();
        // Plain XSAVE has no init optimisation.
        let optimised = layout.extensions().xsaveopt || layout.extensions().xsavec;
        let mut two = Two::new(&cpu);
        two.arm_first();
        two.cpu.registers.bytes_saved = 0;
        let log = two.load_second();
        assert!(log.contains(&Event::Save(XFeatures::X87)), "{log:?}");
        if optimised {
            assert!(two.cpu.registers.bytes_saved < 8192);
            // Neither is XFD cleared for it: armed and initial is no danger.
            assert_eq!(log.iter().filter(|e| matches!(e, Event::Xfd(_))).count(), 1);
        }
    }
}

#[test]
fn rule_xs_10_two_that_are_armed_and_not_in_use_need_no_xfd_write() {
    let mut two = Two::new(&made_up::amx());
    two.arm_first();
    two.load_second();
    let armed = two
        .cpu
        .write_msr(&mut two.second, XMsr::Xfd, TILE_DATA.bits());
    assert!(armed.is_ok());
    for log in [two.load_first(), two.load_second()] {
        assert!(!log.iter().any(|e| matches!(e, Event::Xfd(_))), "{log:?}");
    }
}

#[test]
fn rule_xs_10_live_armed_and_disabled_in_xcr0_at_once() {
    let mut two = Two::new(&made_up::amx());
    two.cpu.registers.guest_writes(18, 0x55).unwrap();
    two.arm_first();
    assert!(two.cpu.xsetbv(&mut two.first, 0, 1).is_ok());
    two.load_second();
    assert!(!two.cpu.registers.not_initial().intersects(TILE_DATA));
    two.load_first();
    assert_eq!(two.cpu.registers.state[&18], std::vec![0x55; 8192]);
}

#[test]
fn rule_xs_10_components_disabled_in_xcr0_keep_their_data() {
    let mut two = Two::new(&made_up::amx_with_cet());
    let all = two.first.offer().user();
    for number in (all - XFeatures::PKRU).numbers() {
        two.cpu
            .registers
            .guest_writes(number, 0x10 + number)
            .unwrap();
    }
    let cet = XFeatures::CET.bits();
    assert!(two.cpu.write_msr(&mut two.first, XMsr::Xss, cet).is_ok());
    two.cpu.registers.guest_writes(12, 0x99).unwrap();
    let before = two.cpu.registers.state.clone();
    assert!(two.cpu.xsetbv(&mut two.first, 0, 1).is_ok());
    assert!(two.cpu.write_msr(&mut two.first, XMsr::Xss, 0).is_ok());
    let log = two.load_second();
    assert_eq!(log[..2], [Event::Xss(XFeatures::CET), Event::Xcr0(all)]);
    two.load_first();
    assert_eq!(two.cpu.registers.state, before);
    assert_eq!(two.cpu.registers.xcr0, XFeatures::X87);
    assert_eq!(two.cpu.registers.xss, NONE);
}

#[test]
fn rule_xs_11_nothing_is_left_even_of_a_container_that_is_gone() {
    for cpu in made_up::all_with_tiles() {
        let mut two = Two::new(&cpu);
        for number in two.first.offer().user().numbers() {
            two.cpu.registers.guest_writes(number, 0xbb).unwrap();
        }
        two.arm_first();
        // Dropped without being saved: its VM was ended.
        two.cpu.make_current(None, &mut two.second).unwrap();
        assert_eq!(two.cpu.registers.not_initial(), XFeatures::X87);
        assert_eq!(two.cpu.registers.xfd, NONE);
    }
}

#[test]
fn rule_xs_11_an_on_demand_container_leaves_the_rest_initial() {
    let mut two = Two::new(&made_up::amx());
    two.second = vcpu(&two.layout, Allocation::OnDemand, Intercept);
    two.cpu.registers.guest_writes(18, 0xbb).unwrap();
    two.load_second();
    assert!(!two.cpu.registers.not_initial().intersects(TILE_DATA));
    assert_eq!(two.cpu.registers.xfd, NONE);
}

#[test]
fn case_1_armed_and_swapped_before_anything_else_runs() {
    let mut two = Two::new(&made_up::amx());
    two.cpu.registers.guest_writes(18, 0x42).unwrap();
    two.arm_first();
    for _ in 0..3 {
        two.load_second();
        two.load_first();
    }
    assert_eq!(two.cpu.registers.xfd, TILE_DATA);
    assert_eq!(two.cpu.registers.state[&18], std::vec![0x42; 8192]);
}

#[test]
fn case_3_a_vcpu_that_was_not_parked_does_not_move() {
    let mut two = Two::new(&made_up::amx());
    let layout = two.layout.clone();
    let mut elsewhere = CpuXstate::take_over(Model::dirty(&layout), &layout, 1).unwrap();
    assert_eq!(elsewhere.make_current(None, &mut two.first), Err(SwapError));
    assert_eq!(elsewhere.park(&mut two.first), Err(SwapError));
    // Still fine where it was.
    two.cpu.make_current(None, &mut two.first).unwrap();
}

#[test]
fn case_3_a_stale_loading_never_matches() {
    let mut two = Two::new(&made_up::amx());
    let layout = two.layout.clone();
    let mut elsewhere = CpuXstate::take_over(Model::dirty(&layout), &layout, 1).unwrap();
    two.cpu.registers.guest_writes(2, 1).unwrap();
    two.arm_first();
    two.cpu.park(&mut two.first).unwrap();
    elsewhere.make_current(None, &mut two.first).unwrap();
    assert_eq!(elsewhere.registers.xfd, TILE_DATA);
    elsewhere.registers.guest_writes(2, 2).unwrap();
    elsewhere.registers.xfd = NONE;
    elsewhere.park(&mut two.first).unwrap();
    // The first processor still holds an old copy, which nobody may use.
    let log = {
        two.cpu.registers.log.clear();
        two.cpu.make_current(None, &mut two.first).unwrap();
        &two.cpu.registers.log
    };
    assert!(log.iter().any(|event| matches!(event, Event::Restore(_))));
    assert_eq!(two.cpu.registers.state[&2], std::vec![2; 256]);
    assert_eq!(two.cpu.registers.xfd, NONE);
}
