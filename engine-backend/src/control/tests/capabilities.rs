//! Capabilities: every status of their requests, the policy of links, and who is told.

use byway_protocols::ControlStatus::{
    self, BadArgument, Bounds, Depth, InUse, MissingRight, NoLink, NoSuchObject, Quota, Revoked,
    Unsupported,
};
use byway_protocols::Rights;
use byway_protocols::control::{
    CapDeriveRequest, CapOfferReply, CapOfferRequest, ContextDestroyRequest, RequestKind, features,
    revoke_flags,
};
use byway_protocols::event::EventKind;

use super::{SLOTS_MAX, World, within};
use crate::interface::Quotas;

const READ: Rights = Rights::READ;
const WRITE: Rights = Rights::WRITE;
const GRANT: Rights = Rights::GRANT;
const ALL: Rights = Rights::ALL;

#[test]
fn derive_refuses_what_would_be_wider() {
    let w = World::new();
    let a = w.alice.context();
    let good = within(a, 0);
    assert_eq!(w.alice.derive(&good), Ok(1));
    let parent = CapDeriveRequest {
        base: 1000,
        length: 100,
        rights: (READ | GRANT).0,
        ..good
    };
    assert_eq!(
        w.alice.derive(&CapDeriveRequest {
            target_slot: 5,
            ..parent
        }),
        Ok(5)
    );

    let from = within(a, 5);
    let cases = [
        (CapDeriveRequest { length: 0, ..from }, BadArgument),
        (CapDeriveRequest { rights: 0, ..from }, BadArgument),
        (
            CapDeriveRequest {
                rights: 1024,
                ..from
            },
            BadArgument,
        ),
        (CapDeriveRequest { slot: 8, ..from }, BadArgument),
        (
            CapDeriveRequest {
                target_slot: 8,
                ..from
            },
            BadArgument,
        ),
        (
            CapDeriveRequest {
                context: 99,
                ..from
            },
            NoSuchObject,
        ),
        (
            CapDeriveRequest {
                target_context: 99,
                ..from
            },
            NoSuchObject,
        ),
        (CapDeriveRequest { slot: 6, ..from }, NoSuchObject),
        (
            CapDeriveRequest {
                target_slot: 5,
                ..from
            },
            InUse,
        ),
        (
            CapDeriveRequest {
                rights: WRITE.0,
                ..from
            },
            MissingRight,
        ),
        (
            CapDeriveRequest {
                length: 101,
                ..from
            },
            Bounds,
        ),
        (CapDeriveRequest { base: 37, ..from }, Bounds),
        (
            CapDeriveRequest {
                base: u64::MAX,
                length: 2,
                ..from
            },
            Bounds,
        ),
        (
            CapDeriveRequest {
                base: u64::MAX,
                length: 2,
                ..good
            },
            Bounds,
        ),
    ];
    for (q, status) in cases {
        assert_eq!(w.alice.derive(&q), Err(status), "{q:?}");
    }
    assert_eq!(w.alice.domain.info().capabilities, 2, "nothing has changed");
    assert_eq!(
        w.alice.derive(&CapDeriveRequest { base: 36, ..from }),
        Ok(2)
    );

    // Another context of the same domain.
    let b = w.alice.context();
    let q = CapDeriveRequest {
        target_context: b,
        badge: 9,
        ..from
    };
    assert_eq!(w.alice.derive(&q), Ok(1));
    let report = w.alice.look(b, 1).unwrap();
    assert_eq!((report.state, report.depth, report.badge), (1, 2, 9));
    assert_eq!((report.rights, report.length), (READ.0, 64));
    assert_eq!(report.domain, w.alice.domain.id());

    w.alice.revoke(a, 5).unwrap();
    assert_eq!(w.alice.derive(&from), Err(Revoked));
}

#[test]
fn depth_ends_at_sixteen() {
    let w = World::new();
    let q = byway_protocols::control::ContextCreateRequest {
        pasid: 0,
        slots: SLOTS_MAX,
    };
    let reply: byway_protocols::control::ContextCreateReply =
        w.alice.ask(RequestKind::ContextCreate, &q).unwrap();
    let a = reply.context;
    for depth in 1..=16 {
        let slot = w.alice.derive(&within(a, depth - 1)).unwrap();
        assert_eq!(slot, depth);
        assert_eq!(w.alice.look(a, slot).unwrap().depth, depth);
    }
    assert_eq!(w.alice.derive(&within(a, 16)), Err(Depth));
    w.link_all();
    assert_eq!(w.alice.offer(a, 16, &w.bob, READ), Err(Depth));
    assert_eq!(w.alice.look(a, 1).unwrap().descendants, 15);
}

#[test]
fn lifetimes_and_quotas_need_their_features() {
    let w = World::silent(Quotas::default());
    w.alice.domain.set_ready(features::EXPIRY);
    let a = w.alice.context();
    let mortal = CapDeriveRequest {
        lifetime_ns: 1,
        ..within(a, 0)
    };
    assert_eq!(w.alice.derive(&mortal), Ok(1));
    assert_eq!(w.alice.look(a, 1).unwrap().state, 3, "expired");
    let limited = CapDeriveRequest {
        byte_quota: 1,
        ..within(a, 0)
    };
    assert_eq!(w.alice.derive(&limited), Err(Unsupported));
    w.bob.domain.set_ready(features::BYTE_QUOTA);
    let b = w.bob.context();
    assert_eq!(
        w.bob.derive(&CapDeriveRequest {
            context: b,
            target_context: b,
            ..mortal
        }),
        Err(Unsupported)
    );
    assert_eq!(
        w.bob.derive(&CapDeriveRequest {
            context: b,
            target_context: b,
            ..limited
        }),
        Ok(1)
    );
}

#[test]
fn the_quota_of_capabilities_covers_those_given_away() {
    let w = World::with_quotas(Quotas {
        capabilities: 3,
        offers: 2,
        ..Quotas::default()
    });
    w.link_all();
    let (a, b) = (w.alice.context(), w.bob.context());
    let slot = w.alice.own(a, 64, ALL);
    w.alice.give(a, slot, &w.bob, b, ALL);
    // Bob derives on his own account.
    for _ in 0..3 {
        w.bob.derive(&within(b, 1)).unwrap();
    }
    assert_eq!(w.bob.derive(&within(b, 1)), Err(Quota));
    w.alice.own(a, 64, READ);
    assert_eq!(w.alice.derive(&within(a, 0)), Err(Quota));
    assert_eq!(w.alice.offer(a, slot, &w.bob, READ), Err(Quota));
    // Bob keeps his tombstones; alice has her quota back all the same.
    w.alice
        .slot_request(
            RequestKind::CapRevoke,
            a,
            slot,
            revoke_flags::DESCENDANTS_ONLY,
        )
        .unwrap();
    w.reap();
    assert_eq!(w.bob.look(b, 2).unwrap().state, 2);
    assert!(w.alice.derive(&within(a, 0)).is_ok());
    assert!(w.bob.derive(&within(b, 0)).is_ok());

    // Offers that wait are bounded as well.
    let w = World::with_quotas(Quotas {
        offers: 2,
        ..Quotas::default()
    });
    w.link_all();
    let a = w.alice.context();
    let slot = w.alice.own(a, 64, ALL);
    let first = w.alice.offer(a, slot, &w.bob, READ).unwrap();
    w.alice.offer(a, slot, &w.carol, READ).unwrap();
    assert_eq!(w.alice.offer(a, slot, &w.bob, READ), Err(Quota));
    let b = w.bob.context();
    w.bob.accept(first, b, 0).unwrap();
    assert!(w.alice.offer(a, slot, &w.bob, READ).is_ok());
}

#[test]
fn a_full_table_takes_no_more() {
    let w = World::new();
    w.link_all();
    let (a, b) = (w.alice.context(), w.bob.context());
    for slot in 1..8 {
        assert_eq!(w.alice.derive(&within(a, 0)), Ok(slot));
    }
    assert_eq!(w.alice.derive(&within(a, 0)), Err(Quota));
    let slot = w.bob.own(b, 64, ALL);
    let offer = w.bob.offer(b, slot, &w.alice, READ).unwrap();
    assert_eq!(w.alice.accept(offer, a, 0), Err(Quota));
    assert_eq!(w.alice.accept(offer, a, 3), Err(InUse));
    assert_eq!(w.alice.accept(offer, a, 8), Err(BadArgument));
    assert_eq!(w.alice.accept(offer, 99, 0), Err(NoSuchObject));
    // None of that cost the offer.
    w.alice.drop_slot(a, 3).unwrap();
    assert_eq!(w.alice.accept(offer, a, 0).unwrap().slot, 3);
}

/// Every combination of what a link permits, what is held and what is asked.
#[test]
fn links_permit_no_more_than_they_say() {
    let w = World::new();
    let (a, b) = (w.alice.context(), w.bob.context());
    let held: Vec<_> = (1..8)
        .map(|rights| w.alice.own(a, 100, Rights(rights)))
        .collect();
    for permitted in 0..8 {
        for max_bytes in [99, 100, u64::MAX] {
            w.link(&w.alice, &w.bob, Rights(permitted), max_bytes);
            for (has, &slot) in (1..8).zip(&held) {
                for asked in 1..8u32 {
                    let outcome = w.alice.offer(a, slot, &w.bob, Rights(asked));
                    let expected = if asked & !permitted != 0 {
                        Err(MissingRight)
                    } else if max_bytes < 100 {
                        Err(Bounds)
                    } else if asked & !has != 0 {
                        Err(MissingRight)
                    } else {
                        Ok(())
                    };
                    assert_eq!(
                        outcome.map(|_| ()),
                        expected,
                        "{permitted} {has} {asked} {max_bytes}"
                    );
                    if let Ok(offer) = outcome {
                        let accepted = w.bob.accept(offer, b, 1).unwrap();
                        assert_eq!((accepted.rights, accepted.length), (asked, 100));
                        assert_eq!(accepted.domain, w.alice.domain.id());
                        w.bob.drop_slot(b, 1).unwrap();
                    }
                    // A link has one direction.
                    assert_eq!(w.bob.offer(b, 2, &w.alice, READ), Err(NoSuchObject));
                }
            }
        }
    }
    w.bob.own(b, 64, ALL);
    assert_eq!(w.bob.offer(b, 1, &w.alice, READ), Err(NoLink));
    assert_eq!(w.alice.offer(a, held[0], &w.carol, READ), Err(NoLink));
}

#[test]
fn offer_refuses_what_makes_no_sense() {
    let w = World::new();
    w.link_all();
    let a = w.alice.context();
    let slot = w.alice.own(a, 64, ALL);
    let good = CapOfferRequest {
        context: a,
        slot,
        domain: w.bob.domain.id(),
        rights: 1,
        ..CapOfferRequest::default()
    };
    let cases = [
        (CapOfferRequest { slot: 0, ..good }, BadArgument),
        (CapOfferRequest { slot: 8, ..good }, BadArgument),
        (CapOfferRequest { rights: 0, ..good }, BadArgument),
        (
            CapOfferRequest {
                rights: 1024,
                ..good
            },
            BadArgument,
        ),
        (
            CapOfferRequest {
                domain: w.alice.domain.id(),
                ..good
            },
            BadArgument,
        ),
        (CapOfferRequest { slot: 5, ..good }, NoSuchObject),
        (
            CapOfferRequest {
                context: 99,
                ..good
            },
            NoSuchObject,
        ),
        (CapOfferRequest { domain: 99, ..good }, NoLink),
    ];
    for (q, status) in cases {
        let refused: Result<CapOfferReply, ControlStatus> = w.alice.ask(RequestKind::CapOffer, &q);
        assert_eq!(refused.map(|r| r.offer), Err(status), "{q:?}");
    }
    assert!(w.core.exchange().is_empty());
    assert!(w.bob.events().is_empty());

    w.alice.revoke(a, slot).unwrap();
    assert_eq!(w.alice.offer(a, slot, &w.bob, READ), Err(Revoked));

    // A peer whose driver is not there cannot be told.
    let slot = w.alice.own(a, 64, ALL);
    w.bob.domain.reset();
    assert_eq!(w.alice.offer(a, slot, &w.bob, READ), Err(NoSuchObject));
}

#[test]
fn an_offer_is_for_one_and_for_once() {
    let w = World::new();
    w.link_all();
    let (a, b, c) = (w.alice.context(), w.bob.context(), w.carol.context());
    let slot = w.alice.own(a, 4096, ALL);
    let offer = w.alice.offer(a, slot, &w.bob, READ | WRITE).unwrap();

    let told = w.bob.events();
    assert_eq!(told.len(), 1);
    let e = told[0];
    assert_eq!(e.kind, EventKind::CapabilityOffered as u16);
    assert_eq!((e.object, e.id, e.label), (w.alice.domain.id(), offer, 5));
    assert_eq!((e.length, e.rights), (4096, 3));
    assert!(w.carol.events().is_empty());

    assert_eq!(w.carol.accept(offer, c, 0), Err(NoSuchObject));
    assert_eq!(w.alice.accept(offer, a, 0), Err(NoSuchObject));
    assert_eq!(w.bob.accept(offer + 1, b, 0), Err(NoSuchObject));
    let accepted = w.bob.accept(offer, b, 7).unwrap();
    assert_eq!((accepted.slot, accepted.rights), (7, 3));
    assert_eq!(w.bob.accept(offer, b, 0), Err(NoSuchObject));
    assert_eq!(w.bob.look(b, 7).unwrap().depth, 2);
}

#[test]
fn offers_end_with_what_they_are_of() {
    let w = World::new();
    w.link_all();
    let (a, b) = (w.alice.context(), w.bob.context());
    let offered = |own: &dyn Fn() -> u32| {
        let slot = own();
        (slot, w.alice.offer(a, slot, &w.bob, READ).unwrap())
    };
    let fresh = || w.alice.own(a, 64, ALL);

    // Revoked: refused at once, and gone once reaped.
    let (slot, offer) = offered(&fresh);
    w.alice.revoke(a, slot).unwrap();
    let (_, other) = offered(&fresh);
    w.reap();
    assert_eq!(w.bob.accept(offer, b, 0), Err(NoSuchObject));
    let (slot, offer) = offered(&fresh);
    w.alice.revoke(a, slot).unwrap();
    assert_eq!(w.bob.accept(offer, b, 0), Err(Revoked));
    assert!(w.bob.accept(other, b, 0).is_ok(), "a sibling lives");

    // Dropped.
    let (slot, offer) = offered(&fresh);
    w.alice.drop_slot(a, slot).unwrap();
    assert_eq!(w.bob.accept(offer, b, 0), Err(NoSuchObject));

    // The link goes.
    let (_, offer) = offered(&fresh);
    w.unlink(&w.alice, &w.bob);
    w.reap();
    assert_eq!(w.bob.accept(offer, b, 0), Err(NoSuchObject));
    w.link_all();

    // The context goes.
    let (_, offer) = offered(&fresh);
    let q = ContextDestroyRequest {
        context: a,
        reserved4: 0,
    };
    w.alice.do_it(RequestKind::ContextDestroy, &q).unwrap();
    assert_eq!(w.bob.accept(offer, b, 0), Err(NoSuchObject));

    // Either side resets.
    for resets in [&w.alice, &w.bob] {
        let a = w.alice.context();
        let b = w.bob.context();
        let slot = w.alice.own(a, 64, ALL);
        let offer = w.alice.offer(a, slot, &w.bob, READ).unwrap();
        resets.domain.reset();
        resets.query();
        let b = if resets.domain.id() == w.bob.domain.id() {
            w.bob.context()
        } else {
            b
        };
        assert_eq!(w.bob.accept(offer, b, 0), Err(NoSuchObject));
    }
    assert!(w.core.exchange().is_empty());
}

#[test]
fn passing_on_needs_grant_and_the_owners_link_too() {
    let w = World::new();
    w.link(&w.alice, &w.bob, ALL, u64::MAX);
    w.link(&w.bob, &w.carol, ALL, u64::MAX);
    let (a, b, c) = (w.alice.context(), w.bob.context(), w.carol.context());
    let slot = w.alice.own(a, 64, ALL);
    let bare = w.alice.give(a, slot, &w.bob, b, READ);
    let with_grant = w.alice.give(a, slot, &w.bob, b, READ | GRANT);

    assert_eq!(w.bob.derive(&within(b, bare)), Err(MissingRight));
    assert!(w.bob.derive(&within(b, with_grant)).is_ok());
    // Bob may give to carol, but the operator has not said that she may reach alice.
    assert_eq!(w.bob.offer(b, with_grant, &w.carol, READ), Err(NoLink));
    w.link(&w.alice, &w.carol, WRITE, u64::MAX);
    assert_eq!(
        w.bob.offer(b, with_grant, &w.carol, READ),
        Err(MissingRight)
    );
    w.link(&w.alice, &w.carol, READ, 63);
    assert_eq!(w.bob.offer(b, with_grant, &w.carol, READ), Err(Bounds));
    w.link(&w.alice, &w.carol, READ, 64);
    assert_eq!(w.bob.offer(b, bare, &w.carol, READ), Err(MissingRight));
    let got = w.bob.give(b, with_grant, &w.carol, c, READ);
    assert_eq!(w.carol.look(c, got).unwrap().domain, w.alice.domain.id());
    assert_eq!(w.carol.look(c, got).unwrap().depth, 3);

    // Ending either link ends it; what bob holds is untouched by alice's to carol.
    w.unlink(&w.alice, &w.carol);
    assert_eq!(w.carol.look(c, got).unwrap().state, 2);
    assert_eq!(w.bob.look(b, with_grant).unwrap().state, 1);
    w.unlink(&w.alice, &w.bob);
    assert_eq!(w.bob.look(b, with_grant).unwrap().state, 2);
    assert_eq!(w.alice.look(a, slot).unwrap().state, 1);
}

#[test]
fn changing_a_link_ends_what_it_no_longer_covers() {
    let w = World::new();
    w.link(&w.alice, &w.bob, READ, 4096);
    let (a, b) = (w.alice.context(), w.bob.context());
    let slot = w.alice.own(a, 64, ALL);
    let got = w.alice.give(a, slot, &w.bob, b, READ);
    w.link(&w.alice, &w.bob, READ | WRITE, u64::MAX);
    assert_eq!(w.bob.look(b, got).unwrap().state, 1, "widened");
    let more = w.alice.give(a, slot, &w.bob, b, WRITE);
    w.link(&w.alice, &w.bob, READ, u64::MAX);
    for slot in [got, more] {
        assert_eq!(w.bob.look(b, slot).unwrap().state, 2, "narrowed");
    }
    w.reap();
    let told = w.bob.events_of(EventKind::CapabilityRevoked);
    assert_eq!(told.len(), 2);
}

#[test]
fn revocation_reaches_everything_below_and_nothing_else() {
    let w = World::new();
    w.link_all();
    let (a, b, c) = (w.alice.context(), w.bob.context(), w.carol.context());
    let top = w.alice.own(a, 4096, ALL);
    let sibling = w.alice.own(a, 4096, ALL);
    let at_bob = w.alice.give(a, top, &w.bob, b, ALL);
    let narrowed = w
        .bob
        .derive(&CapDeriveRequest {
            rights: ALL.0,
            ..within(b, at_bob)
        })
        .unwrap();
    let at_carol = w.bob.give(b, narrowed, &w.carol, c, READ);
    let other = w.alice.give(a, sibling, &w.carol, c, READ);
    assert_eq!(w.alice.look(a, top).unwrap().descendants, 3);
    for side in [&w.alice, &w.bob, &w.carol] {
        side.events();
    }

    // Any holder may end what it holds, and no more.
    w.bob.revoke(b, narrowed).unwrap();
    assert_eq!(w.carol.look(c, at_carol).unwrap().state, 2);
    assert_eq!(w.bob.look(b, narrowed).unwrap().state, 2);
    assert_eq!(w.bob.look(b, at_bob).unwrap().state, 1);
    w.reap();
    let told = w.carol.events();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].kind, EventKind::CapabilityRevoked as u16);
    assert_eq!((told[0].context, told[0].id), (c, u64::from(at_carol)));
    assert!(w.bob.events().is_empty(), "who revokes knows");

    // The owner spares its own.
    let spare = revoke_flags::DESCENDANTS_ONLY;
    w.alice
        .slot_request(RequestKind::CapRevoke, a, top, spare)
        .unwrap();
    w.reap();
    assert_eq!(w.alice.look(a, top).unwrap().state, 1);
    assert_eq!(w.bob.look(b, at_bob).unwrap().state, 2);
    assert_eq!(w.bob.events().len(), 1);
    let again = w.alice.give(a, top, &w.bob, b, READ);
    w.bob.events();
    assert_eq!(
        w.bob.look(b, again).unwrap().state,
        1,
        "what comes later lives"
    );

    w.alice.revoke(a, top).unwrap();
    assert_eq!(w.alice.revoke(a, top), Ok(()), "twice is no error");
    w.reap();
    assert_eq!(w.bob.events().len(), 1);
    assert!(w.alice.events().is_empty());
    assert_eq!(w.carol.look(c, other).unwrap().state, 1);

    // A slot stays taken until it is dropped.
    let q = CapDeriveRequest {
        target_slot: top,
        ..within(a, 0)
    };
    assert_eq!(w.alice.derive(&q), Err(InUse));
    w.alice.drop_slot(a, top).unwrap();
    assert_eq!(w.alice.derive(&q), Ok(top));
}

#[test]
fn what_was_derived_from_a_dropped_capability_lives_on() {
    let w = World::new();
    w.link_all();
    let (a, b) = (w.alice.context(), w.bob.context());
    let top = w.alice.own(a, 4096, ALL);
    let middle = w
        .alice
        .derive(&CapDeriveRequest {
            rights: ALL.0,
            ..within(a, top)
        })
        .unwrap();
    let got = w.alice.give(a, middle, &w.bob, b, READ);
    w.alice.drop_slot(a, middle).unwrap();
    assert_eq!(w.bob.look(b, got).unwrap().state, 1);
    w.alice.revoke(a, top).unwrap();
    assert_eq!(w.bob.look(b, got).unwrap().state, 2);
}

#[test]
fn slots_that_are_not_there() {
    let w = World::new();
    let a = w.alice.context();
    for kind in [RequestKind::CapRevoke, RequestKind::CapDrop] {
        assert_eq!(w.alice.slot_request(kind, a, 0, 0), Err(BadArgument));
        assert_eq!(w.alice.slot_request(kind, a, 8, 0), Err(BadArgument));
        assert_eq!(w.alice.slot_request(kind, a, 1, 2), Err(BadArgument));
        assert_eq!(w.alice.slot_request(kind, a, 1, 0), Err(NoSuchObject));
        assert_eq!(w.alice.slot_request(kind, 99, 1, 0), Err(NoSuchObject));
        assert_eq!(w.bob.slot_request(kind, a, 1, 0), Err(NoSuchObject));
    }
    assert_eq!(
        w.alice.slot_request(RequestKind::CapDrop, a, 1, 1),
        Err(BadArgument)
    );
    assert_eq!(w.alice.look(a, 0), Err(BadArgument));
    assert_eq!(w.alice.look(a, 8), Err(BadArgument));
    assert_eq!(w.alice.look(a, 1), Err(NoSuchObject));
}

#[test]
fn a_reset_takes_back_what_was_given_and_tells_the_peers() {
    let w = World::new();
    w.link_all();
    let (a, b) = (w.alice.context(), w.bob.context());
    let mine = w.alice.own(a, 64, ALL);
    let his = w.bob.own(b, 64, ALL);
    let at_bob = w.alice.give(a, mine, &w.bob, b, READ);
    w.bob.give(b, his, &w.alice, a, READ);
    let instance = w.alice.domain.instance();
    w.bob.events();

    w.alice.domain.reset();
    assert_eq!(w.bob.look(b, at_bob).unwrap().state, 2);
    assert_eq!(w.bob.look(b, his).unwrap().state, 1);
    assert_eq!(
        w.bob.look(b, his).unwrap().descendants,
        0,
        "alice has dropped hers"
    );
    let told = w.bob.events();
    let kinds: Vec<_> = told.iter().map(|e| e.kind).collect();
    assert_eq!(
        kinds,
        [
            EventKind::CapabilityRevoked as u16,
            EventKind::DomainGone as u16
        ]
    );
    assert_eq!(told[1].object, w.alice.domain.id());
    assert_ne!(w.alice.domain.instance(), instance);
    assert!(w.alice.events().is_empty());
    assert_eq!(w.alice.domain.info().contexts, 0);

    // A reset before the driver spoke is news to nobody.
    w.alice.domain.reset();
    assert!(w.bob.events().is_empty());
    w.alice.query();
    assert!(w.alice.context() > a, "no number twice");
}
