//! Case 9: three guests on two processors, in any order of events; each must
//! find exactly what it left, and nothing of the others.

use super::made_up::{self, MadeUp, vcpu};
use crate::xstate::events::Outcome;
use crate::xstate::features::XFeatures;
use crate::xstate::fpstate::{Allocation, Fpstate};
use crate::xstate::layout::Layout;
use crate::xstate::model::Model;
use crate::xstate::registers::XMsr;
use crate::xstate::swap::CpuXstate;
use crate::xstate::xfd::XfdErrPolicy::{self, Intercept, Switch};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

/// What a guest, or the scheduler, does next.
#[derive(Clone, Debug)]
enum Step {
    Run { vcpu: usize, cpu: usize },
    Write { number: u8, pattern: u8 },
    Xcr0(u64),
    Xfd(u64),
    Park,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let dynamic = prop_oneof![
        Just(0),
        Just(1 << 18),
        Just(1 << 40),
        Just(1 << 18 | 1 << 40)
    ];
    prop_oneof![
        6 => (0..3_usize, 0..2_usize).prop_map(|(vcpu, cpu)| Step::Run { vcpu, cpu }),
        6 => (0..41_u8, 1..255_u8).prop_map(|(number, pattern)| Step::Write { number, pattern }),
        2 => prop_oneof![
            Just(1), Just(7), Just(0xe7), Just(0x602e7), Just(1 << 40 | 0x602e7)
        ].prop_map(Step::Xcr0),
        3 => dynamic.prop_map(Step::Xfd),
        1 => Just(Step::Park),
        1 => Just(Step::Reset),
    ]
}

/// What a guest must find.
#[derive(Clone, Default)]
struct Expected {
    /// Components that it wrote, with what.
    written: BTreeMap<u8, u8>,
    xcr0: u64,
    xfd: u64,
    xfd_err: u64,
}

struct World {
    layout: Layout,
    cpus: Vec<CpuXstate<Model>>,
    vcpus: Vec<Fpstate>,
    expected: Vec<Expected>,
    /// Which vCPU was made current last on each processor.
    last: [Option<usize>; 2],
    running: (usize, usize),
}

impl World {
    fn new(made_up: &MadeUp) -> Self {
        let layout = made_up.layout();
        let cpu = |n| CpuXstate::take_over(Model::dirty(&layout), &layout, n).unwrap();
        let reset = Expected {
            xcr0: 1,
            ..Expected::default()
        };
        let kinds: [(Allocation, XfdErrPolicy); 3] = [
            (Allocation::Static, Intercept),
            (Allocation::OnDemand, Intercept),
            (Allocation::OnDemand, Switch),
        ];
        Self {
            cpus: std::vec![cpu(0), cpu(1)],
            vcpus: kinds.map(|(a, p)| vcpu(&layout, a, p)).into(),
            expected: std::vec![reset; 3],
            layout,
            last: [None; 2],
            running: (0, 0),
        }
    }

    /// Schedules `vcpu` on `cpu`, as a run loop would.
    fn run(&mut self, vcpu: usize, cpu: usize) {
        let [mut outgoing, mut incoming] = [None, None];
        let before = self.last[cpu].filter(|before| *before != vcpu);
        if self.last[1 - cpu] == Some(vcpu) {
            self.cpus[1 - cpu].park(&mut self.vcpus[vcpu]).unwrap();
            self.last[1 - cpu] = None;
        }
        for (index, state) in self.vcpus.iter_mut().enumerate() {
            if Some(index) == before {
                outgoing = Some(state);
            } else if index == vcpu {
                incoming = Some(state);
            }
        }
        let incoming = incoming.unwrap();
        self.cpus[cpu].make_current(outgoing, incoming).unwrap();
        self.last[cpu] = Some(vcpu);
        self.running = (vcpu, cpu);
    }

    fn act(&mut self, step: &Step) {
        let (vcpu, cpu) = self.running;
        match *step {
            Step::Run { vcpu, cpu } => self.run(vcpu, cpu),
            Step::Park => {
                self.cpus[cpu].park(&mut self.vcpus[vcpu]).unwrap();
                self.run(vcpu, cpu);
            }
            Step::Reset => {
                self.vcpus[vcpu].reset();
                self.expected[vcpu] = Expected {
                    xcr0: 1,
                    ..Expected::default()
                };
                self.run(vcpu, cpu);
            }
            Step::Write { number, pattern } => self.write(number, pattern),
            Step::Xcr0(value) => {
                let accepted = value & !self.vcpus[vcpu].offer().user().bits() == 0;
                let cpu = &mut self.cpus[cpu];
                let outcome = cpu.xsetbv(&mut self.vcpus[vcpu], 0, value);
                assert_eq!(outcome.is_ok(), accepted);
                if accepted {
                    self.expected[vcpu].xcr0 = value;
                    self.retry(outcome.unwrap(), step);
                }
            }
            Step::Xfd(value) => self.write_xfd(value, step),
        }
    }

    fn retry(&mut self, outcome: Outcome, step: &Step) {
        let (vcpu, cpu) = self.running;
        if let Outcome::Grow(features) = outcome {
            self.cpus[cpu].park(&mut self.vcpus[vcpu]).unwrap();
            self.vcpus[vcpu].grow(&self.layout, features).unwrap();
            self.run(vcpu, cpu);
            self.act(step);
        }
    }

    fn write_xfd(&mut self, value: u64, step: &Step) {
        let (vcpu, cpu) = self.running;
        let state = &mut self.vcpus[vcpu];
        let offered = state.offer().xfd();
        if !offered.contains(XFeatures::from_bits(value)) || offered.is_empty() {
            return;
        }
        self.expected[vcpu].xfd = value;
        if state.xfd.interception(state.room()).xfd {
            let outcome = self.cpus[cpu].write_msr(state, XMsr::Xfd, value);
            self.retry(outcome.unwrap(), step);
        } else {
            self.cpus[cpu].registers.xfd = XFeatures::from_bits(value);
        }
    }

    fn write(&mut self, number: u8, pattern: u8) {
        let (vcpu, cpu) = self.running;
        let (state, cpu) = (&mut self.vcpus[vcpu], &mut self.cpus[cpu]);
        let expected = &mut self.expected[vcpu];
        cpu.before_entry(state);
        match cpu.registers.guest_writes(number, pattern) {
            Ok(()) => {
                expected.written.insert(number, pattern);
            }
            Err("#NM") => {
                expected.xfd_err = 1 << number;
                assert!(expected.xfd & 1 << number != 0);
                if state.xfd.interception(state.room()).nm {
                    cpu.after_exit(state);
                    cpu.on_nm(state);
                    cpu.before_entry(state);
                }
            }
            Err(_) => assert!(expected.xcr0 & 1 << number == 0),
        }
        assert_eq!(cpu.registers.xfd_err.bits(), expected.xfd_err);
        cpu.after_exit(state);
    }

    /// Case 9: every byte and every bit is the guest's own.
    fn check(&self) {
        let (vcpu, cpu) = self.running;
        let (registers, expected) = (&self.cpus[cpu].registers, &self.expected[vcpu]);
        assert_eq!(registers.xcr0.bits(), expected.xcr0);
        if self.layout.extensions().xfd {
            assert_eq!(registers.xfd.bits(), expected.xfd);
        }
        for (number, state) in &registers.state {
            match expected.written.get(number) {
                Some(pattern) => assert!(state.iter().all(|byte| byte == pattern)),
                None if *number == 0 => assert_eq!(state[4], 0xff),
                None => assert_eq!(*state, registers.initial(*number)),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn case_9_rules_xs_10_xs_11_nothing_lost_and_nothing_seen(
        kind in 0..6_usize, steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(&made_up::all_with_tiles()[kind]);
        world.run(0, 0);
        for step in &steps {
            world.act(step);
            world.check();
        }
    }
}
