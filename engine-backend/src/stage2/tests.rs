//! Tests of the stage-2 table against the manual's rules and against a page-by-page model.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;

const K4: u64 = 4096;
const M2: u64 = 2 << 20;
const G1: u64 = 1 << 30;
/// A host address that no test dereferences, aligned to 1 GiB.
const HOST: u64 = 0x7000_0000_0000;

fn leaf_bytes(stage2: &Stage2, gpa: u64) -> u64 {
    stage2.walk(gpa, Access::Read).unwrap().leaf_bytes
}

#[test]
fn leaves_are_as_large_as_both_alignments_allow() {
    let s = Stage2::new();
    s.map(
        G1 - M2 - K4,
        HostAddr(HOST + G1 - M2 - K4),
        K4 + M2 + 2 * G1 + M2 + K4,
        Perms::ALL,
    )
    .unwrap();
    assert_eq!(leaf_bytes(&s, G1 - M2 - K4), K4);
    assert_eq!(leaf_bytes(&s, G1 - M2), M2);
    assert_eq!(leaf_bytes(&s, G1), G1);
    assert_eq!(leaf_bytes(&s, 3 * G1 - 1), G1);
    assert_eq!(leaf_bytes(&s, 3 * G1), M2);
    assert_eq!(leaf_bytes(&s, 3 * G1 + M2), K4);
    assert!(s.walk(3 * G1 + M2 + K4, Access::Read).is_err());
    assert!(s.walk(G1 - M2 - K4 - 1, Access::Read).is_err());
    // Host and guest-physical addresses that differ modulo 2 MiB leave small leaves only.
    let s = Stage2::new();
    s.map(0, HostAddr(HOST + K4), 2 * M2, Perms::ALL).unwrap();
    assert_eq!(leaf_bytes(&s, M2), K4);
    assert_eq!(
        s.walk(M2 + 5, Access::Read).unwrap().host.0,
        HOST + K4 + M2 + 5
    );
}

#[test]
fn accessed_is_set_at_every_level_and_dirty_on_a_written_leaf_only() {
    for (gpa, levels) in [(0, 4), (M2, 3), (G1, 2)] {
        let s = Stage2::new();
        s.map(0, HostAddr(HOST), K4, Perms::ALL).unwrap();
        s.map(M2, HostAddr(HOST + M2), M2, Perms::ALL).unwrap();
        s.map(G1, HostAddr(HOST + G1), G1, Perms::ALL).unwrap();
        let bits = || -> Vec<u64> {
            let path = s.path(gpa);
            path.iter()
                .map(|(_, c)| c.load(Ordering::Relaxed) >> 8 & 3)
                .collect()
        };
        assert_eq!(bits(), vec![0; levels]);
        s.walk(gpa, Access::Read).unwrap();
        assert_eq!(bits(), vec![1; levels]);
        s.walk(gpa, Access::Write).unwrap();
        let mut expected = vec![1; levels];
        expected[levels - 1] = 3;
        assert_eq!(bits(), expected);
    }
}

#[test]
fn a_remembered_leaf_answers_for_itself_only() {
    let s = Stage2::new();
    // Neighbours in guest-physical addresses, not on the host; the last one read-only.
    for (page, host, perms) in [(1, 9, Perms::ALL), (2, 5, Perms::ALL), (3, 7, Perms::READ)] {
        s.map(page * K4, HostAddr(HOST + host * K4), K4, perms)
            .unwrap();
    }
    let mut last = LastLeaf::default();
    let mut host = |gpa, access| {
        let near = s.walk_near(&mut last, gpa, access);
        assert_eq!(near, s.walk(gpa, access), "{gpa:#x} {access:?}");
        near
    };
    for access in [Access::Write, Access::Read] {
        for gpa in [
            2 * K4,
            3 * K4 - 1,
            3 * K4,
            2 * K4 - 1,
            K4,
            2 * K4,
            0,
            4 * K4,
            K4 + 5,
            K4 - 1,
        ] {
            let _ = host(gpa, access);
        }
    }
    // A leaf that was read only is not one that may be written.
    let _ = host(3 * K4, Access::Read);
    assert_eq!(host(3 * K4, Access::Write), Err(Stage2Fault::Permission));
}

#[test]
fn bad_ranges_are_refused() {
    let s = Stage2::new();
    let map = |gpa, host, len, perms| s.map(gpa, HostAddr(host), len, perms);
    for (gpa, host, len) in [(1, 0, K4), (0, 1, K4), (0, 0, 1), (0, 0, 0)] {
        let error = map(gpa, host, len, Perms::ALL).unwrap_err();
        assert!(matches!(error, Stage2Error::Misaligned { .. }), "{error}");
    }
    for (gpa, len) in [(1 << 48, K4), ((1 << 48) - K4, 2 * K4), (!0xfff, K4)] {
        let error = map(gpa, HOST, len, Perms::ALL).unwrap_err();
        assert!(matches!(error, Stage2Error::TooHigh { .. }), "{error}");
    }
    assert!(map((1 << 48) - K4, HOST, K4, Perms::ALL).is_ok());
    assert_eq!(map(0, HOST, K4, Perms::WRITE), Err(Stage2Error::Perms(2)));
    assert_eq!(map(0, HOST, K4, Perms(0)), Err(Stage2Error::Perms(0)));
    assert_eq!(s.protect(0, K4, Perms(6)), Err(Stage2Error::Perms(6)));
    assert_eq!(s.epoch(), 0);
}

/// What the manual says about a path of entries, from the root down to a leaf, written
/// without the module's own helpers. Bits are counted from 0.
fn by_the_manual(path: &[(u32, u64)], write: bool) -> Result<u32, Stage2Fault> {
    let bit = |e: u64, n: u32| e >> n & 1 == 1;
    let field = |e: u64, high: u32, low: u32| e >> low & ((1u64 << (high - low + 1)) - 1);
    let (mut may_read, mut may_write) = (true, true);
    for &(level, e) in path {
        if field(e, 2, 0) == 0 {
            return Err(Stage2Fault::NotPresent);
        }
        let leaf = match level {
            1 => true,
            2 | 3 => bit(e, 7),
            _ => false,
        };
        let bad = match (level, leaf) {
            (4, _) => field(e, 7, 3) != 0,
            (_, false) => field(e, 6, 3) != 0,
            (3, true) => field(e, 29, 12) != 0,
            (2, true) => field(e, 20, 12) != 0,
            _ => false,
        };
        let bad_type = leaf && [2, 3, 7].contains(&field(e, 5, 3));
        if bad || bad_type || (bit(e, 1) && !bit(e, 0)) {
            return Err(Stage2Fault::Misconfigured);
        }
        may_read &= bit(e, 0);
        may_write &= bit(e, 1);
        if leaf {
            return if if write { may_write } else { may_read } {
                Ok(level)
            } else {
                Err(Stage2Fault::Permission)
            };
        }
    }
    unreachable!("a path ends in a leaf or an empty entry")
}

/// Bits of an entry that a test may flip without sending the walk to a frame that is no
/// table: all but the frame of a table, and not bit 7 of a large leaf.
fn harmless(level: u32, leaf: bool) -> u64 {
    let frame = ((1u64 << 52) - 1) & !0xfff;
    match (leaf, level) {
        (true, 1) => u64::MAX,
        (true, _) => !(1 << 7),
        (false, _) => !frame,
    }
}

fn check_against_the_manual(gpa: u64, flips: &[(usize, u64)], write: bool) {
    let s = Stage2::new();
    s.map(0, HostAddr(HOST), K4, Perms::ALL).unwrap();
    s.map(M2, HostAddr(HOST + M2), M2, Perms::ALL).unwrap();
    s.map(G1, HostAddr(HOST + G1), G1, Perms::ALL).unwrap();
    let path = s.path(gpa);
    let tables: Vec<u64> = path
        .iter()
        .map(|(_, c)| c.load(Ordering::Relaxed))
        .collect();
    for &(step, mask) in flips {
        let step = step % path.len();
        let (level, cell) = path[step];
        let mask = mask & harmless(level, step == path.len() - 1);
        cell.fetch_xor(mask, Ordering::Relaxed);
    }
    let entries: Vec<(u32, u64)> = path
        .iter()
        .map(|(l, c)| (*l, c.load(Ordering::Relaxed)))
        .collect();
    let expected = by_the_manual(&entries, write);
    let access = if write { Access::Write } else { Access::Read };
    let found = s.walk(gpa, access);
    let context = format!("{entries:x?} {access:?}");
    match expected {
        Err(fault) => assert_eq!(found, Err(fault), "{context}"),
        Ok(leaf_level) => {
            let bytes = 1u64 << (12 + 9 * (leaf_level - 1));
            let (_, leaf) = entries.iter().find(|(l, _)| *l == leaf_level).unwrap();
            let frame = leaf >> 12 & ((1 << 40) - 1);
            assert_eq!(
                found,
                Ok(Stage2Hit {
                    host: HostAddr((frame << 12) + gpa % bytes),
                    leaf_bytes: bytes
                }),
                "{context}"
            );
        }
    }
    for (&(level, before), (_, cell)) in entries.iter().zip(&path) {
        let mut after = before;
        if let Ok(leaf_level) = expected
            && level >= leaf_level
        {
            after |= 1 << 8;
            if write && level == leaf_level {
                after |= 1 << 9;
            }
        }
        assert_eq!(
            cell.load(Ordering::Relaxed),
            after,
            "level {level}: {context}"
        );
    }
    for ((_, cell), entry) in path.iter().zip(tables) {
        cell.store(entry, Ordering::Relaxed); // so that the tables can be freed
    }
}

#[test]
fn every_single_bit_means_what_the_manual_says() {
    for gpa in [0x123, M2 + 0x12_3456, G1 + 0x1234_5678] {
        for step in 0..4 {
            for bit in 0..64 {
                for write in [false, true] {
                    check_against_the_manual(gpa, &[(step, 1 << bit)], write);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_bits_mean_what_the_manual_says(
        which in 0..3usize,
        // Low bits more often: that is where the rules are.
        flips in proptest::collection::vec((0..4usize, any::<u64>(), any::<u64>(), any::<bool>()), 0..4),
        write: bool,
    ) {
        let gpa = [0x123, M2 + 0x12_3456, G1 + 0x1234_5678][which];
        let flips: Vec<_> = flips
            .into_iter()
            .map(|(step, a, b, low)| (step, a & b & if low { 0x7ff } else { u64::MAX }))
            .collect();
        check_against_the_manual(gpa, &flips, write);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Map(u64, u64, bool),
    Unmap(u64, u64),
    Protect(u64, u64, bool),
    Touch(u64),
}

/// Pages of a window that has whole 2 MiB blocks and lies across a border of 1 GiB.
const WINDOW: u64 = 3 * 512;
const BASE: u64 = G1 - M2 - M2 / 2;

fn op() -> impl Strategy<Value = Op> {
    let range = || {
        prop_oneof![
            (0..WINDOW, 1..20u64),
            (0..WINDOW, 1..WINDOW),
            // Whole blocks, so that large leaves appear and are split.
            (0..2u64).prop_map(|n| (256 + 512 * n, 512)),
        ]
    };
    prop_oneof![
        (range(), any::<bool>()).prop_map(|((p, n), w)| Op::Map(p, n, w)),
        range().prop_map(|(p, n)| Op::Unmap(p, n)),
        (range(), any::<bool>()).prop_map(|((p, n), w)| Op::Protect(p, n, w)),
        (0..WINDOW).prop_map(Op::Touch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn edits_agree_with_a_page_by_page_model(ops in proptest::collection::vec(op(), 1..25)) {
        let s = Stage2::new();
        let mut model: BTreeMap<u64, bool> = BTreeMap::new();
        let mut epoch = 0;
        let perms = |w| if w { Perms::ALL } else { Perms::READ };
        for op in ops {
            match op {
                Op::Map(page, n, w) => {
                    let free = model.range(page..page + n).next().is_none();
                    let at = BASE + page * K4;
                    let mapped = s.map(at, HostAddr(HOST + at), n * K4, perms(w));
                    prop_assert_eq!(mapped.is_ok(), free);
                    if free {
                        model.extend((page..page + n).map(|p| (p, w)));
                    }
                }
                Op::Unmap(page, n) => {
                    let retired = s.unmap(BASE + page * K4, n * K4).unwrap();
                    // SAFETY: no other thread walks.
                    unsafe { retired.free() };
                    model.retain(|p, _| !(page..page + n).contains(p));
                    epoch += 1;
                }
                Op::Protect(page, n, w) => {
                    s.protect(BASE + page * K4, n * K4, perms(w)).unwrap();
                    model.range_mut(page..page + n).for_each(|(_, v)| *v = w);
                    epoch += 1;
                }
                Op::Touch(page) => {
                    let _ = s.walk(BASE + page * K4, Access::Read);
                }
            }
            prop_assert_eq!(s.epoch(), epoch);
        }
        // One page more than any range can reach on either side.
        for page in 0..2 * WINDOW {
            let gpa = BASE + page * K4 + 7;
            let host = |r: Result<Stage2Hit, _>| r.map(|hit| hit.host.0);
            let (read, write) = match model.get(&page) {
                None => (Err(Stage2Fault::NotPresent), Err(Stage2Fault::NotPresent)),
                Some(false) => (Ok(HOST + gpa), Err(Stage2Fault::Permission)),
                Some(true) => (Ok(HOST + gpa), Ok(HOST + gpa)),
            };
            prop_assert_eq!(host(s.walk(gpa, Access::Read)), read, "page {}", page);
            prop_assert_eq!(host(s.walk(gpa, Access::Write)), write, "page {}", page);
        }
        // Nothing left: the root is empty again, no table leaks.
        // SAFETY: no other thread walks.
        unsafe { s.unmap(0, 1 << 48).unwrap().free() };
        prop_assert!(s.root.is_empty());
    }
}

#[test]
fn a_split_keeps_accessed_and_dirty() {
    let s = Stage2::new();
    s.map(0, HostAddr(HOST), G1, Perms::ALL).unwrap();
    s.walk(5, Access::Write).unwrap();
    s.protect(K4, K4, Perms::READ).unwrap();
    for gpa in [0, 2 * K4, M2, G1 - K4] {
        let (_, leaf) = *s.path(gpa).last().unwrap();
        assert_eq!(leaf.load(Ordering::Relaxed) >> 8 & 3, 3, "{gpa:#x}");
    }
    assert_eq!(leaf_bytes(&s, 0), K4);
    assert_eq!(leaf_bytes(&s, M2), M2);
    assert_eq!(s.walk(K4, Access::Write), Err(Stage2Fault::Permission));
}

/// Tells other threads to stop when dropped: also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn walkers_beside_an_editor_see_the_old_or_the_new() {
    let s = Stage2::new();
    s.map(0, HostAddr(HOST), 2 * M2, Perms::ALL).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for t in 0..2u64 {
            let (s, stop) = (&s, &stop);
            scope.spawn(move || {
                let mut n = t;
                while !stop.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let gpa = (n >> 33) % (2 * M2);
                    match s.walk(gpa, Access::Write) {
                        Ok(hit) => assert_eq!(hit.host.0, HOST + gpa),
                        Err(fault) => assert_ne!(fault, Stage2Fault::Misconfigured),
                    }
                }
            });
        }
        for round in 0..300 {
            let page = round % 512;
            s.protect(page * K4, K4, Perms::READ).unwrap();
            s.protect(0, 2 * M2, Perms::ALL).unwrap();
            // Never freed: the walkers pass no grace period here.
            std::mem::forget(s.unmap(M2, M2).unwrap());
            s.map(M2, HostAddr(HOST + M2), M2, Perms::ALL).unwrap();
        }
    });
}

#[test]
fn an_editor_loses_no_dirty_bit_that_a_walker_sets() {
    let stop = AtomicBool::new(false);
    let s = Stage2::new();
    s.map(0, HostAddr(HOST), K4, Perms::ALL).unwrap();
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                s.protect(0, K4, Perms::ALL).unwrap();
            }
        });
        let (_, leaf) = *s.path(0).last().unwrap();
        for _ in 0..200_000 {
            leaf.fetch_and(!(3 << 8), Ordering::Relaxed);
            if s.walk(0, Access::Write).is_ok() {
                // Long enough for an editor that has read the entry before to write it.
                for _ in 0..20 {
                    assert_eq!(leaf.load(Ordering::Relaxed) >> 9 & 1, 1, "D was lost");
                }
            }
        }
    });
}

#[test]
fn tables_that_became_empty_are_handed_back() {
    let s = Stage2::new();
    s.map(0, HostAddr(HOST), 2 * K4, Perms::ALL).unwrap();
    assert_eq!(s.unmap(0, K4).unwrap().0.len(), 0);
    let retired = s.unmap(K4, K4).unwrap();
    assert_eq!(retired.0.len(), 3, "one at each level below the root");
    // SAFETY: no other thread walks.
    unsafe { retired.free() };
}
