//! A checkpoint: alice's process has 8 MiB of its memory written to a disk, goes on and spoils them, and has
//! them brought back: into its own memory, and into a process of bob's, which goes on from there.
//!
//!     cargo run --release -p byway-examples --bin checkpoint
//!
//! Every descriptor is submitted by a ring-3 process of a guest, through its own ring.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use byway_agent::commands::FillPattern;
use byway_examples::{APP, Disk, execute, on_two_vms, own, remote};
use byway_ring::{Address, Done, Request, Slot};
use byway_vmm::steer::Stage;

/// Bytes of the memory.
const BYTES: u64 = 8 << 20;

fn main() -> ExitCode {
    on_two_vms(checkpoint)
}

fn checkpoint(stage: &mut Stage) -> Result<()> {
    let (alice, bob) = (&stage.alice, &stage.bob);
    let disk = Disk::attach(stage, "checkpoint", BYTES)?;
    let blocks = alice.open_endpoint(APP, disk.name())?;
    let slot = Slot::new(blocks.slot).context("a slot above 32767")?;
    let (va, start) = (stage.alice_buffer, Address::capability(slot, 0));
    let work = |seed| {
        alice.call(
            APP,
            FillPattern {
                va,
                len: BYTES,
                seed,
            },
        )
    };
    let sum = || alice.checksum(APP, va, BYTES);

    work(1)?;
    let then = sum()?;
    Done::of(&execute(
        alice,
        Request::write_blocks(start, own(va), BYTES)?,
    )?)?;
    Done::of(&execute(alice, Request::flush_blocks(slot))?)?;
    println!("alice: {BYTES} bytes written to the disk");
    work(2)?;
    ensure!(sum()? != then, "her memory did not change");

    Done::of(&execute(
        alice,
        Request::read_blocks(own(va), start, BYTES)?,
    )?)?;
    ensure!(sum()? == then, "her memory did not come back");
    let into_bob = Request::read_blocks(remote(stage, 0)?, start, BYTES)?;
    Done::of(&execute(alice, into_bob)?)?;
    let his = bob.checksum(APP, stage.bob_buffer, BYTES)?;
    ensure!(his == then, "bob has something else");
    println!("alice's memory is back, and in bob's process");
    Ok(())
}
