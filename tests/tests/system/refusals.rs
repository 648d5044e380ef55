//! Every way in which a capability can fail to permit, times every way to use one: the status that says so, nothing
//! moved on either side, and the transfers before and after undisturbed.

use std::time::Duration;

use anyhow::Result;
use byway_agent::commands::{Derive, capability, capability_slot};
use byway_engine::EngineConfig;
use byway_protocols::{Completion, Descriptor, Rights, Status};
use byway_vmm::demo::report::status_name;

use super::world::{
    APP, KIB, MIB, Operand, Party, RW, RWG, assert_ended, batch, capability_is, compare,
    compare_value, engine, fill, memmove, turn,
};

/// Bytes that every capability here spans.
const SPAN: u64 = 64 * KIB;
/// Bytes of a transfer; a multiple of a list entry.
const SIZE: u64 = 4096;
const PATTERN: u64 = 0x0123_4567_89ab_cdef;

/// Offsets in alice's buffer: her operand, a list and its statuses.
const OPERAND: u64 = 0;
const LIST: u64 = SPAN;
const STATUSES: u64 = 2 * SPAN;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Nothing,
    Capability,
    WriteRight,
    ReadRight,
    Room,
    Revoked,
    Lifetime,
    ByteQuota,
}

const LACKS: [Lack; 8] = [
    Lack::Nothing,
    Lack::Capability,
    Lack::WriteRight,
    Lack::ReadRight,
    Lack::Room,
    Lack::Revoked,
    Lack::Lifetime,
    Lack::ByteQuota,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Source,
    Destination,
    Fill,
    CompareFirst,
    CompareSecond,
    CompareValue,
    ElementSource,
    ElementDestination,
    List,
    StatusArray,
}

const USES: [Use; 10] = [
    Use::Source,
    Use::Destination,
    Use::Fill,
    Use::CompareFirst,
    Use::CompareSecond,
    Use::CompareValue,
    Use::ElementSource,
    Use::ElementDestination,
    Use::List,
    Use::StatusArray,
];

impl Use {
    fn writes(self) -> bool {
        matches!(
            self,
            Self::Destination | Self::Fill | Self::ElementDestination | Self::StatusArray
        )
    }

    fn is_element(self) -> bool {
        matches!(self, Self::ElementSource | Self::ElementDestination)
    }

    /// The descriptor that uses the capability so; of an element, the element.
    fn descriptor(self, it: Operand, alice: &Party) -> Descriptor {
        let own = (0, alice.buffer + OPERAND);
        let (list, statuses) = ((0, alice.buffer + LIST), (0, alice.buffer + STATUSES));
        match self {
            Self::Source | Self::ElementSource => memmove(it, own, SIZE),
            Self::Destination | Self::ElementDestination => memmove(own, it, SIZE),
            Self::Fill => fill(PATTERN, it, SIZE),
            Self::CompareFirst => compare(it, own, SIZE),
            Self::CompareSecond => compare(own, it, SIZE),
            Self::CompareValue => compare_value(it, PATTERN, SIZE),
            Self::List => batch(it, statuses, SIZE / 64),
            Self::StatusArray => batch(list, it, SIZE / 32),
        }
    }
}

impl Lack {
    fn status(self, how: Use) -> Status {
        match self {
            Self::Nothing => Status::Success,
            Self::Capability => Status::NoCapability,
            Self::WriteRight if how.writes() => Status::MissingRight,
            Self::ReadRight if !how.writes() => Status::MissingRight,
            Self::WriteRight | Self::ReadRight => Status::Success,
            Self::Room => Status::Bounds,
            Self::Revoked | Self::Lifetime | Self::ByteQuota => Status::Revoked,
        }
    }

    /// Where the transfer begins; a list entry's and a status's alignment hold everywhere.
    fn offset(self, how: Use) -> u64 {
        match (self, how) {
            (Self::Room, Use::List | Use::StatusArray) => SPAN - SIZE + 64,
            // A single byte too many.
            (Self::Room, _) => SPAN - SIZE + 1,
            _ => 0,
        }
    }

    /// Puts such a capability into one of alice's slots. `whole` is hers, with all rights over what bob gave.
    fn slot(self, alice: &Party, bob: &Party, whole: u16) -> Result<u16> {
        Ok(match self {
            Self::Nothing | Self::Room => bob.give(alice, 0, SPAN, RW)?.1,
            Self::Capability => 60,
            Self::WriteRight => bob.give(alice, 0, SPAN, Rights::READ)?.1,
            Self::ReadRight => bob.give(alice, 0, SPAN, Rights::WRITE)?.1,
            Self::Revoked => {
                let (given, slot) = bob.give(alice, 0, SPAN, RW)?;
                bob.revoke(APP, given)?;
                slot
            }
            Self::Lifetime => {
                let slot = limited(alice, whole, 1_000_000, 0)?;
                std::thread::sleep(Duration::from_millis(5));
                slot
            }
            Self::ByteQuota => {
                let slot = limited(alice, whole, 0, 2 * SIZE)?;
                let own = (0, alice.buffer + OPERAND);
                let get = memmove((slot, 0), own, SIZE);
                assert_ended(
                    &alice.execute_one(APP, &get)?,
                    Status::Success,
                    "half of it",
                );
                // More than is left is refused as a whole.
                let more = memmove((slot, 0), own, SIZE + 1);
                let refused = alice.execute_one(APP, &more)?;
                assert_ended(&refused, Status::Revoked, "more than is left");
                assert_eq!(refused.bytes_completed, 0);
                assert_ended(&alice.execute_one(APP, &get)?, Status::Success, "the rest");
                slot
            }
        })
    }
}

/// A capability with a lifetime in nanoseconds or a byte quota, derived by alice from her own.
fn limited(alice: &Party, parent: u16, lifetime_ns: u64, byte_quota: u64) -> Result<u16> {
    let context = alice.context(APP)?;
    let derive = Derive {
        parent: capability(context, u64::from(parent)),
        target: capability(context, 0),
        base: 0,
        length: SPAN,
        rights: u64::from(RW.0),
        badge: 0,
        lifetime_ns,
        byte_quota,
    };
    Ok(capability_slot(alice.call(APP, derive)?.capability) as u16)
}

#[test]
fn whatever_a_capability_lacks_however_it_is_used() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let (_, whole) = bob.give(&alice, 0, SPAN, RWG)?;
    // What goes on beside the refusals: another part of both buffers.
    let (_, aside) = bob.give(&alice, MIB, MIB, RW)?;

    for lack in LACKS {
        let slot = lack.slot(&alice, &bob, whole)?;
        for (seed, how) in (100..).zip(USES) {
            let expected = lack.status(how);
            // Bob's bytes as a list would be run as descriptors. That is alice's own risk, but no refusal.
            if how == Use::List && expected == Status::Success {
                continue;
            }
            one(&alice, &bob, (slot, aside), lack, how, seed)?;
        }
        if lack == Lack::Lifetime || lack == Lack::ByteQuota {
            assert_eq!(capability_is(&alice, slot)?.state, 3, "{lack:?}");
        }
        if lack != Lack::Capability {
            alice.drop_capability(APP, slot)?;
        }
    }
    Ok(())
}

/// One use of one capability, between two good transfers.
fn one(
    alice: &Party,
    bob: &Party,
    (slot, aside): (u16, u16),
    lack: Lack,
    how: Use,
    seed: u64,
) -> Result<()> {
    let what = format!("{how:?} with a lack of {lack:?}");
    let expected = lack.status(how);
    alice.mark(0x11)?;
    alice.fill(MIB, MIB, seed)?;
    bob.mark(0x22)?;
    let element = how.descriptor((slot, lack.offset(how)), alice);
    let nops = vec![Descriptor::default(); (SIZE / 32) as usize];
    let list: Vec<u8> = match how.is_element() {
        true => element.to_bytes().to_vec(),
        false => nops.iter().flat_map(Descriptor::to_bytes).collect(),
    };
    alice.put_by_host(LIST, &list)?;
    let tried = match how.is_element() {
        true => batch((0, alice.buffer + LIST), (0, alice.buffer + STATUSES), 1),
        false => element,
    };

    let half = MIB / 2;
    let good = |part: u64| memmove((0, alice.buffer + MIB + part), (aside, part), half);
    let done = alice.execute(APP, &[good(0), tried, good(half)])?;
    assert_ended(&done[0], Status::Success, &format!("before {what}"));
    assert_ended(&done[2], Status::Success, &format!("after {what}"));
    bob.expect(MIB, MIB, seed)?;

    let mut ended = done[1];
    if how.is_element() {
        let batch_status = match expected {
            Status::Success => Status::Success,
            _ => Status::BatchFailed,
        };
        assert_ended(&ended, batch_status, &what);
        let status = alice.see(STATUSES, 32)?;
        ended = Completion::from_bytes(status.first_chunk().expect("32 bytes"));
    }
    assert_eq!(
        status_name(ended.status),
        status_name(expected as u8),
        "{what}"
    );
    if expected == Status::Success {
        return Ok(());
    }
    assert_eq!((ended.bytes_completed, ended.fault_addr), (0, 0), "{what}");
    let untouched = |seen: Vec<u8>, byte: u8| seen.iter().all(|found| *found == byte);
    assert!(
        untouched(alice.see(OPERAND, SPAN)?, 0x11),
        "{what}: alice's"
    );
    assert!(untouched(bob.see(0, SPAN)?, 0x22), "{what}: bob's");
    if !how.is_element() {
        assert!(
            untouched(alice.see(STATUSES, SPAN)?, 0x11),
            "{what}: statuses"
        );
    }
    Ok(())
}
