//! Accessed and dirty bits in the owner's page tables: exactly the pages that a transfer reached.

use anyhow::Result;
use byway_agent::commands::{ProtectPages, PteGet};
use byway_engine::EngineConfig;
use byway_protocols::{Descriptor, Status};
use byway_vmm::steer::PAGE_4K;

use super::world::{
    APP, MIB, PAGE, Party, RW, assert_ended, batch, compare, compare_value, engine, fill, memmove,
    turn,
};

const PAGES: u64 = 12;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

struct Owner<'p> {
    bob: &'p Party,
    base: u64,
}

impl Owner<'_> {
    /// Clears both bits everywhere.
    fn clear(&self) -> Result<()> {
        let protect = ProtectPages {
            va: self.base,
            bytes: PAGES * PAGE,
            set: 0,
            clear: ACCESSED | DIRTY,
        };
        self.bob.call(APP, protect)?;
        self.bob.invalidate(APP, self.base, PAGES)
    }

    /// The pages' bits.
    fn bits(&self) -> Result<Vec<u64>> {
        let bits = |page| {
            let va = self.base + page * PAGE;
            let entry = self.bob.call(APP, PteGet { va })?.level1;
            Ok(entry & (ACCESSED | DIRTY))
        };
        (0..PAGES).map(bits).collect()
    }
}

/// `bits` in the pages from `first` to `last`, nothing in the others.
fn only(first: u64, last: u64, bits: u64) -> Vec<u64> {
    (0..PAGES)
        .map(|page| u64::from((first..=last).contains(&page)) * bits)
        .collect()
}

#[test]
fn exactly_the_pages_that_were_reached() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let base = bob.alloc(APP, PAGES * PAGE, PAGE_4K)?;
    let own = bob.derive(APP, 0, base, PAGES * PAGE, RW)?;
    let slot = bob.pass_on(&alice, own, RW)?;
    let owner = Owner { bob: &bob, base };

    let here = (0, alice.buffer);
    let both = ACCESSED | DIRTY;
    // From the last byte of page 3 to the first of page 6.
    let (from, size) = (4 * PAGE - 1, 2 * PAGE + 2);
    let inside = (slot, from);
    let list = alice.buffer + MIB;
    let element = memmove((0, alice.buffer), (slot, 9 * PAGE + 5), 64);
    alice.write(APP, list, &element.to_bytes())?;
    let cases: [(&str, Descriptor, Vec<u64>); 8] = [
        ("a put", memmove(here, inside, size), only(3, 6, both)),
        ("a get", memmove(inside, here, size), only(3, 6, ACCESSED)),
        ("a fill", fill(1, inside, size), only(3, 6, both)),
        ("one byte", fill(1, (slot, 7 * PAGE), 1), only(7, 7, both)),
        (
            "a whole page",
            memmove(here, (slot, 5 * PAGE), PAGE),
            only(5, 5, both),
        ),
        (
            "a comparison",
            compare(inside, inside, size),
            only(3, 6, ACCESSED),
        ),
        (
            "a comparison with a value",
            compare_value((slot, 2 * PAGE), 0, 64),
            only(2, 2, ACCESSED),
        ),
        (
            "an element of a batch",
            batch((0, list), (0, list + 64), 1),
            only(9, 9, both),
        ),
    ];
    for (what, descriptor, expected) in cases {
        owner.clear()?;
        assert_eq!(owner.bits()?, only(1, 0, 0), "before {what}");
        let done = alice.execute_one(APP, &descriptor)?;
        assert_ended(&done, Status::Success, what);
        assert_eq!(owner.bits()?, expected, "{what}");
    }

    // A read that is remembered does not hide a write after it, nor a write what bob has since cleared.
    owner.clear()?;
    for (descriptor, expected) in [
        (memmove((slot, 0), here, 64), only(0, 0, ACCESSED)),
        (memmove(here, (slot, 0), 64), only(0, 0, both)),
    ] {
        let done = alice.execute_one(APP, &descriptor)?;
        assert_ended(&done, Status::Success, "one after the other");
        assert_eq!(owner.bits()?, expected);
    }

    // What is refused sets nothing.
    owner.clear()?;
    let beyond = memmove(here, (slot, PAGES * PAGE - 63), 64);
    assert_ended(&alice.execute_one(APP, &beyond)?, Status::Bounds, "beyond");
    assert_eq!(owner.bits()?, only(1, 0, 0));
    Ok(())
}
