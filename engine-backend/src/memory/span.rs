//! [`HostSpan`]: a validated, contiguous piece of guest memory.

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::mapping::Mapping;
use super::{MemoryError, check_file};
use crate::interface::MemoryRegion;
use crate::stage2::HostAddr;

/// A contiguous range of writable guest memory, accessed by atomic operations only,
/// which the guest may race with. It keeps its mapping alive. Offsets are in bytes from
/// its start.
///
/// # Panics
/// Every accessor panics when the access is not inside the span or not naturally
/// aligned: spans are validated when made, and offsets come from the engine alone.
#[derive(Debug, Clone)]
pub struct HostSpan {
    ptr: NonNull<u8>,
    len: usize,
    gpa: u64,
    mapping: Arc<Mapping>,
}

// SAFETY: the pointer is into `mapping`, which the span keeps alive, and is used by
// atomic operations only.
unsafe impl Send for HostSpan {}
// SAFETY: as for `Send`.
unsafe impl Sync for HostSpan {}

impl HostSpan {
    /// The `len` bytes at `offset` of a writable mapping whose first byte lies at
    /// `region_gpa`, or `None` when they are not inside it.
    pub(super) fn new(
        mapping: &Arc<Mapping>,
        region_gpa: u64,
        offset: usize,
        len: usize,
    ) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= mapping.len()).then(|| Self {
            // SAFETY: `offset` is at most the length of the mapping.
            ptr: unsafe { mapping.base().add(offset) },
            len,
            gpa: region_gpa + offset as u64,
            mapping: Arc::clone(mapping),
        })
    }

    /// Maps the first `bytes` bytes, a multiple of 4096, of a file that is no guest's RAM, but
    /// is written by others all the same; its addresses count from 0.
    ///
    /// # Errors
    /// When the file is too short, or the host refuses.
    pub fn of_file(file: Arc<File>, bytes: u64) -> Result<Self, MemoryError> {
        let region = MemoryRegion {
            guest_addr: 0,
            size: bytes,
            file,
            file_offset: 0,
            writable: true,
            populate: true,
        };
        check_file(&region)?;
        let mapping = Arc::new(Mapping::new(&region, &Arc::default())?);
        let all = Self::new(&mapping, 0, 0, mapping.len());
        all.ok_or_else(|| MemoryError::BadArgument("a mapping shorter than itself".to_owned()))
    }

    /// Length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Guest-physical address of its first byte.
    #[must_use]
    pub fn gpa(&self) -> u64 {
        self.gpa
    }
    /// Pointer to its first byte.
    #[inline(always)]
    pub(super) fn start(&self) -> NonNull<u8> {
        self.ptr
    }
    /// Host address of its first byte.
    #[must_use]
    pub fn host(&self) -> HostAddr {
        HostAddr(self.ptr.as_ptr() as u64)
    }
    /// The part of `len` bytes at `offset`, or `None` when it is not inside.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| Self {
            // SAFETY: `offset` is at most the length of the span.
            ptr: unsafe { self.ptr.add(offset) },
            len,
            gpa: self.gpa + offset as u64,
            mapping: Arc::clone(&self.mapping),
        })
    }

    /// Pointer to a `T` at `offset`, checked to be inside and aligned.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        let addr = self.ptr.as_ptr().wrapping_add(offset);
        assert!(
            self.len >= size && offset <= self.len - size && addr.addr().is_multiple_of(size),
            "access outside the span, or misaligned"
        );
        addr.cast()
    }
    #[inline(always)]
    fn atomic_u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: inside the span, which lives as long as `self`; nobody in this process
        // accesses guest memory other than atomically or by the copy kernels.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }
    }
    #[inline(always)]
    fn atomic_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as for `atomic_u8`; `at` checked the alignment.
        unsafe { AtomicU16::from_ptr(self.at(offset)) }
    }
    #[inline(always)]
    fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `atomic_u8`; `at` checked the alignment.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }
    #[inline(always)]
    fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as for `atomic_u8`; `at` checked the alignment.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Loads 8 bytes, ordered before every later access.
    #[must_use]
    #[inline(always)]
    pub fn load_u64_acquire(&self, offset: usize) -> u64 {
        self.atomic_u64(offset).load(Ordering::Acquire)
    }
    /// Loads 8 bytes.
    #[must_use]
    #[inline(always)]
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.atomic_u64(offset).load(Ordering::Relaxed)
    }
    /// Stores 8 bytes, ordered after every earlier access.
    #[inline(always)]
    pub fn store_u64_release(&self, offset: usize, value: u64) {
        self.atomic_u64(offset).store(value, Ordering::Release);
    }
    /// Stores 8 bytes.
    #[inline(always)]
    pub fn store_u64(&self, offset: usize, value: u64) {
        self.atomic_u64(offset).store(value, Ordering::Relaxed);
    }
    /// Loads 4 bytes.
    #[must_use]
    #[inline(always)]
    pub fn load_u32(&self, offset: usize) -> u32 {
        self.atomic_u32(offset).load(Ordering::Relaxed)
    }
    /// Stores 4 bytes.
    #[inline(always)]
    pub fn store_u32(&self, offset: usize, value: u32) {
        self.atomic_u32(offset).store(value, Ordering::Relaxed);
    }
    /// Loads 2 bytes, ordered before every later access.
    #[must_use]
    #[inline]
    pub fn load_u16_acquire(&self, offset: usize) -> u16 {
        self.atomic_u16(offset).load(Ordering::Acquire)
    }
    /// Stores 2 bytes, ordered after every earlier access.
    #[inline]
    pub fn store_u16_release(&self, offset: usize, value: u16) {
        self.atomic_u16(offset).store(value, Ordering::Release);
    }
    /// Replaces 8 bytes if they are `current`, with full ordering.
    ///
    /// # Errors
    /// The value found, when it is another.
    #[inline]
    pub fn cmpxchg_u64(&self, offset: usize, current: u64, new: u64) -> Result<u64, u64> {
        self.atomic_u64(offset)
            .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }

    /// Copies bytes out; each is read once, in ascending order, 8 at a time where aligned.
    pub fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        let (head, words) = self.alignment(offset, into.len());
        let mut at = offset;
        let (head, rest) = into.split_at_mut(head);
        let (body, tail) = rest.split_at_mut(words * 8);
        for byte in head {
            *byte = self.atomic_u8(at).load(Ordering::Relaxed);
            at += 1;
        }
        for word in body.chunks_exact_mut(8) {
            word.copy_from_slice(&self.load_u64(at).to_ne_bytes());
            at += 8;
        }
        for byte in tail {
            *byte = self.atomic_u8(at).load(Ordering::Relaxed);
            at += 1;
        }
    }

    /// Copies bytes in, in ascending order, 8 at a time where aligned.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        let (head, words) = self.alignment(offset, from.len());
        let mut at = offset;
        let (head, rest) = from.split_at(head);
        let (body, tail) = rest.split_at(words * 8);
        for &byte in head {
            self.atomic_u8(at).store(byte, Ordering::Relaxed);
            at += 1;
        }
        for word in body.chunks_exact(8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            self.store_u64(at, u64::from_ne_bytes(bytes));
            at += 8;
        }
        for &byte in tail {
            self.atomic_u8(at).store(byte, Ordering::Relaxed);
            at += 1;
        }
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "access outside the span"
        );
    }

    /// Bytes before the first aligned word of a range inside the span, and whole words
    /// from there.
    fn alignment(&self, offset: usize, len: usize) -> (usize, usize) {
        let addr = self.ptr.as_ptr().addr() + offset;
        let head = (addr.next_multiple_of(8) - addr).min(len);
        (head, (len - head) / 8)
    }
}
