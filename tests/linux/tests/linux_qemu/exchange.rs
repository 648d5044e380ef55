//! Two guests exchange memory: each kernel once with page tables of four levels, no page-table
//! isolation and RAM in two regions, and once with five levels and isolation.

use anyhow::{Context, Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::Guest;
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab::{self, Lab, step};
use byway_linux_tests::qemu::{FIVE_LEVELS, Machine};

use crate::memory::{huge_pages, two_regions};
use crate::scenario::{LIMIT, STRANGERS, check, give, link, local, pass};
use crate::{attacks, links};

/// Four levels, no isolation, RAM below and above 4 GiB.
fn plain() -> Machine {
    Machine {
        cmdline: "pti=off".into(),
        memory_mib: 3072,
        ..Machine::default()
    }
}

/// Five levels, and kernel and user mode have page tables of their own.
fn deep_and_isolated() -> Machine {
    Machine {
        cpu: FIVE_LEVELS.into(),
        cmdline: "pti=on".into(),
        ..Machine::default()
    }
}

/// Says what a guest's kernel says of itself, so that no test passes on the wrong machine.
fn is_deep_and_isolated(guest: &mut Guest) -> Result<bool> {
    let deep = guest.run("grep -qw la57 /proc/cpuinfo")?.status == 0;
    let isolated = guest.console().contains("page tables isolation: enabled")
        || guest
            .run("dmesg | grep -q 'page tables isolation: .*enabled'")?
            .status
            == 0;
    ensure!(
        deep == isolated,
        "la57 {deep}, page tables isolated {isolated}"
    );
    Ok(deep)
}

/// Alice, four levels, and bob, five levels; strangers yet.
fn boot(lab: &Lab, engine: &Engine, shallow: Kernel, deep: Kernel) -> Result<[Guest; 2]> {
    let mut alice = lab.config("alice", shallow, engine);
    alice.machine = plain();
    let mut bob = lab.config("bob", deep, engine);
    bob.machine = deep_and_isolated();
    let mut guests = lab.boot([alice, bob])?;
    for (guest, kernel, is_deep) in [(0, shallow, false), (1, deep, true)] {
        let guest = &mut guests[guest];
        ensure!(
            guest.release().starts_with(kernel.series()),
            "{}",
            guest.release()
        );
        ensure!(
            is_deep_and_isolated(guest)? == is_deep,
            "{}: levels of page tables",
            guest.name()
        );
        tells_of_itself(guest)?;
    }
    Ok(guests)
}

/// What a guest tells of itself in sysfs is what it is.
fn tells_of_itself(guest: &mut Guest) -> Result<()> {
    let told = guest.ok("cd /sys/bus/virtio/devices/*/byway && cat name state node")?;
    let expected = format!("{}\nlive\nbyway", guest.name());
    ensure!(told == expected, "expected {expected:?}, found {told:?}");
    Ok(())
}

/// What a program measures between the two. On an emulated CPU that tells nothing of speed, but that the
/// commands work and agree.
fn figures(alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    const SIZES: [u64; 3] = [64, 64 << 10, 1 << 20];
    let job = alice.spawn("byway-perf serve bob perf --size 1M")?;
    let told = bob.ok(
        "byway-perf run perf --from alice --timeout 50 --sizes 64,64K,1M --seconds 0.1 \
         --json 2>/tmp/perf.err",
    )?;
    alice.wait_ok(&job, LIMIT)?;
    let report: serde_json::Value = serde_json::from_str(&told)?;
    ensure!(report["emulated"].is_string(), "{report}");
    let rows = report["rows"].as_array().context("no rows")?;
    // Two operations, one at a time and many at once.
    ensure!(rows.len() == SIZES.len() * 4, "{} rows", rows.len());
    for row in rows {
        println!(
            "          {} of {} bytes, {} at once: p50 {} ns, p99 {} ns, {:.3} GB/s, {} doorbells",
            row["operation"].as_str().unwrap_or_default(),
            row["bytes"],
            row["depth"],
            row["latency_ns_p50"],
            row["latency_ns_p99"],
            row["gigabytes_per_second"].as_f64().unwrap_or_default(),
            row["kicks"],
        );
        let number = |name: &str| row[name].as_u64().unwrap_or_default();
        ensure!(
            SIZES.contains(&number("bytes")) && number("descriptors") > 0,
            "{row}"
        );
        ensure!(
            (1..=number("latency_ns_p99")).contains(&number("latency_ns_p50")),
            "{row}"
        );
    }
    Ok(())
}

/// Process to process, across and within the two.
fn exchange(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    let count = |domain| engine.counter(domain, "bytes");
    let before = (count("alice")?, count("bob")?);
    step("16 MiB from alice to bob", || give(alice, bob, 16))?;
    // More than `byway-cat` takes at a time, and no multiple of it.
    step("17 MiB from bob to alice", || give(bob, alice, 17))?;
    for guest in [&mut *alice, &mut *bob] {
        step("between processes", || pass(guest, 4))?;
        step("within a process", || local(guest, 4))?;
    }
    // They really went by the engine.
    for (domain, moved, least) in [
        ("alice", count("alice")? - before.0, 17 + 8),
        ("bob", count("bob")? - before.1, 16 + 8),
    ] {
        ensure!(moved >= least << 20, "{domain} moved {moved} bytes only");
    }
    Ok(())
}

#[test]
fn processes_of_6_1_with_four_and_6_12_with_five_levels_exchange_memory() {
    lab::test("exchange-6.1-6.12", |lab| {
        let mut engine = lab.engine(STRANGERS)?;
        let [mut alice, mut bob] = boot(lab, &engine, Kernel::V6_1, Kernel::V6_12)?;
        step("selftests", || attacks::both(&engine, &mut alice, &mut bob))?;
        step("links", || {
            links::come_and_go(&engine, &mut alice, &mut bob)
        })?;
        link(&engine)?;
        exchange(&engine, &mut alice, &mut bob)?;
        step("figures", || figures(&mut alice, &mut bob))?;
        step("huge pages", || huge_pages(&engine, &mut alice, &mut bob))?;
        step("two regions", || two_regions(&mut alice, &mut bob))?;
        check(&mut engine, [&mut alice, &mut bob])
    });
}

#[test]
fn processes_of_6_12_with_four_and_6_1_with_five_levels_exchange_memory() {
    lab::test("exchange-6.12-6.1", |lab| {
        let mut engine = lab.engine(STRANGERS)?;
        let [mut alice, mut bob] = boot(lab, &engine, Kernel::V6_12, Kernel::V6_1)?;
        step("selftests", || attacks::both(&engine, &mut alice, &mut bob))?;
        link(&engine)?;
        exchange(&engine, &mut alice, &mut bob)?;
        check(&mut engine, [&mut alice, &mut bob])
    });
}
