//! `byway demo`: two VMs exchange memory through the engine, and everything that is promised about it is
//! shown and checked.

pub mod exits;
pub mod p2p;
pub mod refusals;
pub mod report;
pub mod revocation;
pub mod rings;
pub mod transfers;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::exit_status::can_be_written;
use crate::signals::{Stop, StopOnSignal};
use crate::steer::{Stage, StageSpec};
use exits::Witness;
use report::{DemoReport, bytes_name};

/// What `byway demo` takes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  byway demo                   show and check everything\n  byway demo --json demo.json  write the results for programs, too\n  byway demo p2p               the same with disks"
)]
pub struct DemoArgs {
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Something else
    #[command(subcommand)]
    pub other: Option<Other>,
}

/// What else can be shown.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Other {
    /// Disks exchange data with guests' processes, and with each other
    P2p(p2p::P2pArgs),
}

/// Shows everything; the result is an error unless all of it held.
///
/// # Errors
/// When the host lacks something or it is told to stop, or anything that the demo checks did not hold. The JSON
/// file is written in the last case too.
pub fn run(args: &DemoArgs) -> Result<()> {
    if let Some(Other::P2p(args)) = &args.other {
        return p2p::run(args);
    }
    if let Some(path) = &args.json {
        can_be_written(path)?;
    }
    let signals = StopOnSignal::install().context("cannot take over signals")?;
    let report = play(signals.stop())?;
    println!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !report.verified {
        bail!("the demo did not hold: {}", report.failures.join("; "));
    }
    Ok(())
}

/// Windows of the ping-pong; the quietest counts.
const PING_WINDOWS: u32 = 10;
/// Round trips in each.
const PINGS: u64 = 10_000;

/// Plays the demo. What does not hold is in the report's `failures`.
///
/// # Errors
/// When the stage cannot be set at all, or `stop` is set.
pub fn play(stop: &Stop) -> Result<DemoReport> {
    let started = Instant::now();
    let bar = ProgressBar::new(
        transfers::SIZES.len() as u64 * 2 * transfers::ROUNDS * StageSpec::default().buffer_bytes,
    );
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {bytes:>10} of {total_bytes} {msg}",
    )?);
    let mut stage = Stage::set(StageSpec::default(), &mut |what| {
        bar.set_message(what.to_owned())
    })?;
    stage.stop_on(stop);
    let mut report = DemoReport::default();
    let shown = show(&mut stage, &mut report, &bar);
    bar.finish_and_clear();
    stop.check()?;
    if let Err(error) = shown {
        report.failures.push(format!("{error:#}"));
    }
    match report.exits.caused_by_transfers() {
        Some(0) => {}
        Some(n) => report
            .failures
            .push(format!("polled transfers caused {n} exits")),
        None if report.failures.is_empty() => {
            let lacks = report.exits.witness_lacks.join("; ");
            report
                .failures
                .push(format!("exits were not measured: {lacks}"));
        }
        None => {}
    }
    report.verified = report.failures.is_empty();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The acts, in order. What is known so far is in `report` even when one fails.
fn show(stage: &mut Stage, report: &mut DemoReport, bar: &ProgressBar) -> Result<()> {
    let windows = stage.ping_pong(PING_WINDOWS, PINGS).context("ping-pong")?;
    report.pingpong_ns = windows
        .iter()
        .map(|window| window.ns)
        .fold(f64::INFINITY, f64::min);
    let mut witness = Witness::proven(stage).context("witness")?;
    bar.set_message("put and get, every byte verified by the receiver");
    let sweep = transfers::sweep(stage, &mut witness, |bytes| bar.set_position(bytes))?;
    report.sizes = sweep.rows;
    report.transfers = sweep.transfers;
    report.bytes = sweep.bytes;
    report.exits = witness.close(stage).context("idle spin")?;

    bar.set_message("refusals");
    report.refused = refusals::provoke(stage).context("refusals")?;
    bar.set_message(format!(
        "revoking during copies of {}",
        bytes_name(stage.buffer_bytes)
    ));
    let revocations = revocation::rounds(stage, |_, _| {}).context("revocation")?;
    report.revoke_us_max = revocations.us_max;
    report.revoke_us_max_disturbed = revocations.us_max_disturbed;
    report.revokes_disturbed = revocations.disturbed;
    report.transfers += revocations.transfers;
    report.refused.extend(revocations.refused);
    Ok(())
}
