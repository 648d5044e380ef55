//! BATCH.

use super::*;
use byway_protocols::Rights;

const LIST: u64 = VA + 16 * PAGE;
const RECORDS: u64 = VA + 32 * PAGE;
const UNTOUCHED: u8 = 0xee;

fn rig() -> Rig {
    let rig = Rig::new();
    rig.alice.map_scattered(VA, 40 * PAGE);
    rig.alice.write(VA, &noise(16 * PAGE as usize, 1));
    rig.alice
        .write(RECORDS, &vec![UNTOUCHED; 8 * PAGE as usize]);
    rig
}

fn batch(count: u32) -> Descriptor {
    Descriptor {
        src: LIST,
        status_array: RECORDS,
        size: count,
        ..descriptor(Opcode::Batch, 0, 0)
    }
}

fn write_list(process: &Process, elements: &[Descriptor]) {
    for (i, element) in elements.iter().enumerate() {
        process.write(LIST + 64 * i as u64, &element.to_bytes());
    }
}

fn records(process: &Process, count: usize) -> Vec<Completion> {
    (0..count as u64)
        .map(|i| {
            let bytes = process.read(RECORDS + 32 * i, 32);
            Completion::from_bytes(bytes[..].try_into().unwrap())
        })
        .collect()
}

fn statuses(process: &Process, count: usize) -> Vec<Status> {
    records(process, count)
        .iter()
        .map(|c| c.status().expect("a known status"))
        .collect()
}

fn fence(d: Descriptor) -> Descriptor {
    with_flags(d, Flags::FENCE)
}

fn failing() -> Descriptor {
    memmove(0x1000, VA, 8)
}

#[test]
fn every_element_has_its_status() {
    let mut rig = rig();
    let elements = [
        memmove(VA, VA + PAGE, 100),
        descriptor(Opcode::Nop, 0, 0),
        failing(),
        batch(1),
        Descriptor::with_code(0xff, Flags::NONE),
        with_flags(descriptor(Opcode::Drain, 0, 0), Flags::REQUEST_INTERRUPT),
        Descriptor {
            src: VA,
            dst: VA + PAGE,
            size: 100,
            ..descriptor(Opcode::Compare, 0, 0)
        },
    ];
    write_list(&rig.alice, &elements);
    let outcome = rig.run(&batch(7));
    assert_eq!(
        short_form(&outcome.completion),
        (Status::BatchFailed, false, 4)
    );
    assert_eq!(outcome.bytes, 200);
    assert_eq!(
        statuses(&rig.alice, 7),
        [
            Status::Success,
            Status::Success,
            Status::Stage1NotPresent,
            Status::BadOpcode,
            Status::BadOpcode,
            Status::Success,
            Status::Success,
        ]
    );
    let all = records(&rig.alice, 8);
    assert_eq!((all[0].bytes_completed, all[0].phase), (100, 0));
    assert_eq!(all[2].fault_addr, 0x1000);
    assert_eq!(all[6].result, 0);
    // Nothing behind the last one is written.
    assert_eq!(all[7].to_bytes(), [UNTOUCHED; 32]);
}

#[test]
fn success_needs_every_element() {
    let mut rig = rig();
    write_list(&rig.alice, &[descriptor(Opcode::Nop, 0, 0); 1024]);
    let c = rig.complete(&batch(1024));
    assert_eq!(short_form(&c), (Status::Success, false, 1024));
    assert!(rig.chunks > 1, "a long batch goes in chunks");
    let all = statuses(&rig.alice, 1024);
    assert!(all.iter().all(|s| *s == Status::Success));
}

#[test]
fn a_fence_after_a_failure_ends_the_batch() {
    let mut rig = rig();
    let nop = descriptor(Opcode::Nop, 0, 0);
    write_list(&rig.alice, &[fence(nop), failing(), nop, fence(nop), nop]);
    let c = rig.complete(&batch(5));
    assert_eq!(short_form(&c), (Status::BatchFailed, false, 2));
    assert_eq!(
        statuses(&rig.alice, 5),
        [
            Status::Success,
            Status::Stage1NotPresent,
            Status::Success,
            Status::NotAttempted,
            Status::NotAttempted,
        ]
    );
}

#[test]
fn elements_go_on_over_chunks_and_start_in_order() {
    let mut rig = rig();
    rig.chunk_bytes = PAGE;
    let first = rig.alice.read(VA, 5 * PAGE);
    write_list(
        &rig.alice,
        &[
            memmove(VA, VA + 5 * PAGE, 5 * PAGE as u32),
            memmove(VA + 5 * PAGE, VA + 10 * PAGE, 5 * PAGE as u32),
        ],
    );
    let c = rig.complete(&batch(2));
    assert_eq!(short_form(&c), (Status::Success, false, 2));
    assert!(rig.chunks >= 10, "{} chunks", rig.chunks);
    assert!(rig.alice.read(VA + 10 * PAGE, 5 * PAGE) == first);
}

#[test]
fn elements_that_are_alike_cost_what_each_does_alone() {
    const LARGE: u64 = VA + (1 << 30);
    let mut rig = Rig::with_ram(16 << 20);
    rig.alice.map_scattered(VA, 40 * PAGE);
    rig.alice.map(LARGE, 4 << 20, PageSize::Large);
    // Of 4928 units each, 14 make a chunk, also where each differs from the one before. Of the longer ones, what a chunk has no room
    // for is done in the next one.
    for (count, sizes, chunks) in [
        (127_u64, [4096_u32, 4096], 10),
        (127, [4096, 4095], 10),
        (8, [60_000, 60_000], 8),
        (8, [60_000, 60_001], 8),
    ] {
        let place = u64::from(sizes[0].max(sizes[1]));
        rig.alice.write(LARGE, &noise((count * place) as usize, 1));
        rig.alice
            .write(LARGE + (2 << 20), &vec![0; (count * place) as usize]);
        let elements: Vec<_> = (0..count)
            .map(|i| {
                let at = LARGE + i * place;
                memmove(at, at + (2 << 20), sizes[i as usize % 2])
            })
            .collect();
        write_list(&rig.alice, &elements);
        let c = rig.complete(&batch(count as u32));
        assert_eq!(short_form(&c), (Status::Success, false, count as u32));
        assert_eq!(rig.chunks, chunks, "{count} elements of {sizes:?} bytes");
        for element in &elements {
            let [from, to] =
                [element.src, element.dst].map(|at| rig.alice.read(at, element.size.into()));
            assert!(from == to, "{count} elements of {sizes:?} bytes");
        }
    }
}

#[test]
fn elements_are_read_once_each_when_they_start() {
    let mut rig = rig();
    rig.chunk_bytes = 1;
    let nop = descriptor(Opcode::Nop, 0, 0);
    write_list(&rig.alice, &[nop; 3]);
    let changed = Descriptor::with_code(0xff, Flags::NONE).to_bytes();
    let outcome = rig.run_with(&batch(3), |rig, chunk| {
        // One element to a chunk: the first two have been read.
        if chunk == 2 {
            for i in 0..3 {
                rig.alice.write(LIST + 64 * i, &changed);
            }
        }
    });
    assert_eq!(outcome.completion.bytes_completed, 2);
    assert_eq!(
        statuses(&rig.alice, 3),
        [Status::Success, Status::Success, Status::BadOpcode]
    );
}

#[test]
fn faults_on_list_and_array_stop_before_the_element() {
    // 64 elements to a page of the list, 128 completions to a page of the array.
    for (at, status, write, reached, fault) in [
        (LIST + PAGE, Status::BatchListFault, false, 64, LIST + PAGE),
        (
            RECORDS + PAGE,
            Status::StatusArrayFault,
            true,
            128,
            RECORDS + PAGE,
        ),
    ] {
        let mut rig = rig();
        write_list(&rig.alice, &[descriptor(Opcode::Nop, 0, 0); 200]);
        rig.alice.change_entry(at, |entry| entry & !pte::P);
        let c = rig.complete(&batch(200));
        assert_eq!(short_form(&c), (status, write, reached));
        assert_eq!(c.fault_addr, fault);
        rig.alice.change_entry(at, |entry| entry | pte::P);
        let after = rig.alice.read(RECORDS + 32 * u64::from(reached), 32);
        assert_eq!(after, [UNTOUCHED; 32], "{status}");
    }
}

#[test]
fn a_fault_that_cannot_be_mended_keeps_its_status() {
    let mut rig = rig();
    let c = rig.complete(&Descriptor {
        src: 0x8000_0000_0000,
        ..batch(1)
    });
    assert_eq!(short_form(&c), (Status::NonCanonical, false, 0));
    rig.alice.change_entry(RECORDS, |entry| entry & !pte::RW);
    let c = rig.complete(&batch(1));
    assert_eq!(short_form(&c), (Status::Stage1Permission, true, 0));
}

#[test]
fn list_and_array_may_lie_with_a_peer() {
    let mut rig = rig();
    rig.bob.map(VA, 4 * PAGE, PageSize::Small);
    let list = rig.bob.give(&rig.alice, VA, PAGE, Rights::READ);
    let array = rig.bob.give(&rig.alice, VA + PAGE, 2 * PAGE, Rights::WRITE);
    rig.bob
        .write(VA + 64, &descriptor(Opcode::Nop, 0, 0).to_bytes());
    let d = Descriptor {
        word0: Word0::new(list, array, false).0,
        src: 64,
        status_array: 0,
        ..batch(1)
    };
    assert_eq!(
        short_form(&rig.complete(&d)),
        (Status::Success, false, 1),
        "offset 0 of a capability is as good as any"
    );
    assert_eq!(rig.bob.read(VA + PAGE, 1), [Status::Success as u8]);
    // A fault in the peer's memory is never told apart.
    rig.bob.change_entry(VA + PAGE, |entry| entry & !pte::P);
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::RemoteFault, true, 0));
    assert_eq!(c.fault_addr, 0);
    // Nor may it be read where it may only be written.
    let c = rig.complete(&Descriptor {
        word0: Word0::new(array, array, false).0,
        ..d
    });
    assert_eq!(short_form(&c), (Status::MissingRight, false, 0));
}

#[test]
fn a_capability_that_starts_anywhere_does_not_misalign() {
    let mut rig = rig();
    rig.bob.map(VA, 4 * PAGE, PageSize::Small);
    let odd = rig.bob.give(&rig.alice, VA + 8, 2 * PAGE, Rights::ALL);
    let good = rig.bob.give(&rig.alice, VA, 2 * PAGE, Rights::ALL);
    for (list, array, status) in [
        (odd, good, Status::ListAlignment),
        (good, odd, Status::AddressAlignment),
    ] {
        let c = rig.complete(&Descriptor {
            word0: Word0::new(list, array, false).0,
            src: 0,
            status_array: 64,
            ..batch(1)
        });
        assert_eq!(short_form(&c), (status, false, 0));
    }
}
