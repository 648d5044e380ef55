//! One VM as the event loop has it: what it is built from, its present life, and what is known of its engine.

use std::time::{Duration, Instant};

use byway_engine::interface::Admin;
use vmm_sys_util::eventfd::EventFd;

use super::launch::Plan;
use crate::control::{ControlError, VmState};
use crate::exit_status::Failure;
use crate::jail;
use crate::say::say;
use crate::vm::Vm;

/// First and longest time between two attempts to attach to an engine that is gone.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// When to try again to attach a VM.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    then: Duration,
}

/// See the module's description.
pub(super) struct Slot {
    plan: Plan,
    /// `None` when it could not be built anew.
    pub vm: Option<Vm>,
    /// Kept, so that what is waited for stays open.
    pub lost: Option<EventFd>,
    /// While its engine is gone.
    retry: Option<Retry>,
    /// It has ended, the loop has seen to that, and it is not started anew of itself.
    pub is_over: bool,
    /// Whether it ended as somebody wanted it to.
    clean: bool,
}

impl Slot {
    pub(super) fn new(plan: Plan, vm: Vm) -> Self {
        Self {
            plan,
            lost: vm.engine_lost(),
            vm: Some(vm),
            retry: None,
            is_over: false,
            clean: true,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.plan.name()
    }

    /// Whether there is a VM and it has not ended.
    pub(super) fn is_live(&self) -> bool {
        self.vm.as_ref().is_some_and(|vm| vm.outcome().is_none())
    }

    /// Stops the VM; returns whether all its lives have ended as they should.
    pub(super) fn stop(&mut self) -> bool {
        if let Some(vm) = &mut self.vm {
            self.clean &= vm.stop().is_clean();
        }
        self.clean
    }

    /// Builds and starts the VM anew. Nobody may wait for its descriptors any more.
    ///
    /// # Errors
    /// What kept it from starting; then there is no VM.
    pub(super) fn restart(&mut self, engine: &dyn Admin) -> Result<(), Failure> {
        self.retry = None;
        self.lost = None;
        // Detaches its domain.
        self.vm = None;
        match self.plan.restart(engine) {
            Ok(vm) => {
                self.lost = vm.engine_lost();
                self.vm = Some(vm);
                Ok(())
            }
            Err(failure) => {
                self.clean = false;
                Err(failure)
            }
        }
    }

    /// Starts the VM if it was not started yet or is over.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub(super) fn start(&mut self, engine: &dyn Admin) -> Result<(), ControlError> {
        let failed = |failure: Failure| ControlError::Start(failure.to_string());
        if self.is_over {
            self.restart(engine).map_err(failed)?;
            self.is_over = false;
            return Ok(());
        }
        let gone = || ControlError::Gone(self.plan.name().to_owned());
        let vm = self.vm.as_mut().ok_or_else(gone)?;
        match vm.state() {
            VmState::Built => Ok(vm.start()?),
            state => Err(ControlError::State {
                name: vm.name().to_owned(),
                verb: "start",
                state,
            }),
        }
    }

    /// Its engine may be gone: tells the guest and begins to look for it.
    pub(super) fn engine_lost(&mut self) {
        let Some(vm) = &self.vm else { return };
        // An event of before may come after it has been seen to.
        if self.retry.is_some() || vm.outcome().is_some() || !vm.engine_is_lost() {
            return;
        }
        vm.report_lost_engine();
        if jail::is_entered() {
            // Nothing can be connected to from in there.
            say(format_args!(
                "{} has lost its engine; it attaches again when it is rebooted",
                vm.name()
            ));
            return;
        }
        say(format_args!(
            "{} has lost its engine; its device needs a reset, and attaching is tried again",
            vm.name()
        ));
        self.retry = Some(Retry {
            at: Instant::now() + RETRY_MIN,
            then: RETRY_MIN,
        });
    }

    /// When it is to be attached again, if at all.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retry.map(|retry| retry.at)
    }

    /// Tries to attach it again, if it is time.
    pub(super) fn attach_again(&mut self) {
        let now = Instant::now();
        let Some(retry) = self.retry.filter(|retry| retry.at <= now) else {
            return;
        };
        let live = self.vm.as_ref().filter(|vm| vm.outcome().is_none());
        let Some(vm) = live else {
            self.retry = None;
            return;
        };
        match vm.reattach() {
            Ok(()) => {
                say(format_args!("{} is attached again", vm.name()));
                self.retry = None;
            }
            Err(error) => {
                tracing::info!("{}: {error}", vm.name());
                let then = RETRY_MAX.min(2 * retry.then);
                self.retry = Some(Retry {
                    at: now + then,
                    then,
                });
            }
        }
    }
}
