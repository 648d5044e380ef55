//! [`Cell`]: a VM, and its process if it has one.
//!
//! What a VM is called, how large it is and which process it has is known here, and never taken from what the process says;
//! whether it lives is known from its process, not from whether that answers.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use byway_engine::daemon::Refusal;

use super::process::Process;
use crate::api::{VmAction, VmInfo, VmReply};
use crate::config::VmEntry;
use crate::control::VmState;
use crate::devices::block::unnamed_overlay;
use crate::devices::settings::{DiskWrites, TapSource};
use crate::vm::VmConfig;

/// A VM and the process that runs it, if one does.
pub(super) struct Cell {
    pub(super) entry: VmEntry,
    /// User and group of its process.
    pub(super) uid: u32,
    overlays: Vec<(usize, File)>,
    life: Mutex<Life>,
}

/// Changed by the loop's thread alone.
#[derive(Debug, Default)]
pub(super) enum Life {
    /// It has not started yet, or is about to start anew.
    #[default]
    Before,
    /// It has a process, whose end the loop has not heard of.
    Lives(Arc<Process>),
    /// Its last process has ended, so.
    Over(String),
}

impl Cell {
    pub(super) fn new(entry: VmEntry, uid: u32) -> io::Result<Self> {
        let disks = entry.vm.devices.disks.iter().enumerate();
        let overlays = disks
            .filter(|(_, disk)| disk.writes == DiskWrites::Overlay)
            .map(|(number, disk)| Ok((number, unnamed_overlay(&disk.path)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            entry,
            uid,
            overlays,
            life: Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.entry.vm.name
    }

    /// Disks, by number, and their overlays, which outlive a process: descriptors of this one.
    pub(super) fn overlays(&self) -> impl Iterator<Item = (usize, RawFd)> {
        let overlays = self.overlays.iter();
        overlays.map(|(disk, file)| (*disk, file.as_raw_fd()))
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        // Each change is one assignment.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process, if it has one.
    pub(super) fn process(&self) -> Option<Arc<Process>> {
        match &*self.life() {
            Life::Lives(process) => Some(Arc::clone(process)),
            Life::Before | Life::Over(_) => None,
        }
    }

    /// Asks its process, for at most so long.
    ///
    /// # Errors
    /// `gone` if nobody answers, else what it refuses with.
    pub(super) fn ask(&self, action: &VmAction, limit: Duration) -> Result<VmReply, Refusal> {
        let process = self.process().ok_or_else(|| self.has_none())?;
        process.ask(action, limit).unwrap_or_else(|error| {
            let ends = matches!(action, VmAction::Reboot { .. });
            if ends && error.kind() == io::ErrorKind::UnexpectedEof {
                // Its process was faster to end than to say that it will.
                return Ok(VmReply::Done);
            }
            Err(self.gone(error))
        })
    }

    /// The refusal where there is no process.
    pub(super) fn has_none(&self) -> Refusal {
        match &*self.life() {
            Life::Over(_) => self.gone("it has ended"),
            // It may have got one meanwhile.
            Life::Before | Life::Lives(_) => self.gone("it has not started yet"),
        }
    }

    fn gone(&self, why: impl Display) -> Refusal {
        let name = self.name();
        Refusal::new("gone", format!("VM {name:?} does not answer: {why}"))
    }

    /// What is known of it: from its process, which is given so long, and else without.
    pub(super) fn info(&self, limit: Duration) -> VmInfo {
        // Before it is asked: of that process, and no later one.
        let known = self.known();
        let Ok(VmReply::Vms { mut vms }) = self.ask(&VmAction::List {}, limit) else {
            return self.known();
        };
        let (Some(told), 0) = (vms.pop(), vms.len()) else {
            return self.known();
        };
        VmInfo {
            state: told.state,
            outcome: told.outcome,
            disks: told.disks,
            nvmes: told.nvmes,
            ..known
        }
    }

    /// As much as is known without asking it.
    pub(super) fn known(&self) -> VmInfo {
        let (state, outcome, pid) = match &*self.life() {
            Life::Before => (VmState::Built, None, 0),
            Life::Lives(process) => (VmState::Silent, None, process.pid()),
            Life::Over(outcome) => (VmState::Ended, Some(outcome.clone()), 0),
        };
        VmInfo {
            name: self.name().to_owned(),
            state,
            outcome,
            cpus: self.entry.vm.cpus.into(),
            memory: self.entry.vm.ram.size,
            disks: Vec::new(),
            nvmes: Vec::new(),
            pid,
        }
    }
}

/// Descriptors that a VM's network interfaces are, which its process has to get from this one.
pub(super) fn descriptors(vm: &VmConfig) -> impl Iterator<Item = RawFd> {
    vm.devices.nets.iter().filter_map(|net| match net.tap {
        TapSource::Fd(fd) => Some(fd),
        TapSource::Name(_) => None,
    })
}
