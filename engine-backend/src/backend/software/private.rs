//! [`Private`]: the way between guest memory and memory of the engine's own.
//!
//! What is to be looked at twice, or by code that takes slices, is taken into private
//! memory first, each byte by one load; results go out likewise. No Rust reference ever
//! points into guest memory.

use super::SMALL;
use super::copy;
use super::cpu::Simd;
use super::{diff, sum};
use crate::backend::Order;
use crate::memory::HostAddr;

/// Copies between guest memory and slices, at once: unlike with a
/// [`Backend`](crate::backend::Backend), nothing is left to be finished.
#[derive(Debug, Clone, Copy)]
pub struct Private {
    simd: Simd,
}

impl Default for Private {
    fn default() -> Self {
        Self::new()
    }
}

impl Private {
    /// With the widest kernels that this processor has.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Simd::detect())
    }

    /// With kernels that the processor must have.
    pub(super) fn with(simd: Simd) -> Self {
        Self { simd }
    }

    /// Reads guest memory, each byte once.
    ///
    /// # Safety
    /// `into.len()` bytes from `from` on are mapped and readable, and hold no memory
    /// that Rust knows about.
    pub unsafe fn load(self, into: &mut [u8], from: HostAddr) {
        let to = into.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the caller's guarantee for the source; the destination is a slice.
        unsafe { self.copy(to, from.0, into.len()) };
    }

    /// Writes guest memory.
    ///
    /// # Safety
    /// As for [`Private::load`], and writable.
    pub unsafe fn store(self, to: HostAddr, from: &[u8]) {
        let src = from.as_ptr().expose_provenance() as u64;
        // SAFETY: the caller's guarantee for the destination; the source is a slice.
        unsafe { self.copy(to.0, src, from.len()) };
    }

    /// Writes the exclusive or of 2 to [`SUMMANDS_MAX`](sum::SUMMANDS_MAX) ranges of `len` bytes to `to`, each byte
    /// loaded once.
    ///
    /// # Panics
    /// With another number of ranges.
    ///
    /// # Safety
    /// All ranges are mapped, the sources readable and `to` writable, and hold no memory that Rust knows about but what
    /// the caller has borrowed for it. `to` is one of the sources, or shares no byte with any.
    pub unsafe fn sum(self, to: HostAddr, from: &[HostAddr], len: usize) {
        let mut sources = [0; sum::SUMMANDS_MAX];
        for (source, host) in sources.iter_mut().zip(from) {
            *source = host.0;
        }
        // SAFETY: the caller's guarantee; the processor has `simd`.
        unsafe { sum::sum(self.simd, to.0, &sources[..from.len()], len) };
    }

    /// The first step of [`diff::STEP`] bytes in which two ranges of `len` bytes, whole words, differ, each byte loaded
    /// once; the second range's bytes of it go to `found`.
    ///
    /// # Safety
    /// As for [`Private::load`], for both ranges.
    pub unsafe fn difference(
        self,
        a: HostAddr,
        b: HostAddr,
        len: usize,
        found: &mut [u8; diff::STEP],
    ) -> Option<diff::Step> {
        // SAFETY: the caller's guarantee; the processor has `simd`.
        unsafe { diff::first(self.simd, a.0, b.0, len, found) }
    }

    /// # Safety
    /// Both ranges are mapped, and share no byte.
    unsafe fn copy(self, dst: u64, src: u64, len: usize) {
        // SAFETY: the caller's guarantee; the processor has `simd`.
        unsafe {
            if len <= SMALL {
                copy::small(dst, src, len);
            } else {
                // Never by `rep movsb`: private memory is in the inner caches, where vectors are faster.
                copy::long(self.simd, dst, src, len, Order::Disjoint, false);
            }
        }
    }
}
