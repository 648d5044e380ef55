//! [`Turns`]: the engine, its library, the engine, its library, each for a millisecond.
//!
//! **What is compared.** Both sides work on the same pages of a guest's RAM, on the same core: the library in a thread that
//! is bound to the worker's, while the worker sleeps. Neither the submitter nor anybody else touches the data meanwhile, so
//! both find in the caches what their own last calls left there, and each side has run a quarter of a window before it is
//! timed. The engine's time is from the first descriptor published to the last completion seen, with `DEPTH`
//! descriptors in flight from another core: submission, checks, translation and completion are in it, but for
//! those that the worker need not wait for.
//!
//! **What counts.** What two windows that follow each other say of each other, and of all that the median: a host whose caches are
//! others' as well, and slower for seconds at a time, is as slow in both. A window of either side in which its thread lost its core, waited for it for more than a hundredth of
//! the window, or took a page fault does not. One that a single operation fills, of dozens of megabytes, may have lost its core
//! for that hundredth: what it finds in the caches is its own last milliseconds' anyway. There are more windows for as long as more than a tenth of all so far do not count, up to
//! `ROUNDS_FACTOR` times as many; when it is still more than a tenth, the result is "not measured".
//!
//! **When.** A third of a case's windows, then of the next one's, and so on, and all that three times: a neighbour who is busy for a
//! few seconds has a part in many cases, and decides none. What then lies within a tenth of its target, on either side, is measured in six such
//! rounds more, and all of its windows count.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use byway_engine::testing::Submitter;
use byway_protocols::{Completion, Descriptor};

use super::cases::{Case, Guests};
use crate::bench::mechanisms::Harness;
use crate::bench::quiet::{DISTURBED_SHARE_MAX, Watch};
use crate::bench::sizes::on_core;
use crate::measure::ThreadLoad;

/// An idle queue is parked after so many microseconds, and its worker leaves the core to the library.
const PARK_US: u32 = 1000;
/// Length of a window, if an operation is shorter.
const WINDOW: Duration = Duration::from_millis(1);
/// From this length of an operation on there are few windows.
const LONG: Duration = Duration::from_millis(20);
/// Rest of a worker that was woken, before it is measured.
const REST: Duration = Duration::from_micros(300);
/// Most operations in a window.
const OPERATIONS_MAX: u64 = 4000;
/// One of so many parts of a window may be lost to the host: its timer takes about as much.
const TAKEN_SHARE: u64 = 100;
/// So many times as many windows, at most, for as long as the host disturbs too many.
const ROUNDS_FACTOR: u32 = 4;
/// Looks for a completion between two looks whether a kick is asked for.
const SPINS: u32 = 4096;
/// Operations in flight. What is measured is the worker, so it always finds the next: also when the host has taken the submitter's
/// core for the few microseconds that an exit of a virtual machine takes, in which a worker does four of the shortest.
const DEPTH: u64 = 8;

/// What came of a case so far.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Nanoseconds of one operation in the engine.
    pub(super) engine: Watch,
    /// The same of the library, if there is one.
    pub(super) library: Watch,
    /// The same of the passes that a fused operation replaces.
    passes: Watch,
    /// How much longer the library takes than the engine: what each pair of windows, one after the other, says.
    pub(super) over_library: Watch,
    /// The same of the passes.
    pub(super) over_passes: Watch,
    /// Operations in flight.
    pub(super) depth: u64,
    /// Operations that were measured.
    pub(super) samples: u64,
}

impl Measured {
    /// Largest share of windows of a kind in which the host did not leave the core alone.
    pub(super) fn disturbed_share(&self) -> f64 {
        [&self.engine, &self.library, &self.passes]
            .map(Watch::disturbed_share)
            .into_iter()
            .fold(0.0, f64::max)
    }
}

/// A worker, its queue, and windows in turn.
pub(super) struct Turns<'g> {
    harness: Harness,
    submitter: Submitter,
    rounds: u32,
    _guests: &'g Guests,
}

impl<'g> Turns<'g> {
    pub(super) fn new(guests: &'g Guests, quick: bool) -> Result<Self> {
        let harness = Harness::new(PARK_US)?;
        let submitter = Submitter::new(&guests.alice, 64, false);
        harness.attach(&submitter);
        Ok(Self {
            harness,
            submitter,
            rounds: if quick { 11 } else { 21 },
            _guests: guests,
        })
    }

    /// Carries one descriptor out.
    ///
    /// # Errors
    /// When it is no success.
    pub(super) fn run(&mut self, descriptor: &Descriptor) -> Result<Completion> {
        self.submitter.submit(descriptor);
        if self.submitter.needs_kick() {
            self.harness.wake(&self.submitter);
        }
        let completion = self.submitter.wait();
        let ok = completion.is_success();
        ensure!(ok, "{descriptor:?} ended with {completion:?}");
        Ok(completion)
    }

    /// Nanoseconds per round of `descriptors`, `count` rounds of them, `depth` descriptors in flight.
    fn window(&mut self, descriptors: &[Descriptor], count: u64, depth: u64) -> Result<f64> {
        let all = count * descriptors.len() as u64;
        let (mut submitted, mut done, mut spins) = (0, 0, 0_u32);
        let start = Instant::now();
        while done < all {
            while submitted < all && submitted - done < depth {
                let at = (submitted % descriptors.len() as u64) as usize;
                self.submitter.submit(&descriptors[at]);
                submitted += 1;
            }
            match self.submitter.poll() {
                Some(completion) => {
                    let ok = completion.is_success();
                    ensure!(ok, "an operation ended with {completion:?}");
                    done += 1;
                }
                None => {
                    std::hint::spin_loop();
                    spins += 1;
                    // The host may have kept this thread from submitting for so long that the queue was parked.
                    if spins.is_multiple_of(SPINS) && self.submitter.needs_kick() {
                        self.harness.wake(&self.submitter);
                    }
                }
            }
        }
        Ok(start.elapsed().as_nanos() as f64 / count as f64)
    }

    /// A window of the engine's, the worker awake and its caches as they are after the same; and whether the host left
    /// the worker alone in it.
    fn engine(
        &mut self,
        descriptors: &[Descriptor],
        count: u64,
        depth: u64,
    ) -> Result<(f64, bool)> {
        self.run(&descriptors[0])?;
        std::thread::sleep(REST);
        if count > 1 {
            // One that fills a window by itself leaves nothing in the caches that it would find.
            self.window(descriptors, count.div_ceil(4), depth)?;
        }
        let before = self.harness.worker_load()?;
        let ns = self.window(descriptors, count, depth)?;
        let after = self.harness.worker_load()?;
        Ok((ns, is_quiet(&before, &after, ns * count as f64, count)))
    }

    /// Waits until the worker has left its core.
    pub(super) fn asleep(&self) {
        while !self.submitter.needs_kick() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Measures a case for some rounds more.
    ///
    /// # Errors
    /// When an operation fails, or the worker cannot be observed.
    pub(super) fn take(&mut self, mut case: Case, measured: &mut Measured) -> Result<()> {
        let one = [case.descriptor];
        self.run(&one[0])?;
        let alone = self.window(&one, 1, 1)?;
        let count = ((WINDOW.as_nanos() as f64 / alone) as u64).clamp(1, OPERATIONS_MAX);
        let depth = DEPTH.min(count);
        let rounds = if alone >= LONG.as_nanos() as f64 {
            self.rounds.div_ceil(4)
        } else {
            self.rounds
        };
        let has_library = case.library.is_some();
        let mut work = || -> Result<(f64, bool)> {
            let Some(library) = &mut case.library else {
                return Ok((0.0, true));
            };
            if count > 1 {
                (0..count.div_ceil(4)).for_each(|_| library());
            }
            let before = ThreadLoad::of_this_thread()?;
            let start = Instant::now();
            for _ in 0..count {
                library();
            }
            let ns = start.elapsed().as_nanos() as f64;
            let after = ThreadLoad::of_this_thread()?;
            Ok((ns / count as f64, is_quiet(&before, &after, ns, count)))
        };
        let core = self.harness.worker_core();
        let before = measured.engine.values().len();
        on_core(core, &mut work, |library_window| {
            for round in 0..ROUNDS_FACTOR * rounds {
                if round >= rounds && measured.disturbed_share() <= DISTURBED_SHARE_MAX {
                    break;
                }
                let (own, is_quiet) = self.engine(&one, count, depth)?;
                measured.engine.count(own, is_quiet);
                if let Some(two) = &case.passes {
                    let (ns, quiet) = self.engine(two, count, depth)?;
                    measured.passes.count(ns, quiet);
                    measured.over_passes.count(ns / own, quiet && is_quiet);
                }
                if has_library {
                    self.asleep();
                    let (ns, quiet) = library_window()??;
                    measured.library.count(ns, quiet);
                    measured.over_library.count(ns / own, quiet && is_quiet);
                }
            }
            Ok(())
        })?;
        measured.depth = depth;
        measured.samples += (measured.engine.values().len() - before) as u64 * count;
        Ok(())
    }
}

/// Whether the host left a thread alone in a window of `count` operations and `ns` nanoseconds, between two readings of its load.
fn is_quiet(before: &ThreadLoad, after: &ThreadLoad, ns: f64, count: u64) -> bool {
    let taken_max = (ns as u64) / TAKEN_SHARE;
    match count {
        1 => after.has_run_since(before, taken_max),
        _ => after.quiet_since(before, taken_max),
    }
}
