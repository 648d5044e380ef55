//! What others see of an engine, a worker or a guest that stands still: it holds everything and answers nothing. What
//! the module's README.md promises of it: until somebody notices, things are late, no more; each guest notices for
//! itself; one that has loses what it gave and what it was given, and takes the device into use again when the engine
//! goes on; one that has not loses what it was given by those that have.

use std::time::Duration;

use anyhow::{Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::{Guest, Job};

use crate::scenario::{LIMIT, local, offer, random_file, sha256, until, wait_until};

/// What a kernel says when a request was not answered in time.
const UNANSWERED: &str = "the engine does not answer";
/// What it says when an invalidation waited for a worker in vain.
const IN_A_CHUNK: &str = "the engine stands still in a chunk";
/// How errno ETIMEDOUT reads in the messages of programs.
const TIMED_OUT: &str = "(os error 110)";
/// What a program is told whose device was reset.
const RESET: &str = "was reset";
/// How the statuses of a transfer read in the messages of programs.
const REVOKED: &str = "0x4b Revoked";
const ABORTED: &str = "0x62 Aborted";

/// How often the kernels ask whether the engine is still the same: as the module has it, or never.
const HEARTBEAT_MS: u32 = 2000;
const NEVER: u32 = 0;
/// How long they wait for an answer: as the module has it, or as long as they can be told to.
const TIMEOUT_MS: u32 = 5000;
const PATIENT_MS: u32 = 60_000;

/// Keeps both kernels from doing of their own accord what would notice a stop.
pub fn prepare(alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    for guest in [alice, bob] {
        // Pages that are put together have to wait for a worker inside a chunk.
        let merging = "/sys/kernel/mm/transparent_hugepage/khugepaged";
        guest.ok(&format!("echo 600000 >{merging}/scan_sleep_millisecs"))?;
    }
    Ok(())
}

fn heartbeat(guest: &mut Guest, ms: u32) -> Result<()> {
    parameter(guest, "heartbeat_ms", ms)
}

fn parameter(guest: &mut Guest, name: &str, value: u32) -> Result<()> {
    guest.ok(&format!(
        "echo {value} >/sys/module/byway/parameters/{name}"
    ))?;
    Ok(())
}

/// A process of alice's gives memory and asks for news of it fifty times a second; one of bob's reads all of it again
/// and again. Both go on until something ends. Bob's polls, so that his kernel has nothing to do with it.
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

/// What a guest's kernel has noticed so far.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Noticed {
    timeouts: u64,
    stalls: u64,
    recoveries: u64,
    /// Which engine, or which session with it.
    instance: String,
}

fn noticed(guest: &mut Guest) -> Result<Noticed> {
    Ok(Noticed {
        timeouts: counter(guest, "timeouts")?,
        stalls: counter(guest, "stalls")?,
        recoveries: counter(guest, "recoveries")?,
        instance: guest.ok("cat /sys/bus/virtio/devices/*/byway/instance")?,
    })
}

fn counter(guest: &mut Guest, name: &str) -> Result<u64> {
    let line = format!("awk '$1 == \"{name}\" {{ print $2 }}' /sys/kernel/debug/byway/*/stats");
    Ok(guest.ok(&line)?.parse()?)
}

/// How often a kernel has said something.
fn said(guest: &Guest, words: &str) -> usize {
    guest.console().matches(words).count()
}

/// Stops the engine until each of these guests has said that it does not answer. Each resets its device then, for
/// which QEMU waits for the engine, and the guest with it.
fn stopped_until_noticed(engine: &Engine, guests: &[&Guest]) -> Result<()> {
    let count = || guests.iter().map(|guest| said(guest, UNANSWERED));
    let before: Vec<_> = count().collect();
    engine.stop(true)?;
    let noticed = wait_until("everybody finds out", &mut || {
        Ok(count().zip(&before).all(|(now, before)| now > *before))
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

/// First a stop that is shorter than anybody's patience; then one that both notice, bob by his kernel's heartbeat alone.
pub fn engine_for_nobody_and_for_both(
    engine: &Engine,
    alice: &mut Guest,
    bob: &mut Guest,
) -> Result<()> {
    let (serving, reading) = busy(engine, alice, bob)?;
    let before = (noticed(alice)?, noticed(bob)?);
    engine.stop(true)?;
    std::thread::sleep(Duration::from_millis(500));
    engine.stop(false)?;
    flows(engine)?;
    let after = (noticed(alice)?, noticed(bob)?);
    ensure!(before == after, "{before:?} has become {after:?}");

    stopped_until_noticed(engine, &[&*alice, &*bob])?;
    // Hers is whichever request was the first: the process's, or her kernel's heartbeat.
    failed(alice, &serving, &[TIMED_OUT, RESET])?;
    // Whose reset the engine gets first is open: by hers, his transfer ends; by his, nobody tells how. And it may have
    // been about to ring the doorbell.
    failed(bob, &reading, &[REVOKED, ABORTED, RESET])?;
    for (guest, before) in [(alice, before.0), (bob, before.1)] {
        recovered(guest)?;
        lost_its_session(guest, &before)?;
    }
    Ok(())
}

fn lost_its_session(guest: &mut Guest, before: &Noticed) -> Result<()> {
    let after = noticed(guest)?;
    ensure!(
        after.timeouts + after.stalls > before.timeouts + before.stalls
            && after.recoveries > before.recoveries
            && after.instance != before.instance,
        "{}: {before:?} has become {after:?}",
        guest.name()
    );
    Ok(())
}

/// Alice's process is the first to ask, and gets ETIMEDOUT; bob's, which asks for nothing, goes on with the engine
/// until alice's reset takes her memory back.
pub fn engine_for_one(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    for guest in [&mut *alice, &mut *bob] {
        heartbeat(guest, NEVER)?;
    }
    let (serving, reading) = busy(engine, alice, bob)?;
    let before = (noticed(alice)?, noticed(bob)?);
    stopped_until_noticed(engine, &[&*alice])?;
    failed(alice, &serving, &[TIMED_OUT])?;
    failed(bob, &reading, &[REVOKED])?;
    recovered(alice)?;
    lost_its_session(alice, &before.0)?;
    let after = noticed(bob)?;
    ensure!(
        after == before.1,
        "bob: {:?} has become {after:?}",
        before.1
    );
    local(bob, 2)?;
    for guest in [alice, bob] {
        heartbeat(guest, HEARTBEAT_MS)?;
    }
    Ok(())
}

/// Bob's page tables change while a worker stands still inside a chunk of his. Offers to him are lost with his session,
/// the waits for offers end, and an offer that is made anew arrives.
pub fn worker(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    heartbeat(bob, NEVER)?;
    random_file(alice, "kept", 1)?;
    let offers = counter(bob, "offers")?;
    let kept = offer(alice, "bob", "kept", "kept")?;
    wait_until("the offer arrives", &mut || {
        Ok(counter(bob, "offers")? > offers)
    })?;
    let waiting = bob.spawn("byway-cat fetch never -o /dev/null")?;
    let (serving, reading) = busy(engine, alice, bob)?;
    let before = noticed(bob)?;
    // It may take several stops, of which her process's requests must not notice any.
    parameter(alice, "timeout_ms", PATIENT_MS)?;
    stall(engine, bob)?;
    parameter(alice, "timeout_ms", TIMEOUT_MS)?;
    failed(bob, &reading, &[ABORTED, RESET])?;
    failed(bob, &waiting, &[RESET])?;
    recovered(bob)?;
    lost_its_session(bob, &before)?;
    ensure!(counter(bob, "stalls")? > before.stalls, "no stall");
    // Nobody holds anything of hers any more.
    alice.wait_ok(&serving, LIMIT)?;
    bob.refused("byway-cat fetch kept --timeout 1", "nothing was offered")?;
    alice.ok("killall byway-cat")?;
    ensure!(
        alice.wait(&kept, LIMIT)?.status != 0,
        "nobody has fetched it"
    );
    heartbeat(bob, HEARTBEAT_MS)
}

/// Stops the engine and has bob's kernel change page tables of the process that reads, until a worker was inside a chunk
/// just then, which it is most of the time.
fn stall(engine: &Engine, bob: &mut Guest) -> Result<()> {
    const TRIES: u32 = 20;
    // Several times the module's `stall_ms`.
    const TRY: Duration = Duration::from_secs(5);
    let before = said(bob, IN_A_CHUNK);
    for _ in 0..TRIES {
        engine.stop(true)?;
        // Write-protects its pages, to learn which are written. Later, for QEMU to have answered by then.
        let changed = bob.spawn("usleep 300000; echo 4 >/proc/$(pidof byway-perf)/clear_refs")?;
        let deadline = std::time::Instant::now() + TRY;
        while said(bob, IN_A_CHUNK) == before && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        engine.stop(false)?;
        bob.wait_ok(&changed, LIMIT)?;
        if said(bob, IN_A_CHUNK) > before {
            return Ok(());
        }
        flows(engine)?;
    }
    anyhow::bail!("no worker was inside a chunk in {TRIES} tries")
}

/// Bob's VM stands still: what he is offered meanwhile he finds when he goes on, and nobody waits for him.
pub fn guest(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    random_file(alice, "late", 2)?;
    let offers = counter(bob, "offers")?;
    bob.stop(true)?;
    let late = offer(alice, "bob", "late", "late");
    let meanwhile = late.and_then(|late| {
        wait_until("the offer is made", &mut || {
            Ok(engine.domain("alice")?["capabilities"] != 0)
        })?;
        local(alice, 2)?;
        Ok(late)
    });
    bob.stop(false)?;
    let late = meanwhile?;
    bob.ok("byway-cat fetch late --from alice -o /tmp/taken --timeout 50")?;
    alice.wait_ok(&late, LIMIT)?;
    ensure!(
        counter(bob, "offers")? == offers + 1,
        "one offer has arrived"
    );
    ensure!(
        sha256(alice, "late")? == sha256(bob, "taken")?,
        "other bytes have arrived"
    );
    Ok(())
}
