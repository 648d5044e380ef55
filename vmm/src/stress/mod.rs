//! `byway stress`: everything that hostile and busy guests can do to each other, on the user's own host.
//!
//! Each case boots its VMs, lets ring-3 processes in them do their worst for a time, and counts what must not
//! happen. The choices follow from a seed; the interleaving does not, so a seed narrows a search
//! and does not replay it.

mod cast;
mod flood;
mod hostile;
mod kill;
mod plan;
mod regions;
pub mod report;
mod revoke;
mod storm;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::signals::{Interrupted, StopOnSignal};
use plan::Plan;
use report::{CaseRow, StressReport};

/// What `byway stress` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  byway stress                              every case, ten seconds each\n  \
                  byway stress --case storm --seconds 3600  an hour of page tables that change\n  \
                  byway stress --case hostile --seed 7      the choices of an earlier run again"
)]
pub struct StressArgs {
    /// Which case; may be given several times
    #[arg(long = "case", value_name = "NAME", value_enum, default_value = "all")]
    pub cases: Vec<Case>,
    /// Seconds of each case
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// What the choices follow from; a new one each time unless given
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Leave out what keeps a promise, to see that the case finds it
    #[arg(long = "break", value_name = "WHAT", value_enum, hide = true)]
    pub broken: Option<Break>,
    /// Be the VMM that `kill` kills, attached to the engine whose sockets are in this folder
    #[arg(long, value_name = "DIR", hide = true)]
    pub vmm_of: Option<PathBuf>,
}

/// The cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Every case
    All,
    /// Page tables change under transfers, pages are used again at once
    Storm,
    /// The host takes guest memory away under transfers, gives it back, lets it be read only
    Regions,
    /// Random rings, page tables and control messages from one VM while two others exchange memory
    Hostile,
    /// Capabilities are revoked at any moment of a copy
    Revoke,
    /// One VM's queue is full of large transfers, another's small ones are timed
    Flood,
    /// VMs, and VMMs as processes, end at any moment of their transfers
    Kill,
}

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Break {
    /// Guests use pages again before the engine has acknowledged their invalidation
    InvalidationWait,
}

impl Case {
    /// Those that run, in their order.
    const EACH: [Self; 6] = [
        Self::Storm,
        Self::Regions,
        Self::Hostile,
        Self::Revoke,
        Self::Flood,
        Self::Kill,
    ];

    /// Its name on the command line and in the report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Storm => "storm",
            Self::Regions => "regions",
            Self::Hostile => "hostile",
            Self::Revoke => "revoke",
            Self::Flood => "flood",
            Self::Kill => "kill",
        }
    }

    fn run(self, plan: &Plan<'_>) -> Result<CaseRow> {
        match self {
            Self::All => bail!("`all` stands for the cases and is none"),
            Self::Storm => storm::run(plan),
            Self::Regions => regions::run(plan),
            Self::Hostile => hostile::run(plan),
            Self::Revoke => revoke::run(plan),
            Self::Flood => flood::run(plan),
            Self::Kill => kill::run(plan),
        }
    }
}

/// Runs the cases and prints what they found.
///
/// # Errors
/// When the host lacks something, anything happened that must not, or it was told to stop before the end. The JSON
/// file is written in the latter two cases too.
pub fn run(args: &StressArgs) -> Result<()> {
    if let Some(folder) = &args.vmm_of {
        return kill::be_killed(folder);
    }
    if let Some(path) = &args.json {
        // Before hours of work: what is there stays until there is something to put in its place.
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let report = play(args, seed)?;
    println!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    match report.violations() {
        0 if report.interrupted => bail!("told to stop before the end: no violation until then"),
        0 => Ok(()),
        violations => bail!("{violations} violations; see above"),
    }
}

/// Runs the cases.
///
/// # Errors
/// When a case cannot be set up at all.
pub fn play(args: &StressArgs, seed: u64) -> Result<StressReport> {
    crate::host::open_kvm().map_err(anyhow::Error::new)?;
    let started = Instant::now();
    let signals = StopOnSignal::install().context("cannot take over signals")?;
    let bar = progress_bar()?;
    let mut report = StressReport {
        seed,
        ..StressReport::default()
    };
    let every = args.cases.contains(&Case::All);
    for case in Case::EACH
        .into_iter()
        .filter(|case| every || args.cases.contains(case))
    {
        if signals.stop().is_set() {
            break;
        }
        bar.set_message(case.name());
        let plan = Plan {
            duration: Duration::from_secs(args.seconds),
            seed,
            reuse_too_early: args.broken == Some(Break::InvalidationWait),
            stop: signals.stop(),
            bar: &bar,
        };
        match case.run(&plan) {
            Ok(row) => report.cases.push(row),
            // While it was being set up.
            Err(error) if error.is::<Interrupted>() => break,
            Err(error) => return Err(error.context(format!("case {}", case.name()))),
        }
    }
    bar.finish_and_clear();
    report.interrupted = signals.stop().is_set();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Shown on a terminal, silent in a pipe.
fn progress_bar() -> Result<ProgressBar> {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {percent:>3}% {msg}",
    )?);
    Ok(bar)
}

/// A seed that differs from run to run.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Milliseconds, so that it is short enough to type.
    now.map_or(0, |since| since.as_millis() as u64 & 0xffff_ffff)
}
