//! [`Buffer`]: memory to be shared.

use byway_ring::context::{Memory, Region};

use crate::error::Error;
use crate::sys::Mapping;

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;

/// Fresh zeroed memory of this process, made to be read and written by the engine: accessed by [`Region`]
/// alone, so that it may be shared ([`byway_ring::context::Share`]) at any time. Its pages come when they
/// are touched, by the process or by the engine.
#[derive(Debug)]
pub struct Buffer {
    mapping: Mapping,
    offset: usize,
    length: usize,
}

impl Buffer {
    /// A buffer of `bytes` bytes, on a page of its own.
    ///
    /// # Errors
    /// 0 bytes, or no room in the address space.
    pub fn new(bytes: usize) -> Result<Self, Error> {
        Ok(Self {
            mapping: Mapping::new(None, bytes)?,
            offset: 0,
            length: bytes,
        })
    }

    /// The same, aligned to 2 MiB, with the kernel asked for large pages (MADV_HUGEPAGE). Whether it gives any is its
    /// own matter.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn large(bytes: usize) -> Result<Self, Error> {
        let whole = bytes.checked_add(LARGE_PAGE).ok_or(Error {
            call: "mmap",
            errno: libc::ENOMEM,
        })?;
        let mapping = Mapping::new(None, whole)?;
        let start = mapping.start().as_ptr().addr();
        let offset = start.next_multiple_of(LARGE_PAGE) - start;
        let buffer = Self {
            mapping,
            offset,
            length: bytes,
        };
        let start = buffer.region().address() as usize as *mut libc::c_void;
        // SAFETY: advice on our own mapping, which does not change what stands in it. A kernel without
        // large pages refuses, and small ones do as well.
        unsafe { libc::madvise(start, bytes.next_multiple_of(4096), libc::MADV_HUGEPAGE) };
        Ok(buffer)
    }

    /// Has every page there beforehand ([`Region::populate`]).
    pub fn populate(&self) {
        self.region().populate();
    }

    /// Bytes of it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none, which does not occur.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The memory.
    #[must_use]
    pub fn region(&self) -> Region<'_> {
        // SAFETY: `new` and `large` mapped so much, readable and writable, for as long as `self` lives, and
        // no reference into it is ever made.
        unsafe { Region::from_raw(self.mapping.start().add(self.offset), self.length) }
    }
}

// SAFETY: the mapping stays where it is when the value moves, and `region` is the only way to it.
unsafe impl Memory for Buffer {
    fn region(&self) -> Region<'_> {
        Self::region(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_memory_is_zero_and_keeps_what_is_written() {
        for buffer in [Buffer::new(10_000).unwrap(), Buffer::large(10_000).unwrap()] {
            assert_eq!(buffer.len(), 10_000);
            let mut bytes = [1; 16];
            buffer.region().read(9_984, &mut bytes).unwrap();
            assert_eq!(bytes, [0; 16]);
            buffer.region().write(9_984, &[7; 16]).unwrap();
            let moved = Box::new(buffer);
            moved.region().read(9_984, &mut bytes).unwrap();
            assert_eq!(bytes, [7; 16]);
        }
    }

    #[test]
    fn large_buffers_begin_on_a_large_page() {
        let buffer = Buffer::large(1).unwrap();
        assert!(buffer.region().address().is_multiple_of(LARGE_PAGE as u64));
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert_eq!(Buffer::new(0).unwrap_err().errno, libc::EINVAL);
        assert_eq!(Buffer::large(usize::MAX).unwrap_err().errno, libc::ENOMEM);
    }
}
