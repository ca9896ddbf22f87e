//! The run loop of a vCPU: enter the guest, read what the exit's family needs,
//! dispatch, apply the outcome.
//!
//! Rule xs-12: between an exit and the next entry nothing here touches XCR0,
//! IA32_XSS, XFD or the extended state; the guest's are in the registers.

#![expect(unsafe_code, reason = "the way between entry assembly and Rust")]

use super::{
    Vcpu,
    boot_state::{self, BootState},
    debug,
    events::{accessible, inject, intercept},
    exit::{self, Report as _},
    interrupts::Interrupts,
    outcome::{End, Exception, Fault, Leave, Outcome},
    snapshot::Snapshot,
    string_io::StringInstruction,
    vmcs_report::FromVmcs,
    vmcs_state,
};
use crate::{
    cpu::{switched::Switched, tables::Tables, tsc},
    memory::host,
    vmx::{
        capabilities::{Vmx, VmxError},
        entry::{self, Left},
        exit::{EventInfo, Reason},
        field,
        frame::Frame,
        msr_bitmap::MsrBitmap,
        root,
        vmcs::{Loaded, Vmcs},
    },
    xstate::{features::XFeatures, layout::Layout, silicon::Silicon, swap::CpuXstate},
};
use alloc::boxed::Box;
use core::ptr;

/// The extended state of a real CPU.
pub type Cpu = CpuXstate<Silicon>;

/// No CPU has this number.
const NOWHERE: u16 = u16::MAX;

/// A vCPU with what the hardware needs to run it. It may go from CPU to CPU; what
/// a CPU has of it goes back before ([`Runner::leave_cpu`]).
#[repr(C)]
pub struct Runner {
    vcpu: Vcpu,
    vmcs: Vmcs,
    msr_bitmap: Box<MsrBitmap>,
    switched: Switched,
    interrupts: Interrupts,
    leave: Leave,
    /// The number of the CPU whose state its VMCS returns to, or [`NOWHERE`].
    home: u16,
    /// How often it went to another CPU.
    moves: u64,
    /// The CPU it runs on, for the time of a stay.
    cpu: *mut Cpu,
}

const _: () = assert!(core::mem::offset_of!(Runner, vcpu) == 0);

// SAFETY: the pointer is set only during a stay, which borrows the runner; all
// else belongs to the runner alone.
unsafe impl Send for Runner {}

/// The frame of a vCPU that this loop will run.
pub fn frame() -> Frame {
    Frame::new(on_exit)
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
        vcpu.begin(boot);
        let mut runner = Box::new(Self {
            vcpu,
            vmcs: Vmcs::new(vmx)?,
            msr_bitmap: Box::new(accessible(vmx)),
            switched: Switched::default(),
            interrupts: Interrupts::new(vmx),
            leave: Leave::Interrupted,
            home: NOWHERE,
            moves: 0,
            cpu: ptr::null_mut(),
        });
        let bitmap = host::physical(&raw const *runner.msr_bitmap);
        let apic_page = host::physical(runner.vcpu.apic.page());
        let host_rsp = entry::host_rsp(&runner.vcpu.frame);
        let control = runner.vcpu.control;
        let mut vmcs = runner.vmcs.load();
        vmcs.write(field::VPID, vpid);
        vmcs.write(field::EPT_POINTER, ept_pointer);
        vmcs.write(field::MSR_BITMAP, bitmap.0);
        vmcs.write(field::HOST_RSP, host_rsp);
        vmcs.write(field::HOST_RIP, entry::exit_point());
        vmcs_state::write_controls(&mut vmcs, vmx);
        if vmx.virtual_apic {
            vmcs.write(field::VIRTUAL_APIC_PAGE, apic_page.0);
        }
        vmcs_state::write_guest_state(&mut vmcs, boot, control);
        // An operator may have set XFD before the guest ever could.
        if let Some(interception) = runner.vcpu.xstate.new_interception() {
            let runner = &mut *runner;
            intercept(
                &mut runner.vmcs.load(),
                &mut runner.msr_bitmap,
                interception,
            );
        }
        runner.vmcs.clear();
        Ok(runner)
    }

    /// How often the vCPU went to another CPU.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// The plain vCPU.
    pub fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// Brings the vCPU onto this CPU, number `index`, in the place of `outgoing`.
    /// Extended state moves only if another container was in the registers.
    ///
    /// # Errors
    /// Its container was left on another CPU.
    #[inline(always)]
    pub fn switch_in(
        &mut self,
        cpu: &mut Cpu,
        index: u16,
        tables: &Tables,
        outgoing: Option<&mut Self>,
    ) -> Result<(), End> {
        let (switched, before) = match outgoing {
            Some(outgoing) => {
                outgoing.switched.save();
                if outgoing.switched.has_debug() {
                    // SAFETY: until `self` is loaded below, that VMCS is current.
                    let mut vmcs = unsafe { outgoing.vmcs.assume_loaded() };
                    debug::leave(&mut vmcs, &mut outgoing.switched, &mut outgoing.interrupts);
                }
                (Some(&outgoing.switched), Some(&mut outgoing.vcpu.xstate))
            }
            None => (None, None),
        };
        cpu.make_current(before, &mut self.vcpu.xstate)
            .map_err(|_| End::Fault(Fault::XstateLost))?;
        self.switched.load(switched);
        let mut vmcs = self.vmcs.load();
        if self.home != index {
            self.moves += u64::from(self.home != NOWHERE);
            self.home = index;
            vmcs_state::write_host_state(&mut vmcs, tables);
            // What this CPU cached of the guest when it ran here before may be
            // stale: the guest has changed its page tables elsewhere since.
            root::forget_guest_translations();
        }
        Ok(())
    }

    /// Writes back what this CPU caches of the vCPU, so that another one can take
    /// it. Its extended state was saved when the next vCPU was switched in.
    pub fn leave_cpu(&mut self) {
        self.vmcs.clear();
        self.vcpu.frame.launched = false;
    }

    /// Gives the vCPU the CPU from TSC `now` until it is `end`, and lets it take the
    /// interrupts that became pending in the meantime. At `deadline` something becomes due.
    ///
    /// It was switched in on this CPU.
    pub fn begin_slice(&mut self, now: u64, end: u64, deadline: u64) {
        self.vcpu.slice_end = end;
        // SAFETY: between `switch_in` and the next one, this VMCS is current.
        let mut vmcs = unsafe { self.vmcs.assume_loaded() };
        self.interrupts
            .begin_slice(&mut vmcs, &mut self.vcpu, now, deadline);
    }

    /// INIT: the vCPU is as after reset, but for its extended state and MSRs. With a
    /// `page`, a start-up IPI followed. It was switched in on this CPU.
    ///
    /// # Errors
    /// Its container was left on another CPU.
    pub fn restart(&mut self, cpu: &mut Cpu, page: Option<u8>) -> Result<(), End> {
        const SIGNATURE_LEAF: u32 = 1;
        let lost = |_| End::Fault(Fault::XstateLost);
        let container = &mut self.vcpu.xstate;
        cpu.park(container).map_err(lost)?;
        container
            .init_signal()
            .map_err(|_| End::Fault(Fault::XstateLost))?;
        cpu.make_current(None, container).map_err(lost)?;
        self.switched.init_signal();
        let signature = u64::from(self.vcpu.cpuid.lookup(SIGNATURE_LEAF, 0).eax);
        let boot = match page {
            None => BootState::reset(signature),
            Some(page) => BootState::start_up(signature, page),
        };
        self.vcpu.restart(&boot);
        let control = self.vcpu.control;
        // SAFETY: between `switch_in` and the next one, this VMCS is current.
        let mut vmcs = unsafe { self.vmcs.assume_loaded() };
        vmcs_state::write_guest_state(&mut vmcs, &boot, control);
        Ok(())
    }

    /// Runs the guest until something wants the scheduler.
    ///
    /// The vCPU was switched in on this CPU and settled there.
    pub fn run(&mut self, cpu: &mut Cpu) {
        self.cpu = ptr::from_mut(cpu);
        cpu.before_entry(&mut self.vcpu.xstate);
        // SAFETY: this VMCS is current, with our host state, stack and exit
        // point; `launched` follows its launches below.
        let left = unsafe { entry::enter(ptr::from_mut(self).cast()) };
        self.cpu = ptr::null_mut();
        match left {
            Left::ByHandler => self.vcpu.frame.launched = true,
            Left::EntryFailed => {
                // SAFETY: as above.
                let error = unsafe { self.vmcs.assume_loaded() }.read(field::INSTRUCTION_ERROR);
                self.leave = Leave::Ended(End::Fault(Fault::EntryFailed(error)));
            }
        }
    }

    /// Why it left its run loop.
    #[inline]
    pub fn leave(&self) -> Leave {
        self.leave
    }

    /// Gives the container room for `features`, around the run loop.
    ///
    /// # Errors
    /// The machine has no memory for it: the VM cannot go on.
    pub fn grow(&mut self, cpu: &mut Cpu, layout: &Layout, features: XFeatures) -> Result<(), End> {
        let container = &mut self.vcpu.xstate;
        let lost = |_| End::Fault(Fault::XstateLost);
        cpu.park(container).map_err(lost)?;
        container.grow(layout, features)?;
        cpu.make_current(None, container).map_err(lost)
    }

    /// Moves RIP behind an instruction of `bytes` that was executed for the guest. The
    /// vCPU was switched in on this CPU.
    pub fn skip(&mut self, bytes: u64) {
        // SAFETY: between `switch_in` and the next one, this VMCS is current.
        let mut vmcs = unsafe { self.vmcs.assume_loaded() };
        let rip = vmcs.read(field::GUEST_RIP);
        vmcs.write(field::GUEST_RIP, rip.wrapping_add(bytes));
        self.vcpu.attention = true;
    }

    /// Delivers `exception` at the next entry. The vCPU was switched in on this CPU.
    pub fn inject(&mut self, exception: Exception) {
        // SAFETY: between `switch_in` and the next one, this VMCS is current.
        inject(&mut unsafe { self.vmcs.assume_loaded() }, exception);
    }

    /// The INS or OUTS that the vCPU stands at. It was switched in on this CPU.
    pub fn string_instruction(&mut self) -> StringInstruction {
        // SAFETY: between `switch_in` and the next one, this VMCS is current.
        FromVmcs(&unsafe { self.vmcs.assume_loaded() }).string_instruction()
    }

    /// Where the guest is, for a report. Makes its VMCS current.
    pub fn snapshot(&mut self) -> Snapshot {
        let vmcs = self.vmcs.load();
        Snapshot {
            rip: vmcs.read(field::GUEST_RIP),
            code_base: vmcs.read(field::GUEST_CS_BASE),
            long_mode: vmcs.read(field::GUEST_CS_ACCESS_RIGHTS) & boot_state::LONG != 0,
            rsp: vmcs.read(field::GUEST_RSP),
            rflags: vmcs.read(field::GUEST_RFLAGS),
            paging: FromVmcs(&vmcs).control(),
            delivering: EventInfo(vmcs.read(field::IDT_VECTORING_INFO)).is_valid(),
            reason: vmcs.read(field::EXIT_REASON),
            qualification: vmcs.read(field::EXIT_QUALIFICATION),
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
    if exit::complete(vcpu, reason) {
        skip(&mut vmcs);
        cpu.before_entry(&mut vcpu.xstate);
        return true;
    }
    if reason == Reason::PREEMPTION_TIMER && vcpu.slice_is_over(tsc::now()) {
        runner.leave = Leave::SliceOver;
        return false;
    }
    decide(runner, cpu, reason)
}

/// The rest of [`on_exit`], apart so that exits that are complete save no registers.
#[inline(never)]
fn decide(runner: &mut Runner, cpu: &mut Cpu, reason: Reason) -> bool {
    // SAFETY: the exit came from this VMCS.
    let mut vmcs = unsafe { runner.vmcs.assume_loaded() };
    let vcpu = &mut runner.vcpu;
    let mut skipped = false;
    match exit::dispatch(vcpu, cpu, reason, &FromVmcs(&vmcs)) {
        Outcome::Skip => {
            skip(&mut vmcs);
            skipped = true;
        }
        Outcome::Resume => {}
        Outcome::Inject(exception) => inject(&mut vmcs, exception),
        Outcome::RetryDebug => {
            debug::enter(&mut vmcs, &mut runner.switched, &mut runner.interrupts);
        }
        Outcome::InjectDebug { causes, behind } => {
            debug::enter(&mut vmcs, &mut runner.switched, &mut runner.interrupts);
            if behind {
                skip(&mut vmcs);
            }
            debug::inject(&mut vmcs, causes);
        }
        Outcome::Intercept(interception) => {
            skip(&mut vmcs);
            intercept(&mut vmcs, &mut runner.msr_bitmap, interception);
        }
        Outcome::SetMsr(msr, value) => {
            skip(&mut vmcs);
            runner.switched.write(msr, value);
        }
        Outcome::RetryCr0 { shadow } => vmcs.write(field::CR0_READ_SHADOW, shadow),
        Outcome::RetryCr4 { shadow, cr4 } => {
            vmcs.write(field::CR4_READ_SHADOW, shadow);
            vmcs.write(field::GUEST_CR4, cr4);
        }
        Outcome::SkipAndLeave(leave) => {
            skip(&mut vmcs);
            vcpu.attention = true;
            runner.leave = leave;
            return false;
        }
        Outcome::Leave(leave) => {
            runner.leave = leave;
            return false;
        }
    }
    if vcpu.attention {
        runner.interrupts.attend(&mut vmcs, vcpu, skipped);
        if vcpu.has_news() {
            runner.leave = Leave::Notify;
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
