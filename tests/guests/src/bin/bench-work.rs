//! Work that has nothing to do with a hypervisor: products of tiles, AVX-512 and integer
//! arithmetic. Prints `bench NAME TICKS`, to be compared with the same without one.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "loops of known instructions")]

use core::arch::asm;
use guests::{
    apic, console, exceptions, payload,
    processor::{self, TILEDATA, offered_xcr0, try_xsetbv},
    say,
    tiles::{self, Config},
};

payload!(main);

/// Far more than a time slice.
const TURNS: u64 = 10_000_000;

fn row(name: &str, work: impl FnOnce()) {
    let start = apic::now();
    work();
    say!("bench {name} {}", apic::now() - start);
}

fn main(_: &'static str) -> ! {
    processor::enable_osxsave();
    assert_eq!(try_xsetbv(0, offered_xcr0()), exceptions::NONE, "XSETBV");
    if offered_xcr0() & TILEDATA != 0 {
        Config::FULL.load();
        tiles::load_all(3);
        row("amx", || {
            // SAFETY: changes tiles and a counter.
            unsafe {
                asm!("2:", "tdpbssd tmm0, tmm1, tmm2", "tdpbf16ps tmm3, tmm4, tmm5",
                    "dec {0}", "jnz 2b", inout(reg) TURNS / 10 => _)
            }
        });
    }
    row("avx512", || {
        // SAFETY: changes vector registers and a counter.
        unsafe {
            asm!("2:", "vpaddq zmm0, zmm1, zmm2", "vfmadd231ps zmm3, zmm4, zmm5",
                "dec {0}", "jnz 2b", inout(reg) TURNS => _)
        }
    });
    row("integer", || {
        // SAFETY: changes two registers.
        unsafe {
            asm!("2:", "imul {1}, {0}", "rol {1}, 7", "dec {0}", "jnz 2b",
                inout(reg) TURNS => _, inout(reg) 1_u64 => _)
        }
    });
    console::exit(0)
}
