//! Fields of the VMCS, in the order of SDM Vol. 3, appendix "Field Encoding in
//! VMCS". The type of a field's value is part of its type, and checked against
//! the width that the encoding itself declares: a wrong one does not compile.

use core::marker::PhantomData;

/// A VMCS field whose value has type `W`.
pub struct Field<W>(u32, PhantomData<W>);

impl<W> Clone for Field<W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W> Copy for Field<W> {}

/// Types a field can have: those the encoding's width bits can say.
pub trait Width: Copy {
    /// Bits 14:13 of the encodings of this width.
    const CODES: &'static [u32];
    /// The value as VMREAD leaves it in a register, cut to the width.
    fn from_register(register: u64) -> Self;
    /// The value as VMWRITE takes it from a register.
    fn to_register(self) -> u64;
}

macro_rules! width {
    ($type:ty: $($code:literal),+) => {
        impl Width for $type {
            const CODES: &'static [u32] = &[$($code),+];
            fn from_register(register: u64) -> Self {
                register as Self
            }
            fn to_register(self) -> u64 {
                u64::from(self)
            }
        }
    };
}

// 0: 16 bits. 1: 64 bits. 2: 32 bits. 3: natural width, 64 bits for us.
width!(u16: 0);
width!(u32: 2);
width!(u64: 1, 3);

impl<W: Width> Field<W> {
    const fn new(encoding: u32) -> Self {
        let code = encoding >> 13 & 0b11;
        let mut index = 0;
        let mut fits = false;
        while index < W::CODES.len() {
            fits |= W::CODES[index] == code;
            index += 1;
        }
        assert!(fits, "the encoding says another width than the type");
        Self(encoding, PhantomData)
    }

    /// The encoding that VMREAD and VMWRITE take.
    pub const fn encoding(self) -> u32 {
        self.0
    }
}

macro_rules! fields {
    ($($name:ident: $type:ty = $encoding:literal;)*) => {
        $(
            #[doc = concat!("VMCS field ", stringify!($encoding), ".")]
            pub const $name: Field<$type> = Field::new($encoding);
        )*
    };
}

fields! {
    // 16-bit control and guest-state fields.
    VPID:                           u16 = 0x0000;
    GUEST_ES_SELECTOR:              u16 = 0x0800;
    GUEST_CS_SELECTOR:              u16 = 0x0802;
    GUEST_SS_SELECTOR:              u16 = 0x0804;
    GUEST_DS_SELECTOR:              u16 = 0x0806;
    GUEST_FS_SELECTOR:              u16 = 0x0808;
    GUEST_GS_SELECTOR:              u16 = 0x080a;
    GUEST_LDTR_SELECTOR:            u16 = 0x080c;
    GUEST_TR_SELECTOR:              u16 = 0x080e;
    GUEST_INTERRUPT_STATUS:         u16 = 0x0810;

    // 16-bit host-state fields.
    HOST_ES_SELECTOR:               u16 = 0x0c00;
    HOST_CS_SELECTOR:               u16 = 0x0c02;
    HOST_SS_SELECTOR:               u16 = 0x0c04;
    HOST_DS_SELECTOR:               u16 = 0x0c06;
    HOST_FS_SELECTOR:               u16 = 0x0c08;
    HOST_GS_SELECTOR:               u16 = 0x0c0a;
    HOST_TR_SELECTOR:               u16 = 0x0c0c;

    // 64-bit control fields.
    MSR_BITMAP:                     u64 = 0x2004;
    VIRTUAL_APIC_PAGE:              u64 = 0x2012;
    EPT_POINTER:                    u64 = 0x201a;
    EOI_EXIT_BITMAP_0:              u64 = 0x201c;
    EOI_EXIT_BITMAP_1:              u64 = 0x201e;
    EOI_EXIT_BITMAP_2:              u64 = 0x2020;
    EOI_EXIT_BITMAP_3:              u64 = 0x2022;
    XSS_EXITING_BITMAP:             u64 = 0x202c;

    // 64-bit read-only data fields.
    GUEST_PHYSICAL_ADDRESS:         u64 = 0x2400;

    // 64-bit guest-state fields.
    VMCS_LINK_POINTER:              u64 = 0x2800;
    GUEST_DEBUGCTL:                 u64 = 0x2802;
    GUEST_PAT:                      u64 = 0x2804;
    GUEST_EFER:                     u64 = 0x2806;

    // 64-bit host-state fields.
    HOST_PAT:                       u64 = 0x2c00;
    HOST_EFER:                      u64 = 0x2c02;

    // 32-bit control fields.
    PIN_BASED_CONTROLS:             u32 = 0x4000;
    PRIMARY_CONTROLS:               u32 = 0x4002;
    EXCEPTION_BITMAP:               u32 = 0x4004;
    PAGE_FAULT_ERROR_CODE_MASK:     u32 = 0x4006;
    PAGE_FAULT_ERROR_CODE_MATCH:    u32 = 0x4008;
    CR3_TARGET_COUNT:               u32 = 0x400a;
    EXIT_CONTROLS:                  u32 = 0x400c;
    EXIT_MSR_STORE_COUNT:           u32 = 0x400e;
    EXIT_MSR_LOAD_COUNT:            u32 = 0x4010;
    ENTRY_CONTROLS:                 u32 = 0x4012;
    ENTRY_MSR_LOAD_COUNT:           u32 = 0x4014;
    ENTRY_INTERRUPTION_INFO:        u32 = 0x4016;
    ENTRY_EXCEPTION_ERROR_CODE:     u32 = 0x4018;
    SECONDARY_CONTROLS:             u32 = 0x401e;

    // 32-bit read-only data fields.
    INSTRUCTION_ERROR:              u32 = 0x4400;
    EXIT_REASON:                    u32 = 0x4402;
    EXIT_INTERRUPTION_INFO:         u32 = 0x4404;
    IDT_VECTORING_INFO:             u32 = 0x4408;
    EXIT_INSTRUCTION_LENGTH:        u32 = 0x440c;
    EXIT_INSTRUCTION_INFO:          u32 = 0x440e;

    // 32-bit guest-state fields.
    GUEST_ES_LIMIT:                 u32 = 0x4800;
    GUEST_CS_LIMIT:                 u32 = 0x4802;
    GUEST_SS_LIMIT:                 u32 = 0x4804;
    GUEST_DS_LIMIT:                 u32 = 0x4806;
    GUEST_FS_LIMIT:                 u32 = 0x4808;
    GUEST_GS_LIMIT:                 u32 = 0x480a;
    GUEST_LDTR_LIMIT:               u32 = 0x480c;
    GUEST_TR_LIMIT:                 u32 = 0x480e;
    GUEST_GDTR_LIMIT:               u32 = 0x4810;
    GUEST_IDTR_LIMIT:               u32 = 0x4812;
    GUEST_ES_ACCESS_RIGHTS:         u32 = 0x4814;
    GUEST_CS_ACCESS_RIGHTS:         u32 = 0x4816;
    GUEST_SS_ACCESS_RIGHTS:         u32 = 0x4818;
    GUEST_DS_ACCESS_RIGHTS:         u32 = 0x481a;
    GUEST_FS_ACCESS_RIGHTS:         u32 = 0x481c;
    GUEST_GS_ACCESS_RIGHTS:         u32 = 0x481e;
    GUEST_LDTR_ACCESS_RIGHTS:       u32 = 0x4820;
    GUEST_TR_ACCESS_RIGHTS:         u32 = 0x4822;
    GUEST_INTERRUPTIBILITY:         u32 = 0x4824;
    GUEST_ACTIVITY_STATE:           u32 = 0x4826;
    GUEST_SYSENTER_CS:              u32 = 0x482a;
    PREEMPTION_TIMER:               u32 = 0x482e;

    // 32-bit host-state field.
    HOST_SYSENTER_CS:               u32 = 0x4c00;

    // Natural-width control fields.
    CR0_GUEST_HOST_MASK:            u64 = 0x6000;
    CR4_GUEST_HOST_MASK:            u64 = 0x6002;
    CR0_READ_SHADOW:                u64 = 0x6004;
    CR4_READ_SHADOW:                u64 = 0x6006;

    // Natural-width read-only data fields.
    EXIT_QUALIFICATION:             u64 = 0x6400;
    GUEST_LINEAR_ADDRESS:           u64 = 0x640a;

    // Natural-width guest-state fields.
    GUEST_CR0:                      u64 = 0x6800;
    GUEST_CR3:                      u64 = 0x6802;
    GUEST_CR4:                      u64 = 0x6804;
    GUEST_ES_BASE:                  u64 = 0x6806;
    GUEST_CS_BASE:                  u64 = 0x6808;
    GUEST_SS_BASE:                  u64 = 0x680a;
    GUEST_DS_BASE:                  u64 = 0x680c;
    GUEST_FS_BASE:                  u64 = 0x680e;
    GUEST_GS_BASE:                  u64 = 0x6810;
    GUEST_LDTR_BASE:                u64 = 0x6812;
    GUEST_TR_BASE:                  u64 = 0x6814;
    GUEST_GDTR_BASE:                u64 = 0x6816;
    GUEST_IDTR_BASE:                u64 = 0x6818;
    GUEST_DR7:                      u64 = 0x681a;
    GUEST_RSP:                      u64 = 0x681c;
    GUEST_RIP:                      u64 = 0x681e;
    GUEST_RFLAGS:                   u64 = 0x6820;
    GUEST_PENDING_DEBUG:            u64 = 0x6822;
    GUEST_SYSENTER_ESP:             u64 = 0x6824;
    GUEST_SYSENTER_EIP:             u64 = 0x6826;

    // Natural-width host-state fields.
    HOST_CR0:                       u64 = 0x6c00;
    HOST_CR3:                       u64 = 0x6c02;
    HOST_CR4:                       u64 = 0x6c04;
    HOST_FS_BASE:                   u64 = 0x6c06;
    HOST_GS_BASE:                   u64 = 0x6c08;
    HOST_TR_BASE:                   u64 = 0x6c0a;
    HOST_GDTR_BASE:                 u64 = 0x6c0c;
    HOST_IDTR_BASE:                 u64 = 0x6c0e;
    HOST_SYSENTER_ESP:              u64 = 0x6c10;
    HOST_SYSENTER_EIP:              u64 = 0x6c12;
    HOST_RSP:                       u64 = 0x6c14;
    HOST_RIP:                       u64 = 0x6c16;
}
