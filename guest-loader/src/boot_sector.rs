//! Flat binaries that begin as a PC's firmware would begin a disk's first sector: the
//! signature of a boot sector, the whole image at 0x7c00, real mode. There is no
//! firmware to call.

use crate::{Copy, Field, LOW_MEMORY_END, boot_area, error::Error};
use alloc::{borrow::Cow, vec, vec::Vec};

/// Where firmware puts a boot sector, and the stack that ends below it.
pub(crate) const ORIGIN: u16 = 0x7c00;
const SIGNATURE_AT: usize = 510;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// Whether `image` has the signature.
pub(crate) fn is_boot_sector(image: &[u8]) -> bool {
    image
        .get(SIGNATURE_AT..)
        .is_some_and(|rest| rest.starts_with(&SIGNATURE))
}

/// The image and the command line where they belong.
pub(crate) fn load<'a>(image: &'a [u8], command_line: &str) -> Result<Vec<Copy<'a>>, Error> {
    let start = u64::from(ORIGIN);
    let end = start.saturating_add(image.len() as u64);
    if end > LOW_MEMORY_END {
        return Err(Error::Place {
            what: Field {
                name: "boot sector's image",
                offset: 0,
            },
            start,
            end,
            allowed: (start, LOW_MEMORY_END),
        });
    }
    Ok(vec![
        boot_area::command_line(command_line)?,
        (start, Cow::Borrowed(image)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Request, plan};

    fn image(bytes: usize) -> Vec<u8> {
        let mut image = vec![0xf4; bytes.max(SIGNATURE_AT + 2)];
        crate::put(&mut image, SIGNATURE_AT, &SIGNATURE);
        image
    }

    fn request(image: &[u8]) -> Request<'_> {
        Request {
            image,
            initrd: None,
            memory_bytes: 2 << 20,
            command_line: "x",
            vcpus: 1,
        }
    }

    #[test]
    fn the_whole_image_begins_where_firmware_puts_a_boot_sector() {
        let image = image(1000);
        let plan = plan(&request(&image)).unwrap();
        assert_eq!(plan.entry, Entry::Real16 { ip: 0x7c00 });
        let at = |address| plan.copies.iter().find(|(at, _)| *at == address).unwrap();
        assert_eq!(at(0x7c00).1.as_ref(), image);
        assert_eq!(at(boot_area::COMMAND_LINE).1.as_ref(), b"x\0");
    }

    #[test]
    fn what_does_not_fit_or_has_no_signature_is_refused() {
        let most = (LOW_MEMORY_END - 0x7c00) as usize;
        assert!(plan(&request(&image(most))).is_ok());
        let big = image(most + 1);
        let error = plan(&request(&big)).unwrap_err();
        assert!(matches!(error, Error::Place { start: 0x7c00, .. }));
        let short = &image(512)[..511];
        let error = plan(&request(short)).unwrap_err();
        assert!(matches!(error, Error::UnknownImage { .. }));
    }
}
