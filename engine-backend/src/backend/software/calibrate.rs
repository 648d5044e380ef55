//! Whether this processor's `rep movsb` beats the vector loop, and from which length on.
//!
//! No flag of CPUID tells: "enhanced" and "fast short" string moves are slower than vectors on some
//! processors that announce them, and twice as fast on others, where the microcode takes ownership of whole
//! lines without reading them. So the two are run against each other, once per process, in a few milliseconds: on memory that
//! no longer fits into the first cache, and on memory that no longer fits into the second.

use std::sync::OnceLock;
use std::time::Instant;

use super::copy;
use super::cpu::Simd;
use crate::backend::Order;

/// Lengths tried, in bytes, ascending.
const LENGTHS: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];
/// Of these for copies that do not stay in the second cache: how long a piece is matters less to them.
const FAR_LENGTHS: usize = 2;

/// Bytes of the source and of the destination: pieces of them are copied in turn.
const NEAR_BYTES: usize = 512 << 10;
/// The same for copies that do not stay in the second cache.
const FAR_BYTES: usize = FAR as usize;

/// A copy is one of these from this total on, in bytes: with its destination it is as large as the second cache of a server.
pub(super) const FAR: u64 = 1 << 20;

/// Rounds of which the fastest counts.
const ROUNDS: u32 = 5;

/// A lead that is worth the change. Below it the vector loop, which depends less on alignment and on what the caches hold.
const NEAR_LEAD: f64 = 1.3;
/// Behind the second cache what counts is how lines are asked for, and that depends on neither. The lead is greatest where that
/// cache just overflows; of more both wait for the next one.
const FAR_LEAD: f64 = 1.04;

/// From which length of a piece on `rep movsb` is the faster one; `usize::MAX` where it never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StringFrom {
    /// In copies of less than [`FAR`].
    pub(super) near: usize,
    /// In others.
    pub(super) far: usize,
}

/// What was measured for this processor.
pub(super) fn string_from(simd: Simd) -> StringFrom {
    static FROM: OnceLock<StringFrom> = OnceLock::new();
    *FROM.get_or_init(|| StringFrom {
        near: measure(simd, &LENGTHS, NEAR_BYTES, NEAR_LEAD),
        far: measure(simd, &LENGTHS[..FAR_LENGTHS], FAR_BYTES, FAR_LEAD),
    })
}

fn measure(simd: Simd, lengths: &[usize], bytes: usize, lead: f64) -> usize {
    // Not zero: some memory systems treat zeroes apart.
    let from = vec![0x5a_u8; bytes];
    let mut to = vec![0xa5_u8; bytes];
    let (src, dst) = (from.as_ptr() as u64, to.as_mut_ptr() as u64);
    let mut lengths = lengths.iter().rev();
    let mut best = usize::MAX;
    // Downwards from the longest, where it has its best chance, to the first at which it loses.
    lengths.all(|&len| {
        // SAFETY: both buffers are `bytes` long and apart, every piece lies inside; nothing refers to the destination
        // meanwhile; the processor has `simd`.
        let vector = fastest(bytes, len, |at| unsafe {
            copy::long(simd, dst + at, src + at, len, Order::Disjoint, false);
        });
        // SAFETY: as above.
        let string = fastest(bytes, len, |at| unsafe {
            copy::string(dst + at, src + at, len)
        });
        let wins = string * lead < vector;
        if wins {
            best = len;
        }
        wins
    });
    best
}

/// Shortest time for all pieces, in nanoseconds.
fn fastest(bytes: usize, len: usize, mut copy: impl FnMut(u64)) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for at in (0..bytes).step_by(len) {
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
        for from in [from.near, from.far] {
            assert!(from == usize::MAX || LENGTHS.contains(&from), "{from}");
        }
        assert_eq!(string_from(Simd::detect()), from);
    }
}
