//! [`Region`]: memory that the engine may read and write at any moment.
//!
//! The only place of the application's side that touches such memory. Every access is atomic, word by word where
//! the alignment allows it, so none tears within a word and none is undefined; what a read of many bytes
//! sees is a mixture of old and new whenever somebody writes meanwhile. It must never hand out a
//! reference.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::request::Address;

/// A range that is not within the memory that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfRange {
    /// Where it begins: an offset, or an address.
    pub start: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// Bytes that there are.
    pub available: u64,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes from {:#x} on are not within the {} bytes of this memory",
            self.bytes, self.start, self.available
        )
    }
}

impl core::error::Error for OutOfRange {}

/// Memory of one's own that others may read and write meanwhile, for `'m`.
///
/// It is neither `Send` nor `Sync`: whoever owns the memory makes one for each thread.
#[derive(Debug, Clone, Copy)]
pub struct Region<'m> {
    start: NonNull<u8>,
    length: usize,
    memory: PhantomData<&'m AtomicU8>,
}

impl<'m> Region<'m> {
    /// The region of `length` bytes from `start` on.
    ///
    /// # Safety
    /// For `'m` the range is mapped, readable and writable, and no Rust reference into it is used.
    #[must_use]
    pub const unsafe fn from_raw(start: NonNull<u8>, length: usize) -> Self {
        Self {
            start,
            length,
            memory: PhantomData,
        }
    }

    /// Plain memory, lent for as long as the region is used.
    #[must_use]
    pub const fn from_mut(bytes: &'m mut [u8]) -> Self {
        let length = bytes.len();
        // SAFETY: borrowed exclusively for `'m`, and mapped.
        unsafe { Self::from_raw(NonNull::new_unchecked(bytes.as_mut_ptr()), length) }
    }

    /// Bytes of it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Virtual address of its first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// Its first byte as an operand.
    #[must_use]
    pub fn operand(&self) -> Address {
        Address::own(self.address())
    }

    /// A part of it.
    ///
    /// # Errors
    /// The range is empty, turned round, or not within.
    pub fn slice(&self, range: core::ops::Range<usize>) -> Result<Self, OutOfRange> {
        if range.start >= range.end || range.end > self.length {
            return Err(OutOfRange {
                start: range.start as u64,
                bytes: range.end.saturating_sub(range.start) as u64,
                available: self.length as u64,
            });
        }
        // SAFETY: within the range that the maker promised, by the check above.
        Ok(unsafe { Self::from_raw(self.start.add(range.start), range.end - range.start) })
    }

    /// Whether so many bytes from an address on are within.
    pub(super) fn contains(&self, address: u64, bytes: u64) -> Result<(), OutOfRange> {
        let offset = address.checked_sub(self.address());
        let end = offset.and_then(|offset| offset.checked_add(bytes));
        match end {
            Some(end) if bytes != 0 && end <= self.length as u64 => Ok(()),
            _ => Err(OutOfRange {
                start: address,
                bytes,
                available: self.length as u64,
            }),
        }
    }

    /// Copies the bytes from `offset` on.
    ///
    /// # Errors
    /// They are not all within.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let mut at = self.place(offset, into.len())?;
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            // SAFETY: `place` checked that all of it is within, and `step` that a word is aligned.
            let word = unsafe {
                match step(at, rest.len()) {
                    8 => AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed),
                    _ => u64::from(AtomicU8::from_ptr(at).load(Ordering::Relaxed)),
                }
            };
            let moved = step(at, rest.len());
            for (to, from) in rest.iter_mut().zip(word.to_ne_bytes()).take(moved) {
                *to = from;
            }
            done += moved;
            // SAFETY: at most one past the end.
            at = unsafe { at.add(moved) };
        }
        Ok(())
    }

    /// Writes bytes from `offset` on.
    ///
    /// # Errors
    /// They are not all within; nothing was written.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfRange> {
        let mut at = self.place(offset, from.len())?;
        let mut rest = from;
        while let Some((first, after)) = rest.split_first() {
            // SAFETY: as in `read`.
            unsafe {
                match rest.first_chunk::<8>() {
                    Some(word) if step(at, rest.len()) == 8 => {
                        let word = u64::from_ne_bytes(*word);
                        AtomicU64::from_ptr(at.cast()).store(word, Ordering::Relaxed);
                        rest = rest.get(8..).unwrap_or(&[]);
                        at = at.add(8);
                    }
                    _ => {
                        AtomicU8::from_ptr(at).store(*first, Ordering::Relaxed);
                        rest = after;
                        at = at.add(1);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes one byte everywhere.
    pub fn fill(&self, byte: u8) {
        let block = [byte; 64];
        for offset in (0..self.length).step_by(block.len()) {
            let part = block.len().min(self.length - offset);
            // Within, by the bounds of the loop.
            let _ = self.write(offset, block.get(..part).unwrap_or(&[]));
        }
    }

    /// The aligned word at `offset`, which another party may write: sees what was written before it
    /// was, if that was published with release.
    ///
    /// # Errors
    /// It is not within, or not aligned to 8 bytes.
    pub fn load(&self, offset: usize) -> Result<u64, OutOfRange> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    /// Publishes a word at `offset`, after all that was written before.
    ///
    /// # Errors
    /// It is not within, or not aligned to 8 bytes.
    pub fn store(&self, offset: usize, word: u64) -> Result<(), OutOfRange> {
        self.word(offset)?.store(word, Ordering::Release);
        Ok(())
    }

    fn word(&self, offset: usize) -> Result<&AtomicU64, OutOfRange> {
        let at = self.place(offset, 8)?;
        if !at.addr().is_multiple_of(8) {
            return Err(self.out_of_range(offset, 8));
        }
        // SAFETY: within and aligned; borrowed from a region that is valid for longer.
        Ok(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    fn out_of_range(&self, offset: usize, bytes: usize) -> OutOfRange {
        OutOfRange {
            start: offset as u64,
            bytes: bytes as u64,
            available: self.length as u64,
        }
    }

    fn place(&self, offset: usize, bytes: usize) -> Result<*mut u8, OutOfRange> {
        match offset.checked_add(bytes) {
            // SAFETY: at most one past the end.
            Some(end) if end <= self.length => Ok(unsafe { self.start.add(offset) }.as_ptr()),
            _ => Err(self.out_of_range(offset, bytes)),
        }
    }

    /// Has every page there, and the process's own, without a change of what stands there: a transfer into a page
    /// that is missing waits for the kernel's answer to a page request, one page after the other.
    pub fn populate(&self) {
        let end = self.address() + self.length as u64;
        // Pages have 4096 bytes at least; the last one is met by its last byte.
        for address in (self.address()..end)
            .step_by(4096)
            .chain([end.saturating_sub(1)])
        {
            self.touch(address, true);
        }
    }

    /// Has the kernel make the page of `address` present, and writable if `write`, without a change
    /// of what stands there. `false`: the address is outside.
    pub(super) fn touch(&self, address: u64, write: bool) -> bool {
        let offset = address.checked_sub(self.address());
        let Some(offset) = offset.filter(|offset| *offset < self.length as u64) else {
            return false;
        };
        // SAFETY: within, as just checked.
        unsafe {
            let byte = self.start.add(offset as usize).as_ptr();
            if write {
                // In assembly, since the compiler makes a load of an atomic operation that changes
                // nothing, and nothing of a load whose result nobody wants.
                core::arch::asm!("lock or byte ptr [{}], 0", in(reg) byte, options(nostack));
            } else {
                byte.read_volatile();
            }
        }
        true
    }
}

/// Bytes of the next access.
fn step(at: *mut u8, left: usize) -> usize {
    if left >= 8 && at.addr().is_multiple_of(8) {
        8
    } else {
        1
    }
}

/// Memory of one's own that a transfer reads, and never writes.
#[derive(Debug, Clone, Copy)]
pub struct Source<'m>(pub(super) Region<'m>);

impl<'m> From<Region<'m>> for Source<'m> {
    fn from(region: Region<'m>) -> Self {
        Self(region)
    }
}

impl<'m> From<&'m [u8]> for Source<'m> {
    fn from(bytes: &'m [u8]) -> Self {
        let start = NonNull::from(bytes).cast();
        // SAFETY: mapped and not written for `'m`. A `Source` writes nothing, and gives its
        // region to nobody who would.
        Self(unsafe { Region::from_raw(start, bytes.len()) })
    }
}

impl<'m, const N: usize> From<&'m [u8; N]> for Source<'m> {
    fn from(bytes: &'m [u8; N]) -> Self {
        Self::from(bytes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn bytes_go_in_and_come_out_at_any_alignment() {
        let mut memory = vec![0u8; 64];
        for offset in 0..9 {
            for length in 0..40 {
                let bytes: Vec<u8> = (0..length as u8).map(|byte| byte ^ 0x5a).collect();
                let region = Region::from_mut(&mut memory);
                region.fill(0);
                region.write(offset, &bytes).unwrap();
                let mut back = vec![0; length];
                region.read(offset, &mut back).unwrap();
                assert_eq!(back, bytes);
                assert_eq!(&memory[offset..offset + length], bytes);
                assert!(memory[..offset].iter().all(|byte| *byte == 0));
                assert!(memory[offset + length..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn nothing_outside_is_reached() {
        let mut memory = [0u8; 24];
        let region = Region::from_mut(&mut memory);
        assert!(region.read(17, &mut [0; 8]).is_err());
        assert!(region.write(25, &[]).is_err());
        assert!(region.write(usize::MAX, &[1]).is_err());
        assert!(region.slice(8..8).is_err());
        assert!(region.slice(8..25).is_err());
        let end = region.address() + 24;
        assert!(region.contains(end - 8, 8).is_ok());
        assert!(region.contains(end - 8, 9).is_err());
        assert!(region.contains(end - 8, 0).is_err());
        assert!(region.contains(region.address() - 1, 1).is_err());
        assert!(region.contains(end - 8, u64::MAX).is_err());
        assert!(!region.touch(end, true));
        assert!(region.touch(end - 1, true));
    }

    #[test]
    fn words_have_to_be_aligned() {
        #[repr(align(8))]
        struct Aligned([u8; 16]);
        let mut memory = Aligned([0; 16]);
        let region = Region::from_mut(&mut memory.0);
        region.store(8, 7).unwrap();
        assert_eq!(region.load(8), Ok(7));
        assert!(region.load(4).is_err());
        assert!(region.store(16, 0).is_err());
    }
}
