//! XOR and COPY_SG.

use super::*;
use byway_protocols::Rights;
use byway_protocols::operands::{CopySgFields, Segment, XorFields};
use proptest::prelude::*;

use crate::ops::budget::OPERATION_COST;

const PAGES: u64 = 48;
const ARENA: u64 = PAGES * PAGE;
/// Where lists lie: beyond the arena, in pages that always are good.
const LISTS: u64 = VA + ARENA;
const SECOND_LIST: u64 = LISTS + 4 * PAGE;

fn rig() -> (Rig, Vec<u8>) {
    let rig = Rig::new();
    rig.alice.map_scattered(VA, ARENA + 8 * PAGE);
    let bytes = noise(ARENA as usize, 5);
    rig.alice.write(VA, &bytes);
    (rig, bytes)
}

fn segment(slot: u16, addr: u64, bytes: u32) -> Segment {
    Segment {
        addr,
        bytes,
        slot,
        ..Segment::default()
    }
}

fn write_list(rig: &Rig, at: u64, list: &[Segment]) {
    let bytes: Vec<u8> = list.iter().flat_map(Segment::to_bytes).collect();
    rig.alice.write(at, &bytes);
}

fn xor(count: usize, dst: u64, size: u64) -> Descriptor {
    let fields = XorFields {
        count: count as u16,
        ..XorFields::default()
    };
    Descriptor {
        src: LISTS,
        dst,
        size: size as u32,
        ..descriptor(Opcode::Xor, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

fn lists(src_count: usize, dst_count: usize, size: u64) -> Descriptor {
    let fields = CopySgFields {
        src_count: src_count as u16,
        dst_count: dst_count as u16,
        ..CopySgFields::default()
    };
    Descriptor {
        src: if src_count == 0 { VA } else { LISTS },
        dst: if dst_count == 0 {
            VA + ARENA / 2
        } else {
            SECOND_LIST
        },
        size: size as u32,
        ..descriptor(Opcode::CopySg, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

/// Cuts a range into segments in any order of addresses, the cuts given.
fn cut(start: u64, bytes: u64, cuts: &[u64], turn: bool) -> Vec<Segment> {
    let mut edges: Vec<u64> = cuts.iter().map(|cut| cut % bytes).collect();
    edges.extend([0, bytes]);
    edges.sort_unstable();
    edges.dedup();
    let mut list: Vec<Segment> = edges
        .windows(2)
        .map(|edge| segment(0, start + edge[0], (edge[1] - edge[0]) as u32))
        .collect();
    if turn {
        list.reverse();
    }
    list
}

/// The addresses of a list's bytes, one after the other.
fn addresses(list: &[Segment]) -> impl Iterator<Item = usize> {
    list.iter()
        .flat_map(|s| s.addr..s.addr + u64::from(s.bytes))
        .map(|addr| (addr - VA) as usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn sums_are_those_of_all_sources(
        sources in proptest::collection::vec(0..ARENA / 2, 2..=16),
        size in prop_oneof![1..300_u64, 1..ARENA / 2],
        in_place: bool,
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let (mut rig, mut bytes) = rig();
        rig.chunk_bytes = chunk;
        let mut sources: Vec<u64> = sources.iter().map(|s| s % (ARENA / 2 - size + 1)).collect();
        let dst = ARENA / 2;
        if in_place {
            sources[1] = dst;
        }
        let list: Vec<Segment> = sources.iter().map(|s| segment(0, VA + s, 0)).collect();
        write_list(&rig, LISTS, &list);
        let c = rig.complete(&xor(list.len(), VA + dst, size));
        prop_assert_eq!(short_form(&c), (Status::Success, false, size as u32));
        let sum: Vec<u8> = (0..size)
            .map(|i| sources.iter().fold(0, |sum, s| sum ^ bytes[(s + i) as usize]))
            .collect();
        bytes[dst as usize..(dst + size) as usize].copy_from_slice(&sum);
        prop_assert!(rig.alice.read(VA, ARENA) == bytes);
    }

    #[test]
    fn sums_go_on_after_a_fault(
        size in 1..ARENA / 4,
        holes in proptest::collection::hash_set(0..PAGES, 0..4),
    ) {
        let (mut rig, mut bytes) = rig();
        let list = [0, ARENA / 4 + 1, ARENA / 2 + 2].map(|at| segment(0, VA + at, 0));
        // A list for each turn: what is done is in each source's address.
        write_list(&rig, LISTS, &list);
        let dst = 3 * ARENA / 4;
        let size = size - size.min(3) + 1;
        let holes: Vec<u64> = holes.into_iter().map(|page| VA + page * PAGE).collect();
        for &hole in &holes {
            rig.alice.change_entry(hole, |entry| entry & !pte::P);
        }
        let mut done = 0;
        while done < size {
            let rest = list.map(|s| segment(0, s.addr + done, 0));
            write_list(&rig, LISTS, &rest);
            let c = rig.complete(&xor(3, VA + dst + done, size - done));
            done += u64::from(c.bytes_completed);
            if c.status() != Some(Status::Success) {
                prop_assert_eq!(c.status(), Some(Status::Stage1NotPresent));
                rig.alice.change_entry(c.fault_addr, |entry| entry | pte::P);
            }
        }
        for &hole in &holes {
            rig.alice.change_entry(hole, |entry| entry | pte::P);
        }
        for i in 0..size as usize {
            let sum = list.iter().fold(0, |sum, s| sum ^ bytes[(s.addr - VA) as usize + i]);
            bytes[dst as usize + i] = sum;
        }
        prop_assert!(rig.alice.read(VA, ARENA) == bytes);
    }

    #[test]
    fn lists_are_copied_whatever_their_cuts(
        size in prop_oneof![1..300_u64, 1..ARENA / 2],
        cuts in proptest::collection::vec(any::<u64>(), 0..20),
        other_cuts in proptest::collection::vec(any::<u64>(), 0..20),
        turns: [bool; 2],
        sides in 0..3,
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
        holes in proptest::collection::hash_set(0..PAGES, 0..3),
    ) {
        let (mut rig, mut bytes) = rig();
        rig.chunk_bytes = chunk;
        let src = cut(VA, size, &cuts, turns[0] && sides != 1);
        let dst = cut(VA + ARENA / 2, size, &other_cuts, turns[1] && sides != 0);
        write_list(&rig, LISTS, &src);
        write_list(&rig, SECOND_LIST, &dst);
        let (from, to) = (if sides == 1 { 0 } else { src.len() }, if sides == 0 { 0 } else { dst.len() });
        let c = rig.complete(&lists(from, to, size));
        prop_assert_eq!(short_form(&c), (Status::Success, false, size as u32));
        prop_assert_eq!(c.op0, from as u64 | (to as u64) << 32);
        let before = bytes.clone();
        for (from, to) in addresses(&src).zip(addresses(&dst)) {
            bytes[to] = before[from];
        }
        prop_assert!(rig.alice.read(VA, ARENA) == bytes);

        // With holes it stops at the very byte.
        rig.alice.write(VA, &before);
        for hole in &holes {
            rig.alice.change_entry(VA + hole * PAGE, |entry| entry & !pte::P);
        }
        let c = rig.complete(&lists(from, to, size));
        for hole in &holes {
            rig.alice.change_entry(VA + hole * PAGE, |entry| entry | pte::P);
        }
        let missing = |at: usize| holes.contains(&(at as u64 / PAGE));
        let good = addresses(&src).zip(addresses(&dst)).take_while(|&(a, b)| !missing(a) && !missing(b));
        let done = good.count();
        prop_assert_eq!(c.bytes_completed as usize, done);
        let mut want = before.clone();
        for (from, to) in addresses(&src).zip(addresses(&dst)).take(done) {
            want[to] = before[from];
        }
        prop_assert!(rig.alice.read(VA, ARENA) == want);
    }

    #[test]
    fn rows_lie_at_their_strides(
        row in prop_oneof![1..40_u64, 1..2 * PAGE],
        rows in 1..24_u64,
        slack in [0..3 * PAGE, 0..100_u64],
        broadcast: bool,
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
        hole in proptest::option::of(0..PAGES),
    ) {
        let (mut rig, mut bytes) = rig();
        rig.chunk_bytes = chunk;
        let strides = [if broadcast { 0 } else { row + slack[0] }, row + slack[1]];
        let half = ARENA / 2;
        let rows = rows.min((half - row) / strides[0].max(strides[1]) + 1);
        let fields = CopySgFields {
            row_bytes: row as u32,
            src_stride: strides[0],
            dst_stride: strides[1],
            ..CopySgFields::default()
        };
        let d = lists(0, 0, row * rows).with_operands(fields.to_bytes());
        if let Some(hole) = hole {
            rig.alice.change_entry(VA + hole * PAGE, |entry| entry & !pte::P);
        }
        let c = rig.complete(&d);
        let mut done = 0;
        'all: for i in 0..rows {
            for j in 0..row {
                let (from, to) = (i * strides[0] + j, half + i * strides[1] + j);
                if hole.is_some_and(|hole| from / PAGE == hole || to / PAGE == hole) {
                    break 'all;
                }
                bytes[to as usize] = bytes[from as usize];
                done += 1;
            }
        }
        let status = if done == row * rows { Status::Success } else { Status::Stage1NotPresent };
        prop_assert_eq!((c.status(), c.bytes_completed), (Some(status), done as u32));
        if let Some(hole) = hole {
            rig.alice.change_entry(VA + hole * PAGE, |entry| entry | pte::P);
        }
        prop_assert!(rig.alice.read(VA, ARENA) == bytes);
    }
}

/// Pages of 2 MiB, and how much of them is used.
const LARGE: u64 = VA + (1 << 30);
const LARGE_BYTES: u64 = 4 << 20;

#[test]
fn rows_of_large_pages_are_found_and_take_as_many_chunks_as_other_copies() {
    let mut rig = Rig::with_ram(12 << 20);
    // Not in their order.
    let (first, second) = (LARGE_BYTES / 2, LARGE_BYTES / 2);
    rig.alice.map(LARGE + first, second, PageSize::Large);
    rig.alice.map(LARGE, first, PageSize::Large);
    let bytes = noise(LARGE_BYTES as usize, 7);
    let mut at_once = 0;
    for (row, rows, strides, from) in [
        // In one page; across the end of one; longer than a chunk; so short that what a row costs beside its bytes counts.
        (4096, 40, [4352, 4096], 100),
        (4096, 40, [4352, 5000], first - 30_000),
        (70_000, 3, [100_000, 80_000], first - 150_000),
        (64, 2000, [64, 100], 0),
        (1, 500, [5000, 1], 3),
        // In one go; and no more bytes than a chunk has, but far more rows.
        (1000, 40, [1000, 1100], 0),
        (1, 20_000, [1, 2], 5),
        (1000, 90, [0, 1000], first - 500),
    ] {
        let fields = CopySgFields {
            row_bytes: row as u32,
            src_stride: strides[0],
            dst_stride: strides[1],
            ..CopySgFields::default()
        };
        let to = first + 1_000_001;
        let d = Descriptor {
            src: LARGE + from,
            dst: LARGE + to,
            size: (row * rows) as u32,
            ..descriptor(Opcode::CopySg, 0, 0)
        }
        .with_operands(fields.to_bytes());
        let mut want = bytes.clone();
        for i in 0..rows {
            let (from, to) = (from + i * strides[0], to + i * strides[1]);
            let row = row as usize;
            want[to as usize..][..row].copy_from_slice(&bytes[from as usize..][..row]);
        }
        rig.alice.write(LARGE, &bytes);
        let c = rig.complete(&d);
        assert_eq!(
            short_form(&c),
            (Status::Success, false, (row * rows) as u32)
        );
        assert!(rig.alice.read(LARGE, LARGE_BYTES) == want, "{row} x {rows}");
        // What is left of a chunk is used up, but for a page.
        let cost = (row + 64) * rows;
        if rig.spent != 0 {
            assert_eq!(rig.spent, OPERATION_COST + cost, "{row} x {rows}");
            at_once += 1;
        }
        let chunks = cost.div_ceil(CHUNK_BYTES + PAGE)..=cost.div_ceil(CHUNK_BYTES - PAGE);
        assert!(
            chunks.contains(&u64::from(rig.chunks)),
            "{row} x {rows}: {}",
            rig.chunks
        );
    }
    assert_eq!(at_once, 1);
}

#[test]
fn what_is_wrong_with_a_source_of_a_sum_is_said_before_a_byte_moves() {
    let (mut rig, bytes) = rig();
    rig.bob.map(VA, PAGE, PageSize::Small);
    let write = rig.bob.give(&rig.alice, VA, PAGE, Rights::WRITE);
    let read = rig.bob.give(&rig.alice, VA, PAGE, Rights::READ);
    let dst = VA + 100;
    for (second, status) in [
        (segment(0, VA + 300, 64), Status::ReservedNotZero),
        (segment(0x8000, VA, 0), Status::ReservedNotZero),
        (
            Segment {
                reserved14: 1,
                ..segment(0, VA, 0)
            },
            Status::ReservedNotZero,
        ),
        (segment(write, 0, 0), Status::MissingRight),
        (segment(read, PAGE - 63, 0), Status::Bounds),
        (segment(9, 0, 0), Status::NoCapability),
        (segment(0, u64::MAX - 3, 0), Status::Bounds),
        (segment(0, VA + 99, 0), Status::Overlap),
        (segment(0, VA + 101, 0), Status::Overlap),
        (segment(0, 0x1000, 0), Status::Stage1NotPresent),
    ] {
        write_list(&rig, LISTS, &[segment(0, VA, 0), second]);
        let c = rig.complete(&xor(2, dst, 64));
        assert_eq!(short_form(&c), (status, false, 0), "{second:?}");
    }
    assert!(rig.alice.read(VA, ARENA) == bytes);
    // A peer's memory can be summed up where it may be read.
    write_list(&rig, LISTS, &[segment(0, VA, 0), segment(read, 0, 0)]);
    rig.bob.write(VA, &bytes[..64]);
    let c = rig.complete(&xor(2, dst, 64));
    assert_eq!(short_form(&c), (Status::Success, false, 64));
    assert_eq!(rig.alice.read(dst, 64), [0; 64]);
}

#[test]
fn lists_that_are_wrong_end_where_they_are() {
    let (mut rig, _) = rig();
    let good = segment(0, VA, 10);
    for (list, count, status, done) in [
        (vec![good, good], 2, Status::BadCount, 20),
        (vec![good, segment(0, VA, 0)], 2, Status::BadSize, 10),
        (
            vec![good, segment(0x8001, VA, 1)],
            2,
            Status::ReservedNotZero,
            10,
        ),
        (
            vec![good, good, segment(3, 0, 5)],
            3,
            Status::NoCapability,
            20,
        ),
        // What is not needed is not looked at.
        (
            vec![segment(0, VA, 30), segment(0, 0, 0)],
            2,
            Status::Success,
            30,
        ),
    ] {
        write_list(&rig, LISTS, &list);
        let c = rig.complete(&lists(count, 0, 30));
        assert_eq!(short_form(&c), (status, false, done), "{list:?}");
    }
    // The list itself may be out of reach.
    let c = rig.complete(&Descriptor {
        src: 0x1000,
        ..lists(1, 0, 30)
    });
    assert_eq!(short_form(&c), (Status::Stage1NotPresent, false, 0));
    assert_eq!(c.fault_addr, 0x1000);
}

#[test]
fn a_segment_is_read_once_when_it_is_its_turn() {
    let (mut rig, bytes) = rig();
    rig.chunk_bytes = PAGE;
    write_list(
        &rig,
        LISTS,
        &[
            segment(0, VA, 3 * PAGE as u32),
            segment(0, VA + 8 * PAGE, PAGE as u32),
        ],
    );
    // The first is in hand by then, the second is not.
    let outcome = rig.run_with(&lists(2, 0, 4 * PAGE), |rig, chunk| {
        if chunk == 1 {
            let list = [segment(9, 0, 1), segment(0, VA + 10 * PAGE, PAGE as u32)];
            write_list(rig, LISTS, &list);
        }
    });
    assert_eq!(
        short_form(&outcome.completion),
        (Status::Success, false, 4 * PAGE as u32)
    );
    let page = PAGE as usize;
    let got = rig.alice.read(VA + ARENA / 2, 4 * PAGE);
    assert!(got[..3 * page] == bytes[..3 * page]);
    assert!(got[3 * page..] == bytes[10 * page..11 * page]);
}

#[test]
fn rows_stay_within_the_capability_and_do_not_wrap() {
    let (mut rig, _) = rig();
    rig.bob.map(VA, 2 * PAGE, PageSize::Small);
    let slot = rig.bob.give(&rig.alice, VA, 2 * PAGE, Rights::WRITE);
    let rows = |stride: u64, row: u32, size: u32| {
        let fields = CopySgFields {
            row_bytes: row,
            dst_stride: stride,
            ..CopySgFields::default()
        };
        Descriptor {
            word0: Word0::new(0, slot, true).0,
            src: VA,
            dst: 0,
            size,
            ..Descriptor::new(Opcode::CopySg, Flags::NONE)
        }
        .with_operands(fields.to_bytes())
    };
    for (d, status) in [
        (rows(PAGE, PAGE as u32, 2 * PAGE as u32), Status::Success),
        (rows(PAGE + 1, PAGE as u32, 2 * PAGE as u32), Status::Bounds),
        (rows(u64::MAX, 1, 2), Status::Bounds),
        (rows(u64::MAX, 1, 3), Status::Bounds),
        (rows(1 << 63, 8, 32), Status::Bounds),
    ] {
        let c = rig.complete(&d);
        assert_eq!(c.status(), Some(status), "{d:?}");
    }
}
