//! ACPI tables for a guest that looks for them: a machine of reduced hardware (ACPI
//! Specification 6.5, "Hardware-Reduced ACPI") with local APICs, one I/O APIC and a
//! UART, and the ports at which it is switched off or reset.

use acpi_tables::{
    Aml,
    aml::{Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope},
    fadt::{FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use alloc::{vec, vec::Vec};

/// Where the tables lie: memory in which a PC's firmware has its own, and in which
/// the RSDP is looked for.
pub const TABLES: u64 = 0xe_0000;
/// The address behind the last byte that tables may have.
pub const TABLES_END: u64 = 0x10_0000;

/// Port of the reset register, and the value that resets: the chipset's on every PC.
pub const RESET_PORT: u16 = 0xcf9;
/// See [`RESET_PORT`].
pub const RESET_VALUE: u8 = 0x06;
/// Port of the sleep control register.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// Port of the sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// The value of the sleep control register that switches off: SLP_EN with the type
/// of the state S5.
pub const SLEEP_SOFT_OFF: u8 = SLEEP_ENABLE | SOFT_OFF_TYPE << SLEEP_TYPE_SHIFT;
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SOFT_OFF_TYPE: u8 = 5;

/// Physical address of the I/O APIC's registers.
const IO_APIC: u32 = 0xfec0_0000;
/// Physical address of the local APICs' registers.
const LOCAL_APIC: u32 = 0xfee0_0000;
/// vCPUs that a local-APIC entry can name.
pub const MOST_VCPUS: u32 = 255;

const UART_FIRST_PORT: u16 = 0x3f8;
const UART_PORTS: u8 = 8;
const UART_INPUT: u32 = 4;

const OEM: [u8; 6] = *b"TILEVI";
const TABLE_ID: [u8; 8] = *b"TILEVISR";
const REVISION: u32 = 1;
const ALIGNMENT: usize = 64;
/// Bytes of an RSDP (ACPI Specification, "Root System Description Pointer").
const RSDP_BYTES: usize = 36;

/// The tables for a VM with `vcpus`, to lie at [`TABLES`], where the RSDP is first.
pub(crate) fn tables(vcpus: u32) -> Vec<u8> {
    let mut area = vec![0; RSDP_BYTES];
    let dsdt = append(&mut area, &dsdt());
    let fadt = append(&mut area, &fadt(dsdt));
    let madt = append(&mut area, &madt(vcpus));
    let mut xsdt = XSDT::new(OEM, TABLE_ID, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = append(&mut area, &bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    area.iter_mut().zip(rsdp).for_each(|(to, from)| *to = from);
    area
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Puts `table` at the end of `area`; its physical address.
fn append(area: &mut Vec<u8>, table: &[u8]) -> u64 {
    area.resize(area.len().next_multiple_of(ALIGNMENT), 0);
    let at = TABLES + area.len() as u64;
    area.extend(table);
    at
}

fn dsdt() -> Vec<u8> {
    const REVISION_OF_64_BIT_INTEGERS: u8 = 2;
    const HEADER_BYTES: u32 = 36;
    let sleep = SOFT_OFF_TYPE;
    let soft_off = Name::new(
        Path::new("_S5_"),
        &Package::new(vec![&sleep, &sleep, &0_u8, &0_u8]),
    );
    let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0501"));
    let unit = Name::new(Path::new("_UID"), &0_u8);
    let ports = IO::new(UART_FIRST_PORT, UART_FIRST_PORT, 1, UART_PORTS);
    // Consumer, edge-triggered, active high, not shared.
    let interrupt = Interrupt::new(true, true, false, false, UART_INPUT);
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![&ports, &interrupt]),
    );
    let uart = Device::new(Path::new("COM1"), vec![&id, &unit, &resources]);
    let devices = Scope::new(Path::new("_SB_"), vec![&uart]);
    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_BYTES,
        REVISION_OF_64_BIT_INTEGERS,
        OEM,
        TABLE_ID,
        REVISION,
    );
    table.append_slice(&bytes(&soft_off));
    table.append_slice(&bytes(&devices));
    table.as_slice().to_vec()
}

fn fadt(dsdt: u64) -> Vec<u8> {
    /// Of the boot flags: no VGA to probe for, and no clock that interrupts. That there
    /// is no keyboard controller is said by a clear bit.
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_CLOCK: u16 = 1 << 5;
    let port = |port: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(port),
        )
    };
    let mut table = FADTBuilder::new(OEM, TABLE_ID, REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    table.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    table.reset_reg = port(RESET_PORT);
    table.reset_value = RESET_VALUE;
    table.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    table.sleep_status_reg = port(SLEEP_STATUS_PORT);
    bytes(&table.finalize())
}

fn madt(vcpus: u32) -> Vec<u8> {
    let mut table = MADT::new(
        OEM,
        TABLE_ID,
        REVISION,
        LocalInterruptController::Address(LOCAL_APIC),
    );
    for id in 0..vcpus.min(MOST_VCPUS) as u8 {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, IO_APIC, 0));
    bytes(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_at(area: &[u8], address: u64) -> &[u8] {
        let at = (address - TABLES) as usize;
        let bytes = u32::from_le_bytes(area[at + 4..at + 8].try_into().unwrap());
        let table = &area[at..at + bytes as usize];
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0, "checksum of {:?}", &table[..4]);
        table
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn the_rsdp_leads_to_every_table() {
        let area = tables(4);
        assert!(TABLES + area.len() as u64 <= TABLES_END);
        assert_eq!(&area[..8], b"RSD PTR ");
        let xsdt = table_at(&area, long(&area, 24));
        let (fadt, madt) = (
            table_at(&area, long(xsdt, 36)),
            table_at(&area, long(xsdt, 44)),
        );
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        assert_eq!(&table_at(&area, long(fadt, 140))[..4], b"DSDT");
        // Flags: reset register and reduced hardware; the reset and sleep registers.
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(flags & (1 << 10 | 1 << 20), 1 << 10 | 1 << 20);
        assert_eq!((fadt[116], long(fadt, 120), fadt[128]), (1, 0xcf9, 6));
        assert_eq!((long(fadt, 248), long(fadt, 260)), (0x600, 0x601));
    }

    #[test]
    fn the_madt_has_an_entry_for_each_vcpu_and_the_io_apic() {
        let madt = madt(3);
        let entries = &madt[44..];
        for (id, entry) in (0..3).zip(entries.chunks(8)) {
            assert_eq!(entry, [0, 8, id, id, 1, 0, 0, 0]);
        }
        assert_eq!(entries[24..], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    }

    #[test]
    fn the_dsdt_has_the_state_off_and_the_uart() {
        let dsdt = dsdt();
        let contains = |what: &[u8]| dsdt.windows(what.len()).any(|window| window == what);
        assert!(contains(b"_S5_") && contains(b"COM1") && contains(b"_CRS"));
        // An I/O descriptor for 0x3f8 and an interrupt descriptor for input 4.
        assert!(contains(&[0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08]));
        assert!(contains(&[0x89, 0x06, 0x00, 0x03, 0x01, 0x04, 0, 0, 0]));
    }
}
