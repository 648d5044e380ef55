//! Kernels against the obvious, at every size and alignment that takes another path.

use super::*;
use crate::backend::Order;
use proptest::prelude::*;

/// Bytes around a range that must stay as they are.
const GUARD: usize = 64;

/// Where string instructions begin in half the backends: inside the lengths below.
const STRING: usize = 512;

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
        let strings = [usize::MAX, STRING].map(|from| {
            let from = StringFrom {
                near: from,
                far: from,
            };
            Strings {
                copies: from,
                fills: from,
            }
        });
        strings.map(|strings| Software {
            simd,
            strings,
            stream_from: 1 << 20,
            // With the widest vectors alone, so that both ways are gone.
            folds: simd == Simd::Avx512 && super::fold::detect(),
            private: Private::with(simd),
            ..Software::new()
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
        is_of_words: bool,
        stream: bool,
    ) {
        let word = pattern & u128::from(u64::MAX);
        let pattern = if is_of_words { word << 64 | word } else { pattern };
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
                for total in [len as u64, 1 << 20] {
                    // SAFETY: both ranges are ours alone.
                    prop_assert_eq!(unsafe { backend.compare(x, y, len, total) }, want);
                }
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
            for total in [len as u64, 1 << 20] {
                // SAFETY: the range is ours alone.
                prop_assert_eq!(unsafe { backend.compare_value(x, len, pattern, total) }, flip);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn checksums_agree_with_a_bitwise_one_in_any_pieces(
        len in 0_usize..40_000,
        cut in 0_usize..40_000,
        offset in 0_usize..65,
    ) {
        let cut = cut.min(len);
        for mut backend in backends() {
            let mut bytes = noise(offset + len, 9);
            let want = bitwise_crc32c(&bytes[offset..]);
            let (first, second) = (at(&mut bytes, offset), at(&mut bytes, offset).plus(cut));
            // SAFETY: both ranges lie in `bytes`.
            let crc = unsafe {
                let crc = backend.crc32c(first, cut, 0);
                backend.crc32c(second, len - cut, crc)
            };
            prop_assert_eq!(crc, want);
            // SAFETY: as above.
            let crc = unsafe {
                let crc = backend.crc64(first, cut, 0);
                backend.crc64(second, len - cut, crc)
            };
            prop_assert_eq!(crc, bitwise_crc64(&bytes[offset..]));
            let mut copy = vec![0xaa_u8; len + 2 * GUARD];
            // Near, and past the caches.
            for total in [len, 2 << 20] {
                copy.fill(0xaa);
                let to = at(&mut copy, GUARD);
                let h = hint(Order::Disjoint, total);
                // SAFETY: ranges of two vectors.
                let crc = unsafe { backend.copy_crc32c(to, first, len, 0, h) };
                backend.finish();
                prop_assert_eq!(crc, want);
                prop_assert_eq!(&copy[GUARD..GUARD + len], &bytes[offset..]);
                prop_assert!(copy[..GUARD].iter().chain(&copy[GUARD + len..]).all(|&b| b == 0xaa));
            }
        }
    }

    #[test]
    fn dualcasts_write_both_and_flushes_nothing(len in 0_usize..40_000, a in 0_usize..65, b in 0_usize..65) {
        for mut backend in backends() {
            let mut bytes = noise(len, 3);
            let mut copies = [vec![0_u8; a + len + GUARD], vec![0_u8; b + len + GUARD]];
            let [x, y] = &mut copies;
            let dst = [at(x, a), at(y, b)];
            let src = at(&mut bytes, 0);
            // SAFETY: ranges of three vectors.
            unsafe { backend.dualcast(dst, src, len, hint(Order::Disjoint, len)) };
            for keep in [false, true] {
                // SAFETY: as above.
                unsafe { backend.flush(dst[0], len, keep) };
            }
            backend.finish();
            prop_assert!(!backend.streamed);
            for (copy, start) in copies.iter().zip([a, b]) {
                prop_assert_eq!(&copy[start..start + len], &bytes[..]);
                prop_assert!(copy[..start].iter().chain(&copy[start + len..]).all(|&b| b == 0));
            }
        }
    }

    #[test]
    fn private_memory_takes_and_gives(len in 0_usize..700, offset in 0_usize..65) {
        for simd in Simd::available() {
            let private = Private::with(simd);
            let mut a = noise(offset + len, 1);
            let want = a[offset..].to_vec();
            let mut mine = vec![0; len];
            let mut out = vec![0_u8; offset + len + GUARD];
            let (x, to) = (at(&mut a, offset), at(&mut out, offset));
            // SAFETY: ranges of two vectors.
            unsafe {
                private.load(&mut mine, x);
                private.store(to, &mine);
            }
            prop_assert_eq!(&mine, &want);
            prop_assert_eq!(&out[offset..offset + len], &want[..]);
            prop_assert!(out[offset + len..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn sums_are_those_of_every_byte(
        len in 0_usize..700,
        count in 2_usize..=sum::SUMMANDS_MAX,
        offset in 0_usize..65,
        in_place in any::<bool>(),
    ) {
        for simd in Simd::available() {
            let mut sources: Vec<_> = (0..count).map(|i| noise(offset + len + GUARD, i as u64)).collect();
            let want: Vec<u8> = (offset..offset + len)
                .map(|i| sources.iter().fold(0, |sum, source| sum ^ source[i]))
                .collect();
            let mut out = vec![0_u8; offset + len + GUARD];
            let from: Vec<_> = sources.iter_mut().map(|source| at(source, offset)).collect();
            let to = if in_place { from[count - 1] } else { at(&mut out, offset) };
            // SAFETY: ranges of vectors.
            unsafe { Private::with(simd).sum(to, &from, len) };
            let got = if in_place { &sources[count - 1] } else { &out };
            prop_assert_eq!(&got[offset..offset + len], &want[..]);
            let untouched = if in_place { noise(offset + len + GUARD, count as u64 - 1) } else { vec![0; got.len()] };
            prop_assert_eq!(&got[..offset], &untouched[..offset]);
            prop_assert_eq!(&got[offset + len..], &untouched[offset + len..]);
        }
    }

    #[test]
    fn the_first_step_that_differs_is_found_with_its_bytes(
        words in 0_usize..100,
        offset in 0_usize..33,
        changes in proptest::collection::vec((0_usize..100, 0_usize..8), 0..4),
    ) {
        let len = words * diff::WORD;
        for simd in Simd::available() {
            let mut a = noise(offset + len, 3);
            let mut b = a.clone();
            for &(word, byte) in changes.iter().filter(|(word, _)| *word < words) {
                b[offset + word * diff::WORD + byte] ^= 0x40;
            }
            let differs = |i: usize| {
                let range = offset + i * diff::WORD..offset + (i + 1) * diff::WORD;
                a[range.clone()] != b[range]
            };
            let per_step = diff::STEP / diff::WORD;
            let want = (0..words).find(|&i| differs(i)).map(|first| {
                let start = first / per_step * per_step;
                let mask = (start..words.min(start + per_step))
                    .fold(0, |mask, i| mask | u16::from(differs(i)) << (i - start));
                diff::Step { offset: start * diff::WORD, words: mask }
            });
            let mut found = [0; diff::STEP];
            let (x, y) = (at(&mut a, offset), at(&mut b, offset));
            // SAFETY: ranges of two vectors.
            let got = unsafe { Private::with(simd).difference(x, y, len, &mut found) };
            prop_assert_eq!(got, want);
            if let Some(step) = got {
                let part = &b[offset + step.offset..];
                let part = &part[..part.len().min(diff::STEP)];
                prop_assert_eq!(&found[..part.len()], part);
            }
        }
    }
}

fn bitwise_crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| {
            (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg())
        })
    })
}

fn bitwise_crc64(bytes: &[u8]) -> u64 {
    !bytes.iter().fold(!0_u64, |crc, &byte| {
        (0..8).fold(crc ^ u64::from(byte), |c, _| {
            (c >> 1) ^ (0x9a6c_9329_ac4b_c9b5 & (c & 1).wrapping_neg())
        })
    })
}

#[test]
fn crc_64_of_nvme() {
    let mut bytes = b"123456789".to_vec();
    let src = at(&mut bytes, 0);
    // SAFETY: the whole vector.
    let crc = unsafe { Software::new().crc64(src, 9, 0) };
    assert_eq!(crc, 0xae8b_1486_0a79_9888);
}

/// RFC 3720, appendix B.4.
#[test]
fn crc_32c_of_the_standard() {
    let ascending: Vec<u8> = (0..32).collect();
    let descending: Vec<u8> = (0..32).rev().collect();
    for (mut bytes, want) in [
        (vec![0; 32], 0x8a91_36aa_u32),
        (vec![0xff; 32], 0x62a8_ab43),
        (ascending, 0x46dd_794e),
        (descending, 0x113f_db5c),
        (b"123456789".to_vec(), 0xe306_9283),
    ] {
        let len = bytes.len();
        let src = at(&mut bytes, 0);
        // SAFETY: the whole vector.
        assert_eq!(unsafe { Software::new().crc32c(src, len, 0) }, want);
    }
}
