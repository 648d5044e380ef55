//! Operations on in-memory guests, against naive references and case by case.

mod batches;
mod channels;
mod compares;
mod deltas;
mod gathers;
mod log;
mod moves;
mod pages;
mod places;
mod protection;
mod refusals;
mod rights;
mod sizes;
mod sums;
mod transforms;

use std::sync::Arc;

use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status, Word0};

use super::budget::CHUNK_BYTES;
use super::chunk::Chunk;
use super::{
    Budget, Codecs, Execution, Jobs, Outcome, Staging, Stand, Step, Verdict, Windows, try_either,
};
use crate::backend::{Backend, Software};
use crate::epoch::Epochs;
use crate::iotlb::Iotlb;
use crate::memory::sigbus;
use crate::queue::PageNeed;
use crate::testing::{Guest, PageSize, Process, pte};

/// Where processes have their data.
pub(super) const VA: u64 = 0x7000_0000_0000;
/// A page.
pub(super) const PAGE: u64 = 4096;

/// Two guests with a process each, and a worker's tools without a worker.
pub(super) struct Rig {
    pub(super) alice: Process,
    pub(super) bob: Process,
    pub(super) epochs: Arc<Epochs>,
    iotlb: Iotlb,
    backend: Software,
    staging: Staging,
    /// Their keys stay from one descriptor to the next, as they do within a chunk: each finds what the one before has left.
    pub(super) codecs: Codecs,
    /// Work per chunk.
    pub(super) chunk_bytes: u64,
    /// Whether the short way is tried.
    pub(super) short: bool,
    /// Chunks of the last descriptor.
    pub(super) chunks: u32,
    /// What was spent if the short way carried it out.
    pub(super) spent: u64,
    /// Answers page requests; nobody does by default.
    pub(super) pager: Box<Pager>,
}

/// Is given alice, bob, and what is needed.
pub(super) type Pager = dyn FnMut(&Process, &Process, &PageNeed) -> Verdict;

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_ram(2 << 20)
    }

    /// With as much RAM in each guest.
    pub(super) fn with_ram(bytes: u64) -> Self {
        let guests = [1, 2].map(|id| Guest::new(id, bytes));
        let [alice, bob] = guests.map(|guest| Process::new(&guest, 16));
        Self {
            alice,
            bob,
            // The second one does nothing unless a test has it.
            epochs: Arc::new(Epochs::new(2)),
            iotlb: Iotlb::new(),
            backend: Software::new(),
            staging: Staging::new(),
            codecs: Codecs::new(Jobs::all()),
            chunk_bytes: CHUNK_BYTES,
            short: true,
            chunks: 0,
            spent: 0,
            pager: Box::new(|_, _, _| Verdict::Later),
        }
    }

    /// Runs a descriptor of alice's to its end.
    pub(super) fn run(&mut self, descriptor: &Descriptor) -> Outcome {
        self.run_with(descriptor, |_, _| ())
    }

    /// The same, with something done between two chunks.
    pub(super) fn run_with(
        &mut self,
        descriptor: &Descriptor,
        mut between: impl FnMut(&Self, u32),
    ) -> Outcome {
        let mut execution = None;
        (self.chunks, self.spent) = (0, 0);
        loop {
            self.chunks += 1;
            let guard = self.epochs.enter(0);
            let budget = Budget::new(self.chunk_bytes, u64::MAX, 0);
            let mut chunk = Chunk {
                guard: &guard,
                awaited: guard.awaited(),
                context: self.alice.context(),
                iotlb: &mut self.iotlb,
                windows: Windows::new(),
                backend: &mut self.backend,
                staging: &mut self.staging,
                budget,
                regions_lost: sigbus::generation(),
                missing: None,
                stand: &mut Stand::default(),
                codecs: &mut self.codecs,
            };
            if self.short
                && self.chunks == 1
                && let Some(outcome) = try_either(descriptor, &mut chunk)
            {
                chunk.backend.finish();
                self.spent = chunk.end().spent();
                return outcome;
            }
            let step = match &mut execution {
                None => match Execution::new(descriptor) {
                    Ok(new) => execution.insert(new).step(&mut chunk),
                    Err(status) => Step::refused(status),
                },
                Some(execution) => execution.step(&mut chunk),
            };
            match step {
                Step::Done(outcome) => {
                    chunk.backend.finish();
                    return outcome;
                }
                Step::Blocked(need) => {
                    let verdict = (self.pager)(&self.alice, &self.bob, &need);
                    if let Some(execution) = &mut execution {
                        execution.answer(verdict);
                    }
                }
                Step::More | Step::Waits | Step::Device => {}
            }
            drop(chunk);
            drop(guard);
            between(self, self.chunks);
        }
    }

    /// Steps of alice's execution to its end; the completion.
    pub(super) fn step_to_end(&mut self, execution: &mut Execution) -> Completion {
        loop {
            let guard = self.epochs.enter(0);
            let budget = Budget::new(self.chunk_bytes, u64::MAX, 0);
            let mut chunk = Chunk {
                guard: &guard,
                awaited: guard.awaited(),
                context: self.alice.context(),
                iotlb: &mut self.iotlb,
                windows: Windows::new(),
                backend: &mut self.backend,
                staging: &mut self.staging,
                budget,
                regions_lost: sigbus::generation(),
                missing: None,
                stand: &mut Stand::default(),
                codecs: &mut self.codecs,
            };
            if let Step::Done(outcome) = execution.step(&mut chunk) {
                return outcome.completion;
            }
        }
    }

    /// The completion alone.
    pub(super) fn complete(&mut self, descriptor: &Descriptor) -> Completion {
        self.run(descriptor).completion
    }
}

pub(super) fn descriptor(opcode: Opcode, src_slot: u16, dst_slot: u16) -> Descriptor {
    Descriptor {
        word0: Word0::new(src_slot, dst_slot, true).0,
        ..Descriptor::new(opcode, Flags::NONE)
    }
}

/// A copy within alice.
pub(super) fn memmove(src: u64, dst: u64, size: u32) -> Descriptor {
    Descriptor {
        src,
        dst,
        size,
        ..descriptor(Opcode::Memmove, 0, 0)
    }
}

pub(super) fn with_flags(d: Descriptor, flags: Flags) -> Descriptor {
    Descriptor {
        flags_opcode: d.flags_opcode | flags.0,
        ..d
    }
}

/// Status, write bit and bytes of a completion.
pub(super) fn short_form(c: &Completion) -> (Status, bool, u32) {
    (
        c.status().expect("a known status"),
        c.is_write_fault(),
        c.bytes_completed,
    )
}

pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

/// What may be wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Good,
    ReadOnly,
    Missing,
    Kernel,
}

impl Kind {
    fn bits(self) -> u64 {
        match self {
            Self::Good => pte::USER,
            Self::ReadOnly => pte::P | pte::US,
            Self::Missing => pte::RW | pte::US,
            Self::Kernel => pte::P | pte::RW,
        }
    }

    /// The status of an access to it, if it fails.
    pub(super) fn refuses(self, write: bool) -> Option<Status> {
        match self {
            Self::Good => None,
            Self::ReadOnly => write.then_some(Status::Stage1Permission),
            Self::Missing => Some(Status::Stage1NotPresent),
            Self::Kernel => Some(Status::Stage1Permission),
        }
    }
}

/// Maps scattered pages of these kinds from `va` on.
pub(super) fn map_kinds(process: &Process, va: u64, kinds: &[Kind], contents: &[u8]) {
    process.map_scattered(va, kinds.len() as u64 * PAGE);
    process.write(va, contents);
    for (i, kind) in kinds.iter().enumerate() {
        process.change_entry(va + i as u64 * PAGE, |entry| {
            entry & pte::FRAME | kind.bits()
        });
    }
}

/// Makes all pages good again, to look at them; tells which had A and D.
pub(super) fn reveal(process: &Process, va: u64, pages: usize) -> (Vec<u8>, Vec<(bool, bool)>) {
    let mut flags = Vec::new();
    for i in 0..pages {
        process.change_entry(va + i as u64 * PAGE, |entry| {
            flags.push((entry & pte::A != 0, entry & pte::D != 0));
            entry | pte::USER
        });
    }
    (process.read(va, pages as u64 * PAGE), flags)
}

/// Runs a descriptor with one page missing, mends the page, and runs what `rest` makes of
/// the first completion, again and again until it succeeds. Gives the last completion.
pub(super) fn resume_over_holes(
    rig: &mut Rig,
    holes: &[u64],
    first: Descriptor,
    rest: impl Fn(&Descriptor, &Completion) -> Descriptor,
) -> Completion {
    for &hole in holes {
        rig.alice.change_entry(hole, |entry| entry & !pte::P);
    }
    let mut d = first;
    for _ in 0..=holes.len() {
        let c = rig.complete(&d);
        let status = c.status().expect("a known status");
        if status.is_success() {
            return c;
        }
        assert_eq!(status, Status::Stage1NotPresent, "{d:?}");
        let page = c.fault_addr & !(PAGE - 1);
        assert!(holes.contains(&page), "a fault at {page:#x}");
        rig.alice.change_entry(page, |entry| entry | pte::P);
        d = rest(&d, &c);
    }
    panic!("more faults than holes");
}

/// A process with `pages` good pages of noise from [`VA`] on.
pub(super) fn fill_noise(process: &Process, pages: u64) -> Vec<u8> {
    process.map(VA, pages * PAGE, PageSize::Small);
    let bytes = noise((pages * PAGE) as usize, u64::from(process.guest().id()));
    process.write(VA, &bytes);
    bytes
}
