//! The software backend: copy, fill, compare, checksum and flush kernels, chosen by size
//! and processor.
//!
//! Guest memory changes under the kernels at any time, so all of them are machine code
//! that reads each byte once, by no Rust reference. What they need of the processor is
//! looked at once, when the backend is made.

mod calibrate;
mod checksum;
mod compare;
mod copy;
mod cpu;
pub mod diff;
mod fill;
mod flush;
mod fold;
pub(crate) mod polynomial;
mod private;
pub mod sum;

use crate::memory::{HostAddr, hint};

use super::{Backend, Hint, Order};
use calibrate::{StringFrom, Strings};
use checksum::{Checksum, Crc32c, Crc64Nvme};
use cpu::Simd;
use crc_fast::Digest;
use flush::Flush;
use fold::Copying;
pub use private::Private;

/// Copies and fills up to here are done with loads first, stores last, in one go.
const SMALL: usize = 256;

/// Operations shorter than this are never streamed, whatever the processor says of its
/// caches, in bytes.
const STREAM_MIN: u64 = 1 << 20;

/// Operations as long as this are always streamed, in bytes: a processor tells of all of its last cache, of which a worker
/// has what others leave it.
const STREAM_MAX: u64 = 32 << 20;

/// Pieces shorter than this are not streamed: the cost is in the fences.
const STREAM_PIECE: usize = 4096;

/// Bytes that are taken into private memory at a time: they stay in the first cache until
/// the library has gone over them.
const SCRATCH: usize = 8 << 10;

/// They begin where most of guests' buffers do: vectors that are loaded lie across no two lines, and the stores to them look like
/// stores to what is loaded next, for as far as the processor compares addresses at first, no sooner than they have to.
#[derive(Debug)]
#[repr(align(4096))]
struct Scratch([u8; SCRATCH]);

/// Bytes of a part of a long checksummed copy. So short that reading the next one, writing the last one and computing go on
/// at the same time: memory is never idle while the library computes.
const FUSED_PART: usize = 1 << 10;

/// How far ahead of a long checksummed copy lines are fetched, in bytes.
const FUSED_AHEAD: usize = 1 << 10;

/// Executes pieces on the worker's own processor.
#[derive(Debug)]
pub struct Software {
    simd: Simd,
    /// From this size of an operation on, in bytes, what it writes goes past the caches,
    /// unless the submitter asks otherwise: source and destination fill half of the last
    /// cache by then, and every line would be read before it is written.
    stream_from: u64,
    /// From which length of a piece on the processor's own loops are faster than those of vectors, as long as nothing is to
    /// be streamed.
    strings: Strings,
    /// Streaming stores or flushes since the last fence.
    streamed: bool,
    /// Checksums are folded over guests' memory itself.
    folds: bool,
    private: Private,
    flush: Flush,
    /// Where checksums are taken; holds nothing between two calls that is read again.
    scratch: Box<Scratch>,
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
            strings: calibrate::strings(simd),
            stream_from: (cpu::last_cache_bytes() / 4).clamp(STREAM_MIN, STREAM_MAX),
            streamed: false,
            folds: fold::detect(),
            private: Private::new(),
            flush: Flush::detect(),
            scratch: Box::new(Scratch([0; SCRATCH])),
        }
    }

    /// Whether checksums are taken of guests' memory itself, as this processor allows: no byte is copied for them.
    #[must_use]
    pub fn sums_in_place(&self) -> bool {
        self.folds
    }

    /// The kernels in use, for reports.
    #[must_use]
    pub fn kernels(&self) -> String {
        let simd = self.simd.name();
        let StringFrom { near, far } = self.strings.copies;
        match near.min(far) {
            usize::MAX => simd.to_owned(),
            from if near <= far => format!("{simd}, rep movsb from {} KiB", from >> 10),
            from => format!(
                "{simd}, rep movsb from {} KiB of copies of {} MiB or more",
                from >> 10,
                calibrate::FAR >> 20
            ),
        }
    }

    /// The scratch as a source of the copy kernels.
    fn scratch(&mut self) -> HostAddr {
        HostAddr(self.scratch.0.as_mut_ptr().expose_provenance() as u64)
    }

    /// The checksum of `len` bytes, after bytes of which `value` is the checksum.
    ///
    /// # Safety
    /// As for [`Backend::crc32c`].
    unsafe fn sum<C: Checksum>(&mut self, src: HostAddr, len: usize, value: u64) -> u64 {
        let mut register = checksum::register::<C>(value);
        let mut at = 0;
        if self.folds && len >= fold::FOLD_MIN {
            at = len & !(fold::STEP - 1);
            // SAFETY: whole steps of the source; the processor can.
            register = unsafe { fold::fold(Copying::No, src.0, at, register, C::POWERS) };
            if at == len {
                return checksum::value::<C>(register);
            }
        }
        let mut sum = checksum::after::<C>(register);
        while at < len {
            let part = &mut self.scratch.0[..SCRATCH.min(len - at)];
            // SAFETY: a part of the source.
            unsafe { self.private.load(part, src.plus(at)) };
            sum.update(part);
            at += part.len();
        }
        sum.finalize()
    }

    /// The same, and copies these bytes.
    ///
    /// # Safety
    /// As for [`Backend::copy_crc32c`].
    unsafe fn copy_and_sum<C: Checksum>(
        &mut self,
        dst: HostAddr,
        src: HostAddr,
        len: usize,
        value: u64,
        hint: Hint,
    ) -> u64 {
        let mut register = checksum::register::<C>(value);
        let stream = self.streams(len, hint);
        self.streamed |= stream;
        let mut at = 0;
        if self.folds && len >= fold::FOLD_MIN {
            // To whole lines, which is what goes past the caches.
            at = (dst.0.wrapping_neg() & 63) as usize;
            if at != 0 {
                let mut sum = checksum::after::<C>(register);
                // SAFETY: the beginning of the ranges.
                unsafe { self.copy_through(&mut sum, dst, src, at, hint, false) };
                register = checksum::register::<C>(sum.finalize());
            }
            let whole = (len - at) & !(fold::STEP - 1);
            let (to, from) = (dst.plus(at).0, src.plus(at).0);
            let copying = if stream {
                Copying::Past(to)
            } else {
                Copying::To(to)
            };
            // SAFETY: whole steps of the ranges; the processor can.
            register = unsafe { fold::fold(copying, from, whole, register, C::POWERS) };
            at += whole;
            if at == len {
                return checksum::value::<C>(register);
            }
        }
        let mut sum = checksum::after::<C>(register);
        let is_long = hint.total >= self.stream_from;
        let most = if is_long { FUSED_PART } else { SCRATCH };
        while at < len {
            let part = most.min(len - at);
            if is_long {
                let ahead = src.plus(at + FUSED_AHEAD);
                fetch(ahead, part.min(len.saturating_sub(at + FUSED_AHEAD)));
            }
            // SAFETY: a part of the ranges.
            unsafe { self.copy_through(&mut sum, dst.plus(at), src.plus(at), part, hint, stream) };
            at += part;
        }
        sum.finalize()
    }

    /// Copies at most [`SCRATCH`] bytes by way of private memory, where their checksum is taken; past the caches if they are to
    /// `stream`, which is noted.
    ///
    /// # Safety
    /// As for [`Backend::copy_crc32c`].
    unsafe fn copy_through(
        &mut self,
        sum: &mut Digest,
        dst: HostAddr,
        src: HostAddr,
        len: usize,
        hint: Hint,
        stream: bool,
    ) {
        // SAFETY: the caller's guarantee.
        unsafe { self.private.load(&mut self.scratch.0[..len], src) };
        sum.update(&self.scratch.0[..len]);
        let scratch = self.scratch();
        // SAFETY: the caller's guarantee; nothing refers to the scratch now.
        unsafe {
            if stream && len > SMALL {
                copy::long(self.simd, dst.0, scratch.0, len, Order::Disjoint, true);
            } else {
                self.copy(dst, scratch, len, hint);
            }
        }
    }

    /// The vectors for operations of `total` bytes that only read. What comes from memory or the last cache is read by halves of
    /// lines: prefetchers that are led by the loads that meet a line take 12 to 16 % less time so.
    #[inline(always)]
    fn reading(&self, total: u64) -> Simd {
        match self.simd {
            Simd::Avx512 if total >= calibrate::FAR => Simd::Avx2,
            simd => simd,
        }
    }

    fn streams(&self, len: usize, hint: Hint) -> bool {
        hint.total >= self.stream_from
            && len >= STREAM_PIECE
            && !hint.cached
            && hint.order == Order::Disjoint
    }
}

/// Fetches the lines of a range into the caches; no more than a hint.
#[inline]
fn fetch(at: HostAddr, len: usize) {
    for offset in (0..len).step_by(hint::LINE) {
        hint::reads_soon(at.plus(offset));
    }
}

/// Copies of one length: which kernel does them.
#[derive(Debug, Clone, Copy)]
pub struct Prepared {
    len: usize,
    hint: Hint,
    /// Nothing is left to decide.
    kernel: Option<copy::Kernel>,
}

impl Backend for Software {
    const IMMEDIATE: u64 = u64::MAX;

    type Prepared = Prepared;

    // What goes through memory in parts and is loaded as a whole waits for all stores before it.
    #[inline(always)]
    fn prepare(&self, len: usize, hint: Hint) -> Prepared {
        let is_plain = len > SMALL && hint.order == Order::Disjoint && !self.streams(len, hint);
        let from = self.strings.copies.of(hint.total);
        Prepared {
            len,
            hint,
            kernel: is_plain.then(|| match len {
                _ if len >= from => copy::string as copy::Kernel,
                _ => copy::kernel(self.simd),
            }),
        }
    }

    #[inline(always)]
    unsafe fn copy_prepared(&mut self, prepared: Prepared, dst: HostAddr, src: HostAddr) {
        let Prepared { len, hint, kernel } = prepared;
        // SAFETY: the caller's guarantee, passed on.
        unsafe {
            match kernel {
                Some(kernel) => kernel(dst.0, src.0, len),
                None => self.copy(dst, src, len, hint),
            }
        }
    }

    #[inline(always)]
    unsafe fn copy(&mut self, dst: HostAddr, src: HostAddr, len: usize, hint: Hint) {
        if len <= SMALL {
            // SAFETY: the caller's guarantee, passed on.
            unsafe { copy::small(dst.0, src.0, len) };
            return;
        }
        let stream = self.streams(len, hint);
        let from = self.strings.copies.of(hint.total);
        if len >= from && !stream && hint.order == Order::Disjoint {
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
        let is_of_words = pattern as u64 == (pattern >> 64) as u64;
        let from = self.strings.fills.of(hint.total);
        // Stores of a string may pass each other, which those of a strict order must not.
        if len >= from && is_of_words && !stream && hint.order == Order::Disjoint {
            // SAFETY: the caller's guarantee, passed on.
            unsafe { fill::string(dst.0, len, pattern) };
            return;
        }
        self.streamed |= stream;
        // SAFETY: the caller's guarantee, passed on; the processor has `simd`.
        unsafe { fill::fill(self.simd, dst.0, len, pattern, stream) };
    }

    #[inline]
    unsafe fn compare(
        &mut self,
        a: HostAddr,
        b: HostAddr,
        len: usize,
        total: u64,
    ) -> Option<usize> {
        // SAFETY: the caller's guarantee, passed on; the processor has `simd`.
        unsafe { compare::ranges(self.reading(total), a.0, b.0, len) }
    }

    #[inline]
    unsafe fn compare_value(
        &mut self,
        a: HostAddr,
        len: usize,
        pattern: u128,
        total: u64,
    ) -> Option<usize> {
        // SAFETY: the caller's guarantee, passed on; the processor has `simd`.
        unsafe { compare::value(self.reading(total), a.0, len, pattern) }
    }

    unsafe fn dualcast(&mut self, dst: [HostAddr; 2], src: HostAddr, len: usize, hint: Hint) {
        let mut at = 0;
        if self.simd != Simd::Sse2 && !self.streams(len, hint) {
            // SAFETY: the caller's guarantee; the processor has AVX2.
            at = len - unsafe { copy::dual(dst.map(|dst| dst.0), src.0, len) };
        }
        while at < len {
            let part = SCRATCH.min(len - at);
            // SAFETY: a part of the source.
            unsafe { self.private.load(&mut self.scratch.0[..part], src.plus(at)) };
            let scratch = self.scratch();
            for to in dst {
                // SAFETY: a part of the destination; nothing refers to the scratch now.
                unsafe { self.copy(to.plus(at), scratch, part, hint) };
            }
            at += part;
        }
    }

    unsafe fn crc32c(&mut self, src: HostAddr, len: usize, crc: u32) -> u32 {
        // SAFETY: the caller's guarantee, passed on.
        unsafe { self.sum::<Crc32c>(src, len, crc.into()) as u32 }
    }

    unsafe fn crc64(&mut self, src: HostAddr, len: usize, crc: u64) -> u64 {
        // SAFETY: the caller's guarantee, passed on.
        unsafe { self.sum::<Crc64Nvme>(src, len, crc) }
    }

    unsafe fn copy_crc32c(
        &mut self,
        dst: HostAddr,
        src: HostAddr,
        len: usize,
        crc: u32,
        hint: Hint,
    ) -> u32 {
        // SAFETY: the caller's guarantee, passed on.
        unsafe { self.copy_and_sum::<Crc32c>(dst, src, len, crc.into(), hint) as u32 }
    }

    unsafe fn flush(&mut self, at: HostAddr, len: usize, keep: bool) {
        self.streamed = true;
        // SAFETY: the caller's guarantee, passed on.
        unsafe { self.flush.lines(at, len, keep) };
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
