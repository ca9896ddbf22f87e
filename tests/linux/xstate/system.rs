//! System calls that the standard library does not have.

use crate::tiles::{load_all, pattern};
use std::{io, process::exit, ptr};

const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
const TILEDATA: libc::c_long = 18;
/// The register set with the XSAVE area (Linux, `elf.h`).
const NT_X86_XSTATE: usize = 0x202;

/// Asks for permission to use tiles.
pub(crate) fn request_permission() -> io::Result<()> {
    // SAFETY: the call takes two numbers.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILEDATA) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Exit(i32),
    Signal(i32),
    Other,
}

/// What becomes of a child that does `work` and exits.
pub(crate) fn fate_of(work: impl FnOnce()) -> Fate {
    // SAFETY: this program has no other thread when it forks.
    match unsafe { libc::fork() } {
        0 => {
            work();
            exit(0)
        }
        child => wait(child),
    }
}

fn wait(child: libc::pid_t) -> Fate {
    let mut status = 0;
    // SAFETY: the status is ours.
    unsafe { libc::waitpid(child, &mut status, 0) };
    if libc::WIFEXITED(status) {
        Fate::Exit(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Fate::Signal(libc::WTERMSIG(status))
    } else {
        Fate::Other
    }
}

/// Installs `handler` on a stack of its own, with room for tiles.
pub(crate) fn on_signal(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> bool {
    const STACK_BYTES: usize = 1 << 20;
    let stack = Box::leak(vec![0_u8; STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: STACK_BYTES,
    };
    // SAFETY: the stack and the handler live for ever.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaltstack(&stack, ptr::null_mut()) == 0
            && libc::sigaction(signal, &action, ptr::null_mut()) == 0
    }
}

/// Context switches of this process so far, of its own will or not.
pub(crate) fn context_switches() -> i64 {
    // SAFETY: the structure is ours.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_nvcsw + usage.ru_nivcsw
}

/// CPUs that there are.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Goes to the CPU with this number; whether that is where the thread is then.
pub(crate) fn go_to(cpu: usize) -> bool {
    // SAFETY: the set is ours, and zero is the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        let moved = libc::sched_setaffinity(0, size_of_val(&set), &set) == 0;
        moved && usize::try_from(libc::sched_getcpu()) == Ok(cpu)
    }
}

/// Whether PTRACE_GETREGSET shows the tiles of a child that stopped with a pattern.
pub(crate) fn ptrace_sees_tiles() -> bool {
    const SEED: u8 = 0x44;
    const AREA_BYTES: usize = 1 << 14;
    // SAFETY: this program has no other thread when it forks.
    let child = unsafe { libc::fork() };
    if child == 0 {
        load_all(SEED);
        // SAFETY: stops until the parent lets it go on.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
        exit(0);
    }
    let mut area = vec![0_u8; AREA_BYTES];
    let mut vector = libc::iovec {
        iov_base: area.as_mut_ptr().cast(),
        iov_len: area.len(),
    };
    // SAFETY: the child has stopped, and the area is as long as the vector says.
    let read = unsafe {
        libc::waitpid(child, ptr::null_mut(), 0);
        let read = libc::ptrace(
            libc::PTRACE_GETREGSET,
            child,
            NT_X86_XSTATE,
            &raw mut vector,
        );
        libc::ptrace(libc::PTRACE_CONT, child, 0, 0);
        read == 0
    };
    let ended = wait(child) == Fate::Exit(0);
    // The standard format has TILEDATA where CPUID.(0xD,18).EBX says.
    let at = std::arch::x86_64::__cpuid_count(0xd, 18).ebx as usize;
    let tiles = (0..8).flat_map(|number| pattern(SEED, number));
    read && ended
        && area
            .iter()
            .skip(at)
            .zip(tiles)
            .all(|(found, expected)| *found == expected)
}
