//! Folding: a checksum's work over guest memory itself, 256 bytes at a time.
//!
//! A reflected CRC is the remainder of a polynomial, and so it stays the same when what lies at the beginning of a message is
//! taken away and added, times a power of x, to what lies 256 bytes further on. Four vectors of 64 bytes go through a range so,
//! two carry-less multiplications each, and what is left of it is folded to 16 bytes and to the register in the same way. No byte
//! is taken into private memory before, which would cost as much as the checksum; the library does what is less than a step.
//!
//! Safety of every function here: the range is mapped and readable, the destination writable, and they hold no memory that
//! Rust knows about and share no byte. The processor has AVX-512F, VPCLMULQDQ and PCLMULQDQ.

use std::arch::asm;
use std::mem::offset_of;

use super::polynomial::{self, product};

/// Bytes of a step.
pub(super) const STEP: usize = 256;

/// From this length of a piece on it is worth the work on what is left, in bytes.
pub(super) const FOLD_MIN: usize = 4 * STEP;

/// Whether this processor can.
pub(super) fn detect() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("pclmulqdq")
}

/// Vectors of 16 bytes in a step.
const LANES: usize = STEP / 16;

/// What folding a checksum takes: powers of x modulo its polynomial, bits reversed as in its register. A polynomial of less than
/// 64 bits is taken times a power of x, and so are its remainders, which lie in the lower bits of 64 for that.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Powers {
    /// What the last 16 bytes of a step are multiplied by, halves apart, to get to where each lane is: the last one
    /// is there already.
    lanes: [[u64; 2]; LANES],
    /// The same to get [`STEP`] bytes further on.
    step: [u64; 2],
    /// The same to get 8 bytes further on than the end.
    end: u64,
    /// x^128 divided by the polynomial, without its highest power.
    quotient: u64,
    /// The polynomial, without its highest power.
    polynomial: u64,
}

impl Powers {
    /// Of the polynomial x^`degree` + `polynomial`, `degree` being 64 at most.
    pub(super) const fn of(degree: u32, polynomial: u64) -> Self {
        let polynomial = polynomial << (64 - degree);
        let mut lanes = [[0; 2]; LANES];
        let mut lane = 0;
        while lane + 1 < LANES {
            lanes[lane] = halves(128 * (LANES - 1 - lane) as u32, polynomial);
            lane += 1;
        }
        Self {
            lanes,
            step: halves(8 * STEP as u32, polynomial),
            end: reversed_power(127, polynomial),
            quotient: polynomial::quotient(polynomial).reverse_bits(),
            polynomial: polynomial.reverse_bits(),
        }
    }

    /// The register after 16 bytes and 0 before them.
    #[target_feature(enable = "pclmulqdq")]
    fn register(&self, [first, second]: [u64; 2]) -> u64 {
        // Times x^64, which is what a register is: the first half by way of its power. A product of reversed numbers comes out
        // times x.
        let [low, high] = product(first, self.end);
        let (first, second) = (low ^ second, high);
        // The rest is a multiple of x^64, whose remainder is found by Barrett's way.
        let quotient = first ^ (product(first, self.quotient)[0] << 1);
        let [low, high] = product(quotient, self.polynomial);
        second ^ (high << 1 | low >> 63)
    }
}

/// What the halves of 16 bytes are multiplied by to get `bits` bits further on: the first one is the higher.
const fn halves(bits: u32, polynomial: u64) -> [u64; 2] {
    // A product of two reversed numbers comes out times x.
    [
        reversed_power(bits + 63, polynomial),
        reversed_power(bits - 1, polynomial),
    ]
}

/// x^`exponent` modulo x^64 + `polynomial`, reversed.
const fn reversed_power(exponent: u32, polynomial: u64) -> u64 {
    polynomial::power(exponent, polynomial).reverse_bits()
}

/// How what is folded is copied on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    /// Not at all.
    No,
    /// To this address.
    To(u64),
    /// To this multiple of 64, past the caches.
    Past(u64),
}

/// The loop: `$copy` moves a step to where `rdi` points, `$ahead` asks for lines, `rcx` being what is left: one step ahead of
/// stores, two KiB of what may be read from memory, of which a range of 64 KiB is most often a part.
macro_rules! fold_loop {
    ($name:ident, [$($ahead:literal)*], [$($copy:literal)*]) => {
        /// # Safety
        /// See the module; `len` is a multiple of [`STEP`], and not 0.
        unsafe fn $name(
            dst: u64,
            src: u64,
            len: usize,
            register: u64,
            powers: &Powers,
        ) -> [u64; 2] {
            debug_assert!(len != 0 && len.is_multiple_of(STEP));
            let mut rest = [0; 2];
            // SAFETY: the loop reads, and writes if it copies, whole steps inside `len`; the rest is borrowed.
            unsafe {
                asm!(
                    "vpxorq zmm16, zmm16, zmm16",
                    "vpxorq zmm17, zmm17, zmm17",
                    "vpxorq zmm18, zmm18, zmm18",
                    "vpxorq zmm19, zmm19, zmm19",
                    "vbroadcasti32x4 zmm28, [{powers} + {step}]",
                    // What came before is added to the first 8 bytes.
                    "vmovq xmm29, {register}",
                    "2:",
                    $($ahead,)*
                    "vmovdqu64 zmm20, [rsi]",
                    "vmovdqu64 zmm21, [rsi + 64]",
                    "vmovdqu64 zmm22, [rsi + 128]",
                    "vmovdqu64 zmm23, [rsi + 192]",
                    $($copy,)*
                    "vpxorq zmm20, zmm20, zmm29",
                    "vpclmulqdq zmm24, zmm16, zmm28, 0x00",
                    "vpclmulqdq zmm25, zmm17, zmm28, 0x00",
                    "vpclmulqdq zmm26, zmm18, zmm28, 0x00",
                    "vpclmulqdq zmm27, zmm19, zmm28, 0x00",
                    "vpclmulqdq zmm16, zmm16, zmm28, 0x11",
                    "vpclmulqdq zmm17, zmm17, zmm28, 0x11",
                    "vpclmulqdq zmm18, zmm18, zmm28, 0x11",
                    "vpclmulqdq zmm19, zmm19, zmm28, 0x11",
                    "vpxorq zmm29, zmm29, zmm29",
                    "vpternlogq zmm16, zmm20, zmm24, 0x96",
                    "vpternlogq zmm17, zmm21, zmm25, 0x96",
                    "vpternlogq zmm18, zmm22, zmm26, 0x96",
                    "vpternlogq zmm19, zmm23, zmm27, 0x96",
                    "add rsi, 256",
                    "add rdi, 256",
                    "sub rcx, 256",
                    "jnz 2b",
                    // All lanes to where the last one is.
                    "vextracti32x4 xmm20, zmm19, 3",
                    "vpclmulqdq zmm21, zmm16, [{powers}], 0x00",
                    "vpclmulqdq zmm22, zmm17, [{powers} + 64], 0x00",
                    "vpclmulqdq zmm23, zmm18, [{powers} + 128], 0x00",
                    "vpclmulqdq zmm24, zmm19, [{powers} + 192], 0x00",
                    "vpclmulqdq zmm16, zmm16, [{powers}], 0x11",
                    "vpclmulqdq zmm17, zmm17, [{powers} + 64], 0x11",
                    "vpclmulqdq zmm18, zmm18, [{powers} + 128], 0x11",
                    "vpclmulqdq zmm19, zmm19, [{powers} + 192], 0x11",
                    "vpternlogq zmm16, zmm17, zmm18, 0x96",
                    "vpternlogq zmm19, zmm21, zmm22, 0x96",
                    "vpternlogq zmm16, zmm23, zmm24, 0x96",
                    "vpternlogq zmm16, zmm19, zmm20, 0x96",
                    "vextracti64x4 ymm17, zmm16, 1",
                    "vpxorq zmm16, zmm16, zmm17",
                    "vextracti32x4 xmm17, zmm16, 1",
                    "vpxorq zmm16, zmm16, zmm17",
                    "vextracti32x4 [{rest}], zmm16, 0",
                    powers = in(reg) powers, register = in(reg) register,
                    rest = in(reg) rest.as_mut_ptr(), step = const offset_of!(Powers, step),
                    inout("rdi") dst => _, inout("rsi") src => _, inout("rcx") len => _,
                    out("rax") _,
                    // Registers above 15 leave no dirty upper halves behind, so no `vzeroupper`.
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                    out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                    out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                    out("zmm28") _, out("zmm29") _,
                    options(nostack),
                );
            }
            rest
        }
    };
}

// A single stream is what the processor follows best by itself.
fold_loop!(reading, [], []);
fold_loop!(
    copying_on,
    // No line beyond the end is taken from anybody: the last step asks for its own.
    [
        "lea rax, [rdi + 256]" "cmp rcx, 256" "cmove rax, rdi"
        "prefetchw [rax]" "prefetchw [rax + 64]"
        "prefetchw [rax + 128]" "prefetchw [rax + 192]"
    ],
    [
        "vmovdqu64 [rdi], zmm20" "vmovdqu64 [rdi + 64], zmm21"
        "vmovdqu64 [rdi + 128], zmm22" "vmovdqu64 [rdi + 192], zmm23"
    ]
);
fold_loop!(
    streaming,
    [
        "prefetcht0 [rsi + 2048]" "prefetcht0 [rsi + 2048 + 64]"
        "prefetcht0 [rsi + 2048 + 128]" "prefetcht0 [rsi + 2048 + 192]"
    ],
    [
        "vmovntdq [rdi], zmm20" "vmovntdq [rdi + 64], zmm21"
        "vmovntdq [rdi + 128], zmm22" "vmovntdq [rdi + 192], zmm23"
    ]
);
/// The library's register after `len` bytes from `src` on and what made it `register` before, each byte loaded once.
///
/// # Safety
/// See the module.
///
/// # Panics
/// When `len` is 0 or no multiple of [`STEP`].
pub(super) unsafe fn fold(
    copying: Copying,
    src: u64,
    len: usize,
    register: u64,
    powers: &Powers,
) -> u64 {
    assert!(len != 0 && len.is_multiple_of(STEP), "{len} bytes");
    // SAFETY: the caller's guarantee; the processor can.
    unsafe {
        let rest = match copying {
            Copying::No => reading(0, src, len, register, powers),
            Copying::Past(dst) => streaming(dst, src, len, register, powers),
            Copying::To(dst) => copying_on(dst, src, len, register, powers),
        };
        powers.register(rest)
    }
}
