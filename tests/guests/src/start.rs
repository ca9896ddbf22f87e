//! From the entry point to the payload's `main`, and its panics.

#![expect(unsafe_code, reason = "what the loader left in memory")]

use crate::{console, exceptions, say};
use core::{ffi::CStr, panic::PanicInfo};

/// `hvm_start_info` (Xen, `public/arch-x86/hvm/start_info.h`), as far as payloads
/// use it.
#[repr(C)]
pub struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
}

/// Names the payload's main function, `fn(&'static str) -> !`, which is given the
/// command line; brings the entry point and the panic handler.
#[macro_export]
macro_rules! payload {
    ($main:path) => {
        #[expect(unsafe_code, reason = "the entry point is a symbol for the linker")]
        mod entry_point {
            /// In: RDI = the start info, RSP = top of the loader's stack, a multiple of
            /// 16, which the call makes what the ABI wants.
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn _start() -> ! {
                core::arch::naked_asm!("call {enter}", "ud2", enter = sym super::enter)
            }
        }

        extern "C" fn enter(info: &'static $crate::start::StartInfo) -> ! {
            $main($crate::start::begin(info))
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::start::broke(info)
        }
    };
}

/// What every payload begins with; gives the command line.
pub fn begin(info: &'static StartInfo) -> &'static str {
    exceptions::install();
    let command_line = info.command_line as *const _;
    // SAFETY: the loader ends the command line with a zero and nobody changes it.
    let command_line = unsafe { CStr::from_ptr(command_line) };
    command_line.to_str().unwrap_or("")
}

/// Whether `word` stands in the command line.
pub fn has_word(command_line: &str, word: &str) -> bool {
    command_line
        .split_ascii_whitespace()
        .any(|other| other == word)
}

/// The number behind `name=` in the command line, or `default`.
pub fn number(command_line: &str, name: &str, default: u64) -> u64 {
    command_line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        .unwrap_or(default)
}

/// Exit code of a payload that broke.
const BROKEN: u32 = 2;

/// Reports that the payload itself broke, and ends the VM.
pub fn broke(info: &PanicInfo<'_>) -> ! {
    say!("payload broke: {info}");
    console::exit(BROKEN)
}
