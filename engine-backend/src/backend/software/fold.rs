//! Folding: a checksum's work over guest memory itself, 256 bytes at a time.
//!
//! A reflected CRC is the remainder of a polynomial, and so it stays the same when what lies at the beginning of a message is
//! taken away and added, times a power of x, to what lies 256 bytes further on. Four vectors of 64 bytes go through a range so,
//! two carry-less multiplications each; what is left of it are 256 bytes with the same checksum, in private memory, for the
//! library. No byte is taken into private memory before, which would cost as much as the checksum.
//!
//! Safety of every function here: the range is mapped and readable, the destination writable, and they hold no memory that
//! Rust knows about and share no byte. The processor has AVX-512F and VPCLMULQDQ.

use std::arch::asm;

/// Bytes of a step.
pub(super) const STEP: usize = 256;

/// From this length of a piece on it is worth the library's work on what is left, in bytes.
pub(super) const FOLD_MIN: usize = 4 * STEP;

/// Whether this processor can.
pub(super) fn detect() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vpclmulqdq")
}

/// What the halves of 16 bytes are multiplied by to get [`STEP`] bytes further on, bits reversed.
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct Powers([u64; 2]);

impl Powers {
    /// Of the polynomial x^`degree` + `polynomial`, `degree` being 64 at most.
    pub(super) const fn of(degree: u32, polynomial: u64) -> Self {
        let bits = 8 * STEP as u32;
        // The first 8 of 16 bytes are the higher half. A product of two reversed numbers comes out times x.
        Self([
            power(bits + 64 - 1, degree, polynomial).reverse_bits(),
            power(bits - 1, degree, polynomial).reverse_bits(),
        ])
    }
}

/// x^`exponent` modulo x^`degree` + `polynomial`.
const fn power(exponent: u32, degree: u32, polynomial: u64) -> u64 {
    let top = 1 << (degree - 1);
    let mut power = 1_u64;
    let mut i = 0;
    while i < exponent {
        let carry = power & top != 0;
        power = (power & (top - 1)) << 1;
        if carry {
            power ^= polynomial;
        }
        i += 1;
    }
    power
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
/// stores, two KiB of what is read from memory.
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
            rest: &mut [u8; STEP],
        ) {
            debug_assert!(len != 0 && len.is_multiple_of(STEP));
            // SAFETY: the loop reads, and writes if it copies, whole steps inside `len`; `powers` and `rest` are borrowed.
            unsafe {
                asm!(
                    "vpxorq zmm16, zmm16, zmm16",
                    "vpxorq zmm17, zmm17, zmm17",
                    "vpxorq zmm18, zmm18, zmm18",
                    "vpxorq zmm19, zmm19, zmm19",
                    "vbroadcasti32x4 zmm28, [{powers}]",
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
                    "vmovdqu64 [{rest}], zmm16",
                    "vmovdqu64 [{rest} + 64], zmm17",
                    "vmovdqu64 [{rest} + 128], zmm18",
                    "vmovdqu64 [{rest} + 192], zmm19",
                    powers = in(reg) powers, register = in(reg) register,
                    rest = in(reg) rest.as_mut_ptr(),
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
        }
    };
}

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
/// Bytes with the checksum that `len` bytes from `src` on have after what made the library's `register`, each loaded once.
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
) -> [u8; STEP] {
    assert!(len != 0 && len.is_multiple_of(STEP), "{len} bytes");
    let mut rest = [0; STEP];
    // SAFETY: the caller's guarantee.
    unsafe {
        match copying {
            Copying::No => reading(0, src, len, register, powers, &mut rest),
            Copying::Past(dst) => streaming(dst, src, len, register, powers, &mut rest),
            Copying::To(dst) => copying_on(dst, src, len, register, powers, &mut rest),
        }
    }
    rest
}
