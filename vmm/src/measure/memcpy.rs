//! The host's own best copy, on memory of the kind that guest RAM is made of.
//!
//! What an engine's copy is held against. Several kernels are tried and the fastest counts, so
//! that the comparison does not depend on what the C library chose for this CPU.

use std::arch::asm;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::{self, NonNull};
use std::time::Instant;

/// Memory like a guest's: a memfd, mapped shared, huge pages asked for, populated.
#[derive(Debug)]
pub struct GuestLikeMemory {
    base: NonNull<u8>,
    bytes: usize,
    _file: File,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for GuestLikeMemory {}

impl GuestLikeMemory {
    /// Maps `bytes` bytes, rounded up to 2 MiB.
    ///
    /// # Errors
    /// When the host has not that much.
    pub fn new(bytes: usize) -> io::Result<Self> {
        const HUGE: usize = 2 << 20;
        let bytes = bytes.next_multiple_of(HUGE);
        // SAFETY: the name is a C string; a new descriptor is returned or -1.
        let fd = unsafe { libc::memfd_create(c"byway-measure".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(bytes as u64)?;
        // An address aligned to 2 MiB, without which no huge page fits: reserve more, map inside.
        // SAFETY: a fresh anonymous reservation, then a mapping over a part of it.
        let base = unsafe {
            let reserved = libc::mmap(
                ptr::null_mut(),
                bytes + HUGE,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            );
            if reserved == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let start = (reserved as usize).next_multiple_of(HUGE);
            let lead = start - reserved as usize;
            if lead > 0 {
                libc::munmap(reserved, lead);
            }
            if HUGE > lead {
                libc::munmap((start + bytes) as *mut libc::c_void, HUGE - lead);
            }
            let base = libc::mmap(
                start as *mut libc::c_void,
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                0,
            );
            if base == libc::MAP_FAILED {
                let error = io::Error::last_os_error();
                libc::munmap(start as *mut libc::c_void, bytes);
                return Err(error);
            }
            libc::madvise(base, bytes, libc::MADV_HUGEPAGE);
            ptr::write_bytes(base.cast::<u8>(), 0x5a, bytes);
            base
        };
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?,
            bytes,
            _file: file,
        })
    }

    /// Its first byte.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for GuestLikeMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this length and is used by nobody any more.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
    }
}

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

/// The best host copy at one size.
#[derive(Debug, Clone, Copy)]
pub struct BestCopy {
    /// Which kernel it was.
    pub kernel: &'static str,
    /// Bytes per nanosecond, that is GB/s.
    pub gbps: f64,
}

/// Copies `len` bytes (a multiple of 256) over and over inside `memory`, `repeat` times per kernel and
/// round, and returns the fastest kernel by its best round.
#[must_use]
pub fn best_copy(
    memory: &mut GuestLikeMemory,
    len: usize,
    repeat: usize,
    rounds: usize,
) -> BestCopy {
    assert!(
        len.is_multiple_of(256) && 2 * len <= memory.bytes,
        "the buffers lie side by side"
    );
    let mut kernels: Vec<(&'static str, Kernel)> =
        vec![("libc memcpy", library), ("rep movsb", rep_movsb)];
    if std::arch::is_x86_feature_detected!("avx512f") {
        kernels.push(("AVX-512 streaming", streaming));
    }
    let src = memory.base.as_ptr();
    let mut best = BestCopy {
        kernel: "none",
        gbps: 0.0,
    };
    for _ in 0..rounds {
        for &(name, kernel) in &kernels {
            let start = Instant::now();
            for _ in 0..repeat {
                // SAFETY: both halves lie in the mapping (asserted above) and are apart; the destination is aligned
                // because the mapping is and `len` is a multiple of 256; the CPU has the feature.
                unsafe { kernel(src.add(len), src, len) };
            }
            let ns = start.elapsed().as_nanos().max(1) as f64;
            let gbps = (len * repeat) as f64 / ns;
            if gbps > best.gbps {
                best = BestCopy { kernel: name, gbps };
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_copies() {
        let mut memory = GuestLikeMemory::new(4096).unwrap();
        let base = memory.base().as_ptr();
        let mut kernels: Vec<Kernel> = vec![library, rep_movsb];
        if std::arch::is_x86_feature_detected!("avx512f") {
            kernels.push(streaming);
        }
        for kernel in kernels {
            // SAFETY: inside the mapping, apart, aligned.
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
        assert!(best_copy(&mut memory, 4096, 4, 1).gbps > 0.0);
    }
}
