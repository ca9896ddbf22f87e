//! Exceptions and interrupts in the hypervisor itself.
//!
//! The hypervisor causes no exceptions, so each vector ends here: with a report
//! that a person can read, and the end of the machine. Guests' exceptions never
//! arrive here; they are VM exits. Interrupts are off but for a halted CPU, and
//! the two that it can take do nothing but end the halt.

#![expect(unsafe_code, reason = "exception entry stubs")]

use crate::{
    platform::{self, backtrace, power},
    say, say_registers,
};
use core::arch::naked_asm;
use x86_64::{VirtAddr, registers::control::Cr2};

/// Bytes from one entry stub to the next.
const STUB_BYTES: u64 = 16;

/// What the entry stub leaves on the stack, lowest address first.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// One stub a vector, [`STUB_BYTES`] apart. In: the CPU's exception frame. The
/// stub completes it to a [`Frame`] (a zero where the CPU pushes no error code:
/// SDM Vol. 3, "Error Code" (6.13)) and never returns, so no register's fate
/// matters beyond being recorded.
#[unsafe(naked)]
unsafe extern "C" fn stubs() {
    naked_asm!(
        ".set vector, 0",
        ".rept 256",
        ".balign {stub_bytes}",
        ".if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)",
        "pushq $0",
        ".endif",
        "pushq $vector",
        "jmp 2f",
        ".set vector, vector + 1",
        ".endr",
        "2:",
        "pushq %rax", "pushq %rbx", "pushq %rcx", "pushq %rdx",
        "pushq %rsi", "pushq %rdi", "pushq %rbp", "pushq %r8",
        "pushq %r9", "pushq %r10", "pushq %r11", "pushq %r12",
        "pushq %r13", "pushq %r14", "pushq %r15",
        "movq %rsp, %rdi",
        "andq $-16, %rsp",
        "cld",
        "call {report}",
        "ud2",
        stub_bytes = const STUB_BYTES,
        report = sym report,
        options(att_syntax),
    )
}

/// The entry stub of `vector`.
pub(super) fn stub(vector: u8) -> VirtAddr {
    VirtAddr::from_ptr(stubs as *const ()) + u64::from(vector) * STUB_BYTES
}

/// Halts until an interrupt comes, with interrupts on for just that long.
///
/// An interrupt that strikes before the HLT skips it, so that none is slept through;
/// STI alone holds interrupts back for one instruction (SDM Vol. 2, "STI"), but the
/// emulated machine, with several CPUs, was seen to deliver one there.
///
/// In and out: interrupts off; no register but RFLAGS changes.
#[unsafe(naked)]
pub extern "sysv64" fn wait_for_interrupt() {
    naked_asm!(
        "sti",
        ".global tilevisor_halt",
        "tilevisor_halt:",
        "hlt",
        "cli",
        "ret",
    )
}

/// Ends a halt: what the notification is about is found by looking. In: the CPU's
/// interrupt frame, whose RIP is moved on from the HLT. No register changes.
#[unsafe(naked)]
unsafe extern "C" fn return_from_halt() {
    naked_asm!(
        "push rax",
        "lea rax, [rip + tilevisor_halt]",
        "cmp [rsp + 8], rax",
        "jne 2f",
        // HLT is one byte long.
        "inc qword ptr [rsp + 8]",
        "2:",
        "pop rax",
        "iretq",
    )
}

/// The entry of a notification.
pub(super) fn notification() -> VirtAddr {
    VirtAddr::from_ptr(return_from_halt as *const ())
}

const NMI: u64 = 2;

extern "C" fn report(frame: &Frame) -> ! {
    if frame.vector == NMI && power::stopping() {
        // Another CPU ends the machine.
        power::halt();
    }
    power::stop_others();
    platform::console::break_lock();
    say!(
        "hypervisor fault: {} (vector {}), error code {:#x}, at rip {:#x}",
        name(frame.vector),
        frame.vector,
        frame.error_code,
        frame.rip
    );
    say!(
        "  cr2 {:#018x}  rflags {:#x}  cs {:#x}  ss {:#x}",
        Cr2::read_raw(),
        frame.rflags,
        frame.cs,
        frame.ss
    );
    say_registers!(frame: rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15);
    backtrace::print(frame.rip, frame.rsp);
    power::end(power::Verdict::Failure)
}

/// SDM Vol. 3, "Exception and Interrupt Vectors" (6.2).
fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE divide error",
        "#DB debug exception",
        "non-maskable interrupt",
        "#BP breakpoint",
        "#OF overflow",
        "#BR bound range exceeded",
        "#UD invalid opcode",
        "#NM device not available",
        "#DF double fault",
        "coprocessor segment overrun",
        "#TS invalid TSS",
        "#NP segment not present",
        "#SS stack-segment fault",
        "#GP general protection",
        "#PF page fault",
        "reserved exception",
        "#MF x87 floating-point error",
        "#AC alignment check",
        "#MC machine check",
        "#XM SIMD floating-point exception",
        "#VE virtualization exception",
        "#CP control protection exception",
    ];
    usize::try_from(vector)
        .ok()
        .and_then(|vector| NAMES.get(vector))
        .copied()
        .unwrap_or("interrupt")
}
