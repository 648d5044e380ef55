//! Loom model of a revocation: a right is published, used in chunks, taken back, and
//! after the grace period the memory behind it is reused.

use super::Epochs;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

/// Memory that a worker may touch only while `granted` is seen inside a chunk. Loom
/// reports any access that is not ordered against the owner's.
struct Right {
    granted: AtomicBool,
    memory: UnsafeCell<u64>,
}

// SAFETY: the model checks just this: that all access to `memory` is ordered.
unsafe impl Sync for Right {}
// SAFETY: as above.
unsafe impl Send for Right {}

fn worker(epochs: &Epochs, index: usize, right: &Right, chunks: usize) {
    for _ in 0..chunks {
        let _guard = epochs.enter(index);
        if right.granted.load(Ordering::Acquire) {
            // SAFETY: loom checks it.
            right.memory.with(|m| assert_eq!(unsafe { *m }, 1));
        }
    }
}

fn revoke(epochs: &Epochs, right: &Right) {
    right.granted.store(false, Ordering::Relaxed);
    epochs.synchronize();
    // SAFETY: loom checks it.
    right.memory.with_mut(|m| unsafe { *m = 2 });
}

fn new_right() -> Arc<Right> {
    Arc::new(Right {
        granted: AtomicBool::new(true),
        memory: UnsafeCell::new(1),
    })
}

#[test]
fn loom_no_access_after_the_grace_period() {
    loom::model(|| {
        let epochs = Arc::new(Epochs::new(1));
        let right = new_right();
        let t = thread::spawn({
            let (epochs, right) = (epochs.clone(), right.clone());
            move || worker(&epochs, 0, &right, 2)
        });
        revoke(&epochs, &right);
        t.join().unwrap();
    });
}

#[test]
fn loom_every_worker_is_waited_for() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let epochs = Arc::new(Epochs::new(2));
        let right = new_right();
        let workers: Vec<_> = (0..2)
            .map(|index| {
                let (epochs, right) = (epochs.clone(), right.clone());
                thread::spawn(move || worker(&epochs, index, &right, 1))
            })
            .collect();
        revoke(&epochs, &right);
        for t in workers {
            t.join().unwrap();
        }
    });
}

/// The same with the store-load fence of the chunk's entry left out: loom must find
/// the access that the fence forbids, or the model proves nothing.
#[test]
#[should_panic]
fn loom_without_the_entry_fence_it_is_seen_to_fail() {
    use loom::sync::atomic::{AtomicU64, fence};
    loom::model(|| {
        let counter = Arc::new(AtomicU64::new(0));
        let right = new_right();
        let t = thread::spawn({
            let (counter, right) = (counter.clone(), right.clone());
            move || {
                counter.store(1, Ordering::Relaxed);
                if right.granted.load(Ordering::Acquire) {
                    // SAFETY: loom checks it, and is expected to object.
                    right.memory.with(|m| assert_eq!(unsafe { *m }, 1));
                }
                counter.store(2, Ordering::Release);
            }
        });
        right.granted.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while counter.load(Ordering::Acquire) == 1 {
            thread::yield_now();
        }
        // SAFETY: loom checks it, and is expected to object.
        right.memory.with_mut(|m| unsafe { *m = 2 });
        t.join().unwrap();
    });
}
