//! What the driver needs from the kernel that it runs in.

use core::ptr::NonNull;

/// Bytes of a page that [`Hal`] hands out.
pub const PAGE_BYTES: usize = 4096;

/// Pages that the device may reach: contiguous in guest-physical addresses and where the
/// driver sees them.
#[derive(Debug, PartialEq, Eq)]
pub struct DmaPages {
    /// Guest-physical address of the first byte, a multiple of 4096.
    pub gpa: u64,
    /// Where the driver reaches the first byte, aligned to 4096.
    pub ptr: NonNull<u8>,
    /// Number of pages of 4096 bytes.
    pub pages: usize,
}

// SAFETY: the pages belong to whoever holds this value; nothing in them is bound to a thread.
unsafe impl Send for DmaPages {}

impl DmaPages {
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.pages * PAGE_BYTES
    }
}

/// Memory, time and idleness, as the kernel gives them.
///
/// # Safety
/// [`Hal::allocate`] returns pages that are zeroed, valid for reads and writes through `ptr`,
/// backed by the guest-physical addresses that it names, used by nobody else, and that stay so
/// until they come back through [`Hal::free`].
pub unsafe trait Hal {
    /// Zeroed pages, or `None` when there are none.
    fn allocate(&mut self, pages: usize) -> Option<DmaPages>;

    /// Takes pages back.
    ///
    /// # Safety
    /// They came from [`Hal::allocate`] of the same `Hal`, and neither the driver nor the device
    /// will touch them again.
    unsafe fn free(&mut self, pages: DmaPages);

    /// A clock that never runs backwards, in nanoseconds.
    fn now_ns(&mut self) -> u64;

    /// Called between two looks at a virtqueue. It may pause, yield, or sleep until the
    /// device's interrupt; it must return in bounded time even if none comes, or no time-out
    /// will ever be noticed.
    fn idle(&mut self) {
        core::hint::spin_loop();
    }
}
