//! Exceptions in a payload: learn which one an instruction raises, or handle
//! #NM and go on.

#![expect(unsafe_code, reason = "exception entry and the code it returns to")]

use core::{
    arch::naked_asm,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};
use x86_64::{VirtAddr, structures::idt::InterruptDescriptorTable};

/// Bytes from one entry stub to the next.
const STUB_BYTES: u64 = 16;
/// #DB
pub const DB: u64 = 1;
/// #PF
pub const PF: u64 = 14;
/// #UD
pub const UD: u64 = 6;
/// #NM
pub const NM: u64 = 7;
/// #GP
pub const GP: u64 = 13;
/// No exception.
pub const NONE: u64 = u64::MAX;

/// Where the instruction under trial ends; 0 while none is.
#[doc(hidden)]
pub static RESUME: AtomicU64 = AtomicU64::new(0);
/// The vector that it raised.
static RAISED: AtomicU64 = AtomicU64::new(NONE);
/// Called for #NM outside a trial.
static ON_NM: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// Called for NMIs, and for interrupts, vectors from 32 on.
static ON_INTERRUPT: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// Where the IDT of the running payload is.
static IDT: spin_free::Table = spin_free::Table::new();

/// A table that is written once, before it is used.
mod spin_free {
    use core::cell::UnsafeCell;
    use x86_64::structures::idt::InterruptDescriptorTable;

    pub(super) struct Table(UnsafeCell<InterruptDescriptorTable>);

    // SAFETY: written while the payload has one CPU, and read by the CPUs alone.
    unsafe impl Sync for Table {}

    impl Table {
        pub(super) const fn new() -> Self {
            Self(UnsafeCell::new(InterruptDescriptorTable::new()))
        }

        pub(super) const fn get(&self) -> *mut InterruptDescriptorTable {
            self.0.get()
        }
    }
}

/// What the stub leaves on the stack.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// One stub a vector. All general-purpose registers are kept; the handler may
/// change RIP.
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
        "movq %rsp, %rbp",
        "andq $-16, %rsp",
        "cld",
        "call {handle}",
        "movq %rbp, %rsp",
        "popq %r15", "popq %r14", "popq %r13", "popq %r12",
        "popq %r11", "popq %r10", "popq %r9", "popq %r8",
        "popq %rbp", "popq %rdi", "popq %rsi", "popq %rdx",
        "popq %rcx", "popq %rbx", "popq %rax",
        "addq $16, %rsp",
        "iretq",
        stub_bytes = const STUB_BYTES,
        handle = sym handle,
        options(att_syntax),
    )
}

/// RFLAGS.TF, which a trial may have set.
const SINGLE_STEP: u64 = 1 << 8;
/// The first vector that is not an exception's.
const FIRST_INTERRUPT: u64 = 32;
/// The vector of NMIs.
pub const NMI: u64 = 2;

extern "C" fn handle(frame: &mut Frame) {
    if frame.vector >= FIRST_INTERRUPT || frame.vector == NMI {
        let handler = ON_INTERRUPT.load(Ordering::Relaxed);
        assert!(
            !handler.is_null(),
            "interrupt {} that nobody waits for",
            frame.vector
        );
        // SAFETY: only `on_interrupt` stores here, and only functions of this type.
        let handler = unsafe { core::mem::transmute::<*mut (), fn(u8)>(handler) };
        return handler(frame.vector as u8);
    }
    let resume = RESUME.swap(0, Ordering::Relaxed);
    if resume != 0 {
        RAISED.store(frame.vector, Ordering::Relaxed);
        frame.rip = resume;
        frame.rflags &= !SINGLE_STEP;
        return;
    }
    let handler = ON_NM.load(Ordering::Relaxed);
    if frame.vector == NM && !handler.is_null() {
        // SAFETY: only `on_nm` stores here, and only functions of this type.
        let handler = unsafe { core::mem::transmute::<*mut (), fn()>(handler) };
        return handler();
    }
    panic!(
        "exception {} at {:#x}, error code {:#x}",
        frame.vector, frame.rip, frame.error_code
    );
}

/// Makes the CPU's exceptions arrive here.
pub fn install() {
    let table = IDT.get();
    let stub = |vector: u64| VirtAddr::from_ptr(stubs as *const ()) + vector * STUB_BYTES;
    // SAFETY: the table is the payload's own and in use by nobody yet; each stub
    // builds the frame that its vector needs.
    unsafe {
        let table: &mut InterruptDescriptorTable = &mut *table;
        table.divide_error.set_handler_addr(stub(0));
        table.debug.set_handler_addr(stub(1));
        table.non_maskable_interrupt.set_handler_addr(stub(NMI));
        table.breakpoint.set_handler_addr(stub(3));
        table.invalid_opcode.set_handler_addr(stub(UD));
        table.device_not_available.set_handler_addr(stub(NM));
        table.double_fault.set_handler_addr(stub(8));
        table.invalid_tss.set_handler_addr(stub(10));
        table.segment_not_present.set_handler_addr(stub(11));
        table.stack_segment_fault.set_handler_addr(stub(12));
        table.general_protection_fault.set_handler_addr(stub(GP));
        table.page_fault.set_handler_addr(stub(14));
        table.x87_floating_point.set_handler_addr(stub(16));
        table.alignment_check.set_handler_addr(stub(17));
        table.simd_floating_point.set_handler_addr(stub(19));
        for vector in FIRST_INTERRUPT as u8..=u8::MAX {
            table[vector].set_handler_addr(stub(u64::from(vector)));
        }
    }
    load();
}

/// Makes the exceptions of another CPU of the payload arrive here too.
pub fn load() {
    // SAFETY: the table was filled before there was a second CPU, and lives for ever.
    unsafe { (*IDT.get()).load_unsafe() };
}

/// Lets #NM lead to `handler` itself, which is code as the CPU enters it.
pub fn nm_gate(handler: unsafe extern "C" fn()) {
    let handler = VirtAddr::from_ptr(handler as *const ());
    // SAFETY: the table is the payload's own, and nothing raises #NM meanwhile.
    unsafe {
        let table: &mut InterruptDescriptorTable = &mut *IDT.get();
        table.device_not_available.set_handler_addr(handler);
    }
}

/// Calls `handler` for each #NM from now on; the instruction is then retried.
pub fn on_nm(handler: fn()) {
    ON_NM.store(handler as *mut (), Ordering::Relaxed);
}

/// Calls `handler` with the vector of each interrupt and NMI from now on.
pub fn on_interrupt(handler: fn(u8)) {
    ON_INTERRUPT.store(handler as *mut (), Ordering::Relaxed);
}

/// The vector that the last trial raised, or [`NONE`].
pub fn raised() -> u64 {
    RESUME.store(0, Ordering::Relaxed);
    RAISED.swap(NONE, Ordering::Relaxed)
}

/// Executes one instruction and gives the vector of the exception that it
/// raises, or [`NONE`]: `vector_of!("xsetbv", in("ecx") 0, ...)`. An instruction
/// that raises one is skipped. Operands are those of `asm!`.
#[macro_export]
macro_rules! vector_of {
    ($instruction:literal $(, $($operands:tt)*)?) => {{
        #[allow(
            unused_unsafe,
            clippy::macro_metavars_in_unsafe,
            reason = "the operands are those of the instruction under trial"
        )]
        // SAFETY: the payload owns its VM, and the handler resumes behind the
        // instruction, whatever it raises.
        unsafe {
            core::arch::asm!(
                "lea {resume}, [rip + 2f]",
                "mov [{slot}], {resume}",
                $instruction,
                "2:",
                resume = out(reg) _,
                slot = in(reg) $crate::exceptions::RESUME.as_ptr(),
                $($($operands)*)?
            );
        }
        $crate::exceptions::raised()
    }};
}
