//! Tests of the two-stage walk against a slow reading of the manual that shares no code
//! with it and looks at guest RAM through its file.

use proptest::prelude::*;

use super::*;
use crate::memory::test_ram::TestRam;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TABLE: u64 = 0x1_0000;
/// RAM with tables and pages; read-only memory; RAM that a 1 GiB page can start in.
const REGIONS: [(u64, u64, bool); 3] = [
    (0, 8 * MIB, true),
    (16 * MIB, 4 * MIB, false),
    (GIB, 4 * MIB, true),
];

/// The guest's CPU.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    levels: u8,
    maxphyaddr: u8,
    nxe: bool,
    pages_1g: bool,
    no_ad: bool,
}

impl Cpu {
    const USUAL: Self = Self {
        levels: 4,
        maxphyaddr: 46,
        nxe: true,
        pages_1g: true,
        no_ad: false,
    };
    fn format(&self) -> Format {
        Format::new(
            self.levels,
            self.maxphyaddr,
            self.nxe,
            self.pages_1g,
            self.no_ad,
        )
        .unwrap()
    }
}

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 == 1
}

fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & ((1u128 << (high - low + 1)) - 1) as u64
}

/// What the oracle finds: the page's address and size and the entries that led there.
struct Found {
    gpa: u64,
    page_bytes: u64,
    path: Vec<u64>,
}

/// The manual, step by step: one user-mode data access.
fn by_the_manual(
    ram: &TestRam,
    cpu: Cpu,
    root: u64,
    va: u64,
    write: bool,
) -> Result<Found, Status> {
    let top = if cpu.levels == 5 { 56 } else { 47 };
    let sign = bits(va, 63, top);
    if sign != 0 && sign != (1 << (64 - top)) - 1 {
        return Err(Status::NonCanonical);
    }
    let (mut table, mut path, mut entries) = (root, vec![], vec![]);
    let (mut leaf, mut size) = (None, 0);
    for level in (1..=u32::from(cpu.levels)).rev() {
        let shift = 12 + 9 * (level - 1);
        let at = table + 8 * bits(va, shift + 8, shift);
        // The table itself must be translatable by stage 2, for writing.
        match ram.locate(at) {
            None => return Err(Status::Stage2Pending),
            Some((_, false)) => return Err(Status::Stage2Permission),
            Some((_, true)) => {}
        }
        let e = ram.read_u64(at);
        path.push(at);
        entries.push(e);
        if !bit(e, 0) {
            return Err(Status::Stage1NotPresent);
        }
        let high = u32::from(cpu.maxphyaddr);
        let mut reserved = high < 52 && bits(e, 51, high) != 0;
        reserved |= bit(e, 63) && !cpu.nxe;
        match level {
            4 | 5 => reserved |= bit(e, 7),
            3 if bit(e, 7) => reserved |= !cpu.pages_1g || bits(e, 29, 13) != 0,
            2 if bit(e, 7) => reserved |= bits(e, 20, 13) != 0,
            _ => {}
        }
        if reserved {
            return Err(Status::ReservedBit);
        }
        if !bit(e, 2) {
            return Err(Status::Stage1Permission);
        }
        if level == 1 || (level < 4 && bit(e, 7)) {
            size = 1u64 << shift;
            leaf = Some(bits(e, 51, shift) << shift);
            break;
        }
        table = bits(e, 51, 12) << 12;
    }
    if write && entries.iter().any(|&e| !bit(e, 1)) {
        return Err(Status::Stage1Permission);
    }
    let last = *entries.last().unwrap();
    if cpu.no_ad && (entries.iter().any(|&e| !bit(e, 5)) || write && !bit(last, 6)) {
        return Err(Status::Stage1NotPresent);
    }
    let gpa = leaf.unwrap() + va % size;
    match ram.locate(gpa) {
        None => Err(Status::Stage2Pending),
        Some((_, false)) if write => Err(Status::Stage2Permission),
        Some(_) => Ok(Found {
            gpa,
            page_bytes: size,
            path,
        }),
    }
}

/// Makes the access both ways and compares the outcome and every entry of `watched`.
fn compare(ram: &TestRam, cpu: Cpu, root: u64, va: u64, write: bool, watched: &[u64]) {
    let expected = by_the_manual(ram, cpu, root, va, write);
    let mut entries: Vec<(u64, u64)> = watched.iter().map(|&at| (at, ram.read_u64(at))).collect();
    let context = format!("{cpu:?} va {va:#x} write {write} {entries:x?}");
    let access = if write { Access::Write } else { Access::Read };
    let hit = walk(&ram.memory, &cpu.format(), root, va, access);
    match (&expected, &hit) {
        (Err(status), Err(found)) => assert_eq!(found, status, "{context}"),
        (Ok(found), Ok(hit)) => {
            assert_eq!(
                (hit.gpa, hit.page_bytes),
                (found.gpa, found.page_bytes),
                "{context}"
            );
            // The host address is that of the very byte: both files agree.
            let region = REGIONS.iter().rev().find(|r| r.0 <= found.gpa).unwrap();
            if region.2 {
                let span = ram.memory.contiguous(found.gpa, 1).unwrap();
                assert_eq!(hit.host, span.host(), "{context}");
            }
        }
        _ => panic!(
            "expected {:?}, found {hit:?}: {context}",
            expected.as_ref().err()
        ),
    }
    if let Ok(found) = &expected {
        for (step, &at) in found.path.iter().enumerate() {
            let dirty = write && step + 1 == found.path.len();
            for (_, e) in entries.iter_mut().filter(|(watched, _)| *watched == at) {
                *e |= 1 << 5 | u64::from(dirty) << 6;
            }
        }
    }
    for (at, entry) in entries {
        assert_eq!(ram.read_u64(at), entry, "entry at {at:#x}: {context}");
    }
}

/// One entry of the path to an address.
#[derive(Debug, Clone)]
struct Step {
    /// Bits to flip in an entry that is present, writable and the user's.
    flips: u64,
    /// Where it points when it is a leaf.
    page: u64,
    /// PS, where the level has it.
    large: bool,
    /// Points to its own table instead of the next.
    to_itself: bool,
}

/// Tables for one address: level n's table is at `TABLE * n`, its entry the one for `va`.
fn build(ram: &TestRam, cpu: Cpu, va: u64, steps: &[Step]) -> Vec<u64> {
    let mut watched = vec![];
    for level in (1..=u64::from(cpu.levels)).rev() {
        let step = &steps[level as usize - 1];
        let shift = 12 + 9 * (level - 1) as u32;
        let at = TABLE * level + 8 * bits(va, shift + 8, shift);
        let leaf = level == 1 || (step.large && matches!(level, 2 | 3));
        let target = match (leaf, step.to_itself) {
            (true, _) => step.page >> shift << shift,
            (false, true) => TABLE * level,
            (false, false) => TABLE * (level - 1),
        };
        let large = u64::from(leaf && level > 1) << 7;
        ram.write_u64(at, (target | large | 0b111) ^ step.flips);
        watched.push(at);
    }
    watched
}

fn cpu() -> impl Strategy<Value = Cpu> {
    (
        prop_oneof![Just(4u8), Just(5)],
        32..=52u8,
        any::<bool>(),
        any::<bool>(),
        prop_oneof![4 => Just(false), 1 => Just(true)],
    )
        .prop_map(|(levels, maxphyaddr, nxe, pages_1g, no_ad)| Cpu {
            levels,
            maxphyaddr,
            nxe,
            pages_1g,
            no_ad,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let flips = prop_oneof![
        6 => Just(0),
        6 => (5..7u32).prop_map(|n| 1 << n),
        4 => Just(3 << 5),
        4 => (0..64u32).prop_map(|n| 1 << n),
        1 => (0..64u32, 0..64u32).prop_map(|(a, b)| 1 << a | 1 << b),
        1 => any::<u64>(),
    ];
    let page = prop_oneof![
        6 => 0x60_0000..8 * MIB,
        2 => 16 * MIB..20 * MIB,
        2 => GIB..GIB + 4 * MIB,
        1 => any::<u64>().prop_map(|x| x & ((1 << 52) - 1)),
    ];
    let rarely = || prop_oneof![5 => Just(false), 1 => Just(true)];
    (flips, page, rarely(), rarely()).prop_map(|(flips, page, large, to_itself)| Step {
        flips,
        page,
        large,
        to_itself,
    })
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => any::<u64>().prop_map(|x| x & ((1 << 47) - 1)),
        // Low in every table, so that large pages at 0 or 1 GiB reach RAM.
        4 => any::<u64>().prop_map(|x| x & 0x7f80_003f_ffff),
        1 => any::<u64>().prop_map(|x| x | !((1 << 47) - 1)),
        1 => any::<u64>().prop_map(|x| x & ((1 << 57) - 1)),
        1 => any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]
    #[test]
    fn random_tables_mean_what_the_manual_says(
        cpu in cpu(),
        va in address(),
        steps in proptest::collection::vec(step(), 5),
        accesses in proptest::collection::vec(any::<bool>(), 1..3),
    ) {
        let ram = TestRam::new(&REGIONS);
        let watched = build(&ram, cpu, va, &steps);
        for write in accesses {
            compare(&ram, cpu, TABLE * u64::from(cpu.levels), va, write, &watched);
        }
    }
}

const PLAIN: Step = Step {
    flips: 0,
    page: 0x70_0000,
    large: false,
    to_itself: false,
};

#[test]
fn every_single_bit_of_every_entry_means_what_the_manual_says() {
    let va = 0x1234_5067_8abc_u64 & 0x7f80_003f_ffff;
    for levels in [4, 5] {
        for (nxe, pages_1g, no_ad) in [
            (true, true, false),
            (false, true, false),
            (true, false, false),
            (true, true, true),
        ] {
            let cpu = Cpu {
                levels,
                nxe,
                pages_1g,
                no_ad,
                ..Cpu::USUAL
            };
            for leaf in 1..=3 {
                for (level, n) in
                    (0..usize::from(levels)).flat_map(|l| (0..64).map(move |n| (l, n)))
                {
                    let mut steps = vec![PLAIN; 5];
                    steps[leaf - 1].large = true;
                    if leaf == 3 {
                        steps[2].page = GIB;
                    }
                    if no_ad {
                        steps.iter_mut().for_each(|s| s.flips = 3 << 5);
                    }
                    steps[level].flips ^= 1 << n;
                    let ram = TestRam::new(&REGIONS);
                    let watched = build(&ram, cpu, va, &steps);
                    let root = TABLE * u64::from(levels);
                    compare(&ram, cpu, root, va, false, &watched);
                    compare(&ram, cpu, root, va, true, &watched);
                }
            }
        }
    }
}

#[test]
fn a_table_that_is_its_own_root_child_and_page_is_walked_in_bounded_steps() {
    let ram = TestRam::new(&REGIONS);
    ram.write_u64(TABLE, TABLE | 0b111);
    let hit = walk(
        &ram.memory,
        &Cpu::USUAL.format(),
        TABLE,
        0x123,
        Access::Write,
    )
    .unwrap();
    assert_eq!((hit.gpa, hit.page_bytes), (TABLE + 0x123, 4096));
    assert_eq!(ram.read_u64(TABLE), TABLE | 0b110_0111);
}

#[test]
fn the_first_kernel_entry_ends_the_walk_and_nothing_is_set() {
    for level in 1..=4 {
        let ram = TestRam::new(&REGIONS);
        let mut steps = vec![PLAIN; 5];
        steps[level - 1].flips = 1 << 2;
        // Were the walk to go on, it would find a reserved bit below.
        for below in &mut steps[..level - 1] {
            below.flips = 1 << 51;
        }
        let watched = build(&ram, Cpu::USUAL, 0, &steps);
        let before: Vec<u64> = watched.iter().map(|&at| ram.read_u64(at)).collect();
        let result = walk(
            &ram.memory,
            &Cpu::USUAL.format(),
            TABLE * 4,
            0,
            Access::Read,
        );
        assert_eq!(result, Err(Status::Stage1Permission));
        let after: Vec<u64> = watched.iter().map(|&at| ram.read_u64(at)).collect();
        assert_eq!(before, after);
    }
}

#[test]
fn tables_count_as_written_in_stage_2() {
    let ram = TestRam::new(&REGIONS);
    build(&ram, Cpu::USUAL, 0, &vec![PLAIN; 5]);
    ram.memory
        .stage2()
        .protect(0, 8 * MIB, crate::stage2::Perms::ALL)
        .unwrap();
    // One large leaf holds tables and page; split it to tell them apart.
    for gpa in [TABLE, 0x70_0000] {
        ram.memory
            .stage2()
            .protect(gpa, 4096, crate::stage2::Perms::READ)
            .unwrap();
        ram.memory
            .stage2()
            .protect(gpa, 4096, crate::stage2::Perms::ALL)
            .unwrap();
    }
    walk(
        &ram.memory,
        &Cpu::USUAL.format(),
        TABLE * 4,
        0,
        Access::Read,
    )
    .unwrap();
    let dirty = |gpa| {
        let path = ram.memory.stage2().path(gpa);
        let (_, leaf) = path.last().unwrap();
        leaf.load(std::sync::atomic::Ordering::Relaxed) >> 9 & 1
    };
    assert_eq!((dirty(TABLE), dirty(0x70_0000)), (1, 0));
}

#[test]
fn a_format_that_no_cpu_has_is_refused() {
    assert!(Format::new(3, 46, true, true, false).is_none());
    assert!(Format::new(6, 46, true, true, false).is_none());
    assert!(Format::new(4, 31, true, true, false).is_none());
    assert!(Format::new(4, 53, true, true, false).is_none());
}

/// The guest's CPU changes an ignored bit of a leaf with locked instructions while the
/// engine sets A and D: none of its changes may be lost.
#[test]
fn no_change_that_the_guest_makes_to_an_entry_is_lost() {
    use std::sync::atomic::{AtomicBool, Ordering};
    const IGNORED: u64 = 1 << 9;
    let ram = TestRam::new(&REGIONS);
    build(&ram, Cpu::USUAL, 0, &vec![PLAIN; 5]);
    /// Lets the other thread stop, also when an assertion fails.
    struct StopOnDrop<'a>(&'a AtomicBool);
    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    let (mut hits, mut lost_races) = (0, 0);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            let span = ram.memory.contiguous(TABLE, 8).unwrap();
            let (mut set, mut rounds) = (false, 0);
            while rounds < 200_000 || !stop.load(Ordering::Relaxed) {
                rounds += 1;
                let old = span.load_u64(0);
                assert_eq!(old & IGNORED != 0, set, "a change was lost");
                // Also clears A and D, so that there is something to set.
                if span
                    .cmpxchg_u64(0, old, (old ^ IGNORED) & !(3 << 5))
                    .is_ok()
                {
                    set = !set;
                }
            }
        });
        for _ in 0..200_000 {
            match walk(
                &ram.memory,
                &Cpu::USUAL.format(),
                TABLE * 4,
                0,
                Access::Write,
            ) {
                Ok(_) => hits += 1,
                Err(Status::Stage1NotPresent) => lost_races += 1,
                Err(other) => panic!("{other}"),
            }
        }
    });
    assert!(hits > 0, "{hits} hits, {lost_races} given up");
}
