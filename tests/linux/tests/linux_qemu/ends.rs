//! Everything that can end in the middle of a transfer: a guest, its driver, the engine. One after another with the
//! same two guests, so that each end is also one that those before it have left able to work.

use std::time::Duration;

use anyhow::{Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::{Guest, Job};
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab::{self, step};

use crate::scenario::{LIMIT, check, give, linked, local, offer, random_file, until};

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
        alice.machine.may_reboot = true;
        alice.machine.more_mib = MORE_MIB;
        let bob = lab.config("bob", Kernel::V6_12, &engine);
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
        step("engine stopped in mid-transfer", || {
            engine_stopped(&engine, &mut alice, &mut bob)
        })?;
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
        // The next alice is another one, at the same socket.
        let [mut again] = lab.boot([lab.config("alice", Kernel::V6_12, &engine)])?;
        step("another guest in its place", || well(&mut again, &mut bob))?;
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

fn wait_until(what: &str, holds: &mut dyn FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..1200 {
        if holds()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("not true in a minute: {what}")
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

/// Where the module's parameters are.
const PARAMETERS: &str = "/sys/module/byway/parameters";
/// What it says when a request was not answered in time.
const UNANSWERED: &str = "the engine does not answer";
/// How errno ETIMEDOUT reads in the messages of programs.
const TIMED_OUT: &str = "(os error 110)";

/// A process of alice's gives memory and asks for news of it fifty times a second; one of bob's reads all of it again
/// and again. Both go on until something ends. Bob's polls, so that nobody but it waits for what the engine does.
fn busy(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<(Job, Job)> {
    let serving = alice.spawn("byway-perf serve bob busy --size 16M")?;
    let reading = bob.spawn(
        "byway-perf run busy --from alice --timeout 50 --operations get --sizes 16M --depth 8 --seconds 3600",
    )?;
    flows(engine)?;
    Ok((serving, reading))
}

/// Bob's transfers go on.
fn flows(engine: &Engine) -> Result<()> {
    let start = engine.counter("bob", "bytes")?;
    wait_until("bytes are moved", &mut || {
        Ok(engine.counter("bob", "bytes")? > start + (64 << 20))
    })
}

/// What a guest's kernel has seen of an engine that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    timeouts: String,
    recoveries: String,
    instance: String,
}

fn seen(guest: &mut Guest) -> Result<Seen> {
    let mut counter = |name| {
        guest.ok(&format!(
            "awk '$1 == \"{name}\" {{ print $2 }}' /sys/kernel/debug/byway/*/stats"
        ))
    };
    let (timeouts, recoveries) = (counter("timeouts")?, counter("recoveries")?);
    ensure!(
        !timeouts.is_empty() && !recoveries.is_empty(),
        "no counters"
    );
    Ok(Seen {
        timeouts,
        recoveries,
        instance: guest.ok("cat /sys/bus/virtio/devices/*/byway/instance")?,
    })
}

fn set(guest: &mut Guest, parameter: &str, value: u32) -> Result<()> {
    guest.ok(&format!("echo {value} >{PARAMETERS}/{parameter}"))?;
    Ok(())
}

/// Stops the engine until each of these guests has said that it does not answer. From then on QEMU waits for the
/// engine, since the guest resets its device, and the guest with it.
fn stopped_until_noticed(engine: &Engine, guests: &[&Guest]) -> Result<()> {
    let said = |guest: &Guest| guest.console().matches(UNANSWERED).count();
    let before: Vec<_> = guests.iter().map(|guest| said(guest)).collect();
    engine.stop(true)?;
    let noticed = wait_until("everybody finds out", &mut || {
        Ok(guests
            .iter()
            .zip(&before)
            .all(|(guest, n)| said(guest) > *n))
    });
    engine.stop(false)?;
    noticed
}

/// A process that was in the middle of something has ended by itself, having said why.
fn failed(guest: &mut Guest, job: &Job, words: &[&str]) -> Result<()> {
    let output = guest.wait(job, LIMIT)?;
    ensure!(
        output.status == 1 && words.iter().any(|words| output.text.contains(words)),
        "{}: expected exit status 1 and one of {words:?}, found status {}: {}",
        guest.name(),
        output.status,
        output.text
    );
    Ok(())
}

/// The device is in use again, and nothing waits that cannot be killed.
fn recovered(guest: &mut Guest) -> Result<()> {
    let state = "/sys/bus/virtio/devices/*/byway/state";
    until(guest, &format!("[ $(cat {state}) = live ]"))?;
    until(guest, "! grep -q '^State:.D' /proc/[0-9]*/status")
}

/// It holds everything and answers nothing. What README.md of the module promises of it: a stop that nobody notices
/// makes things late, no more; each guest notices for itself; one that has loses what it gave and what it was given, and
/// takes the device into use again when the engine goes on; one that has not loses what it was given by those that have.
fn engine_stopped(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    for guest in [&mut *alice, &mut *bob] {
        // Pages that are merged would have to wait for a worker that stands still, which is noticed as well.
        guest.ok(
            "echo 600000 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
        )?;
    }
    let (serving, reading) = busy(engine, alice, bob)?;
    nobody_notices(engine, alice, bob)?;
    for guest in [&mut *alice, &mut *bob] {
        set(guest, "timeout_ms", 1000)?;
        set(guest, "heartbeat_ms", 500)?;
    }
    // Bob's kernel by its heartbeat alone.
    stopped_until_noticed(engine, &[&*alice, &*bob])?;
    failed(alice, &serving, &[TIMED_OUT, "was reset"])?;
    failed(bob, &reading, &["aborted"])?;
    for guest in [&mut *alice, &mut *bob] {
        recovered(guest)?;
        set(guest, "heartbeat_ms", 0)?;
    }
    only_alice_notices(engine, alice, bob)?;
    for guest in [&mut *alice, &mut *bob] {
        set(guest, "timeout_ms", 5000)?;
        set(guest, "heartbeat_ms", 2000)?;
    }
    well(alice, bob)
}

/// A stop that is shorter than anybody's patience.
fn nobody_notices(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    let before = (seen(alice)?, seen(bob)?);
    engine.stop(true)?;
    std::thread::sleep(Duration::from_millis(500));
    engine.stop(false)?;
    flows(engine)?;
    let after = (seen(alice)?, seen(bob)?);
    ensure!(before == after, "{before:?} has become {after:?}");
    Ok(())
}

/// Alice's process is the first to ask, and gets ETIMEDOUT; bob's, which asks for nothing, goes on with the engine
/// until alice's reset takes her memory back.
fn only_alice_notices(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    let (serving, reading) = busy(engine, alice, bob)?;
    let (given, taken) = (seen(alice)?, seen(bob)?);
    stopped_until_noticed(engine, &[&*alice])?;
    failed(alice, &serving, &[TIMED_OUT])?;
    failed(bob, &reading, &["capability revoked"])?;
    recovered(alice)?;
    let lost = seen(alice)?;
    ensure!(
        lost.timeouts != given.timeouts
            && lost.recoveries != given.recoveries
            && lost.instance != given.instance,
        "alice: {given:?} has become {lost:?}"
    );
    let kept = seen(bob)?;
    ensure!(kept == taken, "bob: {taken:?} has become {kept:?}");
    local(bob, 2)
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
