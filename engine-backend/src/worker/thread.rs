//! A worker's thread: its loop, and what it does between two turns.
//!
//! The hot path is [`Thread::turn`]: one chunk of one queue, without allocation, lock or
//! system call. Commands, parking and sleep come in between.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::active::{Active, Tools};
use super::clock::ticks_in_us;
use super::inbox::{Command, Inbox};
use super::schedule::{Key, Schedule};
use crate::backend::Software;
use crate::epoch::Epochs;
use crate::iotlb::{Invalidations, Iotlb};
use crate::memory::sigbus;
use crate::ops::Budget;
use crate::ops::budget::{CHUNK_US, ticks};
use crate::stats::{Published, WorkerStats};

/// Turns, idle ones included, between two looks at the clock.
const LOOK_EVERY: u32 = 256;

/// What a worker's thread owns.
pub(super) struct Thread {
    index: usize,
    inbox: Arc<Inbox>,
    epochs: Arc<Epochs>,
    invalidations: Arc<Invalidations>,
    published: Arc<Published>,
    tools: Tools,
    schedule: Schedule,
    queues: Vec<Option<Box<Active>>>,
    free: Vec<Key>,
    by_id: HashMap<u32, Key>,
    parked: BTreeMap<u32, Vec<Key>>,
    /// Queues about to be parked; empty between calls.
    quiet: Vec<Key>,
    stats: WorkerStats,
    chunk_ticks: u64,
    park_ticks: u64,
}

impl Thread {
    pub(super) fn new(
        index: usize,
        park_us: u32,
        inbox: Arc<Inbox>,
        epochs: Arc<Epochs>,
        invalidations: Arc<Invalidations>,
        published: Arc<Published>,
    ) -> Self {
        Self {
            index,
            inbox,
            epochs,
            invalidations,
            published,
            tools: Tools {
                iotlb: Iotlb::for_worker(index),
                backend: Software::new(),
                regions_lost: sigbus::generation(),
            },
            schedule: Schedule::default(),
            queues: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            parked: BTreeMap::new(),
            quiet: Vec::new(),
            stats: WorkerStats::default(),
            chunk_ticks: ticks_in_us(CHUNK_US),
            park_ticks: ticks_in_us(u64::from(park_us)),
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
        self.published.store(&self.stats);
        let mut until_look = LOOK_EVERY;
        loop {
            if self.inbox.is_pending() {
                if self.obey() {
                    break;
                }
                self.look_at_clock();
            }
            if !self.turn() {
                std::hint::spin_loop();
            }
            until_look -= 1;
            if until_look == 0 {
                until_look = LOOK_EVERY;
                self.look_at_clock();
                if self.schedule.is_idle() {
                    self.sleep();
                }
            }
        }
        self.queues.into_iter().flatten().collect()
    }

    /// One chunk of whichever queue comes next. False: none has work.
    #[inline]
    fn turn(&mut self) -> bool {
        let queues = &self.queues;
        let turn = self.schedule.next(|key| {
            queues
                .get(key)
                .and_then(Option::as_ref)
                .is_some_and(|q| q.has_work())
        });
        let Some(turn) = turn else { return false };
        let Some(queue) = self.queues.get_mut(turn.key).and_then(Option::as_mut) else {
            return false;
        };
        let mut budget = Budget::new(turn.budget, self.chunk_ticks);
        let before = queue.progress();
        {
            let guard = self.epochs.enter(self.index);
            self.tools.iotlb.catch_up(&self.invalidations, self.index);
            queue.serve(&mut self.tools, &guard, &mut budget);
            self.tools.iotlb.end_chunk();
        }
        self.schedule.charge(budget.spent());
        let after = queue.progress();
        self.stats.descriptors += after.0 - before.0;
        self.stats.bytes += after.1 - before.1;
        self.stats.chunks += 1;
        queue.publish();
        self.publish();
        self.watch_regions();
        true
    }

    fn publish(&mut self) {
        self.stats.iotlb = self.tools.iotlb.stats();
        self.published.store(&self.stats);
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
        for key in self.schedule.polled() {
            if let Some(Some(queue)) = self.queues.get_mut(key)
                && queue.is_idle_for(now, self.park_ticks)
            {
                self.quiet.push(key);
            }
        }
        while let Some(key) = self.quiet.pop() {
            if let Some(Some(queue)) = self.queues.get(key)
                && queue.park()
            {
                let domain = queue.domain();
                self.schedule.remove(domain, key);
                self.parked.entry(domain).or_default().push(key);
                self.stats.parked += 1;
            }
        }
    }

    /// Sleeps until a command comes.
    #[cold]
    fn sleep(&mut self) {
        self.stats.sleeps += 1;
        self.publish();
        while !self.inbox.is_pending() {
            std::thread::park();
        }
    }

    /// Carries out the commands that wait. True: stop.
    #[cold]
    fn obey(&mut self) -> bool {
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
                Command::Wake(domain) => self.wake(domain),
                Command::Pause { domain, done } => {
                    self.schedule.set_paused(domain, true);
                    done.store(true, Ordering::Release);
                }
                // Kicks that came meanwhile have been seen to.
                Command::Resume(domain) => self.schedule.set_paused(domain, false),
                Command::Stop => return true,
            }
        }
        if self.inbox.take_wake_all() {
            let domains: Vec<u32> = self.parked.keys().copied().collect();
            for domain in domains {
                self.wake(domain);
            }
        }
        false
    }

    fn attach(&mut self, queue: Box<Active>) {
        let key = self.free.pop().unwrap_or_else(|| {
            self.queues.push(None);
            self.queues.len() - 1
        });
        self.by_id.insert(queue.id(), key);
        self.schedule.add(queue.domain(), key);
        self.queues[key] = Some(queue);
    }

    fn detach(&mut self, id: u32) -> Option<Box<Active>> {
        let key = self.by_id.remove(&id)?;
        let queue = self.queues[key].take()?;
        let domain = queue.domain();
        self.schedule.remove(domain, key);
        if let Some(parked) = self.parked.get_mut(&domain) {
            parked.retain(|&k| k != key);
            if parked.is_empty() {
                self.parked.remove(&domain);
            }
        }
        self.free.push(key);
        Some(queue)
    }

    /// Polls the domain's parked queues that have work; the others stay parked, and
    /// their request for a kick stands.
    fn wake(&mut self, domain: u32) {
        let Some(parked) = self.parked.get_mut(&domain) else {
            return;
        };
        let (queues, schedule) = (&mut self.queues, &mut self.schedule);
        parked.retain(|&key| {
            let Some(Some(queue)) = queues.get_mut(key) else {
                return false;
            };
            if !queue.has_work() {
                return true;
            }
            queue.unpark();
            schedule.add(domain, key);
            false
        });
        if parked.is_empty() {
            self.parked.remove(&domain);
        }
    }
}
