//! The witness: what KVM and the VMM counted while transfers were timed, and whether they
//! can be believed.

mod proof;

use std::time::Instant;

use anyhow::{Result, ensure};
use byway_agent::Process;
use byway_agent::commands::{ExitOnPurpose, MmioOnPurpose};

use super::report::ExitReport;
use crate::exits::ExitSnapshot;
use crate::host::KvmKind;
use crate::steer::{Guest, Stage};
use proof::Proof;

/// Longest spin that one command asks for in nanoseconds, well within a guest's time to answer.
const SPIN_NS_MAX: u64 = 2_000_000_000;

/// Adds up the exits of every timed window.
#[derive(Debug)]
pub struct Witness {
    proof: Proof,
    /// Exits in windows, of both VMs.
    counted: ExitSnapshot,
    /// Time in windows, for the idle spin that they are compared with.
    window_ns: u64,
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
        })
    }

    /// Runs `timed` and counts both VMs' exits around it. Bob must be asleep for as long.
    ///
    /// # Errors
    /// What `timed` returns, and when bob was awake.
    pub fn window<T>(
        &mut self,
        stage: &Stage,
        timed: impl FnOnce(&Stage) -> Result<T>,
    ) -> Result<T> {
        // A parked queue would be kicked, which is an exit; that is counted as a wake-up, outside the polled figures.
        stage.wake_queue()?;
        stage.alice.settle()?;
        ensure!(
            stage.bob.is_asleep(),
            "bob's vCPU is not in hlt, so the window would measure it too"
        );
        let before = (stage.alice.exits()?, stage.bob.exits()?);
        let started = Instant::now();
        let result = timed(stage)?;
        self.window_ns += u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let after = (stage.alice.exits()?, stage.bob.exits()?);
        ensure!(
            stage.bob.is_asleep(),
            "bob's vCPU woke up during the window"
        );
        for delta in [after.0.delta(&before.0), after.1.delta(&before.1)] {
            self.counted = self.counted.plus(&delta);
        }
        Ok(result)
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
        Ok(self.proof.report(&self.counted, idle))
    }
}

/// Exits of one guest while `action` ran.
fn counted(guest: &Guest, action: impl FnOnce(&Guest) -> Result<()>) -> Result<ExitSnapshot> {
    guest.settle()?;
    let before = guest.exits()?;
    action(guest)?;
    Ok(guest.exits()?.delta(&before))
}
