//! The witness: what KVM and the VMM counted while transfers were timed, and whether they
//! can be believed.

use anyhow::{Result, ensure};
use byway_agent::Process;
use byway_agent::commands::{ExitOnPurpose, MmioOnPurpose};

use super::report::ExitReport;
use crate::exits::ExitSnapshot;
use crate::steer::{Guest, Stage};

/// Adds up the exits of every timed window.
#[derive(Debug, Default)]
pub struct Witness {
    report: ExitReport,
    /// Time in windows, for the idle spin that they are compared with.
    window_ns: u64,
}

impl Witness {
    /// A witness that has been seen to count: alice leaves the VM on purpose, once by a port and once by MMIO, and
    /// both must show.
    ///
    /// # Errors
    /// When alice does not answer. A witness that sees nothing is no error here: the report says
    /// "not measured".
    pub fn proven(stage: &Stage) -> Result<Self> {
        let port = counted(&stage.alice, |guest| {
            guest.call(Process::App, ExitOnPurpose { count: 4 })?;
            Ok(())
        })?;
        let mmio = counted(&stage.alice, |guest| {
            guest.call(Process::App, MmioOnPurpose { count: 4 })?;
            Ok(())
        })?;
        let seen = port.kvm_run_returns >= 4 && mmio.kvm_run_returns >= 4;
        Ok(Self {
            report: ExitReport {
                witness_sees_an_exit: seen && port.exits > port.irq_exits,
                ..ExitReport::default()
            },
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
        let started = std::time::Instant::now();
        let result = timed(stage)?;
        self.window_ns += u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let after = (stage.alice.exits()?, stage.bob.exits()?);
        ensure!(
            stage.bob.is_asleep(),
            "bob's vCPU woke up during the window"
        );
        for delta in [after.0.delta(&before.0), after.1.delta(&before.1)] {
            let report = &mut self.report;
            report.userspace += delta.kvm_run_returns;
            report.emulated += delta.insn_emulation;
            report.mmio += delta.mmio_exits;
            report.io += delta.io_exits;
            report.hypercall += delta.hypercalls;
            report.irq += delta.irq_exits;
            report.total += delta.exits;
        }
        Ok(result)
    }

    /// Lets alice spin for as long as all windows took, so that exits which come with time alone are known, and
    /// closes the account.
    ///
    /// # Errors
    /// When alice does not answer.
    pub fn close(mut self, stage: &Stage) -> Result<ExitReport> {
        // A spin as long as the windows would double the demo's time; the rate of a shorter one is scaled.
        let spin_ns = self.window_ns.min(1_000_000_000);
        let idle = counted(&stage.alice, |guest| guest.spin(spin_ns))?;
        let other = idle.exits.saturating_sub(idle.irq_exits);
        self.report.other_idle_same_time =
            (u128::from(other) * u128::from(self.window_ns) / u128::from(spin_ns.max(1))) as u64;
        Ok(self.report)
    }
}

/// Exits of one guest while `action` ran.
fn counted(guest: &Guest, action: impl FnOnce(&Guest) -> Result<()>) -> Result<ExitSnapshot> {
    guest.settle()?;
    let before = guest.exits()?;
    action(guest)?;
    Ok(guest.exits()?.delta(&before))
}
