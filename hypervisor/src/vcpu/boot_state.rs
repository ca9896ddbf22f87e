//! The registers with which a vCPU begins, for each kind of image.

use super::control::Cr0;
use crate::vmx::frame::Registers;

/// One segment register with what is hidden behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Access rights as VMX has them (SDM Vol. 3, "Guest Register State").
    pub rights: u32,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
}

/// Registers at the first entry; general-purpose registers that are not named
/// are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootState {
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// CR3
    pub cr3: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// IA32_EFER
    pub efer: u64,
    /// RIP
    pub rip: u64,
    /// RSP
    pub rsp: u64,
    /// The other general-purpose registers.
    pub registers: Registers,
    /// CS
    pub code: Segment,
    /// SS, DS, ES, FS and GS
    pub data: Segment,
    /// GDTR
    pub gdt: TableRegister,
    /// Limit of IDTR, whose base is zero.
    pub idt_limit: u32,
}

/// RFLAGS: only the bit that is always one.
pub const RFLAGS_AT_START: u64 = 1 << 1;
/// DR7 after reset (SDM Vol. 3, "Processor State After Reset").
pub const DR7_AT_RESET: u64 = 0x400;
/// IA32_PAT after reset (SDM Vol. 3, "Programming the PAT").
pub const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

/// A busy 32-bit TSS: what TR must hold even where no task is used.
pub const TASK: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0x67,
    rights: 0x8b,
};
/// A segment register that cannot be used.
pub const UNUSABLE: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0,
    rights: 1 << 16,
};

/// What INIT and reset load into a segment register in real mode: 64 KiB, present,
/// accessed, with execute/read or read/write.
const REAL_MODE_LIMIT: u32 = 0xffff;
const REAL_MODE_CODE: u32 = 0x9b;
const REAL_MODE_DATA: u32 = 0x93;
/// Where a CPU begins after reset (SDM Vol. 3, "First Instruction Executed").
const RESET_CODE_SELECTOR: u16 = 0xf000;
const RESET_CODE_BASE: u64 = 0xffff_0000;
const RESET_RIP: u64 = 0xfff0;

const EFER_LME: u64 = 1 << 8;
/// IA32_EFER: long mode is active.
pub(super) const EFER_LMA: u64 = 1 << 10;
const CR4_PAE: u64 = 1 << 5;
/// Present, code or data, accessed; with execute/read or read/write below.
const FLAT_RIGHTS: u32 = 1 << 7 | 1 << 4 | 1;
const CODE_READABLE: u32 = 0b1010;
const DATA_WRITABLE: u32 = 0b0010;
/// Access rights of a segment of 64-bit code.
pub(super) const LONG: u32 = 1 << 13;
const DEFAULT_32: u32 = 1 << 14;
const PAGES: u32 = 1 << 15;

const DATA_RIGHTS: u32 = FLAT_RIGHTS | DATA_WRITABLE | DEFAULT_32 | PAGES;

fn flat(selector: u16, rights: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights,
    }
}

impl BootState {
    /// After reset or INIT (SDM Vol. 3, "Processor State After Reset"), with RDX as
    /// `signature` says: family, model and stepping.
    pub fn reset(signature: u64) -> Self {
        let segment = |selector, base, rights| Segment {
            selector,
            base,
            limit: REAL_MODE_LIMIT,
            rights,
        };
        Self {
            cr0: (Cr0::CD | Cr0::NW | Cr0::ET).bits(),
            cr3: 0,
            cr4: 0,
            efer: 0,
            rip: RESET_RIP,
            rsp: 0,
            registers: Registers {
                rdx: signature,
                ..Registers::default()
            },
            code: segment(RESET_CODE_SELECTOR, RESET_CODE_BASE, REAL_MODE_CODE),
            data: segment(0, 0, REAL_MODE_DATA),
            gdt: TableRegister {
                base: 0,
                limit: REAL_MODE_LIMIT,
            },
            idt_limit: REAL_MODE_LIMIT,
        }
    }

    /// After INIT and a start-up IPI with `page`, a page below 1 MiB.
    pub fn start_up(signature: u64, page: u8) -> Self {
        let mut state = Self::reset(signature);
        state.code.selector = u16::from(page) << 8;
        state.code.base = u64::from(page) << 12;
        state.rip = 0;
        state
    }

    /// Real mode with all segments at zero, and the stack below the code at `ip`.
    pub fn real_mode(ip: u16) -> Self {
        Self {
            cr0: Cr0::ET.bits(),
            rip: u64::from(ip),
            rsp: u64::from(ip),
            ..Self::start_up(0, 0)
        }
    }

    /// 32-bit protected mode without paging, with flat segments.
    pub fn protected_mode(
        rip: u64,
        [rax, rbx]: [u64; 2],
        gdt: TableRegister,
        selectors: [u16; 2],
    ) -> Self {
        let [code, data] = selectors;
        Self {
            cr0: (Cr0::PE | Cr0::ET).bits(),
            cr3: 0,
            cr4: 0,
            efer: 0,
            rip,
            rsp: 0,
            registers: Registers {
                rax,
                rbx,
                ..Registers::default()
            },
            code: flat(code, FLAT_RIGHTS | CODE_READABLE | DEFAULT_32 | PAGES),
            data: flat(data, DATA_RIGHTS),
            gdt,
            idt_limit: 0,
        }
    }

    /// 64-bit mode with the page tables at `cr3` and flat segments.
    pub fn long_mode(
        rip: u64,
        rsp: u64,
        [rdi, rsi]: [u64; 2],
        cr3: u64,
        gdt: TableRegister,
        selectors: [u16; 2],
    ) -> Self {
        let [code, data] = selectors;
        Self {
            cr0: (Cr0::PE | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG).bits(),
            cr3,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            rip,
            rsp,
            registers: Registers {
                rdi,
                rsi,
                ..Registers::default()
            },
            code: flat(code, FLAT_RIGHTS | CODE_READABLE | LONG | PAGES),
            data: flat(data, DATA_RIGHTS),
            gdt,
            idt_limit: 0,
        }
    }
}
