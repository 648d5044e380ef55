//! What the operator permits between guests, and that nothing else is.

use anyhow::{Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::Guest;

use crate::scenario::{LIMIT, give, offer, random_file, until};

/// What the tools say of EHOSTUNREACH.
const NO_LINK: &str = "No route to host";
/// What they say when no offer came.
const NOTHING: &str = "nothing was offered";

/// Guests reach nothing of each other without a link and after it. They are strangers before and afterwards.
pub fn come_and_go(engine: &Engine, alice: &mut Guest, bob: &mut Guest) -> Result<()> {
    let bytes = || engine.counter("bob", "bytes");
    let before = bytes()?;
    for guest in [&mut *alice, &mut *bob] {
        random_file(guest, "secret", 1)?;
    }
    let attempt = "byway-cat offer bob secrets /tmp/secret --timeout 5";
    refused(alice, attempt)?;
    // A domain that does not exist is told apart from one without a link by nothing.
    refused(alice, &attempt.replace("bob", "carol"))?;
    bob.refused("byway-cat fetch secrets --timeout 1", NOTHING)?;
    ensure!(bytes()? == before, "bob moved bytes");

    // One direction, while both run.
    engine.command(&["link", "alice", "bob", "--read"])?;
    give(alice, bob, 1)?;
    refused(bob, &attempt.replace("bob", "alice"))?;

    // An offer that waits ends with the link.
    let offers = "cat /sys/kernel/debug/byway/*/stats | sed -n 's/^offers  *//p'";
    let seen: u64 = bob.ok(offers)?.parse()?;
    let job = offer(alice, "bob", "late", "secret")?;
    until(bob, &format!("[ $({offers}) -gt {seen} ]"))?;
    engine.command(&["unlink", "alice", "bob"])?;
    bob.refused("byway-cat fetch late --timeout 1", NOTHING)?;
    refused(alice, attempt)?;
    alice.ok("killall byway-cat")?;
    ensure!(alice.wait(&job, LIMIT)?.status != 0, "it was fetched");
    Ok(())
}

fn refused(guest: &mut Guest, command: &str) -> Result<()> {
    guest.refused(command, NO_LINK)?;
    Ok(())
}
