//! The one place that touches memory shared with the device.
//!
//! Owns bounds: every access is checked against the pages' size. Offsets are always the
//! driver's own, made of constants and masked indices, so a failing check is a mistake
//! in the driver and never the device's doing. Nothing here hands out a reference.

use crate::hal::DmaPages;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Checked access to DMA pages.
#[derive(Debug)]
pub(crate) struct Dma {
    pages: DmaPages,
}

macro_rules! load {
    ($load:ident, $raw:ty, $atomic:ty) => {
        pub(crate) fn $load(&self, offset: usize, order: Ordering) -> $raw {
            let at = self.at(offset, size_of::<$raw>());
            // SAFETY: in bounds and aligned as just checked; the pages are valid while `self`
            // holds them, and they are only ever accessed by atomics and volatile bytes.
            unsafe { <$atomic>::from_ptr(at.cast()) }.load(order)
        }
    };
}

macro_rules! store {
    ($store:ident, $raw:ty, $atomic:ty) => {
        pub(crate) fn $store(&self, offset: usize, value: $raw, order: Ordering) {
            let at = self.at(offset, size_of::<$raw>());
            // SAFETY: as for the load.
            unsafe { <$atomic>::from_ptr(at.cast()) }.store(value, order);
        }
    };
}

impl Dma {
    /// Access to `pages`, which came from `Hal::allocate`.
    pub(crate) const fn new(pages: DmaPages) -> Self {
        Self { pages }
    }

    pub(crate) fn gpa(&self, offset: usize) -> u64 {
        assert!(offset <= self.pages.bytes(), "offset outside the DMA pages");
        self.pages.gpa + offset as u64
    }

    pub(crate) fn into_pages(self) -> DmaPages {
        self.pages
    }

    /// A pointer to `bytes` bytes at `offset`, in bounds and aligned to `bytes` (a power of two).
    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        let end = offset
            .checked_add(bytes)
            .expect("an offset is a few pages at most");
        assert!(end <= self.pages.bytes(), "offset outside the DMA pages");
        assert!(offset.is_multiple_of(bytes), "misaligned DMA access");
        // SAFETY: `offset` is inside the allocation.
        unsafe { self.pages.ptr.add(offset) }.as_ptr()
    }

    load!(load_u16, u16, AtomicU16);
    load!(load_u32, u32, AtomicU32);
    load!(load_u64, u64, AtomicU64);
    store!(store_u16, u16, AtomicU16);
    store!(store_u32, u32, AtomicU32);
    store!(store_u64, u64, AtomicU64);

    /// Copies `bytes` bytes from `offset` on to `into`, at the speed of memory. What the device writes there meanwhile
    /// garbles them, no more.
    ///
    /// # Safety
    /// `into` is valid for writes of so many bytes, none of which are these pages'.
    pub(crate) unsafe fn copy_out(&self, offset: usize, into: *mut u8, bytes: usize) {
        let from = self.range(offset, bytes);
        // SAFETY: the source is in bounds as just checked, the rest is the caller's promise.
        unsafe { from.copy_to_nonoverlapping(into, bytes) };
    }

    /// The other way.
    ///
    /// # Safety
    /// `from` is valid for reads of so many bytes, none of which are these pages'.
    pub(crate) unsafe fn copy_in(&self, offset: usize, from: *const u8, bytes: usize) {
        let into = self.range(offset, bytes);
        // SAFETY: the target is in bounds as just checked, the rest is the caller's promise.
        unsafe { into.copy_from_nonoverlapping(from, bytes) };
    }

    fn range(&self, offset: usize, bytes: usize) -> *mut u8 {
        let end = offset.checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.pages.bytes()),
            "a range outside the DMA pages"
        );
        // SAFETY: `offset` is inside the allocation, or its end.
        unsafe { self.pages.ptr.add(offset) }.as_ptr()
    }

    /// Copies out, each byte fetched once.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            let at = self.at(offset + index, 1);
            // SAFETY: in bounds; volatile, since the device may write at any moment.
            *byte = unsafe { at.read_volatile() };
        }
    }

    /// Copies in.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        for (index, byte) in from.iter().enumerate() {
            let at = self.at(offset + index, 1);
            // SAFETY: in bounds; volatile, since the device may read at any moment.
            unsafe { at.write_volatile(*byte) };
        }
    }

    /// Zeroes all of it. The device must not be using it.
    pub(crate) fn clear(&self) {
        for offset in (0..self.pages.bytes()).step_by(8) {
            self.store_u64(offset, 0, Ordering::Relaxed);
        }
    }
}
