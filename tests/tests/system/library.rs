//! The application library in the bare-metal guest, by itself: processes that are not steered descriptor by descriptor but
//! use contexts, queues and shares as a program does.

use anyhow::Result;
use byway_agent::commands::{LIBRARY_GIVE, LIBRARY_LOCAL, LIBRARY_TAKE, LibraryUsed, UseLibrary};
use byway_engine::EngineConfig;
use byway_vmm::steer::PAGE_4K;

use super::world::{APP, MIB, Party, domain_info, engine, turn};

const BYTES: u64 = MIB;

fn request(party: &Party, role: u64, peer: &str) -> Result<UseLibrary> {
    let mut name = [0; 32];
    name[..peer.len()].copy_from_slice(peer.as_bytes());
    let word = |index: usize| {
        let (words, _) = name.as_chunks::<8>();
        u64::from_le_bytes(words[index])
    };
    Ok(UseLibrary {
        va: party.alloc(APP, BYTES, PAGE_4K)?,
        bytes: BYTES,
        role,
        peer0: word(0),
        peer1: word(1),
        peer2: word(2),
        peer3: word(3),
    })
}

fn assert_done(used: LibraryUsed, who: &str) {
    let LibraryUsed { step, detail } = used;
    assert_eq!(step, 0, "{who}: step {step} failed with {detail:#x}");
}

#[test]
fn a_process_shares_with_itself_and_leaves_nothing_behind() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let local = request(&alice, LIBRARY_LOCAL, "")?;
    assert_done(alice.call(APP, local)?, "alice");
    let before = domain_info(&engine, "alice")?;
    // Again and again: what is not given back would use up slots, queues or quota.
    for _ in 0..40 {
        assert_done(alice.call(APP, local)?, "alice");
    }
    let after = domain_info(&engine, "alice")?;
    assert_eq!(before.queues, after.queues);
    assert_eq!(before.capabilities, after.capabilities);
    assert_eq!(before.contexts, after.contexts);
    Ok(())
}

#[test]
fn processes_of_two_vms_share_by_name_and_one_takes_it_back() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 2 * MIB)?;
    let bob = Party::boot(&engine, "bob", 2 * MIB)?;
    // Of the memory that `BYTES` names one half is shared, and the other is the taker's target.
    let give = alice.start(APP, request(&alice, LIBRARY_GIVE, "bob")?)?;
    let taken = bob.call(APP, request(&bob, LIBRARY_TAKE, "alice")?)?;
    let given = alice.finish(give)?;
    assert_done(given, "alice");
    assert_done(taken, "bob");
    Ok(())
}
