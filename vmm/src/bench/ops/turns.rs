//! [`Turns`]: the engine, its library, the engine, its library, each for some milliseconds.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use byway_engine::testing::Submitter;
use byway_protocols::{Completion, Descriptor, Status};

use super::cases::{Case, Guests};
use crate::bench::mechanisms::Harness;
use crate::bench::quiet::{RUN_DELAY_NS_MAX, Watch};
use crate::bench::sizes::on_core;

/// An idle queue is parked after so many microseconds, and its worker leaves the core to the library.
const PARK_US: u32 = 1000;
/// Length of a window, if an operation is shorter.
const WINDOW: Duration = Duration::from_millis(4);
/// Rest of a worker that was woken, before it is measured.
const REST: Duration = Duration::from_micros(300);
/// Most operations in a window.
const OPERATIONS_MAX: u64 = 4000;
/// One of so many parts of a window may be lost to the host.
const TAKEN_SHARE: u64 = 100;
/// Looks for a completion between two looks whether a kick is asked for.
const SPINS: u32 = 4096;
/// Operations in flight. What is measured is the worker, so it always finds the next.
const DEPTH: u64 = 4;

/// What came of a case.
#[derive(Debug)]
pub(super) struct Measured {
    /// Nanoseconds of one operation in the engine.
    pub(super) engine: Watch,
    /// The same of the library, if there is one: the median.
    pub(super) library_ns: Option<f64>,
    /// The same of the passes that a fused operation replaces.
    pub(super) passes_ns: Option<f64>,
    /// Whether there were enough windows in which the host left the worker alone.
    pub(super) stands: bool,
    /// Operations in flight.
    pub(super) depth: u64,
    /// Operations that were measured.
    pub(super) samples: u64,
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
            rounds: if quick { 7 } else { 11 },
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
        let ok = completion.status().is_some_and(Status::is_success);
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
                    let ok = completion.status().is_some_and(Status::is_success);
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
        self.window(descriptors, count.div_ceil(4), depth)?;
        let before = self.harness.worker_load()?;
        let ns = self.window(descriptors, count, depth)?;
        let after = self.harness.worker_load()?;
        // Windows differ in length: what counts is the share of one that the host took.
        let allowed = RUN_DELAY_NS_MAX.max((ns * count as f64) as u64 / TAKEN_SHARE);
        let quiet = after.run_delay_ns - before.run_delay_ns <= allowed;
        Ok((ns, quiet && after.faults == before.faults))
    }

    /// Waits until the worker has left its core.
    pub(super) fn asleep(&self) {
        while !self.submitter.needs_kick() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Measures a case.
    ///
    /// # Errors
    /// When an operation fails, or the worker cannot be observed.
    pub(super) fn take(&mut self, mut case: Case) -> Result<Measured> {
        let one = [case.descriptor];
        self.run(&one[0])?;
        let alone = self.window(&one, 1, 1)?;
        let count = ((WINDOW.as_nanos() as f64 / alone) as u64).clamp(1, OPERATIONS_MAX);
        let depth = DEPTH.min(count);
        let mut measured = Measured {
            engine: Watch::default(),
            library_ns: None,
            passes_ns: None,
            stands: false,
            depth,
            samples: u64::from(self.rounds) * count,
        };
        let (mut library, mut passes) = (Watch::default(), Watch::default());
        let has_library = case.library.is_some();
        let mut work = || {
            let Some(library) = &mut case.library else {
                return 0.0;
            };
            for _ in 0..count.div_ceil(4) {
                library();
            }
            let start = Instant::now();
            for _ in 0..count {
                library();
            }
            start.elapsed().as_nanos() as f64 / count as f64
        };
        let core = self.harness.worker_core();
        on_core(core, &mut work, |library_window| {
            // Disturbed ones are made up for, until there are as many again.
            for round in 0..2 * self.rounds {
                if round >= self.rounds && measured.engine.values().len() >= self.rounds as usize {
                    break;
                }
                let (ns, quiet) = self.engine(&one, count, depth)?;
                measured.engine.count(ns, quiet);
                if let Some(two) = &case.passes {
                    let (ns, quiet) = self.engine(two, count, depth)?;
                    passes.count(ns, quiet);
                }
                if has_library {
                    self.asleep();
                    library.count(library_window()?, true);
                }
            }
            Ok(())
        })?;
        measured.library_ns = library.median();
        measured.passes_ns = passes.median();
        measured.stands = measured.engine.values().len() >= self.rounds as usize;
        Ok(measured)
    }
}
