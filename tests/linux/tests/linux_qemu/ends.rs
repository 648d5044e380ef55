//! Everything that can end in the middle of a transfer: a guest, its driver, the engine. One after another with the
//! same two guests, so that each end is also one that those before it have left able to work.

use anyhow::{Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::{Guest, Job};
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab::{self, step};
use byway_linux_tests::qemu::Emulator;

use crate::scenario::{
    LIMIT, check, give, linked, local, offer, random_file, sha256, until, wait_until,
};
use crate::stands_still;

/// How a transfer of [`traffic`] ends that was broken off.
const BROKEN_OFF: i32 = 7;
/// How one ends that was told to.
const ENOUGH: i32 = 8;

/// A process of alice's gives the same large file again and again; bob fetches it until something ends. Returns
/// the two jobs, once bytes flow.
fn traffic(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<(Job, Job)> {
    random_file(alice, "endless", 16)?;
    for guest in [&mut *alice, &mut *bob] {
        guest.ok("rm -f /tmp/enough")?;
    }
    let until_broken = |command| {
        format!(
            "until [ -e /tmp/enough ]; do {command} 2>&1 || exit {BROKEN_OFF}; done; exit {ENOUGH}"
        )
    };
    let offer = "byway-cat offer bob endless /tmp/endless --timeout 50";
    let giving = alice.spawn(&until_broken(offer))?;
    let fetch = "byway-cat fetch endless --timeout 5 -o /dev/null";
    let taking = bob.spawn(&until_broken(fetch))?;
    let start = engine.counter("bob", "bytes")?;
    wait_until("bytes are moved", &mut || {
        Ok(engine.counter("bob", "bytes")? > start)
    })?;
    Ok((giving, taking))
}

/// A side of the transfer has ended with a status, not with silence.
fn broken_off(guest: &mut Guest, job: &Job) -> Result<()> {
    let output = guest.wait(job, LIMIT)?;
    ensure!(
        output.status == BROKEN_OFF,
        "{}'s transfer: status {}: {}",
        guest.name(),
        output.status,
        output.text
    );
    Ok(())
}

/// Both can do everything.
fn well(alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    give(alice, bob, 2)?;
    give(bob, alice, 2)
}

#[test]
fn a_guest_a_driver_and_an_engine_that_end_leave_nobody_hanging() {
    lab::test("ends", |lab| {
        let mut engine = linked(lab)?;
        let mut alice = lab.config("alice", Kernel::V6_1, &engine);
        alice.machine.emulator = Emulator::Host;
        alice.machine.may_reboot = true;
        alice.machine.more_mib = MORE_MIB;
        let mut bob = lab.config("bob", Kernel::V6_12, &engine);
        bob.machine.emulator = Emulator::Host;
        let [mut alice, mut bob] = lab.boot([alice, bob])?;
        step("memory that comes and goes in mid-transfer", || {
            memory_comes_and_goes(&engine, &mut alice, &mut bob)
        })?;
        step("driver unbound with rings open", || {
            driver_held(&mut alice, "bob")?;
            driver_held(&mut bob, "alice")
        })?;
        step("driver unbound in mid-transfer", || {
            driver_unbound(&engine, &mut alice, &mut bob)
        })?;
        engine_stands_still(&engine, &mut alice, &mut bob)?;
        step("engine killed in mid-transfer", || {
            engine_killed(&mut engine, &mut alice, &mut bob)
        })?;
        step("guest rebooted in mid-transfer", || {
            let (_, taking) = traffic(&engine, &mut alice, &mut bob)?;
            alice.reboot()?;
            broken_off(&mut bob, &taking)?;
            well(&mut alice, &mut bob)
        })?;
        step("guest killed in mid-transfer", || {
            let (_, taking) = traffic(&engine, &mut alice, &mut bob)?;
            alice.check()?;
            alice.kill();
            broken_off(&mut bob, &taking)?;
            local(&mut bob, 2)
        })?;
        // The next alice is another one, at the same socket. Nobody is there to be told when bob offers.
        random_file(&mut bob, "early", 1)?;
        let early = bob.spawn("byway-cat offer alice early /tmp/early")?;
        bob.wait_for(&early, "alice is not up; waiting", LIMIT)?;
        let [mut again] = lab.boot([lab.config("alice", Kernel::V6_12, &engine)])?;
        step("another guest in its place", || {
            again.ok("byway-cat fetch early --from bob -o /tmp/early --timeout 50")?;
            bob.wait_ok(&early, LIMIT)?;
            ensure!(
                sha256(&mut bob, "early")? == sha256(&mut again, "early")?,
                "other bytes have arrived"
            );
            well(&mut again, &mut bob)
        })?;
        check(&mut engine, [&mut alice, &mut again, &mut bob])
    });
}

/// RAM that is plugged in: one block of a kernel's.
const MORE_MIB: u32 = 128;

/// Alice's processes get pages of RAM that was plugged in, which the engine learns of as it comes, and lose them
/// again under transfers that go on: nobody has pinned them.
fn memory_comes_and_goes(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    alice.plug_memory(MORE_MIB)?;
    let blocks = "/sys/devices/system/memory/memory*/state";
    until(alice, &format!("grep -q offline {blocks}"))?;
    alice.ok(&format!(
        "for state in $(grep -l offline {blocks}); do echo online_movable >$state || exit 1; done"
    ))?;
    let free = movable(alice, "nr_free_pages")?;
    ensure!(free > u64::from(MORE_MIB) * 256 * 9 / 10, "{free} pages");
    let (_giving, taking) = traffic(engine, alice, bob)?;
    let left = movable(alice, "nr_free_pages")?;
    ensure!(
        free - left > 16 * 256,
        "of {free} pages that were plugged in {left} are left: nobody uses them"
    );
    alice.unplug_memory()?;
    ensure!(movable(alice, "present")? == 0, "it is there still");
    let bytes = engine.counter("bob", "bytes")?;
    let mut flows = || Ok(engine.counter("bob", "bytes")? > bytes + (16 << 20));
    wait_until("bytes flow without that memory", &mut flows)?;
    bob.ok("touch /tmp/enough")?;
    ensure!(
        bob.wait(&taking, LIMIT)?.status == ENOUGH,
        "the transfer was broken off"
    );
    alice.ok("touch /tmp/enough; killall byway-cat || true")?;
    Ok(())
}

/// A line of the zone that has nothing but pages that can be moved.
fn movable(guest: &mut Guest, line: &str) -> Result<u64> {
    let told = guest.ok(&format!(
        "awk '/zone +Movable/ {{ z = 1 }} z && $1 == \"{line}\" {{ print $2; exit }}' /proc/zoneinfo"
    ))?;
    Ok(told.parse()?)
}

/// Path of the driver in sysfs.
const DRIVER: &str = "/sys/bus/virtio/drivers/byway";

fn bind(guest: &mut Guest) -> Result<()> {
    guest.ok(&format!("cat /tmp/device >{DRIVER}/bind"))?;
    until(guest, "[ -e /dev/byway ]")
}

/// Rings open: the module is in use, the driver can be unbound all the same.
fn driver_held(guest: &mut Guest, peer: &str) -> Result<()> {
    random_file(guest, "held", 1)?;
    let held = offer(guest, peer, "held", "held")?;
    until(
        guest,
        "grep -q '^queues_now *[1-9]\\|^contexts_now *[1-9]' /sys/kernel/debug/byway/*/stats",
    )?;
    guest.refused("rmmod byway", "Resource temporarily unavailable")?;
    guest.ok(&format!(
        "cd {DRIVER}; for d in virtio*; do echo $d >/tmp/device; echo $d >unbind; done"
    ))?;
    ensure!(
        [1, 3].contains(&guest.wait(&held, LIMIT)?.status),
        "the offer's end"
    );
    guest.ok("! [ -e /dev/byway ]")?;
    guest.refused("byway-cat local /tmp/held", "")?;
    bind(guest)?;
    local(guest, 1)?;
    // And now without programs that hold it.
    guest.ok("rmmod byway && insmod /modules/90-byway.ko")?;
    until(guest, "[ -e /dev/byway ]")?;
    local(guest, 1)
}

/// Under the feet of both sides.
fn driver_unbound(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    let (_, taking) = traffic(engine, alice, bob)?;
    alice.ok(&format!("cat /tmp/device >{DRIVER}/unbind"))?;
    broken_off(bob, &taking)?;
    bind(alice)?;
    give(bob, alice, 2)
}

/// An engine that is stopped, and what is like it.
fn engine_stands_still(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    stands_still::prepare(alice, bob)?;
    step("engine stopped: nobody notices, then both", || {
        stands_still::engine_for_nobody_and_for_both(engine, alice, bob)
    })?;
    step("engine stopped: one notices", || {
        stands_still::engine_for_one(engine, alice, bob)?;
        well(alice, bob)
    })?;
    step("worker that stands still, and offers", || {
        stands_still::worker(engine, alice, bob)?;
        well(alice, bob)
    })?;
    step("guest that stands still, and offers", || {
        stands_still::guest(engine, alice, bob)
    })
}

fn engine_killed(engine: &mut Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    let (giving, taking) = traffic(engine, alice, bob)?;
    engine.kill();
    broken_off(bob, &taking)?;
    broken_off(alice, &giving)?;
    engine.restart()?;
    crate::scenario::link(engine)?;
    for guest in [&mut *alice, &mut *bob] {
        until(guest, "echo again | byway-cat local | grep -q again")?;
    }
    well(alice, bob)
}
