//! A lock-free counter shared by two VMs: both processes add to one word of bob's memory by ATOMIC64, at
//! the same time, with sixteen descriptors under way each. No addition is lost, and no lock is taken.
//!
//!     cargo run --release -p byway-examples --bin shared_counter

use std::process::ExitCode;

use anyhow::{Result, ensure};
use byway_examples::{APP, execute, on_two_vms, own, remote};
use byway_ring::{Atomic, Previous, Request};
use byway_vmm::steer::{RunSpec, Stage};

/// Additions of each VM.
const EACH: u64 = 200_000;

fn main() -> ExitCode {
    on_two_vms(shared_counter)
}

fn shared_counter(stage: &mut Stage) -> Result<()> {
    let counter = own(stage.bob_buffer);
    // Alice counts ones, bob thousands of millions: who added what can be told apart.
    let ones = Request::atomic(remote(stage, 0)?, Atomic::FetchAdd(1))?;
    let billions = Request::atomic(counter, Atomic::FetchAdd(1 << 32))?;
    let spec = |request: Request| RunSpec {
        descriptor: request.into(),
        iterations: EACH,
        depth: 16,
        samples: 0,
        stride: 0,
    };
    let by_alice = stage.alice.start_run(APP, &spec(ones))?;
    let by_bob = stage.bob.start_run(APP, &spec(billions))?;
    let (alice, bob) = (
        stage.alice.finish_run(by_alice)?,
        stage.bob.finish_run(by_bob)?,
    );
    for (name, run) in [("alice", &alice), ("bob", &bob)] {
        ensure!(
            (run.completed, run.failed) == (EACH, 0),
            "{name}: {} of {EACH} completed, {} failed",
            run.completed,
            run.failed
        );
    }

    // The total as bob's process loads it, and as the engine reads it for alice.
    let mut bytes = [0; 8];
    stage.bob.read(APP, stage.bob_buffer, &mut bytes)?;
    let total = u64::from_le_bytes(bytes);
    ensure!(total == EACH << 32 | EACH, "the counter says {total:#x}");
    // One more by compare-and-swap, which says that nobody came between.
    let swap = Atomic::CompareSwap {
        expected: total,
        new: 0,
    };
    let previous = Previous::of(&execute(
        &stage.alice,
        Request::atomic(remote(stage, 0)?, swap)?,
    )?)?;
    ensure!(
        previous.stored && previous.value == total,
        "alice read {:#x}",
        previous.value
    );
    println!("{EACH} additions by alice and {EACH} by bob, at once; none lost");
    Ok(())
}
