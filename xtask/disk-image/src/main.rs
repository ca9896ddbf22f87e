//! `disk-image KERNEL RAMDISK|- bios|uefi OUT`: a bootable disk from a kernel.
//!
//! A package of its own because the boot loader's stages are built from source
//! with unstable features (`RUSTC_BOOTSTRAP=1`), which must not leak into the
//! build of anything else.

use bootloader::{BootConfig, DiskImageBuilder};
use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, ramdisk, firmware, out] = arguments.as_slice() else {
        eprintln!("usage: disk-image KERNEL RAMDISK|- bios|uefi OUT");
        return ExitCode::from(2);
    };
    // The machine's console belongs to the kernel.
    let mut quiet = BootConfig::default();
    quiet.frame_buffer_logging = false;
    quiet.serial_logging = false;

    let mut image = DiskImageBuilder::new(PathBuf::from(kernel));
    image.set_boot_config(&quiet);
    if ramdisk != "-" {
        image.set_ramdisk(PathBuf::from(ramdisk));
    }
    let out = PathBuf::from(out);
    let made = match firmware.as_str() {
        "bios" => image.create_bios_image(&out),
        "uefi" => image.create_uefi_image(&out),
        other => {
            eprintln!("disk-image: unknown firmware `{other}`; known: bios, uefi");
            return ExitCode::from(2);
        }
    };
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk-image: {}: {error:#}", out.display());
            ExitCode::FAILURE
        }
    }
}
