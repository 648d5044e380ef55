//! TRANSLATION_FETCH, CACHE_FLUSH, ATOMIC64 and SIGNAL.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use byway_protocols::Rights;
use byway_protocols::operands::{AtomicFields, atomic_kind, fetch_intent};

const PAGES: u64 = 300;

fn word(opcode: Opcode, dst: u64) -> Descriptor {
    Descriptor {
        dst,
        size: 8,
        ..descriptor(opcode, 0, 0)
    }
}

fn atomic(kind: u8, dst: u64, operand: u64, compare: u64) -> Descriptor {
    let fields = AtomicFields {
        operand,
        compare,
        kind,
        ..AtomicFields::default()
    };
    word(Opcode::Atomic64, dst).with_operands(fields.to_bytes())
}

fn signal(dst: u64, value: u64) -> Descriptor {
    Descriptor {
        op0: value,
        ..word(Opcode::Signal, dst)
    }
}

fn read_u64(process: &Process, va: u64) -> u64 {
    u64::from_le_bytes(process.read(va, 8).try_into().unwrap())
}

fn fetch(intent: u8, src: u64, size: u64) -> Descriptor {
    Descriptor {
        src,
        size: size as u32,
        op0: intent.into(),
        ..descriptor(Opcode::TranslationFetch, 0, 0)
    }
}

#[test]
fn a_fetch_marks_pages_as_it_intends_and_nothing_else() {
    for (intent, dirty) in [(fetch_intent::READ, false), (fetch_intent::WRITE, true)] {
        let mut rig = Rig::new();
        let before = fill_noise(&rig.alice, PAGES);
        // From the last byte of the first page to the first byte of the last but one.
        let size = (PAGES - 3) * PAGE + 2;
        let outcome = rig.run(&fetch(intent, VA + PAGE - 1, size));
        let c = outcome.completion;
        assert_eq!(short_form(&c), (Status::Success, false, size as u32));
        assert_eq!(outcome.bytes, 0);
        assert!(rig.chunks > 1, "a long walk goes in chunks");
        let (bytes, flags) = reveal(&rig.alice, VA, PAGES as usize);
        assert!(bytes == before);
        let last = PAGES as usize - 1;
        assert!(flags[..last].iter().all(|f| *f == (true, dirty)));
        assert_eq!(flags[last], (false, false));
    }
}

#[test]
fn a_fetch_stops_at_what_is_missing_and_goes_on() {
    let mut rig = Rig::new();
    fill_noise(&rig.alice, 8);
    rig.alice
        .change_entry(VA + 5 * PAGE, |entry| entry & !pte::RW);
    let d = fetch(fetch_intent::WRITE, VA + 8, 7 * PAGE);
    let c = rig.complete(&d);
    assert_eq!(
        short_form(&c),
        (Status::Stage1Permission, true, 5 * PAGE as u32 - 8)
    );
    assert_eq!(c.fault_addr, VA + 5 * PAGE);
    rig.alice
        .change_entry(VA + 5 * PAGE, |entry| entry | pte::RW);
    let holes = [2, 6].map(|page| VA + page * PAGE);
    let c = resume_over_holes(&mut rig, &holes, d, |d, c| Descriptor {
        src: d.src + u64::from(c.bytes_completed),
        size: d.size - c.bytes_completed,
        ..*d
    });
    assert!(c.status().is_some_and(Status::is_success));
    // A right to read is none to write.
    rig.bob.map(VA, PAGE, PageSize::Small);
    let slot = rig.bob.give(&rig.alice, VA, PAGE, Rights::READ);
    for (intent, status) in [
        (fetch_intent::READ, Status::Success),
        (fetch_intent::WRITE, Status::MissingRight),
    ] {
        let d = Descriptor {
            word0: Word0::new(slot, 0, true).0,
            ..fetch(intent, 0, PAGE)
        };
        assert_eq!(rig.complete(&d).status(), Some(status));
    }
}

#[test]
fn a_flush_reads_and_changes_nothing() {
    let mut rig = Rig::new();
    let before = fill_noise(&rig.alice, PAGES);
    for flags in [Flags::NONE, Flags::CACHE_CONTROL] {
        let d = Descriptor {
            dst: VA + 7,
            size: (PAGES * PAGE) as u32 - 9,
            ..Descriptor::new(Opcode::InterDomainCacheFlush, flags)
        };
        let c = rig.complete(&d);
        assert_eq!(short_form(&c), (Status::Success, false, d.size));
        assert!(rig.chunks > 1);
    }
    let (bytes, flags) = reveal(&rig.alice, VA, PAGES as usize);
    assert!(bytes == before);
    assert!(flags.iter().all(|f| *f == (true, false)));
    let d = Descriptor {
        dst: VA + PAGES * PAGE - 64,
        size: 128,
        ..descriptor(Opcode::CacheFlush, 0, 0)
    };
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::Stage1NotPresent, false, 64));
}

#[test]
fn atomics_tell_what_was_there() {
    let mut rig = Rig::new();
    fill_noise(&rig.alice, 1);
    let at = VA + 64;
    rig.alice.write(at, &5_u64.to_le_bytes());
    for (d, old, result, new) in [
        (atomic(atomic_kind::FETCH_ADD, at, 3, 0), 5, 0, 8),
        (atomic(atomic_kind::FETCH_ADD, at, u64::MAX, 0), 8, 0, 7),
        (atomic(atomic_kind::SWAP, at, 1 << 63, 0), 7, 0, 1 << 63),
        (
            atomic(atomic_kind::COMPARE_SWAP, at, 9, 8),
            1 << 63,
            1,
            1 << 63,
        ),
        (
            atomic(atomic_kind::COMPARE_SWAP, at, 9, 1 << 63),
            1 << 63,
            0,
            9,
        ),
    ] {
        let c = rig.complete(&d);
        assert_eq!(short_form(&c), (Status::Success, false, 8));
        assert_eq!((c.op0, c.result), (old, result), "{d:?}");
        assert_eq!(read_u64(&rig.alice, at), new);
    }
}

#[test]
fn atomics_are_atomic_with_respect_to_the_guest() {
    let mut rig = Rig::new();
    let gpa = rig.alice.map(VA, PAGE, PageSize::Small);
    const TIMES: u64 = 100_000;
    let span = rig
        .alice
        .guest()
        .memory()
        .contiguous(gpa, 8)
        .expect("a word of RAM");
    let start = read_u64(&rig.alice, VA);
    let (started, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let added = std::thread::scope(|scope| {
        // It goes on for as long as the engine does, so that they meet.
        let guest = scope.spawn(|| {
            let mut added = 0;
            while !over.load(Ordering::Relaxed) {
                let mut found = span.load_u64(0);
                while let Err(other) = span.cmpxchg_u64(0, found, found.wrapping_add(1)) {
                    found = other;
                }
                added += 1;
                started.store(true, Ordering::Relaxed);
            }
            added
        });
        while !started.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        for _ in 0..TIMES {
            rig.complete(&atomic(atomic_kind::FETCH_ADD, VA, 1, 0));
        }
        over.store(true, Ordering::Relaxed);
        guest.join().unwrap()
    });
    assert_eq!(read_u64(&rig.alice, VA), start + TIMES + added);
}

#[test]
fn words_need_rights_and_alignment_where_they_lie() {
    let mut rig = Rig::new();
    fill_noise(&rig.alice, 1);
    rig.bob.map(VA, 2 * PAGE, PageSize::Small);
    let give = |base, rights| rig.bob.give(&rig.alice, base, PAGE, rights);
    let (all, read) = (give(VA, Rights::ALL), give(VA, Rights::READ));
    let (write, odd) = (give(VA, Rights::WRITE), give(VA + 4, Rights::ALL));
    for (slot, offset, atomics, signals) in [
        (all, 8, Status::Success, Status::Success),
        (read, 8, Status::MissingRight, Status::MissingRight),
        (write, 8, Status::MissingRight, Status::Success),
        (odd, 8, Status::AddressAlignment, Status::AddressAlignment),
        (all, PAGE, Status::Bounds, Status::Bounds),
        (
            0,
            0x1000,
            Status::Stage1NotPresent,
            Status::Stage1NotPresent,
        ),
    ] {
        for (d, status) in [
            (atomic(atomic_kind::FETCH_ADD, offset, 1, 0), atomics),
            (signal(offset, 7), signals),
        ] {
            let d = Descriptor {
                word0: Word0::new(0, slot, true).0,
                ..d
            };
            let c = rig.complete(&d);
            assert_eq!(c.status(), Some(status), "{d:?}");
            assert_eq!(c.bytes_completed, if status.is_success() { 8 } else { 0 });
        }
    }
    assert_eq!(read_u64(&rig.bob, VA + 8), 7);
    assert_eq!(read_u64(&rig.bob, VA), 0);
    // A fault in the peer's memory tells the offset alone.
    rig.bob.change_entry(VA, |entry| entry & !pte::P);
    let d = Descriptor {
        word0: Word0::new(0, all, true).0,
        ..signal(16, 7)
    };
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::RemoteFault, true, 0));
    assert_eq!(c.fault_addr, 16);
}

const LIST: u64 = VA + 2 * PAGE;
const RECORDS: u64 = VA + 4 * PAGE;

fn run_batch(rig: &mut Rig, elements: &[Descriptor]) -> (Completion, Vec<Completion>) {
    for (i, element) in elements.iter().enumerate() {
        rig.alice.write(LIST + 64 * i as u64, &element.to_bytes());
    }
    let d = Descriptor {
        src: LIST,
        status_array: RECORDS,
        size: elements.len() as u32,
        ..descriptor(Opcode::Batch, 0, 0)
    };
    let c = rig.complete(&d);
    let records = (0..elements.len() as u64).map(|i| {
        let bytes = rig.alice.read(RECORDS + 32 * i, 32);
        Completion::from_bytes(bytes[..].try_into().unwrap())
    });
    (c, records.collect())
}

#[test]
fn a_signal_in_a_batch_says_that_all_before_it_succeeded() {
    let mut rig = Rig::new();
    fill_noise(&rig.alice, 8);
    let good = memmove(VA, VA + PAGE, 64);
    let failing = memmove(0x1000, VA + PAGE, 64);
    rig.alice.write(VA + PAGE - 8, &[0; 8]);
    let told = signal(VA + PAGE - 8, 0x55);
    let (c, records) = run_batch(&mut rig, &[failing, told, good]);
    assert_eq!(short_form(&c), (Status::BatchFailed, false, 0));
    let statuses: Vec<_> = records.iter().map(Completion::status).collect();
    assert_eq!(statuses[1], Some(Status::NotAttempted));
    assert_eq!(statuses[2], Some(Status::NotAttempted));
    assert_eq!(read_u64(&rig.alice, VA + PAGE - 8), 0);
    let (c, _) = run_batch(&mut rig, &[good, told]);
    assert_eq!(short_form(&c), (Status::Success, false, 2));
    assert_eq!(read_u64(&rig.alice, VA + PAGE - 8), 0x55);
}

#[test]
fn elements_of_a_batch_keep_what_their_completions_hold() {
    let mut rig = Rig::new();
    let bytes = fill_noise(&rig.alice, 8);
    rig.chunk_bytes = 1000;
    let crc = Descriptor {
        src: VA,
        size: 2 * PAGE as u32,
        ..descriptor(Opcode::CrcGen, 0, 0)
    };
    rig.alice.write(VA + 6 * PAGE, &41_u64.to_le_bytes());
    let add = atomic(atomic_kind::FETCH_ADD, VA + 6 * PAGE, 1, 0);
    let (c, records) = run_batch(&mut rig, &[crc, add, add]);
    assert_eq!(short_form(&c), (Status::Success, false, 3));
    assert!(rig.chunks > 2, "elements go on over chunks");
    let alone = rig.complete(&crc);
    assert_ne!(alone.op0, 0);
    assert_eq!(records[0].op0, alone.op0);
    assert_eq!((records[1].op0, records[2].op0), (41, 42));
    assert!(rig.alice.read(VA, PAGE) == bytes[..PAGE as usize]);
}
