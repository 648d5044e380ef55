//! CRC_GEN, COPY_CRC, CRC64 and DUALCAST.

use super::*;
use byway_protocols::Rights;
use byway_protocols::operands::{CrcFields, DualcastFields};
use proptest::prelude::*;

const PAGES: u64 = 40;
const ARENA: u64 = PAGES * PAGE;
/// Where destinations lie.
const DST: u64 = VA + ARENA;
const SECOND: u64 = DST + ARENA;

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| {
            (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg())
        })
    })
}

fn crc64(bytes: &[u8]) -> u64 {
    !bytes.iter().fold(!0_u64, |crc, &byte| {
        (0..8).fold(crc ^ u64::from(byte), |c, _| {
            (c >> 1) ^ (0x9a6c_9329_ac4b_c9b5 & (c & 1).wrapping_neg())
        })
    })
}

fn rig() -> (Rig, Vec<u8>) {
    let rig = Rig::with_ram(4 << 20);
    rig.alice.map_scattered(VA, 3 * ARENA);
    let bytes = noise(ARENA as usize, 1);
    rig.alice.write(VA, &bytes);
    (rig, bytes)
}

fn on(opcode: Opcode, src: u64, size: u64, seed: u64) -> Descriptor {
    let copies = matches!(opcode, Opcode::CopyCrc | Opcode::Dualcast);
    Descriptor {
        src: VA + src,
        dst: if copies { DST + src } else { 0 },
        size: size as u32,
        op0: seed,
        ..descriptor(opcode, 0, 0)
    }
}

#[test]
fn check_values_of_the_standards() {
    let (mut rig, _) = rig();
    rig.alice.write(VA + 3, b"123456789");
    for (opcode, value) in [
        (Opcode::CrcGen, 0xe306_9283),
        (Opcode::CopyCrc, 0xe306_9283),
        (Opcode::Crc64, 0xae8b_1486_0a79_9888),
    ] {
        let c = rig.complete(&on(opcode, 3, 9, 0));
        assert_eq!(short_form(&c), (Status::Success, false, 9));
        assert_eq!((c.op0, c.op1, c.result), (value, 0, 0), "{opcode:?}");
    }
    // RFC 3720, appendix B.4.
    let ascending: Vec<u8> = (0..32).collect();
    for (bytes, value) in [
        (vec![0; 32], 0x8a91_36aa),
        (vec![0xff; 32], 0x62a8_ab43),
        (ascending.clone(), 0x46dd_794e),
        (ascending.into_iter().rev().collect(), 0x113f_db5c),
        // "An iSCSI - SCSI Read (10) Command PDU".
        (
            [
                [0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                [0x14, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18],
                [0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat(),
            0xd996_3a56,
        ),
    ] {
        rig.alice.write(VA, &bytes);
        let sum = on(Opcode::CrcGen, 0, bytes.len() as u64, 0);
        assert_eq!(rig.complete(&sum).op0, value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn sums_are_right_in_one_descriptor_or_in_two(
        size in prop_oneof![1..300_u64, 1..ARENA],
        start in 0..ARENA,
        cut in 0..ARENA,
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let (mut rig, bytes) = rig();
        rig.chunk_bytes = chunk;
        let start = start.min(ARENA - size);
        let part = &bytes[start as usize..(start + size) as usize];
        let cut = cut % size;
        for (opcode, want) in [
            (Opcode::CrcGen, u64::from(crc32c(part))),
            (Opcode::CopyCrc, u64::from(crc32c(part))),
            (Opcode::Crc64, crc64(part)),
        ] {
            let mut seed = 0;
            for (from, len) in [(start, cut), (start + cut, size - cut)] {
                if len != 0 {
                    let c = rig.complete(&on(opcode, from, len, seed));
                    prop_assert_eq!(short_form(&c), (Status::Success, false, len as u32));
                    seed = c.op0;
                }
            }
            prop_assert_eq!(seed, want);
        }
        prop_assert_eq!(&rig.alice.read(DST + start, size)[..], part);
        prop_assert!(rig.alice.read(DST, start).iter().all(|&b| b == 0));
    }

    #[test]
    fn the_rest_after_a_fault_comes_to_the_same(
        size in 1..ARENA,
        start in 0..ARENA,
        holes in proptest::collection::hash_set(0..2 * PAGES, 0..4),
    ) {
        let start = start.min(ARENA - size);
        let holes: Vec<u64> = holes.into_iter().map(|page| VA + page * PAGE).collect();
        for opcode in [Opcode::CrcGen, Opcode::CopyCrc, Opcode::Crc64] {
            let (mut rig, bytes) = rig();
            let part = &bytes[start as usize..(start + size) as usize];
            let first = on(opcode, start, size, 0);
            let c = resume_over_holes(&mut rig, &holes, first, |d, c| Descriptor {
                src: d.src + u64::from(c.bytes_completed),
                dst: if d.dst == 0 { 0 } else { d.dst + u64::from(c.bytes_completed) },
                size: d.size - c.bytes_completed,
                op0: c.op0,
                ..*d
            });
            let want = if opcode == Opcode::Crc64 { crc64(part) } else { crc32c(part).into() };
            prop_assert_eq!(c.op0, want, "{:?}", opcode);
            for &hole in &holes {
                rig.alice.change_entry(hole, |entry| entry | pte::P);
            }
            if opcode == Opcode::CopyCrc {
                prop_assert_eq!(&rig.alice.read(DST + start, size)[..], part);
            }
        }
    }

    #[test]
    fn dualcasts_reach_both(
        size in prop_oneof![1..300_u64, 1..ARENA],
        holes in proptest::collection::hash_set(0..3 * PAGES, 0..4),
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let (mut rig, bytes) = rig();
        rig.chunk_bytes = chunk;
        let holes: Vec<u64> = holes.into_iter().map(|page| VA + page * PAGE).collect();
        let c = resume_over_holes(&mut rig, &holes, dualcast(size), |d, c| {
            let done = u64::from(c.bytes_completed);
            Descriptor {
                src: d.src + done,
                dst: d.dst + done,
                op0: d.op0 + done,
                size: d.size - done as u32,
                ..*d
            }
        });
        prop_assert!(c.status().is_some_and(Status::is_success));
        for &hole in &holes {
            rig.alice.change_entry(hole, |entry| entry | pte::P);
        }
        let part = &bytes[..size as usize];
        prop_assert_eq!(&rig.alice.read(DST, size)[..], part);
        prop_assert_eq!(&rig.alice.read(SECOND, size)[..], part);
        prop_assert!(rig.alice.read(SECOND + size, ARENA - size).iter().all(|&b| b == 0));
    }
}

fn dualcast(size: u64) -> Descriptor {
    let fields = DualcastFields {
        second: SECOND,
        ..DualcastFields::default()
    };
    on(Opcode::Dualcast, 0, size, 0).with_operands(fields.to_bytes())
}

#[test]
fn a_sum_is_that_of_the_bytes_written_while_the_source_changes() {
    let (mut rig, bytes) = rig();
    rig.chunk_bytes = PAGE;
    let size = ARENA / 2;
    // Between chunks everything that was not read yet changes.
    let outcome = rig.run_with(&on(Opcode::CopyCrc, 0, size, 0), |rig, chunk| {
        let inverted: Vec<u8> = bytes.iter().map(|b| b ^ chunk as u8).collect();
        rig.alice.write(VA, &inverted);
    });
    assert!(rig.chunks > 3);
    let written = rig.alice.read(DST, size);
    assert!(written != bytes[..size as usize]);
    assert_eq!(outcome.completion.op0, u64::from(crc32c(&written)));
}

#[test]
fn operands_that_overlap_are_refused_and_move_nothing() {
    let (mut rig, bytes) = rig();
    let copy = |src: u64, dst: u64| Descriptor {
        src: VA + src,
        dst: VA + dst,
        size: 100,
        ..descriptor(Opcode::CopyCrc, 0, 0)
    };
    for (src, dst) in [(0, 0), (0, 99), (99, 0)] {
        let c = rig.complete(&copy(src, dst));
        assert_eq!(short_form(&c), (Status::Overlap, false, 0));
    }
    let c = rig.complete(&copy(0, 100));
    assert_eq!(short_form(&c), (Status::Success, false, 100));
    rig.alice.write(VA, &bytes);
    for (dst, second) in [
        (VA, SECOND),
        (DST, VA),
        (DST, DST),
        (DST, DST + PAGE),
        (SECOND, SECOND - PAGE),
    ] {
        let d = Descriptor {
            dst,
            op0: second,
            ..dualcast(PAGE + 1)
        };
        let c = rig.complete(&d);
        assert_eq!(short_form(&c), (Status::Overlap, false, 0), "{dst:#x}");
    }
    assert!(rig.alice.read(VA, ARENA) == bytes);
}

#[test]
fn third_operands_have_slots_and_rights_of_their_own() {
    let (mut rig, bytes) = rig();
    rig.bob.map(VA, 2 * PAGE, PageSize::Small);
    let write = rig.bob.give(&rig.alice, VA, PAGE, Rights::WRITE);
    let read = rig.bob.give(&rig.alice, VA, PAGE, Rights::READ);
    for (slot, offset, status) in [
        (write, 0, Status::Success),
        (read, 0, Status::MissingRight),
        (write, PAGE, Status::Bounds),
        (9, 0, Status::NoCapability),
    ] {
        let fields = DualcastFields {
            second: offset,
            second_slot: slot,
            ..DualcastFields::default()
        };
        let c = rig.complete(&dualcast(64).with_operands(fields.to_bytes()));
        assert_eq!(c.status(), Some(status), "{slot} {offset}");
    }
    assert_eq!(rig.bob.read(VA, 64), bytes[..64]);
    // A seed goes in where the structure has it.
    let fields = CrcFields {
        seed: 7,
        ..CrcFields::default()
    };
    assert_eq!(
        Descriptor::default().with_operands(fields.to_bytes()).op0,
        7
    );
}

/// A page of 2 MiB, and nothing behind it.
const LARGE: u64 = VA + (1 << 30);
const LARGE_BYTES: u64 = 2 << 20;

#[test]
fn within_a_page_the_short_way_ends_as_the_long_one_does() {
    let mut rig = Rig::with_ram(8 << 20);
    rig.alice.map(LARGE, LARGE_BYTES, PageSize::Large);
    let bytes = noise(LARGE_BYTES as usize, 2);
    rig.alice.write(LARGE, &bytes);
    let pattern = u64::from_ne_bytes([bytes[0]; 8]);
    let all = [
        Opcode::CrcGen,
        Opcode::Crc64,
        Opcode::Memmove,
        Opcode::Fill,
        Opcode::Compare,
        Opcode::CompareValue,
    ];
    for (opcode, chunk_bytes) in all
        .into_iter()
        .flat_map(|opcode| [CHUNK_BYTES, 16 << 10].map(|bytes| (opcode, bytes)))
    {
        rig.chunk_bytes = chunk_bytes;
        for size in [
            1, 64, 1000, 1024, 4096, 4097, 65_535, 65_536, 65_537, 100_000,
        ] {
            for at in [0, 1, 63, 4000, LARGE_BYTES - size, LARGE_BYTES - size + 1] {
                let (src, dst, op0) = match opcode {
                    // Behind it, over it, before it.
                    Opcode::Memmove => (LARGE + at, LARGE + at / 2 + 30_000, 0),
                    Opcode::Fill => (pattern, LARGE + at, 0),
                    // What is the same all along, and what differs at once.
                    Opcode::Compare => (LARGE + at, LARGE + at / 63 * 63, 0),
                    Opcode::CompareValue => (LARGE + at, pattern, 0),
                    _ => (LARGE + at, 0, 0x1234_5678),
                };
                let d = Descriptor {
                    src,
                    dst,
                    size: size as u32,
                    op0,
                    ..descriptor(opcode, 0, 0)
                };
                let mut both = [false, true].map(|short| {
                    rig.short = short;
                    rig.alice.write(LARGE, &bytes);
                    let ended = rig.run(&d);
                    let chunks = rig.chunks;
                    (ended, chunks, rig.alice.read(LARGE, LARGE_BYTES))
                });
                let what = format!("{opcode:?} of {size} at {at}, {chunk_bytes} a chunk");
                let is_long = size >= chunk_bytes + PAGE || at + size > LARGE_BYTES;
                assert!(is_long || both[1].1 == 1, "{what}");
                // Through the short way or not, it is cut at the same places.
                assert_eq!(both[0].1, both[1].1, "{what}");
                assert!(both[0].2 == both[1].2, "{what}");
                both[0].2.clear();
                both[1].2.clear();
                assert_eq!(both[0], both[1], "{what}");
            }
        }
    }
}
