//! Everything that can end in the middle of a transfer: a guest, its driver, the engine.

use std::time::Duration;

use anyhow::{Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::{Config, Guest, Job};
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab::{self, Lab};

use crate::scenario::{LIMIT, check, give, linked, local, offer, random_file, until};

/// Alice's module gives the same large file again and again; bob fetches it until something ends. Returns
/// bob's job once bytes flow.
fn traffic(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<(Job, Job)> {
    random_file(alice, "endless", 24)?;
    let giving = alice
        .spawn("while byway-cat offer bob endless /tmp/endless --timeout 50 2>&1; do :; done")?;
    let taking = bob.spawn(
        "while byway-cat fetch endless --timeout 20 -o /dev/null 2>&1; do :; done; exit 7",
    )?;
    flowing(engine)?;
    Ok((giving, taking))
}

/// Waits until bob's descriptors move bytes.
fn flowing(engine: &Engine) -> Result<()> {
    let start = engine.counter("bob", "bytes")?;
    for _ in 0..600 {
        if engine.counter("bob", "bytes")? > start {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("no byte was moved")
}

fn two(lab: &Lab, engine: &Engine) -> [Config; 2] {
    [
        lab.config("alice", Kernel::V6_1, engine),
        lab.config("bob", Kernel::V6_12, engine),
    ]
}

#[test]
fn a_guest_that_is_killed_harms_nobody() {
    lab::test("killed", |lab| {
        let mut engine = linked(lab)?;
        let [mut alice, mut bob] = lab.boot(two(lab, &engine))?;
        let (_, taking) = traffic(&engine, &mut alice, &mut bob)?;
        alice.kill();
        // The transfer ends with a status, not with silence.
        ensure!(bob.wait(&taking, LIMIT)?.status == 7, "bob's transfer");
        local(&mut bob, 4)?;
        alice.check()?;
        // The next alice is another one, at the same socket.
        let [mut again] = lab.boot([lab.config("alice", Kernel::V6_12, &engine)])?;
        give(&mut again, &mut bob, 4)?;
        give(&mut bob, &mut again, 4)?;
        check(&mut engine, [&mut again, &mut bob])
    });
}

#[test]
fn a_guest_that_reboots_starts_over() {
    lab::test("rebooted", |lab| {
        let mut engine = linked(lab)?;
        let mut configs = two(lab, &engine);
        configs[0].machine.may_reboot = true;
        let [mut alice, mut bob] = lab.boot(configs)?;
        let (_, taking) = traffic(&engine, &mut alice, &mut bob)?;
        alice.reboot()?;
        ensure!(bob.wait(&taking, LIMIT)?.status == 7, "bob's transfer");
        give(&mut alice, &mut bob, 4)?;
        give(&mut bob, &mut alice, 4)?;
        check(&mut engine, [&mut alice, &mut bob])
    });
}

/// Path of the driver in sysfs.
const DRIVER: &str = "/sys/bus/virtio/drivers/byway";

#[test]
fn a_driver_that_goes_away_leaves_nobody_hanging() {
    lab::test("driver-gone", |lab| {
        let mut engine = linked(lab)?;
        let guests = lab.boot(two(lab, &engine))?;
        let [mut alice, mut bob] = guests;
        // Rings open: the module is in use, the driver can be unbound all the same.
        for (guest, peer) in [(&mut alice, "bob"), (&mut bob, "alice")] {
            random_file(guest, "held", 1)?;
            let held = offer(guest, peer, "held", "held")?;
            until(
                guest,
                "grep -q '^queues_now *[1-9]\\|^contexts_now *[1-9]' /sys/kernel/debug/byway/*/stats",
            )?;
            guest.refused("rmmod byway", "")?;
            guest.ok(&format!(
                "cd {DRIVER}; for d in virtio*; do echo $d >/tmp/device; echo $d >unbind; done"
            ))?;
            ensure!(
                [1, 3].contains(&guest.wait(&held, LIMIT)?.status),
                "the offer's end"
            );
            guest.ok("! [ -e /dev/byway ]")?;
            guest.refused("byway-cat local /tmp/held", "")?;
            guest.ok(&format!("cat /tmp/device >{DRIVER}/bind"))?;
            until(guest, "[ -e /dev/byway ]")?;
            local(guest, 1)?;
            // And now without programs that hold it.
            guest.ok("rmmod byway && insmod /modules/90-byway.ko")?;
            until(guest, "[ -e /dev/byway ]")?;
        }
        // In mid-transfer, under the feet of both sides.
        let (_, taking) = traffic(&engine, &mut alice, &mut bob)?;
        alice.ok(&format!("cat /tmp/device >{DRIVER}/unbind"))?;
        ensure!(bob.wait(&taking, LIMIT)?.status == 7, "bob's transfer");
        alice.ok(&format!("cat /tmp/device >{DRIVER}/bind"))?;
        until(&mut alice, "[ -e /dev/byway ]")?;
        give(&mut bob, &mut alice, 4)?;
        check(&mut engine, [&mut alice, &mut bob])
    });
}

#[test]
fn an_engine_that_is_killed_comes_back() {
    lab::test("engine-killed", |lab| {
        let mut engine = linked(lab)?;
        let [mut alice, mut bob] = lab.boot(two(lab, &engine))?;
        let (giving, taking) = traffic(&engine, &mut alice, &mut bob)?;
        engine.kill();
        ensure!(bob.wait(&taking, LIMIT)?.status == 7, "bob's transfer");
        alice.wait(&giving, LIMIT)?;
        engine.restart()?;
        for guest in [&mut alice, &mut bob] {
            until(guest, "echo again | byway-cat local | grep -q again")?;
        }
        give(&mut alice, &mut bob, 4)?;
        give(&mut bob, &mut alice, 4)?;
        check(&mut engine, [&mut alice, &mut bob])
    });
}
