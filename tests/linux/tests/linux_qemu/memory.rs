//! Huge pages that really are, and RAM in two regions.

use anyhow::{Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::Guest;

use crate::scenario::{give, local};

/// Copied by the engine in each measurement.
const MIB: u32 = 8;
/// Where the kernel is told who gets huge pages.
const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Walks of alice's page tables during a copy: those that ended in 4 KiB and in 2 MiB.
fn walks_of_a_copy(engine: &Engine, alice: &mut Guest) -> Result<(u64, u64)> {
    let count = |size: &str| engine.counter("alice", &format!("walks_{size}"));
    let before = (count("4k")?, count("2m")?);
    local(alice, MIB)?;
    Ok((count("4k")? - before.0, count("2m")? - before.1))
}

/// By the engine's own count, huge pages are walked as such and small ones are not; and across guests
/// they arrive all the same.
pub fn huge_pages(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    for guest in [&mut *alice, &mut *bob] {
        // "madvise" is not enough where there is little RAM.
        guest.ok(&format!(
            "echo always >{ENABLED} && grep -F '[always]' {ENABLED}"
        ))?;
    }
    let (small, huge) = walks_of_a_copy(engine, alice)?;
    // Source and window of `byway-cat`, each walked at least once for each of its pages of 2 MiB.
    ensure!(
        huge >= u64::from(MIB) && small < u64::from(MIB) * 256 / 4,
        "copying {MIB} MiB of huge pages took {small} walks of 4 KiB and {huge} of 2 MiB"
    );
    give(alice, bob, MIB)?;
    // And the counters tell the two apart.
    for guest in [&mut *alice, &mut *bob] {
        guest.ok(&format!("echo never >{ENABLED}"))?;
    }
    let (small, huge) = walks_of_a_copy(engine, alice)?;
    ensure!(
        small >= u64::from(MIB) * 256 && huge == 0,
        "copying {MIB} MiB of small pages took {small} walks of 4 KiB and {huge} of 2 MiB"
    );
    Ok(())
}

/// RAM below and above 4 GiB is reached. Linux fills the upper region first, so what alice gave so far came
/// from there; what she gives when hardly anything is left of it comes from the lower one.
pub fn two_regions(alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    const MIB: u32 = 16;
    let present = pages_above_4_gib(alice, "present")?;
    ensure!(present > 200_000, "alice has {present} pages above 4 GiB");
    // Taken, but not touched, which is what takes long.
    alice.ok("echo 600 >/proc/sys/vm/nr_hugepages")?;
    let free = pages_above_4_gib(alice, "nr_free_pages")?;
    // Who gives has the bytes three times: the file, what was read of it, what is given.
    ensure!(
        free < 2 * u64::from(MIB) * 256,
        "{free} pages above 4 GiB are left"
    );
    give(alice, bob, MIB)?;
    give(bob, alice, MIB / 4)?;
    alice.ok("echo 0 >/proc/sys/vm/nr_hugepages")?;
    Ok(())
}

/// A line of the upper zone.
fn pages_above_4_gib(guest: &mut Guest, line: &str) -> Result<u64> {
    let told = guest.ok(&format!(
        "awk '/zone +Normal/ {{ z = 1 }} z && $1 == \"{line}\" {{ print $2; exit }}' /proc/zoneinfo"
    ))?;
    Ok(told.parse()?)
}
