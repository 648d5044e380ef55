//! [`Owner`]: a domain as the owner of memory, with all capabilities over it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::tree::{GraveId, Holder, Tree};
use super::{Audit, Capability, Ending, Traffic};

/// What a capability and all below it amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Capabilities below it that somebody holds and that were not revoked.
    pub descendants: u64,
    /// Bytes moved through it and all below; a lower bound if those are more than 4096.
    pub traffic: Traffic,
}

/// The trees of capabilities over one domain's memory.
#[derive(Debug)]
pub struct Owner {
    domain: u32,
    /// Bumped by every revocation; see [`Capability::is_valid`].
    epoch: AtomicU64,
    tree: Mutex<Tree>,
}

impl Owner {
    /// The owner of domain `domain`'s memory, nothing derived yet.
    #[must_use]
    pub fn new(domain: u32) -> Arc<Self> {
        Arc::new(Self {
            domain,
            epoch: AtomicU64::new(0),
            tree: Mutex::new(Tree::new()),
        })
    }
    /// The domain's number.
    #[must_use]
    #[inline]
    pub fn domain(&self) -> u32 {
        self.domain
    }
    /// Number of revocations so far.
    #[must_use]
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
    fn bump(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        // No code that could panic half-way runs while it is locked but for failed
        // invariants of the tree itself, which a next one would meet again.
        self.tree.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Capabilities over this memory that somebody holds; contexts' roots not counted.
    #[must_use]
    pub fn capabilities(&self) -> u32 {
        self.tree().held()
    }

    /// Ends a capability and all below it. Done after a grace period.
    ///
    /// The caller passes a capability over this owner's memory, and what the books are to
    /// say.
    pub fn revoke(self: &Arc<Self>, capability: &Capability, how: Ending) -> Grave {
        self.revoke_then(capability, how, || ()).0
    }
    /// The same; the grace period may begin when `ended` is called: no chunk that begins from then on uses the right,
    /// and the books are brought up to date while those end that had begun.
    pub fn revoke_then<T>(
        self: &Arc<Self>,
        capability: &Capability,
        how: Ending,
        ended: impl FnOnce() -> T,
    ) -> (Grave, T) {
        let mut tree = self.tree();
        // Each bump has every capability over this memory asked anew, so none is spent
        // on what is dead already: a holder could slow others down by it.
        let is_first = capability.is_valid();
        if is_first {
            capability.mark();
            self.bump();
        }
        let begun = ended();
        let id = is_first.then(|| tree.bury(capability, how)).flatten();
        (self.grave(id), begun)
    }
    /// Ends what was derived from a capability, not itself. Done after a grace period.
    pub fn revoke_descendants(self: &Arc<Self>, capability: &Capability, how: Ending) -> Grave {
        let mut tree = self.tree();
        let id = tree.bury_children(capability.entry(), how);
        if id.is_some() {
            capability.mark_children();
            self.bump();
        }
        self.grave(id)
    }
    /// Ends whatever was given along links that have ended. Done after a grace period.
    pub fn bury_ended(self: &Arc<Self>) -> Grave {
        let mut tree = self.tree();
        self.bump();
        let id = tree.bury_where(Capability::has_ended_link, Ending::LinkEnded);
        self.grave(id)
    }
    /// What a capability and all below it amount to.
    #[must_use]
    pub fn usage(&self, capability: &Capability) -> Usage {
        self.tree().usage(capability)
    }

    /// What the books say: up to `limit` records of what lives, and of what is gone. The
    /// tree is locked for as long as it takes to count what lives.
    #[must_use]
    pub fn audit(&self, limit: usize) -> Audit {
        self.tree().audit(limit)
    }

    fn grave(self: &Arc<Self>, id: Option<GraveId>) -> Grave {
        Grave {
            owner: Arc::clone(self),
            id,
        }
    }
}

/// A revoked subtree that still takes room in the tree. Workers refuse it already.
#[must_use = "reap it in the background, or its room is not given back"]
#[derive(Debug)]
pub struct Grave {
    owner: Arc<Owner>,
    id: Option<GraveId>,
}

impl Grave {
    /// Takes up to `budget` dead capabilities out of the tree, and tells who held each.
    /// To be called after the grace period; true when none is left.
    pub fn reap(&mut self, budget: usize, mut tell: impl FnMut(Holder)) -> bool {
        let Some(id) = self.id else { return true };
        let mut holders = Vec::with_capacity(budget.min(256));
        let finished = self.owner.tree().reap(id, budget, &mut holders);
        if finished {
            self.id = None;
        }
        holders.into_iter().for_each(&mut tell);
        finished
    }
}
