//! A guest's memory: runs of host frames behind guest-physical addresses from
//! zero up, reached only by checked copies.

#![expect(unsafe_code, reason = "copies to and from a guest's frames")]

use super::{
    address::{FRAME_BYTES, Gpa, HUGE_BYTES, Hpa, LARGE_BYTES},
    ept::{Ept, MapError, PageSizes},
    host,
};
use alloc::vec::Vec;
use thiserror::Error;

/// A guest-physical range that is not all memory of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{bytes} bytes at guest-physical {gpa} are not memory")]
pub struct OutsideMemory {
    /// Where the range begins.
    pub gpa: Gpa,
    /// Bytes that were asked for.
    pub bytes: u64,
}

struct Run {
    gpa: Gpa,
    hpa: Hpa,
    bytes: u64,
}

/// Memory of one VM with the tables that map it; given back when dropped.
pub struct GuestMemory {
    runs: Vec<Run>,
    ept: Option<Ept>,
    bytes: u64,
}

impl GuestMemory {
    /// `bytes` of zeroed memory from guest-physical zero on, in runs as long as
    /// the machine has them, so that large pages can map it. A VM that the
    /// machine has no room for is refused, and what it took is given back.
    pub fn new(bytes: u64, sizes: PageSizes) -> Result<Self, MapError> {
        let mut frames = host::ept_frames();
        let mut memory = Self {
            runs: Vec::new(),
            ept: Some(Ept::new(&mut frames)?),
            bytes,
        };
        let mut gpa = 0;
        while gpa < bytes {
            let left = bytes - gpa;
            let (hpa, run) = [left, HUGE_BYTES, LARGE_BYTES, FRAME_BYTES]
                .into_iter()
                .filter(|&run| run <= left)
                .find_map(|run| {
                    let alignment = match run {
                        HUGE_BYTES.. => HUGE_BYTES,
                        LARGE_BYTES.. => LARGE_BYTES,
                        _ => FRAME_BYTES,
                    };
                    host::allocate_zeroed(run, alignment)
                        .or_else(|| host::allocate_zeroed(run, alignment.min(LARGE_BYTES)))
                        .map(|hpa| (hpa, run))
                })
                .ok_or(MapError::OutOfMemory)?;
            memory.runs.push(Run {
                gpa: Gpa(gpa),
                hpa,
                bytes: run,
            });
            if let Some(ept) = &mut memory.ept {
                ept.map(&mut frames, sizes, Gpa(gpa), hpa, run)?;
            }
            gpa += run;
        }
        Ok(memory)
    }

    /// The EPT pointer for the VMCS.
    pub fn ept_pointer(&self) -> u64 {
        self.ept.as_ref().map_or(0, Ept::pointer)
    }

    /// Copies `data` into the guest at `gpa`.
    pub fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), OutsideMemory> {
        self.check(gpa, data.len())?;
        let mut rest = data;
        let mut at = gpa;
        while let (false, Some((target, room))) = (rest.is_empty(), self.locate(at)) {
            let (now, later) = rest.split_at(rest.len().min(room));
            // SAFETY: `room` bytes from `target` on are this guest's frames,
            // which only the guest itself also touches; copied as raw bytes.
            unsafe { target.copy_from_nonoverlapping(now.as_ptr(), now.len()) };
            at = Gpa(at.0 + now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Copies guest memory at `gpa` out into `data`.
    pub fn read(&self, gpa: Gpa, data: &mut [u8]) -> Result<(), OutsideMemory> {
        self.check(gpa, data.len())?;
        let mut rest = data;
        let mut at = gpa;
        while let (false, Some((source, room))) = (rest.is_empty(), self.locate(at)) {
            let length = rest.len().min(room);
            let (now, later) = rest.split_at_mut(length);
            // SAFETY: as in `write`, in the other direction.
            unsafe { source.copy_to_nonoverlapping(now.as_mut_ptr(), length) };
            at = Gpa(at.0 + length as u64);
            rest = later;
        }
        Ok(())
    }

    /// The eight bytes at `gpa`, for a walk of the guest's tables.
    pub fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn check(&self, gpa: Gpa, bytes: usize) -> Result<(), OutsideMemory> {
        let bytes = bytes as u64;
        match gpa.checked_add(bytes) {
            Some(end) if end.0 <= self.bytes => Ok(()),
            _ => Err(OutsideMemory { gpa, bytes }),
        }
    }

    /// Where `gpa` lies, and how many bytes follow in the same run.
    fn locate(&self, gpa: Gpa) -> Option<(*mut u8, usize)> {
        let run = self
            .runs
            .iter()
            .find(|run| (run.gpa.0..run.gpa.0 + run.bytes).contains(&gpa.0))?;
        let offset = gpa.0 - run.gpa.0;
        let at = host::direct(Hpa(run.hpa.0 + offset)).as_mut_ptr();
        Some((at, (run.bytes - offset) as usize))
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        if let Some(ept) = self.ept.take() {
            ept.release(&mut host::ept_frames());
        }
        for run in &self.runs {
            host::with_frames(|frames| frames.free(run.hpa, run.bytes));
        }
    }
}
