//! `byway bench block`: blocks of a file into a process of another VM, beside fio on the same file and the same core.
//!
//! alice's process asks, the engine's worker has io_uring read the file and copies what has come into bob's process; fio
//! leaves it in a buffer of its own. Both read with O_DIRECT and registered buffers, and take turns: the worker
//! sleeps while fio has its core. Rows of their own have the disk read into bob's memory itself, which his kernel says is pinned. What counts is the ratio of the medians. Both rest before a window: disks of
//! virtual machines are faster after a rest.

mod fio;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use byway_agent::commands::{ComparePattern, NO_MISMATCH};
use byway_agent::{Process, pattern};
use byway_engine::interface::EndpointKind;
use byway_protocols::operands::{DeviceFields, device_operation};
use byway_protocols::{Descriptor, Flags, Opcode, Word0};

use super::Progress;
use super::quiet::{Quiet, Watch};
use super::report::{BlockFigures, Row};
use crate::measure::thread_load::cpu_seconds;
use crate::steer::{DeviceCalls, RunSpec, Stage, StageSpec};

/// Bytes of the file, and of bob's buffer.
const BYTES: u64 = 128 << 20;
/// Seed of what is in it.
const SEED: u64 = 0xb10c;
/// Rest of the disk before a window. fio's has its own start in it.
const REST: Duration = Duration::from_millis(500);
/// How often the file is read in a window.
const PASSES: u32 = 2;
/// Of so many bytes that were asked for, the host has to have read as many from a device.
const FROM_DEVICE_MIN: f64 = 0.99;

/// Size and number of the transfers under way.
#[derive(Debug, Clone, Copy)]
struct Shape {
    size: u64,
    depth: u64,
}

const LARGE: Shape = Shape {
    size: 128 << 10,
    depth: 16,
};
const SMALL: Shape = Shape {
    size: 4 << 10,
    depth: 32,
};

/// The two figures that have targets: the engine's throughput over fio's.
pub(super) struct Found {
    pub(super) large: Quiet<f64>,
    pub(super) small: Quiet<f64>,
}

/// Measures both sizes with the file in this folder.
///
/// # Errors
/// When a guest does not do as told, a transfer or fio fails, or a byte differs.
pub(super) fn measure(
    folder: &Path,
    quick: bool,
    rows: &mut Vec<Row>,
    progress: Progress<'_>,
) -> Result<Found> {
    let not_measured = |why: &str| {
        let why = || Quiet::NotMeasured(format!("blocks beside fio: {why}"));
        Ok(Found {
            large: why(),
            small: why(),
        })
    };
    if !fio::is_here() {
        return not_measured("fio is not installed: `apt-get install fio`, then run this again");
    }
    let image = Image::new(folder)?;
    if !image.is_direct()? {
        return not_measured(
            "the file system has no O_DIRECT: name a folder of a real disk with --folder",
        );
    }
    let spec = StageSpec {
        memory_bytes: 384 << 20,
        buffer_bytes: BYTES,
    };
    let mut stage = Stage::set(spec, &mut |_| {})?;
    stage.stop_on(progress.stop);
    stage.attach_disk("bench", EndpointKind::File, &image.0)?;
    let disk = stage.alice.open_endpoint(Process::App, "bench")?.slot;
    let turns = if quick { 9 } else { 27 };
    let mut side_by_side = |shape, what, case, slot| -> Result<Quiet<f64>> {
        progress.next(what)?;
        let reader = Reader {
            stage: &stage,
            path: &image.0,
            disk,
            shape,
            case,
            slot,
        };
        reader.side_by_side(turns, rows)
    };
    let (case, slot) = ("block to memory", stage.slot);
    let found = Found {
        large: side_by_side(LARGE, "blocks of 128 KiB beside fio", case, slot)?,
        small: side_by_side(SMALL, "blocks of 4 KiB beside fio", case, slot)?,
    };
    // Beside the targets: what the copy out of staging costs.
    let slot = stage.trust_disk("bench")?;
    let (case, before) = ("block to pinned memory", stage.direct_requests()?);
    for (shape, what) in [
        (LARGE, "blocks of 128 KiB into pinned memory beside fio"),
        (SMALL, "blocks of 4 KiB into pinned memory beside fio"),
    ] {
        side_by_side(shape, what, case, slot)?;
    }
    ensure!(
        stage.direct_requests()? > before,
        "the engine has let its disk reach no pinned memory"
    );
    Ok(found)
}

/// A file with the pattern, removed at the end.
struct Image(PathBuf);

impl Image {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("byway-bench-{}.img", std::process::id()));
        let mut bytes = vec![0; BYTES as usize];
        pattern::fill(&mut bytes, SEED);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot make a file in {}", folder.display()))?;
        let image = Self(path);
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(image)
    }

    fn is_direct(&self) -> Result<bool> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&self.0);
        match opened {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(e) => Err(e).context("cannot open the file that is to be read"),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Reads the whole file, either way.
struct Reader<'s> {
    stage: &'s Stage,
    path: &'s Path,
    /// Alice's slot for it.
    disk: u16,
    shape: Shape,
    /// What its rows are called.
    case: &'static str,
    /// Alice's slot for bob's memory.
    slot: u16,
}

/// Windows of one way: both sides wait for a device, so that the host's part cannot be told apart, and all count.
#[derive(Default)]
struct Windows {
    /// Gigabytes (10^9 bytes) a second.
    gbps: Watch,
    cpu_s_per_gib: Watch,
}

impl Windows {
    fn add(&mut self, gbps: f64, cpu_s_per_gib: f64) {
        self.gbps.count(gbps, true);
        self.cpu_s_per_gib.count(cpu_s_per_gib, true);
    }

    fn row(&self, case: &str, shape: Shape, figures: BlockFigures) -> Row {
        let gbps = self.gbps.median();
        let all = self.gbps.values();
        let least = all.iter().copied().reduce(f64::min);
        let range = least.zip(all.iter().copied().reduce(f64::max));
        Row {
            case: case.to_owned(),
            size: shape.size,
            depth: shape.depth,
            gbps,
            ops_per_s: gbps.map(|gbps| gbps * 1e9 / shape.size as f64),
            samples: Some(all.len() as u64),
            block: Some(BlockFigures {
                cpu_s_per_gib: self.cpu_s_per_gib.median(),
                ..figures
            }),
            note: range.map(|(least, most)| format!("{least:.2} to {most:.2} GB/s")),
            ..Row::default()
        }
    }
}

impl Reader<'_> {
    /// Takes turns, notes both rows, and says what the engine reaches of fio.
    fn side_by_side(&self, turns: u32, rows: &mut Vec<Row>) -> Result<Quiet<f64>> {
        // What the first pass fetches is not the medium's.
        self.pass()?;
        self.verify()?;
        let (mut engine, mut by_fio) = (Windows::default(), Windows::default());
        let (mut from_device, mut calls) = (0, DeviceCalls::default());
        for _ in 0..turns {
            std::thread::sleep(REST);
            let before = (read_from_devices(), self.stage.device_calls()?);
            self.window(&mut engine)?;
            from_device += read_from_devices().saturating_sub(before.0);
            calls += self.stage.device_calls()?.since(before.1);
            // fio has the core to itself.
            self.stage.quiesce();
            let core = self.stage.engine_core;
            let window = fio::read(self.path, BYTES, PASSES, &self.shape, core)?;
            by_fio.add(window.gbps, window.cpu_s_per_gib);
        }
        let all = u64::from(turns) * u64::from(PASSES) * BYTES;
        let ratio = engine.gbps.median().zip(by_fio.gbps.median());
        let ratio = ratio.map(|(engine, fio)| engine / fio);
        let figures = BlockFigures {
            over_fio: ratio,
            syscalls_per_mib: Some(calls.all() as f64 / (all >> 20) as f64),
            ..BlockFigures::default()
        };
        rows.push(engine.row(self.case, self.shape, figures));
        rows.push(by_fio.row("fio", self.shape, BlockFigures::default()));
        let what = format!("{}, {} bytes", self.case, self.shape.size);
        Ok(match ratio {
            Some(ratio) if from_device as f64 >= all as f64 * FROM_DEVICE_MIN => {
                Quiet::Measured(ratio)
            }
            _ => Quiet::NotMeasured(format!(
                "{what}: of {all} bytes the host read {from_device} from a device, and the others from its memory: name a \
                 folder of a real disk with --folder"
            )),
        })
    }

    /// One window of the engine's.
    fn window(&self, windows: &mut Windows) -> Result<()> {
        let (mut ns, mut cpu_s) = (0, 0.0);
        for _ in 0..PASSES {
            let pass = self.pass()?;
            ns += pass.0;
            cpu_s += pass.1;
        }
        let bytes = (u64::from(PASSES) * BYTES) as f64;
        windows.add(bytes / ns.max(1) as f64, cpu_s * (1 << 30) as f64 / bytes);
        Ok(())
    }

    /// The whole file once: nanoseconds, and the worker's processor time in seconds.
    fn pass(&self) -> Result<(u64, f64)> {
        let Shape { size, depth } = self.shape;
        let count = BYTES / size;
        let fields = DeviceFields {
            operation: device_operation::READ,
            ..DeviceFields::default()
        };
        let spec = RunSpec {
            descriptor: Descriptor {
                word0: Word0::new(self.disk, self.slot, false).0,
                size: u32::try_from(size)?,
                ..Descriptor::new(Opcode::DeviceTransfer, Flags::NONE)
            }
            .with_operands(fields.to_bytes()),
            iterations: count,
            depth,
            stride: size,
            samples: 0,
        };
        let stage = self.stage;
        let tid = *stage.engine.worker_tids().first().context("no worker")?;
        stage.wake_queue()?;
        let (before, begun) = (cpu_seconds(tid)?, Instant::now());
        let done = stage.alice.run(Process::App, &spec)?;
        let (elapsed, after) = (begun.elapsed(), cpu_seconds(tid)?);
        ensure!(
            done.completed == count && done.failed == 0,
            "{} of {count} reads of {size} bytes completed, {} not with success (first status {:#04x})",
            done.completed,
            done.failed,
            done.first_bad_status
        );
        // A worker that polls is busy all the time: what it burns while nothing is asked of it is not the transfers'.
        let share = (done.ns as f64 / elapsed.as_nanos() as f64).min(1.0);
        Ok((done.ns, (after - before) * share))
    }

    /// Bob's process finds every byte.
    fn verify(&self) -> Result<()> {
        let bob = &self.stage.bob;
        let whole = ComparePattern {
            va: self.stage.bob_buffer,
            len: BYTES,
            seed: SEED,
        };
        let found = bob.call(Process::App, whole)?.mismatch;
        ensure!(
            found == NO_MISMATCH,
            "bob received a wrong byte at offset {found:#x}"
        );
        bob.sleep()
    }
}

/// Bytes that the host has read from devices for this process; all that there are where it does not tell.
fn read_from_devices() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let bytes = text
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes:")?.trim().parse().ok());
    bytes.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_the_page_cache_is_not_from_a_device() {
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(&vec![7; 1 << 20]).unwrap();
        let before = read_from_devices();
        let mut bytes = vec![0; 1 << 20];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
        // Other tests of this process may read something meanwhile, but not that much.
        assert!(read_from_devices() - before < 1 << 20);
    }
}
