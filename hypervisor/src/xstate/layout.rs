//! What CPUID leaf 0xD says about this processor, and where each component
//! lies in an XSAVE area.
//!
//! On entry: a CPUID reader of a processor, real or made up. Done here: the
//! leaf is read raw (decoders of it end at component 31 and hide the XFD bit),
//! checked for contradictions, and turned into one table. One walk over that
//! table gives every offset and every size, in both formats. Not prevented
//! here: a set that holds components which the processor does not have; they
//! take no room.

use crate::cpu::bits::join;
use crate::xstate::features::XFeatures;
use crate::xstate::malformed::{LayoutError, SubLeafFault};
use raw_cpuid::CpuIdReader;

/// The CPUID leaf that enumerates XSAVE-managed state.
pub const XSTATE_LEAF: u32 = 0xd;

/// Bytes of the legacy region, where x87 and SSE state lie in both formats
/// (SDM Vol. 1, "Legacy Region of an XSAVE Area" (13.4.1)).
pub const LEGACY_SIZE: u32 = 512;

/// First byte behind the XSAVE header, where the extended region begins
/// (SDM Vol. 1, "Extended Region of an XSAVE Area" (13.4.3)).
pub const EXTENDED_START: u32 = 576;

/// Start of a component that wants alignment is a multiple of this, in bytes,
/// counted from the start of the area.
const COMPONENT_ALIGNMENT: u32 = 64;

/// How components are placed in an XSAVE area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Each user component at the offset that CPUID gives it; supervisor
    /// components have no place.
    Standard,
    /// The components of `XCOMP_BV` one after the other, by number.
    Compacted,
}

/// One numbered part of XSAVE-managed state, from number 2 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its bit in XCR0 or `IA32_XSS`, and its sub-leaf of leaf 0xD.
    pub number: u8,
    /// Bytes it takes in either format.
    pub size: u32,
    /// Its place in the standard format, in bytes from the start of the area.
    pub offset: u32,
    /// Whether it begins at a multiple of 64 bytes in the compacted format.
    pub aligned: bool,
    /// Whether XFD can disable it.
    pub dynamic: bool,
}

/// Where a component lies in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The component.
    pub number: u8,
    /// First byte, from the start of the area.
    pub offset: u32,
    /// Number of bytes.
    pub size: u32,
}

/// Which of the optional instructions and registers exist (CPUID.(0xD,1):EAX).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions {
    /// XSAVEOPT.
    pub xsaveopt: bool,
    /// XSAVEC and the compacted form of XRSTOR.
    pub xsavec: bool,
    /// XGETBV with ECX = 1, which reports the components in use.
    pub xgetbv1: bool,
    /// XSAVES, XRSTORS and `IA32_XSS`.
    pub xsaves: bool,
    /// `IA32_XFD` and `IA32_XFD_ERR`.
    pub xfd: bool,
}

/// The extended state of one kind of processor.
#[derive(Clone, Debug)]
pub struct Layout {
    components: [Option<Component>; 64],
    user: XFeatures,
    supervisor: XFeatures,
    dynamic: XFeatures,
    extensions: Extensions,
}

impl Layout {
    /// Reads and checks leaf 0xD.
    ///
    /// # Errors
    /// [`LayoutError`] where there is no XSAVE, or where the leaf contradicts
    /// itself; it names the sub-leaf.
    pub fn from_cpuid(cpuid: &impl CpuIdReader) -> Result<Self, LayoutError> {
        const XSAVE: u32 = 1 << 26;
        if cpuid.cpuid1(1).ecx & XSAVE == 0 {
            return Err(LayoutError::NoXsave);
        }
        let highest = cpuid.cpuid1(0).eax;
        if highest < XSTATE_LEAF {
            return Err(LayoutError::NoLeaf { highest });
        }
        let main = cpuid.cpuid2(XSTATE_LEAF, 0);
        let user = XFeatures::from_bits(join(main.edx, main.eax));
        if !user.contains(XFeatures::X87 | XFeatures::SSE) {
            return Err(LayoutError::NoLegacy { user });
        }
        let sub = cpuid.cpuid2(XSTATE_LEAF, 1);
        let extensions = Extensions {
            xsaveopt: sub.eax & 1 << 0 != 0,
            xsavec: sub.eax & 1 << 1 != 0,
            xgetbv1: sub.eax & 1 << 2 != 0,
            xsaves: sub.eax & 1 << 3 != 0,
            xfd: sub.eax & 1 << 4 != 0,
        };
        // Without XSAVES there is no IA32_XSS, whatever ECX and EDX hold.
        let supervisor = if extensions.xsaves {
            XFeatures::from_bits(join(sub.edx, sub.ecx))
        } else {
            XFeatures::EMPTY
        };
        if user.intersects(supervisor) {
            let both = user & supervisor;
            return Err(LayoutError::UserAndSupervisor { both });
        }

        let mut layout = Self {
            components: [None; 64],
            user,
            supervisor,
            dynamic: XFeatures::EMPTY,
            extensions,
        };
        let extended = (user | supervisor) - (XFeatures::X87 | XFeatures::SSE);
        let mut total = u64::from(EXTENDED_START);
        for number in extended.numbers() {
            let component = layout
                .read_component(cpuid, number)
                .map_err(|fault| LayoutError::SubLeaf { number, fault })?;
            // Bounds every sum of sizes and paddings, so that `walk` cannot overflow.
            total += u64::from(component.size) + u64::from(COMPONENT_ALIGNMENT);
            if total > u64::from(u32::MAX) {
                let fault = SubLeafFault::TooLarge;
                return Err(LayoutError::SubLeaf { number, fault });
            }
            if component.dynamic {
                layout.dynamic |= XFeatures::single(number);
            }
            if let Some(slot) = layout.components.get_mut(usize::from(number)) {
                *slot = Some(component);
            }
        }

        let computed = layout.size(user, Format::Standard);
        if main.ecx != computed {
            let reported = main.ecx;
            return Err(LayoutError::StandardSize { reported, computed });
        }
        Ok(layout)
    }

    /// Reads sub-leaf `number` and holds it against the components read before.
    fn read_component(
        &self,
        cpuid: &impl CpuIdReader,
        number: u8,
    ) -> Result<Component, SubLeafFault> {
        const SUPERVISOR: u32 = 1 << 0;
        const ALIGNED: u32 = 1 << 1;
        const XFD: u32 = 1 << 2;
        let leaf = cpuid.cpuid2(XSTATE_LEAF, u32::from(number));
        let component = Component {
            number,
            size: leaf.eax,
            offset: leaf.ebx,
            aligned: leaf.ecx & ALIGNED != 0,
            dynamic: leaf.ecx & XFD != 0 && self.extensions.xfd,
        };
        if component.size == 0 {
            return Err(SubLeafFault::NoSize);
        }
        let supervisor = self.supervisor.contains(XFeatures::single(number));
        if supervisor != (leaf.ecx & SUPERVISOR != 0) {
            return Err(SubLeafFault::KindDisagrees);
        }
        if supervisor {
            return Ok(component);
        }
        if component.offset < EXTENDED_START {
            let offset = component.offset;
            return Err(SubLeafFault::InsideLegacyOrHeader { offset });
        }
        let Some(end) = component.offset.checked_add(component.size) else {
            return Err(SubLeafFault::TooLarge);
        };
        let overlapped = self
            .walk(self.user, Format::Standard)
            .find(|other| component.offset < other.offset + other.size && other.offset < end);
        match overlapped {
            Some(other) => Err(SubLeafFault::Overlaps {
                other: other.number,
            }),
            None => Ok(component),
        }
    }

    /// Components that XCR0 can enable.
    pub const fn user(&self) -> XFeatures {
        self.user
    }

    /// Components that `IA32_XSS` can enable.
    pub const fn supervisor(&self) -> XFeatures {
        self.supervisor
    }

    /// Components that XFD can disable.
    pub const fn dynamic(&self) -> XFeatures {
        self.dynamic
    }

    /// The optional instructions and registers.
    pub const fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// The format in which this processor saves best: compacted where any
    /// instruction writes it.
    pub const fn format(&self) -> Format {
        if self.extensions.xsaves || self.extensions.xsavec {
            Format::Compacted
        } else {
            Format::Standard
        }
    }

    /// The components of `set` from number 2 on, with their places in an area
    /// of `format` whose components are exactly `set`
    /// (SDM Vol. 1, "Extended Region of an XSAVE Area" (13.4.3)).
    pub fn walk(&self, set: XFeatures, format: Format) -> impl Iterator<Item = Placed> {
        let placeable = match format {
            Format::Standard => set & self.user,
            Format::Compacted => set,
        };
        let mut end = EXTENDED_START;
        placeable
            .numbers()
            .filter_map(|number| *self.components.get(usize::from(number))?)
            .map(move |component| {
                let offset = match format {
                    Format::Standard => component.offset,
                    Format::Compacted if component.aligned => {
                        end.next_multiple_of(COMPONENT_ALIGNMENT)
                    }
                    Format::Compacted => end,
                };
                end = offset + component.size;
                Placed {
                    number: component.number,
                    offset,
                    size: component.size,
                }
            })
    }

    /// Bytes of an area of `format` for exactly the components of `set`; never
    /// below the legacy region and the header. In the standard format it is the
    /// furthest end that counts, which need not be that of the highest number.
    pub fn size(&self, set: XFeatures, format: Format) -> u32 {
        self.walk(set, format)
            .map(|placed| placed.offset + placed.size)
            .fold(EXTENDED_START, u32::max)
    }

    /// Holds our arithmetic against the processor's own: leaf 0xD states the
    /// sizes for the current XCR0 and `IA32_XSS`.
    ///
    /// # Errors
    /// [`LayoutError`] with both figures where they differ.
    pub fn check_current_sizes(
        &self,
        cpuid: &impl CpuIdReader,
        xcr0: XFeatures,
        xss: XFeatures,
    ) -> Result<(), LayoutError> {
        let reported = cpuid.cpuid2(XSTATE_LEAF, 0).ebx;
        let computed = self.size(xcr0, Format::Standard);
        if reported != computed {
            return Err(LayoutError::StandardSize { reported, computed });
        }
        // Without XSAVEC and XSAVES the field is reserved.
        if self.format() == Format::Compacted {
            let reported = cpuid.cpuid2(XSTATE_LEAF, 1).ebx;
            let computed = self.size(xcr0 | xss, Format::Compacted);
            if reported != computed {
                return Err(LayoutError::CompactedSize { reported, computed });
            }
        }
        Ok(())
    }
}
