//! Copy kernels.
//!
//! All take host addresses; `rdi` is the destination, `rsi` the source. Up to 256 bytes
//! everything is loaded before anything is stored, so any overlap is right. Longer ones
//! come in three directions ([`Order`]); within a step all loads come first too.
//!
//! Safety of every function here: the ranges are mapped, the source readable and the
//! destination writable, and hold no memory that Rust knows about. The processor has the
//! vectors named.

use std::arch::asm;

use super::SMALL;
use super::cpu::Simd;
use crate::backend::Order;

/// From this length on a copy between disjoint ranges goes to an aligned destination.
const ALIGNED_FROM: usize = 2 << 10;

/// Copies up to [`SMALL`] bytes, overlapping or not.
///
/// # Safety
/// See the module.
#[inline(always)]
pub(super) unsafe fn small(dst: u64, src: u64, len: usize) {
    debug_assert!(len <= SMALL);
    // SAFETY: each arm reads and writes the first and the last bytes of the ranges, in
    // two parts that overlap in the middle and together cover all of `len`.
    unsafe {
        match len {
            // The usual message: one line.
            33..=64 => asm!(
                "movups {a}, [{s}]",
                "movups {b}, [{s} + 16]",
                "movups {c}, [{s} + {n} - 32]",
                "movups {e}, [{s} + {n} - 16]",
                "movups [{d}], {a}",
                "movups [{d} + 16], {b}",
                "movups [{d} + {n} - 32], {c}",
                "movups [{d} + {n} - 16], {e}",
                s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, e = out(xmm_reg) _,
                options(nostack, preserves_flags),
            ),
            17..=32 => asm!(
                "movups {a}, [{s}]",
                "movups {b}, [{s} + {n} - 16]",
                "movups [{d}], {a}",
                "movups [{d} + {n} - 16], {b}",
                s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                a = out(xmm_reg) _, b = out(xmm_reg) _,
                options(nostack, preserves_flags),
            ),
            8..=16 => asm!(
                "mov {a}, [{s}]",
                "mov {b}, [{s} + {n} - 8]",
                "mov [{d}], {a}",
                "mov [{d} + {n} - 8], {b}",
                s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                a = out(reg) _, b = out(reg) _,
                options(nostack, preserves_flags),
            ),
            4..=7 => asm!(
                "mov {a:e}, [{s}]",
                "mov {b:e}, [{s} + {n} - 4]",
                "mov [{d}], {a:e}",
                "mov [{d} + {n} - 4], {b:e}",
                s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                a = out(reg) _, b = out(reg) _,
                options(nostack, preserves_flags),
            ),
            2..=3 => asm!(
                "movzx {a:e}, word ptr [{s}]",
                "movzx {b:e}, byte ptr [{s} + {n} - 1]",
                "mov [{d}], {a:x}",
                "mov [{d} + {n} - 1], {b:l}",
                s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                a = out(reg) _, b = out(reg) _,
                options(nostack, preserves_flags),
            ),
            1 => asm!(
                "mov {a:l}, [{s}]",
                "mov [{d}], {a:l}",
                s = in(reg) src, d = in(reg) dst,
                a = out(reg) _,
                options(nostack, preserves_flags),
            ),
            65..=128 => asm!(
                "movups xmm0, [{s}]",
                "movups xmm1, [{s} + 16]",
                "movups xmm2, [{s} + 32]",
                "movups xmm3, [{s} + 48]",
                "movups xmm4, [{s} + {n} - 64]",
                "movups xmm5, [{s} + {n} - 48]",
                "movups xmm6, [{s} + {n} - 32]",
                "movups xmm7, [{s} + {n} - 16]",
                "movups [{d}], xmm0",
                "movups [{d} + 16], xmm1",
                "movups [{d} + 32], xmm2",
                "movups [{d} + 48], xmm3",
                "movups [{d} + {n} - 64], xmm4",
                "movups [{d} + {n} - 48], xmm5",
                "movups [{d} + {n} - 32], xmm6",
                "movups [{d} + {n} - 16], xmm7",
                s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                options(nostack, preserves_flags),
            ),
            0 => {}
            _ => asm!(
                "movups xmm0, [{s}]",
                "movups xmm1, [{s} + 16]",
                "movups xmm2, [{s} + 32]",
                "movups xmm3, [{s} + 48]",
                "movups xmm4, [{s} + 64]",
                "movups xmm5, [{s} + 80]",
                "movups xmm6, [{s} + 96]",
                "movups xmm7, [{s} + 112]",
                "movups xmm8, [{s} + {n} - 128]",
                "movups xmm9, [{s} + {n} - 112]",
                "movups xmm10, [{s} + {n} - 96]",
                "movups xmm11, [{s} + {n} - 80]",
                "movups xmm12, [{s} + {n} - 64]",
                "movups xmm13, [{s} + {n} - 48]",
                "movups xmm14, [{s} + {n} - 32]",
                "movups xmm15, [{s} + {n} - 16]",
                "movups [{d}], xmm0",
                "movups [{d} + 16], xmm1",
                "movups [{d} + 32], xmm2",
                "movups [{d} + 48], xmm3",
                "movups [{d} + 64], xmm4",
                "movups [{d} + 80], xmm5",
                "movups [{d} + 96], xmm6",
                "movups [{d} + 112], xmm7",
                "movups [{d} + {n} - 128], xmm8",
                "movups [{d} + {n} - 112], xmm9",
                "movups [{d} + {n} - 96], xmm10",
                "movups [{d} + {n} - 80], xmm11",
                "movups [{d} + {n} - 64], xmm12",
                "movups [{d} + {n} - 48], xmm13",
                "movups [{d} + {n} - 32], xmm14",
                "movups [{d} + {n} - 16], xmm15",
                s = in(reg) src, d = in(reg) dst, n = in(reg) len,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack, preserves_flags),
            ),
        }
    }
}

/// So far ahead of its stores a copy or a fill asks for the destination's lines, in bytes. A store to a line that the second cache holds
/// for reading or for another core waits for it, and few stores may wait; whoever asks for it by name waits for nothing. Further
/// ahead gains no more, and the last so many bytes of each go without: no line beyond its end is taken from anybody.
pub(super) const AHEAD: usize = 256;

/// A loop upwards, four vectors to a step. Whole steps are done while `more` bytes beyond the step are left, `len` being at least
/// that; returns what is left at the end, for [`small`]. Each step begins with `first`.
macro_rules! ascending_loop {
    (
        $(#[$doc:meta])* $name:ident, $bytes:literal, $load:literal, $store:literal,
        $r0:tt, $r1:tt, $r2:tt, $r3:tt, $end:literal
    ) => {
        ascending_loop!(
            $(#[$doc])* $name, $bytes, $load, $store, $r0, $r1, $r2, $r3, $end, more 0, first []
        );
    };
    (
        $(#[$doc:meta])* $name:ident, $bytes:literal, $load:literal, $store:literal,
        $r0:tt, $r1:tt, $r2:tt, $r3:tt, $end:literal, more $more:expr, first [$($first:literal)*]
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See the module.
        unsafe fn $name(dst: u64, src: u64, len: usize) -> usize {
            debug_assert!(len >= 4 * $bytes + $more);
            let mut left = len;
            // SAFETY: the loop reads and writes whole steps inside `len`.
            unsafe {
                asm!(
                    "2:",
                    $($first,)*
                    concat!($load, " ", $r0, ", [rsi]"),
                    concat!($load, " ", $r1, ", [rsi + ", $bytes, "]"),
                    concat!($load, " ", $r2, ", [rsi + 2*", $bytes, "]"),
                    concat!($load, " ", $r3, ", [rsi + 3*", $bytes, "]"),
                    concat!($store, " [rdi], ", $r0),
                    concat!($store, " [rdi + ", $bytes, "], ", $r1),
                    concat!($store, " [rdi + 2*", $bytes, "], ", $r2),
                    concat!($store, " [rdi + 3*", $bytes, "], ", $r3),
                    concat!("add rsi, 4*", $bytes),
                    concat!("add rdi, 4*", $bytes),
                    concat!("sub rcx, 4*", $bytes),
                    concat!("cmp rcx, 4*", $bytes, " + {more}"),
                    "jae 2b",
                    $end,
                    more = const $more,
                    inout("rdi") dst => _, inout("rsi") src => _, inout("rcx") left,
                    out($r0) _, out($r1) _, out($r2) _, out($r3) _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
            left
        }
    };
}

/// A loop downwards, as above; what is left is at the start.
macro_rules! descending_loop {
    (
        $(#[$doc:meta])* $name:ident, $bytes:literal, $load:literal, $store:literal,
        $r0:tt, $r1:tt, $r2:tt, $r3:tt, $end:literal
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See the module.
        unsafe fn $name(dst: u64, src: u64, len: usize) -> usize {
            debug_assert!(len >= 4 * $bytes);
            let mut left = len;
            // SAFETY: the loop reads and writes whole steps inside `len`.
            unsafe {
                asm!(
                    "2:",
                    concat!($load, " ", $r0, ", [rsi + rcx - ", $bytes, "]"),
                    concat!($load, " ", $r1, ", [rsi + rcx - 2*", $bytes, "]"),
                    concat!($load, " ", $r2, ", [rsi + rcx - 3*", $bytes, "]"),
                    concat!($load, " ", $r3, ", [rsi + rcx - 4*", $bytes, "]"),
                    concat!($store, " [rdi + rcx - ", $bytes, "], ", $r0),
                    concat!($store, " [rdi + rcx - 2*", $bytes, "], ", $r1),
                    concat!($store, " [rdi + rcx - 3*", $bytes, "], ", $r2),
                    concat!($store, " [rdi + rcx - 4*", $bytes, "], ", $r3),
                    concat!("sub rcx, 4*", $bytes),
                    concat!("cmp rcx, 4*", $bytes),
                    "jae 2b",
                    $end,
                    in("rdi") dst, in("rsi") src, inout("rcx") left,
                    out($r0) _, out($r1) _, out($r2) _, out($r3) _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
            left
        }
    };
}

ascending_loop!(
    /// Upwards with 16-byte vectors.
    sse2_ascend, 16, "movups", "movups", "xmm0", "xmm1", "xmm2", "xmm3", ""
);
ascending_loop!(
    /// Upwards past the caches; `dst` is a multiple of 64.
    sse2_stream, 16, "movups", "movntps", "xmm0", "xmm1", "xmm2", "xmm3", ""
);
descending_loop!(
    /// Downwards with 16-byte vectors.
    sse2_descend, 16, "movups", "movups", "xmm0", "xmm1", "xmm2", "xmm3", ""
);
ascending_loop!(
    /// Upwards with 32-byte vectors.
    avx2_ascend, 32, "vmovdqu", "vmovdqu", "ymm0", "ymm1", "ymm2", "ymm3", "vzeroupper"
);
ascending_loop!(
    /// The same, asking for the destination's lines ahead.
    avx2_ahead, 32, "vmovdqu", "vmovdqu", "ymm0", "ymm1", "ymm2", "ymm3", "vzeroupper",
    more AHEAD, first ["prefetchw [rdi + {more}]" "prefetchw [rdi + {more} + 64]"]
);
ascending_loop!(
    /// Upwards past the caches; `dst` is a multiple of 64.
    avx2_stream, 32, "vmovdqu", "vmovntdq", "ymm0", "ymm1", "ymm2", "ymm3", "vzeroupper"
);
descending_loop!(
    /// Downwards with 32-byte vectors.
    avx2_descend, 32, "vmovdqu", "vmovdqu", "ymm0", "ymm1", "ymm2", "ymm3", "vzeroupper"
);
// Registers above 15 leave no dirty upper halves behind, so no `vzeroupper`.
ascending_loop!(
    /// Upwards with 64-byte vectors.
    avx512_ascend, 64, "vmovdqu64", "vmovdqu64", "zmm16", "zmm17", "zmm18", "zmm19", ""
);
ascending_loop!(
    /// The same, asking for the destination's lines ahead.
    avx512_ahead, 64, "vmovdqu64", "vmovdqu64", "zmm16", "zmm17", "zmm18", "zmm19", "",
    more AHEAD, first [
        "prefetchw [rdi + {more}]" "prefetchw [rdi + {more} + 64]"
        "prefetchw [rdi + {more} + 128]" "prefetchw [rdi + {more} + 192]"
    ]
);
ascending_loop!(
    /// Upwards past the caches; `dst` is a multiple of 64.
    avx512_stream, 64, "vmovdqu64", "vmovntdq", "zmm16", "zmm17", "zmm18", "zmm19", ""
);
descending_loop!(
    /// Downwards with 64-byte vectors.
    avx512_descend, 64, "vmovdqu64", "vmovdqu64", "zmm16", "zmm17", "zmm18", "zmm19", ""
);

/// Copies whole steps of 128 bytes to two places, each loaded once; returns what is left at the end.
///
/// # Safety
/// See the module; the processor has AVX2, and the ranges share no byte.
pub(super) unsafe fn dual(dst: [u64; 2], src: u64, len: usize) -> usize {
    if len < 128 {
        return len;
    }
    let mut left = len;
    // SAFETY: the loop reads and writes whole steps inside `len`.
    unsafe {
        asm!(
            "2:",
            "vmovdqu ymm0, [{s}]",
            "vmovdqu ymm1, [{s} + 32]",
            "vmovdqu ymm2, [{s} + 64]",
            "vmovdqu ymm3, [{s} + 96]",
            "vmovdqu [{d}], ymm0",
            "vmovdqu [{d} + 32], ymm1",
            "vmovdqu [{d} + 64], ymm2",
            "vmovdqu [{d} + 96], ymm3",
            "vmovdqu [{e}], ymm0",
            "vmovdqu [{e} + 32], ymm1",
            "vmovdqu [{e} + 64], ymm2",
            "vmovdqu [{e} + 96], ymm3",
            "add {s}, 128",
            "add {d}, 128",
            "add {e}, 128",
            "sub {n}, 128",
            "cmp {n}, 128",
            "jae 2b",
            "vzeroupper",
            s = inout(reg) src => _, d = inout(reg) dst[0] => _, e = inout(reg) dst[1] => _,
            n = inout(reg) left,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
    left
}

/// Copies upwards with the processor's own loop; the ranges are disjoint.
///
/// # Safety
/// See the module.
pub(super) unsafe fn string(dst: u64, src: u64, len: usize) {
    // SAFETY: it reads and writes `len` bytes each; the ABI keeps the direction flag clear.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") dst => _, inout("rsi") src => _,
             options(nostack, preserves_flags));
    }
}

/// Copies more than [`SMALL`] bytes in the given order; `stream`ing only when disjoint.
///
/// # Safety
/// See the module.
pub(super) unsafe fn long(simd: Simd, dst: u64, src: u64, len: usize, order: Order, stream: bool) {
    debug_assert!(len > SMALL);
    // SAFETY: the caller's guarantee, over parts of the ranges.
    unsafe {
        match order {
            Order::Descending => {
                let left = match simd {
                    Simd::Sse2 => sse2_descend(dst, src, len),
                    Simd::Avx2 => avx2_descend(dst, src, len),
                    Simd::Avx512 => avx512_descend(dst, src, len),
                };
                small(dst, src, left);
            }
            Order::Ascending => ascend(simd, dst, src, len),
            Order::Disjoint if stream => past(simd, dst, src, len),
            // Each by its name: an entry of a table would come from the second cache, behind an operation that fills the first.
            Order::Disjoint => match simd {
                Simd::Sse2 => sse2_disjoint(dst, src, len),
                Simd::Avx2 => avx2_disjoint(dst, src, len),
                Simd::Avx512 => avx512_disjoint(dst, src, len),
            },
        }
    }
}

/// What [`kernel`] gives: destination, source, and bytes, more than [`SMALL`]. The ranges share no byte.
pub(super) type Kernel = unsafe fn(u64, u64, usize);

/// The one for copies by these vectors through the caches.
#[inline(always)]
pub(super) fn kernel(simd: Simd) -> Kernel {
    match simd {
        Simd::Sse2 => sse2_disjoint,
        Simd::Avx2 => avx2_disjoint,
        Simd::Avx512 => avx512_disjoint,
    }
}

/// # Safety
/// See [`Kernel`].
unsafe fn sse2_disjoint(dst: u64, src: u64, len: usize) {
    // SAFETY: the caller's guarantee.
    unsafe {
        let (dst, src, len) = to_line(dst, src, len, ALIGNED_FROM);
        ascend(Simd::Sse2, dst, src, len);
    }
}

/// # Safety
/// See [`Kernel`].
unsafe fn avx2_disjoint(dst: u64, src: u64, len: usize) {
    // SAFETY: the caller's guarantee; the steps are those of the loops.
    unsafe {
        let (dst, src, len) = to_line(dst, src, len, ALIGNED_FROM);
        in_steps(4 * 32, avx2_ahead, avx2_ascend, dst, src, len);
    }
}

/// # Safety
/// See [`Kernel`].
unsafe fn avx512_disjoint(dst: u64, src: u64, len: usize) {
    // SAFETY: the caller's guarantee; the steps are those of the loops.
    unsafe {
        let (dst, src, len) = to_line(dst, src, len, ALIGNED_FROM);
        in_steps(4 * 64, avx512_ahead, avx512_ascend, dst, src, len);
    }
}

/// Copies more than [`SMALL`] bytes past the caches.
///
/// # Safety
/// See [`Kernel`].
unsafe fn past(simd: Simd, dst: u64, src: u64, len: usize) {
    // SAFETY: the caller's guarantee, over parts of the ranges.
    unsafe {
        let (dst, src, len) = to_line(dst, src, len, 0);
        let left = if len <= SMALL {
            len
        } else {
            match simd {
                Simd::Sse2 => sse2_stream(dst, src, len),
                Simd::Avx2 => avx2_stream(dst, src, len),
                Simd::Avx512 => avx512_stream(dst, src, len),
            }
        };
        let done = (len - left) as u64;
        small(dst + done, src + done, left);
    }
}

/// Copies the first bytes, so that what is left of the destination begins at a line: the rest. Not of less than `from` bytes, for which that
/// does not pay.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn to_line(dst: u64, src: u64, len: usize, from: usize) -> (u64, u64, usize) {
    let head = (dst.wrapping_neg() & 63) as usize;
    if head == 0 || len < from {
        return (dst, src, len);
    }
    // SAFETY: the ranges are longer.
    unsafe { small(dst, src, 64) };
    (dst + head as u64, src + head as u64, len - head)
}

/// A loop upwards; what is left is at the end.
type Loop = unsafe fn(u64, u64, usize) -> usize;

/// The same in steps of `step` bytes, at most [`SMALL`], by a loop that asks ahead for the destination's lines and one that does not. The last
/// step, with the same vectors as all others, ends where the range does.
///
/// # Safety
/// See the module; `len` is at least [`SMALL`].
#[inline(always)]
unsafe fn in_steps(step: usize, ahead: Loop, plain: Loop, dst: u64, src: u64, len: usize) {
    // SAFETY: the caller's guarantee, over parts of the ranges.
    unsafe {
        let left = if len >= step + AHEAD {
            ahead(dst, src, len)
        } else {
            len
        };
        let done = (len - left) as u64;
        if left >= step && plain(dst + done, src + done, left) == 0 {
            return;
        }
        let last = (len - SMALL) as u64;
        plain(dst + last, src + last, SMALL);
    }
}

/// Copies at least four vectors upwards.
///
/// # Safety
/// See the module.
unsafe fn ascend(simd: Simd, dst: u64, src: u64, len: usize) {
    // SAFETY: the caller's guarantee, over parts of the ranges.
    unsafe {
        let left = match simd {
            Simd::Sse2 => sse2_ascend(dst, src, len),
            Simd::Avx2 => avx2_ascend(dst, src, len),
            Simd::Avx512 => avx512_ascend(dst, src, len),
        };
        let done = (len - left) as u64;
        small(dst + done, src + done, left);
    }
}
