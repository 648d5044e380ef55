//! The operator's side.

use crate::interface::{Action, Admin, AdminError, DomainError, LinkPolicy, Quotas, Reply};
use crate::{Engine, EngineConfig};

use super::world::{Vm, create, engine, link, pair, until};
use byway_protocols::event::EventKind;
use byway_protocols::{Rights, Status};

fn create_action(name: &str) -> Action {
    Action::CreateDomain {
        name: name.to_owned(),
        quotas: Quotas::default(),
    }
}

#[test]
fn names_are_checked_and_unique() {
    let engine = engine();
    for bad in ["", "Alice", "al ice", "a_b", "ä", &"a".repeat(33)] {
        let refused = engine.act(create_action(bad));
        assert_eq!(refused, Err(AdminError::BadName(bad.to_owned())));
    }
    let longest = "a".repeat(32);
    assert_eq!(engine.act(create_action(&longest)), Ok(Reply::Done));
    assert_eq!(
        engine.act(create_action(&longest)),
        Err(AdminError::Exists(longest))
    );
    let bad = Action::CreateDomain {
        name: "bob".into(),
        quotas: Quotas {
            queue_entries: 3,
            ..Quotas::default()
        },
    };
    assert!(matches!(engine.act(bad), Err(AdminError::BadQuota(_))));
}

#[test]
fn what_is_unknown_is_said_so() {
    let engine = engine();
    create(&engine, "alice");
    let unknown = || Err(AdminError::Unknown("bob".to_owned()));
    let policy = |from: &str, to: &str| LinkPolicy {
        from: from.to_owned(),
        to: to.to_owned(),
        read: true,
        write: false,
        grant: false,
        keys: false,
        max_bytes: 0,
    };
    assert_eq!(engine.act(Action::Link(policy("alice", "bob"))), unknown());
    assert_eq!(engine.act(Action::Link(policy("bob", "alice"))), unknown());
    let unlink = Action::Unlink {
        from: "alice".into(),
        to: "bob".into(),
    };
    assert_eq!(engine.act(unlink), unknown());
    let remove = Action::RemoveDomain { name: "bob".into() };
    assert_eq!(engine.act(remove), unknown());
    assert_eq!(engine.attach("bob").err(), unknown().err());
}

#[test]
fn one_vmm_at_a_time() {
    let engine = engine();
    create(&engine, "alice");
    let first = engine.attach("alice").unwrap();
    assert_eq!(
        engine.attach("alice").err(),
        Some(AdminError::Attached("alice".to_owned()))
    );
    drop(first);
    assert!(engine.attach("alice").is_ok());
}

#[test]
fn the_list_says_what_there_is() {
    let (engine, mut alice, mut bob) = pair();
    bob.give_buffer(&mut alice, Rights::READ);
    let Ok(Reply::Domains { domains }) = engine.act(Action::List) else {
        panic!("a list");
    };
    let rows: Vec<_> = domains
        .iter()
        .map(|d| {
            (
                d.name.as_str(),
                d.attached,
                d.contexts,
                d.queues,
                d.capabilities,
            )
        })
        .collect();
    assert_eq!(rows, [("alice", true, 1, 1, 0), ("bob", true, 1, 1, 2)]);
    drop(alice);
    assert!(!engine.stats().domains[0].attached);
}

#[test]
fn an_ended_link_ends_what_was_given() {
    let (engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_buffer(&mut alice, Rights::READ);
    let get = super::world::copy((remote, 0), (0, super::world::BUFFER), 64);
    assert_eq!(alice.run_for(&get), Status::Success);
    let unlink = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        engine.act(Action::Unlink { from, to }).unwrap();
    };
    unlink("alice", "bob");
    assert_eq!(alice.run_for(&get), Status::Success, "the other direction");
    unlink("bob", "alice");
    assert_eq!(alice.run_for(&get), Status::Revoked);
    while alice.driver.wait_event().kind != EventKind::CapabilityRevoked as u16 {}
    unlink("bob", "alice");
    // A new link does not bring the old back to life.
    link(&engine, "bob", "alice");
    assert_eq!(alice.run_for(&get), Status::Revoked);
}

#[test]
fn a_removed_domain_leaves_an_empty_shell() {
    let (engine, mut alice, mut bob) = pair();
    let (_, remote) = bob.give_buffer(&mut alice, Rights::READ);
    let remove = Action::RemoveDomain { name: "bob".into() };
    assert_eq!(engine.act(remove), Ok(Reply::Done));
    let get = super::world::copy((remote, 0), (0, super::world::BUFFER), 64);
    assert_eq!(alice.run_for(&get), Status::Revoked);
    while alice.driver.wait_event().kind != EventKind::DomainGone as u16 {}

    let region = crate::device::tests::driver::region(&bob.guest);
    let refused = bob.device.add_region(region);
    assert!(matches!(refused, Err(DomainError::BadArgument(_))));
    let vring = bob.driver.control.vring();
    let refused = bob.device.start_vring(0, vring);
    assert!(matches!(refused, Err(DomainError::BadArgument(_))));
    bob.device.reset();

    // The name is free, and means another domain.
    create(&engine, "bob");
    let new = Vm::boot(&engine, "bob");
    assert_ne!(new.id, bob.id);
    drop(bob);
    let rows = engine.stats().domains;
    assert!(rows[1].attached, "the shell took nothing with it");
}

#[test]
fn it_stops_when_the_last_handle_goes() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let running = |tid: i32| std::path::Path::new(&format!("/proc/self/task/{tid}")).exists();
    let (engine, mut alice, bob) = pair();
    assert!(threads() > 2);
    let tids = [engine.worker_tids(), vec![engine.control_tid()]].concat();
    drop((engine, bob));
    let nop = super::world::copy((0, super::world::BUFFER), (0, super::world::BUFFER), 64);
    assert_eq!(alice.run_for(&nop), Status::Success, "alice goes on");
    assert!(tids.iter().all(|&tid| running(tid)));
    drop(alice);
    until("the threads end", || !tids.iter().any(|&tid| running(tid)));
}

#[test]
fn a_wrong_configuration_starts_nothing() {
    let e = Engine::new(EngineConfig {
        workers: 0,
        ..EngineConfig::default()
    });
    assert_eq!(
        e.unwrap_err().to_string(),
        "engine setting workers = 0: expected 1 to 64"
    );
}
