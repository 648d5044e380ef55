//! The invalidation page: how a guest kernel invalidates from atomic context, where it
//! can neither sleep nor wait for a virtqueue (SPEC section 10).
//!
//! One kernel-only page per address space. The guest kernel appends a range, bumps
//! `generation`, fences, and spins until each engine-written `busy` word is 0 or has
//! changed. Negotiated by [`crate::control::features::INVALIDATION_PAGE`].

use crate::wire::wire_struct;

/// Ranges that the page remembers; one that is further behind drops the whole space.
pub const RANGES: usize = 128;
/// Workers that can be told apart.
pub const WORKERS: usize = 64;

wire_struct! {
    /// First line of the page, written by the guest kernel only.
    pub struct InvalidationHeader: 64 align 64 {
        /// Ranges appended since bind. The newest is at index `(generation - 1) % RANGES`.
        generation: u64 = 0,
        /// 0.
        reserved8: [u8; 56] = 8,
    }
}

wire_struct! {
    /// One range, at byte `1024 + 16 * index` of the page.
    pub struct InvalidationRange: 16 align 16 {
        /// First address, a multiple of 4096.
        address: u64 = 0,
        /// Pages of 4096 bytes; 0 = the whole address space.
        pages: u64 = 8,
    }
}

/// Byte offset of the engine-written `busy` words (u64 each, one per worker).
pub const BUSY_OFFSET: usize = 64;
/// Byte offset of the ranges.
pub const RANGES_OFFSET: usize = 1024;

const _: () = assert!(BUSY_OFFSET + 8 * WORKERS <= RANGES_OFFSET);
const _: () = assert!(RANGES_OFFSET + 16 * RANGES <= 4096);
