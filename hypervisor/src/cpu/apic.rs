//! The CPU's own local APIC: other CPUs are started, notified and stopped by it,
//! and it wakes a CPU that halts (SDM Vol. 3, "Advanced Programmable Interrupt
//! Controller (APIC)"). x2APIC mode where there is one, else xAPIC mode.

#![expect(unsafe_code, reason = "APIC registers are MSRs, or memory of a device")]

use super::{
    bits::join,
    msr::{self, Msr},
    tsc,
};
use raw_cpuid::CpuIdReader;
use spin::Once;
use x86_64::VirtAddr;

/// The vector that takes a CPU out of a guest or of a halt; its handler does
/// nothing, because what there is to do is found by looking.
pub const NOTIFICATION: u8 = 0xf0;
/// The vector of interrupts that were withdrawn (SDM Vol. 3, "Spurious Interrupt").
pub const SPURIOUS: u8 = 0xff;

const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Numbers of registers: an MSR from [`FIRST_MSR`] on, or 16 bytes of the page.
const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const EOI: u32 = 0x0b;
const SPURIOUS_VECTOR: u32 = 0x0f;
const COMMAND: u32 = 0x30;
const COMMAND_HIGH: u32 = 0x31;
const LVT_TIMER: u32 = 0x32;
const INITIAL_COUNT: u32 = 0x38;
const DIVIDE: u32 = 0x3e;
const FIRST_MSR: u32 = 0x800;
const REGISTER_BYTES: u64 = 16;

const SOFTWARE_ENABLED: u32 = 1 << 8;
const TSC_DEADLINE_MODE: u32 = 2 << 17;
const DIVIDE_BY_ONE: u32 = 0b1011;
const DELIVERY_PENDING: u32 = 1 << 12;

const NMI: u32 = 0x4400;
const INIT: u32 = 0x4500;
const START_UP: u32 = 0x4600;
const FIXED: u32 = 0x4000;
const ALL_BUT_SELF: u32 = 0b11 << 18;

/// How registers are reached.
#[derive(Clone, Copy)]
enum Mode {
    /// x2APIC.
    Msrs,
    /// xAPIC, whose page is mapped here.
    Page(VirtAddr),
}

/// The local APIC of whichever CPU this is used on.
#[derive(Clone, Copy)]
pub struct Apic {
    mode: Mode,
    /// The timer compares with the TSC; otherwise it counts crystal ticks, of
    /// which each is so many TSC ticks.
    crystal: Option<u64>,
}

static MACHINE: Once<Apic> = Once::new();

/// The machine's, once [`Apic::choose`] has chosen.
pub fn machine() -> Option<Apic> {
    MACHINE.get().copied()
}

/// The physical address of the registers' page, for those without x2APIC.
pub fn page_address(cpuid: &impl CpuIdReader) -> Option<u64> {
    // SAFETY: the register exists on every CPU with long mode.
    (!has_x2apic(cpuid)).then(|| unsafe { msr::read(Msr::IA32_APIC_BASE) } & BASE_ADDRESS)
}

fn has_x2apic(cpuid: &impl CpuIdReader) -> bool {
    const X2APIC: u32 = 1 << 21;
    cpuid.cpuid1(1).ecx & X2APIC != 0
}

impl Apic {
    /// Chooses the mode for all CPUs; `page` is where [`page_address`] is mapped.
    pub fn choose(cpuid: &impl CpuIdReader, page: Option<VirtAddr>) -> Self {
        const TSC_DEADLINE: u32 = 1 << 24;
        let deadline = cpuid.cpuid1(1).ecx & TSC_DEADLINE != 0;
        *MACHINE.call_once(|| Self {
            mode: page.map_or(Mode::Msrs, Mode::Page),
            crystal: (!deadline).then(|| tsc::ticks_per_crystal_tick(cpuid)),
        })
    }

    /// Makes this CPU's APIC ready: enabled, nothing masked by priority, the timer
    /// stopped.
    pub fn enable(self) {
        let mode = match self.mode {
            Mode::Msrs => BASE_ENABLED | BASE_X2APIC,
            Mode::Page(_) => BASE_ENABLED,
        };
        // SAFETY: the register exists; interrupts are off, and none is expected
        // that another mode could lose.
        unsafe {
            let base = msr::read(Msr::IA32_APIC_BASE);
            msr::write(Msr::IA32_APIC_BASE, base | mode);
        }
        self.write(SPURIOUS_VECTOR, SOFTWARE_ENABLED | u32::from(SPURIOUS));
        self.write(TASK_PRIORITY, 0);
        match self.crystal {
            None => self.write(LVT_TIMER, TSC_DEADLINE_MODE | u32::from(NOTIFICATION)),
            Some(_) => {
                self.write(DIVIDE, DIVIDE_BY_ONE);
                self.write(LVT_TIMER, u32::from(NOTIFICATION));
            }
        }
        self.set_timer(None);
    }

    /// This CPU's ID.
    pub fn id(self) -> u32 {
        match self.mode {
            Mode::Msrs => self.read(ID),
            Mode::Page(_) => self.read(ID) >> 24,
        }
    }

    /// Resets all other CPUs, which then wait for a start-up IPI.
    pub fn reset_others(self) {
        self.command(0, ALL_BUT_SELF | INIT);
    }

    /// Lets CPU `id` begin in real mode at `page`, a page below 1 MiB, if it waits
    /// for that.
    pub fn start_up(self, id: u32, page: u8) {
        self.command(id, START_UP | u32::from(page));
    }

    /// Takes CPU `id` out of its guest or its halt.
    pub fn notify(self, id: u32) {
        self.command(id, FIXED | u32::from(NOTIFICATION));
    }

    /// Interrupts all other CPUs, whatever they do.
    pub fn stop_others(self) {
        self.command(0, ALL_BUT_SELF | NMI);
    }

    /// Ends the interrupt that was delivered last, if any.
    pub fn end_of_interrupt(self) {
        self.write(EOI, 0);
    }

    /// Lets a notification come when the TSC is `deadline`, or none.
    pub fn set_timer(self, deadline: Option<u64>) {
        match self.crystal {
            // SAFETY: the register exists, and an interrupt at any time is expected.
            None => unsafe { msr::write(Msr::IA32_TSC_DEADLINE, deadline.unwrap_or(0)) },
            Some(ratio) => {
                let count = deadline.map_or(0, |deadline| {
                    (deadline.saturating_sub(tsc::now()) / ratio).clamp(1, u64::from(u32::MAX))
                });
                self.write(INITIAL_COUNT, count as u32);
            }
        }
    }

    fn command(self, destination: u32, command: u32) {
        match self.mode {
            // SAFETY: the register exists, and what others do with an interrupt is
            // theirs to know.
            Mode::Msrs => unsafe {
                msr::write(Msr(FIRST_MSR + COMMAND), join(destination, command));
            },
            Mode::Page(_) => {
                self.write(COMMAND_HIGH, destination << 24);
                self.write(COMMAND, command);
                while self.read(COMMAND) & DELIVERY_PENDING != 0 {
                    core::hint::spin_loop();
                }
            }
        }
    }

    fn read(self, register: u32) -> u32 {
        match self.mode {
            // SAFETY: called for registers that can be read, in x2APIC mode.
            Mode::Msrs => unsafe { msr::read(Msr(FIRST_MSR + register)) as u32 },
            // SAFETY: the page of the registers is mapped there, uncached.
            Mode::Page(page) => unsafe {
                let at = page + u64::from(register) * REGISTER_BYTES;
                at.as_ptr::<u32>().read_volatile()
            },
        }
    }

    fn write(self, register: u32, value: u32) {
        match self.mode {
            // SAFETY: called for registers that can be written, with values that
            // they take.
            Mode::Msrs => unsafe { msr::write(Msr(FIRST_MSR + register), u64::from(value)) },
            // SAFETY: as for reads.
            Mode::Page(page) => unsafe {
                let at = page + u64::from(register) * REGISTER_BYTES;
                at.as_mut_ptr::<u32>().write_volatile(value);
            },
        }
    }
}
