//! Exits, on a CPU with AMX that exists in memory only.

use super::{Report, dispatch};
use crate::{
    cpu::msr::Msr,
    device::{
        bus::Bus,
        legacy::Clock,
        x2apic::{IpiKind, X2Apic},
    },
    memory::{address::Gpa, walk::Paging},
    vcpu::{
        Vcpu,
        control::{ControlModel, Cr0, Cr4},
        cpuid_model::{CpuidModel, supported::Topology},
        outcome::{End, Exception, Fault, Leave, Outcome},
        peers::Peers,
    },
    vmx::{
        exit::{EventInfo, PortAccess, Reason},
        frame::Frame,
    },
    xstate::{
        features::XFeatures,
        fpstate::{Allocation, Fpstate},
        layout::Layout,
        model::Model,
        swap::CpuXstate,
        tests::made_up,
        xfd::{Interception, XfdErrPolicy},
    },
};
use alloc::sync::Arc;
use proptest::prelude::*;
use raw_cpuid::CpuIdReader;
use spin::Mutex;

const TILEDATA: u64 = 1 << 18;
const RFLAGS_IF: u64 = 1 << 9;

/// What the CPU reports of an exit.
#[derive(Clone, Copy, Default)]
struct Reported {
    qualification: u64,
    interruption: u32,
    gpa: u64,
    rflags: u64,
    now: u64,
    paging: Option<Paging>,
}

impl Report for Reported {
    fn qualification(&self) -> u64 {
        self.qualification
    }
    fn interruption(&self) -> EventInfo {
        EventInfo(self.interruption)
    }
    fn guest_physical_address(&self) -> u64 {
        self.gpa
    }
    fn now(&self) -> u64 {
        self.now
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn rsp(&self) -> u64 {
        0x1000
    }
    fn control(&self) -> Paging {
        self.paging.unwrap_or(Paging {
            cr0: 0x8000_0031,
            cr3: 0,
            cr4: 0x2020,
            efer: 0x500,
        })
    }
}

/// Never called: the frame of these vCPUs is not entered.
#[expect(unsafe_code, reason = "the type of the exit handler")]
unsafe extern "sysv64" fn no_exit(_: *mut Frame) -> bool {
    false
}

struct Machine {
    layout: Layout,
    cpu: CpuXstate<Model>,
    vcpu: Vcpu,
}

impl Machine {
    fn new(policy: XfdErrPolicy, allocation: Allocation) -> Self {
        let host = made_up::amx();
        let layout = host.layout();
        let mut cpu = CpuXstate::take_over(Model::dirty(&layout), &layout, 0).expect("memory");
        let permission = made_up::permission(&layout);
        let topology = Topology {
            vcpus: 1,
            apic_id: 0,
        };
        let supported = CpuidModel::supported(&host, &layout, &permission, topology);
        let (cpuid, offer) = supported
            .changed(&layout, &permission, &[])
            .expect("what is supported");
        let mut xstate = Fpstate::new(&layout, offer, allocation, policy).expect("memory");
        cpu.make_current(None, &mut xstate)
            .expect("a new container");
        let control = ControlModel {
            offered_cr4: cpuid.offered_cr4(),
            vmx_cr0: Cr0::NE.bits(),
            vmx_cr4: Cr4::VMXE.bits(),
        };
        let bus = Arc::new(Mutex::new(Bus::new(Clock {
            seconds: || 0,
            tsc: || 0,
            tsc_frequency: 1,
        })));
        let mut vcpu = Vcpu::new(
            Frame::new(no_exit),
            cpuid,
            xstate,
            control,
            X2Apic::new(0, 1),
            Arc::new(Peers::new([(1, None); 2].into_iter())),
            bus,
        );
        // As after the first entry.
        vcpu.attention = false;
        Self { layout, cpu, vcpu }
    }

    fn exit(&mut self, reason: Reason, report: Reported) -> Outcome {
        dispatch(&mut self.vcpu, &mut self.cpu, reason, &report)
    }

    fn plain(&mut self, reason: Reason) -> Outcome {
        self.exit(reason, Reported::default())
    }

    fn wrmsr(&mut self, msr: Msr, value: u64) -> Outcome {
        self.vcpu.frame.registers.rcx = u64::from(msr.0);
        self.vcpu.frame.registers.set_edx_eax(value);
        self.plain(Reason::WRMSR)
    }

    fn rdmsr(&mut self, msr: Msr) -> Option<u64> {
        self.vcpu.frame.registers.rcx = u64::from(msr.0);
        match self.plain(Reason::RDMSR) {
            Outcome::Skip => Some(self.vcpu.frame.registers.edx_eax()),
            other => {
                assert_eq!(other, GP);
                None
            }
        }
    }

    fn xsetbv(&mut self, value: u64) -> Outcome {
        self.vcpu.frame.registers.rcx = 0;
        self.vcpu.frame.registers.set_edx_eax(value);
        self.plain(Reason::XSETBV)
    }

    fn cpuid(&mut self, leaf: u64, sub_leaf: u64) -> [u64; 4] {
        let registers = &mut self.vcpu.frame.registers;
        (registers.rax, registers.rcx) = (leaf, sub_leaf);
        assert_eq!(self.plain(Reason::CPUID), Outcome::Skip);
        let registers = &self.vcpu.frame.registers;
        [registers.rax, registers.rbx, registers.rcx, registers.rdx]
    }
}

fn machine() -> Machine {
    Machine::new(XfdErrPolicy::Intercept, Allocation::Static)
}

const GP: Outcome = Outcome::Inject(Exception::GENERAL_PROTECTION);
const UD: Outcome = Outcome::Inject(Exception::INVALID_OPCODE);

fn ended(fault: Fault) -> Outcome {
    Outcome::Leave(Leave::Ended(End::Fault(fault)))
}

#[test]
fn cpuid_clears_the_upper_halves() {
    let mut machine = machine();
    machine.vcpu.frame.registers.rbx = u64::MAX;
    let answer = machine.cpuid(0xffff_ffff_0000_0000, 0xffff_ffff_0000_0000);
    assert!(
        answer
            .iter()
            .all(|register| *register <= u64::from(u32::MAX))
    );
    assert_eq!(answer[1], u64::from(made_up::amx().cpuid1(0).ebx));
}

#[test]
fn rule_xs_06_a_refused_xsetbv_reaches_nothing() {
    let mut machine = machine();
    let before = machine.vcpu.xstate.xcr0();
    for value in [0, 0b101, 1 << 17 | 7, 1 << 62 | 7] {
        assert_eq!(machine.xsetbv(value), GP);
        assert_eq!(machine.vcpu.xstate.xcr0(), before);
    }
    machine.vcpu.frame.registers.rcx = 1;
    assert_eq!(machine.plain(Reason::XSETBV), GP);
}

#[test]
fn rule_xs_03_cpuid_follows_xsetbv() {
    let mut machine = machine();
    let before = machine.cpuid(0xd, 0)[1];
    assert_eq!(machine.xsetbv(7), Outcome::Skip);
    let size = |machine: &Machine, set| {
        u64::from(machine.layout.size(
            XFeatures::from_bits(set),
            crate::xstate::layout::Format::Standard,
        ))
    };
    assert_eq!(machine.cpuid(0xd, 0)[1], size(&machine, 7));
    assert_ne!(machine.cpuid(0xd, 0)[1], before);
}

#[test]
fn rules_xs_07_to_09_the_first_xfd_write_changes_interception() {
    for (policy, nm) in [
        (XfdErrPolicy::Intercept, true),
        (XfdErrPolicy::Switch, false),
    ] {
        let mut machine = Machine::new(policy, Allocation::Static);
        assert_eq!(machine.wrmsr(Msr::IA32_XFD, 0), Outcome::Skip);
        let expected = Interception {
            xfd: false,
            xfd_err: false,
            nm,
        };
        assert_eq!(
            machine.wrmsr(Msr::IA32_XFD, TILEDATA),
            Outcome::Intercept(expected)
        );
        assert_eq!(machine.wrmsr(Msr::IA32_XFD, 1), GP);
        assert_eq!(machine.rdmsr(Msr::IA32_XFD), Some(TILEDATA));
    }
}

#[test]
fn rule_xs_05_on_demand_asks_for_room_before_anything_changes() {
    let mut machine = Machine::new(XfdErrPolicy::Intercept, Allocation::OnDemand);
    let before = machine.vcpu.xstate.xcr0();
    let tiles = 3 << 17 | 7;
    let wanted = Leave::Grow(XFeatures::from_bits(TILEDATA));
    assert_eq!(machine.xsetbv(tiles), Outcome::Leave(wanted));
    assert_eq!(machine.vcpu.xstate.xcr0(), before);
    machine
        .cpu
        .park(&mut machine.vcpu.xstate)
        .expect("it is here");
    machine
        .vcpu
        .xstate
        .grow(&machine.layout, XFeatures::from_bits(TILEDATA))
        .expect("memory");
    machine
        .cpu
        .make_current(None, &mut machine.vcpu.xstate)
        .expect("it was parked");
    assert_eq!(machine.xsetbv(tiles), Outcome::Skip);
}

#[test]
fn rule_xs_08_nm_is_always_passed_on() {
    let mut machine = machine();
    const NM: u32 = 0x8000_0307;
    let report = Reported {
        interruption: NM,
        ..Reported::default()
    };
    let expected = Outcome::Inject(Exception::DEVICE_NOT_AVAILABLE);
    assert_eq!(machine.exit(Reason::EXCEPTION_OR_NMI, report), expected);
    // An exception that nobody asked for, and an NMI of the machine.
    let page_fault = Reported {
        interruption: 0x8000_0b0e,
        ..Reported::default()
    };
    let info = EventInfo(0x8000_0b0e);
    assert_eq!(
        machine.exit(Reason::EXCEPTION_OR_NMI, page_fault),
        ended(Fault::UnexpectedException(info))
    );
    let nmi = Reported {
        interruption: 0x8000_0202,
        ..Reported::default()
    };
    assert_eq!(
        machine.exit(Reason::EXCEPTION_OR_NMI, nmi),
        Outcome::Leave(Leave::Interrupted)
    );
}

#[test]
fn debug_exceptions_and_alignment_checks_are_passed_on() {
    let mut machine = machine();
    let exit = |machine: &mut Machine, interruption| {
        let report = Reported {
            interruption,
            qualification: 0x4001,
            ..Reported::default()
        };
        machine.exit(Reason::EXCEPTION_OR_NMI, report)
    };
    let debug = |causes, behind| Outcome::InjectDebug { causes, behind };
    assert_eq!(exit(&mut machine, 0x8000_0301), debug(0x4001, false));
    let access = machine.exit(Reason::DR_ACCESS, Reported::default());
    assert_eq!(access, Outcome::RetryDebug);
    // INT1 has no causes.
    assert_eq!(exit(&mut machine, 0x8000_0501), debug(0, true));
    assert_eq!(
        exit(&mut machine, 0x8000_0b11),
        Outcome::Inject(Exception::ALIGNMENT_CHECK)
    );
}

#[test]
fn msrs_are_modelled_or_refused() {
    let mut machine = machine();
    for unknown in [0, 0x3a, 0x480, 0x7ff, 0x900, 0xc000_0104, u32::MAX] {
        assert_eq!(machine.rdmsr(Msr(unknown)), None, "{unknown:#x}");
        assert_eq!(machine.wrmsr(Msr(unknown), 0), GP, "{unknown:#x}");
    }
    assert_eq!(machine.rdmsr(Msr::IA32_MISC_ENABLE), Some(1));
    assert_eq!(machine.wrmsr(Msr::IA32_BIOS_SIGN_ID, 0), Outcome::Skip);
    assert_eq!(machine.wrmsr(Msr::IA32_BIOS_SIGN_ID, 1), GP);
    for (msr, taken, refused) in [
        (
            Msr::IA32_LSTAR,
            0xffff_8000_0000_0000,
            0xffff_0000_0000_0000,
        ),
        (Msr::IA32_CSTAR, 0x7fff_ffff_ffff, 0x8000_0000_0000),
        (Msr::IA32_FMASK, 0xffff_ffff, 1 << 32),
        (Msr::IA32_TSC_AUX, 0xffff_ffff, 1 << 32),
    ] {
        assert_eq!(machine.wrmsr(msr, taken), Outcome::SetMsr(msr, taken));
        assert_eq!(machine.wrmsr(msr, refused), GP, "{msr:?}");
    }
    let star = Outcome::SetMsr(Msr::IA32_STAR, u64::MAX);
    assert_eq!(machine.wrmsr(Msr::IA32_STAR, u64::MAX), star);
    let base = machine.rdmsr(Msr::IA32_APIC_BASE).expect("x2APIC");
    assert_eq!(machine.wrmsr(Msr::IA32_APIC_BASE, base), Outcome::Skip);
    assert_eq!(machine.wrmsr(Msr::IA32_APIC_BASE, base & !0x400), GP);
    assert_eq!(machine.wrmsr(Msr::IA32_TSC, 0), GP);
    assert!(!machine.vcpu.attention);
    assert_eq!(machine.wrmsr(Msr(0x80f), 0x1ff), Outcome::Skip);
    assert!(machine.vcpu.attention);
    assert_eq!(machine.wrmsr(Msr(0x83f), 0x40), Outcome::Skip);
    assert_eq!(machine.vcpu.apic.deliverable(), Some(0x40));
}

#[test]
fn port_accesses_reach_console_and_exit() {
    let mut machine = machine();
    let port = |port: u64, bits: u64| Reported {
        qualification: port << 16 | bits,
        ..Reported::default()
    };
    machine.vcpu.frame.registers.rax = u64::from(b'\n');
    assert_eq!(
        machine.exit(Reason::IO, port(0x3f8, 0)),
        Outcome::SkipAndLeave(Leave::Line)
    );
    machine.vcpu.frame.registers.rax = 0xffff_ffff_0000_0003;
    let end = Leave::Ended(End::Code(3));
    assert_eq!(
        machine.exit(Reason::IO, port(0xf4, 3)),
        Outcome::SkipAndLeave(end)
    );
    const INPUT: u64 = 1 << 3;
    for (size, expected) in [
        (0, 0x1234_5678_9abc_deff),
        (1, 0x1234_5678_9abc_ffff),
        (3, 0xffff_ffff),
    ] {
        machine.vcpu.frame.registers.rax = 0x1234_5678_9abc_def0;
        assert_eq!(
            machine.exit(Reason::IO, port(0x510, INPUT | size)),
            Outcome::Skip
        );
        assert_eq!(machine.vcpu.frame.registers.rax, expected);
    }
    const STRING: u64 = 1 << 4;
    assert_eq!(
        machine.exit(Reason::IO, port(0x3f8, STRING)),
        Outcome::Leave(Leave::StringIo(PortAccess::decode(0x3f8 << 16 | 1 << 4)))
    );
}

#[test]
fn a_halt_waits_only_for_what_can_come() {
    let mut machine = machine();
    let on = Reported {
        rflags: RFLAGS_IF,
        now: 1000,
        ..Reported::default()
    };
    let halted = |interruptible| Outcome::SkipAndLeave(Leave::Halted { interruptible });
    assert_eq!(machine.plain(Reason::HLT), halted(false));
    assert_eq!(machine.exit(Reason::HLT, on), halted(true));
    for (register, value) in [(0x80f, 0x1ff), (0x832, 2 << 17 | 0x40), (0x6e0, 2000)] {
        assert_eq!(machine.wrmsr(Msr(register), value), Outcome::Skip);
    }
    assert_eq!(machine.exit(Reason::HLT, on), halted(true));
    machine.vcpu.attention = false;
    let later = Reported { now: 2000, ..on };
    let with_interrupts_off = Reported { rflags: 0, ..later };
    assert_eq!(
        machine.exit(Reason::HLT, with_interrupts_off),
        halted(false)
    );
    assert_eq!(machine.exit(Reason::HLT, later), Outcome::Skip);
    assert!(machine.vcpu.attention);

    let mut other = Machine::new(XfdErrPolicy::Intercept, Allocation::Static);
    other.vcpu.peers.inboxes()[0].post(IpiKind::Nmi);
    assert_eq!(other.plain(Reason::HLT), Outcome::Skip);
    assert!(other.vcpu.nmi);
}

#[test]
fn ipis_go_to_inboxes_and_ask_for_notification_of_others() {
    const COMMAND: Msr = Msr(0x830);
    let mut machine = machine();
    let peers = machine.vcpu.peers.clone();
    assert_eq!(machine.wrmsr(COMMAND, 1 << 32 | 0x40), Outcome::Skip);
    assert!(!peers.inboxes()[1].is_empty() && peers.inboxes()[0].is_empty());
    assert_eq!(machine.vcpu.notify, 0b10);
    assert!(machine.vcpu.attention && machine.vcpu.has_news());
    machine.vcpu.notify = 0;
    // INIT to itself is for the scheduler.
    assert_eq!(machine.wrmsr(COMMAND, 0x4500), Outcome::Skip);
    assert_eq!(machine.vcpu.notify, 0);
    assert!(machine.vcpu.has_news());
    assert!(peers.inboxes()[0].take_signals().init);
    assert!(!machine.vcpu.has_news());
}

#[test]
fn the_timer_ends_the_slice_or_wakes_the_guest() {
    let mut machine = machine();
    machine.vcpu.slice_end = 1000;
    let at = |now| Reported {
        now,
        ..Reported::default()
    };
    assert_eq!(
        machine.exit(Reason::PREEMPTION_TIMER, at(999)),
        Outcome::Resume
    );
    assert!(machine.vcpu.attention);
    assert_eq!(
        machine.exit(Reason::PREEMPTION_TIMER, at(1000)),
        Outcome::Leave(Leave::SliceOver)
    );
}

#[test]
fn control_registers_are_checked_and_then_left_to_the_cpu() {
    let mut machine = machine();
    let to = |cr: u64, gpr: u64| Reported {
        qualification: gpr << 8 | cr,
        ..Reported::default()
    };
    let osxsave = Cr4::PAE | Cr4::OSXSAVE;
    machine.vcpu.frame.registers.rax = osxsave.bits();
    let expected = Outcome::RetryCr4 {
        shadow: osxsave.bits(),
        cr4: (osxsave | Cr4::VMXE).bits(),
    };
    assert_eq!(machine.cpuid(1, 0)[2] & 1 << 27, 0);
    machine.vcpu.frame.registers.rax = osxsave.bits();
    assert_eq!(machine.exit(Reason::CR_ACCESS, to(4, 0)), expected);
    assert_ne!(machine.cpuid(1, 0)[2] & 1 << 27, 0);
    machine.vcpu.frame.registers.rax = (osxsave | Cr4::VMXE).bits();
    assert_eq!(machine.exit(Reason::CR_ACCESS, to(4, 0)), GP);
    machine.vcpu.frame.registers.rbx = 0xc000_0031;
    assert_eq!(
        machine.exit(Reason::CR_ACCESS, to(0, 3)),
        Outcome::RetryCr0 {
            shadow: 0xc000_0031
        }
    );
    machine.vcpu.frame.registers.rbx = 0xa000_0031;
    assert_eq!(machine.exit(Reason::CR_ACCESS, to(0, 3)), GP);
    machine.vcpu.frame.registers.rbx = 0xf;
    assert_eq!(machine.exit(Reason::CR_ACCESS, to(8, 3)), Outcome::Skip);
    let read = Reported {
        qualification: 5 << 8 | 1 << 4 | 8,
        ..Reported::default()
    };
    assert_eq!(machine.exit(Reason::CR_ACCESS, read), Outcome::Skip);
    assert_eq!(machine.vcpu.frame.registers.rbp, 0xf);
    machine.vcpu.frame.registers.rbx = 0x10;
    assert_eq!(machine.exit(Reason::CR_ACCESS, to(8, 3)), GP);
}

#[test]
fn what_is_not_offered_or_not_there_ends_as_on_hardware() {
    let mut machine = machine();
    for reason in [
        Reason::VMXON,
        Reason::VMCLEAR,
        Reason::VMREAD,
        Reason::INVEPT,
        Reason::MONITOR,
        Reason::MWAIT,
    ] {
        assert_eq!(machine.plain(reason), UD, "{reason}");
    }
    assert_eq!(machine.plain(Reason::RDPMC), GP);
    assert_eq!(machine.plain(Reason::WBINVD), Outcome::Skip);
    assert_eq!(machine.plain(Reason::VMCALL), Outcome::Skip);
    assert_eq!(machine.vcpu.frame.registers.rax, u64::MAX);
    assert_eq!(
        machine.plain(Reason::TRIPLE_FAULT),
        ended(Fault::TripleFault)
    );
    assert_eq!(
        machine.plain(Reason(63)),
        ended(Fault::Unhandled(Reason(63)))
    );
    let violation = Reported {
        gpa: 0xfee0_0000,
        qualification: 2,
        ..Reported::default()
    };
    let fault = Fault::NoMemoryAt {
        gpa: Gpa(0xfee0_0000),
        qualification: 2,
    };
    assert_eq!(machine.exit(Reason::EPT_VIOLATION, violation), ended(fault));
}

proptest! {
    /// Case 10, and the rule that nothing a guest does panics.
    #[test]
    fn no_exit_panics_and_nothing_impossible_reaches_the_cpu(
        exits in proptest::collection::vec(
            (0_u16..80, any::<[u64; 4]>(), any::<u64>(), any::<u32>(), any::<u64>()), 1..60,
        ),
        on_demand: bool, switch: bool,
    ) {
        let policy = if switch { XfdErrPolicy::Switch } else { XfdErrPolicy::Intercept };
        let allocation = if on_demand { Allocation::OnDemand } else { Allocation::Static };
        let mut machine = Machine::new(policy, allocation);
        let interesting = [0x1c4, 0x1c5, 0xda0, 0x80f, 0x830, 0x832, 0x838, 0x6e0];
        for (reason, [rax, rbx, rcx, rdx], qualification, interruption, now) in exits {
            let registers = &mut machine.vcpu.frame.registers;
            (registers.rax, registers.rbx, registers.rdx) = (rax, rbx, rdx);
            registers.rcx = if rcx % 2 == 0 { rcx } else { interesting[(rcx >> 1) as usize % interesting.len()] };
            let report = Reported { qualification, interruption, gpa: rax, rflags: rbx, now, paging: None };
            // The model of the CPU asserts on values that would fault.
            let _ = machine.exit(Reason(reason), report);
        }
    }
}
