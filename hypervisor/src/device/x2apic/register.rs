//! Offsets of registers from [`super::FIRST_MSR`] (SDM Vol. 3, "Local APIC
//! Register Address Map Supported by x2APIC").

pub(super) const ID: u32 = 0x02;
pub(super) const VERSION: u32 = 0x03;
pub(super) const TASK_PRIORITY: u32 = 0x08;
pub(super) const PROCESSOR_PRIORITY: u32 = 0x0a;
pub(super) const EOI: u32 = 0x0b;
pub(super) const LOGICAL_DESTINATION: u32 = 0x0d;
pub(super) const SPURIOUS: u32 = 0x0f;
pub(super) const IN_SERVICE: u32 = 0x10;
pub(super) const TRIGGER_MODE: u32 = 0x18;
pub(super) const REQUEST: u32 = 0x20;
pub(super) const ERROR_STATUS: u32 = 0x28;
pub(super) const COMMAND: u32 = 0x30;
pub(super) const LVT_TIMER: u32 = 0x32;
pub(super) const LVT_ERROR: u32 = 0x37;
pub(super) const INITIAL_COUNT: u32 = 0x38;
pub(super) const CURRENT_COUNT: u32 = 0x39;
pub(super) const DIVIDE: u32 = 0x3e;
pub(super) const SELF_IPI: u32 = 0x3f;
