//! Huge pages that really are, and RAM in two regions.

use anyhow::{Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::Guest;
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab;

use crate::scenario::{check, give, linked, local};

/// Walks of alice's page tables during a copy: those that ended in 4 KiB and in 2 MiB.
fn walks_of_a_copy(engine: &Engine, alice: &mut Guest, mib: u32) -> Result<(u64, u64)> {
    let count = |size: &str| engine.counter("alice", &format!("walks_{size}"));
    let before = (count("4k")?, count("2m")?);
    local(alice, mib)?;
    Ok((count("4k")? - before.0, count("2m")? - before.1))
}

#[test]
fn huge_pages_are_walked_as_such() {
    lab::test("huge-pages", |lab| {
        let mut engine = linked(lab)?;
        let configs = [("alice", Kernel::V6_1), ("bob", Kernel::V6_12)].map(|(name, kernel)| {
            let mut config = lab.config(name, kernel, &engine);
            config.machine.memory_mib = 768;
            // "madvise" is not enough where there is little RAM.
            config.machine.cmdline = "transparent_hugepage=always".into();
            config
        });
        let [mut alice, mut bob] = lab.boot(configs)?;
        const MIB: u32 = 32;
        const WINDOW_MIB: u32 = 16;
        let enabled = "/sys/kernel/mm/transparent_hugepage/enabled";
        alice.ok(&format!("grep -F '[always]' {enabled}"))?;
        let (small, huge) = walks_of_a_copy(&engine, &mut alice, MIB)?;
        // The source, and the window that `byway-cat` copies it into piece by piece, each walked at
        // least once for each of its pages of 2 MiB.
        ensure!(
            huge >= u64::from(MIB / 2 + WINDOW_MIB / 2) && small < u64::from(MIB) * 256 / 4,
            "copying {MIB} MiB of huge pages took {small} walks of 4 KiB and {huge} of 2 MiB"
        );
        give(&mut alice, &mut bob, MIB)?;
        give(&mut bob, &mut alice, MIB)?;
        // And the counters tell the two apart.
        alice.ok(&format!("echo never >{enabled}"))?;
        let (small, huge) = walks_of_a_copy(&engine, &mut alice, MIB)?;
        ensure!(
            small >= u64::from(MIB) * 256 && huge == 0,
            "copying {MIB} MiB of small pages took {small} walks of 4 KiB and {huge} of 2 MiB"
        );
        check(&mut engine, [&mut alice, &mut bob])
    });
}

#[test]
fn ram_above_4_gib_is_reached_as_well() {
    lab::test("two-regions", |lab| {
        let mut engine = linked(lab)?;
        let mut alice = lab.config("alice", Kernel::V6_1, &engine);
        alice.machine.memory_mib = 3072;
        let bob = lab.config("bob", Kernel::V6_12, &engine);
        let [mut alice, mut bob] = lab.boot([alice, bob])?;
        let high =
            "awk '/zone +Normal/ { z = 1 } z && /present/ { print $2; exit }' /proc/zoneinfo";
        ensure!(
            alice.ok(high)?.parse::<u64>()? > 200_000,
            "no RAM above 4 GiB"
        );
        // Linux fills the upper region first.
        give(&mut alice, &mut bob, 16)?;
        alice.ok("mount -o remount,size=2G /tmp")?;
        alice.ok("dd if=/dev/zero of=/tmp/fill bs=1M count=1100 2>/dev/null")?;
        give(&mut alice, &mut bob, 16)?;
        give(&mut bob, &mut alice, 16)?;
        check(&mut engine, [&mut alice, &mut bob])
    });
}
