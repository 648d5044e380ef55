//! [`Aligned`]: private bytes that begin a page.
//!
//! Guests' buffers mostly do as well, and ciphers and copies go through both in vectors of a line: where one of them lies
//! across two lines, each access to it is two, and encryption in it takes a seventh longer. Where one begins a little later in
//! its page than the other, loads of a copy look as if they were of what it has just stored, and wait for that.

use std::ops::{Deref, DerefMut};

/// Bytes of a page.
const PAGE: usize = 4096;

/// Bytes on the heap, the first of which begins a page.
#[derive(Debug, Default)]
pub struct Aligned {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeroes. Pages of them take no room before they are used.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let bytes = vec![0; len + PAGE - 1].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start, len }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

impl DerefMut for Aligned {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_begins_a_page_wherever_it_is_moved() {
        for len in [0, 1, 64, 100, 1 << 20] {
            let mut bytes = Aligned::zeroed(len);
            assert_eq!(bytes.len(), len);
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(1);
            let moved = Box::new(std::mem::take(&mut bytes));
            assert!(moved.as_ptr().addr().is_multiple_of(PAGE));
            assert_eq!((moved.len(), bytes.len()), (len, 0));
        }
    }
}
