//! [`Handle`]: the VMM's side of a device, and the verbs behind it.

use std::sync::Arc;

use byway_protocols::config::{CONTROL_QUEUE, MAGIC, QUEUE_COUNT};
use byway_protocols::{ABI_VERSION, ConfigSpace};

use super::vring::{Running, SIZE_MAX};
use super::{Device, Source, State};
use crate::interface::{DirtyBitmap, Domain, DomainError, MemoryRegion, Vring};

/// VIRTIO_F_VERSION_1: the device is one of virtio 1.x.
const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// All that is offered.
const FEATURES: u64 = VIRTIO_F_VERSION_1;

/// A VMM's hold on its domain; dropping it detaches.
///
/// Keeps what serves the device, `K`, alive.
#[derive(Debug)]
pub struct Handle<K> {
    device: Arc<Device>,
    _keep: K,
}

impl<K> Handle<K> {
    /// A handle on a device whose domain the caller has claimed
    /// ([`crate::domain::Domain::claim`]).
    #[must_use]
    pub fn new(device: Arc<Device>, keep: K) -> Self {
        Self {
            device,
            _keep: keep,
        }
    }
}

impl<K> Drop for Handle<K> {
    fn drop(&mut self) {
        self.device.detach(false);
        self.device.domain.unclaim();
    }
}

impl<K: Send> Domain for Handle<K> {
    fn features(&self) -> u64 {
        FEATURES
    }
    fn set_features(&mut self, features: u64) -> Result<(), DomainError> {
        if features & !FEATURES != 0 {
            return Err(DomainError::BadArgument(format!(
                "features {features:#x}: only {FEATURES:#x} were offered"
            )));
        }
        self.device.with_state(|state| state.features = features);
        Ok(())
    }
    fn queue_count(&self) -> usize {
        usize::from(QUEUE_COUNT)
    }
    fn queue_max_size(&self) -> u16 {
        SIZE_MAX
    }
    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let space = ConfigSpace {
            magic: MAGIC,
            version: ABI_VERSION,
        };
        let bytes = space.to_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            let at = (offset as usize).checked_add(i);
            *byte = at.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        }
    }
    fn add_region(&mut self, region: MemoryRegion) -> Result<(), DomainError> {
        self.device.add_region(region)
    }
    fn remove_region(&mut self, guest_addr: u64, size: u64) -> Result<(), DomainError> {
        self.device
            .with_state(|state| self.device.take_region(state, guest_addr, size))
    }
    fn protect_region(
        &mut self,
        guest_addr: u64,
        size: u64,
        writable: bool,
    ) -> Result<(), DomainError> {
        self.device
            .with_state(|state| self.device.protect(state, guest_addr, size, writable))
    }
    fn discard(&mut self, guest_addr: u64, size: u64) -> Result<(), DomainError> {
        self.device
            .with_state(|state| self.device.discard(state, guest_addr, size))
    }
    fn restore(&mut self, guest_addr: u64, size: u64) -> Result<(), DomainError> {
        self.device
            .with_state(|_| self.device.restore(guest_addr, size))
    }
    fn set_dirty_log(&mut self, on: bool) {
        self.device.with_state(|_| self.device.set_dirty_log(on));
    }
    fn harvest_dirty(&mut self, guest_addr: u64, size: u64) -> Result<DirtyBitmap, DomainError> {
        self.device
            .with_state(|_| self.device.harvest_dirty(guest_addr, size))
    }
    fn start_vring(&mut self, index: usize, vring: Vring) -> Result<(), DomainError> {
        self.device
            .with_state(|state| self.device.start_vring(state, index, vring))
    }
    fn stop_vring(&mut self, index: usize) -> Result<u16, DomainError> {
        self.device
            .with_state(|state| self.device.stop_vring(state, index))
    }
    fn reset(&mut self) {
        self.device.with_state(|state| self.device.reset(state));
    }
    fn pause(&mut self) {
        self.device.with_state(|state| {
            state.paused = true;
            self.device.settle(state);
        });
    }
    fn resume(&mut self) {
        self.device.with_state(|state| {
            state.paused = false;
            self.device.settle(state);
        });
        // Whatever came meanwhile was left lying.
        self.device.domain.events().poke();
    }
}

impl Device {
    fn start_vring(
        &self,
        state: &mut State,
        index: usize,
        vring: Vring,
    ) -> Result<(), DomainError> {
        if state.removed {
            return Err(removed());
        }
        let slot = vring_slot(state, index)?;
        if state.vrings[slot].is_some() {
            return Err(DomainError::BadArgument(format!(
                "virtqueue {index} runs already: stop it first"
            )));
        }
        let running = Running::new(vring, &state.ram)?;
        self.poller
            .add(running.kick(), self.kick_source(slot))
            .map_err(|source| DomainError::Host {
                what: format!("cannot wait for virtqueue {index}'s kicks"),
                source,
            })?;
        state.vrings[slot] = Some(running);
        state.stopped &= slot != usize::from(CONTROL_QUEUE);
        self.settle(state);
        // Requests and events may have been waiting for it.
        self.domain.events().poke();
        Ok(())
    }

    fn stop_vring(&self, state: &mut State, index: usize) -> Result<u16, DomainError> {
        let slot = vring_slot(state, index)?;
        if slot == usize::from(CONTROL_QUEUE) {
            self.finish_request(state);
        }
        let base = self.drop_vring(state, slot);
        // A domain whose driver cannot speak is stopped as a whole (GET_VRING_BASE).
        state.stopped |= slot == usize::from(CONTROL_QUEUE);
        self.settle(state);
        Ok(base)
    }

    fn drop_vring(&self, state: &mut State, slot: usize) -> u16 {
        let Some(running) = state.vrings[slot].take() else {
            return 0;
        };
        self.poller.remove(running.kick());
        running.base()
    }

    pub(super) fn reset(&self, state: &mut State) {
        for slot in 0..state.vrings.len() {
            self.drop_vring(state, slot);
        }
        state.pending = None;
        state.unfinished = None;
        // Its driver does not wait any longer; whoever resets it does.
        state.held = None;
        state.sequence = 0;
        state.features = 0;
        if state.stopped {
            // For the guest the reset was complete when its virtqueues had stopped (SPEC section 9).
            self.domain.abandon_queues();
        }
        self.domain.reset();
        self.domain.wait_for_devices();
        state.stopped = false;
        self.settle(state);
    }

    /// Tells the workers whether the domain is to be served, and its memory reached by peers:
    /// it is unless the VMM has paused it or stopped its control virtqueue. When it returns,
    /// what is forbidden has ended.
    pub(super) fn settle(&self, state: &mut State) {
        let quiet = state.paused || state.stopped;
        if quiet == state.quiet {
            return;
        }
        state.quiet = quiet;
        let (core, memory) = (self.domain.core(), self.domain.memory());
        if quiet {
            core.workers().pause_domain(self.domain.id());
            // Peers with a capability over its memory are other domains' queues.
            memory.stage2().close();
            core.epochs().synchronize();
            self.domain.outlast_all();
            self.domain.wait_for_devices();
        } else {
            memory.stage2().open();
            core.workers().resume_domain(self.domain.id());
        }
    }

    fn kick_source(&self, slot: usize) -> Source {
        if slot == usize::from(CONTROL_QUEUE) {
            Source::ControlKick(self.domain.id())
        } else {
            Source::EventKick(self.domain.id())
        }
    }
}

/// The index, if the device has such a virtqueue.
fn vring_slot(state: &State, index: usize) -> Result<usize, DomainError> {
    let count = state.vrings.len();
    (index < count)
        .then_some(index)
        .ok_or(DomainError::NoSuchQueue(index, count))
}

/// Why nothing is added any more.
pub(super) fn removed() -> DomainError {
    DomainError::BadArgument("the operator has removed this domain".to_owned())
}
