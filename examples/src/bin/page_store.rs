//! Key-value pages served from a disk: alice keeps pages of 4 KiB on a disk, each found by its key, and
//! has the page that bob's process asks for land in its memory. No byte of it passes through alice's memory.
//!
//!     cargo run --release -p byway-examples --bin page_store
//!
//! Every descriptor is submitted by a ring-3 process of a guest, through its own ring.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use byway_examples::{APP, Disk, execute, on_two_vms, own, remote};
use byway_ring::{Address, Done, Request, Slot};
use byway_vmm::steer::Stage;

/// Bytes of a page, key and all.
const PAGE: u64 = 4096;
/// Pages of the store; a key's place is its hash.
const PAGES: u64 = 1024;

fn main() -> ExitCode {
    on_two_vms(page_store)
}

/// Where a key's page is. These keys do not collide, which is checked below.
fn place(key: &str) -> u64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    hash % PAGES
}

/// A page: the key's length, the key, and a value made from it.
fn page(key: &str) -> Vec<u8> {
    let mut page = vec![0; PAGE as usize];
    page[0] = key.len() as u8;
    page[1..=key.len()].copy_from_slice(key.as_bytes());
    for (i, byte) in page.iter_mut().enumerate().skip(64) {
        *byte = (i as u8).wrapping_mul(key.len() as u8) ^ key.as_bytes()[i % key.len()];
    }
    page
}

fn page_store(stage: &mut Stage) -> Result<()> {
    let (alice, bob) = (&stage.alice, &stage.bob);
    let disk = Disk::attach(stage, "store", PAGES * PAGE)?;
    let blocks = alice.open_endpoint(APP, disk.name())?;
    let slot = Slot::new(blocks.slot).context("a slot above 32767")?;
    let keys = ["alpha", "beta", "gamma", "delta", "epsilon"];
    for (i, key) in keys.iter().enumerate() {
        ensure!(
            keys[..i].iter().all(|other| place(other) != place(key)),
            "{key} collides"
        );
        // Put: from alice's memory to the key's place.
        alice.write(APP, stage.alice_buffer, &page(key))?;
        let at = Address::capability(slot, place(key) * PAGE);
        let put = Request::write_blocks(at, own(stage.alice_buffer), PAGE)?;
        Done::of(&execute(alice, put)?)?;
    }
    Done::of(&execute(alice, Request::flush_blocks(slot))?)?;
    for (i, key) in keys.iter().enumerate() {
        // Get: from the key's place to bob's memory.
        let at = Address::capability(slot, place(key) * PAGE);
        let get = Request::read_blocks(remote(stage, i as u64 * PAGE)?, at, PAGE)?;
        Done::of(&execute(alice, get)?)?;
        let mut came = vec![0; PAGE as usize];
        bob.read(APP, stage.bob_buffer + i as u64 * PAGE, &mut came)?;
        ensure!(came == page(key), "bob got another page for {key}");
        println!("{key}: block {} served into bob's process", place(key));
    }
    Ok(())
}
