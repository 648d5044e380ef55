//! Faults in a peer's memory: the submitter learns an offset into what it was given, never an address or a cause.

use anyhow::Result;
use byway_agent::commands::{PteGet, PteSet};
use byway_engine::EngineConfig;
use byway_protocols::{Completion, Descriptor, Status};
use byway_vmm::steer::PAGE_4K;

use super::world::{
    APP, Frames, MIB, PAGE, Party, RW, assert_ended, compare, compare_value, engine, fill, memmove,
    turn,
};

/// Pages that bob gives, but for the first bytes, so that offsets and addresses differ in every bit that matters.
const PAGES: u64 = 8;
const SKIPPED_BYTES: u64 = 100;
/// The page that is spoilt, and where a transfer begins and how long it is.
const SPOILT: u64 = 3;
const START: u64 = PAGE + 7;
const SIZE: u64 = 5 * PAGE;
/// Offset of the spoilt page in the capability.
const AT: u64 = SPOILT * PAGE - SKIPPED_BYTES;

const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const RESERVED: u64 = 1 << 51;

/// Spoils an entry.
type Spoil = (&'static str, fn(u64) -> u64);
const SPOILS: [Spoil; 4] = [
    ("not present", |_| 0),
    ("supervisor only", |pte| pte & !USER),
    ("a reserved bit", |pte| pte | RESERVED),
    ("a frame that is not there", |pte| {
        pte & !0x000f_ffff_ffff_f000 | 0x3f_0000_0000
    }),
];

#[test]
fn the_submitter_learns_an_offset_and_no_more() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let base = bob.alloc(APP, PAGES * PAGE, PAGE_4K)?;
    let frames = Frames::of(&bob, APP, base, PAGES * PAGE)?;
    let own = bob.derive(
        APP,
        0,
        base + SKIPPED_BYTES,
        PAGES * PAGE - SKIPPED_BYTES,
        RW,
    )?;
    let slot = bob.pass_on(&alice, own, RW)?;
    let spoilt = base + SPOILT * PAGE;
    let good = bob.call(APP, PteGet { va: spoilt })?.level1;
    let set = |value| -> Result<()> {
        let level = 1;
        bob.call(
            APP,
            PteSet {
                va: spoilt,
                level,
                value,
            },
        )?;
        bob.invalidate(APP, spoilt, 1)
    };

    let here = (0, alice.buffer);
    let there = (slot, START);
    // All bytes are equal, so that comparisons reach the spoilt page.
    let uses: [(&str, bool, Descriptor); 5] = [
        ("put", true, memmove(here, there, SIZE)),
        ("get", false, memmove(there, here, SIZE)),
        ("fill", true, fill(0, there, SIZE)),
        ("compare", false, compare(here, there, SIZE)),
        ("compare value", false, compare_value(there, 0, SIZE)),
    ];
    for (name, writes, descriptor) in uses {
        let read_only: Spoil = ("read-only", |pte| pte & !WRITABLE);
        let spoils = SPOILS.iter().chain(writes.then_some(&read_only));
        let mut told: Option<Completion> = None;
        for (spoil, change) in spoils {
            let what = format!("{name}, {spoil}");
            let spoilt_frame = frames.read(&bob, SPOILT * PAGE, PAGE)?;
            set(change(good))?;
            let done = alice.execute_one(APP, &descriptor)?;
            set(good)?;

            assert_ended_remotely(&done, writes, &what);
            assert_eq!(done.fault_addr, AT, "{what}");
            assert_eq!(u64::from(done.bytes_completed), AT - START, "{what}");
            assert!(
                frames.read(&bob, SPOILT * PAGE, PAGE)? == spoilt_frame,
                "{what}: the page was reached all the same"
            );
            // Whatever the cause, the answer is the same to the bit, but for the ring's lap.
            let phaseless = done.with_phase(false);
            let same = *told.get_or_insert(phaseless);
            assert_eq!(phaseless.to_bytes(), same.to_bytes(), "{what}");

            let after = alice.execute_one(APP, &descriptor)?;
            assert_ended(&after, Status::Success, &format!("{what}, mended"));
        }
    }

    // Her own memory is hers to know about.
    set(0)?;
    let by_bob = bob.execute_one(APP, &memmove((0, spoilt), (0, bob.buffer), 64))?;
    assert_ended(&by_bob, Status::Stage1NotPresent, "bob himself");
    assert_eq!(by_bob.fault_addr, spoilt);
    Ok(())
}

#[track_caller]
fn assert_ended_remotely(done: &Completion, writes: bool, what: &str) {
    assert_eq!(done.status(), Some(Status::RemoteFault), "{what}: {done:?}");
    assert_eq!(done.is_write_fault(), writes, "{what}");
}
