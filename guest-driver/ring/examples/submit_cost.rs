//! What the library itself costs: submit and poll on one thread, with completions that are
//! written beforehand, so that no other core's cache plays a part.
//!
//!     cargo run --release -p byway-ring --example submit_cost

use byway_ring::{Options, Queue, QueueMemory, Request, Slot};
use std::alloc::{Layout, alloc_zeroed};
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const ENTRIES: u32 = 128;
const LAPS: u32 = 20_000;

/// A queue, and its completions for whoever plays the engine. Leaked on purpose.
fn queue(options: Options) -> (Queue, Vec<&'static AtomicU64>) {
    let layout = Layout::from_size_align(128 + 96 * ENTRIES as usize, 4096);
    let layout = layout.expect("a small constant size");
    // SAFETY: the size is not 0.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
    // SAFETY: offsets inside the allocation.
    let (ring, completions) = unsafe { (base.add(128), base.add(128 + 64 * ENTRIES as usize)) };
    let memory = QueueMemory {
        header: base.cast(),
        ring: ring.cast(),
        completions: completions.cast(),
        entries: ENTRIES,
    };
    // SAFETY: zeroed, never freed, one queue, and the completions below are reached by atomics.
    let queue = unsafe { Queue::new(memory, options) }.expect("a fit memory");
    // SAFETY: the first word of each completion, inside the allocation, aligned to 8.
    let word = |slot: u32| unsafe {
        completions
            .cast::<AtomicU64>()
            .add(4 * slot as usize)
            .as_ref()
    };
    (queue, (0..ENTRIES).map(word).collect())
}

fn measure(depth: u32, options: Options) -> f64 {
    let (mut queue, completions) = queue(options);
    let mut best = f64::INFINITY;
    let mut timed = 0.0;
    let mut consumed = 0;
    for lap in 0..LAPS {
        let phase = u64::from(lap % 2 == 0) << 31;
        for word in &completions {
            word.store(1 | phase, Ordering::Relaxed);
        }
        let start = Instant::now();
        for _ in 0..ENTRIES / depth {
            for _ in 0..depth {
                let put = Request::put(Slot::OWN, black_box(0x1000), black_box(0x2000), 64);
                if let Ok(put) = put {
                    black_box(queue.post(put).is_ok());
                }
            }
            black_box(queue.kick_due());
            for _ in 0..depth {
                if let Some((_, completion)) = queue.poll() {
                    consumed += u64::from(completion.status);
                }
            }
        }
        timed += start.elapsed().as_secs_f64();
        if lap % 100 == 99 {
            best = f64::min(best, timed * 1e9 / f64::from(100 * ENTRIES));
            timed = 0.0;
        }
    }
    assert_eq!(queue.outstanding(), 0);
    assert_eq!(
        consumed,
        u64::from(LAPS) * u64::from(ENTRIES),
        "every put was consumed"
    );
    best
}

fn main() {
    println!("best ns for each build + submit + poll, {ENTRIES} entries");
    for depth in [1, 16, 64] {
        let parks = measure(depth, Options::default());
        let never = measure(depth, Options { no_park: true });
        println!("depth {depth:>2}: {parks:5.1} (may park)  {never:5.1} (NO_PARK)");
    }
}
