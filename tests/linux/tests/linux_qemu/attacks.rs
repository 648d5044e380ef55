//! What one guest's programs try: refusals by the engine, bad input to the module, processes that
//! fork and execute, memory that changes under a transfer. The checks are `byway-selftest`'s.

use anyhow::ensure;
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab;
use byway_linux_tests::qemu::{FIVE_LEVELS, Machine};

use crate::scenario::{STRANGERS, check, selftest};

#[test]
fn both_kernels_refuse_what_they_have_to() {
    lab::test("selftest", |lab| {
        let mut engine = lab.engine(STRANGERS)?;
        let alice = lab.config("alice", Kernel::V6_1, &engine);
        let mut bob = lab.config("bob", Kernel::V6_12, &engine);
        bob.machine.cpu = FIVE_LEVELS.into();
        let [mut alice, mut bob] = lab.boot([alice, bob])?;
        for guest in [&mut alice, &mut bob] {
            let report = selftest(guest, &[])?;
            ensure!(report["one_cpu"] == false, "{report}");
            nothing_left(guest)?;
        }
        ensure!(
            engine.counter("alice", "failures")? > 20,
            "nothing was refused"
        );
        check(&mut engine, [&mut alice, &mut bob])
    });
}

#[test]
fn guests_with_one_cpu_keep_their_accessed_and_dirty_bits_to_themselves() {
    lab::test("one-cpu", |lab| {
        let mut engine = lab.engine(STRANGERS)?;
        let machine = Machine {
            cpus: 1,
            ..Machine::default()
        };
        let configs = [("alice", Kernel::V6_1), ("bob", Kernel::V6_12)].map(|(name, kernel)| {
            let mut config = lab.config(name, kernel, &engine);
            config.machine = machine.clone();
            config
        });
        let [mut alice, mut bob] = lab.boot(configs)?;
        for guest in [&mut alice, &mut bob] {
            let report = selftest(guest, &["accessed-bit-kept", "dirty-bit-kept"])?;
            ensure!(report["one_cpu"] == true, "{report}");
            nothing_left(guest)?;
        }
        check(&mut engine, [&mut alice, &mut bob])
    });
}

/// Everything that programs had has gone with them.
fn nothing_left(guest: &mut byway_linux_tests::guest::Guest) -> anyhow::Result<()> {
    crate::scenario::until(
        guest,
        "! grep -E '^(spaces|contexts|queues|caps|listeners)_now +[1-9]' \
         /sys/kernel/debug/byway/*/stats",
    )
}
