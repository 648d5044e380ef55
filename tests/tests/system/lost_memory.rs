//! The VMM takes memory away under a ring and under transfers: that queue is dead, nothing is written there any more,
//! and everybody else goes on.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_agent::commands::{ALLOC_EMPTY, Alloc, CreateQueueAt, MapPages, QueueState};
use byway_engine::EngineConfig;
use byway_engine::interface::MemoryRegion;
use byway_protocols::control::queue_flags;
use byway_protocols::event::EventKind;
use byway_protocols::{Completion, Descriptor, Status, Word0};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::world::{APP, MIB, Party, RW, assert_ended, await_event, engine, memmove, turn, until};

/// Where the second region is, far above the VM's RAM. The engine knows it and KVM does not: only the engine, and the
/// host, reach it.
const REGION: u64 = 4 << 30;
const REGION_BYTES: u64 = 4 * MIB;
/// The ring's parts in it; the rest is data.
const RING: u64 = REGION;
const COMPLETIONS: u64 = REGION + 0x10000;
const HEADER: u64 = REGION + 0x20000;
/// So many that copies in all of them are seconds, and outlast whatever the host does with the test's own thread.
const ENTRIES: u64 = 1024;
/// A page of 2 MiB in it that is given to the peer.
const DATA: u64 = REGION + 2 * MIB;
/// Present, writable, user, accessed, dirty.
const LEAF: u64 = 0x67;
const COPY: u64 = 16 * MIB;

/// The host's own hands on the region, in the submitter's place.
struct Region {
    memory: GuestMemoryMmap,
    submitted: u64,
}

impl Region {
    fn new(file: &Arc<File>) -> Result<Self> {
        let file = FileOffset::from_arc(Arc::clone(file), 0);
        let range = (GuestAddress(REGION), REGION_BYTES as usize, Some(file));
        let memory = GuestMemoryMmap::from_ranges_with_files([range])?;
        Ok(Self {
            memory,
            submitted: 0,
        })
    }

    /// Publishes a descriptor of the ring's first lap.
    fn submit(&mut self, descriptor: &Descriptor) -> Result<u64> {
        let slot = self.submitted;
        self.submitted += 1;
        assert!(slot < ENTRIES, "one lap only");
        let published = Descriptor {
            word0: Word0(descriptor.word0).with_phase(true).0,
            ..*descriptor
        };
        let at = RING + slot * Descriptor::SIZE as u64;
        let bytes = published.to_bytes();
        self.memory.write_slice(&bytes[8..], GuestAddress(at + 8))?;
        let word = published.publish_word();
        self.memory
            .store(word, GuestAddress(at), Ordering::Release)?;
        Ok(slot)
    }

    fn completion(&self, slot: u64) -> Result<Option<Completion>> {
        let at = GuestAddress(COMPLETIONS + slot * Completion::SIZE as u64);
        let word: u64 = self.memory.load(at, Ordering::Acquire)?;
        if word & Completion::PUBLISH_PHASE == 0 {
            return Ok(None);
        }
        let mut bytes = [0; Completion::SIZE];
        self.memory.read_slice(&mut bytes, at)?;
        Ok(Some(Completion::from_bytes(&bytes)))
    }

    fn contents(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; REGION_BYTES as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(REGION))?;
        Ok(bytes)
    }
}

#[test]
fn memory_goes_under_a_ring_and_under_transfers() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * COPY)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    let file = Arc::new(tempfile::tempfile()?);
    file.set_len(REGION_BYTES)?;
    let mut region = Region::new(&file)?;
    let added = MemoryRegion {
        guest_addr: REGION,
        size: REGION_BYTES,
        file,
        file_offset: 0,
        writable: true,
        populate: false,
    };
    alice
        .vm()
        .with_domain(|domain| domain.add_region(added))
        .context("the VM has no device")??;

    // A second queue of alice's, in the second region, whose owner is the host.
    let context = alice.context(APP)?;
    let at = CreateQueueAt {
        context,
        entries: ENTRIES,
        ring: RING,
        completions: COMPLETIONS,
        header: HEADER,
        flags: u64::from(queue_flags::NO_PARK),
    };
    let second = alice.call(APP, at)?.queue;
    alice.fill(0, COPY, 5)?;
    let copy = memmove((0, alice.buffer), (0, alice.buffer + COPY), COPY);
    let first = region.submit(&copy)?;
    let done = until("the first copy", || region.completion(first))?;
    assert_ended(&done, Status::Success, "by the ring in the second region");
    alice.expect(COPY, COPY, 5)?;

    // And a page of it in alice's process, given to bob.
    let empty = Alloc {
        bytes: 2 * MIB,
        page_size: 2 * MIB,
        flags: ALLOC_EMPTY,
    };
    let va = alice.call(APP, empty)?.va;
    let map = MapPages {
        va,
        gpa: DATA,
        bytes: 2 * MIB,
        page_size: 2 * MIB,
        bits: LEAF,
    };
    alice.call(APP, map)?;
    let own = alice.derive(APP, 0, va, 2 * MIB, RW)?;
    let slot = alice.pass_on(&bob, own, RW)?;
    bob.fill(0, 2 * MIB, 6)?;
    let put = memmove((0, bob.buffer), (slot, 0), 2 * MIB);
    assert_ended(&bob.execute_one(APP, &put)?, Status::Success, "bob's put");
    let data = (DATA - REGION) as usize;
    let seen = region.contents()?;
    assert_eq!(
        byway_agent::pattern::first_mismatch(&seen[data..], 6),
        None,
        "bob's bytes did not arrive"
    );

    // Gone, with copies of that ring under way.
    let before = alice.see(COPY, 8)?;
    alice.fill(0, COPY, 7)?;
    let copies: Vec<u64> = (1..ENTRIES)
        .map(|_| region.submit(&copy))
        .collect::<Result<_>>()?;
    until("bytes of the next copy", || {
        Ok((alice.see(COPY, 8)? != before).then_some(()))
    })?;
    alice
        .vm()
        .with_domain(|domain| domain.remove_region(REGION, REGION_BYTES))
        .context("the VM has no device")??;
    let at_once = region.contents()?;
    let target = alice.see(COPY, COPY)?;
    std::thread::sleep(Duration::from_millis(20));
    assert!(region.contents()? == at_once, "a write after the removal");
    assert!(
        alice.see(COPY, COPY)? == target,
        "a dead ring's copy went on"
    );
    let mut cut_short = 0;
    for copy in copies {
        match region.completion(copy)?.map(|done| done.status()) {
            Some(Some(Status::Success)) => {}
            // Told while that could be done, or never seen.
            Some(Some(Status::Aborted)) | None => cut_short += 1,
            Some(other) => panic!("a copy of a dead ring ended in {other:?}"),
        }
    }
    assert!(cut_short > 0, "all copies were done before the removal");

    let dead = await_event(&alice, EventKind::QueueDead)?;
    assert_eq!((dead.object, dead.id), (second, Status::RegionGone as u64));
    let put = memmove((0, bob.buffer), (slot, 0), 64);
    assert_ended(
        &bob.execute_one(APP, &put)?,
        Status::RemoteFault,
        "bob's put where there is nothing",
    );
    let own = memmove((0, va), (0, alice.buffer), 64);
    assert_ended(
        &alice.execute_one(APP, &own)?,
        Status::Stage2Pending,
        "alice's own look there",
    );

    // Her other queue has not noticed, nor has bob's.
    let queue = alice.queue(APP)?.queue;
    assert_eq!(alice.call(APP, QueueState { queue })?.alive, 1);
    assert_ended(&alice.execute_one(APP, &copy)?, Status::Success, "alice's");
    alice.expect(COPY, COPY, 7)?;
    let (_, slot) = alice.give(&bob, 0, MIB, RW)?;
    let get = memmove((slot, 0), (0, bob.buffer), MIB);
    assert_ended(&bob.execute_one(APP, &get)?, Status::Success, "bob's");
    bob.expect(0, MIB, 7)
}
