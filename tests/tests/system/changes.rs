//! What changes under transfers: memory that the VMM makes read-only, balloons, adds and removes; processes that exit;
//! a device that is reset under its peer's load; and the log of every page that anybody wrote.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use byway_agent::Process;
use byway_agent::commands::{ALLOC_EMPTY, Alloc, DestroyQueue, DeviceReset, FillPattern, MapPages};
use byway_engine::EngineConfig;
use byway_engine::interface::{Domain, DomainError};
use byway_protocols::{Completion, Descriptor, Status};
use byway_vmm::steer::{PAGE_2M, PAGE_4K};
use vm_memory::{Bytes, GuestAddress};

use super::world::{
    APP, ENTRIES, MIB, PAGE, Party, RW, assert_ended, collect, engine, fill, memmove, submit, turn,
};

const COPY: u64 = 16 * MIB;
/// Copies that are published at once: enough for the last to be under way when the first change comes.
const COPIES: usize = 24;
const MARK: u8 = 0x77;
/// Where memory is added, far above the RAM that the VM was built with.
const ADDED: u64 = 4 << 30;
const ADDED_BYTES: u64 = 4 * MIB;
/// Present, writable, user, accessed, dirty.
const LEAF: u64 = 0x67;

/// Insists that each copy was done, or ended in `status`; how many were not done.
fn cut_short(completions: &[Completion], status: Status) -> usize {
    let cut = completions
        .iter()
        .filter(|done| done.status() != Some(Status::Success));
    cut.inspect(|done| assert_ended(done, status, "a copy"))
        .count()
}

fn domain(
    party: &Party,
    verb: impl FnOnce(&mut dyn Domain) -> Result<(), DomainError>,
) -> Result<()> {
    let done = party.vm().with_domain(verb);
    Ok(done.context("the VM has no device")??)
}

#[test]
fn pages_become_read_only_and_are_ballooned_in_mid_copy() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", COPY)?;
    let mut bob = Party::boot(&engine, "bob", COPY)?;
    let (_, slot) = bob.give(&alice, 0, COPY, RW)?;
    let put = memmove((0, alice.buffer), (slot, 0), COPY);
    // The last of the buffer's large pages, and four small ones inside it.
    let at = COPY - PAGE_2M;
    let pages = bob.frame(at) + 8 * PAGE;
    let (first, bytes) = (at + 8 * PAGE, 4 * PAGE);
    let mut cut = 0;
    for round in 0..6 {
        let balloon = round % 2 == 1;
        alice.fill(0, COPY, round)?;
        submit(&alice, APP, &vec![put; COPIES])?;
        let status = if balloon {
            bob.vm_mut().inflate_balloon(pages, bytes)?;
            Status::Stage2Pending
        } else {
            domain(&bob, |d| d.protect_region(pages, bytes, false))?;
            Status::Stage2Permission
        };
        // Not a byte lands from here on.
        bob.put_by_host(first, &vec![MARK; bytes as usize])?;
        let ended = collect(&alice, APP, COPIES)?;
        cut += cut_short(&ended, Status::RemoteFault);
        for done in ended.iter().filter(|d| d.status() != Some(Status::Success)) {
            assert_eq!(done.fault_addr, first, "where the pages begin");
            assert_eq!(u64::from(done.bytes_completed), first, "all before");
        }
        let seen = bob.see(first, bytes)?;
        assert!(
            seen.iter().all(|&b| b == MARK),
            "a late byte in round {round}"
        );

        // Bob is told what it is; the rest of the large page is there for both.
        let there = (0, bob.buffer + first);
        let own = bob.execute_one(APP, &memmove((0, bob.buffer), there, 64))?;
        assert_ended(&own, status, "bob's own put");
        assert_eq!(own.fault_addr, bob.buffer + first);
        for around in [first - PAGE, first + bytes] {
            let put = memmove((0, alice.buffer), (slot, around), PAGE);
            let done = alice.execute_one(APP, &put)?;
            assert_ended(&done, Status::Success, "around the pages");
        }
        if balloon {
            bob.vm_mut().deflate_balloon(pages, bytes)?;
        } else {
            domain(&bob, |d| d.protect_region(pages, bytes, true))?;
        }
        let done = alice.execute_one(APP, &put)?;
        assert_ended(&done, Status::Success, "when the pages are back");
        bob.expect(0, COPY, round)?;
    }
    ensure!(cut > 0, "every change came when all was done");
    Ok(())
}

#[test]
fn memory_is_added_made_read_only_and_removed_in_mid_copy() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", ADDED_BYTES)?;
    let mut bob = Party::boot(&engine, "bob", ADDED_BYTES)?;
    assert!(bob.vm_mut().add_memory(0, MIB).is_err(), "RAM is there");
    assert!(bob.vm_mut().add_memory(ADDED, 100).is_err(), "misaligned");
    bob.vm_mut().add_memory(ADDED, ADDED_BYTES)?;
    assert!(
        bob.vm_mut().add_memory(ADDED + MIB, MIB).is_err(),
        "overlaps"
    );
    let empty = Alloc {
        bytes: ADDED_BYTES,
        page_size: PAGE_2M,
        flags: ALLOC_EMPTY,
    };
    let va = bob.call(APP, empty)?.va;
    let map = MapPages {
        va,
        gpa: ADDED,
        bytes: ADDED_BYTES,
        page_size: PAGE_2M,
        bits: LEAF,
    };
    bob.call(APP, map)?;
    let own = bob.derive(APP, 0, va, ADDED_BYTES, RW)?;
    let slot = bob.pass_on(&alice, own, RW)?;

    // What bob's vCPU writes there alice gets: KVM and the engine see the same bytes.
    let len = ADDED_BYTES;
    bob.call(APP, FillPattern { va, len, seed: 9 })?;
    let get = memmove((slot, 0), (0, alice.buffer), len);
    assert_ended(&alice.execute_one(APP, &get)?, Status::Success, "a get");
    alice.expect(0, len, 9)?;

    let put = memmove((0, alice.buffer), (slot, 0), len);
    let own_put = memmove((0, bob.buffer), (0, va), 64);
    bob.vm_mut().protect_memory(ADDED, ADDED_BYTES, false)?;
    assert_ended(&alice.execute_one(APP, &put)?, Status::RemoteFault, "a put");
    assert_ended(&alice.execute_one(APP, &get)?, Status::Success, "a get");
    let done = bob.execute_one(APP, &own_put)?;
    assert_ended(&done, Status::Stage2Permission, "bob's own put");
    bob.vm_mut().protect_memory(ADDED, ADDED_BYTES, true)?;
    assert_ended(&alice.execute_one(APP, &put)?, Status::Success, "a put");

    let mut cut = 0;
    for _ in 0..4 {
        submit(&alice, APP, &[put; 100])?;
        bob.vm_mut().remove_memory(ADDED, ADDED_BYTES)?;
        cut += cut_short(&collect(&alice, APP, 100)?, Status::RemoteFault);
        let done = bob.execute_one(APP, &own_put)?;
        assert_ended(&done, Status::Stage2Pending, "bob's own put");
        assert!(bob.vm_mut().remove_memory(ADDED, ADDED_BYTES).is_err());
        // Bob's other memory was not in it, nor was alice's.
        for party in [&alice, &bob] {
            let inside = memmove((0, party.buffer), (0, party.buffer + MIB), MIB);
            let done = party.execute_one(APP, &inside)?;
            assert_ended(&done, Status::Success, "elsewhere");
        }
        bob.vm_mut().add_memory(ADDED, ADDED_BYTES)?;
        assert_ended(&alice.execute_one(APP, &put)?, Status::Success, "a put");
    }
    ensure!(cut > 0, "every removal came when all was done");
    Ok(())
}

/// A page and its bytes.
fn snapshot(party: &Party) -> Result<Vec<(u64, Vec<u8>)>> {
    let (mailbox, _) = party.vm().mailbox().context("the VM has no mailbox")?;
    let memory = party.vm().ram().memory();
    let mut pages = Vec::new();
    // What the host itself writes, by its mapping of the mailbox, is in nobody's log.
    for gpa in (0..mailbox).step_by(PAGE as usize) {
        let mut bytes = vec![0; PAGE as usize];
        memory.read_slice(&mut bytes, GuestAddress(gpa))?;
        pages.push((gpa, bytes));
    }
    Ok(pages)
}

#[test]
fn the_merged_log_has_every_page_that_was_written() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let mut bob = Party::boot(&engine, "bob", 4 * MIB)?;
    let small = bob.alloc(APP, MIB, PAGE_4K)?;
    let own = bob.derive(APP, 0, small, MIB, RW)?;
    let small_slot = bob.pass_on(&alice, own, RW)?;
    let (_, slot) = bob.give(&alice, 0, 4 * MIB, RW)?;
    assert!(bob.vm_mut().harvest_dirty().is_err(), "the log is off");
    bob.vm_mut().set_dirty_log(true)?;
    let mut seed = 1_u64;
    for round in 0..8 {
        bob.vm_mut().harvest_dirty()?;
        let before = snapshot(&bob)?;
        let mut written = Vec::new();
        for _ in 0..20 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (at, len) = (seed >> 33 & 0xf_0000, 1 + (seed >> 20 & 0x3fff));
            let (slot, base) = if seed >> 60 & 1 == 0 {
                (small_slot, small)
            } else {
                (slot, bob.buffer)
            };
            let put = fill(seed, (slot, at), len);
            let done = alice.execute_one(APP, &put)?;
            assert_ended(&done, Status::Success, "a put");
            written.push((base + at, len));
        }
        // Bob's vCPU writes, and bob's own transfer.
        let (va, len) = (bob.buffer + 3 * MIB, 5 * PAGE);
        bob.call(APP, FillPattern { va, len, seed })?;
        let inside = memmove((0, va), (0, va + 10 * PAGE + 5), len);
        assert_ended(&bob.execute_one(APP, &inside)?, Status::Success, "inside");
        let after = snapshot(&bob)?;
        let log = bob.vm_mut().harvest_dirty()?;
        let marked: Vec<u64> = log.iter().flat_map(|bitmap| bitmap.pages()).collect();
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b);
        let unmarked: Vec<_> = changed
            .map(|((gpa, _), _)| gpa)
            .filter(|gpa| marked.binary_search(gpa).is_err())
            .collect();
        assert!(
            unmarked.is_empty(),
            "round {round}: {unmarked:x?} of {written:x?}"
        );
        let all = bob.vm().ram().size() / PAGE;
        assert!(
            (marked.len() as u64) < all / 4,
            "{} of {all} pages",
            marked.len()
        );
    }
    bob.vm_mut().set_dirty_log(false)?;
    assert!(bob.vm_mut().harvest_dirty().is_err(), "the log is off");
    Ok(())
}

/// A process that exits with copies under way, inside its VM and to a peer; its PASID is bound again at once.
#[test]
fn a_process_exits_with_work_in_flight_and_its_pasid_is_used_again() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", COPY)?;
    let bob = Party::boot(&engine, "bob", COPY)?;
    // Another process of alice's VM, with its own address space.
    alice.open_context(Process::Peer)?;
    alice.create_queue(Process::Peer, ENTRIES, 0)?;
    let other = alice.alloc(Process::Peer, MIB, PAGE_4K)?;
    let elsewhere = memmove((0, other), (0, other + MIB / 2), MIB / 2);
    for round in 0..4 {
        let (own, slot) = bob.give(&alice, 0, COPY, RW)?;
        alice.fill(0, COPY, round)?;
        let put = memmove((0, alice.buffer), (slot, 0), COPY);
        submit(&alice, APP, &vec![put; COPIES])?;
        submit(&alice, Process::Peer, &[elsewhere; 8])?;
        alice.close_context(APP)?;
        bob.mark(MARK)?;
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(bob.first_not(MARK)?, None, "a late byte in round {round}");
        let ended = collect(&alice, Process::Peer, 8)?;
        assert_eq!(cut_short(&ended, Status::Success), 0);
        bob.drop_capability(APP, own)?;
        alice.open_context(APP)?;
        alice.create_queue(APP, ENTRIES, 0)?;
        // Nothing is left of the slots of before.
        let stale = alice.execute_one(APP, &memmove((0, alice.buffer), (slot, 0), 64))?;
        assert_ended(&stale, Status::NoCapability, "a slot of the dead context");
        let inside = memmove((0, alice.buffer), (0, alice.buffer + COPY / 2), COPY / 2);
        let done = alice.execute_one(APP, &inside)?;
        assert_ended(&done, Status::Success, "under the PASID of before");
    }
    Ok(())
}

/// The owner resets its device, again and again, while its peer's copies pour in.
#[test]
fn a_device_is_reset_and_attached_again_under_its_peers_load() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", COPY)?;
    let bob = Party::boot(&engine, "bob", COPY)?;
    let inside = memmove((0, alice.buffer), (0, alice.buffer + COPY / 2), COPY / 2);
    let mut cut = 0;
    for round in 0..6 {
        let (_, slot) = bob.give(&alice, 0, COPY, RW)?;
        alice.fill(0, COPY / 2, round)?;
        let put = memmove((0, alice.buffer), (slot, 0), COPY);
        let copies: Vec<Descriptor> = [vec![put; COPIES], vec![inside; 4]].concat();
        let old = bob.queue(APP)?.queue;
        submit(&alice, APP, &copies)?;
        bob.call(APP, DeviceReset {})?;
        bob.mark(MARK)?;
        let ended = collect(&alice, APP, copies.len())?;
        let (puts, own) = ended.split_at(COPIES);
        cut += cut_short(puts, Status::Revoked);
        assert_eq!(cut_short(own, Status::Success), 0, "alice's own");
        assert_eq!(bob.first_not(MARK)?, None, "a late byte in round {round}");
        alice.expect(COPY / 2, COPY / 2, round)?;
        alice.drop_capability(APP, slot)?;
        bob.call(APP, DestroyQueue { queue: old })?;
        bob.open_context(APP)?;
        bob.create_queue(APP, ENTRIES, 0)?;
    }
    ensure!(cut > 0, "every reset came when all was done");
    Ok(())
}
