//! Two processes of one VM: the same address is two different bytes, a slot number is its context's own, and what
//! passes between them passes by capability.

use anyhow::Result;
use byway_agent::Process;
use byway_agent::commands::{
    CloseContext, ComparePattern, Derive, FillPattern, NO_MISMATCH, capability, capability_slot,
};
use byway_engine::EngineConfig;
use byway_protocols::{Rights, Status};
use byway_vmm::steer::{Guest, GuestSpec, PAGE_4K};

use super::world::{ENTRIES, Frames, MIB, PAGE, RW, assert_ended, engine, memmove, turn};

const BOTH: [Process; 2] = [Process::App, Process::Peer];
const BYTES: u64 = MIB;

fn holds(guest: &Guest, process: Process, va: u64, len: u64, seed: u64) -> Result<bool> {
    let compare = ComparePattern { va, len, seed };
    Ok(guest.call(process, compare)?.mismatch == NO_MISMATCH)
}

#[test]
fn neither_reaches_the_other_but_by_capability() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice"])?;
    let spec = GuestSpec {
        name: "alice".to_owned(),
        memory_bytes: 64 * MIB,
        pin: None,
        cpus: 1,
    };
    let vm = Guest::boot(&spec, &engine)?;
    let half = BYTES / 2;
    let mut buffers = Vec::new();
    for (process, seed) in BOTH.into_iter().zip(1..) {
        vm.open_context(process)?;
        vm.create_queue(process, ENTRIES, 0)?;
        let va = vm.alloc(process, BYTES, PAGE_4K)?;
        let fill = FillPattern {
            va,
            len: half,
            seed,
        };
        vm.call(process, fill)?;
        buffers.push(va);
    }
    let va = buffers[0];
    assert_eq!(va, buffers[1], "the test wants the same address in both");
    let frames = |process| Frames::of(&vm, process, va, PAGE).map(|frames| frames.page(0));
    assert_ne!(frames(Process::App)?, frames(Process::Peer)?);

    // The same descriptor in both queues: each moves its own bytes.
    let own = memmove((0, va), (0, va + half), half);
    for (process, seed) in BOTH.into_iter().zip(1..) {
        let done = vm.execute_one(process, &own)?;
        assert_ended(&done, Status::Success, "within a process");
        assert!(holds(&vm, process, va + half, half, seed)?, "{process:?}");
    }
    assert!(holds(&vm, Process::App, va + half, half, 1)?);

    // An address that only one of them has.
    let alone = vm.alloc(Process::App, BYTES, PAGE_4K)?;
    let from_there = memmove((0, alone), (0, va), PAGE);
    let done = vm.execute_one(Process::Peer, &from_there)?;
    assert_ended(&done, Status::Stage1NotPresent, "the app's, from the peer");
    assert_eq!(done.fault_addr, alone);
    assert!(holds(&vm, Process::Peer, va, half, 2)?);
    let done = vm.execute_one(Process::App, &memmove((0, alone), (0, alone + PAGE), PAGE))?;
    assert_ended(&done, Status::Success, "the app's, from the app");

    // A slot of one is nothing in the other, and its own thing once the other fills it.
    let slot = vm.derive(Process::App, 0, va, half, RW)?;
    let by_slot = memmove((slot, 0), (slot, half / 2), 64);
    assert_ended(
        &vm.execute_one(Process::App, &by_slot)?,
        Status::Success,
        "the app's slot",
    );
    let done = vm.execute_one(Process::Peer, &by_slot)?;
    assert_ended(&done, Status::NoCapability, "the app's slot, at the peer");
    let read_only = vm.derive(Process::Peer, 0, va, half, Rights::READ)?;
    assert_eq!(read_only, slot, "the test wants the same slot in both");
    let done = vm.execute_one(Process::Peer, &by_slot)?;
    assert_ended(&done, Status::MissingRight, "the peer's own slot");

    // Between the two, by a capability that the kernel puts into the other's table.
    let shared = Derive {
        parent: capability(vm.context(Process::Peer)?, 0),
        target: capability(vm.context(Process::App)?, 0),
        base: va,
        length: half,
        rights: u64::from(RW.0),
        badge: 0,
        lifetime_ns: 0,
        byte_quota: 0,
    };
    let shared = capability_slot(vm.call(Process::Peer, shared)?.capability) as u16;
    let put = memmove((0, va + half), (shared, 0), half);
    let done = vm.execute_one(Process::App, &put)?;
    assert_ended(&done, Status::Success, "the app's bytes to the peer");
    assert!(holds(&vm, Process::Peer, va, half, 1)?);
    assert!(holds(&vm, Process::Peer, va + half, half, 2)?);
    let beyond = memmove((0, va), (shared, half - 63), 64);
    let done = vm.execute_one(Process::App, &beyond)?;
    assert_ended(&done, Status::Bounds, "one byte more than was given");

    // It ends with the context whose memory it was.
    let context = vm.context(Process::Peer)?;
    vm.call(Process::Peer, CloseContext { context })?;
    let done = vm.execute_one(Process::App, &put)?;
    assert_ended(&done, Status::Revoked, "after the peer's context");
    assert!(holds(&vm, Process::Peer, va, half, 1)?);
    Ok(())
}
