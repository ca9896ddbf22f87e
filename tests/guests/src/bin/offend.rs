//! Does what no well-behaved guest does, in the way that the command line names, and
//! reports what became of it if it goes on.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "mistakes on purpose")]

use core::arch::asm;
use guests::{
    apic,
    exceptions::{DB, GP, NM, NONE, PF, UD},
    payload,
    processor::{self, XFD, XFD_ERR, set_task_switched, try_rdmsr, try_wrmsr, try_xsetbv},
    report::Report,
    say,
    start::{has_word, number},
    vector_of,
};
use x86_64::instructions::port::Port;

payload!(main);

/// Both ranges of the MSR bitmap, and a place outside them.
fn msrs() -> impl Iterator<Item = u32> {
    (0..0x2000)
        .chain(0x4000_0000..0x4000_0100)
        .chain(0xc000_0000..0xc000_2000)
        // The interrupt command: what it does to others has tests of its own.
        .filter(|&msr| msr != apic::COMMAND)
}

/// xorshift64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Turns of a storm.
const TURNS: u32 = 20_000;

fn main(command_line: &'static str) -> ! {
    let mut report = Report::default();
    let mut random = Random(number(command_line, "seed", 0x1234_5678_9abc_def1));
    let how = |word| has_word(command_line, word);
    processor::enable_osxsave();
    say!("about to offend by {command_line}");
    if how("spin") {
        x86_64::instructions::interrupts::disable();
        loop {
            core::hint::spin_loop();
        }
    }
    if how("init-self") {
        apic::send(apic::id(), apic::INIT);
        say!("still there");
    }
    if how("wrmsr") {
        let (mut written, mut refused) = (0_u32, 0_u32);
        for msr in msrs() {
            for value in [random.next(), random.next() >> 32, 0] {
                match try_wrmsr(msr, value) {
                    NONE => written += 1,
                    GP => refused += 1,
                    _ => report.holds("WRMSR raises #GP or nothing", false),
                }
            }
        }
        say!("{written} writes of MSRs taken, {refused} refused");
        report.holds(
            "some were taken, most refused",
            written > 0 && refused > written,
        );
    }
    if how("rdmsr") {
        let (mut read, mut refused) = (0_u32, 0_u32);
        for msr in msrs() {
            match try_rdmsr(msr) {
                Ok(_) => read += 1,
                Err(GP) => refused += 1,
                Err(_) => report.holds("RDMSR raises #GP or nothing", false),
            }
        }
        say!("{read} MSRs read, {refused} refused");
        report.holds("some were read, most refused", read > 0 && refused > read);
    }
    if how("ports") {
        for _ in 0..TURNS {
            let (port, value) = (random.next() as u16, random.next() as u32);
            // The exit port would end the VM at once, and the console garble the report.
            if (0xf1..=0xf4).contains(&port) || (0x3f5..=0x3ff).contains(&port) {
                continue;
            }
            // SAFETY: the VM's own ports.
            unsafe {
                match value % 6 {
                    0 => Port::<u8>::new(port).write(value as u8),
                    1 => Port::<u16>::new(port).write(value as u16),
                    2 => Port::<u32>::new(port).write(value),
                    3 => _ = Port::<u8>::new(port).read(),
                    4 => _ = Port::<u16>::new(port).read(),
                    _ => _ = Port::<u32>::new(port).read(),
                }
            }
        }
        report.holds("random port accesses end", true);
    }
    if how("exceptions") {
        exceptions(&mut report);
    }
    if how("vmx") {
        vmx(&mut report);
    }
    if how("xstate") {
        xstate(&mut report, &mut random);
    }
    if how("mov-ss-step") {
        // A trap that waits behind an instruction that exits.
        let vector = vector_of!(
            "mov {ss:e}, ss; pushfq; or qword ptr [rsp], 0x100; popfq; mov ss, {ss:e}; cpuid; nop",
            ss = out(reg) _, inout("eax") 0 => _, out("ecx") _, out("edx") _
        );
        report.holds(
            "a single step is reported or lost",
            vector == DB || vector == NONE,
        );
    }
    if how("halt") {
        // SAFETY: the end of this VM.
        unsafe { asm!("cli", "hlt") };
    }
    report.finish()
}

/// Every vector many times over.
fn exceptions(report: &mut Report) {
    const BEYOND_THE_TABLES: u64 = 0x12_3456_7000;
    let mut count = |what, vector: u64, raise: &mut dyn FnMut() -> u64| {
        let raised = (0..TURNS).filter(|_| raise() == vector).count();
        report.equal(what, raised, TURNS as usize);
    };
    count("#UD", UD, &mut || vector_of!("ud2"));
    count(
        "#PF",
        PF,
        &mut || vector_of!("mov {at}, [{at}]", at = inout(reg) BEYOND_THE_TABLES => _),
    );
    count(
        "#GP",
        GP,
        &mut || vector_of!("mov cr3, {value}", value = in(reg) u64::MAX),
    );
    count("#DB by INT1", DB, &mut || vector_of!(".byte 0xf1"));
    count("#DB by a single step", DB, &mut || {
        vector_of!("pushfq; or qword ptr [rsp], 0x100; popfq; nop; nop")
    });
    set_task_switched(true);
    count("#NM", NM, &mut || vector_of!("fninit"));
    set_task_switched(false);
}

fn vmx(report: &mut Report) {
    let operand = [0_u64; 2];
    let mut count = |what, vector| report.equal(what, vector, UD);
    count(
        "VMCLEAR",
        vector_of!("vmclear [{at}]", at = in(reg) &operand),
    );
    count("VMLAUNCH", vector_of!("vmlaunch"));
    count(
        "VMPTRLD",
        vector_of!("vmptrld [{at}]", at = in(reg) &operand),
    );
    count(
        "VMPTRST",
        vector_of!("vmptrst [{at}]", at = in(reg) &operand),
    );
    count(
        "VMREAD",
        vector_of!("vmread {field}, {field}", field = inout(reg) 0_u64 => _),
    );
    count("VMRESUME", vector_of!("vmresume"));
    count(
        "VMWRITE",
        vector_of!("vmwrite {field}, {field}", field = in(reg) 0_u64),
    );
    count("VMXOFF", vector_of!("vmxoff"));
    count("VMXON", vector_of!("vmxon [{at}]", at = in(reg) &operand));
    count(
        "INVEPT",
        vector_of!("invept {kind}, [{at}]", kind = in(reg) 2_u64, at = in(reg) &operand),
    );
    count(
        "INVVPID",
        vector_of!("invvpid {kind}, [{at}]", kind = in(reg) 2_u64, at = in(reg) &operand),
    );
    count("VMFUNC", vector_of!("vmfunc", in("eax") 0, in("ecx") 0));
    let cr4_vmxe = 1_u64 << 13;
    report.equal(
        "CR4.VMXE",
        vector_of!("mov {value}, cr4; or {value}, {bit}; mov cr4, {value}", value = out(reg) _, bit = in(reg) cr4_vmxe),
        GP,
    );
}

/// XCR0, XFD and XFD_ERR with any values.
fn xstate(report: &mut Report, random: &mut Random) {
    let mut strange = 0_u32;
    for _ in 0..TURNS {
        let value = random.next() & random.next();
        let small = value & 0x6_00ff;
        for vector in [
            try_xsetbv(0, small),
            try_xsetbv(value as u32 & 1, value),
            try_wrmsr(XFD, small),
            try_wrmsr(XFD_ERR, small),
            vector_of!("tilerelease"),
            vector_of!("tilezero tmm0"),
        ] {
            strange += u32::from(![NONE, GP, UD, NM].contains(&vector));
        }
    }
    report.equal("exceptions other than #GP, #UD and #NM", strange, 0);
}
