//! Operations that wait for pages: whatever is mapped on request ends up as if it had been
//! there, for each operation and in batches.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use byway_protocols::Rights;
use proptest::prelude::*;

const PAGES: u64 = 8;
const BYTES: u64 = PAGES * PAGE;
const OTHER: u64 = VA + (1 << 30);
const BLOCK: Flags = Flags::BLOCK_ON_FAULT;

/// Makes pages of a process missing, and tells how to make one of them good again.
fn unmap(process: &Process, va: u64, pages: &[u64]) {
    for page in pages {
        process.change_entry(va + page * PAGE, |entry| entry & !pte::P);
    }
}

/// What was asked, as a pager noted it.
type Log = Rc<RefCell<Vec<PageNeed>>>;

/// A rig whose requests are noted and all answered so, mapping the page if it says resolved.
fn rig(verdict: Verdict) -> (Rig, Log) {
    let mut rig = Rig::new();
    for process in [&rig.alice, &rig.bob] {
        for (va, seed) in [(VA, 1), (OTHER, 2)] {
            process.map(va, BYTES, PageSize::Small);
            process.write(va, &noise(BYTES as usize, seed));
        }
    }
    let log = Log::default();
    let noted = Rc::clone(&log);
    rig.pager = Box::new(move |alice, bob, need| {
        noted.borrow_mut().push(*need);
        assert!(need.page.is_multiple_of(PAGE));
        if verdict == Verdict::Resolved {
            let process = if need.own { alice } else { bob };
            assert_eq!(process.space().id(), need.space);
            process.change_entry(need.page, |entry| entry | pte::P);
        }
        verdict
    });
    (rig, log)
}

#[test]
fn each_page_is_asked_for_once_and_the_bytes_are_right() {
    let (mut rig, log) = rig(Verdict::Resolved);
    unmap(&rig.alice, VA, &[0, 3]);
    unmap(&rig.alice, OTHER, &[1, 7]);
    let expected = noise(BYTES as usize, 1);
    let d = with_flags(memmove(VA + 5, OTHER + 9, (BYTES - 9) as u32), BLOCK);
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::Success, false, (BYTES - 9) as u32));
    assert_eq!(
        rig.alice.read(OTHER + 9, BYTES - 9),
        expected[5..BYTES as usize - 4]
    );
    let mut asked: Vec<_> = log.borrow().iter().map(|n| (n.page, n.write)).collect();
    asked.sort_unstable();
    assert_eq!(
        asked,
        [
            (VA, false),
            (VA + 3 * PAGE, false),
            (OTHER + PAGE, true),
            (OTHER + 7 * PAGE, true)
        ]
    );
    assert!(log.borrow().iter().all(|n| n.own && n.owner == 1));
}

#[test]
fn without_the_flag_nobody_is_asked() {
    let (mut rig, log) = rig(Verdict::Resolved);
    unmap(&rig.alice, VA, &[3]);
    let c = rig.complete(&memmove(VA, OTHER, BYTES as u32));
    assert_eq!(
        short_form(&c),
        (Status::Stage1NotPresent, false, 3 * PAGE as u32)
    );
    assert!(log.borrow().is_empty());
}

/// Takes a bit away from one page's entry.
fn spoil(process: &Process, va: u64, bit: u64) {
    process.change_entry(va, |entry| entry & !bit);
}

#[test]
fn the_right_to_write_is_asked_for_and_is_the_kernels_to_give() {
    for verdict in [Verdict::Resolved, Verdict::Refused, Verdict::Later] {
        let (mut rig, _) = rig(verdict);
        let (hole, before) = (OTHER + PAGE, rig.alice.read(OTHER, BYTES));
        spoil(&rig.alice, hole, pte::RW);
        let log = Log::default();
        let noted = Rc::clone(&log);
        // As a kernel does with a page that is shared until it is written to.
        rig.pager = Box::new(move |alice, _, need| {
            noted.borrow_mut().push(*need);
            if verdict == Verdict::Resolved {
                alice.change_entry(need.page, |entry| entry | pte::RW);
            }
            verdict
        });
        let c = rig.complete(&with_flags(memmove(VA, OTHER, BYTES as u32), BLOCK));
        let asked: Vec<_> = log.borrow().iter().map(|n| (n.page, n.write)).collect();
        assert_eq!(asked, [(hole, true)]);
        if verdict == Verdict::Resolved {
            assert_eq!(short_form(&c), (Status::Success, false, BYTES as u32));
            assert_eq!(rig.alice.read(OTHER, BYTES), noise(BYTES as usize, 1));
        } else {
            let done = (Status::Stage1Permission, true, PAGE as u32);
            assert_eq!(short_form(&c), done, "{verdict:?}");
            assert_eq!(c.fault_addr, hole);
            let after = rig.alice.read(hole, PAGE);
            assert_eq!(after, before[PAGE as usize..2 * PAGE as usize]);
        }
    }
}

#[test]
fn no_other_right_is_asked_for_in_ones_own_memory() {
    for (place, bit) in [(VA, pte::US), (VA, pte::RW), (OTHER, pte::RW)] {
        let (mut rig, log) = rig(Verdict::Resolved);
        spoil(&rig.alice, place, bit);
        // A source needs no right to write; without the flag nobody is asked for one.
        let flags = if place == VA { BLOCK } else { Flags::NONE };
        let c = rig.complete(&with_flags(memmove(VA, OTHER, 64), flags));
        let expected = match (place, bit) {
            (VA, pte::RW) => (Status::Success, false, 64),
            _ => (Status::Stage1Permission, place == OTHER, 0),
        };
        assert_eq!(short_form(&c), expected);
        assert!(log.borrow().is_empty());
    }
}

#[test]
fn a_refusal_ends_it_with_what_was_done() {
    for (verdict, status) in [
        (Verdict::Refused, Status::PageRefused),
        (Verdict::TimedOut, Status::PageResponseTimeout),
        (Verdict::Later, Status::Stage1NotPresent),
    ] {
        let (mut rig, log) = rig(verdict);
        unmap(&rig.alice, OTHER, &[2]);
        let c = rig.complete(&with_flags(memmove(VA, OTHER, BYTES as u32), BLOCK));
        assert_eq!(short_form(&c), (status, true, 2 * PAGE as u32));
        assert_eq!(c.fault_addr, OTHER + 2 * PAGE);
        assert_eq!(log.borrow().len(), 1);
    }
}

#[test]
fn a_pager_that_lies_is_asked_a_bounded_number_of_times() {
    let (mut rig, _) = rig(Verdict::Resolved);
    unmap(&rig.alice, VA, &[1]);
    let asked = Rc::new(RefCell::new(0));
    let count = Rc::clone(&asked);
    rig.pager = Box::new(move |_, _, _| {
        *count.borrow_mut() += 1;
        Verdict::Resolved
    });
    let c = rig.complete(&with_flags(memmove(VA, OTHER, BYTES as u32), BLOCK));
    assert_eq!(
        short_form(&c),
        (Status::Stage1NotPresent, false, PAGE as u32)
    );
    assert_eq!(*asked.borrow(), crate::ops::missing::REQUESTS_MAX);
}

#[test]
fn a_peers_pages_are_always_asked_for_and_its_refusals_look_alike() {
    let spoils: [fn(u64) -> u64; 4] = [
        |entry| entry & !pte::P,
        |entry| entry & !pte::US,
        |entry| entry & !pte::RW,
        |entry| entry | 1 << 51,
    ];
    for verdict in [Verdict::Refused, Verdict::Later, Verdict::TimedOut] {
        for spoil in spoils {
            let (mut rig, log) = rig(verdict);
            let slot = rig.bob.give(&rig.alice, VA + 100, BYTES - 100, Rights::ALL);
            rig.bob.change_entry(VA + 2 * PAGE, spoil);
            let d = Descriptor {
                src: VA,
                dst: 0,
                size: 4 * PAGE as u32,
                ..descriptor(Opcode::Memmove, 0, slot)
            };
            let c = rig.complete(&d);
            let offset = 2 * PAGE - 100;
            assert_eq!(short_form(&c), (Status::RemoteFault, true, offset as u32));
            assert_eq!(c.fault_addr, offset);
            let need = log.borrow()[0];
            assert_eq!(
                (need.owner, need.own, need.page, need.write),
                (2, false, VA + 2 * PAGE, true)
            );
        }
    }
}

#[test]
fn what_was_revoked_while_it_waited_is_not_touched() {
    let (mut rig, _) = rig(Verdict::Resolved);
    let slot = rig.bob.give(&rig.alice, VA, BYTES, Rights::ALL);
    unmap(&rig.bob, VA, &[1]);
    let before = noise(BYTES as usize, 1);
    rig.alice.write(OTHER, &[0xee; BYTES as usize]);
    rig.pager = Box::new(move |alice, bob, _| {
        bob.revoke(alice, slot);
        bob.change_entry(VA + PAGE, |entry| entry | pte::P);
        Verdict::Resolved
    });
    let d = Descriptor {
        src: OTHER,
        dst: 0,
        size: BYTES as u32,
        ..descriptor(Opcode::Memmove, 0, slot)
    };
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::Revoked, false, PAGE as u32));
    assert_eq!(
        rig.bob.read(VA + PAGE, PAGE),
        before[PAGE as usize..2 * PAGE as usize]
    );
}

/// Where batches have their list and their statuses.
const LIST: u64 = VA + (2 << 30);
const RECORDS: u64 = LIST + (1 << 21);

fn batch(rig: &Rig, elements: &[Descriptor], flags: Flags) -> Descriptor {
    for va in [LIST, RECORDS] {
        rig.alice.map(va, 2 * PAGE, PageSize::Small);
    }
    let bytes: Vec<u8> = elements.iter().flat_map(Descriptor::to_bytes).collect();
    rig.alice.write(LIST, &bytes);
    Descriptor {
        status_array: RECORDS,
        src: LIST,
        size: elements.len() as u32,
        ..with_flags(descriptor(Opcode::Batch, 0, 0), flags)
    }
}

fn record(rig: &Rig, index: u64) -> Completion {
    let bytes = rig.alice.read(RECORDS + 32 * index, 32);
    Completion::from_bytes(&bytes.try_into().unwrap())
}

#[test]
fn a_batch_waits_as_a_whole_and_each_element_for_itself() {
    let (mut rig, log) = rig(Verdict::Resolved);
    unmap(&rig.alice, VA, &[1, 5]);
    let elements = [
        memmove(VA, OTHER, 64),
        with_flags(memmove(VA + PAGE, OTHER + 64, 64), BLOCK),
        // Does not wait, and fails.
        memmove(VA + 5 * PAGE, OTHER, 64),
        with_flags(memmove(VA + 2 * PAGE, OTHER + 128, 64), BLOCK),
    ];
    let d = batch(&rig, &elements, Flags::NONE);
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::BatchFailed, false, 3));
    let statuses: Vec<_> = (0..4).map(|i| record(&rig, i).status().unwrap()).collect();
    let ok = Status::Success;
    assert_eq!(statuses, [ok, ok, Status::Stage1NotPresent, ok]);
    assert_eq!(log.borrow().len(), 1);
    assert_eq!(log.borrow()[0].page, VA + PAGE);
}

#[test]
fn an_element_is_refused_and_the_batch_goes_on() {
    let (mut rig, _) = rig(Verdict::Refused);
    unmap(&rig.alice, VA, &[1]);
    let elements = [
        with_flags(memmove(VA + PAGE, OTHER, 64), BLOCK),
        memmove(VA, OTHER, 64),
    ];
    let d = batch(&rig, &elements, Flags::NONE);
    assert_eq!(
        short_form(&rig.complete(&d)),
        (Status::BatchFailed, false, 1)
    );
    assert_eq!(record(&rig, 0).status(), Some(Status::PageRefused));
    assert_eq!(record(&rig, 1).status(), Some(Status::Success));
}

#[test]
fn a_batch_waits_for_its_own_list_and_statuses() {
    for (flags, status, requests) in [
        (BLOCK, Status::Success, 2),
        (Flags::NONE, Status::StatusArrayFault, 0),
    ] {
        let (mut rig, log) = rig(Verdict::Resolved);
        let elements: Vec<_> = (0..70).map(|i| memmove(VA, OTHER + i, 1)).collect();
        let d = batch(&rig, &elements, flags);
        // The 65th element's place in the list, and all statuses.
        unmap(&rig.alice, LIST, &[1]);
        unmap(&rig.alice, RECORDS, &[0]);
        let c = rig.complete(&d);
        assert_eq!(c.status(), Some(status));
        assert_eq!(log.borrow().len(), requests);
    }
}

proptest! {
    /// Whatever is missing, whatever the operation and the chunks: as if all had been there.
    #[test]
    fn waiting_changes_nothing_but_the_time(
        code in 0_usize..5,
        src in 0..PAGE,
        dst in 0..3 * PAGE,
        size in 1..4 * PAGE,
        away in (0_u8.., 0_u8..),
        chunk in prop_oneof![Just(512_u64), Just(5000), Just(CHUNK_BYTES)],
    ) {
        // Overlapping backwards, and apart.
        let to = if code == 1 { VA + src + dst } else { OTHER + dst };
        let d = match code {
            0 | 1 => memmove(VA + src, to, size as u32),
            2 => Descriptor {
                src: 0x0102_0304_0506_0708,
                dst: to,
                size: size as u32,
                ..descriptor(Opcode::Fill, 0, 0)
            },
            3 => Descriptor {
                src: VA + src,
                dst: to,
                size: size as u32,
                ..descriptor(Opcode::Compare, 0, 0)
            },
            _ => Descriptor {
                src: VA + src,
                dst: 0,
                size: size as u32,
                ..descriptor(Opcode::CompareValue, 0, 0)
            },
        };
        let d = with_flags(d, BLOCK);
        let outcome = |missing: (u8, u8)| {
            let (mut rig, log) = rig(Verdict::Resolved);
            rig.chunk_bytes = chunk;
            if code == 3 {
                // Equal, but for the last byte.
                let bytes = rig.alice.read(VA + src, size);
                rig.alice.write(to, &bytes);
                rig.alice.write(to + size - 1, &[!bytes[size as usize - 1]]);
            } else if code == 4 {
                rig.alice.write(VA + src, &vec![0; size as usize]);
            }
            for (va, set) in [(VA, missing.0), (OTHER, missing.1)] {
                let pages: Vec<_> = (0..PAGES).filter(|page| set >> page & 1 != 0).collect();
                unmap(&rig.alice, va, &pages);
            }
            let outcome = rig.run(&d);
            let requests = log.borrow().len();
            for (va, set) in [(VA, missing.0), (OTHER, missing.1)] {
                for page in (0..PAGES).filter(|page| set >> page & 1 != 0) {
                    rig.alice.change_entry(va + page * PAGE, |entry| entry | pte::P);
                }
            }
            let memory = [VA, OTHER].map(|va| rig.alice.read(va, BYTES));
            (outcome, memory, requests)
        };
        let (expected, memory, none) = outcome((0, 0));
        let (got, after, requests) = outcome(away);
        prop_assert_eq!(none, 0);
        prop_assert_eq!(got, expected);
        prop_assert!(after == memory);
        prop_assert!(requests <= 16);
    }
}
