//! [`SharedLog`]: the dirty log that a front end shares with the engine (vhost's format).
//!
//! The file is the front end's, which may truncate it at any time: the mapping is one like
//! guest RAM's, and survives. It is only ever accessed by atomics, since the front end clears
//! bits meanwhile.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::mapping::Mapping;
use super::{LOG_PAGE, MemoryError};
use crate::interface::MemoryRegion;

/// Largest log: enough for the 48 bits of a guest-physical address.
const BYTES_MAX: u64 = 1 << (48 - 12 - 3);

/// Bit n of byte n/8, the lowest first, is the page of 4 KiB at guest-physical `4096 * n`.
#[derive(Debug)]
pub struct SharedLog {
    mapping: Mapping,
    pages: u64,
}

impl SharedLog {
    /// Maps `size` bytes from `offset` on of a file.
    ///
    /// # Errors
    /// When the range is not in the file, its start is not a multiple of 4096, or the host
    /// refuses.
    pub fn new(file: File, offset: u64, size: u64) -> Result<Self, MemoryError> {
        let file_bytes = file
            .metadata()
            .map_err(|source| MemoryError::Host {
                what: "cannot tell the size of the dirty log's file",
                source,
            })?
            .len();
        let is_there = offset
            .checked_add(size)
            .is_some_and(|end| end <= file_bytes);
        if !offset.is_multiple_of(4096) || !(1..=BYTES_MAX).contains(&size) || !is_there {
            return Err(MemoryError::BadArgument(format!(
                "a dirty log of {size:#x} bytes at offset {offset:#x} of a file of {file_bytes:#x}: \
                 expected 1 to {BYTES_MAX:#x} bytes of the file, from a multiple of 4096 on"
            )));
        }
        let region = MemoryRegion {
            guest_addr: 0,
            size: size.next_multiple_of(4096),
            file: Arc::new(file),
            file_offset: offset,
            writable: true,
            populate: false,
        };
        // Whether it was lost is its owner's own matter.
        let lost = Arc::new(AtomicBool::new(false));
        Ok(Self {
            mapping: Mapping::new(&region, &lost)?,
            pages: 8 * size,
        })
    }

    /// Whether it has bits for all pages of a range.
    #[must_use]
    pub fn covers(&self, guest_addr: u64, size: u64) -> bool {
        let end = guest_addr.checked_add(size);
        end.is_some_and(|end| end.div_ceil(LOG_PAGE) <= self.pages)
    }

    /// Marks the page that holds this address; nothing where there is no bit for it.
    pub fn mark(&self, guest_addr: u64) {
        let page = guest_addr / LOG_PAGE;
        if page < self.pages {
            // Release: whoever sees the bit sees what was written before.
            self.byte(page).fetch_or(1 << (page % 8), Ordering::Release);
        }
    }

    /// Reads and clears the bits of `pages` pages from the `first` on: bit n of word n/64 is page
    /// `first + n`. Pages without a bit are not marked.
    #[must_use]
    pub fn take(&self, first: u64, pages: u64) -> Vec<u64> {
        let mut words = vec![0; pages.div_ceil(64) as usize];
        let there = pages.min(self.pages.saturating_sub(first));
        let mut done = 0;
        while done < there {
            let shift = (first + done) % 8;
            let count = (8 - shift).min(there - done);
            let byte = self.byte(first + done);
            if byte.load(Ordering::Relaxed) != 0 {
                let mask = 0xff_u8 >> (8 - count) << shift;
                // Acquire: whoever copies a page that is marked sees what was written.
                let bits = u64::from((byte.fetch_and(!mask, Ordering::AcqRel) & mask) >> shift);
                words[(done / 64) as usize] |= bits << (done % 64);
                if done % 64 + count > 64 {
                    words[(done / 64) as usize + 1] |= bits >> (64 - done % 64);
                }
            }
            done += count;
        }
        words
    }

    /// Pages for which there are bits.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The byte with the bit of a page below [`Self::pages`].
    fn byte(&self, page: u64) -> &AtomicU8 {
        debug_assert!(page < self.pages);
        let at = self
            .mapping
            .base()
            .as_ptr()
            .wrapping_add((page / 8) as usize);
        // SAFETY: inside the mapping, which `self` keeps; whoever else has it mapped accesses
        // it atomically, too.
        unsafe { AtomicU8::from_ptr(at) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn bits_are_where_vhost_has_them() {
        let file = tempfile::tempfile().unwrap();
        // As QEMU does it: no multiple of a page.
        file.set_len(4096 + 24).unwrap();
        let log = SharedLog::new(file.try_clone().unwrap(), 4096, 24).unwrap();
        assert!(log.covers(0, 192 * 4096) && !log.covers(4096, 192 * 4096));
        for gpa in [0, 9 * 4096 + 17, 191 * 4096, 192 * 4096, u64::MAX] {
            log.mark(gpa);
        }
        let mut bytes = [0; 24];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        let mut expected = [0; 24];
        (expected[0], expected[1], expected[23]) = (1, 2, 0x80);
        assert_eq!(bytes, expected);
        assert_eq!(log.take(9, 200), [1, 0, 1 << (191 - 9 - 128), 0]);
        assert_eq!(log.take(0, 192), [1, 0, 0]);
        assert_eq!(log.take(0, 192), [0, 0, 0]);
        // It may be taken away at any time.
        file.set_len(0).unwrap();
        log.mark(0);
        // Each is wrong in one way only.
        let file_bytes = BYTES_MAX + 8192;
        file.set_len(file_bytes).unwrap();
        for (offset, size) in [
            (1, 8),
            (4095, 4096),
            (0, 0),
            (0, BYTES_MAX + 1),
            (4096, BYTES_MAX + 4097),
            (u64::MAX - 4095, 4096),
            (file_bytes - 4096, 4097),
        ] {
            let file = file.try_clone().unwrap();
            let refused = SharedLog::new(file, offset, size).unwrap_err();
            assert!(
                matches!(refused, MemoryError::BadArgument(_)),
                "{offset:#x}+{size:#x}: {refused}"
            );
        }
        SharedLog::new(file, file_bytes - 4096, 4096).unwrap();
    }
}
