//! Where things are in the address spaces of this image.
//!
//! Owns the numbers only. The image itself lies at its guest-physical address in every process
//! (`image.ld`).

/// Bytes of a small page.
pub const PAGE: u64 = 0x1000;
/// Bytes of a large page, and of a block of the frame allocator.
pub const LARGE_PAGE: u64 = 0x20_0000;

/// Kernel process: all RAM, mapped in order (PML4 entry 128; the boot tables have it for the first
/// GiB).
pub const DIRECT_MAP: u64 = 0x4000_0000_0000;
/// Kernel process: device registers, at this plus their guest-physical address.
pub const MMIO_MAP: u64 = 0x5000_0000_0000;
/// Unprivileged processes: what [`byway_agent::commands::Alloc`] hands out.
pub const HEAP: u64 = 0x1000_0000_0000;
/// First address after the heap.
pub const HEAP_END: u64 = 0x2000_0000_0000;
/// Unprivileged processes: header of the mailbox, read-only.
pub const MAILBOX_HEADER: u64 = 0x7000_0000_0000;
/// Unprivileged processes: the process's own channel page.
pub const MAILBOX_CHANNEL: u64 = MAILBOX_HEADER + PAGE;
/// Unprivileged processes: the process's own bulk area.
pub const MAILBOX_BULK: u64 = MAILBOX_HEADER + LARGE_PAGE;

/// A row of places of one large page each.
pub struct Window(u64);

impl Window {
    /// First address of place `index`.
    pub const fn address(&self, index: usize) -> u64 {
        self.0 + index as u64 * LARGE_PAGE
    }
}

/// Unprivileged processes: frames that were the other process's before.
pub const GIVEN: u64 = 0x6800_0000_0000;
/// Unprivileged processes: work queues.
pub const QUEUES: Window = Window(0x6000_0000_0000);
