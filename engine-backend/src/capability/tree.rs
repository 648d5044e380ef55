//! [`Tree`]: the bookkeeping of everything derived over one domain's memory.
//!
//! A slab of entries linked by index. The children of a node form a circular list
//! through a sentinel of their own, so that a whole family can be cut off, in constant
//! time, by letting go of its sentinel: that is what a revocation does. What was cut
//! off is a grave, which is emptied in slices.
//!
//! Each node counts those below it that somebody holds, so that telling their number takes
//! a step, not a walk; a change is told to the ancestors, of which there are few.
//!
//! An entry lives while somebody holds its capability or something live was derived
//! from it. It does not keep the capability itself alive: a revoked one stays in its
//! holder's slot as a tombstone, at the holder's expense, after its entry is gone.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::object::Object;
use super::record::{Audit, End, Ending, Record, Trail, wall_ms};
use super::{Capability, Charge, Traffic, Usage};

/// Who holds a capability, to be told when it is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// Nobody any more.
    Nobody,
    /// A context, as the root of its own address space.
    Root,
    /// An offer that waits to be accepted.
    Offer(u64),
    /// A slot.
    Slot {
        /// Domain of the context.
        domain: u32,
        /// Context.
        context: u32,
        /// Slot.
        slot: u16,
    },
}

/// Names an entry, and is out of date once that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId {
    index: u32,
    stamp: u64,
}

/// Names the sentinel of a family that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GraveId(u32);

const NONE: u32 = u32::MAX;
/// Sentinel of the contexts' roots.
const ROOTS: u32 = 0;

#[derive(Debug)]
struct Entry {
    prev: u32,
    next: u32,
    /// Of a node: the sentinel of its children, or `NONE`. Of a sentinel: the node whose
    /// children it heads, or `NONE` for the roots and for graves.
    other: u32,
    /// Differs for every use of the place; 0 = free.
    stamp: u64,
    /// `None` for a sentinel.
    node: Option<Node>,
}

#[derive(Debug)]
struct Node {
    capability: Weak<Capability>,
    holder: Holder,
    /// Sentinel of the family that it is in.
    home: u32,
    /// Capabilities below it that somebody holds.
    below: u64,
    /// For the audit: as it was given, and, once it was let go of, as that was.
    record: Record,
    /// Given back when the entry goes, not when the tombstone does: else whoever keeps
    /// tombstones would use up another domain's quota.
    _charge: Option<Charge>,
    /// Entries alone keep it, so that it goes with the last of them.
    _object: Option<Object>,
}

/// The slab.
#[derive(Debug)]
pub(super) struct Tree {
    entries: Vec<Entry>,
    free: Vec<u32>,
    stamps: u64,
    held: u32,
    /// How what is in a grave came to be there, by the grave's sentinel.
    ends: HashMap<u32, End>,
    trail: Trail,
}

/// Nodes that one look at a subtree's bytes goes through.
pub(super) const WALK_MAX: usize = 4096;

impl Tree {
    pub(super) fn new() -> Self {
        let mut tree = Self {
            entries: Vec::new(),
            free: Vec::new(),
            stamps: 0,
            held: 0,
            ends: HashMap::new(),
            trail: Trail::default(),
        };
        let roots = tree.new_sentinel(NONE);
        debug_assert_eq!(roots, ROOTS);
        tree
    }

    /// Capabilities that a slot or an offer holds, those not reaped yet included.
    pub(super) fn held(&self) -> u32 {
        self.held
    }

    // ---- growing ----

    /// Makes room for a context's root; to be completed by [`Self::fill`].
    pub(super) fn insert_root(&mut self) -> EntryId {
        self.insert_under(ROOTS)
    }
    /// Makes room for a child; `None` when the parent is gone.
    pub(super) fn insert_child(&mut self, parent: EntryId) -> Option<EntryId> {
        let parent = self.find(parent)?;
        let sentinel = match self.at(parent).other {
            NONE => {
                let sentinel = self.new_sentinel(parent);
                self.at_mut(parent).other = sentinel;
                sentinel
            }
            sentinel => sentinel,
        };
        Some(self.insert_under(sentinel))
    }
    /// Says what the room, made just before, is for.
    pub(super) fn fill(
        &mut self,
        id: EntryId,
        capability: &Arc<Capability>,
        holder: Holder,
        charge: Option<Charge>,
        object: Option<Object>,
    ) {
        // It was linked in last, so the sentinel comes next.
        let home = self.at(id.index).next;
        let parent = self.node_of(self.at(home).other);
        let record = Record {
            id: id.stamp,
            parent: match parent {
                Some((_, node)) if node.holder != Holder::Root => Some(node.record.id),
                _ => None,
            },
            giver: parent.map_or(Holder::Nobody, |(_, node)| node.holder),
            holder,
            given_ms: wall_ms(),
            base: capability.base(),
            length: capability.length(),
            rights: capability.rights(),
            badge: capability.badge(),
            depth: capability.depth(),
            traffic: Traffic::default(),
            end: None,
        };
        self.at_mut(id.index).node = Some(Node {
            capability: Arc::downgrade(capability),
            holder,
            home,
            below: 0,
            record,
            _charge: charge,
            _object: object,
        });
        if counts(holder) {
            self.held += 1;
            self.add_below(home, 1);
        }
    }
    /// Notes a new holder; false when the entry is gone.
    pub(super) fn set_holder(&mut self, id: EntryId, holder: Holder) -> bool {
        let Some(index) = self.find(id) else {
            return false;
        };
        if let Some(node) = &mut self.at_mut(index).node {
            let (home, before) = (node.home, counts(node.holder));
            node.holder = holder;
            if holder != Holder::Nobody {
                node.record.holder = holder;
            }
            match (before, counts(holder)) {
                (false, true) => {
                    self.held += 1;
                    self.add_below(home, 1);
                }
                (true, false) => {
                    self.held -= 1;
                    self.add_below(home, -1);
                }
                _ => {}
            }
        }
        true
    }
    /// Tells the nodes above a family, up to where it was cut off, of so many more held
    /// capabilities below them.
    fn add_below(&mut self, home: u32, change: i64) {
        let mut above = self.at(home).other;
        while above != NONE {
            let Some(node) = &mut self.at_mut(above).node else {
                unreachable!("a sentinel heads a sentinel");
            };
            node.below = node.below.wrapping_add_signed(change);
            above = self
                .at(self.at(above).node.as_ref().map_or(ROOTS, |n| n.home))
                .other;
        }
    }
    fn node_of(&self, index: u32) -> Option<(u32, &Node)> {
        let entry = self.entries.get(index as usize)?;
        Some((index, entry.node.as_ref()?))
    }

    // ---- shrinking ----

    /// The holder let go of a capability: its entry goes unless something lives below.
    pub(super) fn release(&mut self, capability: &Capability) {
        if self.set_holder(capability.entry(), Holder::Nobody) {
            if let Some(index) = self.find(capability.entry()) {
                let end = self.end_above(index).unwrap_or(End::now(Ending::Dropped));
                if let Some(node) = &mut self.at_mut(index).node {
                    // Nobody can use it any more: its own count is final.
                    node.record.traffic = capability.own_traffic();
                    node.record.end = Some(end);
                }
            }
            self.prune(capability);
        }
    }
    /// How the grave came about that a node lies in, if it lies in one.
    fn end_above(&self, index: u32) -> Option<End> {
        let mut at = index;
        // A tree is no deeper than DEPTH_MAX.
        while let Some((_, node)) = self.node_of(at) {
            if let Some(end) = self.ends.get(&node.home) {
                return Some(*end);
            }
            at = self.at(node.home).other;
        }
        None
    }

    /// Removes a node that nobody needs, and its ancestors as far as that leaves them
    /// unneeded.
    fn prune(&mut self, capability: &Capability) {
        let mut at = Some(capability);
        while let Some(capability) = at {
            let Some(index) = self.find(capability.entry()) else {
                return;
            };
            let entry = self.at(index);
            let is_needed = entry.other != NONE
                || entry
                    .node
                    .as_ref()
                    .is_some_and(|n| n.holder != Holder::Nobody);
            if is_needed {
                return;
            }
            self.remove(index, Some(capability));
            at = capability.parent().map(Arc::as_ref);
        }
    }

    /// Removes a childless node from its list and leaves its counts to the nearest
    /// ancestor that is still there.
    fn remove(&mut self, index: u32, capability: Option<&Capability>) {
        self.unlink(index);
        self.close_books(index, capability);
        if let Some(capability) = capability {
            if let Some(heir) = capability
                .ancestors()
                .find(|c| self.find(c.entry()).is_some())
            {
                heir.inherit(capability);
            }
            if let Some(parent) = capability.parent()
                && let Some(parent) = self.find(parent.entry())
            {
                self.drop_empty_family(parent);
            }
        }
        self.release_entry(index);
    }

    /// Counts a node out and writes its record.
    fn close_books(&mut self, index: u32, capability: Option<&Capability>) {
        let end = self.end_above(index);
        if let Some(node) = self.at_mut(index).node.take() {
            if counts(node.holder) {
                self.held -= 1;
                self.add_below(node.home, -1);
            }
            if node.record.depth != 0 {
                self.trail.push(Record {
                    traffic: capability.map_or(node.record.traffic, Capability::own_traffic),
                    end: node.record.end.or(end),
                    ..node.record
                });
            }
        }
    }

    fn drop_empty_family(&mut self, index: u32) {
        let sentinel = self.at(index).other;
        if sentinel != NONE && self.at(sentinel).next == sentinel {
            self.at_mut(index).other = NONE;
            self.release_entry(sentinel);
        }
    }

    /// Cuts a node off with all below it.
    pub(super) fn bury(&mut self, capability: &Capability, how: Ending) -> Option<GraveId> {
        let index = self.find(capability.entry())?;
        let grave = self.new_grave(how);
        self.move_to(index, grave);
        self.tidy_parent(capability);
        Some(GraveId(grave))
    }
    /// Cuts off all below a node.
    pub(super) fn bury_children(&mut self, id: EntryId, how: Ending) -> Option<GraveId> {
        let index = self.find(id)?;
        let sentinel = std::mem::replace(&mut self.at_mut(index).other, NONE);
        if sentinel == NONE {
            return None;
        }
        let lost = self.node_of(index).map_or(0, |(_, node)| node.below);
        self.add_below(sentinel, -(lost as i64));
        self.at_mut(sentinel).other = NONE;
        self.ends.insert(sentinel, End::now(how));
        Some(GraveId(sentinel))
    }
    /// Cuts off every node that `is_dead` tells of, each with all below it.
    pub(super) fn bury_where(
        &mut self,
        is_dead: impl Fn(&Capability) -> bool,
        how: Ending,
    ) -> Option<GraveId> {
        let dead: Vec<_> = self
            .entries
            .iter()
            .filter_map(|e| e.node.as_ref()?.capability.upgrade())
            .filter(|c| is_dead(c))
            .collect();
        if dead.is_empty() {
            return None;
        }
        let grave = self.new_grave(how);
        for capability in &dead {
            // What lies in a grave already ended for another reason.
            if let Some(index) = self.find(capability.entry())
                && self.end_above(index).is_none()
            {
                self.move_to(index, grave);
                self.tidy_parent(capability);
            }
        }
        Some(GraveId(grave))
    }

    /// A child was cut off: nothing may hang below the parent any more.
    fn tidy_parent(&mut self, capability: &Capability) {
        if let Some(parent) = capability.parent()
            && let Some(index) = self.find(parent.entry())
        {
            self.drop_empty_family(index);
            self.prune(parent);
        }
    }

    /// Removes up to `budget` nodes of a grave, leaves first, and notes their holders;
    /// true when it was the last.
    pub(super) fn reap(
        &mut self,
        grave: GraveId,
        budget: usize,
        holders: &mut Vec<Holder>,
    ) -> bool {
        for _ in 0..budget {
            let mut index = self.at(grave.0).next;
            if index == grave.0 {
                self.ends.remove(&grave.0);
                self.release_entry(grave.0);
                return true;
            }
            // Depth is at most DEPTH_MAX, and each step down is to a node that the
            // budget will be spent on.
            while self.at(index).other != NONE {
                index = self.at(self.at(index).other).next;
            }
            let Some(node) = &self.at(index).node else {
                // A family is never empty, so a step down ends at a node.
                unreachable!("a sentinel among the children");
            };
            if matches!(node.holder, Holder::Slot { .. } | Holder::Offer(_)) {
                holders.push(node.holder);
            }
            let capability = node.capability.upgrade();
            self.remove(index, capability.as_deref());
        }
        false
    }

    // ---- looking ----

    /// What lives below a capability, and what went through it all. Bytes are those of
    /// [`WALK_MAX`] nodes at most.
    pub(super) fn usage(&self, capability: &Capability) -> Usage {
        let mut usage = Usage {
            descendants: 0,
            traffic: capability.traffic(),
        };
        let Some(top) = self.find(capability.entry()) else {
            return usage;
        };
        usage.descendants = self.node_of(top).map_or(0, |(_, node)| node.below);
        // Depth-first without a stack: down to the first child, else along the list; a
        // list's end is its sentinel, which names the node to go up to.
        let mut index = top;
        let mut down = true;
        let mut nodes = 0;
        while nodes < WALK_MAX {
            let entry = self.at(index);
            if down && entry.other != NONE {
                index = self.at(entry.other).next;
            } else if index == top {
                break;
            } else {
                index = entry.next;
            }
            let entry = self.at(index);
            down = match &entry.node {
                Some(node) => {
                    nodes += 1;
                    if let Some(c) = node.capability.upgrade() {
                        let t = c.traffic();
                        usage.traffic.read += t.read;
                        usage.traffic.written += t.written;
                    }
                    true
                }
                None => {
                    index = entry.other;
                    false
                }
            };
        }
        usage
    }
    /// Up to `limit` records of what lives, and as many of what is gone.
    pub(super) fn audit(&self, limit: usize) -> Audit {
        let live = |e: &Entry| {
            let node = e.node.as_ref()?;
            (node.record.depth != 0).then(|| Record {
                traffic: match node.capability.upgrade() {
                    Some(c) => c.own_traffic(),
                    None => node.record.traffic,
                },
                ..node.record
            })
        };
        let mut entries = self.entries.iter();
        let live: Vec<_> = entries.by_ref().filter_map(live).take(limit).collect();
        let rest = entries.filter(|e| e.node.as_ref().is_some_and(|n| n.record.depth != 0));
        Audit {
            live_total: (live.len() + rest.count()) as u64,
            live,
            past: self.trail.latest(limit),
            forgotten: self.trail.forgotten(),
        }
    }

    // ---- the slab ----

    fn at(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }
    fn at_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }
    fn find(&self, id: EntryId) -> Option<u32> {
        (self.entries.get(id.index as usize)?.stamp == id.stamp).then_some(id.index)
    }

    fn new_entry(&mut self) -> u32 {
        self.stamps += 1;
        let entry = Entry {
            prev: NONE,
            next: NONE,
            other: NONE,
            stamp: self.stamps,
            node: None,
        };
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = entry;
            return index;
        }
        // Quotas end far below this.
        assert!(self.entries.len() < NONE as usize, "too many capabilities");
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }
    #[cfg(test)]
    pub(super) fn entries_in_use(&self) -> usize {
        self.entries.len() - self.free.len()
    }
    fn new_sentinel(&mut self, other: u32) -> u32 {
        let index = self.new_entry();
        let entry = self.at_mut(index);
        (entry.prev, entry.next, entry.other) = (index, index, other);
        index
    }
    fn new_grave(&mut self, how: Ending) -> u32 {
        let grave = self.new_sentinel(NONE);
        self.ends.insert(grave, End::now(how));
        grave
    }
    fn release_entry(&mut self, index: u32) {
        let entry = self.at_mut(index);
        entry.stamp = 0;
        entry.node = None;
        self.free.push(index);
    }

    fn insert_under(&mut self, sentinel: u32) -> EntryId {
        let index = self.new_entry();
        self.link(index, sentinel);
        EntryId {
            index,
            stamp: self.at(index).stamp,
        }
    }
    fn link(&mut self, index: u32, sentinel: u32) {
        let last = self.at(sentinel).prev;
        let entry = self.at_mut(index);
        (entry.prev, entry.next) = (last, sentinel);
        self.at_mut(last).next = index;
        self.at_mut(sentinel).prev = index;
    }
    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, .. } = *self.at(index);
        self.at_mut(prev).next = next;
        self.at_mut(next).prev = prev;
    }
    /// Moves a node with all below it into another family, of none above it any more.
    fn move_to(&mut self, index: u32, sentinel: u32) {
        if let Some((_, node)) = self.node_of(index) {
            let (home, lost) = (node.home, node.below + u64::from(counts(node.holder)));
            self.add_below(home, -(lost as i64));
        }
        self.unlink(index);
        self.link(index, sentinel);
        if let Some(node) = &mut self.at_mut(index).node {
            node.home = sentinel;
        }
    }
}

/// Whether this holder makes a capability count as one that somebody has.
fn counts(holder: Holder) -> bool {
    matches!(holder, Holder::Slot { .. } | Holder::Offer(_))
}
