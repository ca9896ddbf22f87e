//! A small virtual machine monitor on Linux KVM: runs one payload of `tests/guests`, laid
//! out as the hypervisor lays it out, so that both can be measured with the same code.
//!
//! `vmm NAME IMAGE [COMMAND LINE]`. The payload's console lines begin with the name; the
//! exit status is its code.

#![expect(unsafe_code, reason = "memory of a guest, and a system call")]

mod registers;

use anyhow::{Context, Result, bail, ensure};
use guest_loader::{Entry, Request, plan};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::{io::Write, process::ExitCode, ptr, slice};

/// As much as a payload of the benchmark has under the hypervisor.
const MEMORY_BYTES: usize = 4 << 20;
/// Three pages that KVM needs for real mode, where no memory of the guest is.
const TSS_ADDRESS: usize = 0xfffb_d000;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
/// The transmitter takes the next character.
const READY: u8 = 0x60;
const EXIT: u16 = 0xf4;
/// What a port without a device reads.
const FLOATING: u8 = 0xff;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(image)) = (arguments.next(), arguments.next()) else {
        eprintln!("vmm NAME IMAGE [COMMAND LINE]");
        return ExitCode::FAILURE;
    };
    let command_line: Vec<String> = arguments.collect();
    match run(&name, &image, &command_line.join(" ")) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("vmm: {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, image: &str, command_line: &str) -> Result<u8> {
    let image = std::fs::read(image).with_context(|| image.to_owned())?;
    let plan = plan(&Request {
        image: &image,
        initrd: None,
        memory_bytes: MEMORY_BYTES as u64,
        command_line,
        vcpus: 1,
    })
    .map_err(|error| anyhow::anyhow!("{error}"))?;
    allow_tiles();
    let kvm = Kvm::new().context("/dev/kvm")?;
    let vm = kvm.create_vm()?;
    vm.set_tss_address(TSS_ADDRESS)?;
    vm.create_irq_chip()?;
    let memory = guest_memory(&vm)?;
    for (at, bytes) in &plan.copies {
        let at = usize::try_from(*at)?;
        let place = memory.get_mut(at..at + bytes.len());
        place
            .context("the payload's memory")?
            .copy_from_slice(bytes);
    }
    let vcpu = vm.create_vcpu(0)?;
    let cpuid = registers::offered(kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?);
    vcpu.set_cpuid2(&cpuid)?;
    let Entry::Long64(entry) = plan.entry else {
        bail!("payloads begin in 64-bit mode");
    };
    registers::set(&vcpu, entry)?;
    serve(vcpu, name)
}

/// Asks Linux for permission to give tiles to guests (Linux, `arch/x86/xstate.rst`).
/// Where it refuses, there are no tiles.
fn allow_tiles() {
    const ARCH_REQ_XCOMP_GUEST_PERM: libc::c_long = 0x1025;
    const TILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_GUEST_PERM, TILEDATA) };
}

/// The guest's memory, from guest-physical zero up.
fn guest_memory(vm: &VmFd) -> Result<&'static mut [u8]> {
    // SAFETY: new memory, which is never unmapped.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            MEMORY_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    ensure!(at != libc::MAP_FAILED, "no memory for the guest");
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_BYTES as u64,
        userspace_addr: at as u64,
    };
    // SAFETY: the region is memory of ours for as long as we live.
    unsafe { vm.set_user_memory_region(region)? };
    // SAFETY: as above; written to only before the guest begins.
    Ok(unsafe { slice::from_raw_parts_mut(at.cast(), MEMORY_BYTES) })
}

/// Runs the guest until it ends; its code.
fn serve(mut vcpu: VcpuFd, name: &str) -> Result<u8> {
    let mut line = Vec::new();
    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(COM1, [b'\n']) => {
                let text = String::from_utf8_lossy(&line);
                writeln!(std::io::stdout(), "{name}: {text}")?;
                line.clear();
            }
            VcpuExit::IoOut(COM1, bytes) => line.extend_from_slice(bytes),
            VcpuExit::IoOut(EXIT, bytes) => return Ok(bytes.first().copied().unwrap_or(0)),
            VcpuExit::IoOut(..) => {}
            VcpuExit::IoIn(LINE_STATUS, bytes) => bytes.fill(READY),
            VcpuExit::IoIn(_, bytes) => bytes.fill(FLOATING),
            other => bail!("the guest stopped: {other:?}"),
        }
    }
}
