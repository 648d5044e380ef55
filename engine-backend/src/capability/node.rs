//! [`Capability`]: one node of a derivation tree, as workers read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use byway_protocols::Rights;

use super::limits::{Limits, monotonic_ns};
use super::object::{Object, WeakObject};
use super::tree::{EntryId, Holder};
use super::{Charge, DEPTH_MAX, Held, Key, Link, Owner};
use crate::address_space::AddressSpace;
use crate::endpoint::Endpoint;
use crate::port::Port;

/// What a derived capability is to be.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// First byte, as an offset into the parent (an address for a context's root).
    pub base: u64,
    /// Bytes, not 0.
    pub length: u64,
    /// A subset of the parent's.
    pub rights: Rights,
    /// Told to whoever uses it.
    pub badge: u64,
    /// Nanoseconds from now until it ends; 0 = as long as its parent.
    pub lifetime_ns: u64,
    /// Bytes that may be moved through it; 0 = no limit of its own.
    pub byte_quota: u64,
    /// Links that it is given along; none when it stays within its domain.
    pub links: [Option<Arc<Link>>; 2],
}

/// Why nothing was derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// The range is empty, wraps or leaves the parent.
    #[error("range outside the capability")]
    Bounds,
    /// A right that the parent lacks.
    #[error("a right that the capability lacks")]
    MissingRight,
    /// Deeper than [`DEPTH_MAX`].
    #[error("derivation deeper than {DEPTH_MAX}")]
    Depth,
    /// The parent is revoked or expired, or the link has ended.
    #[error("capability revoked or expired, or link ended")]
    Revoked,
}

/// Whether a capability can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can.
    Live,
    /// It, an ancestor, a link behind it or its address space was taken back.
    Revoked,
    /// Its time or its bytes are used up.
    Expired,
}

/// Bytes moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Read through it.
    pub read: u64,
    /// Written through it.
    pub written: u64,
}

/// A right to a byte range of one address space.
///
/// Immutable but for the marks that end it and the counters.
#[derive(Debug)]
pub struct Capability {
    // Read for every use.
    owner: Arc<Owner>,
    /// The owner's epoch at which it was last found valid.
    validated: AtomicU64,
    base: u64,
    length: u64,
    rights: Rights,
    /// A limit binds it or an ancestor.
    limited: bool,
    space: Arc<AddressSpace>,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,

    // Counts of children that are gone.
    inherited_read: AtomicU64,
    inherited_written: AtomicU64,

    // Read after a revocation, and by control threads.
    revoked: AtomicBool,
    /// Children born under an earlier number are revoked.
    generation: AtomicU64,
    /// The parent's `generation` at birth.
    born: u64,
    parent: Option<Arc<Capability>>,
    links: [Option<Arc<Link>>; 2],
    limits: Limits,
    badge: u64,
    depth: u32,
    entry: EntryId,
    /// What it is to; `None` for memory.
    object: Option<WeakObject>,
}

/// Never an epoch: those count up from 0.
const NEVER: u64 = u64::MAX;

impl Capability {
    /// The root of a context: all of its address space with all rights, depth 0. It
    /// backs what is derived from slot 0 and is never in a slot itself.
    #[must_use]
    pub fn root(owner: &Arc<Owner>, space: Arc<AddressSpace>) -> Held {
        let mut tree = owner.tree();
        let entry = tree.insert_root();
        let capability = Arc::new(Self {
            owner: Arc::clone(owner),
            validated: AtomicU64::new(NEVER),
            base: 0,
            // The last byte of the 64-bit space is left out; no user can map it.
            length: u64::MAX,
            rights: Rights(Rights::ALL.0 | Rights::PINNED.0),
            limited: false,
            space,
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            inherited_read: AtomicU64::new(0),
            inherited_written: AtomicU64::new(0),
            revoked: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            born: 0,
            parent: None,
            links: [None, None],
            limits: Limits::new(Limits::NONE, Limits::NONE),
            badge: 0,
            depth: 0,
            entry,
            object: None,
        });
        tree.fill(entry, &capability, Holder::Root, None, None);
        drop(tree);
        Held::new(capability)
    }

    /// Derives a capability that is no wider; `charge` is given back when it is gone.
    ///
    /// # Errors
    /// See [`DeriveError`].
    pub fn derive(
        self: &Arc<Self>,
        terms: Terms,
        holder: Holder,
        charge: Option<Charge>,
    ) -> Result<Held, DeriveError> {
        if !self.rights.contains(terms.rights) {
            return Err(DeriveError::MissingRight);
        }
        let object = self.object.as_ref().map(WeakObject::upgrade);
        let may_be = match &object {
            // Memory, or gone, which is found below.
            None | Some(None) => true,
            Some(Some(Object::Block(endpoint))) => {
                let block = u64::from(endpoint.geometry().block_bytes);
                terms.base.is_multiple_of(block) && terms.length.is_multiple_of(block)
            }
            Some(Some(Object::Key(_) | Object::Port(_))) => {
                terms.base == 0 && terms.length == self.length
            }
        };
        if !may_be {
            return Err(DeriveError::Bounds);
        }
        self.derive_object(terms, holder, charge, object)
    }

    /// Puts a key under a context's root, with these rights.
    ///
    /// # Errors
    /// See [`DeriveError`].
    pub fn derive_key(
        self: &Arc<Self>,
        key: Key,
        rights: Rights,
        badge: u64,
        holder: Holder,
        charge: Option<Charge>,
    ) -> Result<Held, DeriveError> {
        let terms = Terms {
            length: key.bytes().len() as u64,
            rights,
            badge,
            ..Terms::default()
        };
        self.derive_object(
            terms,
            holder,
            charge,
            Some(Some(Object::Key(Arc::new(key)))),
        )
    }

    /// Puts a port under a context's root, with all rights to it.
    ///
    /// # Errors
    /// See [`DeriveError`].
    pub fn derive_port(
        self: &Arc<Self>,
        port: Arc<Port>,
        badge: u64,
        holder: Holder,
        charge: Option<Charge>,
    ) -> Result<Held, DeriveError> {
        let terms = Terms {
            length: port.message_max() as u64,
            rights: Rights::PORT,
            badge,
            ..Terms::default()
        };
        self.derive_object(terms, holder, charge, Some(Some(Object::Port(port))))
    }

    /// Puts blocks of an endpoint under a context's root: `terms.base` is the first byte on the
    /// device, and both it and the length are multiples of its blocks.
    ///
    /// # Errors
    /// See [`DeriveError`].
    pub fn derive_blocks(
        self: &Arc<Self>,
        endpoint: Arc<Endpoint>,
        terms: Terms,
        holder: Holder,
        charge: Option<Charge>,
    ) -> Result<Held, DeriveError> {
        self.derive_object(terms, holder, charge, Some(Some(Object::Block(endpoint))))
    }

    /// Derives memory, or an object; one that is gone already cannot be derived from.
    fn derive_object(
        self: &Arc<Self>,
        terms: Terms,
        holder: Holder,
        charge: Option<Charge>,
        object: Option<Option<Object>>,
    ) -> Result<Held, DeriveError> {
        let object = match object {
            Some(None) => return Err(DeriveError::Revoked),
            Some(object) => object,
            None => None,
        };
        let end = terms.base.checked_add(terms.length);
        if terms.length == 0 || end.is_none_or(|end| end > self.length) {
            return Err(DeriveError::Bounds);
        }
        if self.depth >= DEPTH_MAX {
            return Err(DeriveError::Depth);
        }
        let expires_ns = match terms.lifetime_ns {
            0 => Limits::NONE,
            ns => monotonic_ns().saturating_add(ns),
        };
        let quota_bytes = match terms.byte_quota {
            0 => Limits::NONE,
            bytes => bytes,
        };
        let limits = Limits::new(expires_ns.min(self.limits.expires_ns()), quota_bytes);

        // From here to the insertion under the tree's lock, so that a revocation comes
        // either before (and is seen) or after (and ends the child too).
        let mut tree = self.owner.tree();
        let mut links = terms.links.iter().flatten();
        if self.state() != State::Live || links.any(|link| link.has_ended()) {
            return Err(DeriveError::Revoked);
        }
        let Some(entry) = tree.insert_child(self.entry) else {
            return Err(DeriveError::Revoked);
        };
        let capability = Arc::new(Self {
            owner: Arc::clone(&self.owner),
            validated: AtomicU64::new(NEVER),
            // In range: the parent's own base + length does not wrap.
            base: self.base + terms.base,
            length: terms.length,
            rights: terms.rights,
            limited: self.limited || limits.is_limited(),
            space: Arc::clone(&self.space),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            inherited_read: AtomicU64::new(0),
            inherited_written: AtomicU64::new(0),
            revoked: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            born: self.generation.load(Ordering::Acquire),
            parent: Some(Arc::clone(self)),
            links: terms.links,
            limits,
            badge: terms.badge,
            depth: self.depth + 1,
            entry,
            object: object.as_ref().map(Object::downgrade),
        });
        tree.fill(entry, &capability, holder, charge, object);
        drop(tree);
        Ok(Held::new(capability))
    }

    /// The domain whose memory it is, and its tree.
    #[must_use]
    pub fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }
    /// The address space that it lies in.
    #[must_use]
    #[inline]
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }
    /// Its first byte's address there.
    #[must_use]
    #[inline]
    pub fn base(&self) -> u64 {
        self.base
    }
    /// Bytes.
    #[must_use]
    #[inline]
    pub fn length(&self) -> u64 {
        self.length
    }
    /// What it allows.
    #[must_use]
    #[inline]
    pub fn rights(&self) -> Rights {
        self.rights
    }
    /// Badge.
    #[must_use]
    pub fn badge(&self) -> u64 {
        self.badge
    }
    /// Steps from a context's root.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.depth
    }
    /// The key that it is to, for as long as a capability to it lives.
    #[must_use]
    pub fn key(&self) -> Option<Arc<Key>> {
        match self.object.as_ref()?.upgrade()? {
            Object::Key(key) => Some(key),
            Object::Port(_) | Object::Block(_) => None,
        }
    }
    /// The port that it is to, for as long as a capability to it lives.
    #[must_use]
    pub fn port(&self) -> Option<Arc<Port>> {
        match self.object.as_ref()?.upgrade()? {
            Object::Port(port) => Some(port),
            Object::Key(_) | Object::Block(_) => None,
        }
    }
    /// The endpoint that it is to blocks of, for as long as a capability to it lives.
    #[must_use]
    pub fn endpoint(&self) -> Option<Arc<Endpoint>> {
        match self.object.as_ref()?.upgrade()? {
            Object::Block(endpoint) => Some(endpoint),
            Object::Key(_) | Object::Port(_) => None,
        }
    }
    /// The links that it was given along.
    pub(super) fn has_ended_link(&self) -> bool {
        self.links.iter().flatten().any(|link| link.has_ended())
    }
    pub(super) fn entry(&self) -> EntryId {
        self.entry
    }
    pub(super) fn parent(&self) -> Option<&Arc<Capability>> {
        self.parent.as_ref()
    }

    /// Whether neither it nor an ancestor was revoked. Two loads and a compare when
    /// nothing over the owner's memory was revoked since it was last asked.
    #[must_use]
    #[inline]
    pub fn is_valid(&self) -> bool {
        // Acquire: an epoch seen means that the marks set before its bump are seen.
        let epoch = self.owner.epoch();
        self.validated.load(Ordering::Relaxed) == epoch || self.revalidate(epoch)
    }

    #[cold]
    fn revalidate(&self, epoch: u64) -> bool {
        let mut node = self;
        loop {
            if node.revoked.load(Ordering::Acquire) || node.has_ended_link() {
                return false;
            }
            let Some(parent) = &node.parent else { break };
            if parent.generation.load(Ordering::Acquire) != node.born {
                return false;
            }
            node = parent;
        }
        // A mark set meanwhile comes with a later epoch, so `epoch` does not outlive it.
        self.validated.store(epoch, Ordering::Relaxed);
        true
    }

    /// Whether it can be used now.
    #[must_use]
    pub fn state(&self) -> State {
        if !self.is_valid() || !self.space.is_alive() {
            State::Revoked
        } else if !self.within_limits(1) {
            State::Expired
        } else {
            State::Live
        }
    }

    /// Whether its time is over, or an ancestor's.
    #[must_use]
    #[inline]
    pub fn has_expired(&self) -> bool {
        self.limited && self.is_past_its_time()
    }

    #[cold]
    fn is_past_its_time(&self) -> bool {
        self.limits.has_expired()
    }

    /// Whether a limit of time or bytes binds it or an ancestor, so that each use is to be
    /// checked and counted by itself.
    #[must_use]
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// Whether its own and its ancestors' limits allow to move `bytes` more.
    #[must_use]
    #[inline]
    pub fn within_limits(&self, bytes: u64) -> bool {
        !self.limited || self.check_limits(bytes)
    }

    #[cold]
    fn check_limits(&self, bytes: u64) -> bool {
        !self.limits.has_expired() && self.lineage().all(|c| c.limits.allows(bytes))
    }

    /// Counts bytes that were moved through it, once they were.
    ///
    /// A byte quota is checked before a chunk and spent after it, so workers that use
    /// one capability at the same time may overshoot by a chunk each.
    #[inline]
    pub fn account(&self, read: u64, written: u64) {
        if read != 0 {
            self.bytes_read.fetch_add(read, Ordering::Relaxed);
        }
        if written != 0 {
            self.bytes_written.fetch_add(written, Ordering::Relaxed);
        }
        if self.limited {
            for c in self.lineage() {
                c.limits.spend(read.saturating_add(written));
            }
        }
    }

    /// Bytes moved through it, and through what was derived from it and is gone.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let own = self.own_traffic();
        Traffic {
            read: own.read + self.inherited_read.load(Ordering::Relaxed),
            written: own.written + self.inherited_written.load(Ordering::Relaxed),
        }
    }
    /// Bytes moved through it itself.
    pub(super) fn own_traffic(&self) -> Traffic {
        Traffic {
            read: self.bytes_read.load(Ordering::Relaxed),
            written: self.bytes_written.load(Ordering::Relaxed),
        }
    }

    /// Takes over the counts of a child that is gone. A child that dies leaves its
    /// counts to its parent, so that a parent's total never shrinks.
    pub(super) fn inherit(&self, from: &Capability) {
        let t = from.traffic();
        self.inherited_read.fetch_add(t.read, Ordering::Relaxed);
        self.inherited_written
            .fetch_add(t.written, Ordering::Relaxed);
    }

    /// Marks it revoked; the owner's epoch is to be bumped afterwards.
    pub(super) fn mark(&self) {
        self.revoked.store(true, Ordering::Release);
    }
    /// Marks all its children revoked, born so far.
    pub(super) fn mark_children(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Its ancestors, upwards.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &Capability> {
        self.lineage().skip(1)
    }
    /// It and its ancestors, upwards.
    fn lineage(&self) -> impl Iterator<Item = &Capability> {
        std::iter::successors(Some(self), |c| c.parent.as_deref())
    }
}
