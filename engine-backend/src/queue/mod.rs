//! Work queues, the engine's side: a submission ring, a completion ring and a header
//! line in guest memory (SPEC section 2).
//!
//! Owns the ring's protocol (`ring`), the completion interrupt (`interrupt`) and
//! the queue's counters. A [`WorkQueue`] is what control threads share; the position
//! in the ring belongs to the one worker that serves it, as a [`Served`].
//!
//! Must never believe anything it reads in the ring, read a descriptor twice, or wait.

mod cancels;
mod interrupt;
mod page_need;
mod ring;
mod span_memory;

#[cfg(loom)]
mod loom_model;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, QueueHeader, RingPosition, Status};

use crate::context::Context;
use crate::memory::{DirtyLog, HostSpan};
use crate::ops::budget::OPERATION_COST;
use crate::worker::Account;
use interrupt::Interrupt;
use ring::EngineRing;
use span_memory::SpanMemory;

pub(crate) use cancels::Ask;
pub use cancels::{Cancels, Wanted};
pub use page_need::PageNeed;
pub use ring::Ticket;

/// Where a queue's interrupts and its end are reported. Called by workers: must not
/// block, allocate or make a system call other than signalling an eventfd.
pub trait CompletionSink: Send + Sync {
    /// A descriptor that asked for an interrupt has completed. Not called again for
    /// this queue until [`WorkQueue::arm`].
    fn completed(&self, queue: u32);
    /// The engine stopped serving the queue by itself, for this reason.
    fn dead(&self, queue: u32, status: Status);
    /// A descriptor cannot go on without this page. The number under which the answer will
    /// come ([`crate::worker::Workers::answer`]), or `None` when it must not wait.
    fn page_needed(&self, queue: u32, need: &PageNeed) -> Option<u64> {
        let _ = (queue, need);
        None
    }
}

/// What a queue is made of. The areas are zeroed, 64-byte aligned and do not overlap;
/// `ring` holds `entries` descriptors, `completions` as many completions, `header` one
/// header line.
pub struct QueueParts {
    /// Engine-wide number, never used twice.
    pub id: u32,
    /// Domain that owns it.
    pub domain: u32,
    /// What that gets of the workers.
    pub account: Arc<Account>,
    /// Context whose address space and capabilities its descriptors name.
    pub context: Arc<Context>,
    /// Start of the ring.
    pub entries: RingPosition,
    /// Descriptors.
    pub ring: HostSpan,
    /// Completions.
    pub completions: HostSpan,
    /// Header line.
    pub header: HostSpan,
    /// Polled for as long as it lives.
    pub no_park: bool,
    /// Instance of the engine, for the header.
    pub instance: u32,
    /// Interrupts go there.
    pub sink: Arc<dyn CompletionSink>,
}

/// A work queue as control threads know it.
pub struct WorkQueue {
    id: u32,
    domain: u32,
    account: Arc<Account>,
    context: Arc<Context>,
    start: RingPosition,
    memory: SpanMemory,
    no_park: bool,
    sink: Arc<dyn CompletionSink>,
    interrupt: Interrupt,
    served: AtomicBool,
    abandoned: AtomicBool,
    counts: Counts,
    cancels: Arc<Cancels>,
}

/// Counters of one queue; written by its worker only.
#[derive(Debug, Default)]
struct Counts {
    descriptors: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
}

/// What a queue has done since it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Descriptors completed.
    pub descriptors: u64,
    /// Bytes done by them.
    pub bytes: u64,
    /// Descriptors that ended in another status than success.
    pub failures: u64,
}

impl WorkQueue {
    /// A queue in the making: the header says running, nobody serves it yet
    /// ([`crate::worker::Workers::attach`]).
    ///
    /// # Panics
    /// When an area is shorter than `entries` asks; whoever resolved them has
    /// computed their lengths.
    #[must_use]
    pub fn new(parts: QueueParts) -> Self {
        let memory = SpanMemory::new(
            parts.entries.entries(),
            parts.ring,
            parts.completions,
            parts.header,
        );
        memory.store_instance(parts.instance);
        memory.store_state(QueueState::Running);
        let queue = Self {
            id: parts.id,
            domain: parts.domain,
            account: parts.account,
            context: parts.context,
            start: parts.entries,
            memory,
            no_park: parts.no_park,
            sink: parts.sink,
            interrupt: Interrupt::default(),
            served: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            counts: Counts::default(),
            cancels: Arc::new(Cancels::new(parts.domain)),
        };
        queue.log_header();
        queue
    }

    /// Engine-wide number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
    /// Domain that owns it.
    #[must_use]
    pub fn domain(&self) -> u32 {
        self.domain
    }
    /// What its domain gets of the workers.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
    /// Context that its descriptors act for.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
    /// Requests to cancel descriptors of it.
    #[must_use]
    pub fn cancels(&self) -> &Arc<Cancels> {
        &self.cancels
    }
    /// Whether it is never parked.
    #[must_use]
    pub fn no_park(&self) -> bool {
        self.no_park
    }

    /// Allows the next completion interrupt. One that came meanwhile is raised now.
    pub fn arm(&self) {
        if self.interrupt.arm() {
            self.sink.completed(self.id);
        }
    }

    /// From now on its rings are not written to, not even when it ends: its guest may have put them to
    /// another use. Nobody may be serving it, as in a domain that is paused.
    pub fn abandon(&self) {
        // Whoever ends it has been asked to after this, by way of a lock.
        self.abandoned.store(true, Ordering::Relaxed);
    }
    /// See [`Self::abandon`].
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Says that nobody serves the queue any more, when no worker is left to do it.
    pub fn mark_dead(&self) {
        if self.is_abandoned() {
            return;
        }
        self.memory.store_state(QueueState::Dead);
        self.log_header();
    }

    /// What the engine writes into the rings is logged, too: they are the domain's own memory.
    #[inline(always)]
    fn dirty_log(&self) -> &Arc<DirtyLog> {
        self.context.space().memory().dirty_log()
    }

    #[cold]
    fn log_completion(&self, slot: u32) {
        let (gpa, bytes) = self.memory.completion(slot);
        self.dirty_log().mark(gpa, bytes);
    }

    fn log_header(&self) {
        if self.dirty_log().is_on() {
            self.dirty_log()
                .mark(self.memory.header_gpa(), QueueHeader::SIZE as u64);
        }
    }

    /// Work done so far, as the scheduler counts it: descriptors that are not completed
    /// do not count yet.
    #[must_use]
    pub fn work(&self) -> u64 {
        let QueueStats {
            descriptors, bytes, ..
        } = self.stats();
        bytes.saturating_add(descriptors.saturating_mul(OPERATION_COST))
    }

    /// What the queue has done so far.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        QueueStats {
            descriptors: self.counts.descriptors.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            failures: self.counts.failures.load(Ordering::Relaxed),
        }
    }
}

impl std::fmt::Debug for WorkQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkQueue")
            .field("id", &self.id)
            .field("domain", &self.domain)
            .field("entries", &self.start.entries())
            .field("no_park", &self.no_park)
            .finish_non_exhaustive()
    }
}

/// A queue in the hands of the worker that serves it: the only reader of its ring.
#[derive(Debug)]
pub struct Served {
    queue: Arc<WorkQueue>,
    ring: EngineRing<SpanMemory>,
    stats: QueueStats,
    /// The domain's log, which is looked at in each chunk: by way of the queue's context it would take five
    /// loads, each of which waits for the one before.
    log: Arc<DirtyLog>,
    /// The domain's writes are logged, as of the beginning of the chunk.
    is_logged: bool,
}

impl Served {
    /// Takes the queue over from its beginning.
    ///
    /// # Panics
    /// When it was taken over before: a queue has one reader in its life.
    #[must_use]
    pub fn new(queue: Arc<WorkQueue>) -> Self {
        let before = queue.served.swap(true, Ordering::Relaxed);
        assert!(!before, "queue {} is served already", queue.id);
        Self {
            ring: EngineRing::new(queue.memory.clone(), queue.start),
            log: Arc::clone(queue.dirty_log()),
            queue,
            stats: QueueStats::default(),
            is_logged: false,
        }
    }

    /// Looks whether completions are to be marked in the domain's dirty log; at the
    /// beginning of each chunk.
    #[inline(always)]
    pub fn watch_log(&mut self) {
        self.is_logged = self.log.is_on();
    }

    /// The shared part.
    #[must_use]
    pub fn queue(&self) -> &Arc<WorkQueue> {
        &self.queue
    }

    /// Whether a descriptor waits: its publishing word, for [`Self::take`].
    #[inline(always)]
    #[must_use]
    pub fn poll(&self) -> Option<u64> {
        self.ring.poll()
    }

    /// Copies the waiting descriptor out, once; `word` is what [`Self::poll`] gave.
    #[inline(always)]
    #[must_use]
    pub fn take(&mut self, word: u64) -> (Ticket, Descriptor) {
        self.ring.take(word)
    }

    /// Fetches ahead for the descriptors that follow in a burst.
    #[inline(always)]
    pub fn prefetch(&self) {
        self.ring.prefetch();
    }

    /// Fetches the next descriptor's line while a long operation is worked on.
    #[inline(always)]
    pub fn prefetch_next(&self) {
        self.ring.prefetch_next();
    }

    /// Publishes how a descriptor ended that has touched `bytes` bytes, `interrupt`
    /// telling whether it asked for one.
    #[inline(always)]
    pub fn complete(
        &mut self,
        ticket: Ticket,
        completion: &Completion,
        bytes: u64,
        interrupt: bool,
    ) {
        let slot = ticket.slot();
        self.ring.complete(ticket, completion);
        if self.is_logged {
            self.queue.log_completion(slot);
        }
        self.stats.descriptors += 1;
        self.stats.bytes += bytes;
        self.stats.failures += u64::from(!completion.is_success());
        if interrupt && self.queue.interrupt.raise() {
            self.queue.sink.completed(self.queue.id);
        }
    }

    /// Publishes that a descriptor was refused and nothing of it carried out.
    #[cold]
    pub fn refuse(&mut self, ticket: Ticket, status: Status, interrupt: bool) {
        let completion = Completion {
            status: status as u8,
            ..Completion::default()
        };
        self.complete(ticket, &completion, 0, interrupt);
    }

    /// What the queue has done so far.
    #[inline]
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Makes the counters visible to observers on the host; once a chunk.
    ///
    /// Not `taken`: the header line is in the submitter's cache, where it looks at
    /// `need_kick` after each descriptor, and should stay there.
    #[inline]
    pub fn publish(&self) {
        let counts = &self.queue.counts;
        counts
            .descriptors
            .store(self.stats.descriptors, Ordering::Relaxed);
        counts.bytes.store(self.stats.bytes, Ordering::Relaxed);
        counts
            .failures
            .store(self.stats.failures, Ordering::Relaxed);
    }

    /// Asks the submitter for a kick and looks once more. False: work came meanwhile.
    pub fn park(&self) -> bool {
        self.ring.memory().store_taken(self.ring.taken());
        let is_parked = self.ring.park();
        self.queue.log_header();
        is_parked
    }

    /// Asks for no kick any more.
    pub fn unpark(&self) {
        self.ring.unpark();
        self.queue.log_header();
    }

    /// Ends the queue: whatever was published and not taken ends in
    /// [`Status::Aborted`], at most one ring full of it, and the header says dead. An abandoned
    /// one ends without a word.
    pub fn abort(&mut self) {
        if self.queue.is_abandoned() {
            return;
        }
        self.watch_log();
        for _ in 0..self.ring.entries() {
            let Some(word) = self.poll() else { break };
            let (ticket, _) = self.take(word);
            self.refuse(ticket, Status::Aborted, false);
        }
        self.publish();
        self.ring.memory().store_taken(self.ring.taken());
        self.queue.mark_dead();
    }

    /// Number of a descriptor that was taken and is not complete, counted from 0 since the queue was
    /// created, modulo 2^32.
    #[must_use]
    pub fn number_of(&self, ticket: &Ticket) -> u32 {
        self.ring.number_of(ticket)
    }

    /// Number of the descriptor that is taken next.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        self.ring.taken()
    }

    /// Entries of the ring.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.ring.entries()
    }

    /// Asks for a page; see [`CompletionSink::page_needed`].
    #[cold]
    #[must_use]
    pub fn ask_for(&self, need: &PageNeed) -> Option<u64> {
        self.queue.sink.page_needed(self.queue.id, need)
    }

    /// Reports that the engine stopped serving the queue by itself.
    pub fn report_dead(&self, status: Status) {
        self.queue.sink.dead(self.queue.id, status);
    }
}
