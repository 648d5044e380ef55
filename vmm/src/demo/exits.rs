//! The witness: what KVM and the VMM counted while transfers were timed, and whether they
//! can be believed.

mod proof;

use std::time::Instant;

use anyhow::Result;
use byway_agent::Process;
use byway_agent::commands::{ExitOnPurpose, MmioOnPurpose};

use super::report::ExitReport;
use crate::exits::ExitSnapshot;
use crate::host::KvmKind;
use crate::steer::{Guest, RunDone, Stage};
use proof::Proof;

/// Longest spin that one command asks for in nanoseconds, well within a guest's time to answer.
const SPIN_NS_MAX: u64 = 2_000_000_000;

/// How often a window is made until nothing else has come into it. What always does is an exit of the transfers, and counts.
const ATTEMPTS: u64 = 10;

/// Adds up the exits of every timed window.
#[derive(Debug)]
pub struct Witness {
    proof: Proof,
    /// Exits in windows, of both VMs.
    counted: ExitSnapshot,
    /// Time in windows, for the idle spin that they are compared with.
    window_ns: u64,
    /// Windows that were made again.
    repeated: u64,
}

impl Witness {
    /// A witness that has been seen to count: alice leaves the VM on purpose, by a port and by MMIO, and
    /// each must show.
    ///
    /// # Errors
    /// When alice does not answer. A witness that sees nothing is no error here: the report says
    /// "not measured".
    pub fn proven(stage: &Stage) -> Result<Self> {
        let port = counted(&stage.alice, |guest| {
            guest.call(
                Process::App,
                ExitOnPurpose {
                    count: proof::ON_PURPOSE,
                },
            )?;
            Ok(())
        })?;
        let mmio = counted(&stage.alice, |guest| {
            guest.call(
                Process::App,
                MmioOnPurpose {
                    count: proof::ON_PURPOSE,
                },
            )?;
            Ok(())
        })?;
        let bob = stage.bob.exits()?;
        Ok(Self {
            proof: Proof::of(KvmKind::of_host(), &port, &mmio, &bob.missing),
            counted: ExitSnapshot::default(),
            window_ns: 0,
            repeated: 0,
        })
    }

    /// Has `timed` make a run of alice's and counts both VMs' exits around it. Bob must be asleep for as long.
    ///
    /// Made again when something else was counted than what polled transfers cause: the doorbell for a queue that had
    /// parked, as it does when the host keeps a VM from its core for longer than an idle queue is polled, and an
    /// interrupt, which the host may bring long after what it tells of.
    ///
    /// # Errors
    /// What `timed` returns, and when bob was awake.
    pub fn window(
        &mut self,
        stage: &Stage,
        mut timed: impl FnMut(&Stage) -> Result<RunDone>,
    ) -> Result<RunDone> {
        let (alice, bob) = (&stage.alice, &stage.bob);
        let mut again = 1..ATTEMPTS;
        loop {
            // A parked queue would be kicked; that is counted as a wake-up, outside the polled figures.
            stage.wake_queue()?;
            alice.settle()?;
            // Else the window would measure bob's vCPU too.
            bob.until_asleep()?;
            let interrupts = (alice.interrupts(), bob.interrupts());
            let before = (alice.exits()?, bob.exits()?);
            let started = Instant::now();
            let done = timed(stage)?;
            let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let after = (alice.exits()?, bob.exits()?);
            // Whose exits were counted is known when it is over.
            alice.settle()?;
            bob.until_asleep()?;
            let is_disturbed =
                done.kicks > 0 || interrupts != (alice.interrupts(), bob.interrupts());
            if is_disturbed && again.next().is_some() {
                self.repeated += 1;
                continue;
            }
            self.window_ns += ns;
            for delta in [after.0.delta(&before.0), after.1.delta(&before.1)] {
                self.counted = self.counted.plus(&delta);
            }
            return Ok(done);
        }
    }

    /// Lets alice spin for as long as all windows took, so that exits which come with time alone are known, and
    /// closes the account.
    ///
    /// # Errors
    /// When alice does not answer.
    pub fn close(self, stage: &Stage) -> Result<ExitReport> {
        let mut idle = 0;
        let mut left_ns = self.window_ns;
        while left_ns > 0 {
            let spin_ns = left_ns.min(SPIN_NS_MAX);
            idle += counted(&stage.alice, |guest| guest.spin(spin_ns))?.other();
            left_ns -= spin_ns;
        }
        Ok(ExitReport {
            windows_repeated: self.repeated,
            ..self.proof.report(&self.counted, idle)
        })
    }
}

/// Exits of one guest while `action` ran.
fn counted(guest: &Guest, action: impl FnOnce(&Guest) -> Result<()>) -> Result<ExitSnapshot> {
    guest.settle()?;
    let before = guest.exits()?;
    action(guest)?;
    Ok(guest.exits()?.delta(&before))
}
