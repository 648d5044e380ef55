//! Grace periods: how a control thread learns that no worker still uses an old right.
//!
//! Owns one counter per worker, odd while the worker is inside a chunk. A worker
//! enters a chunk, reads control state (capabilities, versions, page tables), works,
//! and leaves; it keeps nothing it read across chunks. A control thread publishes the
//! new state, then waits until each chunk that had begun is over: any later chunk
//! sees the new state. Nothing here depends on what that state is.
//!
//! The control thread that asks waits by itself instead of leaving a list of pending waits behind: a
//! wait is bounded by one chunk, so a list would save tens of microseconds of one thread that has nothing
//! else to do for its domain, and every caller could only answer later by a second path.
//!
//! Must never make a worker wait: [`Epochs::enter`] and the drop of its guard are one
//! locked instruction and one store. Waiting is the control threads' part, and it is
//! as long as one chunk at most.

pub(crate) mod sync;

pub(crate) use sync::{Ordering, fence};

use std::marker::PhantomData;
use std::time::Duration;

use sync::{AtomicU64, Late, fence_after_rmw, relax};

/// Most workers that one engine can have (the room in the invalidation page,
/// SPEC section 10).
pub const WORKERS_MAX: usize = byway_protocols::invalidation::WORKERS;

/// Longer than any chunk, by far.
const CHUNK_MAX: Duration = Duration::from_secs(3);

/// A counter alone on its pair of cache lines, so that workers do not disturb each
/// other and the adjacent-line prefetcher disturbs nobody.
#[derive(Debug)]
#[repr(align(128))]
struct Counter(AtomicU64);

/// The chunk counters of all workers.
#[derive(Debug)]
pub struct Epochs {
    counters: Box<[Counter]>,
    /// Control threads that wait for chunks to end.
    waiting: Counter,
}

impl Epochs {
    /// Counters for `workers` workers, none of them in a chunk.
    ///
    /// # Panics
    /// When there are more than [`WORKERS_MAX`]; the engine's configuration is
    /// checked before.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        assert!(workers <= WORKERS_MAX, "at most {WORKERS_MAX} workers");
        Self {
            counters: (0..workers).map(|_| Counter(AtomicU64::new(0))).collect(),
            waiting: Counter(AtomicU64::new(0)),
        }
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.counters.len()
    }

    /// Begins a chunk of worker `worker`, until the guard is dropped. Control state
    /// read under the guard stays valid until then; whatever was published and
    /// waited for before is seen.
    ///
    /// # Panics
    /// When `worker` does not exist or is inside a chunk already.
    #[inline]
    #[must_use]
    pub fn enter(&self, worker: usize) -> ChunkGuard<'_> {
        let counter = &self.counters[worker].0;
        // A read-modify-write, so that two threads claiming one index cannot both
        // succeed: what is freed after a grace period depends on it.
        let before = counter.fetch_add(1, Ordering::SeqCst);
        assert!(before & 1 == 0, "worker {worker} is in a chunk already");
        // Store-load: the counter is odd before any control state is read. Pairs with
        // the fence of `snapshot`: either that sees the odd counter and waits, or this
        // chunk sees what was published before it.
        fence_after_rmw();
        ChunkGuard {
            counter,
            odd: before.wrapping_add(1),
            waiting: &self.waiting.0,
            _not_send: PhantomData,
        }
    }

    /// Notes which workers are inside a chunk, after everything that this thread has
    /// published.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        fence(Ordering::SeqCst);
        let mut seen = [0; WORKERS_MAX];
        for (seen, counter) in seen.iter_mut().zip(&self.counters) {
            *seen = counter.0.load(Ordering::Acquire);
        }
        Snapshot { seen }
    }

    /// Whether each chunk that was under way at the snapshot is over. Never waits.
    #[must_use]
    pub fn passed(&self, snapshot: &Snapshot) -> bool {
        self.left(snapshot) == 0
    }

    /// How many chunks that were under way at the snapshot are not over.
    fn left(&self, snapshot: &Snapshot) -> u32 {
        let chunks = self.counters.iter().zip(&snapshot.seen);
        chunks
            .map(|(counter, &seen)| u32::from(!over(counter, seen)))
            .sum()
    }

    /// Waits until each chunk that is under way now is over, and says how many there
    /// were. For control threads: a worker that called it would wait for itself.
    pub fn synchronize(&self) -> u32 {
        self.wait(&self.snapshot())
    }

    /// Waits until each chunk that was under way at the snapshot is over, and says how many of them still were. For
    /// control threads, as [`Self::synchronize`].
    ///
    /// There is no giving up: what is freed or answered afterwards must not be in use. Where the wait is as long as no chunk is,
    /// the engine's log says which worker it is for.
    pub fn wait(&self, snapshot: &Snapshot) -> u32 {
        self.wait_telling(snapshot, || Late::new(CHUNK_MAX), |worker| {
            tracing::error!(
                worker,
                "a worker has been in one chunk for more than {CHUNK_MAX:?}, and everybody who takes a right or memory away waits \
                 for it: is this process short of processors, or was it stopped? If not, a stack of its thread \
                 (byway-worker-{worker}) says where it is"
            );
        })
    }

    fn wait_telling(
        &self,
        snapshot: &Snapshot,
        late: impl Fn() -> Late,
        mut tell: impl FnMut(usize),
    ) -> u32 {
        // Before anybody can know of the wait, and end a chunk because of it.
        let left = self.left(snapshot);
        if left == 0 {
            return 0;
        }
        // No more than a hint, that need not be seen at once: nothing is ordered by it.
        self.waiting.0.fetch_add(1, Ordering::Relaxed);
        for (worker, (counter, &seen)) in self.counters.iter().zip(&snapshot.seen).enumerate() {
            let mut turn = 0;
            let mut late = late();
            while !over(counter, seen) {
                relax(turn);
                if late.becomes_so(turn) {
                    tell(worker);
                }
                turn = turn.wrapping_add(1).max(1);
            }
        }
        self.waiting.0.fetch_sub(1, Ordering::Relaxed);
        left
    }
}

/// Whether the chunk that `seen` told of is over, or there was none. Acquire: what the
/// worker did in it happened before.
fn over(counter: &Counter, seen: u64) -> bool {
    seen & 1 == 0 || counter.0.load(Ordering::Acquire) != seen
}

/// Which workers were inside a chunk at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    seen: [u64; WORKERS_MAX],
}

/// Proof of being inside a chunk; dropping it ends the chunk.
#[derive(Debug)]
pub struct ChunkGuard<'a> {
    counter: &'a AtomicU64,
    odd: u64,
    waiting: &'a AtomicU64,
    /// A chunk begins and ends on one thread.
    _not_send: PhantomData<*const ()>,
}

/// Whether somebody waits for chunks to end, as a chunk keeps it at hand.
#[derive(Debug, Clone, Copy)]
pub struct Awaited<'a>(&'a AtomicU64);

impl Awaited<'_> {
    /// Whether somebody does, for this one perhaps: a long operation leaves the rest to another chunk then.
    #[inline(always)]
    #[must_use]
    pub fn is_so(self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

impl<'a> ChunkGuard<'a> {
    /// Where to look for it.
    #[inline(always)]
    #[must_use]
    pub fn awaited(&self) -> Awaited<'a> {
        Awaited(self.waiting)
    }

    /// Whether somebody waits for chunks to end, this one among them perhaps.
    #[inline(always)]
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited().is_so()
    }
}

impl Drop for ChunkGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: the chunk's accesses are over before a waiter sees the counter move.
        self.counter
            .store(self.odd.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(loom)]
mod loom_model;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn nothing_is_waited_for_outside_chunks() {
        let epochs = Epochs::new(3);
        assert_eq!(epochs.synchronize(), 0);
        drop(epochs.enter(1));
        assert_eq!(epochs.synchronize(), 0);
        assert!(epochs.passed(&epochs.snapshot()));
    }

    #[test]
    fn a_snapshot_passes_when_the_chunk_it_saw_ends() {
        let epochs = Epochs::new(2);
        let guard = epochs.enter(0);
        let snapshot = epochs.snapshot();
        assert!(!epochs.passed(&snapshot));
        drop(guard);
        assert!(epochs.passed(&snapshot));
        // A later chunk of the same worker is none of the snapshot's business.
        let _later = epochs.enter(0);
        assert!(epochs.passed(&snapshot));
    }

    #[test]
    fn a_chunk_knows_that_somebody_waits() {
        let epochs = Arc::new(Epochs::new(1));
        let guard = epochs.enter(0);
        assert!(!guard.is_awaited());
        let waiter = std::thread::spawn({
            let epochs = epochs.clone();
            move || epochs.synchronize()
        });
        while !guard.is_awaited() {
            std::thread::yield_now();
        }
        drop(guard);
        assert_eq!(waiter.join().unwrap(), 1);
        assert!(!epochs.enter(0).is_awaited());
    }

    #[test]
    fn whoever_waits_for_longer_than_a_chunk_says_for_whom_once() {
        let epochs = Epochs::new(2);
        let guard = epochs.enter(1);
        let snapshot = epochs.snapshot();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|s| {
            let waiter = s.spawn(|| {
                let late = || Late::new(Duration::from_millis(5));
                epochs.wait_telling(&snapshot, late, |worker| tell.send(worker).unwrap())
            });
            assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(1));
            std::thread::sleep(Duration::from_millis(20));
            drop(guard);
            assert_eq!(waiter.join().unwrap(), 1);
        });
        assert!(told.try_recv().is_err());
    }

    #[test]
    #[should_panic(expected = "in a chunk already")]
    fn one_worker_is_in_one_chunk() {
        let epochs = Epochs::new(1);
        let _first = epochs.enter(0);
        let _second = epochs.enter(0);
    }

    #[test]
    fn synchronize_returns_after_the_chunk_and_not_before() {
        let epochs = Arc::new(Epochs::new(2));
        let over = Arc::new(AtomicBool::new(false));
        let guard = epochs.enter(1);
        let waiter = std::thread::spawn({
            let (epochs, over) = (epochs.clone(), over.clone());
            move || {
                let waited = epochs.synchronize();
                (waited, over.load(Ordering::Relaxed))
            }
        });
        // However late the thread gets a core.
        while !guard.is_awaited() && !waiter.is_finished() {
            std::thread::yield_now();
        }
        // Long enough for it to have come back too early.
        std::thread::sleep(Duration::from_millis(20));
        over.store(true, Ordering::Relaxed);
        drop(guard);
        assert_eq!(waiter.join().unwrap(), (1, true));
    }
}
