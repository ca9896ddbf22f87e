//! VM entry and exit: the only assembly on the way.
//!
//! RSP serves as the pointer to the guest's registers: HOST_RSP is the end of
//! the vCPU's [`Registers`], so the CPU itself delivers the pointer at VM exit
//! and fifteen pushes save the guest. The stack proper is kept beside them. In
//! between an NMI or #MC would write below the registers; both have interrupt
//! stacks of their own.

#![expect(unsafe_code, reason = "VM entry and exit")]

use super::frame::Frame;
use core::{arch::naked_asm, mem::offset_of};

/// How a stay in the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Left {
    /// The exit handler asked to leave, by returning false.
    ByHandler = false as u8,
    /// VM entry failed before the guest ran; the VMCS's instruction error says why.
    EntryFailed = 1,
}

/// Enters the guest of the current VMCS, and again after each exit, until
/// `frame.on_exit` returns false or an entry fails.
///
/// Registers: callee-saved ones are kept on the host's stack; the fifteen in
/// `frame` are the guest's on entry and stored back on exit; RSP, RIP and RFLAGS
/// are switched by the CPU through the VMCS; extended state is not touched.
///
/// # Safety
/// The current VMCS belongs to the vCPU of `frame`, its HOST_RSP is
/// [`host_rsp`] and its HOST_RIP [`exit_point`], and its host state is this CPU's.
/// `frame` is `launched` exactly if that VMCS was since it was last cleared.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter(frame: *mut Frame) -> Left {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        // Keeps RSP a multiple of 16 at the handler's call.
        "sub rsp, 8",
        "mov [rdi + {host_stack}], rsp",
        "cmp byte ptr [rdi + {launched}], 0",
        "mov rsp, rdi",
        // Neither POP nor MOV changes the flags of the comparison.
        "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
        "pop rbp", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rbx", "pop rax",
        "jne 3f",
        "vmlaunch",
        "jmp 4f",
        "3:",
        "vmresume",
        "4:",
        // Only a failed entry gets here; RSP still points behind the registers.
        "mov rsp, [rsp + {host_stack} - {host_rsp}]",
        "mov eax, {entry_failed}",
        "jmp 5f",
        ".balign 16",
        ".global tilevisor_exit_point",
        "tilevisor_exit_point:",
        "push rax", "push rbx", "push rcx", "push rdx", "push rsi", "push rdi", "push rbp",
        "push r8", "push r9", "push r10", "push r11", "push r12", "push r13", "push r14", "push r15",
        "mov rbx, rsp",
        "mov rdi, rsp",
        "mov rsp, [rbx + {host_stack}]",
        "call [rbx + {on_exit}]",
        "test al, al",
        "jz 5f",
        "mov rsp, rbx",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
        "pop rbp", "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rbx", "pop rax",
        "vmresume",
        "jmp 4b",
        // AL is the result: what the handler returned, or the failure.
        "5:",
        "add rsp, 8",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
        host_stack = const offset_of!(Frame, host_stack),
        host_rsp = const Frame::HOST_RSP,
        launched = const offset_of!(Frame, launched),
        on_exit = const offset_of!(Frame, on_exit),
        entry_failed = const Left::EntryFailed as u8,
    )
}

unsafe extern "C" {
    /// Where the CPU goes on at VM exit; only ever an address.
    fn tilevisor_exit_point();
}

/// Value for HOST_RIP.
pub fn exit_point() -> u64 {
    tilevisor_exit_point as *const () as u64
}

/// Value for HOST_RSP of the vCPU that owns `frame`.
pub fn host_rsp(frame: *const Frame) -> u64 {
    frame as u64 + Frame::HOST_RSP as u64
}
