//! The host's own best copy, between the buffers that the engine copies between.
//!
//! What an engine's copy is held against. Several kernels are tried and the fastest counts, so
//! that the comparison does not depend on what the C library chose for this CPU. The very same pages are used, since
//! where pages lie in a cache makes a difference of a fifth.

use std::arch::asm;
use std::ptr::NonNull;
use std::time::Instant;

type Kernel = unsafe fn(*mut u8, *const u8, usize);

/// The C library's, as a program would call it.
unsafe fn library(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller's: both ranges are valid for `len` bytes and apart.
    unsafe { libc::memcpy(dst.cast(), src.cast(), len) };
}

/// The CPU's own.
unsafe fn rep_movsb(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller's: both ranges are valid for `len` bytes and apart.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") dst => _, inout("rsi") src => _,
             options(nostack, preserves_flags));
    }
}

/// Past the caches. `len` is a multiple of 256 and `dst` of 64.
#[target_feature(enable = "avx512f")]
unsafe fn streaming(dst: *mut u8, src: *const u8, len: usize) {
    use std::arch::x86_64::{_mm_sfence, _mm512_loadu_si512, _mm512_stream_si512};
    let mut at = 0;
    while at + 256 <= len {
        // SAFETY: the caller's: both ranges are valid for `len` bytes, `dst` is aligned.
        unsafe {
            let a = _mm512_loadu_si512(src.add(at).cast());
            let b = _mm512_loadu_si512(src.add(at + 64).cast());
            let c = _mm512_loadu_si512(src.add(at + 128).cast());
            let d = _mm512_loadu_si512(src.add(at + 192).cast());
            _mm512_stream_si512(dst.add(at).cast(), a);
            _mm512_stream_si512(dst.add(at + 64).cast(), b);
            _mm512_stream_si512(dst.add(at + 128).cast(), c);
            _mm512_stream_si512(dst.add(at + 192).cast(), d);
        }
        at += 256;
    }
    _mm_sfence();
}

/// One of the copies, as [`Ranges::fastest`] found it.
#[derive(Debug, Clone, Copy)]
pub struct Fastest(Kernel);

/// The best host copy at one size.
#[derive(Debug, Clone, Copy)]
pub struct BestCopy {
    /// Which kernel it was.
    pub kernel: &'static str,
    /// Bytes per nanosecond, that is GB/s.
    pub gbps: f64,
}

/// Two ranges of guest RAM, as the host sees them.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    dst: NonNull<u8>,
    src: NonNull<u8>,
    len: usize,
}

// SAFETY: addresses of shared memory, which is not tied to a thread; see `new` for how long they are good.
unsafe impl Send for Ranges {}

impl Ranges {
    /// `len` is a multiple of 256, `dst` one of 64.
    ///
    /// # Safety
    /// Both ranges are mapped, `src` readable and `dst` writable, apart from each other, and hold nothing that Rust refers to,
    /// as long as this value is used.
    #[must_use]
    pub unsafe fn new(dst: NonNull<u8>, src: NonNull<u8>, len: usize) -> Self {
        assert!(len.is_multiple_of(256), "whole steps");
        assert!(dst.addr().get().is_multiple_of(64), "whole lines");
        Self { dst, src, len }
    }

    /// Copies over and over, `repeat` times per kernel and round, and returns the fastest kernel by its best round.
    #[must_use]
    pub fn best_copy(&self, repeat: usize, rounds: usize) -> BestCopy {
        self.race(repeat, rounds).0
    }

    /// The same, to be used again by [`Self::copy`].
    #[must_use]
    pub fn fastest(&self, repeat: usize, rounds: usize) -> Fastest {
        self.race(repeat, rounds).1
    }

    /// Copies once.
    pub fn copy(&self, kernel: Fastest) {
        // SAFETY: the promise made to `new`; the kernel is one that the CPU has.
        unsafe { (kernel.0)(self.dst.as_ptr(), self.src.as_ptr(), self.len) };
    }

    fn race(&self, repeat: usize, rounds: usize) -> (BestCopy, Fastest) {
        let mut kernels: Vec<(&'static str, Kernel)> =
            vec![("libc memcpy", library), ("rep movsb", rep_movsb)];
        if std::arch::is_x86_feature_detected!("avx512f") {
            kernels.push(("AVX-512 streaming", streaming));
        }
        let mut best = BestCopy {
            kernel: "none",
            gbps: 0.0,
        };
        let mut fastest = Fastest(library);
        for _ in 0..rounds {
            for &(name, kernel) in &kernels {
                // The first pass fetches the buffers.
                let mut start = Instant::now();
                for pass in 0..=repeat {
                    if pass == 1 {
                        start = Instant::now();
                    }
                    self.copy(Fastest(kernel));
                }
                let ns = start.elapsed().as_nanos().max(1) as f64;
                let gbps = (self.len * repeat) as f64 / ns;
                if gbps > best.gbps {
                    best = BestCopy { kernel: name, gbps };
                    fastest = Fastest(kernel);
                }
            }
        }
        (best, fastest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_copies() {
        #[repr(align(64))]
        struct Line([u8; 2048]);
        let mut memory = Box::new(Line([0; 2048]));
        let base = memory.0.as_mut_ptr();
        let mut kernels: Vec<Kernel> = vec![library, rep_movsb];
        if std::arch::is_x86_feature_detected!("avx512f") {
            kernels.push(streaming);
        }
        for kernel in kernels {
            // SAFETY: inside the box, apart, aligned.
            unsafe {
                for i in 0..1024 {
                    base.add(i).write_volatile(i as u8 ^ 0x33);
                    base.add(1024 + i).write_volatile(0);
                }
                kernel(base.add(1024), base, 1024);
                for i in 0..1024 {
                    assert_eq!(base.add(1024 + i).read_volatile(), i as u8 ^ 0x33);
                }
            }
        }
        let (src, dst) = (NonNull::new(base), NonNull::new(base.wrapping_add(1024)));
        // SAFETY: as above.
        let ranges = unsafe { Ranges::new(dst.unwrap(), src.unwrap(), 1024) };
        assert!(ranges.best_copy(4, 1).gbps > 0.0);
    }
}
