//! Domains: one VM each, as the engine knows it.
//!
//! A [`Domain`] owns its RAM, its address spaces, contexts and work queues, the
//! capabilities over its memory and its quotas. Every operation here is what one control
//! request asks for, its message already decoded ([`crate::control`]); each either does
//! all of it or changes nothing and says why. Operations return after the last access
//! that they took the right to away, but for what devices do in pinned memory: that is noted (`devices`), and whoever
//! has called them waits for it before he says that it is done.
//!
//! # Locks
//!
//! All control operations and verbs of one domain are serialised by its device
//! ([`crate::device`]). The locks below that, in the order in which they may be taken:
//!
//! 1. a device's state (one at a time: no operation needs two domains' devices)
//! 2. a domain's tables (one at a time, for the look-up only: never across a wait)
//! 3. leaves, never two at once: peers and links, offers, graves, a capability tree, a
//!    slot table, a domain's memory map, page requests
//!
//! What an operation does to another domain is: to put an event into its lock-free queue,
//! to add or take an offer, or to mark capabilities in some owner's tree. So two domains
//! cannot wait for each other. A grace period is waited for with no lock but the
//! domain's own device: workers take no locks, so it passes.

mod capabilities;
mod contexts;
mod core;
mod devices;
mod endpoints;
mod events;
mod exchange;
mod latency;
mod lifecycle;
mod pages;
mod peers;
mod ports;
mod queues;
mod spaces;

pub use self::core::{Core, CoreLimits};
pub use capabilities::{AcceptedCapability, CapabilityReport, DeriveArguments};
pub use devices::{DeviceWaitSummary, DeviceWaits};
pub use events::Events;
pub use exchange::Exchange;
pub(crate) use latency::Stopwatch;
pub use latency::{Latencies, LatencySummary};
pub use pages::PageRequests;
pub use peers::{LinkRights, Peers};
pub use queues::QueueArguments;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use byway_protocols::ControlStatus;
use byway_protocols::control::features::PAGE_REQUESTS;

use crate::capability::{Audit, Meter, Owner};
use crate::endpoint::Reaching;
use crate::interface::{DomainInfo, Quotas};
use crate::memory::GuestMemory;
use crate::queue::QueueStats;
use crate::worker::Account;

use contexts::Contexts;
use pages::Waiting;
use queues::Queues;
use spaces::Spaces;

/// One VM. Announced by the operator, and lives until he removes it, whether a VMM is
/// attached or not.
#[derive(Debug)]
pub struct Domain {
    core: Arc<Core>,
    id: u32,
    name: String,
    quotas: Quotas,
    account: Arc<Account>,
    owner: Arc<Owner>,
    /// Replaced when a VMM goes: one that lost its backing stays dead.
    memory: Mutex<Arc<GuestMemory>>,
    events: Arc<Events>,
    tables: Mutex<Tables>,
    /// Capabilities that the domain has derived.
    derived: Arc<Meter>,
    /// Offers that it has made and that wait.
    offered: Arc<Meter>,
    /// Queues of its that never park.
    unparked: Arc<Meter>,
    /// Ports that it has created.
    ports: Arc<Meter>,
    /// Descriptors of its that wait for pages.
    waiting: Arc<Waiting>,
    /// What devices reach by rights that the operation under way has ended.
    reaching: Mutex<Reaching>,
    attached: AtomicBool,
    /// The driver has spoken since the last reset: it can be told of things.
    ready: AtomicBool,
    /// Features in force since QUERY.
    features: AtomicU64,
    instance: AtomicU32,
    // Each domain counts for itself: one that runs out of numbers stops itself only.
    next_context: AtomicU32,
    next_queue: AtomicU32,
    next_page_request: AtomicU64,
}

/// What the guest has created.
#[derive(Debug)]
struct Tables {
    spaces: Spaces,
    contexts: Contexts,
    queues: Queues,
    /// Of queues that are gone.
    totals: QueueStats,
}

impl Domain {
    /// A domain without RAM, and known to nobody yet; see [`Peers::add`].
    #[must_use]
    pub fn new(core: Arc<Core>, id: u32, name: String, quotas: Quotas, events: Events) -> Self {
        let memory = Arc::new(GuestMemory::new());
        Self {
            id,
            name,
            owner: Owner::new(id),
            events: Arc::new(events),
            tables: Mutex::new(Tables {
                spaces: Spaces::new(&memory),
                contexts: Contexts::default(),
                queues: Queues::default(),
                totals: QueueStats::default(),
            }),
            memory: Mutex::new(memory),
            derived: Meter::new(quotas.capabilities),
            offered: Meter::new(quotas.offers),
            unparked: Meter::new(quotas.no_park_queues),
            ports: Meter::new(ports::PORTS_MAX),
            account: Account::new(&quotas.share),
            waiting: Arc::new(Waiting::new(quotas.parked)),
            reaching: Mutex::default(),
            attached: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            features: AtomicU64::new(0),
            instance: AtomicU32::new(core.next_instance()),
            next_context: AtomicU32::new(1),
            next_queue: AtomicU32::new(1),
            next_page_request: AtomicU64::new(1),
            quotas,
            core,
        }
    }

    /// Engine-wide number, never used twice.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
    /// The operator's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its limits.
    #[must_use]
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }
    /// What it gets of the workers, and has had.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
    /// The engine that it belongs to.
    #[must_use]
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }
    /// Its RAM, of the VMM that is attached.
    #[must_use]
    pub fn memory(&self) -> Arc<GuestMemory> {
        Arc::clone(&self.memory.lock().unwrap_or_else(|e| e.into_inner()))
    }
    /// Has no RAM any more. The caller has reset the domain and removed all regions.
    pub fn forget_memory(&self) {
        let memory = Arc::new(GuestMemory::counted(self.memory().walks()));
        self.tables().spaces = Spaces::new(&memory);
        *self.memory.lock().unwrap_or_else(|e| e.into_inner()) = memory;
    }
    /// What its driver is to be told.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }
    /// Instance that its queues' headers carry; another one after each reset.
    #[must_use]
    pub fn instance(&self) -> u32 {
        self.instance.load(Ordering::Relaxed)
    }
    /// Whether its driver has negotiated since the last reset.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }
    /// The driver has negotiated: these features are in force.
    pub fn set_ready(&self, features: u64) {
        self.features.store(features, Ordering::Relaxed);
        self.waiting.enable(features & PAGE_REQUESTS != 0);
        self.ready.store(true, Ordering::SeqCst);
    }
    /// Features in force.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Relaxed)
    }
    /// Fails unless a feature is in force.
    pub(crate) fn need_feature(&self, feature: u64) -> Result<(), ControlStatus> {
        if self.features() & feature == 0 {
            return Err(ControlStatus::Unsupported);
        }
        Ok(())
    }

    /// Claims the domain for one VMM; false when it has one.
    #[must_use]
    pub fn claim(&self) -> bool {
        !self.attached.swap(true, Ordering::AcqRel)
    }
    /// Its VMM is gone.
    pub fn unclaim(&self) {
        self.attached.store(false, Ordering::Release);
    }

    /// What the books over its memory say; see [`Owner::audit`].
    #[must_use]
    pub fn audit(&self, limit: usize) -> Audit {
        // Workers count bytes when their chunks end.
        self.core.epochs().synchronize();
        self.owner.audit(limit)
    }

    /// A row for the operator.
    #[must_use]
    pub fn info(&self) -> DomainInfo {
        let capabilities = self.owner.capabilities();
        let (parked, parked_max) = self.waiting.counts();
        let walks = self.memory().walks().totals();
        let tables = self.tables();
        let mut stats = tables.totals;
        for live in tables.queues.stats() {
            add_stats(&mut stats, live);
        }
        DomainInfo {
            name: self.name.clone(),
            id: self.id,
            attached: self.attached.load(Ordering::Acquire),
            contexts: tables.contexts.len() as u32,
            queues: tables.queues.len() as u32,
            capabilities,
            bytes: stats.bytes,
            descriptors: stats.descriptors,
            failures: stats.failures,
            busy_ns: self.account.busy_ns(),
            parked,
            parked_max,
            iotlb_misses: walks.misses,
            walks_4k: walks.leaves[0],
            walks_2m: walks.leaves[1],
            walks_1g: walks.leaves[2],
            share: self.account.share(),
        }
    }

    /// As after 2^32 contexts and queues.
    #[cfg(test)]
    pub(crate) fn use_up_numbers(&self) {
        self.next_context.store(u32::MAX, Ordering::Relaxed);
        self.next_queue.store(u32::MAX, Ordering::Relaxed);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Each change of a table is one insertion or removal: a panic elsewhere cannot
        // leave one torn.
        self.tables.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn add_stats(sum: &mut QueueStats, more: QueueStats) {
    sum.descriptors += more.descriptors;
    sum.bytes += more.bytes;
    sum.failures += more.failures;
}
