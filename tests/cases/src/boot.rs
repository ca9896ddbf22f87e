//! Booting: what is missing is said, whatever the machine.

use crate::harness::{Boot, Kernel, Ramdisk, case};
use libtest_mimic::Trial;
use xtask::{build::Firmware, machine::Machine};

/// The hypervisor without guests on QEMU, which has no VMX.
fn tcg(firmware: Firmware) -> Boot {
    Boot {
        machine: Machine::Tcg,
        firmware,
        ..no_vm(Ramdisk::None)
    }
}

/// The hypervisor on the usual machine, with this in place of a bundle.
fn no_vm(ramdisk: Ramdisk) -> Boot {
    Boot {
        kernel: Kernel::Hypervisor,
        ramdisk,
        ..Boot::bundle("")
    }
}

const NO_VMX: &str = "tilevisor: cannot run: this CPU has no VMX (CPUID.1:ECX[5] is 0)";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        case("boot::tcg_bios_says_that_there_is_no_vmx", |log| {
            let console = log.run(&tcg(Firmware::Bios))?;
            console.says(NO_VMX)?;
            console.failed()
        }),
        case("boot::tcg_uefi_says_that_there_is_no_vmx", |log| {
            let console = log.run(&tcg(Firmware::Uefi))?;
            console.says(NO_VMX)?;
            console.failed()
        }),
        case("boot::no_bundle", |log| {
            let console = log.run(&no_vm(Ramdisk::None))?;
            console.says("cannot run: the boot loader brought no guest bundle")?;
            console.failed()
        }),
        case("boot::something_that_is_no_bundle", |log| {
            let console = log.run(&no_vm(Ramdisk::Bytes(
                b"no bundle at all, but long enough for one".to_vec(),
            )))?;
            console.says("cannot run: guest bundle: bundle magic at offset 0x0")?;
            console.failed()
        }),
        case("boot::a_damaged_bundle", |log| {
            let toml = "[[vm]]\nname = \"x\"\nimage = \"payload:hang\"\nmemory = \"16M\"\n";
            let mut bundle = xtask::bundle::pack(toml, std::path::Path::new("."))?;
            if let Some(byte) = bundle.last_mut() {
                *byte ^= 1;
            }
            let console = log.run(&no_vm(Ramdisk::Bytes(bundle)))?;
            console.says("cannot run: guest bundle: the bundle is damaged: its checksum says")?;
            console.failed()
        }),
        case("boot::an_image_of_no_known_kind_stops_its_vm_only", |log| {
            let folder = tempfile::tempdir()?;
            let image = folder.path().join("text");
            std::fs::write(&image, "not a kernel")?;
            let toml = format!(
                "[[vm]]\nname = \"broken\"\nimage = {image:?}\nmemory = \"16M\"\n\
                 [[vm]]\nname = \"fine\"\nimage = \"payload:amx-demo\"\nmemory = \"16M\"\nxstate = {{ amx = true }}\n"
            );
            let console = log.run(&Boot::bundle(toml))?;
            console.says("VM \"broken\" cannot be made: image: the image is of no known kind (it begins with 6e 6f 74 20)")?;
            console.says("VM \"fine\" ended with success")?;
            console.failed()
        }),
        case("boot::more_memory_than_there_is_stops_its_vm_only", |log| {
            let toml = "[[vm]]\nname = \"big\"\nimage = \"payload:amx-demo\"\nmemory = \"2G\"\n\
                 [[vm]]\nname = \"fine\"\nimage = \"payload:amx-demo\"\nmemory = \"16M\"\nxstate = { amx = true }\n";
            let console = log.run(&Boot::bundle(toml))?;
            console.says("VM \"big\" cannot be made: the machine has not enough memory left")?;
            console.says("VM \"fine\" ended with success")?;
            console.failed()
        }),
    ]
}
