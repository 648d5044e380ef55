//! A work queue's pages unmapped, or mapped to other frames, while its descriptors are under way: the engine knows a ring by
//! the guest-physical memory that it was created over, so nothing is lost, nothing else is read, and nobody is harmed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::Process;
use byway_agent::commands::{ACCESS_READ, Access, PteGet, PteSet, QueueCreated};
use byway_protocols::{Completion, Descriptor, Status, Word0};
use vm_memory::{Bytes, GuestAddress};

use super::report::{RefusalRow, status_name};
use crate::steer::{Direction, PAGE_4K, Stage};

/// Puts in flight when the pages change, each of the whole buffer: of 16 MiB, together some 50 ms.
const IN_FLIGHT: usize = 48;
/// How often to try until some were still in flight when the pages had been changed.
const ATTEMPTS: u64 = 8;
/// Longest that the engine may take over them; a busy host needs more than an idle one.
const PATIENCE: Duration = Duration::from_secs(20);
/// Address bits of a page-table entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const COMPLETION_BYTES: usize = size_of::<Completion>();

/// Unmaps the ring, then moves it.
///
/// # Errors
/// When a descriptor in flight is lost or ends in failure, what stands in the new frames is executed or written to, or a byte
/// in bob's buffer is not the one that was put there.
pub fn provoke(stage: &Stage) -> Result<Vec<RefusalRow>> {
    Ok(vec![
        unmapped(stage).context("a ring unmapped")?,
        moved(stage).context("a ring moved")?,
    ])
}

/// The process's mapping of its own ring goes: it faults there, the engine does not notice.
fn unmapped(stage: &Stage) -> Result<RefusalRow> {
    let ring = Ring::of(stage)?;
    let none = vec![0; ring.entries.len()];
    let fault = ring.changed_in_flight(stage, &none, || {
        let access = stage.alice.call(
            Process::App,
            Access {
                va: ring.queue.ring,
                kind: ACCESS_READ,
                width: 8,
                value: 0,
            },
        )?;
        ensure!(
            access.faulted == 1,
            "the process still reached its unmapped ring"
        );
        Ok(format!(
            "vector {} error {:#x}",
            access.vector, access.error
        ))
    })?;
    Ok(row(
        "a ring unmapped under the engine",
        &format!("{fault} in the process"),
    ))
}

/// The process's mapping of its own ring leads to other frames, in which it writes descriptors that would destroy what bob
/// holds: the engine neither reads nor writes there.
fn moved(stage: &Stage) -> Result<RefusalRow> {
    let ring = Ring::of(stage)?;
    let bytes = ring.queue.bytes;
    let decoy = stage.alice.alloc(Process::App, bytes, PAGE_4K)?;
    let mut entries = Vec::new();
    for (page, own) in (0..).zip(&ring.entries) {
        let va = decoy + page * PAGE_4K;
        let frame = stage.alice.call(Process::App, PteGet { va })?.level1 & FRAME;
        entries.push(frame | own & !FRAME);
    }
    let zeroes = stage.alice.alloc(Process::App, PAGE_4K, PAGE_4K)?;
    ring.changed_in_flight(stage, &entries, || {
        // One of the phases is what the engine waits for in the next entry.
        for phase in [false, true] {
            let bait = Descriptor {
                word0: Word0::new(0, stage.slot, phase).0,
                src: zeroes,
                dst: 0,
                size: PAGE_4K as u32,
                ..Direction::Put.descriptor(stage, PAGE_4K)
            };
            let page = bait.to_bytes().repeat(PAGE_4K as usize / 64);
            for at in (0..bytes).step_by(PAGE_4K as usize) {
                stage
                    .alice
                    .write(Process::App, ring.queue.header + at, &page)?;
            }
            let mut found = vec![0; page.len()];
            for at in (0..bytes).step_by(PAGE_4K as usize) {
                stage.alice.read(Process::App, decoy + at, &mut found)?;
                ensure!(found == page, "the engine wrote into the new frames");
            }
        }
        Ok(())
    })?;
    Ok(row("a ring moved under the engine", "new frames ignored"))
}

fn row(what: &str, outcome: &str) -> RefusalRow {
    let success = status_name(Status::Success as u8);
    RefusalRow {
        what: what.to_owned(),
        status: format!("{outcome}; all {IN_FLIGHT} in flight ended with {success}"),
    }
}

/// The memory of alice's work queue.
struct Ring {
    queue: QueueCreated,
    /// Entries of her page tables that map it, from the header on.
    entries: Vec<u64>,
}

impl Ring {
    fn of(stage: &Stage) -> Result<Self> {
        let queue = stage.alice.queue(Process::App)?;
        let mut entries = Vec::new();
        for at in (0..queue.bytes).step_by(PAGE_4K as usize) {
            let va = queue.header + at;
            let entry = stage.alice.call(Process::App, PteGet { va })?.level1;
            ensure!(
                entry & FRAME == queue.gpa + at,
                "the queue's page at {va:#x} is not where the engine was told"
            );
            entries.push(entry);
        }
        Ok(Self { queue, entries })
    }

    fn map(&self, stage: &Stage, entries: &[u64]) -> Result<()> {
        for (page, entry) in (0..).zip(entries) {
            stage.alice.call(
                Process::App,
                PteSet {
                    va: self.queue.header + page * PAGE_4K,
                    level: 1,
                    value: *entry,
                },
            )?;
        }
        Ok(())
    }

    /// The completions as they stand in the memory that the engine was given.
    fn completions(&self, stage: &Stage) -> Result<Vec<u8>> {
        let offset = self.queue.completions - self.queue.header;
        let mut bytes = vec![0; usize::try_from(self.queue.bytes - offset)?];
        let at = GuestAddress(self.queue.gpa + offset);
        stage.alice.vm().ram().memory().read_slice(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Has puts under way when the queue's pages are mapped by `entries`, does `meanwhile`, waits until the engine has
    /// completed all of them so, and maps the pages as they were. Everything must have arrived.
    fn changed_in_flight<T>(
        &self,
        stage: &Stage,
        entries: &[u64],
        mut meanwhile: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let put = Direction::Put.descriptor(stage, stage.buffer_bytes);
        let puts = [put; IN_FLIGHT];
        for attempt in 0..ATTEMPTS {
            stage.fill_source(Direction::Put, self.queue.ring + attempt)?;
            let before = self.completions(stage)?;
            let first = stage.alice.submit(Process::App, &puts)?;
            self.map(stage, entries)?;
            let under_way = IN_FLIGHT - differ(&before, &self.completions(stage)?);
            // Mapped again in any case: what follows a failure uses the queue, too.
            let seen = meanwhile().and_then(|seen| {
                self.wait(stage, &before)?;
                Ok(seen)
            });
            self.map(stage, &self.entries)?;
            let seen = seen?;
            let completions = stage.alice.collect(Process::App, first, IN_FLIGHT)?;
            for completion in completions {
                ensure!(
                    completion.status() == Some(Status::Success),
                    "a put in flight ended with {}",
                    status_name(completion.status)
                );
            }
            // The next entry is the one after them, not one that stood in other memory.
            let next = stage.alice.execute_one(Process::App, &put)?;
            ensure!(
                next.status() == Some(Status::Success),
                "the next put ended with {}",
                status_name(next.status)
            );
            stage.verify_destination(Direction::Put, self.queue.ring + attempt)?;
            if under_way > 0 {
                return Ok(seen);
            }
        }
        bail!("in {ATTEMPTS} attempts no put was in flight any more when the pages had changed")
    }

    /// Waits until the engine has written all completions into the memory that it was given.
    fn wait(&self, stage: &Stage, before: &[u8]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let done = differ(before, &self.completions(stage)?);
            if done >= IN_FLIGHT {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{done} of {IN_FLIGHT} puts were completed"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How many completions differ: each differs from what stood in its place one lap earlier, at least by its phase.
fn differ(before: &[u8], after: &[u8]) -> usize {
    let records = before.chunks(COMPLETION_BYTES);
    records
        .zip(after.chunks(COMPLETION_BYTES))
        .filter(|(before, after)| before != after)
        .count()
}
