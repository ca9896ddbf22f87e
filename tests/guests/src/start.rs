//! From the entry point to the payload's `main`, and its panics.

#![expect(unsafe_code, reason = "entry point and what the loader left in memory")]

use crate::{console, exceptions, say};
use core::{arch::naked_asm, ffi::CStr, panic::PanicInfo};

/// `hvm_start_info` (Xen, `public/arch-x86/hvm/start_info.h`), as far as payloads
/// use it.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
}

unsafe extern "Rust" {
    /// The payload, named by [`payload!`](crate::payload).
    safe fn payload_main(command_line: &'static str) -> !;
}

/// Names the payload's main function: `fn(&'static str) -> !`, which is given
/// the command line.
#[macro_export]
macro_rules! payload {
    ($main:path) => {
        #[unsafe(no_mangle)]
        #[expect(unsafe_code, reason = "the name by which the entry point calls it")]
        extern "Rust" fn payload_main(command_line: &'static str) -> ! {
            $main(command_line)
        }
    };
}

/// In: RDI = the start info, RSP = top of the loader's stack, a multiple of 16,
/// which the call makes what the ABI wants.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("call {enter}", "ud2", enter = sym enter)
}

extern "C" fn enter(info: &'static StartInfo) -> ! {
    exceptions::install();
    let command_line = info.command_line as *const _;
    // SAFETY: the loader ends the command line with a zero and nobody changes it.
    let command_line = unsafe { CStr::from_ptr(command_line) };
    payload_main(command_line.to_str().unwrap_or(""))
}

/// Whether `word` stands in the command line.
pub fn has_word(command_line: &str, word: &str) -> bool {
    command_line
        .split_ascii_whitespace()
        .any(|other| other == word)
}

/// Exit code of a payload that broke.
const BROKEN: u32 = 2;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("payload broke: {info}");
    console::exit(BROKEN)
}
