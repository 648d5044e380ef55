//! Capabilities as operations meet them: refusals, and what is taken back in mid-copy.

use super::*;
use byway_protocols::Rights;

const PAGES: u64 = 64;
const BYTES: u64 = PAGES * PAGE;

fn rig() -> (Rig, Vec<u8>, Vec<u8>) {
    let rig = Rig::new();
    let alice = fill_noise(&rig.alice, PAGES);
    let bob = fill_noise(&rig.bob, PAGES);
    (rig, alice, bob)
}

fn put(slot: u16, offset: u64, size: u64) -> Descriptor {
    Descriptor {
        src: VA,
        dst: offset,
        size: size as u32,
        ..descriptor(Opcode::InterDomainMemmove, 0, slot)
    }
}

fn get(slot: u16, offset: u64, size: u64) -> Descriptor {
    Descriptor {
        src: offset,
        dst: VA,
        size: size as u32,
        ..descriptor(Opcode::Memmove, slot, 0)
    }
}

#[test]
fn nothing_moves_on_a_refusal() {
    let (mut rig, alice, bob) = rig();
    let read = rig.bob.give(&rig.alice, VA, BYTES, Rights::READ);
    let write = rig.bob.give(&rig.alice, VA, BYTES, Rights::WRITE);
    let revoked = rig.bob.give(&rig.alice, VA, BYTES, Rights::ALL);
    rig.bob.revoke(&rig.alice, revoked);
    rig.epochs.synchronize();
    for short in [false, true] {
        rig.short = short;
        for (d, status) in [
            (put(7, 0, 64), Status::NoCapability),
            (get(7, 0, 64), Status::NoCapability),
            (put(16, 0, 64), Status::NoCapability),
            (put(Word0::SLOT_MAX, 0, 64), Status::NoCapability),
            (put(read, 0, 64), Status::MissingRight),
            (get(write, 0, 64), Status::MissingRight),
            (put(revoked, 0, 64), Status::Revoked),
            (get(revoked, 0, 64), Status::Revoked),
            (put(write, BYTES - 63, 64), Status::Bounds),
            (put(write, BYTES, 1), Status::Bounds),
            (put(write, u64::MAX - 3, 64), Status::Bounds),
            (get(read, u64::MAX, 1), Status::Bounds),
            (get(read, 1, BYTES), Status::Bounds),
            (memmove(u64::MAX - 3, VA, 64), Status::Bounds),
            (memmove(VA, u64::MAX - 62, 64), Status::Bounds),
            // The source first, the destination before any byte.
            (
                Descriptor {
                    word0: Word0::new(7, write, false).0,
                    ..put(write, 0, 64)
                },
                Status::NoCapability,
            ),
        ] {
            let c = rig.complete(&d);
            assert_eq!(short_form(&c), (status, false, 0), "{d:?}");
            assert_eq!((c.fault_addr, c.result), (0, 0), "{d:?}");
        }
    }
    assert!(rig.alice.read(VA, BYTES) == alice);
    assert!(rig.bob.read(VA, BYTES) == bob);
}

#[test]
fn addresses_of_the_kernel_and_beyond_are_refused() {
    let (mut rig, ..) = rig();
    rig.alice.change_entry(VA + PAGE, |entry| entry & !pte::US);
    for (d, status, write, addr) in [
        (
            memmove(0xffff_8000_0000_0000, VA, 64),
            Status::Stage1NotPresent,
            false,
            0xffff_8000_0000_0000,
        ),
        (
            memmove(VA + PAGE, VA, 64),
            Status::Stage1Permission,
            false,
            VA + PAGE,
        ),
        (
            memmove(VA, VA + PAGE, 64),
            Status::Stage1Permission,
            true,
            VA + PAGE,
        ),
        (
            memmove(0x8000_0000_0000, VA, 64),
            Status::NonCanonical,
            false,
            0x8000_0000_0000,
        ),
        (
            memmove(VA, 0x1000, 64),
            Status::Stage1NotPresent,
            true,
            0x1000,
        ),
    ] {
        let c = rig.complete(&d);
        assert_eq!(short_form(&c), (status, write, 0), "{d:?}");
        assert_eq!(c.fault_addr, addr);
    }
}

#[test]
fn one_byte_at_the_very_end_is_inside() {
    let (mut rig, alice, _) = rig();
    let slot = rig.bob.give(&rig.alice, VA + 5, 100, Rights::WRITE);
    let c = rig.complete(&put(slot, 99, 1));
    assert_eq!(short_form(&c), (Status::Success, false, 1));
    assert_eq!(rig.bob.read(VA + 104, 1), alice[..1]);
}

#[test]
fn not_a_byte_lands_after_a_revocation() {
    let (mut rig, alice, bob) = rig();
    let slot = rig.bob.give(&rig.alice, VA, BYTES, Rights::WRITE);
    rig.chunk_bytes = 4 * PAGE;
    let outcome = rig.run_with(&put(slot, 0, BYTES), |rig, chunk| {
        if chunk == 3 {
            rig.bob.revoke(&rig.alice, slot);
            assert_eq!(rig.epochs.synchronize(), 0);
        }
    });
    let done = outcome.completion.bytes_completed as usize;
    assert_eq!(
        short_form(&outcome.completion),
        (Status::Revoked, false, 12 * PAGE as u32)
    );
    assert_eq!(rig.chunks, 4);
    let got = rig.bob.read(VA, BYTES);
    assert!(got[..done] == alice[..done]);
    assert!(got[done..] == bob[done..]);
}

#[test]
fn a_space_that_ends_aborts_its_own_and_revokes_for_others() {
    let (mut rig, ..) = rig();
    let slot = rig.bob.give(&rig.alice, VA, BYTES, Rights::ALL);
    rig.chunk_bytes = 4 * PAGE;
    let outcome = rig.run_with(&put(slot, 0, BYTES), |rig, chunk| {
        if chunk == 1 {
            rig.bob.space().kill();
        }
    });
    let c = outcome.completion;
    assert_eq!(short_form(&c), (Status::Revoked, false, 4 * PAGE as u32));
    let outcome = rig.run_with(&memmove(VA, VA + BYTES / 2, 16 * PAGE as u32), |rig, _| {
        rig.alice.space().kill();
    });
    let c = outcome.completion;
    assert_eq!(short_form(&c), (Status::Aborted, false, 4 * PAGE as u32));
}

#[test]
fn a_page_unmapped_in_mid_copy_is_met_at_the_next_chunk() {
    let (mut rig, ..) = rig();
    rig.chunk_bytes = 4 * PAGE;
    let d = memmove(VA, VA + BYTES / 2, 16 * PAGE as u32);
    let outcome = rig.run_with(&d, |rig, chunk| {
        if chunk == 1 {
            let at = VA + BYTES / 2 + 6 * PAGE;
            rig.alice.change_entry(at, |entry| entry & !pte::P);
        }
    });
    let c = outcome.completion;
    assert_eq!(
        short_form(&c),
        (Status::Stage1NotPresent, true, 6 * PAGE as u32)
    );
    assert_eq!(c.fault_addr, VA + BYTES / 2 + 6 * PAGE);
}

#[test]
fn bytes_are_counted_at_the_capability() {
    let (mut rig, ..) = rig();
    let slot = rig.bob.give(&rig.alice, VA, BYTES, Rights::ALL);
    let capability = rig.alice.context().slots().peek(u32::from(slot)).unwrap();
    rig.complete(&put(slot, 0, 64));
    rig.complete(&put(slot, 100, BYTES - 100));
    rig.complete(&get(slot, 0, 3 * PAGE));
    rig.complete(&get(slot, BYTES, 1));
    let traffic = capability.traffic();
    assert_eq!(
        (traffic.read, traffic.written),
        (3 * PAGE, 64 + BYTES - 100)
    );
}

#[test]
fn what_overlaps_through_two_capabilities_is_seen() {
    let (mut rig, _, mut bob) = rig();
    let a = rig.bob.give(&rig.alice, VA, BYTES, Rights::ALL);
    let b = rig.bob.give(&rig.alice, VA + 100, BYTES - 100, Rights::ALL);
    let d = Descriptor {
        src: 0,
        dst: 0,
        size: 3 * PAGE as u32,
        ..descriptor(Opcode::Memmove, a, b)
    };
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::Success, false, 3 * PAGE as u32));
    assert_eq!(c.result, 1);
    bob.copy_within(..3 * PAGE as usize, 100);
    assert!(rig.bob.read(VA, BYTES) == bob);
}
