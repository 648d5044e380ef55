//! Whether this processor's `rep movsb` beats the vector loop, and from which length on.
//!
//! No flag of CPUID tells: "enhanced" and "fast short" string moves are slower than vectors on some
//! processors that announce them, and twice as fast on others, where the microcode takes ownership of whole
//! lines without reading them. So the two are run against each other, once per process, in under a millisecond, on memory that
//! no longer fits into the first cache.

use std::sync::OnceLock;
use std::time::Instant;

use super::copy;
use super::cpu::Simd;
use crate::backend::Order;

/// Lengths tried, in bytes, ascending.
const LENGTHS: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

/// Bytes of the source and of the destination: pieces of them are copied in turn.
const BYTES: usize = 512 << 10;

/// Rounds of which the fastest counts.
const ROUNDS: u32 = 5;

/// A lead that is worth the change. Below it the vector loop, which depends less on alignment and on what the caches hold.
const LEAD: f64 = 1.3;

/// The length of a piece from which on `rep movsb` is the faster one; `usize::MAX` when it never is.
pub(super) fn string_from(simd: Simd) -> usize {
    static FROM: OnceLock<usize> = OnceLock::new();
    *FROM.get_or_init(|| measure(simd))
}

fn measure(simd: Simd) -> usize {
    // Not zero: some memory systems treat zeroes apart.
    let from = vec![0x5a_u8; BYTES];
    let mut to = vec![0xa5_u8; BYTES];
    let (src, dst) = (from.as_ptr() as u64, to.as_mut_ptr() as u64);
    let mut lengths = LENGTHS.into_iter().rev();
    let mut best = usize::MAX;
    // Downwards from the longest, where it has its best chance, to the first at which it loses.
    lengths.all(|len| {
        // SAFETY: both buffers are `BYTES` long and apart, every piece lies inside; nothing refers to the destination
        // meanwhile; the processor has `simd`.
        let vector = fastest(len, |at| unsafe {
            copy::long(simd, dst + at, src + at, len, Order::Disjoint, false);
        });
        // SAFETY: as above.
        let string = fastest(len, |at| unsafe { copy::string(dst + at, src + at, len) });
        let wins = string * LEAD < vector;
        if wins {
            best = len;
        }
        wins
    });
    best
}

/// Shortest time for all pieces, in nanoseconds.
fn fastest(len: usize, mut copy: impl FnMut(u64)) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for at in (0..BYTES).step_by(len) {
                copy(at as u64);
            }
            start.elapsed().as_nanos() as f64
        })
        .fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_one_of_the_lengths_or_never_and_stays() {
        let from = string_from(Simd::detect());
        assert!(from == usize::MAX || LENGTHS.contains(&from), "{from}");
        assert_eq!(string_from(Simd::detect()), from);
    }
}
