//! Kernels against the obvious, at every size and alignment that takes another path.

use super::*;
use crate::backend::Order;
use proptest::prelude::*;

/// Bytes around a range that must stay as they are.
const GUARD: usize = 64;

fn hint(order: Order, total: usize) -> Hint {
    Hint {
        order,
        total: total as u64,
        cached: false,
    }
}

fn at(bytes: &mut [u8], offset: usize) -> HostAddr {
    HostAddr(bytes[offset..].as_mut_ptr().expose_provenance() as u64)
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

fn backends() -> impl Iterator<Item = Software> {
    Simd::available().into_iter().flat_map(|simd| {
        [usize::MAX, 4096].map(|string_from| Software {
            simd,
            string_from,
            stream_from: 1 << 20,
            streamed: false,
        })
    })
}

/// Copies inside one buffer and compares all of it with `copy_within`.
fn check_copy(dst: usize, src: usize, len: usize, order: Order, total: usize) {
    for mut backend in backends() {
        let mut got = noise(dst.max(src) + len + 2 * GUARD, len as u64 + 7);
        let mut want = got.clone();
        want.copy_within(GUARD + src..GUARD + src + len, GUARD + dst);
        let (d, s) = (at(&mut got, GUARD + dst), at(&mut got, GUARD + src));
        // SAFETY: both ranges lie in `got`, which nobody else uses until `finish`.
        unsafe { backend.copy(d, s, len, hint(order, total)) };
        backend.finish();
        assert!(!backend.streamed);
        assert_eq!(
            got,
            want,
            "{} {dst} {src} {len} {order:?}",
            backend.kernels()
        );
    }
}

#[test]
fn every_short_length_copies() {
    for len in 0..=600 {
        check_copy(1000 + len % 61, len % 59, len, Order::Disjoint, len);
        check_copy(len % 3, len % 3 + 1, len, Order::Ascending, len);
        check_copy(len % 3 + 1, len % 3, len, Order::Descending, len);
    }
}

#[test]
fn long_operations_stream_and_stay_inside() {
    for len in [4096, 4097, 5000, 65535, 65536] {
        for dst in [70000, 70001, 70063] {
            check_copy(dst, 3, len, Order::Disjoint, 1 << 20);
        }
    }
}

proptest! {
    #[test]
    fn copies_agree_with_copy_within(
        len in 0_usize..20_000,
        distance in -3000_isize..3000,
    ) {
        let (dst, src) = if distance < 0 {
            (0, distance.unsigned_abs())
        } else {
            (distance as usize, 0)
        };
        let order = if dst > src { Order::Descending } else { Order::Ascending };
        check_copy(dst, src, len, order, len);
    }

    #[test]
    fn fills_keep_the_phase_and_the_bounds(
        len in 0_usize..9000,
        offset in 0_usize..130,
        pattern: u128,
        stream: bool,
    ) {
        for mut backend in backends() {
            let mut got = noise(offset + len + 2 * GUARD, 3);
            let mut want = got.clone();
            for (i, b) in want[GUARD + offset..GUARD + offset + len].iter_mut().enumerate() {
                *b = pattern.to_le_bytes()[i % 16];
            }
            let d = at(&mut got, GUARD + offset);
            let total = if stream { 1 << 20 } else { len };
            // SAFETY: the range lies in `got`, which nobody else uses until `finish`.
            unsafe { backend.fill(d, len, pattern, hint(Order::Disjoint, total)) };
            backend.finish();
            prop_assert_eq!(&got, &want);
        }
    }

    #[test]
    fn compares_find_the_first_difference(
        len in 0_usize..3000,
        offset in 0_usize..64,
        flips in proptest::collection::vec(0_usize..3000, 0..4),
    ) {
        for mut backend in backends() {
            let mut a = noise(offset + len, 11);
            let mut b = a.clone();
            for &f in flips.iter().filter(|&&f| f < len) {
                b[offset + f] ^= 1 << (f % 8);
            }
            let want = (0..len).find(|i| a[offset + i] != b[offset + i]);
            if len > 0 {
                let (x, y) = (at(&mut a, offset), at(&mut b, offset));
                // SAFETY: both ranges are ours alone.
                prop_assert_eq!(unsafe { backend.compare(x, y, len) }, want);
            }
        }
    }

    #[test]
    fn compares_with_a_pattern(
        len in 1_usize..2000,
        offset in 0_usize..16,
        pattern: u128,
        flip in proptest::option::of(0_usize..2000),
    ) {
        for mut backend in backends() {
            let mut a = noise(offset + len, 5);
            for i in 0..len {
                a[offset + i] = pattern.to_le_bytes()[i % 16];
            }
            let flip = flip.filter(|&f| f < len);
            if let Some(f) = flip {
                a[offset + f] ^= 0x80;
            }
            let x = at(&mut a, offset);
            // SAFETY: the range is ours alone.
            prop_assert_eq!(unsafe { backend.compare_value(x, len, pattern) }, flip);
        }
    }
}
