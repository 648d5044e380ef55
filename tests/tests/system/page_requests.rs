//! Pages that come on demand: the guest kernel is asked, the descriptor waits, and nobody else does.

use anyhow::{Context as _, Result};
use byway_agent::Process;
use byway_agent::commands::{
    FillPattern, LAZY_IGNORE, LAZY_LATER, LAZY_MAP, LAZY_REFUSE, MakeLazy, Pager, PagerIs,
};
use byway_engine::interface::{Action, Admin, LinkPolicy, Quotas};
use byway_engine::{Engine, EngineConfig};
use byway_protocols::event::EventKind;
use byway_protocols::{Completion, Descriptor, Flags, Status};
use byway_vmm::steer::{Guest, PAGE_4K};

use super::world::{
    APP, ENTRIES, Frames, MIB, PAGE, Party, RW, assert_ended, await_event, collect, compare,
    domain_info, engine, fill, memmove, submit, turn, until,
};

/// Pages of a lazy range, and how many bytes of the first are left out, so that transfers begin
/// and end in the middle of one.
const PAGES: u64 = 16;
const RANGE: u64 = PAGES * PAGE;
const SKIPPED: u64 = 100;
const SIZE: u64 = RANGE - 2 * SKIPPED;

/// An engine that never loses patience in a test that answers.
fn patient(names: &[&str]) -> Result<Engine> {
    let config = EngineConfig {
        page_response_ms: 60_000,
        ..EngineConfig::default()
    };
    engine(config, names)
}

fn blocking(descriptor: Descriptor) -> Descriptor {
    Descriptor {
        flags_opcode: descriptor.flags_opcode | Flags::BLOCK_ON_FAULT.0,
        ..descriptor
    }
}

/// Memory of a process's whose pages come only on demand, with a pattern in it.
fn lazy(guest: &Guest, process: Process, policy: u64, seed: u64) -> Result<(u64, Frames)> {
    let va = guest.alloc(process, RANGE, PAGE_4K)?;
    let len = RANGE;
    guest.call(process, FillPattern { va, len, seed })?;
    let frames = Frames::of(guest, process, va, RANGE)?;
    make_lazy(guest, process, va, policy)?;
    Ok((va, frames))
}

/// All pages are gone until they are wanted.
fn make_lazy(guest: &Guest, process: Process, va: u64, policy: u64) -> Result<()> {
    let bytes = RANGE;
    guest.call(process, MakeLazy { va, bytes, policy })?;
    Ok(())
}

fn pager(guest: &Guest) -> Result<PagerIs> {
    guest.call(APP, Pager {})
}

fn parked(engine: &Engine, name: &str) -> Result<u32> {
    Ok(domain_info(engine, name)?.parked)
}

fn await_parked(engine: &Engine, name: &str, count: u32) -> Result<()> {
    until("descriptors that wait", || {
        Ok((parked(engine, name)? == count).then_some(()))
    })
}

#[track_caller]
fn assert_partial(done: &Completion, status: Status, bytes: u64, address: u64, what: &str) {
    assert_ended(done, status, what);
    assert_eq!(u64::from(done.bytes_completed), bytes, "{what}");
    assert_eq!(done.fault_addr, address, "{what}");
}

#[test]
fn pages_come_when_a_transfer_wants_them() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = patient(&["alice"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let (va, frames) = lazy(&alice, APP, LAZY_MAP, 7)?;
    let here = (0, alice.buffer);
    let there = (0, va + SKIPPED);

    // Without the flag the process itself has to see to it.
    let done = alice.execute_one(APP, &memmove(here, there, SIZE))?;
    assert_partial(&done, Status::Stage1NotPresent, 0, va + SKIPPED, "no flag");
    assert!(done.is_write_fault());
    assert_eq!(pager(&alice)?.requests, 0);

    alice.fill(0, SIZE, 3)?;
    let done = alice.execute_one(APP, &blocking(memmove(here, there, SIZE)))?;
    assert_ended(&done, Status::Success, "into lazy pages");
    let after = pager(&alice)?;
    assert_eq!((after.requests, after.mapped), (PAGES, PAGES));
    assert!(frames.read(&alice, SKIPPED, SIZE)? == alice.see(0, SIZE)?);

    // From lazy pages; backwards within them; and the other operations.
    let wanted: [(&str, Descriptor, u64); 4] = [
        ("from", memmove(there, here, SIZE), PAGES),
        (
            "backwards",
            memmove((0, va), (0, va + PAGE + 1), RANGE - PAGE - 1),
            PAGES,
        ),
        ("fill", fill(0x1122, there, SIZE), PAGES),
        ("compare", compare(there, (0, va + SKIPPED), SIZE), PAGES),
    ];
    for (what, descriptor, pages) in wanted {
        make_lazy(&alice, APP, va, LAZY_MAP)?;
        let before = pager(&alice)?;
        let done = alice.execute_one(APP, &blocking(descriptor))?;
        assert_ended(&done, Status::Success, what);
        let after = pager(&alice)?;
        assert!(after.mapped - before.mapped >= pages, "{what}");
        assert_eq!(after.refused, before.refused, "{what}");
    }

    // The process wants one itself, by a page fault.
    make_lazy(&alice, APP, va, LAZY_MAP)?;
    let before = pager(&alice)?;
    let mut first = [0];
    alice.read(APP, va, &mut first)?;
    let after = pager(&alice)?;
    assert_eq!(after.touched - before.touched, 1);
    assert_eq!(after.requests, before.requests);
    Ok(())
}

#[test]
fn a_kernel_refuses_puts_off_or_says_nothing() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let config = EngineConfig {
        // Longer than a host may keep a kernel from its core that answers.
        page_response_ms: 2000,
        ..EngineConfig::default()
    };
    let engine = engine(config, &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let here = (0, alice.buffer);
    for (policy, status) in [
        (LAZY_REFUSE, Status::PageRefused),
        (LAZY_LATER, Status::Stage1NotPresent),
        (LAZY_IGNORE, Status::PageResponseTimeout),
    ] {
        let what = format!("{status}");
        let (va, _) = lazy(&alice, APP, policy, 1)?;
        let done = alice.execute_one(APP, &blocking(memmove(here, (0, va + SKIPPED), SIZE)))?;
        assert_partial(&done, status, 0, va + SKIPPED, &what);

        // In bob's memory every answer looks the same, and so does none.
        let (va, frames) = lazy(&bob, APP, policy, 2)?;
        let own = bob.derive(APP, 0, va + SKIPPED, SIZE, RW)?;
        let slot = bob.pass_on(&alice, own, RW)?;
        let before = frames.read(&bob, 0, RANGE)?;
        let done = alice.execute_one(APP, &memmove(here, (slot, 5 * PAGE), PAGE))?;
        assert_partial(&done, Status::RemoteFault, 0, 5 * PAGE, &what);
        assert!(frames.read(&bob, 0, RANGE)? == before, "{what}");
    }
    let of = |p: PagerIs| (p.requests, p.refused, p.postponed, p.ignored, p.mapped);
    assert_eq!(of(pager(&alice)?), (3, 1, 1, 1, 0));
    assert_eq!(of(pager(&bob)?), (3, 1, 1, 1, 0));
    assert_eq!(parked(&engine, "alice")?, 0);
    Ok(())
}

#[test]
fn a_peers_pages_come_on_demand_too() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = patient(&["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let (va, frames) = lazy(&bob, APP, LAZY_MAP, 9)?;
    let own = bob.derive(APP, 0, va + SKIPPED, SIZE, RW)?;
    let slot = bob.pass_on(&alice, own, RW)?;
    let here = (0, alice.buffer);
    let there = (slot, 0);

    // Bob sleeps: his kernel wakes up for each page.
    bob.sleep()?;
    let done = alice.execute_one(APP, &memmove(there, here, SIZE))?;
    assert_ended(&done, Status::Success, "get");
    assert!(frames.read(&bob, SKIPPED, SIZE)? == alice.see(0, SIZE)?);
    bob.wake()?;
    let after = pager(&bob)?;
    assert_eq!((after.requests, after.mapped), (PAGES, PAGES));
    assert_eq!(
        pager(&alice)?.requests,
        0,
        "alice's kernel has no part in it"
    );

    make_lazy(&bob, APP, va, LAZY_MAP)?;
    alice.fill(0, SIZE, 4)?;
    let done = alice.execute_one(APP, &memmove(here, there, SIZE))?;
    assert_ended(&done, Status::Success, "put");
    assert!(frames.read(&bob, SKIPPED, SIZE)? == alice.see(0, SIZE)?);
    Ok(())
}

#[test]
fn who_waits_holds_up_nobody_else() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = patient(&["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 4 * MIB)?;
    let bob = Party::boot(&engine, "bob", 4 * MIB)?;
    let (va, _) = lazy(&alice, APP, LAZY_IGNORE, 1)?;
    let other = Process::Peer;
    alice.open_context(other)?;
    alice.create_queue(other, ENTRIES, 0)?;
    let theirs = alice.alloc(other, 2 * MIB, PAGE_4K)?;

    // The first waits; what stands behind it in its queue waits with it.
    let waiting = blocking(memmove((0, alice.buffer), (0, va), RANGE));
    let behind = memmove((0, alice.buffer), (0, alice.buffer + MIB), 64);
    submit(&alice, APP, &[waiting, behind])?;
    await_parked(&engine, "alice", 1)?;
    for round in 0..20 {
        let what = format!("round {round}");
        let done = alice.execute_one(other, &memmove((0, theirs), (0, theirs + MIB), MIB))?;
        assert_ended(&done, Status::Success, &what);
        let done = bob.execute_one(APP, &memmove((0, bob.buffer), (0, bob.buffer + MIB), MIB))?;
        assert_ended(&done, Status::Success, &what);
    }
    assert_eq!(parked(&engine, "alice")?, 1);

    // It ends with its queue, at once.
    alice.close_context(APP)?;
    assert_eq!(parked(&engine, "alice")?, 0);
    alice.open_context(APP)?;
    alice.create_queue(APP, ENTRIES, 0)?;
    let done = alice.execute_one(APP, &behind)?;
    assert_ended(&done, Status::Success, "afterwards");
    Ok(())
}

#[test]
fn so_many_may_wait_and_no_more() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let config = EngineConfig {
        page_response_ms: 60_000,
        ..EngineConfig::default()
    };
    let engine = Engine::new(config)?;
    let quotas = Quotas {
        parked: 1,
        ..Quotas::default()
    };
    for name in ["alice", "bob"] {
        engine.act(Action::CreateDomain {
            name: name.to_owned(),
            quotas: quotas.clone(),
        })?;
    }
    engine.act(Action::Link(LinkPolicy {
        from: "bob".to_owned(),
        to: "alice".to_owned(),
        read: true,
        write: true,
        grant: false,
        keys: false,
        max_bytes: 0,
    }))?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let other = Process::Peer;
    alice.open_context(other)?;
    alice.create_queue(other, ENTRIES, 0)?;
    let (mine, _) = lazy(&alice, APP, LAZY_IGNORE, 1)?;
    let (theirs, _) = lazy(&alice, other, LAZY_MAP, 1)?;
    let (va, _) = lazy(&bob, APP, LAZY_MAP, 1)?;
    let own = bob.derive(APP, 0, va, RANGE, RW)?;
    let label = u64::from(own);
    bob.offer(APP, own, "alice", RW, label)?;
    let slot = alice.accept(other, label)?.slot;

    submit(&alice, APP, &[blocking(fill(1, (0, mine), PAGE))])?;
    await_parked(&engine, "alice", 1)?;
    // Her one place is taken: in her own memory as without the flag, in bob's a fault.
    let done = alice.execute_one(other, &blocking(fill(1, (0, theirs), PAGE)))?;
    assert_partial(&done, Status::Stage1NotPresent, 0, theirs, "her own");
    let done = alice.execute_one(other, &fill(1, (slot, 64), PAGE))?;
    assert_partial(&done, Status::RemoteFault, 0, 64, "bob's");
    assert_eq!(pager(&bob)?.requests, 0, "bob was asked nothing");
    // Bob's own place is his.
    let done = bob.execute_one(APP, &blocking(fill(1, (0, va), PAGE)))?;
    assert_ended(&done, Status::Success, "bob himself");
    assert_eq!(domain_info(&engine, "alice")?.parked_max, 1);

    alice.close_context(APP)?;
    let done = alice.execute_one(other, &blocking(fill(1, (0, theirs), PAGE)))?;
    assert_ended(&done, Status::Success, "the place is free again");
    Ok(())
}

#[test]
fn whoever_dies_takes_along_what_waits_for_it() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = patient(&["alice", "bob"])?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let (va, frames) = lazy(&bob, APP, LAZY_IGNORE, 5)?;
    let own = bob.derive(APP, 0, va, RANGE, RW)?;
    let before = frames.read(&bob, 0, RANGE)?;

    // The one that waits.
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let slot = bob.pass_on(&alice, own, RW)?;
    let put = |party: &Party, slot| memmove((0, party.buffer), (slot, 0), RANGE);
    submit(&alice, APP, &[put(&alice, slot)])?;
    await_parked(&engine, "alice", 1)?;
    drop(alice);
    assert_eq!(parked(&engine, "alice")?, 0);
    await_event(&bob, EventKind::DomainGone)?;
    make_lazy(&bob, APP, va, LAZY_MAP)?;
    let done = bob.execute_one(APP, &blocking(compare((0, va), (0, va), RANGE)))?;
    assert_ended(&done, Status::Success, "bob goes on");
    assert!(
        frames.read(&bob, 0, RANGE)? == before,
        "not a byte has moved"
    );

    // The one that is waited for; and revocation waits for nobody.
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    for dies in [false, true] {
        make_lazy(&bob, APP, va, LAZY_IGNORE)?;
        let own = bob.derive(APP, 0, va, RANGE, RW)?;
        let slot = bob.pass_on(&alice, own, RW)?;
        submit(&alice, APP, &[put(&alice, slot)])?;
        await_parked(&engine, "alice", 1)?;
        if dies {
            break;
        }
        bob.revoke(APP, own)?;
        assert_eq!(parked(&engine, "alice")?, 1, "it waits still");
        alice.close_context(APP)?;
        alice.open_context(APP)?;
        alice.create_queue(APP, ENTRIES, 0)?;
    }
    drop(bob);
    let done = collect(&alice, APP, 1)?.pop().context("a completion")?;
    assert_ended(&done, Status::Revoked, "bob is gone");
    assert_eq!(done.bytes_completed, 0);
    Ok(())
}
