//! What one guest's programs try: refusals by the engine, bad input to the module, processes that
//! fork and execute, memory that changes under a transfer. The checks are `byway-selftest`'s.

use anyhow::{Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::Guest;
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab;
use byway_linux_tests::qemu::{Emulator, Machine};

use crate::scenario::{STRANGERS, check, selftest, until};

/// Two guests at the same time, each of several CPUs: every check passes, none is skipped.
pub fn both(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    for report in selftest([&mut *alice, &mut *bob], &[])? {
        ensure!(report["one_cpu"] == false, "{report}");
    }
    for guest in [alice, bob] {
        nothing_left(guest)?;
        let failures = engine.counter(guest.name(), "failures")?;
        ensure!(failures > 20, "{}: {failures} refusals only", guest.name());
    }
    Ok(())
}

#[test]
fn guests_with_one_cpu_keep_their_accessed_and_dirty_bits_to_themselves() {
    lab::test("one-cpu", |lab| {
        let mut engine = lab.engine(STRANGERS)?;
        // The emulator that the host has, which users of a stable Debian attach to the engine, too.
        let machine = Machine {
            emulator: Emulator::Host,
            cpus: 1,
            ..Machine::default()
        };
        let configs = [("alice", Kernel::V6_1), ("bob", Kernel::V6_12)].map(|(name, kernel)| {
            let mut config = lab.config(name, kernel, &engine);
            config.machine = machine.clone();
            config
        });
        let [mut alice, mut bob] = lab.boot(configs)?;
        let skips = ["accessed-bit-kept", "dirty-bit-kept"];
        for report in lab::step("selftests", || selftest([&mut alice, &mut bob], &skips))? {
            ensure!(report["one_cpu"] == true, "{report}");
        }
        for guest in [&mut alice, &mut bob] {
            nothing_left(guest)?;
        }
        check(&mut engine, [&mut alice, &mut bob])
    });
}

/// Everything that programs had has gone with them.
fn nothing_left(guest: &mut Guest) -> Result<()> {
    until(
        guest,
        "! grep -E '^(spaces|contexts|queues|caps|listeners)_now +[1-9]' \
         /sys/kernel/debug/byway/*/stats",
    )
}
