//! [`Core`]: what all domains of one engine share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use byway_protocols::event::EventKind;
use byway_protocols::{ControlStatus, Event};

use super::{DeviceWaits, Exchange, Latencies, PageRequests, Peers};
use crate::capability::{Grave, Holder};
use crate::epoch::Epochs;
use crate::iotlb::Invalidations;
use crate::worker::Workers;

/// Limits that hold for every domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreLimits {
    /// Most slots of a context, slot 0 included.
    pub slots_max: u32,
    /// How long a queue is polled without finding work, in microseconds.
    pub park_us: u32,
    /// How long a guest kernel has to answer a page request.
    pub page_response: Duration,
    /// Bit n of byte n/8: opcode n is supported.
    pub opcodes: [u8; 32],
}

/// The shared part of an engine, below its threads.
#[derive(Debug)]
pub struct Core {
    epochs: Arc<Epochs>,
    invalidations: Arc<Invalidations>,
    workers: Workers,
    limits: CoreLimits,
    peers: Peers,
    exchange: Exchange,
    revokes: Latencies,
    device_waits: DeviceWaits,
    pages: PageRequests,
    graves: Mutex<VecDeque<Buried>>,
    next_domain: AtomicU32,
    next_offer: AtomicU64,
    /// What workers call queues by.
    queue_keys: Mutex<Keys>,
    next_instance: AtomicU32,
}

/// A grave, and the holder who knows already.
#[derive(Debug)]
struct Buried {
    grave: Grave,
    knows: Option<Holder>,
}

/// Dead capabilities that are cleared away in one go, with the tree locked.
const REAP_SLICE: usize = 256;

impl Core {
    /// A core without domains. `instance` should differ from that of an engine that ran
    /// before.
    #[must_use]
    pub fn new(
        epochs: Arc<Epochs>,
        invalidations: Arc<Invalidations>,
        workers: Workers,
        limits: CoreLimits,
        instance: u32,
    ) -> Self {
        Self {
            epochs,
            invalidations,
            workers,
            pages: PageRequests::new(limits.page_response),
            limits,
            peers: Peers::default(),
            exchange: Exchange::default(),
            revokes: Latencies::default(),
            device_waits: DeviceWaits::default(),
            graves: Mutex::default(),
            next_domain: AtomicU32::new(1),
            next_offer: AtomicU64::new(1),
            queue_keys: Mutex::default(),
            next_instance: AtomicU32::new(instance),
        }
    }

    /// Grace periods.
    #[must_use]
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }
    /// Range invalidations.
    #[must_use]
    pub fn invalidations(&self) -> &Invalidations {
        &self.invalidations
    }
    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.workers
    }
    /// How many workers poll.
    #[must_use]
    pub fn worker_count(&self) -> u32 {
        self.epochs.workers() as u32
    }
    /// Limits for every domain.
    #[must_use]
    pub fn limits(&self) -> &CoreLimits {
        &self.limits
    }
    /// Domains and links.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }
    /// Offers that wait.
    #[must_use]
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }
    /// Page requests that wait for an answer.
    #[must_use]
    pub fn pages(&self) -> &PageRequests {
        &self.pages
    }
    /// How long ends of rights have waited for devices that were in pinned memory, where they had to.
    #[must_use]
    pub fn device_waits(&self) -> &DeviceWaits {
        &self.device_waits
    }
    /// How long revocations took.
    #[must_use]
    pub fn revokes(&self) -> &Latencies {
        &self.revokes
    }

    /// A number for a new domain.
    ///
    /// # Errors
    /// [`ControlStatus::HostFailure`] when all were used: none is used twice.
    pub fn next_domain(&self) -> Result<u32, ControlStatus> {
        next_number(&self.next_domain)
    }
    /// A key for a new queue among those that live.
    pub(super) fn take_queue_key(&self) -> u32 {
        self.queue_keys().take()
    }
    /// The workers have forgotten the queue that had this key.
    pub(super) fn return_queue_key(&self, key: u32) {
        self.queue_keys().put_back(key);
    }
    pub(super) fn next_offer(&self) -> u64 {
        self.next_offer.fetch_add(1, Ordering::Relaxed)
    }
    /// An instance number, never 0.
    pub(super) fn next_instance(&self) -> u32 {
        match self.next_instance.fetch_add(1, Ordering::Relaxed) {
            0 => self.next_instance.fetch_add(1, Ordering::Relaxed),
            n => n,
        }
    }

    /// Leaves a grave to [`Self::reap`]. `knows` need not be told of it.
    pub(super) fn bury(&self, grave: Grave, knows: Option<Holder>) {
        self.graves().push_back(Buried { grave, knows });
    }
    /// Clears away some of what was revoked and tells its holders; true when nothing
    /// is left. For the control thread, between requests.
    pub fn reap(&self) -> bool {
        let Some(mut buried) = self.graves().pop_front() else {
            return true;
        };
        if self.reap_slice(&mut buried) {
            return self.graves().is_empty();
        }
        self.graves().push_front(buried);
        false
    }
    /// Clears all of a grave away now.
    pub(super) fn reap_all(&self, grave: Grave) {
        let mut buried = Buried { grave, knows: None };
        while !self.reap_slice(&mut buried) {}
    }

    fn reap_slice(&self, buried: &mut Buried) -> bool {
        let knows = buried.knows;
        buried.grave.reap(REAP_SLICE, |holder| {
            if Some(holder) != knows {
                self.tell_revoked(holder);
            }
        })
    }

    fn tell_revoked(&self, holder: Holder) {
        match holder {
            Holder::Offer(id) => drop(self.exchange.withdraw(id)),
            Holder::Slot {
                domain,
                context,
                slot,
            } => {
                if let Some(domain) = self.peers.get(domain) {
                    domain.events().push(Event {
                        kind: EventKind::CapabilityRevoked as u16,
                        context,
                        id: u64::from(slot),
                        ..Event::default()
                    });
                }
            }
            Holder::Nobody | Holder::Root => {}
        }
    }

    fn queue_keys(&self) -> MutexGuard<'_, Keys> {
        // Each change is one push, pop or increment.
        self.queue_keys.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn graves(&self) -> MutexGuard<'_, VecDeque<Buried>> {
        // Each change is one push or pop.
        self.graves.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Small numbers that are unique among those in use. Domains number their queues
/// themselves, so that none can use up another's numbers; these tell the workers' queues
/// apart, of all domains.
#[derive(Debug, Default)]
struct Keys {
    free: Vec<u32>,
    /// Keys ever made; quotas keep it far below its end.
    made: u32,
}

impl Keys {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.made += 1;
            self.made
        })
    }
    fn put_back(&mut self, key: u32) {
        self.free.push(key);
    }
}

/// The next number, or a failure once they have run out: a number that came back could
/// be taken for the object that had it before.
pub(super) fn next_number(counter: &AtomicU32) -> Result<u32, ControlStatus> {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1))
        .map_err(|_| ControlStatus::HostFailure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_use_differ() {
        let mut keys = Keys::default();
        let (a, b) = (keys.take(), keys.take());
        assert_ne!(a, b);
        keys.put_back(a);
        assert_eq!(keys.take(), a);
        assert_ne!(keys.take(), b);
    }

    #[test]
    fn numbers_run_out_instead_of_coming_back() {
        let counter = AtomicU32::new(u32::MAX - 1);
        assert_eq!(next_number(&counter), Ok(u32::MAX - 1));
        assert_eq!(next_number(&counter), Err(ControlStatus::HostFailure));
        assert_eq!(next_number(&counter), Err(ControlStatus::HostFailure));
    }
}
