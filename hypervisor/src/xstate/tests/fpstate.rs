use super::made_up::{self, vcpu};
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Allocation, GrowError, InRegisters};
use crate::xstate::layout::Format;
use crate::xstate::model::{Event, Model};
use crate::xstate::swap::CpuXstate;
use crate::xstate::xfd::XfdErrPolicy::Intercept;

#[test]
fn rule_xs_05_static_has_room_for_exactly_what_is_offered() {
    for cpu in made_up::all_with_tiles() {
        let layout = cpu.layout();
        let container = vcpu(&layout, Allocation::Static, Intercept);
        let offered = made_up::permission(&layout);
        let features = offered.user() | offered.supervisor();
        assert_eq!(container.room(), features);
        assert_eq!(container.size(), layout.size(features, layout.format()));
        assert_eq!(container.area.as_ptr() as usize % 64, 0);
        assert!(container.area.guard_intact());
    }
}

#[test]
fn rule_xs_05_on_demand_begins_without_dynamic_components() {
    let layout = made_up::amx().layout();
    let container = vcpu(&layout, Allocation::OnDemand, Intercept);
    assert!(!container.room().intersects(XFeatures::TILE_DATA));
    assert!(container.room().contains(XFeatures::TILE_CONFIG));
    let without = layout.user() - XFeatures::TILE_DATA;
    assert_eq!(container.size(), layout.size(without, Format::Compacted));
    assert_eq!(container.size(), 2560);
}

#[test]
fn rule_xs_05_growing_loses_nothing() {
    let cpus = made_up::all_with_tiles().into_iter();
    for cpu in cpus.chain([made_up::low_dynamic()]) {
        let layout = cpu.layout();
        let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
        let mut grows = vcpu(&layout, Allocation::OnDemand, Intercept);
        cpu.make_current(None, &mut grows).unwrap();
        // No XFD yet, so no dynamic component can be enabled without room.
        let xcr0 = grows.offer().user() - grows.offer().dynamic();
        let xcr0 = xcr0 - XFeatures::TILES;
        assert!(cpu.xsetbv(&mut grows, 0, xcr0.bits()).is_ok());
        for number in xcr0.numbers() {
            cpu.registers.guest_writes(number, 0xc0 | number).unwrap();
        }
        let before = cpu.registers.state.clone();
        for number in layout.dynamic().numbers() {
            let more = XFeatures::single(number);
            assert_eq!(grows.grow(&layout, more), Err(GrowError::InRegisters));
            cpu.park(&mut grows).unwrap();
            grows.grow(&layout, more).unwrap();
            assert!(grows.room().contains(more));
            assert_eq!(grows.size(), layout.size(grows.room(), layout.format()));
            // Another place in memory: loaded from there, not found in registers.
            cpu.registers.log.clear();
            cpu.make_current(None, &mut grows).unwrap();
            let live = XFeatures::X87 | xcr0;
            assert!(cpu.registers.log.contains(&Event::Restore(live)));
            assert_eq!(cpu.registers.state, before);
        }
        // Beyond what is offered nothing grows.
        cpu.park(&mut grows).unwrap();
        grows.grow(&layout, XFeatures::ALL).unwrap();
        assert_eq!(grows.room(), grows.offer().features());
    }
}

#[test]
fn reset_is_architectural() {
    let layout = made_up::amx_with_cet().layout();
    let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
    let mut state = vcpu(&layout, Allocation::Static, Intercept);
    cpu.make_current(None, &mut state).unwrap();
    for number in layout.user().numbers() {
        cpu.registers.state.get_mut(&number).unwrap().fill(0xee);
    }
    assert!(cpu.xsetbv(&mut state, 0, layout.user().bits()).is_ok());
    cpu.park(&mut state).unwrap();
    state.reset();
    assert!(!cpu.holds(&state));
    cpu.make_current(None, &mut state).unwrap();

    let registers = &cpu.registers;
    assert_eq!(registers.xcr0, XFeatures::X87);
    assert_eq!(
        (registers.xss, registers.xfd, registers.xfd_err),
        (XFeatures::EMPTY, XFeatures::EMPTY, XFeatures::EMPTY)
    );
    assert_eq!(registers.not_initial(), XFeatures::X87);
    // FCW, FSW, abridged tag word, then zeros.
    let mut x87 = std::vec![0; 152];
    (x87[0], x87[4]) = (0x40, 0xff);
    assert_eq!(registers.state[&0], x87);
}

#[test]
fn init_keeps_all_but_cet() {
    let layout = made_up::amx_with_cet().layout();
    let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
    let mut state = vcpu(&layout, Allocation::Static, Intercept);
    cpu.make_current(None, &mut state).unwrap();
    assert!(cpu.xsetbv(&mut state, 0, layout.user().bits()).is_ok());
    for number in (layout.user() | layout.supervisor()).numbers() {
        cpu.registers.state.get_mut(&number).unwrap().fill(0xee);
    }
    assert_eq!(state.init_signal(), Err(InRegisters));
    cpu.park(&mut state).unwrap();
    state.init_signal().unwrap();
    cpu.make_current(None, &mut state).unwrap();
    assert_eq!(cpu.registers.not_initial(), layout.user());
    assert_eq!(cpu.registers.xcr0, layout.user());
}
