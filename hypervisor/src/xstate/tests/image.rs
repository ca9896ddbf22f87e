use super::made_up::{self, MadeUp, vcpu};
use crate::xstate::area::{OutOfMemory, REFUSE};
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Allocation, Fpstate, InRegisters};
use crate::xstate::image::StateError;
use crate::xstate::layout::{Format, Layout};
use crate::xstate::model::Model;
use crate::xstate::registers::XMsr;
use crate::xstate::swap::CpuXstate;
use crate::xstate::xcr0::XsetbvFault;
use crate::xstate::xfd::{XfdErrPolicy::Intercept, XfdFault};
use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const TILE_DATA: u64 = 1 << 18;

fn read(state: &Fpstate, layout: &Layout) -> Vec<u8> {
    let mut image = vec![0xff; state.state_size(layout) as usize];
    state.read_state(layout, &mut image).unwrap();
    image
}

/// An image with every component of `present` filled with its number.
fn filled(layout: &Layout, offered: XFeatures, present: XFeatures) -> Vec<u8> {
    let mut image = vec![0; layout.size(offered, Format::Standard) as usize];
    image[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    if present.contains(XFeatures::X87) {
        image[..24].fill(0x80);
        image[32..160].fill(0x80);
    } else {
        image[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    }
    if present.contains(XFeatures::SSE) {
        image[24..28].copy_from_slice(&0x1fa0_u32.to_le_bytes());
        image[160..416].fill(0x81);
    }
    for placed in layout.walk(present, Format::Standard) {
        let range = placed.offset as usize..(placed.offset + placed.size) as usize;
        image[range].fill(0x80 | placed.number);
    }
    image[512..520].copy_from_slice(&present.bits().to_le_bytes());
    image
}

fn cpus() -> Vec<MadeUp> {
    let mut cpus = made_up::all_with_tiles();
    cpus.push(made_up::avx512());
    cpus.push(made_up::sse_only());
    cpus
}

proptest! {
    #[test]
    fn rule_xs_13_what_is_written_is_read_and_run(kind in 0..8_usize, present: u64, demand: bool) {
        let layout = cpus()[kind].layout();
        let allocation = if demand { Allocation::OnDemand } else { Allocation::Static };
        let mut state = vcpu(&layout, allocation, Intercept);
        let offered = state.offer().user();
        let present = XFeatures::from_bits(present) & offered;
        let image = filled(&layout, offered, present);
        prop_assert_eq!(state.write_state(&layout, &image), Ok(()));
        prop_assert_eq!(read(&state, &layout), image.clone());

        // It survives the registers, as in a guest that touches nothing.
        let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
        cpu.make_current(None, &mut state).unwrap();
        prop_assert_eq!(cpu.registers.not_initial() & layout.user(), present);
        cpu.park(&mut state).unwrap();
        prop_assert_eq!(read(&state, &layout), image);
    }

    #[test]
    fn rule_xs_13_any_image_is_taken_whole_or_not_at_all(
        kind in 0..8_usize,
        present: u64,
        damage in proptest::collection::vec((0_usize..600, any::<u8>()), 0..4),
        cut in 0_usize..12000,
    ) {
        let layout = cpus()[kind].layout();
        let mut state = vcpu(&layout, Allocation::OnDemand, Intercept);
        let offered = state.offer().user();
        let mut image = filled(&layout, offered, XFeatures::from_bits(present) & offered);
        for (at, value) in damage {
            if let Some(byte) = image.get_mut(at) {
                *byte = value;
            }
        }
        image.truncate(cut.max(100));
        let (before, room) = (read(&state, &layout), state.room());
        if state.write_state(&layout, &image).is_err() {
            prop_assert_eq!(read(&state, &layout), before);
            prop_assert_eq!(state.room(), room);
        }
        // Whatever was taken, restoring it must not fault: the model would panic.
        let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
        cpu.make_current(None, &mut state).unwrap();
    }

    #[test]
    fn rule_xs_13_a_component_is_read_and_written_in_slices(
        kind in 0..8_usize, number in 0_u8..64, offset in 0_u32..9000, len in 0_usize..300,
    ) {
        let layout = cpus()[kind].layout();
        let mut state = vcpu(&layout, Allocation::OnDemand, Intercept);
        let listed = state.components(&layout).find(|(listed, _)| *listed == number);
        let slice = vec![0x11; len];
        let before = read(&state, &layout);
        let written = state.write_component(&layout, number, offset, &slice);
        let Some((_, size)) = listed else {
            prop_assert_eq!(written, Err(StateError::NotEnabled(XFeatures::single(number))));
            return Ok(());
        };
        if offset as usize + len > size as usize {
            prop_assert_eq!(written, Err(StateError::BeyondComponent { size }));
            prop_assert_eq!(read(&state, &layout), before);
            return Ok(());
        }
        if written.is_err() {
            // 0x11 is reserved in the upper bytes of MXCSR.
            prop_assert!(number == 1 && offset < 4 && len > 0);
            return Ok(());
        }
        let mut whole = vec![0xff; size as usize];
        state.read_component(&layout, number, 0, &mut whole).unwrap();
        let range = offset as usize..offset as usize + len;
        prop_assert!(whole[range.clone()].iter().all(|byte| *byte == 0x11));
        // Around the slice nothing but what was there: the initial configuration.
        let mut fresh = vec![0; size as usize];
        match number {
            0 => { (fresh[0], fresh[4]) = (0x40, 0xff); }
            1 => fresh[..4].copy_from_slice(&0x1f80_u32.to_le_bytes()),
            _ => {}
        }
        fresh[range.clone()].fill(0x11);
        prop_assert_eq!(&whole, &fresh);
        let mut again = slice.clone();
        state.read_component(&layout, number, offset, &mut again).unwrap();
        prop_assert_eq!(again, slice);
    }

    #[test]
    fn rule_xs_13_any_order_gives_the_same(
        order in Just([0, 1, 2, 3]).prop_shuffle(),
        present: u64, armed: bool, tiles: bool, demand: bool,
    ) {
        let layout = made_up::amx().layout();
        let allocation = if demand { Allocation::OnDemand } else { Allocation::Static };
        let mut state = vcpu(&layout, allocation, Intercept);
        let offered = state.offer().user();
        let present = XFeatures::from_bits(present) & offered;
        let image = filled(&layout, offered, present);
        let xcr0 = if tiles { 0x602e7 } else { 0x2e7 };
        let xfd = if armed { TILE_DATA } else { 0 };
        for step in order {
            let result = match step {
                0 => state.set_xcr0(&layout, xcr0),
                1 => state.set_msr(&layout, XMsr::Xfd, xfd),
                2 => state.set_msr(&layout, XMsr::XfdErr, xfd),
                _ => state.write_state(&layout, &image),
            };
            prop_assert_eq!(result, Ok(()));
        }
        let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
        cpu.make_current(None, &mut state).unwrap();
        cpu.before_entry(&mut state);
        let registers = &cpu.registers;
        prop_assert_eq!(registers.xcr0.bits(), xcr0);
        prop_assert_eq!(registers.xfd.bits(), xfd);
        prop_assert_eq!(registers.not_initial(), present);
        // Never written non-zero, XFD_ERR is not the guest's to read directly.
        prop_assert_eq!(registers.xfd_err.bits(), xfd);
        cpu.after_exit(&mut state);
        cpu.park(&mut state).unwrap();
        prop_assert_eq!(read(&state, &layout), image);
        prop_assert_eq!(state.msr(XMsr::Xfd).map(XFeatures::bits), Ok(xfd));
        prop_assert_eq!(state.msr(XMsr::XfdErr).map(XFeatures::bits), Ok(xfd));
    }
}

#[test]
fn rule_xs_13_an_image_moves_between_processors_that_save_differently() {
    let present = XFeatures::from_bits(0x602e7);
    for from in made_up::all_with_tiles() {
        for to in made_up::all_with_tiles() {
            let (from, to) = (from.layout(), to.layout());
            let mut source = vcpu(&from, Allocation::Static, Intercept);
            let mut target = vcpu(&to, Allocation::OnDemand, Intercept);
            let image = filled(&from, source.offer().user(), present);
            source.write_state(&from, &image).unwrap();
            target.write_state(&to, &read(&source, &from)).unwrap();
            let (sent, received) = (read(&source, &from), read(&target, &to));
            assert_eq!(sent[..11008], received[..11008]);
        }
    }
}

#[test]
fn case_2_armed_data_in_an_image_is_kept_and_faults_nowhere() {
    let layout = made_up::amx().layout();
    for allocation in [Allocation::Static, Allocation::OnDemand] {
        let mut state = vcpu(&layout, allocation, Intercept);
        let offered = state.offer().user();
        let image = filled(&layout, offered, offered);
        state.set_msr(&layout, XMsr::Xfd, TILE_DATA).unwrap();
        state.set_xcr0(&layout, offered.bits()).unwrap();
        state.write_state(&layout, &image).unwrap();
        // With room, nothing of XFD need exit.
        let interception = state.new_interception().unwrap();
        assert!(!interception.xfd && interception.nm);

        let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
        cpu.make_current(None, &mut state).unwrap();
        assert_eq!(cpu.registers.xfd.bits(), TILE_DATA);
        assert_eq!(cpu.registers.guest_writes(18, 1), Err("#NM"));
        assert_eq!(cpu.registers.state[&18], vec![0x92; 8192]);
    }
}

/// Parked, as after running on a processor that still holds the state.
fn parked(layout: &Layout, allocation: Allocation) -> (CpuXstate<Model>, Fpstate) {
    let mut cpu = CpuXstate::take_over(Model::dirty(layout), layout, 0).unwrap();
    let mut state = vcpu(layout, allocation, Intercept);
    cpu.make_current(None, &mut state).unwrap();
    cpu.park(&mut state).unwrap();
    (cpu, state)
}

#[test]
fn rule_xs_13_what_is_written_replaces_what_the_registers_hold() {
    let layout = made_up::amx().layout();
    let offered = made_up::permission(&layout).user();

    let (mut cpu, mut state) = parked(&layout, Allocation::Static);
    let image = filled(&layout, offered, offered);
    state.write_state(&layout, &image).unwrap();
    cpu.make_current(None, &mut state).unwrap();
    assert_eq!(cpu.registers.state[&2], vec![0x82; 256]);

    let (mut cpu, mut state) = parked(&layout, Allocation::Static);
    state.write_component(&layout, 2, 0, &[7; 256]).unwrap();
    cpu.make_current(None, &mut state).unwrap();
    assert_eq!(cpu.registers.state[&2], vec![7; 256]);

    let (mut cpu, mut state) = parked(&layout, Allocation::Static);
    state.set_xcr0(&layout, 7).unwrap();
    cpu.make_current(None, &mut state).unwrap();
    assert_eq!(cpu.registers.xcr0.bits(), 7);

    let (mut cpu, mut state) = parked(&layout, Allocation::Static);
    state.set_msr(&layout, XMsr::Xfd, TILE_DATA).unwrap();
    cpu.make_current(None, &mut state).unwrap();
    assert_eq!(cpu.registers.xfd.bits(), TILE_DATA);
}

#[test]
fn rule_xs_05_registers_that_bring_state_alive_make_room() {
    let layout = made_up::amx().layout();
    let (_, mut state) = parked(&layout, Allocation::OnDemand);
    state.set_xcr0(&layout, 0x602e7).unwrap();
    assert!(state.room().contains(XFeatures::TILE_DATA));

    let (_, mut state) = parked(&layout, Allocation::OnDemand);
    state.set_msr(&layout, XMsr::Xfd, TILE_DATA).unwrap();
    state.set_xcr0(&layout, 0x602e7).unwrap();
    assert!(!state.room().contains(XFeatures::TILE_DATA));
    state.set_msr(&layout, XMsr::Xfd, 0).unwrap();
    assert!(state.room().contains(XFeatures::TILE_DATA));
}

#[test]
fn rule_xs_05_without_memory_nothing_changes() {
    let layout = made_up::amx().layout();
    let (_, mut state) = parked(&layout, Allocation::OnDemand);
    let before = read(&state, &layout);
    let image = filled(&layout, state.offer().user(), state.offer().user());
    REFUSE.set(true);
    let refused = Err(StateError::OutOfMemory(OutOfMemory { bytes: 10752 }));
    assert_eq!(state.write_state(&layout, &image), refused);
    assert_eq!(state.write_component(&layout, 18, 0, &[1]), refused);
    assert_eq!(state.set_xcr0(&layout, 0x602e7), refused);
    assert_eq!(read(&state, &layout), before);
    assert_eq!(state.xcr0(), XFeatures::X87);
    assert!(!state.room().contains(XFeatures::TILE_DATA));
    REFUSE.set(false);
    assert_eq!(state.write_state(&layout, &image), Ok(()));
}

#[test]
fn rule_xs_13_a_component_made_present_again_shows_nothing_old() {
    for cpu in made_up::all_with_tiles() {
        let layout = cpu.layout();
        let mut state = vcpu(&layout, Allocation::Static, Intercept);
        let offered = state.offer().user();
        let image = filled(&layout, offered, offered);
        state.write_state(&layout, &image).unwrap();
        let image = filled(&layout, offered, XFeatures::EMPTY);
        state.write_state(&layout, &image).unwrap();
        state.write_component(&layout, 2, 5, &[9]).unwrap();
        let mut avx = [0xff; 256];
        state.read_component(&layout, 2, 0, &mut avx).unwrap();
        let mut expected = [0; 256];
        expected[5] = 9;
        assert_eq!(avx, expected);
    }
}

#[test]
fn rule_xs_13_supervisor_state_is_no_part_of_an_image() {
    let layout = made_up::amx_with_cet().layout();
    let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
    let mut state = vcpu(&layout, Allocation::Static, Intercept);
    cpu.make_current(None, &mut state).unwrap();
    let cet = XFeatures::CET.bits();
    assert!(cpu.write_msr(&mut state, XMsr::Xss, cet).is_ok());
    cpu.registers.guest_writes(11, 3).unwrap();
    cpu.park(&mut state).unwrap();
    let image = filled(&layout, state.offer().user(), XFeatures::AVX);
    state.write_state(&layout, &image).unwrap();
    let read_cet = state.read_component(&layout, 11, 0, &mut []);
    let not_enabled = StateError::NotEnabled(XFeatures::single(11));
    assert_eq!(read_cet, Err(not_enabled));
    cpu.make_current(None, &mut state).unwrap();
    assert_eq!(cpu.registers.state[&11], vec![3; 16]);
    assert_eq!(cpu.registers.state[&2], vec![0x82; 256]);
}

#[test]
fn mxcsr_is_checked_and_initial_without_sse_and_avx() {
    for cpu in [made_up::amx(), made_up::amx_xsaveopt()] {
        let layout = cpu.layout();
        let (mut cpu, mut state) = parked(&layout, Allocation::Static);
        let mxcsr = 0x1_1f80_u32.to_le_bytes();
        let refused = Err(StateError::Mxcsr(0x1_1f80));
        assert_eq!(state.write_component(&layout, 1, 0, &mxcsr), refused);
        assert_eq!(state.write_component(&layout, 1, 2, &mxcsr[2..]), refused);
        // An image without any component, all bytes zero.
        state.write_state(&layout, &[0; 576]).unwrap();
        cpu.make_current(None, &mut state).unwrap();
        assert_eq!(
            cpu.registers.not_initial() & layout.user(),
            XFeatures::EMPTY
        );
    }
}

#[test]
fn rule_xs_13_malformed_images_are_refused_by_name() {
    let layout = made_up::avx512().layout();
    let mut state = vcpu(&layout, Allocation::Static, Intercept);
    let offered = state.offer().user();
    let good = filled(&layout, offered, offered);
    let mut refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        change(&mut image);
        state.write_state(&layout, &image).unwrap_err()
    };
    assert_eq!(
        refused(&|image| image[514] = 0x06),
        StateError::NotEnabled(XFeatures::TILES)
    );
    assert_eq!(
        refused(&|image| image[527] = 0x80),
        StateError::Header { offset: 527 }
    );
    assert_eq!(
        refused(&|image| image[575] = 1),
        StateError::Header { offset: 575 }
    );
    assert_eq!(refused(&|image| image[26] = 1), StateError::Mxcsr(0x1_1fa0));
    assert_eq!(
        refused(&|image| image.truncate(2695)),
        StateError::TooShort { needed: 2696 }
    );
    assert_eq!(
        refused(&|image| image.truncate(575)),
        StateError::TooShort { needed: 576 }
    );
    assert_eq!(
        refused(&|image| image[514] = 0x06).to_string(),
        "not offered to this vCPU: TILECFG, TILEDATA"
    );
}

#[test]
fn mxcsr_counts_with_avx_alone() {
    for cpu in [made_up::amx(), made_up::amx_xsaveopt()] {
        let layout = cpu.layout();
        let mut state = vcpu(&layout, Allocation::Static, Intercept);
        let offered = state.offer().user();
        let mut image = filled(&layout, offered, XFeatures::AVX);
        image[24..28].copy_from_slice(&0x1fa0_u32.to_le_bytes());
        state.write_state(&layout, &image).unwrap();
        let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
        cpu.make_current(None, &mut state).unwrap();
        assert_eq!(cpu.registers.state[&1][..4], 0x1fa0_u32.to_le_bytes());
        assert!(cpu.registers.state[&1][4..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn rule_xs_13_registers_keep_their_rules() {
    let layout = made_up::amx().layout();
    let mut state = vcpu(&layout, Allocation::Static, Intercept);
    assert_eq!(
        state.set_xcr0(&layout, 1 | TILE_DATA),
        Err(StateError::Xcr0(XsetbvFault::TilesSplit))
    );
    let reserved = XFeatures::TILE_CONFIG;
    for msr in [XMsr::Xfd, XMsr::XfdErr] {
        assert_eq!(
            state.set_msr(&layout, msr, reserved.bits()),
            Err(StateError::Xfd(XfdFault::Reserved(reserved)))
        );
    }
    assert_eq!(
        state.set_msr(&layout, XMsr::Xss, 1 << 11),
        Err(StateError::Xss(XFeatures::single(11)))
    );
}

#[test]
fn rule_xs_04_state_in_the_registers_is_out_of_reach() {
    let layout = made_up::amx().layout();
    let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).unwrap();
    let mut state = vcpu(&layout, Allocation::Static, Intercept);
    let image = read(&state, &layout);
    cpu.make_current(None, &mut state).unwrap();
    let error = Err(StateError::InRegisters);
    assert_eq!(state.write_state(&layout, &image), error);
    assert_eq!(state.read_state(&layout, &mut image.clone()), error);
    assert_eq!(state.read_component(&layout, 2, 0, &mut []), error);
    assert_eq!(state.write_component(&layout, 2, 0, &[]), error);
    assert_eq!(state.set_xcr0(&layout, 1), error);
    assert_eq!(state.set_msr(&layout, XMsr::Xfd, 0), error);
    assert_eq!(state.msr(XMsr::Xfd), Err(InRegisters));
    cpu.park(&mut state).unwrap();
    assert_eq!(read(&state, &layout), image);
}
