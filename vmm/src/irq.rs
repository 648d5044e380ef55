//! Interrupt lines: an eventfd that KVM turns into an interrupt by itself.
//!
//! All lines are edge-triggered, active high: a write to the eventfd is one edge and
//! nothing has to be lowered afterwards, so a thread that never enters the VMM
//! (an engine worker) can raise an interrupt with one `write`.

use std::io;

use kvm_ioctls::VmFd;
use vm_superio::Trigger;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What can go wrong with an interrupt line.
#[derive(Debug, thiserror::Error)]
pub enum IrqError {
    /// No eventfd to be had.
    #[error("cannot create an eventfd for interrupt {gsi}")]
    EventFd {
        /// The line.
        gsi: u32,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// KVM refused the line.
    #[error("KVM refused an irqfd for interrupt {gsi}")]
    Register {
        /// The line.
        gsi: u32,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// One interrupt line of a VM.
#[derive(Debug)]
pub struct IrqLine {
    event: EventFd,
    gsi: u32,
}

impl IrqLine {
    /// Connects a new line to `gsi` of the in-kernel interrupt controllers.
    ///
    /// # Errors
    /// When the host has no eventfd left or KVM refuses the line.
    pub fn new(vm: &VmFd, gsi: u32) -> Result<Self, IrqError> {
        let event =
            EventFd::new(EFD_NONBLOCK).map_err(|source| IrqError::EventFd { gsi, source })?;
        vm.register_irqfd(&event, gsi)
            .map_err(|source| IrqError::Register { gsi, source })?;
        Ok(Self { event, gsi })
    }

    /// Number of the line.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// Another descriptor of the same eventfd, for whoever raises the line.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone_event(&self) -> io::Result<EventFd> {
        self.event.try_clone()
    }
}

impl Trigger for IrqLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.event.write(1)
    }
}
