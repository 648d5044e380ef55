//! [`Submitter`]: the other side of a work queue, as a ring-3 process would be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use byway_protocols::{Completion, Descriptor, RingPosition, Status};
use crossbeam_queue::ArrayQueue;

use super::{Guest, Process};
use crate::queue::{CompletionSink, QueueParts, WorkQueue};

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers interrupts and deaths.
#[derive(Debug)]
pub struct Recorder {
    interrupts: AtomicU32,
    order: ArrayQueue<u32>,
    deaths: ArrayQueue<(u32, Status)>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            interrupts: AtomicU32::new(0),
            order: ArrayQueue::new(64),
            deaths: ArrayQueue::new(64),
        }
    }
}

impl Recorder {
    /// Interrupts so far.
    #[must_use]
    pub fn interrupts(&self) -> u32 {
        self.interrupts.load(Ordering::Acquire)
    }
    /// The next queue that raised an interrupt.
    #[must_use]
    pub fn next_interrupt(&self) -> Option<u32> {
        self.order.pop()
    }
    /// The next queue that was reported dead.
    #[must_use]
    pub fn next_death(&self) -> Option<(u32, Status)> {
        self.deaths.pop()
    }
}

impl CompletionSink for Recorder {
    fn completed(&self, queue: u32) {
        // More than fit are of no interest to a test.
        let _ = self.order.push(queue);
        self.interrupts.fetch_add(1, Ordering::AcqRel);
    }
    fn dead(&self, queue: u32, status: Status) {
        // As above.
        let _ = self.deaths.push((queue, status));
    }
}

/// A process's end of a work queue. At most one ring full is outstanding, and completions
/// are consumed in order.
#[derive(Debug)]
pub struct Submitter {
    guest: Arc<Guest>,
    queue: Arc<WorkQueue>,
    recorder: Arc<Recorder>,
    ring: *mut u8,
    completions: *mut u8,
    header: *mut u8,
    /// Guest-physical address of the completions.
    completions_gpa: u64,
    next: RingPosition,
    oldest: RingPosition,
}

// SAFETY: the pointers lead into the guest's window, which `guest` keeps mapped and which
// is accessed by atomics only.
unsafe impl Send for Submitter {}

impl Submitter {
    /// Makes a queue of `entries` entries for the process's context; attach
    /// [`Self::queue`] to have it served.
    #[must_use]
    pub fn new(process: &Process, entries: u32, no_park: bool) -> Self {
        Self::with_recorder(process, entries, no_park, Arc::default())
    }

    /// The same with a recorder that several queues share.
    #[must_use]
    pub fn with_recorder(
        process: &Process,
        entries: u32,
        no_park: bool,
        recorder: Arc<Recorder>,
    ) -> Self {
        let guest = process.guest().clone();
        let start = RingPosition::new(entries).expect("a power of two");
        let bytes = [
            u64::from(entries) * Descriptor::SIZE as u64,
            u64::from(entries) * Completion::SIZE as u64,
            64,
        ];
        let [ring, completions, header] = bytes.map(|b| (guest.alloc(b, 64), b));
        let span = |(gpa, len)| {
            guest
                .memory()
                .contiguous(gpa, len)
                .expect("an area inside the RAM")
        };
        let queue = Arc::new(WorkQueue::new(QueueParts {
            id: guest.next_object(),
            domain: guest.id(),
            account: guest.account().clone(),
            context: process.context().clone(),
            entries: start,
            ring: span(ring),
            completions: span(completions),
            header: span(header),
            no_park,
            instance: 1,
            sink: recorder.clone(),
        }));
        process.context().add_queue(queue.id(), queue.cancels());
        Self {
            ring: guest.host(ring.0, ring.1),
            completions: guest.host(completions.0, completions.1),
            header: guest.host(header.0, header.1),
            completions_gpa: completions.0,
            guest,
            queue,
            recorder,
            next: start,
            oldest: start,
        }
    }

    /// The engine's end.
    #[must_use]
    pub fn queue(&self) -> &Arc<WorkQueue> {
        &self.queue
    }
    /// Guest-physical address of the completions.
    #[must_use]
    pub fn completions_gpa(&self) -> u64 {
        self.completions_gpa
    }
    /// What the queue reported.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }
    /// Descriptors whose completions were not consumed.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.next.distance_from(self.oldest)
    }

    fn word(&self, base: *mut u8, offset: usize) -> &AtomicU64 {
        // SAFETY: inside an area of the queue, aligned; `self` keeps the guest's window
        // mapped.
        unsafe { AtomicU64::from_ptr(base.add(offset).cast()) }
    }

    fn header_word(&self, offset: usize) -> u32 {
        // SAFETY: inside the header line, aligned.
        unsafe { AtomicU32::from_ptr(self.header.add(offset).cast()) }.load(Ordering::Acquire)
    }

    /// Publishes a descriptor.
    #[inline]
    pub fn submit(&mut self, descriptor: &Descriptor) {
        assert!(self.outstanding() < self.next.entries(), "the ring is full");
        let at = self.next.slot() as usize * Descriptor::SIZE;
        let d = descriptor;
        let tail =
            u64::from(d.size) | u64::from(d.int_handle) << 32 | u64::from(d.reserved38) << 48;
        let rest = [d.status_array, d.src, d.dst, tail, d.op0, d.op1, d.op2];
        for (i, value) in rest.into_iter().enumerate() {
            self.word(self.ring, at + 8 + 8 * i)
                .store(value, Ordering::Relaxed);
        }
        let phase = d.slots().with_phase(self.next.phase());
        let word = u64::from(phase.0) | u64::from(d.flags_opcode) << 32;
        self.word(self.ring, at).store(word, Ordering::Release);
        self.next.advance();
    }

    /// Whether the engine asks for a kick.
    #[must_use]
    pub fn needs_kick(&self) -> bool {
        fence(Ordering::SeqCst);
        self.header_word(0) == 1
    }
    /// State of the queue's header.
    #[must_use]
    pub fn state(&self) -> u32 {
        self.header_word(8)
    }
    /// Descriptors taken, as the header says.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.header_word(16)
    }

    /// The oldest completion, once it is there.
    #[inline]
    pub fn poll(&mut self) -> Option<Completion> {
        if self.outstanding() == 0 {
            return None;
        }
        let at = self.oldest.slot() as usize * Completion::SIZE;
        let word = self.word(self.completions, at).load(Ordering::Acquire);
        if (word & Completion::PUBLISH_PHASE != 0) != self.oldest.phase() {
            return None;
        }
        let mut bytes = [0; Completion::SIZE];
        bytes[..8].copy_from_slice(&word.to_le_bytes());
        for i in 1..4 {
            let value = self
                .word(self.completions, at + 8 * i)
                .load(Ordering::Relaxed);
            bytes[8 * i..8 * i + 8].copy_from_slice(&value.to_le_bytes());
        }
        self.oldest.advance();
        Some(Completion::from_bytes(&bytes))
    }

    /// Waits for the oldest completion; panics when none comes.
    pub fn wait(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        let mut turns = 0_u32;
        loop {
            if let Some(completion) = self.poll() {
                return completion;
            }
            turns += 1;
            if turns > 1000 {
                std::thread::yield_now();
                assert!(
                    Instant::now() < deadline,
                    "no completion of queue {} came",
                    self.queue.id()
                );
            }
        }
    }

    /// Publishes one descriptor and waits for its completion.
    pub fn run(&mut self, descriptor: &Descriptor) -> Completion {
        self.submit(descriptor);
        self.wait()
    }

    /// Keeps the guest's RAM mapped.
    #[must_use]
    pub fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }
}
