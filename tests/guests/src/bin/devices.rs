//! The I/O APIC, and the UART's interrupt through it.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "registers of devices")]

use core::{
    arch::asm,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};
use guests::{apic, exceptions, payload, processor, report::Report, smp, vector_of};
use x86_64::{
    VirtAddr,
    instructions::{interrupts, port::Port, tlb},
    registers::control::{Cr2, Cr3},
    structures::paging::{PageTable, PageTableFlags},
};

payload!(main);

/// The I/O APIC's registers in memory, and those behind its window.
const SELECT: *mut u32 = 0xfec0_0000 as *mut u32;
const WINDOW: *mut u32 = 0xfec0_0010 as *mut u32;
const VERSION: u32 = 1;
const ENTRIES: u32 = 0x10;
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;

/// The UART's input, registers and bits.
const PIN: u32 = 4;
const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = 0x3f9;
const IDENTIFICATION: u16 = 0x3fa;
const MODEM_CONTROL: u16 = 0x3fc;
const TRANSMITTER: u8 = 1 << 1;
const OUT2: u8 = 1 << 3;

const VECTOR: u8 = 0x44;

/// Interrupts, and the CPU that took the last.
static COUNT: AtomicU32 = AtomicU32::new(0);
static TAKEN_BY: AtomicU64 = AtomicU64::new(u64::MAX);

/// The second CPU can take interrupts.
static STARTED: AtomicBool = AtomicBool::new(false);

fn read(register: u32) -> u32 {
    // SAFETY: the registers are where every PC has them.
    unsafe {
        SELECT.write_volatile(register);
        WINDOW.read_volatile()
    }
}

fn write(register: u32, value: u32) {
    // SAFETY: as above.
    unsafe {
        SELECT.write_volatile(register);
        WINDOW.write_volatile(value);
    }
}

fn set_entry(pin: u32, entry: u64) {
    write(ENTRIES + 2 * pin + 1, (entry >> 32) as u32);
    write(ENTRIES + 2 * pin, entry as u32);
}

fn out(port: u16, value: u8) {
    // SAFETY: registers of the UART.
    unsafe { Port::new(port).write(value) };
}

fn input(port: u16) -> u8 {
    // SAFETY: as above.
    unsafe { Port::new(port).read() }
}

fn handle(vector: u8) {
    if vector == VECTOR {
        // Reading it ends the interrupt.
        input(IDENTIFICATION);
        TAKEN_BY.store(u64::from(apic::id()), SeqCst);
        COUNT.fetch_add(1, SeqCst);
    }
    apic::end_of_interrupt();
}

fn other(_: u32) -> ! {
    STARTED.store(true, SeqCst);
    loop {
        interrupts::enable_and_hlt();
    }
}

/// Waits for the interrupt number `count`.
fn taken(count: u32) -> bool {
    interrupts::enable();
    let end = apic::now() + 400_000_000;
    while COUNT.load(SeqCst) < count && apic::now() < end {
        core::hint::spin_loop();
    }
    interrupts::disable();
    COUNT.load(SeqCst) == count
}

/// The UART's register that only remembers.
const SCRATCH: u16 = 0x3ff;
const PAGE_FAULT: u64 = 14;
/// Nothing is mapped from here on.
const UNMAPPED: u64 = 1 << 32;

/// Memory that nobody uses, in a large page of its own.
const SPARE: u64 = 8 << 20;

/// Makes the large page at `address` writable or not.
fn set_writable(address: u64, on: bool) {
    let address = VirtAddr::new(address);
    let (root, _) = Cr3::read();
    let mut table = root.start_address().as_u64() as *mut PageTable;
    let indices = [address.p4_index(), address.p3_index()];
    // SAFETY: the first 4 GiB are mapped one to one in large pages, and the tables are
    // this payload's.
    unsafe {
        for index in indices {
            table = (&(*table))[index].addr().as_u64() as *mut PageTable;
        }
        let entry = &mut (&mut (*table))[address.p2_index()];
        let mut flags = entry.flags();
        flags.set(PageTableFlags::WRITABLE, on);
        entry.set_flags(flags);
    }
    tlb::flush(address);
}

/// INS and OUTS in 64-bit mode, and the page faults that they raise.
fn string_io(report: &mut Report) {
    let mut bytes = [0_u8; 6];
    out(SCRATCH, 0x5a);
    let (mut to, mut count) = (bytes.as_mut_ptr() as u64 + 1, 4_u64);
    // SAFETY: four bytes of six, from the second on.
    unsafe { asm!("rep insb", in("dx") SCRATCH, inout("rdi") to, inout("rcx") count) };
    let end = bytes.as_ptr() as u64 + 5;
    report.equal("INS fills memory", bytes, [0, 0x5a, 0x5a, 0x5a, 0x5a, 0]);
    report.equal("INS moves RDI and RCX", (to, count), (end, 0));
    let text = [0x11_u8, 0x22];
    let start = text.as_ptr() as u64;
    let (mut from, mut count) = (start + 1, 2_u64);
    // SAFETY: two bytes, from the last one down.
    unsafe {
        asm!("std", "rep outsb", "cld", in("dx") SCRATCH, inout("rsi") from, inout("rcx") count)
    };
    report.equal("OUTS sends downwards", input(SCRATCH), 0x11);
    report.equal("OUTS moves RSI and RCX", (from, count), (start - 1, 0));

    // The second byte lies where nothing is mapped.
    let mut from = UNMAPPED - 1;
    let raised = vector_of!("outsw", in("dx") SCRATCH, inout("rsi") from);
    let fault = (raised, Cr2::read_raw(), from);
    report.equal(
        "OUTS faults where nothing is mapped",
        fault,
        (PAGE_FAULT, UNMAPPED, UNMAPPED - 1),
    );
    let mut to = SPARE;
    set_writable(SPARE, false);
    let raised = vector_of!("insb", in("dx") SCRATCH, inout("rdi") to);
    set_writable(SPARE, true);
    // SAFETY: nobody uses this memory.
    let found = unsafe { (SPARE as *const u8).read_volatile() };
    let fault = (raised, Cr2::read_raw(), to, found);
    report.equal(
        "INS faults where it may not write",
        fault,
        (PAGE_FAULT, SPARE, SPARE, 0),
    );
}

fn main(_: &'static str) -> ! {
    let mut report = Report::default();
    exceptions::on_interrupt(handle);
    processor::enable_osxsave();
    apic::enable();
    smp::prepare(other);
    smp::start(1);
    while !STARTED.load(SeqCst) {
        core::hint::spin_loop();
    }

    report.equal("24 inputs", read(VERSION), 0x17_0011);
    report.all(
        "every input is masked after reset",
        (0..24).map(|pin| u64::from(read(ENTRIES + 2 * pin))),
        |entry| entry & MASKED != 0,
    );
    set_entry(PIN, 1 << 56 | MASKED | 0x77);
    report.equal(
        "an entry reads as written",
        (read(ENTRIES + 2 * PIN), read(ENTRIES + 2 * PIN + 1)),
        (0x1_0077, 1 << 24),
    );

    out(MODEM_CONTROL, OUT2);
    out(INTERRUPT_ENABLE, TRANSMITTER);
    let masked = taken(0);
    input(IDENTIFICATION);
    // Every character that a report prints interrupts too, so they come later.
    let by = |entry, count| {
        set_entry(PIN, entry | u64::from(VECTOR));
        out(DATA, b' ');
        let taken = taken(count);
        (taken, TAKEN_BY.load(SeqCst))
    };
    let found = [
        by(0, 1),
        by(1 << 56, 2),
        by(LEVEL, 3),
        by(1 << 56 | LEVEL, 4),
    ];
    set_entry(PIN, MASKED);
    out(INTERRUPT_ENABLE, 0);
    out(DATA, b'\n');
    report.holds("a masked input interrupts nobody", masked);
    for (what, (taken, by), expected) in [
        ("an edge", found[0], 0),
        ("an edge for the second CPU", found[1], 1),
        ("a level", found[2], 0),
        ("a level for the second CPU", found[3], 1),
    ] {
        report.holds(format_args!("{what} interrupts once"), taken);
        report.equal(format_args!("{what} is taken by its CPU"), by, expected);
    }

    string_io(&mut report);

    let value = 0_u64;
    report.equal(
        "every addressing form reaches the registers",
        [
            vector_of!("mov eax, [{base} + 4 * {index}]", base = in(reg) SELECT, index = in(reg) 0_u64, out("eax") _),
            vector_of!("mov [{base} + {index} + 0x10], r9d", base = in(reg) SELECT, index = in(reg) 0_u64, in("r9") value),
            vector_of!("mov dword ptr [{base} - 0x100], 1", base = in(reg) SELECT as u64 + 0x100),
        ],
        [exceptions::NONE; 3],
    );
    report.equal("and the last one had an effect", read_selected(), 1);
    report.finish()
}

fn read_selected() -> u32 {
    // SAFETY: as for `read`.
    unsafe { SELECT.read_volatile() }
}
