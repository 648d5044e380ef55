//! The software backend: copy, fill and compare kernels, chosen by size and processor.
//!
//! Guest memory changes under the kernels at any time, so all of them are machine code
//! that reads each byte once, by no Rust reference. What they need of the processor is
//! looked at once, when the backend is made.

mod calibrate;
mod compare;
mod copy;
mod cpu;
mod fill;

use crate::memory::HostAddr;

use super::{Backend, Hint, Order};
use cpu::Simd;

/// Copies and fills up to here are done with loads first, stores last, in one go.
const SMALL: usize = 256;

/// Operations shorter than this are never streamed, whatever the processor says of its
/// caches, in bytes.
const STREAM_MIN: u64 = 1 << 20;

/// Pieces shorter than this are not streamed: the cost is in the fences.
const STREAM_PIECE: usize = 4096;

/// Executes pieces on the worker's own processor.
#[derive(Debug)]
pub struct Software {
    simd: Simd,
    /// From this size of an operation on, in bytes, what it writes goes past the caches,
    /// unless the submitter asks otherwise: source and destination fill half of the last
    /// cache by then, and every line would be read before it is written.
    stream_from: u64,
    /// From this length of a piece on, in bytes, the processor's own `rep movsb` copies faster than the vector loop,
    /// as long as nothing is to be streamed.
    string_from: usize,
    /// Streaming stores since the last fence.
    streamed: bool,
}

impl Default for Software {
    fn default() -> Self {
        Self::new()
    }
}

impl Software {
    /// With the widest kernels that this processor has.
    #[must_use]
    pub fn new() -> Self {
        let simd = Simd::detect();
        Self {
            simd,
            string_from: calibrate::string_from(simd),
            stream_from: (cpu::last_cache_bytes() / 4).max(STREAM_MIN),
            streamed: false,
        }
    }

    /// The kernels in use, for reports.
    #[must_use]
    pub fn kernels(&self) -> String {
        let simd = self.simd.name();
        match self.string_from {
            usize::MAX => simd.to_owned(),
            from => format!("{simd}, rep movsb from {} KiB", from >> 10),
        }
    }

    fn streams(&self, len: usize, hint: Hint) -> bool {
        hint.total >= self.stream_from
            && len >= STREAM_PIECE
            && !hint.cached
            && hint.order == Order::Disjoint
    }
}

impl Backend for Software {
    #[inline(always)]
    unsafe fn copy(&mut self, dst: HostAddr, src: HostAddr, len: usize, hint: Hint) {
        if len <= SMALL {
            // SAFETY: the caller's guarantee, passed on.
            unsafe { copy::small(dst.0, src.0, len) };
            return;
        }
        let stream = self.streams(len, hint);
        if len >= self.string_from && !stream && hint.order == Order::Disjoint {
            // SAFETY: the caller's guarantee, passed on.
            unsafe { copy::string(dst.0, src.0, len) };
            return;
        }
        self.streamed |= stream;
        // SAFETY: the caller's guarantee, passed on; the processor has `simd`.
        unsafe { copy::long(self.simd, dst.0, src.0, len, hint.order, stream) };
    }

    #[inline]
    unsafe fn fill(&mut self, dst: HostAddr, len: usize, pattern: u128, hint: Hint) {
        let stream = self.streams(len, hint);
        self.streamed |= stream;
        // SAFETY: the caller's guarantee, passed on; the processor has `simd`.
        unsafe { fill::fill(self.simd, dst.0, len, pattern, stream) };
    }

    #[inline]
    unsafe fn compare(&mut self, a: HostAddr, b: HostAddr, len: usize) -> Option<usize> {
        // SAFETY: the caller's guarantee, passed on; the processor has `simd`.
        unsafe { compare::ranges(self.simd, a.0, b.0, len) }
    }

    #[inline]
    unsafe fn compare_value(&mut self, a: HostAddr, len: usize, pattern: u128) -> Option<usize> {
        // SAFETY: the caller's guarantee, passed on.
        unsafe { compare::value(a.0, len, pattern) }
    }

    #[inline(always)]
    fn finish(&mut self) {
        if self.streamed {
            self.streamed = false;
            // SAFETY: every x86-64 processor has it.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

#[cfg(test)]
mod tests;
