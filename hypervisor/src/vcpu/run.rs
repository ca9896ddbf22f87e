//! The run loop of a vCPU: enter the guest, read what the exit's family needs,
//! dispatch, apply the outcome.
//!
//! Rule xs-12: between an exit and the next entry nothing here touches XCR0,
//! IA32_XSS, XFD or the extended state; the guest's are in the registers.

#![expect(unsafe_code, reason = "the way between entry assembly and Rust")]

use super::{
    Vcpu,
    boot_state::{self, BootState, DR7_AT_RESET, PAT_AT_RESET, RFLAGS_AT_START, Segment},
    exit::{self, Report},
    outcome::{End, Exception, Fault, Leave, Outcome},
};
use crate::{
    cpu::{
        msr::{self, Msr},
        switched::Switched,
        tables::Tables,
    },
    memory::walk::Paging,
    vmx::{
        controls::{EntryControls, Secondary},
        entry::{self, Left},
        exit::{EventInfo, Reason},
        field::{self, Field},
        frame::Frame,
        msr_bitmap::MsrBitmap,
        root::{Vmx, VmxError},
        vmcs::{Loaded, Vmcs},
    },
    xstate::{
        features::XFeatures, fpstate::GrowError, layout::Layout, silicon::Silicon, swap::CpuXstate,
        xfd::Interception,
    },
};
use alloc::boxed::Box;
use core::ptr;
use x86_64::registers::control::{Cr0, Cr3, Cr4};

/// The extended state of a real CPU.
pub type Cpu = CpuXstate<Silicon>;

/// A vCPU with what the hardware needs to run it.
#[repr(C)]
pub struct Runner {
    vcpu: Vcpu,
    vmcs: Vmcs,
    msr_bitmap: Box<MsrBitmap>,
    switched: Switched,
    leave: Leave,
    /// The CPU it runs on, for the time of a stay.
    cpu: *mut Cpu,
}

const _: () = assert!(core::mem::offset_of!(Runner, vcpu) == 0);

/// The frame of a vCPU that this loop will run.
pub fn frame() -> Frame {
    Frame::new(on_exit)
}

/// MSRs that belong to the guest while it runs: the hypervisor never uses them,
/// or VM entry and exit exchange them.
const PASSED_THROUGH: [Msr; 13] = [
    Msr::IA32_SYSENTER_CS,
    Msr::IA32_SYSENTER_ESP,
    Msr::IA32_SYSENTER_EIP,
    Msr::IA32_PAT,
    Msr::IA32_EFER,
    Msr::IA32_STAR,
    Msr::IA32_LSTAR,
    Msr::IA32_CSTAR,
    Msr::IA32_FMASK,
    Msr::IA32_FS_BASE,
    Msr::IA32_GS_BASE,
    Msr::IA32_KERNEL_GS_BASE,
    Msr::IA32_TSC_AUX,
];

/// What a person wants to know of a vCPU that did not end by itself.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// RIP.
    pub rip: u64,
    /// Linear base of CS, to which RIP is relative.
    pub code_base: u64,
    /// RSP.
    pub rsp: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// The control registers, as the hardware has them.
    pub paging: Paging,
    /// The exit reason, with bit 31 for a failed entry.
    pub reason: u32,
    /// The exit qualification.
    pub qualification: u64,
}

impl Runner {
    /// A vCPU that begins at `boot`.
    ///
    /// # Errors
    /// No frame for its VMCS.
    pub fn new(
        mut vcpu: Vcpu,
        vmx: &Vmx,
        vpid: u16,
        ept_pointer: u64,
        boot: &BootState,
    ) -> Result<Box<Self>, VmxError> {
        vcpu.frame.registers.rdi = boot.rdi;
        let mut msr_bitmap = Box::new(MsrBitmap::intercept_all());
        for msr in PASSED_THROUGH {
            msr_bitmap.pass_through(msr);
        }
        let mut runner = Box::new(Self {
            vcpu,
            vmcs: Vmcs::new(vmx)?,
            msr_bitmap,
            switched: Switched::default(),
            leave: Leave::Interrupted,
            cpu: ptr::null_mut(),
        });
        let bitmap = crate::memory::host::physical(ptr::from_ref(&*runner.msr_bitmap));
        let host_rsp = entry::host_rsp(&runner.vcpu.frame);
        let control = runner.vcpu.control;
        let mut vmcs = runner.vmcs.load();
        vmcs.write(field::VPID, vpid);
        vmcs.write(field::EPT_POINTER, ept_pointer);
        vmcs.write(field::MSR_BITMAP, bitmap.0);
        vmcs.write(field::HOST_RSP, host_rsp);
        vmcs.write(field::HOST_RIP, entry::exit_point());
        write_controls(&mut vmcs, vmx);
        write_guest_state(&mut vmcs, boot);
        vmcs.write(field::CR0_GUEST_HOST_MASK, control.cr0_owned());
        vmcs.write(field::CR0_READ_SHADOW, boot.cr0);
        vmcs.write(field::GUEST_CR0, control.hardware_cr0(boot.cr0));
        vmcs.write(field::CR4_GUEST_HOST_MASK, control.cr4_owned());
        vmcs.write(field::CR4_READ_SHADOW, boot.cr4);
        vmcs.write(field::GUEST_CR4, control.hardware_cr4(boot.cr4));
        if boot.efer & boot_state::EFER_LMA != 0 {
            vmcs.write(
                field::ENTRY_CONTROLS,
                vmx.entry | EntryControls::GUEST_IA32E.bits(),
            );
        }
        Ok(runner)
    }

    /// The plain vCPU.
    pub fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// Brings the vCPU onto this CPU, in the place of `outgoing`. Extended
    /// state moves only if another container was in the registers.
    ///
    /// # Errors
    /// Its container was left on another CPU.
    pub fn switch_in(&mut self, cpu: &mut Cpu, mut outgoing: Option<&mut Self>) -> Result<(), End> {
        let before = outgoing.as_mut().map(|outgoing| &mut outgoing.vcpu.xstate);
        cpu.make_current(before, &mut self.vcpu.xstate)
            .map_err(|_| End::Fault(Fault::XstateLost))?;
        if let Some(outgoing) = outgoing {
            outgoing.switched.save();
        }
        self.switched.load();
        self.vmcs.load();
        Ok(())
    }

    /// Writes this CPU's state into the VMCS, for its exits to come back to.
    pub fn settle(&mut self, tables: &Tables) {
        write_host_state(&mut self.vmcs.load(), tables);
    }

    /// Gives the vCPU `ticks` of the preemption timer from here on.
    pub fn set_slice(&mut self, ticks: u32) {
        // SAFETY: between `switch_in` and the next one, this VMCS is current.
        unsafe { self.vmcs.assume_loaded() }.write(field::PREEMPTION_TIMER, ticks);
    }

    /// Runs the guest until something wants the scheduler.
    ///
    /// The vCPU was switched in on this CPU and settled there.
    pub fn run(&mut self, cpu: &mut Cpu) -> Leave {
        self.cpu = ptr::from_mut(cpu);
        cpu.before_entry(&mut self.vcpu.xstate);
        // SAFETY: this VMCS is current, with our host state, stack and exit
        // point; `launched` follows its launches below.
        let left = unsafe { entry::enter(ptr::from_mut(self).cast()) };
        self.cpu = ptr::null_mut();
        match left {
            Left::ByHandler => {
                self.vcpu.frame.launched = true;
                self.leave
            }
            Left::EntryFailed => {
                // SAFETY: as above.
                let error = unsafe { self.vmcs.assume_loaded() }.read(field::INSTRUCTION_ERROR);
                Leave::Ended(End::Fault(Fault::EntryFailed(error)))
            }
        }
    }

    /// Gives the container room for `features`, around the run loop.
    ///
    /// # Errors
    /// The machine has no memory for it: the VM cannot go on.
    pub fn grow(&mut self, cpu: &mut Cpu, layout: &Layout, features: XFeatures) -> Result<(), End> {
        let container = &mut self.vcpu.xstate;
        let lost = |_| End::Fault(Fault::XstateLost);
        cpu.park(container).map_err(lost)?;
        container
            .grow(layout, features)
            .map_err(|error| match error {
                GrowError::OutOfMemory(error) => End::Fault(Fault::NoMemoryForXstate(error.bytes)),
                GrowError::InRegisters => End::Fault(Fault::XstateLost),
            })?;
        cpu.make_current(None, container).map_err(lost)
    }

    /// Where the guest is, for a report. Makes its VMCS current.
    pub fn snapshot(&mut self) -> Snapshot {
        let vmcs = self.vmcs.load();
        Snapshot {
            rip: vmcs.read(field::GUEST_RIP),
            code_base: vmcs.read(field::GUEST_CS_BASE),
            rsp: vmcs.read(field::GUEST_RSP),
            rflags: vmcs.read(field::GUEST_RFLAGS),
            paging: FromVmcs(&vmcs).control(),
            reason: vmcs.read(field::EXIT_REASON),
            qualification: vmcs.read(field::EXIT_QUALIFICATION),
        }
    }
}

/// What the handlers ask is read from the current VMCS.
struct FromVmcs<'a, 'b>(&'a Loaded<'b>);

impl Report for FromVmcs<'_, '_> {
    #[inline(always)]
    fn qualification(&self) -> u64 {
        self.0.read(field::EXIT_QUALIFICATION)
    }
    #[inline(always)]
    fn interruption(&self) -> EventInfo {
        EventInfo(self.0.read(field::EXIT_INTERRUPTION_INFO))
    }
    fn guest_physical_address(&self) -> u64 {
        self.0.read(field::GUEST_PHYSICAL_ADDRESS)
    }
    fn rflags(&self) -> u64 {
        self.0.read(field::GUEST_RFLAGS)
    }
    fn rsp(&self) -> u64 {
        self.0.read(field::GUEST_RSP)
    }
    fn control(&self) -> Paging {
        Paging {
            cr0: self.0.read(field::GUEST_CR0),
            cr3: self.0.read(field::GUEST_CR3),
            cr4: self.0.read(field::GUEST_CR4),
            efer: self.0.read(field::GUEST_EFER),
        }
    }
}

/// Called by the exit assembly; says whether to enter the guest again.
///
/// # Safety
/// `frame` is that of a [`Runner`] inside [`Runner::run`].
unsafe extern "sysv64" fn on_exit(frame: *mut Frame) -> bool {
    // SAFETY: the frame begins the vCPU, which begins the runner; `run` holds
    // both mutably and does not touch them until we return.
    let runner = unsafe { &mut *frame.cast::<Runner>() };
    // SAFETY: set by `run` from a reference that lives as long as the stay.
    let cpu = unsafe { &mut *runner.cpu };
    // SAFETY: the exit came from this VMCS.
    let mut vmcs = unsafe { runner.vmcs.assume_loaded() };
    let vcpu = &mut runner.vcpu;

    cpu.after_exit(&mut vcpu.xstate);
    // A failed entry has bit 31 set and reasons that no handler takes.
    let reason = Reason(vmcs.read(field::EXIT_REASON) as u16);
    vcpu.counters.count(reason);
    match exit::dispatch(vcpu, cpu, reason, &FromVmcs(&vmcs)) {
        Outcome::Skip => skip(&mut vmcs),
        Outcome::Resume => {}
        Outcome::Inject(exception) => inject(&mut vmcs, exception),
        Outcome::Intercept(interception) => {
            skip(&mut vmcs);
            intercept(&mut vmcs, &mut runner.msr_bitmap, interception);
        }
        Outcome::RetryCr0 { shadow } => vmcs.write(field::CR0_READ_SHADOW, shadow),
        Outcome::RetryCr4 { shadow, cr4 } => {
            vmcs.write(field::CR4_READ_SHADOW, shadow);
            vmcs.write(field::GUEST_CR4, cr4);
        }
        Outcome::SkipAndLeave(leave) => {
            skip(&mut vmcs);
            runner.leave = leave;
            return false;
        }
        Outcome::Leave(leave) => {
            runner.leave = leave;
            return false;
        }
    }
    cpu.before_entry(&mut vcpu.xstate);
    true
}

/// Moves RIP behind the instruction that exited.
#[inline(always)]
fn skip(vmcs: &mut Loaded<'_>) {
    let length = u64::from(vmcs.read(field::EXIT_INSTRUCTION_LENGTH));
    let rip = vmcs.read(field::GUEST_RIP);
    vmcs.write(field::GUEST_RIP, rip.wrapping_add(length));
}

#[inline(always)]
fn inject(vmcs: &mut Loaded<'_>, exception: Exception) {
    if let Some(error_code) = exception.error_code {
        vmcs.write(field::ENTRY_EXCEPTION_ERROR_CODE, error_code);
    }
    vmcs.write(field::ENTRY_INTERRUPTION_INFO, exception.info().0);
}

/// Rules xs-07, xs-08, xs-09: which accesses and exceptions exit from now on.
#[cold]
fn intercept(vmcs: &mut Loaded<'_>, bitmap: &mut MsrBitmap, interception: Interception) {
    const NM: u32 = 1 << 7;
    bitmap.set_intercepted(Msr::IA32_XFD, interception.xfd);
    bitmap.set_intercepted(Msr::IA32_XFD_ERR, interception.xfd_err);
    vmcs.write(
        field::EXCEPTION_BITMAP,
        if interception.nm { NM } else { 0 },
    );
}

fn write_controls(vmcs: &mut Loaded<'_>, vmx: &Vmx) {
    vmcs.write(field::PIN_BASED_CONTROLS, vmx.pin_based);
    vmcs.write(field::PRIMARY_CONTROLS, vmx.primary);
    vmcs.write(field::SECONDARY_CONTROLS, vmx.secondary.bits());
    vmcs.write(field::EXIT_CONTROLS, vmx.exit);
    vmcs.write(field::ENTRY_CONTROLS, vmx.entry);
    if vmx.secondary.contains(Secondary::XSAVES) {
        vmcs.write(field::XSS_EXITING_BITMAP, 0);
    }
    // No page fault exits: bit 14 of the exception bitmap is clear, and mask and
    // match agree on everything.
    for zero in [
        field::EXCEPTION_BITMAP,
        field::PAGE_FAULT_ERROR_CODE_MASK,
        field::PAGE_FAULT_ERROR_CODE_MATCH,
        field::CR3_TARGET_COUNT,
        field::EXIT_MSR_STORE_COUNT,
        field::EXIT_MSR_LOAD_COUNT,
        field::ENTRY_MSR_LOAD_COUNT,
        field::ENTRY_INTERRUPTION_INFO,
    ] {
        vmcs.write(zero, 0);
    }
}

type SegmentFields = (Field<u16>, Field<u64>, Field<u32>, Field<u32>);

fn write_segment(vmcs: &mut Loaded<'_>, fields: SegmentFields, segment: Segment) {
    let (selector, base, limit, rights) = fields;
    vmcs.write(selector, segment.selector);
    vmcs.write(base, segment.base);
    vmcs.write(limit, segment.limit);
    vmcs.write(rights, segment.rights);
}

#[rustfmt::skip]
const DATA_SEGMENTS: [SegmentFields; 5] = [
    (field::GUEST_SS_SELECTOR, field::GUEST_SS_BASE, field::GUEST_SS_LIMIT, field::GUEST_SS_ACCESS_RIGHTS),
    (field::GUEST_DS_SELECTOR, field::GUEST_DS_BASE, field::GUEST_DS_LIMIT, field::GUEST_DS_ACCESS_RIGHTS),
    (field::GUEST_ES_SELECTOR, field::GUEST_ES_BASE, field::GUEST_ES_LIMIT, field::GUEST_ES_ACCESS_RIGHTS),
    (field::GUEST_FS_SELECTOR, field::GUEST_FS_BASE, field::GUEST_FS_LIMIT, field::GUEST_FS_ACCESS_RIGHTS),
    (field::GUEST_GS_SELECTOR, field::GUEST_GS_BASE, field::GUEST_GS_LIMIT, field::GUEST_GS_ACCESS_RIGHTS),
];
#[rustfmt::skip]
const CODE_SEGMENT: SegmentFields =
    (field::GUEST_CS_SELECTOR, field::GUEST_CS_BASE, field::GUEST_CS_LIMIT, field::GUEST_CS_ACCESS_RIGHTS);
#[rustfmt::skip]
const LDT_SEGMENT: SegmentFields =
    (field::GUEST_LDTR_SELECTOR, field::GUEST_LDTR_BASE, field::GUEST_LDTR_LIMIT, field::GUEST_LDTR_ACCESS_RIGHTS);
#[rustfmt::skip]
const TASK_SEGMENT: SegmentFields =
    (field::GUEST_TR_SELECTOR, field::GUEST_TR_BASE, field::GUEST_TR_LIMIT, field::GUEST_TR_ACCESS_RIGHTS);

fn write_guest_state(vmcs: &mut Loaded<'_>, boot: &BootState) {
    write_segment(vmcs, CODE_SEGMENT, boot.code);
    for fields in DATA_SEGMENTS {
        write_segment(vmcs, fields, boot.data);
    }
    write_segment(vmcs, LDT_SEGMENT, boot_state::UNUSABLE);
    write_segment(vmcs, TASK_SEGMENT, boot_state::TASK);
    vmcs.write(field::GUEST_GDTR_BASE, boot.gdt.base);
    vmcs.write(field::GUEST_GDTR_LIMIT, boot.gdt.limit);
    vmcs.write(field::GUEST_IDTR_BASE, 0);
    vmcs.write(field::GUEST_IDTR_LIMIT, 0);
    vmcs.write(field::GUEST_CR3, boot.cr3);
    vmcs.write(field::GUEST_EFER, boot.efer);
    vmcs.write(field::GUEST_PAT, PAT_AT_RESET);
    vmcs.write(field::GUEST_DEBUGCTL, 0);
    vmcs.write(field::GUEST_DR7, DR7_AT_RESET);
    vmcs.write(field::GUEST_RIP, boot.rip);
    vmcs.write(field::GUEST_RSP, boot.rsp);
    vmcs.write(field::GUEST_RFLAGS, RFLAGS_AT_START);
    vmcs.write(field::GUEST_PENDING_DEBUG, 0);
    vmcs.write(field::GUEST_SYSENTER_CS, 0);
    vmcs.write(field::GUEST_SYSENTER_ESP, 0);
    vmcs.write(field::GUEST_SYSENTER_EIP, 0);
    vmcs.write(field::GUEST_INTERRUPTIBILITY, 0);
    vmcs.write(field::GUEST_ACTIVITY_STATE, 0);
    // No shadow VMCS.
    vmcs.write(field::VMCS_LINK_POINTER, u64::MAX);
}

fn write_host_state(vmcs: &mut Loaded<'_>, tables: &Tables) {
    vmcs.write(field::HOST_CR0, Cr0::read_raw());
    vmcs.write(field::HOST_CR3, Cr3::read().0.start_address().as_u64());
    vmcs.write(field::HOST_CR4, Cr4::read_raw());
    vmcs.write(field::HOST_CS_SELECTOR, tables.code.0);
    vmcs.write(field::HOST_SS_SELECTOR, tables.data.0);
    vmcs.write(field::HOST_DS_SELECTOR, tables.data.0);
    vmcs.write(field::HOST_ES_SELECTOR, tables.data.0);
    vmcs.write(field::HOST_FS_SELECTOR, 0);
    vmcs.write(field::HOST_GS_SELECTOR, 0);
    vmcs.write(field::HOST_TR_SELECTOR, tables.tss.0);
    vmcs.write(field::HOST_FS_BASE, 0);
    vmcs.write(field::HOST_GS_BASE, 0);
    vmcs.write(field::HOST_TR_BASE, tables.tss_base.as_u64());
    vmcs.write(field::HOST_GDTR_BASE, tables.gdt_base.as_u64());
    vmcs.write(field::HOST_IDTR_BASE, tables.idt_base.as_u64());
    vmcs.write(field::HOST_SYSENTER_CS, 0);
    vmcs.write(field::HOST_SYSENTER_ESP, 0);
    vmcs.write(field::HOST_SYSENTER_EIP, 0);
    // SAFETY: both registers exist on every CPU with long mode.
    let (pat, efer) = unsafe { (msr::read(Msr::IA32_PAT), msr::read(Msr::IA32_EFER)) };
    vmcs.write(field::HOST_PAT, pat);
    vmcs.write(field::HOST_EFER, efer);
}
