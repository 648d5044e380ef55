//! What devices still reach of memory when a right to it has ended (SPEC section 7.10).
//!
//! An operation that ends rights notes here, after its grace period, which requests of devices it has to outlast. It does not
//! wait for them, since the thread may serve others: its caller takes the note and lets the answer wait, or
//! waits itself where the thread is the domain's own or the operator's. Both go on when the devices have answered, or were
//! given up.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Core, Domain};
use crate::capability::Capability;
use crate::endpoint::{Reach, Reached, Reaching};

/// Between two looks at devices, for who waits for them.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// How long ends of rights have waited for devices.
#[derive(Debug, Default)]
pub struct DeviceWaits {
    count: AtomicU64,
    overdue: AtomicU64,
    last_ns: AtomicU64,
    max_ns: AtomicU64,
}

/// What [`DeviceWaits`] amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceWaitSummary {
    /// Ends of rights that had to wait.
    pub count: u64,
    /// Those of them that were answered without the device's answer, since it had been given up.
    pub overdue: u64,
    /// The latest one, in nanoseconds.
    pub last_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
}

impl DeviceWaits {
    /// Adds one.
    pub(crate) fn record(&self, since: Instant, is_overdue: bool) {
        let ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_ns.store(ns, Ordering::Relaxed);
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
        self.overdue.fetch_add(is_overdue.into(), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Release);
    }
    /// What they amount to.
    #[must_use]
    pub fn summary(&self) -> DeviceWaitSummary {
        DeviceWaitSummary {
            count: self.count.load(Ordering::Acquire),
            overdue: self.overdue.load(Ordering::Relaxed),
            last_ns: self.last_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
        }
    }
}

impl Domain {
    /// What devices reach by a capability or anything below it, which has ended.
    pub(super) fn outlast_capability(&self, capability: &Capability) {
        let (base, length) = (capability.base(), capability.length());
        match capability.endpoint() {
            Some(endpoint) => {
                let place = endpoint.place();
                self.outlast(|reach| reach.is_in_blocks(place, base, length));
            }
            None => {
                let space = capability.space().id();
                self.outlast(|reach| reach.is_in_memory(space, base, length));
            }
        }
    }

    /// What devices reach of this domain's memory, or for it.
    pub fn outlast_all(&self) {
        self.outlast(|reach| reach.involves(self.id));
    }

    /// What devices reach of this domain's memory.
    pub fn outlast_memory(&self) {
        self.outlast(|reach| reach.owner == self.id);
    }

    fn outlast(&self, is_wanted: impl Fn(&Reach) -> bool) {
        let endpoints = self.core.workers().endpoints();
        if endpoints.reach_memory() {
            let reaching = endpoints.reaching(is_wanted);
            // Each change adds whole entries.
            let mut noted = self.reaching.lock().unwrap_or_else(PoisonError::into_inner);
            noted.merge(reaching);
        }
    }

    /// What is to be outlasted since this was called last.
    #[must_use]
    pub fn take_reaching(&self) -> Reaching {
        let mut noted = self.reaching.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut noted)
    }

    /// Waits for what is to be outlasted, for as long as devices are given. For threads that serve nobody else: neither a
    /// worker's nor the control thread, which looks after devices.
    pub fn wait_for_devices(&self) {
        self.core.wait_for(self.take_reaching(), self.name());
    }
}

impl Core {
    /// Waits for devices; see [`Domain::wait_for_devices`].
    pub(super) fn wait_for(&self, mut reaching: Reaching, who: &str) {
        if reaching.is_empty() {
            return;
        }
        let started = Instant::now();
        let is_overdue = loop {
            match reaching.look() {
                Reached::Nothing => break false,
                Reached::Something => std::thread::sleep(LOOK_EVERY),
                Reached::Overdue => break true,
            }
        };
        if is_overdue {
            tracing::error!(
                domain = who,
                "a device has not answered in its time and may still reach pinned memory, \
                 which stays mapped"
            );
        }
        self.device_waits().record(started, is_overdue);
    }
}
