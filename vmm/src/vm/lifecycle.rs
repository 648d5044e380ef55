//! What a running VM can be told: to stand still and go on, to start anew, that its power button
//! was pressed, to end.
//!
//! The order of a pause is that of ending: first the vCPUs, which give the engine and the devices their work, then these.

use kvm_bindings::kvm_clock_data;

use super::{Vm, VmError};
use crate::control::{ControlError, VmState};
use crate::layout;
use crate::vcpu::Outcome;

impl Vm {
    /// Where it is in its life.
    pub fn state(&self) -> VmState {
        if self.outcome().is_some() {
            VmState::Ended
        } else if self.paused_at.is_some() {
            VmState::Paused
        } else if self.started {
            VmState::Running
        } else {
            VmState::Built
        }
    }

    /// Stops its vCPUs, then the engine's and the devices' work for it. A VM that is paused stays so.
    ///
    /// # Errors
    /// When it does not run, or KVM does not tell its clock; it goes on then.
    pub fn pause(&mut self) -> Result<(), ControlError> {
        match self.state() {
            VmState::Paused => return Ok(()),
            VmState::Running => {}
            state => return Err(self.not_while("pause", state)),
        }
        self.context.state.pause();
        match self.vm.get_clock() {
            Ok(clock) => self.paused_at = Some(clock),
            Err(source) => {
                self.context.state.resume();
                return Err(ControlError::Vm(VmError::Kvm {
                    what: "tell its clock",
                    source,
                }));
            }
        }
        self.with_domain(|domain| domain.pause());
        self.devices.set_resting(true);
        Ok(())
    }

    /// Goes on where it was, its kvm-clock as if no time had passed. A VM that runs goes on running.
    ///
    /// # Errors
    /// When it has not been started or has ended.
    pub fn resume(&mut self) -> Result<(), ControlError> {
        match self.state() {
            VmState::Running => return Ok(()),
            VmState::Paused => {}
            state => return Err(self.not_while("resume", state)),
        }
        if let Some(paused_at) = self.paused_at.take() {
            // Without flags: with that of the host's time KVM would add what has passed since.
            let clock = kvm_clock_data {
                clock: paused_at.clock,
                ..Default::default()
            };
            if let Err(error) = self.vm.set_clock(&clock) {
                // Its time jumps, as it does when a laptop wakes up.
                tracing::warn!("{}: KVM does not take its clock back: {error}", self.name());
            }
        }
        self.devices.set_resting(false);
        self.with_domain(|domain| domain.resume());
        self.context.state.resume();
        Ok(())
    }

    /// Ends it so that its owner starts it anew, with nothing asked of the guest.
    ///
    /// # Errors
    /// When it has not been started or has ended.
    pub fn reboot(&self) -> Result<(), ControlError> {
        self.end_as("reboot", Outcome::Reset)
    }

    /// Ends it at once. [`Self::stop`], which waits for it, is left to its owner.
    ///
    /// # Errors
    /// When it has not been started or has ended.
    pub fn pull_plug(&self) -> Result<(), ControlError> {
        self.end_as("stop", Outcome::Stopped)
    }

    /// Presses the power button that ACPI describes: the guest decides what that means.
    ///
    /// # Errors
    /// When it does not run, or KVM refuses the interrupt.
    pub fn power_button(&self) -> Result<(), ControlError> {
        match self.state() {
            VmState::Running => self.pulse(layout::POWER_BUTTON_GSI).map_err(|source| {
                ControlError::Vm(VmError::Host {
                    what: "raise the interrupt of the power button",
                    source,
                })
            }),
            state => Err(self.not_while("press its power button", state)),
        }
    }

    fn end_as(&self, verb: &'static str, outcome: Outcome) -> Result<(), ControlError> {
        match self.state() {
            VmState::Running | VmState::Paused => {
                self.context.state.end(outcome);
                Ok(())
            }
            state => Err(self.not_while(verb, state)),
        }
    }

    fn not_while(&self, verb: &'static str, state: VmState) -> ControlError {
        ControlError::State {
            name: self.name().to_owned(),
            verb,
            state,
        }
    }
}
