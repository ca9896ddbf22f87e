//! From a description in the bundle to a VM that can run: check everything,
//! then take memory. A VM that cannot be made is refused with the reason, and
//! the others go on.

use super::{Totals, Vm, thread::Thread};
use crate::{
    cpu::tsc,
    device::{bus::Bus, legacy::Clock, x2apic::X2Apic},
    memory::{
        address::Gpa,
        ept::MapError,
        guest::{GuestMemory, OutsideMemory},
    },
    platform::clock,
    say,
    vcpu::{
        Vcpu,
        boot_state::{BootState, TableRegister},
        control::ControlModel,
        cpuid_model::{CpuidModel, check::Missing, supported::Topology},
        peers::{MOST_VCPUS, Peers},
        run::{self, Runner},
    },
    vmx::capabilities::{Vmx, VmxError},
    xstate::{
        features::XFeatures,
        fpstate::Allocation,
        image::StateError,
        layout::Layout,
        life::{LifeError, VcpuXstate},
        permission::{Permission, PermissionError, Request, Vector},
        registers::XMsr,
        xfd::XfdErrPolicy,
    },
};
use alloc::{sync::Arc, vec::Vec};
use core::{fmt, iter, sync::atomic::AtomicBool};
use guest_loader::{
    Entry, Gdt, Long64, Protected32,
    bundle::{self, Bundle},
};
use raw_cpuid::CpuIdReaderNative;
use spin::{Mutex, Once};
use thiserror::Error;

/// What VMs are made from, and made from again when they reset themselves.
pub struct Factory {
    /// The host's CPUID.
    pub cpuid: CpuIdReaderNative,
    /// Its extended state.
    pub layout: Layout,
    /// Its VMX.
    pub vmx: Vmx,
    /// CPUs of the machine.
    pub cpus: usize,
    /// The VMs.
    pub bundle: Bundle<'static>,
}

/// The machine's.
pub static FACTORY: Once<Factory> = Once::new();

/// Why a VM was not made.
#[derive(Debug, Error)]
pub enum CreateError {
    /// Its image.
    #[error("image: {0}")]
    Image(guest_loader::Error),
    /// What it asks of extended state.
    #[error("xstate: {0}")]
    Permission(PermissionError),
    /// Its CPUID names what it may not have.
    #[error(fmt = list)]
    Cpuid(Vec<Missing>),
    /// Its extended state.
    #[error("xstate: {0}")]
    Life(LifeError),
    /// The state image that its vCPU was to begin with.
    #[error("state: {0}")]
    State(StateError),
    /// Its memory.
    #[error(fmt = memory)]
    Memory(MapError),
    /// Its image does not fit its memory.
    #[error("image: {0}")]
    Placement(OutsideMemory),
    /// Its control structure.
    #[error("{0}")]
    Vmx(VmxError),
    /// It has more vCPUs than there can be.
    #[error("{0} vCPUs were asked for; a VM can have {MOST_VCPUS}")]
    Vcpus(u32),
    /// It is pinned to a CPU that is not there.
    #[error("it is pinned to CPU {cpu}, and the machine has {cpus}")]
    Cpu {
        /// The CPU.
        cpu: u32,
        /// How many there are.
        cpus: usize,
    },
    /// No VPID is left.
    #[error("all 65535 VPIDs are in use")]
    Vpid,
}

fn list(missing: &[Missing], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("CPUID:")?;
    missing
        .iter()
        .try_for_each(|missing| write!(f, " {missing}"))
}

fn memory(error: &MapError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        MapError::OutOfMemory => f.write_str("the machine has not enough memory left"),
        _ => write!(f, "memory: {error:?}"),
    }
}

impl Factory {
    /// The vCPUs of VM `number` of the bundle; a VM that cannot be made is reported.
    pub fn make(&self, number: usize) -> Option<Vec<Thread>> {
        let vm = self.bundle.vms.get(number)?;
        self.create(number, vm)
            .inspect_err(|error| say!("VM {:?} cannot be made: {error}", vm.config.name))
            .ok()
    }

    fn create(&self, number: usize, vm: &bundle::Vm<'_>) -> Result<Vec<Thread>, CreateError> {
        let config = &vm.config;
        if config.vcpus > MOST_VCPUS {
            return Err(CreateError::Vcpus(config.vcpus));
        }
        if let Some(&cpu) = config.cpus.iter().find(|cpu| **cpu as usize >= self.cpus) {
            return Err(CreateError::Cpu {
                cpu,
                cpus: self.cpus,
            });
        }
        let plan = guest_loader::plan(&guest_loader::Request {
            image: vm.image,
            initrd: vm.initrd,
            memory_bytes: config.memory,
            command_line: &config.cmdline,
            vcpus: config.vcpus,
        });
        let plan = plan.map_err(CreateError::Image)?;
        let memory =
            GuestMemory::new(config.memory, self.vmx.ept_pages).map_err(CreateError::Memory)?;
        for (gpa, bytes) in &plan.copies {
            memory
                .write(Gpa(*gpa), bytes)
                .map_err(CreateError::Placement)?;
        }
        // Every vCPU of the bundle has a VPID, and keeps it when its VM begins again.
        // Zero is the hypervisor's own.
        let before = self.bundle.vms.iter().take(number);
        let before = before.map(|vm| u64::from(vm.config.vcpus)).sum::<u64>();
        let vpid = |before| u16::try_from(before + 1).map_err(|_| CreateError::Vpid);
        let vpids = vpid(before)?..=vpid(before + u64::from(config.vcpus) - 1)?;
        let pins = config
            .cpus
            .iter()
            .copied()
            .map(Some)
            .chain(iter::repeat(None));
        let shared = Arc::new(Vm {
            name: config.name.as_str().into(),
            number,
            resets: AtomicBool::new(false),
            begun: tsc::now(),
            slice: tsc::ticks_per_microsecond(&self.cpuid) * u64::from(config.slice_us),
            memory,
            bus: Arc::new(Mutex::new(Bus::new(Clock {
                seconds: clock::now,
                tsc: tsc::now,
                tsc_frequency: tsc::frequency(&self.cpuid),
            }))),
            peers: Arc::new(Peers::new(vpids.clone().zip(pins))),
            totals: Mutex::new(Totals::default()),
        });
        let boot = boot_state(plan.entry);
        (0..)
            .zip(vpids)
            .map(|(number, vpid)| {
                let topology = Topology {
                    vcpus: config.vcpus,
                    apic_id: number,
                };
                // The image's state is that of the vCPU that begins.
                let state = vm.state.filter(|_| number == 0);
                let vcpu = self.vcpu(&config.xstate, state, topology, &shared)?;
                let runner = Runner::new(vcpu, &self.vmx, vpid, shared.memory.ept_pointer(), &boot)
                    .map_err(CreateError::Vmx)?;
                Ok(Thread::new(shared.clone(), number, runner))
            })
            .collect()
    }

    /// Rules xs-01, xs-02 and xs-04: permission, CPUID, then the container.
    fn vcpu(
        &self,
        xstate: &bundle::XstateDescription,
        state: Option<(bundle::StateRegisters, &[u8])>,
        topology: Topology,
        vm: &Vm,
    ) -> Result<Vcpu, CreateError> {
        let request = Request {
            vector: match xstate.vector {
                bundle::Vector::Sse => Vector::Sse,
                bundle::Vector::Avx => Vector::Avx,
                bundle::Vector::Avx512 => Vector::Avx512,
            },
            beyond_vectors: if xstate.amx {
                XFeatures::TILES
            } else {
                XFeatures::EMPTY
            },
            supervisor: XFeatures::EMPTY,
        };
        let allocation = match xstate.allocation {
            bundle::Allocation::Static => Allocation::Static,
            bundle::Allocation::OnDemand => Allocation::OnDemand,
        };
        let policy = match xstate.xfd_err {
            bundle::XfdErr::Intercept => XfdErrPolicy::Intercept,
            bundle::XfdErr::Switch => XfdErrPolicy::Switch,
        };
        let mut permission =
            Permission::check(&self.layout, &request).map_err(CreateError::Permission)?;
        let supported = CpuidModel::supported(&self.cpuid, &self.layout, &permission, topology);
        let (mut cpuid, offer) = supported
            .changed(&self.layout, &permission, &[])
            .map_err(CreateError::Cpuid)?;
        let mut life = VcpuXstate::create(&mut permission);
        life.configure(offer).map_err(CreateError::Life)?;
        life.finalize(&self.layout, allocation, policy)
            .map_err(CreateError::Life)?;
        let control = ControlModel {
            offered_cr4: cpuid.offered_cr4() & self.vmx.cr4_may_be_one,
            vmx_cr0: self.vmx.cr0_must_be_one,
            vmx_cr4: self.vmx.cr4_must_be_one,
        };
        let mut xstate = life.into_container().map_err(CreateError::Life)?;
        if let Some((registers, image)) = state {
            // Rule xs-13: any order would do.
            xstate
                .write_state(&self.layout, image)
                .and_then(|()| xstate.set_xcr0(&self.layout, registers.xcr0))
                .and_then(|()| xstate.set_msr(&self.layout, XMsr::Xfd, registers.xfd))
                .map_err(CreateError::State)?;
        }
        cpuid.set_xstate(xstate.xcr0(), xstate.xss());
        let apic = X2Apic::new(topology.apic_id, tsc::ticks_per_crystal_tick(&self.cpuid));
        Ok(Vcpu::new(
            run::frame(),
            cpuid,
            xstate,
            control,
            apic,
            vm.peers.clone(),
            vm.bus.clone(),
        ))
    }
}

fn boot_state(entry: Entry) -> BootState {
    let table = |gdt: Gdt| TableRegister {
        base: gdt.base,
        limit: u32::from(gdt.limit),
    };
    match entry {
        Entry::Long64(Long64 {
            rip,
            rsp,
            rdi,
            rsi,
            cr3,
            gdt,
        }) => BootState::long_mode(rip, rsp, [rdi, rsi], cr3, table(gdt), [gdt.code, gdt.data]),
        Entry::Protected32(Protected32 { eip, eax, ebx, gdt }) => {
            BootState::protected_mode(eip, [eax, ebx], table(gdt), [gdt.code, gdt.data])
        }
        Entry::Real16 { ip } => BootState::real_mode(ip),
    }
}
