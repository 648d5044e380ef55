//! The books: who gave what to whom, how much went through it, how it ended.

use byway_protocols::control::{CapDeriveRequest, RequestKind};
use byway_protocols::{Rights, Status};

use super::world::{BUFFER, BUFFER_BYTES, Vm, copy, pair, until};
use crate::Engine;
use crate::capability::PAST_MAX;
use crate::interface::{Action, Admin, AuditBooks, AuditEnding, AuditParty, AuditRecord, Reply};

fn books(engine: &Engine, name: &str, limit: u32) -> AuditBooks {
    let name = name.to_owned();
    match engine.act(Action::Audit { name, limit }) {
        Ok(Reply::Audit(books)) => books,
        other => panic!("{other:?}"),
    }
}

fn slot_of(vm: &Vm, name: &str, slot: u32) -> AuditParty {
    AuditParty::Slot {
        domain: vm.id,
        name: Some(name.to_owned()),
        context: vm.context,
        slot: slot as u16,
    }
}

fn how(record: &AuditRecord) -> Option<AuditEnding> {
    record.end.as_ref().map(|end| end.how.clone())
}

#[test]
fn a_gift_is_on_the_books_from_its_giving_to_its_end() {
    let (engine, mut alice, mut bob) = pair();
    let (slot, remote) = bob.give_buffer(&mut alice, Rights(3));
    let put = copy((0, BUFFER), (remote, 0), 5000);
    let get = copy((remote, 0), (0, BUFFER), 300);
    assert_eq!(alice.run_for(&put), Status::Success);
    assert_eq!(alice.run_for(&get), Status::Success);

    let now = books(&engine, "bob", 100);
    assert_eq!((now.live_total, now.live.len(), now.past.len()), (2, 2, 0));
    let own = now.live.iter().find(|r| r.depth == 1).unwrap();
    assert_eq!((&own.giver, own.parent), (&AuditParty::Owner, None));
    assert_eq!(own.holder, slot_of(&bob, "bob", slot));
    assert_eq!((own.bytes_read, own.bytes_written), (0, 0));
    let given = now.live.iter().find(|r| r.depth == 2).unwrap();
    assert_eq!(given.parent, Some(own.id));
    assert_eq!(given.giver, slot_of(&bob, "bob", slot));
    assert_eq!(given.holder, slot_of(&alice, "alice", u32::from(remote)));
    assert_eq!((given.base, given.length), (BUFFER, BUFFER_BYTES));
    assert!(given.read && given.write && !given.grant && given.end.is_none());
    assert_eq!((given.bytes_read, given.bytes_written), (300, 5000));
    assert!(given.given_ms >= own.given_ms && own.given_ms > 0);
    // It is bob's memory: nothing of it is on alice's books.
    assert_eq!(books(&engine, "alice", 100), AuditBooks::default());

    bob.revoke(slot).unwrap();
    until("the dead are buried", || {
        books(&engine, "bob", 100).past.len() == 2
    });
    let now = books(&engine, "bob", 100);
    assert_eq!(now.live_total, 0);
    let past = now.past.iter().find(|r| r.id == given.id).unwrap();
    assert_eq!((past.bytes_read, past.bytes_written), (300, 5000));
    assert_eq!(past.holder, given.holder);
    let by_bob = AuditEnding::Revoked {
        by: bob.id,
        name: Some("bob".to_owned()),
    };
    assert!(now.past.iter().all(|r| how(r) == Some(by_bob.clone())));
    let end = past.end.as_ref().unwrap();
    assert!(end.at_ms >= given.given_ms);
    // It travels as text.
    let text = serde_json::to_string(&Reply::Audit(now.clone())).unwrap();
    assert_eq!(
        serde_json::from_str::<Reply>(&text).unwrap(),
        Reply::Audit(now)
    );
}

#[test]
fn each_end_has_its_name() {
    let (engine, mut alice, mut bob) = pair();
    let ends = |count| {
        until("as many ends", || {
            books(&engine, "bob", 100).past.len() == count
        });
        let past = books(&engine, "bob", 100).past;
        past.iter().map(|r| how(r).unwrap()).collect::<Vec<_>>()
    };
    // Alice drops hers, and bob his.
    let (slot, remote) = bob.give_buffer(&mut alice, Rights::ALL);
    let drop = RequestKind::CapDrop;
    alice.slot_request(drop, u32::from(remote)).unwrap();
    bob.slot_request(drop, slot).unwrap();
    assert_eq!(ends(2), [AuditEnding::Dropped, AuditEnding::Dropped]);
    // The holder revokes its own.
    let (slot, remote) = bob.give_buffer(&mut alice, Rights::ALL);
    alice.revoke(u32::from(remote)).unwrap();
    let by_alice = AuditEnding::Revoked {
        by: alice.id,
        name: Some("alice".to_owned()),
    };
    assert_eq!(ends(3)[2], by_alice);
    bob.slot_request(drop, slot).unwrap();
    ends(4);
    alice.slot_request(drop, u32::from(remote)).unwrap();
    // The operator takes the link away. A tombstone that is dropped before it is buried
    // was revoked all the same.
    let (_, remote) = bob.give_buffer(&mut alice, Rights::ALL);
    let (from, to) = ("bob".to_owned(), "alice".to_owned());
    engine.act(Action::Unlink { from, to }).unwrap();
    alice.slot_request(drop, u32::from(remote)).unwrap();
    assert_eq!(ends(5)[4], AuditEnding::LinkEnded);
    // The context goes, then the domain.
    let context = bob.context;
    bob.destroy_context(context).unwrap();
    assert_eq!(ends(6)[5], AuditEnding::ContextDestroyed);
    bob.context = bob.create_context();
    bob.derive(BUFFER, 64, Rights::READ);
    bob.device.reset();
    assert_eq!(ends(7)[6], AuditEnding::OwnerReset);
}

#[test]
fn the_books_are_bounded_and_say_what_is_missing() {
    let (engine, _alice, mut bob) = pair();
    let top = bob.derive(BUFFER, 64, Rights::ALL);
    let q = CapDeriveRequest {
        context: bob.context,
        slot: top,
        length: 1,
        rights: 1,
        target_context: bob.context,
        target_slot: 3,
        ..CapDeriveRequest::default()
    };
    for _ in 0..PAST_MAX + 10 {
        bob.ask::<8>(RequestKind::CapDerive, &q.to_bytes()).unwrap();
        bob.slot_request(RequestKind::CapDrop, 3).unwrap();
    }
    let all = books(&engine, "bob", u32::MAX);
    assert_eq!((all.past.len(), all.forgotten), (PAST_MAX, 10));
    assert!(all.past.is_sorted_by_key(|r| r.id));
    let some = books(&engine, "bob", 3);
    assert_eq!(some.past, all.past[PAST_MAX - 3..]);
    assert_eq!((some.live.len(), some.live_total), (1, 1));
    let none = books(&engine, "bob", 0);
    assert_eq!((none.live.len(), none.live_total), (0, 1));
}
