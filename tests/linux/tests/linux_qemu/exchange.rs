//! Two guests exchange memory: every kernel, page tables of four and five levels, with and without
//! the kernel's page-table isolation.

use anyhow::{Result, ensure};
use byway_linux_tests::guest::Guest;
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab;
use byway_linux_tests::qemu::{FIVE_LEVELS, Machine};

use crate::scenario::{check, give, linked, local, pass};

/// Four levels, no isolation.
fn plain() -> Machine {
    Machine {
        cmdline: "pti=off".into(),
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

fn exchange(test: &str, shallow: Kernel, deep: Kernel) {
    lab::test(test, |lab| {
        let mut engine = linked(lab)?;
        let mut alice = lab.config("alice", shallow, &engine);
        alice.machine = plain();
        let mut bob = lab.config("bob", deep, &engine);
        bob.machine = deep_and_isolated();
        let [mut alice, mut bob] = lab.boot([alice, bob])?;
        ensure!(
            alice.release().starts_with(shallow.series()),
            "{}",
            alice.release()
        );
        ensure!(
            bob.release().starts_with(deep.series()),
            "{}",
            bob.release()
        );
        ensure!(!is_deep_and_isolated(&mut alice)?, "alice has five levels");
        ensure!(is_deep_and_isolated(&mut bob)?, "bob has four levels");
        give(&mut alice, &mut bob, 16)?;
        give(&mut bob, &mut alice, 40)?;
        for guest in [&mut alice, &mut bob] {
            pass(guest, 16)?;
            local(guest, 16)?;
        }
        // They really went by the engine.
        for domain in ["alice", "bob"] {
            let bytes = engine.counter(domain, "bytes")?;
            ensure!(bytes >= 48 << 20, "{domain} moved {bytes} bytes only");
        }
        check(&mut engine, [&mut alice, &mut bob])
    });
}

#[test]
fn processes_of_6_1_with_four_and_6_12_with_five_levels_exchange_memory() {
    exchange("exchange-6.1-6.12", Kernel::V6_1, Kernel::V6_12);
}

#[test]
fn processes_of_6_12_with_four_and_6_1_with_five_levels_exchange_memory() {
    exchange("exchange-6.12-6.1", Kernel::V6_12, Kernel::V6_1);
}
