//! Keys: what KEY_LOAD refuses, how keys are given and taken, and that none is left behind.

use byway_protocols::ControlStatus::{
    self, BadArgument, Bounds, InUse, MissingRight, NoSuchObject, Quota, Revoked,
};
use byway_protocols::Rights;
use byway_protocols::codec::{KEY_BYTES_MAX, KeyAlgorithm, KeyBytes};
use byway_protocols::control::{CapDeriveRequest, KeyLoadReply, KeyLoadRequest, RequestKind};
use byway_protocols::event::EventKind;

use super::{Side, World, within};
use crate::capability::State;
use crate::interface::Quotas;

fn key(algorithm: KeyAlgorithm) -> KeyBytes {
    let mut key = [0; KEY_BYTES_MAX];
    for (i, byte) in key[..algorithm.key_bytes()].iter_mut().enumerate() {
        *byte = i as u8 + 1;
    }
    KeyBytes(key)
}

fn request(context: u32, algorithm: KeyAlgorithm, rights: Rights) -> KeyLoadRequest {
    KeyLoadRequest {
        context,
        algorithm: algorithm as u32,
        length: algorithm.key_bytes() as u32,
        rights: rights.0,
        badge: 0xbad9e,
        key: key(algorithm),
        ..KeyLoadRequest::default()
    }
}

fn load(side: &Side, q: &KeyLoadRequest) -> Result<u32, ControlStatus> {
    let reply: KeyLoadReply = side.ask(RequestKind::KeyLoad, q)?;
    Ok(reply.slot)
}

#[test]
fn keys_are_loaded_and_told_of() {
    let w = World::new();
    let a = w.alice.context();
    for (i, &algorithm) in KeyAlgorithm::ALL.iter().enumerate() {
        let slot = load(&w.alice, &request(a, algorithm, Rights::KEY)).unwrap();
        assert_eq!(slot, i as u32 + 1);
        let found = w.alice.look(a, slot).unwrap();
        assert_eq!(found.length as usize, algorithm.key_bytes());
        assert_eq!((found.rights, found.badge), (Rights::KEY.0, 0xbad9e));
        assert_eq!((found.depth, found.domain), (1, w.alice.domain.id()));
    }
}

#[test]
fn load_refuses_what_is_no_key() {
    let w = World::new();
    let a = w.alice.context();
    let good = request(a, KeyAlgorithm::AesGcm128, Rights::KEY);
    let mut long = good;
    long.key.0[16] = 1;
    let mut twice = request(a, KeyAlgorithm::AesXts256, Rights::KEY);
    twice.key.0.copy_within(..32, 32);
    let cases = [
        (
            KeyLoadRequest {
                algorithm: 0,
                ..good
            },
            BadArgument,
        ),
        (
            KeyLoadRequest {
                algorithm: 6,
                ..good
            },
            BadArgument,
        ),
        (KeyLoadRequest { length: 15, ..good }, BadArgument),
        (KeyLoadRequest { length: 32, ..good }, BadArgument),
        (KeyLoadRequest { rights: 0, ..good }, BadArgument),
        (KeyLoadRequest { rights: 4, ..good }, BadArgument),
        (KeyLoadRequest { rights: 9, ..good }, BadArgument),
        (KeyLoadRequest { rights: 40, ..good }, BadArgument),
        (KeyLoadRequest { slot: 8, ..good }, BadArgument),
        (long, BadArgument),
        (twice, BadArgument),
        (
            KeyLoadRequest {
                context: 99,
                ..good
            },
            NoSuchObject,
        ),
    ];
    for (q, expected) in cases {
        assert_eq!(load(&w.alice, &q), Err(expected), "{q:?}");
    }
    assert_eq!(load(&w.alice, &KeyLoadRequest { slot: 3, ..good }), Ok(3));
    assert_eq!(
        load(&w.alice, &KeyLoadRequest { slot: 3, ..good }),
        Err(InUse)
    );
}

#[test]
fn keys_count_as_capabilities() {
    let w = World::with_quotas(Quotas {
        capabilities: 2,
        ..Quotas::default()
    });
    let a = w.alice.context();
    let q = request(a, KeyAlgorithm::AesCbc128, Rights::KEY);
    assert_eq!(load(&w.alice, &q), Ok(1));
    assert_eq!(load(&w.alice, &q), Ok(2));
    assert_eq!(load(&w.alice, &q), Err(Quota));
    w.alice.drop_slot(a, 1).unwrap();
    assert_eq!(load(&w.alice, &q), Ok(1));
}

#[test]
fn a_key_is_narrowed_but_not_cut() {
    let w = World::new();
    let a = w.alice.context();
    let q = request(a, KeyAlgorithm::AesGcm256, Rights::ENCRYPT | Rights::GRANT);
    let slot = load(&w.alice, &q).unwrap();
    let whole = CapDeriveRequest {
        length: 32,
        rights: Rights::ENCRYPT.0,
        ..within(a, slot)
    };
    assert_eq!(w.alice.derive(&whole), Ok(2));
    for (base, length) in [(0, 31), (1, 31), (1, 32), (0, 33)] {
        let cut = CapDeriveRequest {
            base,
            length,
            ..whole
        };
        assert_eq!(w.alice.derive(&cut), Err(Bounds), "{base}+{length}");
    }
    for rights in [Rights::DECRYPT, Rights::READ, Rights::WRITE] {
        let wider = CapDeriveRequest {
            rights: rights.0,
            ..whole
        };
        assert_eq!(w.alice.derive(&wider), Err(MissingRight));
    }
    // Memory never gets the rights of a key.
    let memory = CapDeriveRequest {
        rights: Rights::ENCRYPT.0,
        ..within(a, 0)
    };
    assert_eq!(w.alice.derive(&memory), Err(MissingRight));
}

#[test]
fn keys_are_given_where_a_link_permits_and_end_with_it() {
    let w = World::new();
    let (a, b) = (w.alice.context(), w.bob.context());
    let slot = load(&w.alice, &request(a, KeyAlgorithm::AesCbc256, Rights::KEY)).unwrap();
    w.link(&w.alice, &w.bob, Rights::ALL, u64::MAX);
    let offer = w.alice.offer(a, slot, &w.bob, Rights::DECRYPT);
    assert_eq!(offer, Err(MissingRight));
    w.link(&w.alice, &w.bob, Rights::ALL | Rights::KEY, u64::MAX);
    let there = w.alice.give(a, slot, &w.bob, b, Rights::DECRYPT);
    let found = w.bob.look(b, there).unwrap();
    assert_eq!((found.rights, found.length), (Rights::DECRYPT.0, 32));
    assert_eq!(found.domain, w.alice.domain.id());
    w.bob.events();
    w.unlink(&w.alice, &w.bob);
    w.reap();
    assert_eq!(w.bob.events_of(EventKind::CapabilityRevoked).len(), 1);
    assert_eq!(w.bob.look(b, there).unwrap().state, 2);
    assert_eq!(w.alice.look(a, slot).unwrap().state, 1);
}

#[test]
fn no_key_is_left_when_its_last_capability_has_ended() {
    let w = World::new();
    w.link(&w.alice, &w.bob, Rights::KEY, u64::MAX);
    let capability = |side: &Side, context, slot| {
        side.domain
            .context(context)
            .unwrap()
            .slots()
            .peek(slot)
            .unwrap()
    };
    for revokes in [true, false] {
        let (a, b) = (w.alice.context(), w.bob.context());
        let q = request(a, KeyAlgorithm::AesXts256, Rights::KEY);
        let slot = load(&w.alice, &q).unwrap();
        let there = w.alice.give(a, slot, &w.bob, b, Rights::ENCRYPT);
        let (mine, his) = (capability(&w.alice, a, slot), capability(&w.bob, b, there));
        assert_eq!(his.key().unwrap().bytes(), &q.key.0);
        if revokes {
            // Bob keeps his tombstone.
            w.alice.revoke(a, slot).unwrap();
            w.reap();
            assert_eq!(his.state(), State::Revoked);
        } else {
            w.alice.drop_slot(a, slot).unwrap();
            assert!(his.key().is_some(), "bob has it still");
            w.bob.drop_slot(b, there).unwrap();
        }
        assert!(mine.key().is_none() && his.key().is_none());
        if revokes {
            let again = CapDeriveRequest {
                length: 64,
                rights: Rights::ENCRYPT.0,
                ..within(b, there)
            };
            assert!(matches!(w.bob.derive(&again), Err(Revoked | MissingRight)));
        }
    }
}
