//! What the tests have in common: an engine for two domains, and transfers by `byway-cat`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use byway_linux_tests::engine::Engine;
use byway_linux_tests::guest::{Guest, Job, Output};
use byway_linux_tests::lab::Lab;

/// How long a transfer may take until it hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Two domains that have nothing to do with each other.
pub const STRANGERS: &str = r#"
[[domain]]
name = "alice"
[[domain]]
name = "bob"
"#;

/// Links `alice` and `bob` in both directions.
pub fn link(engine: &Engine) -> Result<()> {
    for (from, to) in [("alice", "bob"), ("bob", "alice")] {
        engine.command(&["link", from, to, "--read", "--write"])?;
    }
    Ok(())
}

/// An engine for `alice` and `bob`, linked.
pub fn linked(lab: &Lab) -> Result<Engine> {
    let engine = lab.engine(STRANGERS)?;
    link(&engine)?;
    Ok(engine)
}

/// Makes `/tmp/NAME` of random bytes.
pub fn random_file(guest: &mut Guest, name: &str, mib: u32) -> Result<()> {
    guest.ok(&format!(
        "dd if=/dev/urandom of=/tmp/{name} bs=1M count={mib} 2>/dev/null"
    ))?;
    Ok(())
}

/// SHA-256 of `/tmp/NAME`, by the guest's busybox.
pub fn sha256(guest: &mut Guest, name: &str) -> Result<String> {
    let line = guest.ok(&format!("sha256sum /tmp/{name}"))?;
    let sum = line.split_whitespace().next().context("no sum")?;
    ensure!(sum.len() == 64, "no SHA-256: {line}");
    Ok(sum.to_owned())
}

/// Offers `/tmp/FILE` to a peer, in the background.
pub fn offer(giver: &mut Guest, peer: &str, port: &str, file: &str) -> Result<Job> {
    giver.spawn(&format!(
        "byway-cat offer {peer} {port} /tmp/{file} --timeout 50"
    ))
}

/// A process of `giver` gives as many MiB to a process of `taker`; both sides see the same bytes.
pub fn give(giver: &mut Guest, taker: &mut Guest, mib: u32) -> Result<()> {
    let port = format!("from-{}", giver.name());
    random_file(giver, "given", mib)?;
    let job = offer(giver, taker.name(), &port, "given")?;
    let from = giver.name().to_owned();
    taker.ok(&format!(
        "byway-cat fetch {port} --from {from} -o /tmp/taken --timeout 50"
    ))?;
    giver.wait_ok(&job, LIMIT)?;
    let (given, taken) = (sha256(giver, "given")?, sha256(taker, "taken")?);
    ensure!(
        given == taken,
        "{} gave {given}, {} took {taken}",
        giver.name(),
        taker.name()
    );
    giver.ok("rm /tmp/given")?;
    taker.ok("rm /tmp/taken")?;
    Ok(())
}

/// Two processes of one guest do the same by a capability that one passes to the other.
pub fn pass(guest: &mut Guest, mib: u32) -> Result<()> {
    random_file(guest, "given", mib)?;
    let job = guest.spawn("byway-cat pass /tmp/cat.sock /tmp/given --timeout 50")?;
    until(guest, "[ -S /tmp/cat.sock ]")?;
    guest.ok("byway-cat take /tmp/cat.sock -o /tmp/taken --timeout 50")?;
    guest.wait_ok(&job, LIMIT)?;
    guest.ok("cmp /tmp/given /tmp/taken && rm /tmp/given /tmp/taken")?;
    Ok(())
}

/// One process copies within its memory.
pub fn local(guest: &mut Guest, mib: u32) -> Result<()> {
    random_file(guest, "given", mib)?;
    guest.ok("byway-cat local /tmp/given -o /tmp/taken")?;
    guest.ok("cmp /tmp/given /tmp/taken && rm /tmp/given /tmp/taken")?;
    Ok(())
}

/// Runs the self-tests of guests side by side; every check has to pass or, if `skips` allows, to be skipped.
pub fn selftest<const N: usize>(
    mut guests: [&mut Guest; N],
    skips: &[&str],
) -> Result<Vec<serde_json::Value>> {
    let command = "byway-selftest --json 2>/tmp/selftest.err";
    let mut jobs = Vec::new();
    for guest in &mut guests {
        jobs.push(guest.spawn(command)?);
    }
    let mut reports = Vec::new();
    for (guest, job) in guests.into_iter().zip(&jobs) {
        let output = guest.wait(job, LIMIT * 2)?;
        reports.push(report(guest.name(), &output, skips)?);
    }
    Ok(reports)
}

/// What a self-test has told, if it is good.
fn report(name: &str, output: &Output, skips: &[&str]) -> Result<serde_json::Value> {
    let report: serde_json::Value = serde_json::from_str(&output.text)
        .with_context(|| format!("{name}: status {}: {}", output.status, output.text))?;
    let checks = report["checks"].as_array().context("no checks")?;
    ensure!(checks.len() > 40, "{name}: only {} checks", checks.len());
    let wrong: Vec<_> = checks
        .iter()
        .filter(|check| match check["outcome"].as_str() {
            Some("passed") => false,
            Some("skipped") => !skips.iter().any(|skip| check["name"] == *skip),
            _ => true,
        })
        .map(ToString::to_string)
        .collect();
    ensure!(
        wrong.is_empty() && output.status == 0,
        "{name}: byway-selftest: status {}: {wrong:#?}",
        output.status
    );
    Ok(report)
}

/// Waits until a command in a guest succeeds.
pub fn until(guest: &mut Guest, command: &str) -> Result<()> {
    guest.ok(&format!(
        "n=0; until {{ {command}; }} 2>/dev/null; do n=$((n + 1)); [ $n -lt 300 ] || exit 1; \
         usleep 100000; done"
    ))?;
    Ok(())
}

/// Waits for what is seen from the host, a minute at most.
pub fn wait_until(what: &str, holds: &mut dyn FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..1200 {
        if holds()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("not true in a minute: {what}")
}

/// What every test ends with.
pub fn check<const N: usize>(engine: &mut Engine, guests: [&mut Guest; N]) -> Result<()> {
    ensure!(engine.is_alive()?, "the engine has ended");
    for guest in guests {
        guest.check()?;
    }
    Ok(())
}
