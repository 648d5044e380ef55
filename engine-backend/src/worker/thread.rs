//! A worker's thread: its loop, and what it does between two turns.
//!
//! The hot path is [`Thread::turn`]: one chunk of one queue, without allocation, lock or
//! system call. Commands, parking and sleep come in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::active::{Active, Next, Tools};
use super::clock::ticks_in_us;
use super::inbox::{Command, Inbox};
use super::nap::{Nap, be_punctual};
use super::parked::Parked;
use super::schedule::{Bill, Key, Schedule};
use crate::backend::Backend;
use crate::endpoint::Endpoints;
use crate::epoch::Epochs;
use crate::iotlb::{Invalidations, Iotlb};
use crate::memory::sigbus;
use crate::ops::budget::{CHUNK_BYTES, CHUNK_US, OPERATION_COST, ticks};
use crate::ops::{Budget, Codecs, Jobs, Staging, Verdict};
use crate::stats::{Published, WorkerStats};
use crate::threads::{ThreadKind, begins};

/// Turns, idle ones included, between two looks at the clock.
const LOOK_EVERY: u32 = 256;

/// Looks for work, none of them with success, between two pauses of the processor. A pause
/// takes as long as several of them, and what is published meanwhile waits.
const LOOKS_PER_PAUSE: u32 = 8;

/// Of the time of a worker with work one part in so many goes to the search for queues
/// that a kick was meant for.
const SEARCH_PART: u64 = 8;

/// What a worker's thread owns.
pub(super) struct Thread<B> {
    index: usize,
    inbox: Arc<Inbox>,
    epochs: Arc<Epochs>,
    invalidations: Arc<Invalidations>,
    published: Arc<Published>,
    endpoints: Arc<Endpoints>,
    tools: Tools<B>,
    schedule: Schedule,
    queues: Vec<Option<Box<Active>>>,
    free: Vec<Key>,
    by_id: HashMap<u32, Key>,
    parked: Parked,
    /// Queues about to be parked; empty between calls.
    quiet: Vec<Key>,
    stats: WorkerStats,
    chunk_ticks: u64,
    park_ticks: u64,
    /// Tick of the last moment at which it had nothing in hand: the end of the last chunk,
    /// or of a look round that found no work.
    free_since: u64,
    /// A look round found no work after `free_since`.
    is_idle: bool,
    /// Tick from which on parked queues are searched while others have work.
    search_after: u64,
    /// Work that a tick counts for, with [`FRACTION`] bits behind the point.
    tick_cost: u64,
    /// How long it may sleep while devices work.
    nap: Nap,
}

/// What a worker shares with other threads.
pub(super) struct Shared {
    /// Commands to this worker.
    pub(super) inbox: Arc<Inbox>,
    /// All workers' chunk counters.
    pub(super) epochs: Arc<Epochs>,
    /// What all workers' IOTLBs have to drop.
    pub(super) invalidations: Arc<Invalidations>,
    /// This worker's statistics, for others to read.
    pub(super) published: Arc<Published>,
    /// The devices that all workers drive.
    pub(super) endpoints: Arc<Endpoints>,
    /// What this worker's operations that last for several chunks are kept in.
    pub(super) jobs: Jobs,
}

/// Fraction bits of `Thread::tick_cost`.
const FRACTION: u32 = 16;

impl<B: Backend> Thread<B> {
    pub(super) fn new(index: usize, park_us: u32, shared: Shared, backend: B) -> Self {
        let Shared {
            inbox,
            epochs,
            invalidations,
            published,
            endpoints,
            jobs,
        } = shared;
        let chunk_ticks = ticks_in_us(CHUNK_US).max(1);
        Self {
            index,
            inbox,
            epochs,
            invalidations,
            published,
            endpoints,
            tools: Tools {
                iotlb: Iotlb::for_worker(index),
                backend,
                staging: Staging::new(),
                regions_lost: sigbus::generation(),
                codecs: Codecs::new(jobs),
            },
            schedule: Schedule::default(),
            queues: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            parked: Parked::default(),
            quiet: Vec::new(),
            stats: WorkerStats::default(),
            chunk_ticks,
            park_ticks: ticks_in_us(u64::from(park_us)),
            free_since: ticks(),
            is_idle: false,
            search_after: 0,
            tick_cost: (CHUNK_BYTES << FRACTION) / chunk_ticks,
            nap: Nap::new(ticks_in_us(1000)),
        }
    }

    /// Works until told to stop; gives back the queues that are still attached.
    #[expect(
        clippy::vec_box,
        reason = "they live in boxes, so that attaching moves a pointer"
    )]
    pub(super) fn run(mut self) -> Vec<Box<Active>> {
        // SAFETY: takes no argument and cannot fail.
        self.stats.tid = unsafe { libc::gettid() };
        be_punctual();
        begins(ThreadKind::Worker);
        self.publish();
        let mut until_look = LOOK_EVERY;
        let mut until_clock = LOOK_EVERY;
        loop {
            if self.inbox.is_pending() {
                if self.obey() {
                    break;
                }
                self.look_at_clock();
                until_look = 1;
            }
            let is_idle = !self.turn_soon();
            if is_idle {
                std::hint::spin_loop();
                self.was_free();
                if self.endpoints.news().busy() != 0 {
                    self.wait_for_devices();
                }
            } else if self.nap.is_waiting() {
                self.nap.ends(self.free_since);
            }
            until_look -= 1;
            if until_look == 0 {
                // While parked queues are searched there is a look after every turn, so
                // that the search costs nothing when there is none.
                self.search(is_idle);
                until_look = if self.parked.is_searching() {
                    1
                } else {
                    LOOK_EVERY
                };
                until_clock = until_clock.saturating_sub(until_look);
                if until_clock == 0 {
                    until_clock = LOOK_EVERY;
                    self.look_at_clock();
                    if self.schedule.is_idle() && !self.parked.is_searching() {
                        self.sleep();
                    }
                }
            }
        }
        self.queues.into_iter().flatten().collect()
    }

    /// One chunk, for which it looks several times. False: no queue has work.
    #[inline]
    fn turn_soon(&mut self) -> bool {
        for _ in 0..LOOKS_PER_PAUSE {
            if self.turn() {
                return true;
            }
            self.is_idle = true;
            if self.inbox.is_pending() {
                break;
            }
        }
        false
    }

    /// Notes that it has nothing in hand now.
    #[inline(always)]
    fn was_free(&mut self) {
        self.free_since = ticks();
        self.is_idle = false;
    }

    /// One chunk of whichever queue comes next. False: none has work.
    #[inline]
    pub(super) fn turn(&mut self) -> bool {
        let news = self.endpoints.news();
        if news.busy() != 0 {
            self.endpoints.drive();
        }
        let changes = news.changes();
        let queues = &self.queues;
        let turn = self.schedule.next(self.free_since, |key| {
            queues
                .get(key)
                .and_then(Option::as_ref)
                .is_some_and(|q| q.has_work(changes))
        });
        let Some(turn) = turn else { return false };
        let Some(queue) = self.queues.get_mut(turn.key).and_then(Option::as_mut) else {
            return false;
        };
        if self.is_idle || turn.was_searched_for {
            // Nobody's time, or time that others have paid for.
            self.free_since = ticks();
            self.is_idle = false;
        }
        // What devices have answered is looked at between chunks.
        let limit = match news.busy() {
            0 => turn.budget,
            _ => turn.budget.min(CHUNK_BYTES),
        };
        let budget = Budget::new(limit, self.chunk_ticks, self.free_since);
        let before = queue.progress();
        let (next, budget) = {
            let guard = self.epochs.enter(self.index);
            self.tools.iotlb.catch_up(&self.invalidations, self.index);
            let served = queue.serve(&mut self.tools, &guard, budget, changes);
            self.tools.iotlb.end_chunk();
            self.tools.codecs.end_chunk();
            served
        };
        let after = queue.progress();
        // Out of the chunk, which nobody shall wait for any longer, and at its expense.
        if self.endpoints.news().is_untold() {
            self.endpoints.tell();
        }
        let now = ticks();
        let busy = now.wrapping_sub(self.free_since);
        self.free_since = now;
        let descriptors = after.0 - before.0;
        let operations = descriptors + u64::from(budget.elements());
        // A chunk that took its full time counts as a full one, whatever came of it; one
        // that the host interrupted counts no more than that.
        let time = (busy.min(self.chunk_ticks) * self.tick_cost) >> FRACTION;
        self.schedule.charge(
            now,
            &Bill {
                cost: budget.spent().max(time),
                bytes: budget.spent().saturating_sub(operations * OPERATION_COST),
                operations,
                busy,
            },
        );
        self.stats.busy_ticks += busy;
        self.stats.descriptors += descriptors;
        self.stats.bytes += after.1 - before.1;
        self.stats.chunks += 1;
        queue.publish();
        if next == Next::Page {
            // Its turn is over until the answer comes, which is a command: it is obeyed after
            // this turn at the earliest, however early it was sent. It lies with the parked ones, since
            // there it is looked for when somebody asks to cancel something of it.
            if queue.rest() {
                let domain = queue.domain();
                self.schedule.remove(domain, turn.key);
                self.parked.add(domain, turn.key);
            }
        }
        self.publish();
        self.watch_regions();
        true
    }

    /// Gives a queue turns again whose page request was answered.
    fn answer(&mut self, id: u32, request: u64, verdict: Verdict) {
        let Some(&key) = self.by_id.get(&id) else {
            return;
        };
        if let Some(Some(queue)) = self.queues.get_mut(key)
            && queue.answer(request, verdict)
            && queue.wake()
        {
            self.parked.remove(queue.domain(), key);
            self.schedule.add(queue.domain(), key, queue.account());
        }
    }

    /// Whether some key is left in what operations are given.
    #[cfg(test)]
    pub(super) fn has_keys(&self) -> bool {
        self.tools.codecs.has_keys()
    }

    #[inline]
    fn publish(&self) {
        self.published.store(&self.stats, self.tools.iotlb.stats());
    }

    /// Sees to it when some region of some domain has lost its backing.
    #[inline(always)]
    fn watch_regions(&mut self) {
        let lost = sigbus::generation();
        if lost != self.tools.regions_lost {
            self.regions_lost(lost);
        }
    }

    #[cold]
    fn regions_lost(&mut self, lost: u64) {
        self.tools.regions_lost = lost;
        for queue in self.queues.iter_mut().flatten() {
            queue.check_memory();
        }
    }

    /// Parks the queues that have been idle for long enough.
    #[cold]
    fn look_at_clock(&mut self) {
        // Polling alone may have met it, in a ring.
        self.watch_regions();
        let now = ticks();
        self.schedule.refresh();
        for key in self.schedule.polled() {
            if let Some(Some(queue)) = self.queues.get_mut(key)
                && queue.is_idle_for(now, self.park_ticks)
            {
                self.quiet.push(key);
            }
        }
        while let Some(key) = self.quiet.pop() {
            if let Some(Some(queue)) = self.queues.get_mut(key)
                && queue.park()
            {
                let domain = queue.domain();
                self.schedule.remove(domain, key);
                self.parked.add(domain, key);
                self.stats.parked += 1;
            }
        }
        // Nobody's time.
        self.was_free();
    }

    /// Sleeps for a moment, if nobody else can have anything to do: every queue that is polled has
    /// something at a device. What comes to such a queue meanwhile waits with it.
    #[cold]
    fn wait_for_devices(&mut self) {
        let Some(length) = self.nap.waits(self.free_since) else {
            return;
        };
        let queues = &self.queues;
        let is_away = |key: Key| {
            let queue: Option<&Box<Active>> = queues.get(key).and_then(Option::as_ref);
            queue.is_none_or(|queue| queue.is_away())
        };
        if self.parked.is_searching() || !self.schedule.polled().all(is_away) {
            return;
        }
        self.stats.naps += 1;
        // Whoever has a command wakes it up.
        if !self.inbox.is_pending() {
            std::thread::park_timeout(length);
        }
        self.was_free();
    }

    /// Sleeps until a command comes.
    #[cold]
    fn sleep(&mut self) {
        self.stats.sleeps += 1;
        self.nap.forget();
        self.publish();
        while !self.inbox.is_pending() {
            std::thread::park();
        }
        self.was_free();
    }

    /// Carries out the commands that wait. True: stop.
    #[cold]
    pub(super) fn obey(&mut self) -> bool {
        self.inbox.acknowledge();
        while let Some(command) = self.inbox.receive() {
            match command {
                Command::Attach(queue) => self.attach(queue),
                Command::Detach { queue, to, done } => {
                    if let Some(queue) = self.detach(queue) {
                        // Made for one queue, so there is room.
                        let _ = to.push(queue);
                    }
                    done.store(true, Ordering::Release);
                }
                Command::Wake(domain) => self.parked.kick(domain),
                Command::Pause { domain, done } => {
                    self.schedule.set_paused(domain, true);
                    done.store(true, Ordering::Release);
                }
                // Kicks that came meanwhile have been seen to.
                Command::Resume(domain) => self.schedule.set_paused(domain, false),
                Command::Answer {
                    queue,
                    request,
                    verdict,
                } => self.answer(queue, request, verdict),
                Command::Stop => return true,
            }
        }
        if self.inbox.take_wake_all() {
            self.parked.kick_all();
        }
        false
    }

    fn attach(&mut self, mut queue: Box<Active>) {
        let key = self.free.pop().unwrap_or_else(|| {
            self.queues.push(None);
            self.queues.len() - 1
        });
        // One that comes from another worker may have been parked there meanwhile.
        queue.unpark();
        queue.set_worker(self.index);
        self.by_id.insert(queue.id(), key);
        // One that waits for a page goes on waiting here, unless somebody has asked to cancel something of
        // it while it was on its way.
        if queue.waits() && queue.rest() {
            self.parked.add(queue.domain(), key);
        } else {
            self.schedule.add(queue.domain(), key, queue.account());
        }
        self.queues[key] = Some(queue);
    }

    fn detach(&mut self, id: u32) -> Option<Box<Active>> {
        let key = self.by_id.remove(&id)?;
        let queue = self.queues[key].take()?;
        let domain = queue.domain();
        self.schedule.remove(domain, key);
        self.parked.remove(domain, key);
        self.free.push(key);
        Some(queue)
    }

    /// Looks at some parked queues of domains that have kicked, and polls those that have
    /// work; the others stay parked, and their request for a kick stands. While somebody
    /// has work the search gets a small part of the time only: a domain with many queues
    /// that kicks all the time does so at its own expense.
    #[cold]
    fn search(&mut self, is_idle: bool) {
        let started = self.free_since;
        if !self.parked.is_searching() || (!is_idle && started < self.search_after) {
            return;
        }
        let (queues, schedule) = (&mut self.queues, &mut self.schedule);
        let changes = self.endpoints.news().changes();
        self.parked.search(|key| {
            let Some(Some(queue)) = queues.get_mut(key) else {
                return false;
            };
            if !queue.has_work(changes) {
                return false;
            }
            queue.unpark();
            schedule.add(queue.domain(), key, queue.account());
            true
        });
        let ended = ticks();
        let took = ended.wrapping_sub(started).min(self.chunk_ticks);
        self.search_after = ended + SEARCH_PART * took;
        // Nobody's time.
        self.free_since = ended;
        self.is_idle = false;
    }
}
