//! [`World`]: an engine's core with one worker and three domains, reused from input to
//! input: every input has to leave it as it was.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use byway_engine::capability::LinkTerms;
use byway_engine::domain::{Core, CoreLimits, Domain, Events};
use byway_engine::epoch::Epochs;
use byway_engine::interface::{MemoryRegion, Quotas};
use byway_engine::iotlb::Invalidations;
use byway_engine::ops::supported_opcodes;
use byway_engine::testing::Guest;
use byway_engine::worker::{WorkerConfig, Workers};
use byway_protocols::Rights;

/// Domains.
pub(super) const SIDES: usize = 3;
/// Bytes of RAM of each.
const RAM_BYTES: u64 = 2 << 20;
/// Small, so that they are met.
fn quotas() -> Quotas {
    Quotas {
        address_spaces: 4,
        contexts: 6,
        queues: 4,
        queue_entries: 64,
        capabilities: 24,
        offers: 6,
        no_park_queues: 1,
        ..Quotas::default()
    }
}

/// Everything that outlives an input.
pub(super) struct World {
    core: Arc<Core>,
    sides: Vec<(Arc<Domain>, Arc<Guest>)>,
}

impl World {
    pub(super) fn new() -> Self {
        let epochs = Arc::new(Epochs::new(1));
        let invalidations = Arc::new(Invalidations::new(1));
        let config = WorkerConfig {
            park_us: 0,
            ..WorkerConfig::default()
        };
        let workers = Workers::start(config, Arc::clone(&epochs), Arc::clone(&invalidations))
            .expect("a thread can be started");
        let limits = CoreLimits {
            slots_max: 16,
            park_us: 0,
            // Nobody answers here.
            page_response: Duration::ZERO,
            opcodes: supported_opcodes(),
        };
        let core = Arc::new(Core::new(epochs, invalidations, workers, limits, 1));
        let sides = ["alice", "bob", "carol"].map(|name| side(&core, name));
        let world = Self {
            core,
            sides: sides.into(),
        };
        world.link_all();
        world
    }

    pub(super) fn domain(&self, side: usize) -> &Domain {
        &self.sides[side].0
    }

    fn link_all(&self) {
        for from in 0..SIDES {
            for to in 0..SIDES {
                self.link(from, to, Rights::ALL.0);
            }
        }
    }
    /// What one side may give another from now on.
    pub(super) fn link(&self, from: usize, to: usize, rights: u32) {
        if from == to {
            return;
        }
        let [from, to] = [from, to].map(|side| self.domain(side).id());
        let terms = LinkTerms {
            rights: Rights(rights & Rights::ALL.0),
            max_bytes: u64::MAX,
        };
        let peers = self.core.peers();
        let ended = match terms.rights {
            Rights::NONE => peers.remove_link(from, to),
            _ => peers.set_link(from, to, terms),
        };
        self.core.end_links(ended.as_slice());
    }

    pub(super) fn check_quotas(&self) {
        let quotas = quotas();
        for (domain, _) in &self.sides {
            let info = domain.info();
            assert!(info.contexts <= quotas.contexts, "{info:?}");
            assert!(info.queues <= quotas.queues, "{info:?}");
        }
        let offers = self.core.exchange().len();
        assert!(offers <= SIDES * quotas.offers as usize, "{offers} offers");
    }

    /// Nothing is left behind; RAM is all zero again.
    pub(super) fn end(&self) {
        for (domain, _) in &self.sides {
            domain.reset();
        }
        while !self.core.reap() {}
        assert!(self.core.exchange().is_empty(), "an offer is left");
        for (domain, guest) in &self.sides {
            let info = domain.info();
            let left = (info.contexts, info.queues, info.capabilities);
            assert_eq!(left, (0, 0, 0), "{info:?}");
            domain.events().clear();
            forget(guest);
        }
        self.link_all();
    }
}

fn side(core: &Arc<Core>, name: &str) -> (Arc<Domain>, Arc<Guest>) {
    let id = core.next_domain().expect("a number is left");
    let events = Events::new().expect("an eventfd can be had");
    let domain = Domain::new(Arc::clone(core), id, name.to_owned(), quotas(), events);
    let domain = Arc::new(domain);
    core.peers().add(&domain);
    let guest = Guest::new(id, RAM_BYTES);
    let (guest_addr, size) = guest.ram();
    domain
        .memory()
        .add_region(MemoryRegion {
            guest_addr,
            size,
            file: Arc::clone(guest.file()),
            file_offset: 0,
            writable: true,
            populate: false,
        })
        .expect("a region that can be mapped");
    (domain, guest)
}

/// Gives a guest's RAM back to the host: it reads as zeroes again.
fn forget(guest: &Guest) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open; no memory of ours is touched.
    let done = unsafe { libc::fallocate(guest.file().as_raw_fd(), mode, 0, RAM_BYTES as i64) };
    assert_eq!(done, 0, "punching a hole into a memfd");
}
