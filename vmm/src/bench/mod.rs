//! `byway bench`: the figures that the project holds itself to, measured side by side in one run.
//!
//! Never a test: nothing fails because a machine is slow. Ratios are taken between alternating windows on the same
//! cores; windows that the host disturbed are told apart ([`quiet`]).

mod block;
mod exits;
mod latency;
mod mechanisms;
pub mod ops;
pub mod quiet;
pub mod report;
mod revocation;
mod sizes;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::signals::{Stop, StopOnSignal};
use crate::steer::{Stage, StageSpec};
use report::BenchReport;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// 64 B puts beside the cache-line round trip of the same cores
    Latency,
    /// Exits per polled put
    Exits,
    /// 1 MiB puts beside the best host memcpy
    Memcpy,
    /// Throughput over sizes and depths
    Sizes,
    /// Revocation while copies of 1 GiB run
    Revoke,
    /// IOTLB hits and misses, walks by size of page
    Translation,
    /// Invalidation of a page and of an address space, copies running
    Invalidation,
    /// Revocation with 1 and with 65,536 descendants
    Descendants,
    /// 64 B copies with no and with 16,384 idle queues registered
    IdleQueues,
    /// Floods of different weights, and a victim beside a flood
    Fairness,
    /// Every operation beside the same library called directly; not part of --quick unless named
    Ops,
    /// Blocks of a file into another VM's process, beside fio; not part of --quick unless named
    Block,
}

/// What `byway bench` takes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "Examples:\n  byway bench --quick --json bench.json  every figure in under two minutes\n  byway bench revoke memcpy              only these cases\n  byway bench --case ops --json ops.json every operation beside its library, in under three minutes\n  byway bench block --folder /mnt/disk   blocks of a file there, beside fio"
)]
pub struct BenchArgs {
    /// Cases to measure, all when none is named
    #[arg(value_name = "CASE")]
    pub cases: Vec<Case>,
    /// The same, one at a time
    #[arg(long = "case", value_name = "CASE")]
    pub more_cases: Vec<Case>,
    /// Measure in under two minutes: fewer sizes and windows
    #[arg(long)]
    pub quick: bool,
    /// In the case `ops`, measure only operations whose name contains this; may be given several times
    #[arg(long, value_name = "OP")]
    pub only: Vec<String>,
    /// In the case `block`, where the file of 128 MiB goes while it is read; a file system of a real disk
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl BenchArgs {
    /// Whether a case is to be measured.
    fn wants(&self, case: Case) -> bool {
        let mut named = self.cases.iter().chain(&self.more_cases).peekable();
        if named.peek().is_none() {
            // What takes too long for a quick look is asked for by name.
            return !(self.quick && matches!(case, Case::Ops | Case::Block));
        }
        named.any(|&one| one == case)
    }
}

/// Measures and prints.
///
/// # Errors
/// When the host lacks something, a guest fails, it is told to stop, or the file cannot be written.
pub fn run(args: &BenchArgs) -> Result<()> {
    let signals = StopOnSignal::install().context("cannot take over signals")?;
    let report = measure(args, signals.stop())?;
    println!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Measures what is asked for.
///
/// # Errors
/// When the host lacks something, a guest fails, or `stop` is set.
pub fn measure(args: &BenchArgs, stop: &Stop) -> Result<BenchReport> {
    let started = Instant::now();
    let revocations = if args.quick { 1100 } else { 5000 };
    let bar = ProgressBar::new(u64::from(revocations) + 500);
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {percent:>3}% {msg}",
    )?);
    let mut report = BenchReport {
        quick: args.quick,
        cpu: cpu_model(),
        ..BenchReport::default()
    };
    let progress = Progress { bar: &bar, stop };
    let measured = each_case(args, revocations, &mut report, progress);
    bar.finish_and_clear();
    measured?;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// What is shown meanwhile, and whether to go on.
#[derive(Clone, Copy)]
struct Progress<'p> {
    bar: &'p ProgressBar,
    stop: &'p Stop,
}

impl Progress<'_> {
    /// Says what comes now, if anything more is to come.
    fn next(&self, what: &'static str) -> Result<()> {
        self.stop.check()?;
        self.bar.set_message(what);
        Ok(())
    }
}

fn each_case(
    args: &BenchArgs,
    revocations: u32,
    report: &mut BenchReport,
    progress: Progress<'_>,
) -> Result<()> {
    let wanted = |case| args.wants(case);
    if [Case::Latency, Case::Exits, Case::Memcpy, Case::Sizes]
        .into_iter()
        .any(wanted)
    {
        between_vms(&wanted, args.quick, report, progress)?;
    }
    if wanted(Case::Revoke) {
        progress.next("revocation during copies of 1 GiB")?;
        let large = StageSpec {
            memory_bytes: 1280 << 20,
            buffer_bytes: 1 << 30,
        };
        let mut stage = Stage::set(large, &mut |_| {})?;
        stage.stop_on(progress.stop);
        let rows = &mut report.rows;
        let passes = if args.quick { 2 } else { 3 };
        report.ratios.revoke_us_p999 =
            revocation::measure(&mut stage, revocations, passes, rows, || {
                progress.bar.inc(1)
            })?
            .or_note(&mut report.not_measured);
    }
    mechanisms_alone(&wanted, args.quick, report, progress)?;
    if wanted(Case::Ops) {
        progress.next("operations")?;
        let missing = &mut report.not_measured;
        let wanted = ops::Wanted {
            quick: args.quick,
            only: &args.only,
        };
        ops::measure(
            &wanted,
            &mut report.rows,
            &mut report.ratios,
            missing,
            progress,
        )?;
    }
    if wanted(Case::Block) {
        let folder = args.folder.clone().unwrap_or_else(std::env::temp_dir);
        let found = block::measure(&folder, args.quick, &mut report.rows, progress)?;
        let (ratios, missing) = (&mut report.ratios, &mut report.not_measured);
        ratios.block_128k_over_fio = found.large.or_note(missing);
        ratios.block_4k_over_fio = found.small.or_note(missing);
    }
    Ok(())
}

/// What takes two virtual machines with small buffers.
fn between_vms(
    wanted: &impl Fn(Case) -> bool,
    quick: bool,
    report: &mut BenchReport,
    progress: Progress<'_>,
) -> Result<()> {
    let (rounds, copies) = if quick { (8, 80) } else { (40, 200) };
    let missing = &mut report.not_measured;
    let (ratios, rows) = (&mut report.ratios, &mut report.rows);
    let mut stage = Stage::set(StageSpec::default(), &mut |what| {
        progress.bar.set_message(what.to_owned())
    })?;
    stage.stop_on(progress.stop);
    ratios.boot_to_first_transfer_s = Some(stage.boot_to_first_transfer.as_secs_f64());
    if wanted(Case::Latency) {
        progress.next("small puts beside the cache-line round trip")?;
        if let Some(small) = latency::measure(&stage, rounds, rows)?.or_note(missing) {
            ratios.put64_rtt_over_pingpong = Some(small.alone_ns / small.pingpong_ns);
            ratios.op64_ns_over_pingpong = Some(small.deep_ns / small.pingpong_ns);
        }
    }
    progress.bar.inc(100);
    if wanted(Case::Exits) {
        progress.next("exits")?;
        ratios.exits_per_op = exits::measure(&stage, rows)?.or_note(missing);
    }
    progress.bar.inc(50);
    if wanted(Case::Memcpy) {
        progress.next("1 MiB puts beside memcpy")?;
        ratios.put_1m_over_memcpy = sizes::against_memcpy(&stage, copies, rows)?.or_note(missing);
    }
    progress.bar.inc(50);
    if wanted(Case::Sizes) {
        progress.next("sizes and depths")?;
        sizes::sweep(&stage, quick, rows)?;
    }
    progress.bar.inc(100);
    Ok(())
}

/// What takes no virtual machine ([`mechanisms`]).
fn mechanisms_alone(
    wanted: &impl Fn(Case) -> bool,
    quick: bool,
    report: &mut BenchReport,
    progress: Progress<'_>,
) -> Result<()> {
    let missing = &mut report.not_measured;
    let (ratios, rows) = (&mut report.ratios, &mut report.rows);
    if wanted(Case::Translation) {
        progress.next("translation")?;
        mechanisms::translation(rows)?;
    }
    if wanted(Case::Invalidation) {
        progress.next("invalidation")?;
        mechanisms::invalidation(quick, rows)?;
    }
    progress.bar.inc(50);
    if wanted(Case::Descendants) {
        progress.next("revocation with many descendants")?;
        ratios.revoke_65536_over_1 = mechanisms::descendants(quick, rows)?.or_note(missing);
    }
    progress.bar.inc(50);
    if wanted(Case::IdleQueues) {
        progress.next("thousands of idle queues")?;
        ratios.put64_16384_idle_over_1 = mechanisms::idle_queues(quick, rows)?.or_note(missing);
    }
    progress.bar.inc(50);
    if wanted(Case::Fairness) {
        progress.next("fairness")?;
        let fairness = mechanisms::fairness(quick, rows)?;
        ratios.jain = Some(fairness.jain);
        ratios.victim_p99_over_share = fairness.victims.or_note(missing);
    }
    progress.bar.inc(50);
    Ok(())
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(
            || "unknown CPU".to_owned(),
            |(_, name)| name.trim().to_owned(),
        )
}
