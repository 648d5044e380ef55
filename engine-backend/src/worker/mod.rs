//! Workers: the threads that poll work queues and carry descriptors out.
//!
//! Each worker owns its queues, an IOTLB and a backend, and shares nothing with the
//! others. It goes round in turns (`thread`); a turn is one chunk of one queue
//! (`active`), chosen by `schedule`. Control threads talk to it through an `inbox`;
//! [`Workers`] is their side, and the only public one.
//!
//! A worker must never wait for anybody: no lock, no allocation, no system call while
//! any queue has work; long operations are cut into chunks, so that one queue delays
//! another by a chunk at most.

mod account;
mod active;
mod away;
mod balance;
mod bucket;
mod clock;
mod config;
mod inbox;
mod nap;
mod parked;
mod schedule;
#[cfg(any(test, feature = "testing"))]
mod solo;
mod thread;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;

pub use crate::stats::WorkerStats;
pub use account::Account;
pub(crate) use clock::ticks_in_us;
pub use config::WorkerConfig;
#[cfg(any(test, feature = "testing"))]
pub use solo::Solo;

use crate::backend::{Backend, Software};
use crate::endpoint::Endpoints;
use crate::epoch::{Epochs, WORKERS_MAX};
use crate::iotlb::Invalidations;
use crate::ops::budget::ticks;
use crate::ops::{JOBS, Jobs, Verdict};
use crate::queue::{Served, WorkQueue};
use crate::stats::Published;
use active::Active;
use inbox::{Command, Inbox};
use thread::{Shared, Thread};

/// Why workers cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A number of workers that cannot be had.
    #[error("{asked} workers: expected 1 to {max}")]
    Count {
        /// Asked for.
        asked: usize,
        /// Most that there can be.
        max: usize,
    },
    /// The host started no thread.
    #[error("cannot start worker thread {index}")]
    Spawn {
        /// Which.
        index: usize,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// One worker from outside.
#[derive(Debug)]
struct Handle {
    inbox: Arc<Inbox>,
    published: Arc<Published>,
    jobs: Jobs,
    #[expect(clippy::vec_box, reason = "what the thread gives back is boxed")]
    thread: JoinHandle<Vec<Box<Active>>>,
}

impl Handle {
    /// Sends a command; waits for room, unless the worker's thread is gone.
    fn send(&self, command: Command) {
        let mut command = command;
        while let Err(back) = self.inbox.try_send(command) {
            if self.thread.is_finished() {
                return;
            }
            command = back;
            std::thread::yield_now();
        }
    }

    /// Waits until the worker has set the flag. False: its thread is gone.
    fn wait(&self, done: &AtomicBool) -> bool {
        let mut turns = 0_u32;
        loop {
            if done.load(Ordering::Acquire) {
                return true;
            }
            if self.thread.is_finished() {
                return done.load(Ordering::Acquire);
            }
            turns = turns.saturating_add(1);
            if turns < 256 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// Which worker serves which queue.
#[derive(Debug, Default)]
struct Registry {
    by_queue: HashMap<u32, (usize, Arc<WorkQueue>)>,
    load: Vec<usize>,
    /// For [`Workers::rebalance`].
    seen: Seen,
}

/// What the last look at the workers saw.
#[derive(Debug, Default)]
struct Seen {
    at: u64,
    busy: Vec<u64>,
    /// The worker that was short of time, and the work that its queues had done by then.
    short: Option<(usize, HashMap<u32, u64>)>,
}

impl Registry {
    /// Compares with the last look; says which queue should go where.
    fn look(&mut self, now: u64, busy: Vec<u64>) -> Option<(u32, usize)> {
        let window = now.wrapping_sub(self.seen.at);
        let before = std::mem::replace(
            &mut self.seen,
            Seen {
                at: now,
                busy,
                short: None,
            },
        );
        if before.busy.len() != self.seen.busy.len() {
            return None;
        }
        let spent: Vec<u64> = (self.seen.busy.iter().zip(&before.busy))
            .map(|(now, before)| now.saturating_sub(*before))
            .collect();
        let (from, to) = balance::pair(&spent, window)?;
        let work: HashMap<u32, u64> = (self.by_queue.iter())
            .filter(|(_, (worker, _))| *worker == from)
            .map(|(&id, (_, queue))| (id, queue.work()))
            .collect();
        let chosen = before
            .short
            .filter(|(worker, _)| *worker == from)
            .and_then(|(_, earlier)| {
                let done = |(&queue, &work): (&u32, &u64)| {
                    let work = work.saturating_sub(*earlier.get(&queue)?);
                    Some(balance::Candidate { queue, work })
                };
                let candidates: Vec<_> = work.iter().filter_map(done).collect();
                balance::choose(spent[from], spent[to], &candidates)
            });
        self.seen.short = Some((from, work));
        chosen.map(|queue| (queue, to))
    }
}

/// Rings for domains' parked queues, from any thread, workers included. Neither waits nor
/// allocates; a system call only where a worker sleeps.
#[derive(Debug, Clone)]
pub struct Doorbell(Arc<[Arc<Inbox>]>);

impl Doorbell {
    /// Has the domain's parked queues looked at.
    pub fn ring(&self, domain: u32) {
        for inbox in self.0.iter() {
            inbox.ring(domain);
        }
    }

    /// The same at one worker.
    pub(crate) fn ring_at(&self, worker: usize, domain: u32) {
        if let Some(inbox) = self.0.get(worker) {
            inbox.ring(domain);
        }
    }

    /// That of no worker.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn silent() -> Self {
        Self(Arc::new([]))
    }
}

/// All workers of an engine, as control threads see them. Dropping it stops the
/// threads; queues still attached are aborted.
///
/// The registry's lock is held for bookkeeping and for sending, never while a chunk is
/// waited for; workers do not take it.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    doorbell: Doorbell,
    registry: Mutex<Registry>,
    /// Held for writing while a queue is between two workers, for reading while one is
    /// taken away, so that whoever takes one away finds it.
    moves: RwLock<()>,
    endpoints: Arc<Endpoints>,
}

impl Workers {
    /// Starts the threads, each with the software backend. `epochs` and `invalidations`
    /// have room for as many.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub fn start(
        config: WorkerConfig,
        epochs: Arc<Epochs>,
        invalidations: Arc<Invalidations>,
    ) -> Result<Self, WorkerError> {
        Self::start_with(config, epochs, invalidations, |_| Software::new())
    }

    /// The same with a backend for each, made by `backend` from the worker's number.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub fn start_with<B: Backend + Send + 'static>(
        config: WorkerConfig,
        epochs: Arc<Epochs>,
        invalidations: Arc<Invalidations>,
        mut backend: impl FnMut(usize) -> B,
    ) -> Result<Self, WorkerError> {
        let max = epochs.workers().min(WORKERS_MAX);
        if config.count == 0 || config.count > max {
            return Err(WorkerError::Count {
                asked: config.count,
                max,
            });
        }
        let inboxes: Arc<[_]> = (0..config.count).map(|_| Arc::new(Inbox::new())).collect();
        let mut workers = Self {
            handles: Vec::with_capacity(config.count),
            doorbell: Doorbell(Arc::clone(&inboxes)),
            registry: Mutex::new(Registry {
                load: vec![0; config.count],
                ..Registry::default()
            }),
            moves: RwLock::default(),
            endpoints: Arc::default(),
        };
        for (index, inbox) in inboxes.iter().enumerate() {
            let inbox = Arc::clone(inbox);
            let published = Arc::new(Published::default());
            let shared = Shared {
                inbox: inbox.clone(),
                epochs: epochs.clone(),
                invalidations: invalidations.clone(),
                published: published.clone(),
                endpoints: Arc::clone(&workers.endpoints),
                jobs: Jobs::none(),
            };
            let jobs = shared.jobs.clone();
            let thread = Thread::new(index, config.park_us, shared, backend(index));
            let cpu = config.cpus.get(index).copied();
            let thread = std::thread::Builder::new()
                .name(format!("byway-worker-{index}"))
                .stack_size(crate::STACK_BYTES)
                .spawn(move || {
                    if let Some(cpu) = cpu {
                        pin(cpu);
                    }
                    thread.run()
                })
                .map_err(|source| WorkerError::Spawn { index, source })?;
            inbox.set_thread(thread.thread().clone());
            workers.handles.push(Handle {
                inbox,
                published,
                jobs,
                thread,
            });
        }
        Ok(workers)
    }

    /// The devices that they drive.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Before somebody may use a device: a queue may have many descriptors at devices, each with an operation on what is
    /// read or written.
    pub fn prepare_for_devices(&self) {
        for handle in &self.handles {
            handle.jobs.provide(JOBS);
        }
    }

    /// Hands a queue to the worker with the fewest (see `balance`); it is polled from now
    /// on. Waits for no chunk.
    ///
    /// # Panics
    /// When the queue was attached before.
    pub fn attach(&self, queue: Arc<WorkQueue>) {
        queue.cancels().set_doorbell(&self.doorbell);
        let active = Box::new(Active::new(Served::new(queue.clone())));
        let mut registry = self.registry();
        let (worker, load) = match registry
            .load
            .iter_mut()
            .enumerate()
            .min_by_key(|(_, n)| **n)
        {
            Some(least) => least,
            None => return,
        };
        *load += 1;
        self.handles[worker].jobs.provide_for(*load);
        registry.by_queue.insert(queue.id(), (worker, queue));
        // Under the lock, so that no `detach` overtakes it.
        self.handles[worker].send(Command::Attach(active));
    }

    /// Takes a queue away. When this returns its worker has forgotten it, descriptors
    /// in flight and those published before have ended in status 62, and the header
    /// says dead. Nothing happens when it is not attached.
    pub fn detach(&self, queue: u32) {
        let _no_moves = self.moves.read().unwrap_or_else(PoisonError::into_inner);
        let Some((worker, shared)) = self.forget(queue) else {
            return;
        };
        match self.take_back(worker, queue) {
            Some(active) => active.abort(),
            None => shared.mark_dead(),
        }
    }

    /// Has a worker hand a queue back, between two chunks. `None`: its thread is gone.
    fn take_back(&self, worker: usize, queue: u32) -> Option<Box<Active>> {
        let to = Arc::new(ArrayQueue::new(1));
        let done = Arc::new(AtomicBool::new(false));
        let handle = &self.handles[worker];
        handle.send(Command::Detach {
            queue,
            to: to.clone(),
            done: done.clone(),
        });
        handle.wait(&done).then(|| to.pop()).flatten()
    }

    /// Has another worker serve a queue from now on, the descriptor that it is in the
    /// middle of included. False: it is not attached, or there is no such worker.
    pub fn move_queue(&self, queue: u32, to: usize) -> bool {
        let _moving = self.moves.write().unwrap_or_else(PoisonError::into_inner);
        let found = self.registry().by_queue.get(&queue).cloned();
        let Some((from, shared)) = found else {
            return false;
        };
        if to >= self.handles.len() {
            return false;
        }
        if from == to {
            return true;
        }
        let Some(active) = self.take_back(from, queue) else {
            shared.mark_dead();
            return false;
        };
        let mut registry = self.registry();
        registry.load[from] -= 1;
        registry.load[to] += 1;
        self.handles[to].jobs.provide_for(registry.load[to]);
        registry.by_queue.insert(queue, (to, shared));
        // Under the lock, so that no `detach` overtakes it.
        self.handles[to].send(Command::Attach(active));
        true
    }

    /// Looks at how busy the workers were since the last look, and moves one queue if that
    /// evens them out (see `balance`). To be called at intervals of some tenths of a
    /// second. Goes through the queues only of a worker that is short of time.
    pub fn rebalance(&self) {
        if self.handles.len() < 2 {
            return;
        }
        let busy: Vec<u64> = self.stats().iter().map(|s| s.busy_ticks).collect();
        let chosen = self.registry().look(ticks(), busy);
        if let Some((queue, to)) = chosen {
            self.move_queue(queue, to);
        }
    }

    /// The doorbell: the domain's parked queues are looked at. Never blocks.
    pub fn wake(&self, domain: u32) {
        for handle in &self.handles {
            handle.inbox.ring(domain);
        }
    }

    /// The doorbells, for objects that queues wait for.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// All domains' parked queues are looked at.
    pub fn wake_all(&self) {
        for handle in &self.handles {
            handle.inbox.ring_all();
        }
    }

    /// Stops serving the domain's queues between two chunks; returns when it is quiet.
    /// Queues attached later are not served either, until [`Self::resume_domain`], which
    /// must be called once before the domain is forgotten.
    pub fn pause_domain(&self, domain: u32) {
        let flags: Vec<_> = self
            .handles
            .iter()
            .map(|handle| {
                let done = Arc::new(AtomicBool::new(false));
                handle.send(Command::Pause {
                    domain,
                    done: done.clone(),
                });
                done
            })
            .collect();
        for (handle, done) in self.handles.iter().zip(&flags) {
            handle.wait(done);
        }
    }

    /// Serves them again.
    pub fn resume_domain(&self, domain: u32) {
        for handle in &self.handles {
            handle.send(Command::Resume(domain));
        }
    }

    /// Tells a queue what became of the page that it waits for, by the number that it was
    /// given ([`crate::queue::CompletionSink::page_needed`]). Nothing happens when it waits
    /// for none such any more, or not yet: whoever answers has been asked.
    pub fn answer(&self, queue: u32, request: u64, verdict: Verdict) {
        // One that is between two workers would not hear it.
        let _no_moves = self.moves.read().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        if let Some(&(worker, _)) = registry.by_queue.get(&queue) {
            // Under the lock, so that no `detach` overtakes it.
            self.handles[worker].send(Command::Answer {
                queue,
                request,
                verdict,
            });
        }
    }

    /// What each worker has done.
    #[must_use]
    pub fn stats(&self) -> Vec<WorkerStats> {
        self.handles.iter().map(|h| h.published.load()).collect()
    }

    fn forget(&self, queue: u32) -> Option<(usize, Arc<WorkQueue>)> {
        let mut registry = self.registry();
        let (worker, shared) = registry.by_queue.remove(&queue)?;
        registry.load[worker] -= 1;
        Some((worker, shared))
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Bookkeeping that cannot be left half done, so a panic elsewhere spoils nothing.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.send(Command::Stop);
        }
        for handle in self.handles.drain(..) {
            match handle.thread.join() {
                Ok(queues) => queues.into_iter().for_each(|queue| queue.abort()),
                Err(_) => tracing::error!("a worker thread has panicked; its queues are lost"),
            }
        }
        let registry = self
            .registry
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (_, queue) in registry.by_queue.values() {
            queue.mark_dead();
        }
    }
}

/// Pins the calling thread; a processor that is not there is reported and ignored.
fn pin(cpu: usize) {
    // SAFETY: the set is plain data, all zero is the empty one, and `CPU_SET` ignores
    // numbers beyond its end; the call reads the set and changes this thread alone.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu < libc::CPU_SETSIZE as usize {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) != 0
    };
    if failed {
        tracing::warn!(
            cpu,
            error = %std::io::Error::last_os_error(),
            "cannot pin a worker to this processor; it floats"
        );
    }
}
