//! What must hold of the loader whatever it is given: called by the fuzz targets with
//! what they make up, and by `tests/corpus.rs` with what they have found so far.

use crc::{CRC_32_ISO_HDLC, Crc};
use guest_loader::{
    Entry, Request,
    bundle::{Bundle, pack},
    plan,
};

/// Memory in units of 2 MiB, kilobytes of the initrd (none if zero), vCPUs, bytes of the
/// command line.
const SETTINGS: usize = 4;

/// A plan puts nothing outside the VM's memory, nothing over something else, and begins
/// inside. `data` is the settings, the command line, and the image.
pub fn image(data: &[u8]) {
    let Some((&[memory, initrd, vcpus, text], rest)) = data.split_first_chunk::<SETTINGS>() else {
        return;
    };
    let cut = |bytes: usize| bytes.min(rest.len());
    let (text, image) = rest.split_at(cut(usize::from(text)));
    let ramdisk = vec![0x5a; usize::from(initrd) << 10];
    let request = Request {
        image,
        initrd: (initrd > 0).then_some(&ramdisk),
        memory_bytes: (u64::from(memory) + 1) << 21,
        command_line: &String::from_utf8_lossy(text),
        vcpus: u32::from(vcpus),
    };
    match plan(&request) {
        Ok(plan) => {
            let ranges = plan.copies.iter().map(|(at, bytes)| {
                let end = at.checked_add(bytes.len() as u64).expect("an end");
                *at..end
            });
            let mut ranges: Vec<_> = ranges.filter(|range| !range.is_empty()).collect();
            ranges.sort_by_key(|range| range.start);
            for pair in ranges.windows(2) {
                assert!(pair[0].end <= pair[1].start, "{pair:x?}");
            }
            if let Some(last) = ranges.last() {
                assert!(last.end <= request.memory_bytes, "{last:x?}");
            }
            let first = match plan.entry {
                Entry::Long64(entry) => entry.rip,
                Entry::Protected32(entry) => entry.eip,
                Entry::Real16 { ip } => u64::from(ip),
            };
            assert!(first < request.memory_bytes, "begins at {first:#x}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// The checksum, and what it covers: the format is the bundle module's.
const CHECKSUM_AT: usize = 12;
const COVERED: usize = 16;
const TOTAL: core::ops::Range<usize> = 16..24;

/// What is parsed has its images inside the data, and is the same when it is packed and
/// parsed again. The checksum is made right first, or nothing behind it would ever be
/// reached.
pub fn bundle(data: &[u8]) {
    let mut data = data.to_vec();
    if data.len() >= TOTAL.end {
        let total = data.len() as u64;
        data[TOTAL].copy_from_slice(&total.to_le_bytes());
        let checksum = CHECKSUM.checksum(&data[COVERED..]);
        data[CHECKSUM_AT..COVERED].copy_from_slice(&checksum.to_le_bytes());
    }
    match Bundle::parse(&data) {
        Ok(bundle) => {
            let inside = data.as_ptr_range();
            for vm in &bundle.vms {
                for image in [Some(vm.image), vm.initrd].into_iter().flatten() {
                    let image = image.as_ptr_range();
                    assert!(inside.start <= image.start && image.end <= inside.end);
                }
            }
            let packed = pack(&bundle.vms).expect("what was parsed can be packed");
            assert_eq!(Bundle::parse(&packed).as_ref(), Ok(&bundle));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
