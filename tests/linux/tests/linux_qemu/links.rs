//! What the operator permits between guests, and that nothing else is.

use anyhow::{Result, ensure};
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab;

use crate::scenario::{STRANGERS, check, give, offer, random_file, until};

/// What the tools say of EHOSTUNREACH.
const NO_LINK: &str = "No route to host";

#[test]
fn guests_reach_nothing_of_each_other_without_a_link_and_after_it() {
    lab::test("links", |lab| {
        let mut engine = lab.engine(STRANGERS)?;
        let alice = lab.config("alice", Kernel::V6_1, &engine);
        let bob = lab.config("bob", Kernel::V6_12, &engine);
        let [mut alice, mut bob] = lab.boot([alice, bob])?;
        random_file(&mut alice, "secret", 1)?;
        let attempt = "byway-cat offer bob secrets /tmp/secret --timeout 5";
        refused(&mut alice, attempt)?;
        // A domain that does not exist is told apart from one without a link by nothing.
        refused(&mut alice, &attempt.replace("bob", "carol"))?;
        bob.refused("byway-cat fetch secrets --timeout 1", "nothing was offered")?;
        ensure!(engine.counter("bob", "bytes")? == 0, "bob moved bytes");

        // One direction, while both run.
        engine.command(&["link", "alice", "bob", "--read"])?;
        give(&mut alice, &mut bob, 1)?;
        random_file(&mut bob, "secret", 1)?;
        refused(&mut bob, &attempt.replace("bob", "alice"))?;

        // An offer that waits ends with the link.
        let job = offer(&mut alice, "bob", "late", "secret")?;
        until(
            &mut bob,
            "grep -q '^offers  *[2-9]' /sys/kernel/debug/byway/*/stats",
        )?;
        engine.command(&["unlink", "alice", "bob"])?;
        bob.refused("byway-cat fetch late --timeout 1", "nothing was offered")?;
        refused(&mut alice, attempt)?;
        alice.ok("killall byway-cat")?;
        ensure!(
            alice.wait(&job, crate::scenario::LIMIT)?.status != 0,
            "it was fetched"
        );
        check(&mut engine, [&mut alice, &mut bob])
    });
}

fn refused(guest: &mut byway_linux_tests::guest::Guest, command: &str) -> Result<()> {
    guest.refused(command, NO_LINK)?;
    Ok(())
}
