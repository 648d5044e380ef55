//! Whether this processor's string moves, `rep movsb` and `rep stosq`, beat the vector loops, and from which length on.
//!
//! No flag of CPUID tells: "enhanced" and "fast short" string moves are slower than vectors on some
//! processors that announce them, and twice as fast on others, where the microcode takes ownership of whole
//! lines without reading them. So the two are run against each other, once per process, in a few milliseconds: on memory that
//! no longer fits into the first cache, and on memory that no longer fits into the second.

use std::sync::OnceLock;
use std::time::Instant;

use super::cpu::Simd;
use super::{copy, fill};
use crate::backend::Order;

/// Lengths tried, in bytes, ascending.
const LENGTHS: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];
/// Of these for copies that do not stay in the second cache: how long a piece is matters less to them.
const FAR_LENGTHS: usize = 2;

/// Bytes of the source and of the destination: pieces of them are copied in turn.
const NEAR_BYTES: usize = 512 << 10;
/// The same for copies that do not stay in the second cache.
const FAR_BYTES: usize = FAR as usize;

/// The same of fills: a second cache holds one operand of the former.
const FILL_FAR_BYTES: usize = 4 << 20;

/// An operation is one of these from this total on, in bytes: with its destination it is as large as the second cache of a server.
pub(super) const FAR: u64 = 1 << 20;

/// Rounds of which the fastest counts.
const ROUNDS: u32 = 5;

/// A lead that is worth the change. Below it the vector loop, which depends less on alignment and on what the caches hold.
const NEAR_LEAD: f64 = 1.3;
/// Behind the second cache what counts is how lines are asked for, and that depends on neither. The lead is greatest where that
/// cache just overflows; of more both wait for the next one.
const FAR_LEAD: f64 = 1.04;
/// Fills have one address, and the vector loop aligns it as well.
const FILL_LEAD: f64 = 1.01;

/// From which length of a piece on string moves are the faster ones; `usize::MAX` where they never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StringFrom {
    /// In operations of less than [`FAR`].
    pub(super) near: usize,
    /// In others.
    pub(super) far: usize,
}

impl StringFrom {
    /// Of an operation of `total` bytes.
    #[inline(always)]
    pub(super) fn of(self, total: u64) -> usize {
        if total < FAR { self.near } else { self.far }
    }
}

/// What was measured for this processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strings {
    /// `rep movsb`.
    pub(super) copies: StringFrom,
    /// `rep stosq`.
    pub(super) fills: StringFrom,
}

/// Measures it once for all.
pub(super) fn strings(simd: Simd) -> Strings {
    static STRINGS: OnceLock<Strings> = OnceLock::new();
    *STRINGS.get_or_init(|| Strings {
        copies: StringFrom {
            near: copies(simd, &LENGTHS, NEAR_BYTES, NEAR_LEAD),
            far: copies(simd, &LENGTHS[..FAR_LENGTHS], FAR_BYTES, FAR_LEAD),
        },
        fills: StringFrom {
            near: fills(simd, NEAR_BYTES),
            far: fills(simd, FILL_FAR_BYTES),
        },
    })
}

/// Of the lengths, ascending, the shortest from which on `wins`.
fn shortest(lengths: &[usize], mut wins: impl FnMut(usize) -> bool) -> usize {
    let mut best = usize::MAX;
    // Downwards from the longest, where string moves have their best chance, to the first at which they lose.
    lengths.iter().rev().all(|&len| {
        let wins = wins(len);
        if wins {
            best = len;
        }
        wins
    });
    best
}

fn copies(simd: Simd, lengths: &[usize], bytes: usize, lead: f64) -> usize {
    // Not zero: some memory systems treat zeroes apart.
    let from = vec![0x5a_u8; bytes];
    let mut to = vec![0xa5_u8; bytes];
    let (src, dst) = (from.as_ptr() as u64, to.as_mut_ptr() as u64);
    shortest(lengths, |len| {
        // SAFETY: both buffers are `bytes` long and apart, every piece lies inside; nothing refers to the destination
        // meanwhile; the processor has `simd`.
        let vector = fastest(bytes, len, |at| unsafe {
            copy::long(simd, dst + at, src + at, len, Order::Disjoint, false);
        });
        // SAFETY: as above.
        let string = fastest(bytes, len, |at| unsafe {
            copy::string(dst + at, src + at, len)
        });
        string * lead < vector
    })
}

fn fills(simd: Simd, bytes: usize) -> usize {
    const PATTERN: u128 = u128::MAX / 255 * 0x5a;
    let mut to = vec![0xa5_u8; bytes];
    let dst = to.as_mut_ptr() as u64;
    shortest(&LENGTHS, |len| {
        // SAFETY: every piece lies inside the buffer, to which nothing refers meanwhile; the processor has `simd`.
        let vector = fastest(bytes, len, |at| unsafe {
            fill::fill(simd, dst + at, len, PATTERN, false);
        });
        // SAFETY: as above.
        let string = fastest(bytes, len, |at| unsafe {
            fill::string(dst + at, len, PATTERN)
        });
        string * FILL_LEAD < vector
    })
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
        let Strings { copies, fills } = strings(Simd::detect());
        for from in [copies.near, copies.far, fills.near, fills.far] {
            assert!(from == usize::MAX || LENGTHS.contains(&from), "{from}");
        }
        assert_eq!(strings(Simd::detect()), Strings { copies, fills });
    }
}
