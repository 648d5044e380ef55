//! `byway demo p2p`: disks exchange data with guests' processes and with each other, by
//! descriptors of ring-3 processes, checked on paths of their own.

mod object;
mod report;
mod tools;
mod usual;
mod without_guests;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::{Process, pattern};
use byway_engine::interface::EndpointKind;
use byway_protocols::operands::{DeviceFields, device_operation};
use byway_protocols::{Descriptor, Flags, Opcode, Status, Word0};

use super::exits::Witness;
use crate::exit_status::{WrongPlace, can_be_written};
use crate::measure::thread_load::cpu_seconds;
use crate::say::say;
use crate::signals::StopOnSignal;
use crate::steer::{DeviceCalls, Direction, RunSpec, Stage, StageSpec, is_success};
pub use report::{P2pReport, PathRow};

/// Bytes of each disk: those of a buffer.
const DISK: u64 = 16 << 20;
/// Bytes of one transfer in the timed runs.
const SIZE: u64 = 128 << 10;
/// Transfers in flight.
const DEPTH: u64 = 16;
/// Runs over the whole disk; the first warms up.
const ROUNDS: u64 = 4;
/// Seed of what alice writes.
const SEED: u64 = 0xa11ce;

/// What `byway demo p2p` takes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "Examples:\n  byway demo p2p --json p2p.json\n  byway demo p2p --folder /mnt/disk   put the disks' images there"
)]
pub struct P2pArgs {
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the disks' images go, for as long as it runs; a file system of a real disk
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Shows everything; the result is an error unless all of it held.
///
/// # Errors
/// When the host lacks something or it is told to stop, or anything that is checked did not hold.
pub fn run(args: &P2pArgs) -> Result<()> {
    if let Some(path) = &args.json {
        can_be_written(path)?;
    }
    let signals = StopOnSignal::install().context("cannot take over signals")?;
    let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = Folder::new(&parent)?;
    let mut report = P2pReport::default();
    let mut stage = Stage::set(StageSpec::default(), &mut |what| say(what))?;
    stage.stop_on(signals.stop());
    if let Err(error) = play(&stage, &folder.0, &mut report) {
        report.failures.push(format!("{error:#}"));
    }
    signals.stop().check()?;
    report.verified = report.failures.is_empty();
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

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("byway-p2p-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|source| WrongPlace {
            what: format!("cannot make a folder in {}", parent.display()),
            source,
        })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file of these bytes as an endpoint that is granted to alice.
fn disk(stage: &Stage, folder: &Path, name: &str, bytes: &[u8], size: u64) -> Result<PathBuf> {
    disk_of(stage, folder, (name, EndpointKind::File), bytes, size)
}

/// The same behind another kind of device.
fn disk_of(
    stage: &Stage,
    folder: &Path,
    (name, kind): (&str, EndpointKind),
    bytes: &[u8],
    size: u64,
) -> Result<PathBuf> {
    let path = folder.join(format!("{name}.img"));
    let mut file = File::create(&path)?;
    file.write_all(bytes)?;
    // Blocks that are there: what a write allocates first would be timed with it.
    let zeros = vec![0; (size - bytes.len() as u64) as usize];
    file.write_all(&zeros)?;
    file.sync_all()?;
    stage.attach_disk(name, kind, &path)?;
    Ok(path)
}

/// A DEVICE_TRANSFER between (slot, address) and (slot, address).
fn transfer(operation: u8, src: (u16, u64), dst: (u16, u64), size: u64) -> Descriptor {
    let fields = DeviceFields {
        operation,
        ..DeviceFields::default()
    };
    Descriptor {
        word0: Word0::new(src.0, dst.0, false).0,
        src: src.1,
        dst: dst.1,
        size: size as u32,
        ..Descriptor::new(Opcode::DeviceTransfer, Flags::NONE)
    }
    .with_operands(fields.to_bytes())
}

fn play(stage: &Stage, folder: &Path, report: &mut P2pReport) -> Result<()> {
    let alice =
        |name: &str| -> Result<u16> { Ok(stage.alice.open_endpoint(Process::App, name)?.slot) };
    let first = disk(stage, folder, "first", &[], DISK)?;
    let second = disk(stage, folder, "second", &[], DISK)?;
    let (one, two) = (alice("first")?, alice("second")?);
    let mut witness = Witness::proven(stage).context("witness")?;
    let own = (0, stage.alice_buffer);
    let bob = (stage.slot, 0);

    stage.fill_source(Direction::Put, SEED)?;
    let write = transfer(device_operation::WRITE, own, (one, 0), SIZE);
    let written = timed(
        stage,
        &mut witness,
        &write,
        ("alice's process", "disk"),
        report,
    )?;
    report.paths.push(written);
    let flush = transfer(device_operation::FLUSH, (0, 0), (one, 0), 0);
    expect(stage, &flush, "FLUSH")?;
    let mut expected = vec![0; DISK as usize];
    pattern::fill(&mut expected, SEED);
    ensure!(
        std::fs::read(&first)? == expected,
        "the disk holds something else than alice wrote"
    );

    let read = transfer(device_operation::READ, (one, 0), bob, SIZE);
    let row = timed(
        stage,
        &mut witness,
        &read,
        ("disk", "bob's process"),
        report,
    )?;
    report.paths.push(row);
    stage.verify_destination(Direction::Put, SEED)?;

    let clone = transfer(device_operation::COPY, (one, 0), (two, 0), SIZE);
    let row = timed(stage, &mut witness, &clone, ("disk", "disk"), report)?;
    report.paths.push(row);
    ensure!(std::fs::read(&second)? == expected, "the clone differs");
    let row = from_nvme(stage, folder, &mut witness, report)?;
    report.paths.push(row);
    let exits = witness.close(stage).context("idle spin")?;
    let caused = exits.caused_by_transfers();
    for row in &mut report.paths {
        row.exits = caused;
    }
    match caused {
        Some(0) => {}
        Some(n) => report.failures.push(format!("transfers caused {n} exits")),
        None => report
            .skipped
            .push(format!("exits: not measured ({exits})").trim().to_owned()),
    }

    let plain = folder.join("expected");
    std::fs::write(&plain, &expected)?;
    tools::same_sums(&plain, &[&first, &second], report)?;
    tools::same_images(&first, &second, report)?;
    object::read_in_one_pass(stage, folder, &expected, report)?;
    object::stored_in_one_pass(stage, folder, &expected, report)?;
    object::through_every_step(stage, folder, &expected, report)?;

    beside_the_usual_path(stage, &first, &expected, report)
}

/// How else the first disk's bytes reach a process of another VM, and what any way through two processes costs at least.
fn beside_the_usual_path(
    stage: &Stage,
    first: &Path,
    expected: &[u8],
    report: &mut P2pReport,
) -> Result<()> {
    let usual = usual::read_and_send(stage, first, DISK, ROUNDS).context("the usual path")?;
    let bare = without_guests::read_and_send(first, DISK, SIZE, ROUNDS)?;
    ensure!(
        bare.bytes_are(expected),
        "the path without guests brought something else"
    );
    report.usual_path = usual::WHAT.to_owned();
    report.without_guests = without_guests::WHAT.to_owned();
    if usual.exits.is_none() {
        let why = "usual path's exits: KVM's statistics do not tell";
        report.skipped.push(why.to_owned());
    }
    for row in &mut report.paths {
        if (row.from.as_str(), row.to.as_str()) == ("disk", "bob's process") {
            row.usual_path_gbps = Some(usual.gbps);
            row.usual_path_cpu_s_per_gib = Some(usual.cpu_s_per_gib);
            row.usual_path_exits = usual.exits;
            row.without_guests_gbps = Some(bare.gbps);
            row.without_guests_cpu_s_per_gib = Some(bare.cpu_s_per_gib);
        }
    }
    Ok(())
}

/// What an NVMe controller has, of which the engine shares the queues, reaches bob's process.
fn from_nvme(
    stage: &Stage,
    folder: &Path,
    witness: &mut Witness,
    report: &mut P2pReport,
) -> Result<PathRow> {
    // Other bytes than bob has already.
    let seed = SEED + 1;
    let mut bytes = vec![0; DISK as usize];
    pattern::fill(&mut bytes, seed);
    let kind = EndpointKind::NvmeModel;
    disk_of(stage, folder, ("nvme", kind), &bytes, DISK)?;
    let slot = stage.alice.open_endpoint(Process::App, "nvme")?.slot;
    let bob = (stage.slot, 0);
    let read = transfer(device_operation::READ, (slot, 0), bob, SIZE);
    let way = ("NVMe disk", "bob's process");
    let row = timed(stage, witness, &read, way, report)?;
    stage.fill_source(Direction::Put, seed)?;
    stage.verify_destination(Direction::Put, seed)?;
    // What alice had before.
    stage.fill_source(Direction::Put, SEED)?;
    Ok(row)
}

/// One descriptor of alice's, which has to succeed.
fn expect(stage: &Stage, descriptor: &Descriptor, what: &str) -> Result<()> {
    let done = stage.alice.execute_one(Process::App, descriptor)?;
    ensure!(
        is_success(&done) && done.status() == Some(Status::Success),
        "{what} ended as {done:?}"
    );
    Ok(())
}

/// Runs over the whole disk, and takes the time.
fn timed(
    stage: &Stage,
    witness: &mut Witness,
    first: &Descriptor,
    (from, to): (&str, &str),
    report: &mut P2pReport,
) -> Result<PathRow> {
    let count = DISK / SIZE;
    let spec = RunSpec {
        descriptor: *first,
        iterations: count,
        depth: DEPTH,
        stride: SIZE,
        samples: 0,
    };
    let tid = stage.engine.worker_tids()[0];
    let (mut ns, mut bytes, mut cpu_s, mut calls) = (0, 0, 0.0, DeviceCalls::default());
    for round in 0..ROUNDS {
        let mut before = (0.0, DeviceCalls::default());
        let mut elapsed = Duration::ZERO;
        // Of the attempt that counts.
        let done = witness.window(stage, |stage| {
            before = (cpu_seconds(tid)?, stage.device_calls()?);
            let started = Instant::now();
            let done = stage.alice.run(Process::App, &spec)?;
            elapsed = started.elapsed();
            Ok(done)
        })?;
        ensure!(
            done.completed == count && done.failed == 0,
            "{from} to {to}: {} of {count} transfers completed, {} not with success (first status {:#04x})",
            done.completed,
            done.failed,
            done.first_bad_status
        );
        report.bytes += DISK;
        if round == 0 {
            continue;
        }
        let after = (cpu_seconds(tid)?, stage.device_calls()?);
        // A worker that polls is busy all the time: what it burns while nothing is asked of it is not the transfer's.
        let share = done.ns as f64 / elapsed.as_nanos() as f64;
        cpu_s += (after.0 - before.0) * share.min(1.0);
        calls += after.1.since(before.1);
        ns += done.ns;
        bytes += DISK;
    }
    Ok(PathRow {
        from: from.to_owned(),
        to: to.to_owned(),
        gbps: bytes as f64 / ns as f64,
        exits: None,
        syscalls_per_mib: calls.all() as f64 / (bytes >> 20) as f64,
        driver_syscalls_per_mib: calls.drivers as f64 / (bytes >> 20) as f64,
        cpu_s_per_gib: cpu_s * (1 << 30) as f64 / bytes as f64,
        usual_path_gbps: None,
        usual_path_cpu_s_per_gib: None,
        usual_path_exits: None,
        without_guests_gbps: None,
        without_guests_cpu_s_per_gib: None,
    })
}
