//! CREATE_DELTA and APPLY_DELTA.

use super::*;
use byway_protocols::operands::{
    ApplyDeltaFields, CreateDeltaFields, DELTA_BYTES_MAX, DeltaEntry, delta_result,
};
use proptest::prelude::*;

const BYTES: u64 = 16 * PAGE;
const OTHER: u64 = VA + BYTES;
const RECORD: u64 = OTHER + BYTES;
/// Room for a difference in each word.
const ROOM: u32 = BYTES as u32 / 8 * 10;
const RECORD_PAGES: u64 = 20;

fn create(size: u64, room: u32) -> Descriptor {
    let fields = CreateDeltaFields {
        delta: RECORD,
        delta_bytes_max: room,
        ..CreateDeltaFields::default()
    };
    Descriptor {
        src: VA,
        dst: OTHER,
        size: size as u32,
        ..descriptor(Opcode::CreateDelta, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

fn apply(size: u64, delta_bytes: u32) -> Descriptor {
    let fields = ApplyDeltaFields {
        delta_bytes,
        ..ApplyDeltaFields::default()
    };
    Descriptor {
        src: RECORD,
        dst: VA,
        size: size as u32,
        ..descriptor(Opcode::ApplyDelta, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

fn rig(a: &[u8], b: &[u8]) -> Rig {
    let rig = Rig::new();
    rig.alice.map_scattered(VA, 2 * BYTES + RECORD_PAGES * PAGE);
    rig.alice.write(VA, a);
    rig.alice.write(OTHER, b);
    rig
}

fn naive(a: &[u8], b: &[u8]) -> Vec<DeltaEntry> {
    let words = a.chunks(8).zip(b.chunks(8)).enumerate();
    words
        .filter(|(_, (x, y))| x != y)
        .map(|(i, (_, y))| DeltaEntry {
            word: i as u16,
            data: y.try_into().unwrap(),
        })
        .collect()
}

fn write_record(rig: &Rig, entries: &[DeltaEntry]) {
    let bytes: Vec<u8> = entries.iter().flat_map(DeltaEntry::to_bytes).collect();
    rig.alice.write(RECORD, &bytes);
}

fn changes() -> impl Strategy<Value = Vec<(u64, u8)>> {
    let few = proptest::collection::vec((0..BYTES, 1..=255_u8), 0..20);
    let many = proptest::collection::vec((0..BYTES, 1..=255_u8), 4000..6000);
    prop_oneof![few, many]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_record_makes_one_out_of_the_other(
        changes in changes(),
        words in 1..=BYTES / 8,
        room in prop_oneof![Just(ROOM / 10), 1..200_u32],
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let size = words * 8;
        let a = noise(BYTES as usize, 1);
        let mut b = a.clone();
        for &(at, change) in &changes {
            b[at as usize] ^= change;
        }
        let mut rig = rig(&a, &b);
        rig.chunk_bytes = chunk;
        let want = naive(&a[..size as usize], &b[..size as usize]);
        let fits = want.len() <= room as usize;
        let kept = &want[..want.len().min(room as usize)];
        let (result, done) = match (want.is_empty(), fits) {
            (true, _) => (delta_result::EQUAL, size as u32),
            (_, true) => (delta_result::RECORDED, size as u32),
            (_, false) => (delta_result::FULL, u32::from(want[room as usize].word) * 8),
        };
        let c = rig.complete(&create(size, room * 10));
        prop_assert_eq!(short_form(&c), (Status::Success, false, done));
        prop_assert_eq!((c.result, c.op0), (result, kept.len() as u64 * 10));
        let bytes: Vec<u8> = kept.iter().flat_map(DeltaEntry::to_bytes).collect();
        prop_assert!(rig.alice.read(RECORD, c.op0) == bytes);
        let behind = RECORD_PAGES * PAGE - c.op0;
        prop_assert!(rig.alice.read(RECORD + c.op0, behind).iter().all(|&b| b == 0));
        if c.op0 != 0 {
            let applied = rig.complete(&apply(size, c.op0 as u32));
            prop_assert_eq!(short_form(&applied), (Status::Success, false, c.op0 as u32));
            prop_assert!(rig.alice.read(VA, done.into()) == b[..done as usize]);
            prop_assert!(rig.alice.read(VA + u64::from(done), BYTES - u64::from(done)) == a[done as usize..]);
        }
    }

    #[test]
    fn faults_leave_a_record_of_what_was_done(
        changes in changes(),
        hole in 0..2 * 16 + RECORD_PAGES,
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let a = noise(BYTES as usize, 1);
        let mut b = a.clone();
        for &(at, change) in &changes {
            b[at as usize] ^= change;
        }
        let mut rig = rig(&a, &b);
        rig.chunk_bytes = chunk;
        let hole = VA + hole * PAGE;
        rig.alice.change_entry(hole, |entry| entry & !pte::P);
        let c = rig.complete(&create(BYTES, ROOM));
        rig.alice.change_entry(hole, |entry| entry | pte::P);
        let done = u64::from(c.bytes_completed);
        let want = naive(&a[..done as usize], &b[..done as usize]);
        let bytes: Vec<u8> = want.iter().flat_map(DeltaEntry::to_bytes).collect();
        prop_assert_eq!(c.op0, bytes.len() as u64);
        prop_assert!(rig.alice.read(RECORD, c.op0) == bytes);
        if c.status() == Some(Status::Success) {
            prop_assert!(hole >= RECORD && done == BYTES);
            return Ok(());
        }
        prop_assert_eq!(c.status(), Some(Status::Stage1NotPresent));
        prop_assert!((hole..hole + PAGE).contains(&c.fault_addr));
        // The rest, with a record of its own.
        let rest = Descriptor {
            src: VA + done,
            dst: OTHER + done,
            size: (BYTES - done) as u32,
            ..create(BYTES, ROOM)
        };
        let c = rig.complete(&rest);
        let want = naive(&a[done as usize..], &b[done as usize..]);
        prop_assert_eq!(c.op0, want.len() as u64 * 10);
    }

    #[test]
    fn applying_goes_on_after_a_fault(
        words in proptest::collection::btree_set(0..BYTES / 8, 1..2000),
        holes in proptest::collection::hash_set(0..16_u64, 0..4),
        record_hole in 0..2_u64,
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let a = noise(BYTES as usize, 1);
        let mut rig = rig(&a, &a);
        rig.chunk_bytes = chunk;
        let mut want = a;
        let entries: Vec<DeltaEntry> = words
            .iter()
            .map(|&word| DeltaEntry { word: word as u16, data: word.to_le_bytes().map(|b| !b) })
            .collect();
        for entry in &entries {
            want[usize::from(entry.word) * 8..][..8].copy_from_slice(&entry.data);
        }
        write_record(&rig, &entries);
        let mut holes: Vec<u64> = holes.into_iter().map(|page| VA + page * PAGE).collect();
        holes.push(RECORD + record_hole * PAGE);
        let first = apply(BYTES, entries.len() as u32 * 10);
        let c = resume_over_holes(&mut rig, &holes, first, |d, c| Descriptor {
            src: d.src + u64::from(c.bytes_completed),
            op0: d.op0 - u64::from(c.bytes_completed),
            ..*d
        });
        prop_assert!(c.status().is_some_and(Status::is_success));
        for &hole in &holes {
            rig.alice.change_entry(hole, |entry| entry | pte::P);
        }
        prop_assert!(rig.alice.read(VA, BYTES) == want);
    }
}

#[test]
fn hostile_records_end_where_they_go_wrong() {
    let a = noise(BYTES as usize, 1);
    let entry = |word, byte| DeltaEntry {
        word,
        data: [byte; 8],
    };
    for (words, size, status, applied) in [
        ([1, 2, 2], BYTES, Status::DeltaOrder, 2),
        ([1, 0, 2], BYTES, Status::DeltaOrder, 1),
        ([0, 1, 3], 24, Status::DeltaRange, 2),
        ([u16::MAX, 1, 2], BYTES, Status::DeltaRange, 0),
    ] {
        let mut rig = rig(&a, &a);
        write_record(&rig, &words.map(|word| entry(word, 0xee)));
        let c = rig.complete(&apply(size, 30));
        assert_eq!(short_form(&c), (status, false, applied * 10));
        let mut want = a.clone();
        for &word in &words[..applied as usize] {
            want[usize::from(word) * 8..][..8].fill(0xee);
        }
        assert!(rig.alice.read(VA, BYTES) == want, "{words:?}");
    }
}

#[test]
fn the_largest_record_reaches_the_last_word() {
    let mut rig = Rig::with_ram(8 << 20);
    let size = u64::from(DELTA_BYTES_MAX);
    rig.alice.map(VA, 2 * size, PageSize::Small);
    let record = VA + 2 * size;
    rig.alice.map(record, size / 8 * 10, PageSize::Small);
    rig.alice.write(VA + size, &noise(size as usize, 3));
    let fields = CreateDeltaFields {
        delta: record,
        delta_bytes_max: DELTA_BYTES_MAX / 8 * 10,
        ..CreateDeltaFields::default()
    };
    let d = Descriptor {
        src: VA,
        dst: VA + size,
        ..create(size, ROOM).with_operands(fields.to_bytes())
    };
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::Success, false, DELTA_BYTES_MAX));
    assert_eq!((c.result, c.op0), (delta_result::RECORDED, size / 8 * 10));
    let d = Descriptor {
        src: record,
        ..apply(size, c.op0 as u32)
    };
    assert_eq!(rig.complete(&d).status(), Some(Status::Success));
    assert!(rig.alice.read(VA, size) == noise(size as usize, 3));
}

#[test]
fn a_record_must_not_lie_in_what_it_is_about() {
    let mut rig = rig(&[1; 64], &[2; 64]);
    for delta in [VA + 56, OTHER + 56, VA, OTHER] {
        let fields = CreateDeltaFields {
            delta,
            delta_bytes_max: 10,
            ..CreateDeltaFields::default()
        };
        let c = rig.complete(&create(64, 10).with_operands(fields.to_bytes()));
        assert_eq!(short_form(&c), (Status::Overlap, false, 0));
    }
    let inside = Descriptor {
        src: VA + 8,
        ..apply(64, 10)
    };
    let c = rig.complete(&inside);
    assert_eq!(short_form(&c), (Status::Overlap, false, 0));
}
