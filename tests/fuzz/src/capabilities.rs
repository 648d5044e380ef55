//! Sequences of capability operations, against a naive model: a list of nodes in which
//! revocation walks over all descendants, one by one, at once.
//!
//! What the engine answers must be what the model says after every step, in whatever order
//! things are derived, dropped, revoked, cut off by a link and buried; in the end every
//! holder of what died has been told once, and every quota is free again.

use std::sync::Arc;

use byway_engine::address_space::AddressSpace;
use byway_engine::capability::{
    Capability, DEPTH_MAX, DeriveError, Ending, Grave, Held, Holder, Link, LinkTerms, Meter, Owner,
    Terms,
};
use byway_engine::memory::GuestMemory;
use byway_protocols::Rights;

use crate::input::Input;

const BY_OWNER: Ending = Ending::Revoked { by: 1 };

/// Steps of one input at most.
const STEPS_MAX: u32 = 200;
/// What the quota lets be derived at once: more than an input derives.
const QUOTA: u32 = STEPS_MAX;
/// Links along which capabilities may be given.
const LINKS: usize = 3;

/// What an input does in one step; each begins with the number of a node.
pub(crate) mod step {
    /// Derives: base, length (u16), rights, a link's number + 1 or 0, byte quota (u16).
    pub(crate) const DERIVE: u8 = 0;
    /// Revokes the node.
    pub(crate) const REVOKE: u8 = 1;
    /// Revokes what was derived from it.
    pub(crate) const REVOKE_BELOW: u8 = 2;
    /// Its holder lets it go.
    pub(crate) const DROP: u8 = 3;
    /// Counts bytes through it: u16.
    pub(crate) const ACCOUNT: u8 = 4;
    /// Ends a link.
    pub(crate) const END_LINK: u8 = 5;
    /// Clears some of the dead away.
    pub(crate) const REAP: u8 = 6;
    /// How many there are.
    pub(crate) const KINDS: usize = 7;
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut model = Model::new();
    for _ in 0..STEPS_MAX {
        if !input.has_more() {
            break;
        }
        model.step(&mut input);
        model.check();
    }
    model.end();
}

/// A node of the model.
struct Node {
    /// Gone when its holder has let it go.
    held: Option<Held>,
    capability: Arc<Capability>,
    parent: Option<usize>,
    link: Option<usize>,
    base: u64,
    length: u64,
    rights: Rights,
    depth: u32,
    dead: bool,
    byte_quota: u64,
    /// Through it and all below, while it could be used.
    bytes: u64,
}

struct Model {
    owner: Arc<Owner>,
    meter: Arc<Meter>,
    links: Vec<Arc<Link>>,
    /// Node 0 is the root.
    nodes: Vec<Node>,
    graves: Vec<Grave>,
    told: Vec<Holder>,
    /// Whom revocations have to tell, sooner or later.
    to_tell: Vec<Holder>,
}

fn holder(node: usize) -> Holder {
    Holder::Slot {
        domain: 1,
        context: 1,
        slot: node as u16,
    }
}

impl Model {
    fn new() -> Self {
        let owner = Owner::new(1);
        let space = AddressSpace::physical(Arc::new(GuestMemory::new()));
        let root = Capability::root(&owner, Arc::new(space));
        let terms = LinkTerms {
            rights: Rights::ALL,
            max_bytes: u64::MAX,
        };
        Self {
            owner,
            meter: Meter::new(QUOTA),
            links: (0..LINKS as u32)
                .map(|to| Arc::new(Link::new(1, to, terms)))
                .collect(),
            nodes: vec![Node {
                capability: Arc::clone(root.capability()),
                held: Some(root),
                parent: None,
                link: None,
                base: 0,
                length: u64::MAX,
                rights: Rights(Rights::ALL.0 | Rights::PINNED.0),
                depth: 0,
                dead: false,
                byte_quota: 0,
                bytes: 0,
            }],
            graves: Vec::new(),
            told: Vec::new(),
            to_tell: Vec::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.below(step::KINDS) as u8;
        let node = input.below(self.nodes.len().min(256));
        let held = self.nodes[node].held.is_some();
        match kind {
            step::DERIVE => self.derive(node, input),
            step::REVOKE if node != 0 && held => {
                let grave = self.owner.revoke(&self.nodes[node].capability, BY_OWNER);
                self.graves.push(grave);
                self.kill(node);
                self.kill_below(node);
            }
            step::REVOKE_BELOW if held => {
                let grave = self
                    .owner
                    .revoke_descendants(&self.nodes[node].capability, BY_OWNER);
                self.graves.push(grave);
                self.kill_below(node);
            }
            step::DROP if node != 0 && held => {
                self.nodes[node].held = None;
                // Whoever has let a capability go need not hear of its end.
                let told = &self.told;
                self.to_tell
                    .retain(|h| *h != holder(node) || told.contains(h));
            }
            step::ACCOUNT => self.account(node, u64::from(input.u16())),
            step::END_LINK => {
                let link = node % LINKS;
                self.links[link].end();
                self.graves.push(self.owner.bury_ended());
                for i in 0..self.nodes.len() {
                    if self.nodes[i].link == Some(link) {
                        self.kill(i);
                        self.kill_below(i);
                    }
                }
            }
            step::REAP => self.reap(node + 1),
            _ => {}
        }
    }

    fn derive(&mut self, parent: usize, input: &mut Input<'_>) {
        let base = u64::from(input.u8());
        let length = u64::from(input.u16());
        let wish = u32::from(input.u8());
        let pinned = if wish & 8 != 0 { Rights::PINNED.0 } else { 0 };
        let rights = Rights(wish & Rights::ALL.0 | pinned);
        let link = input.below(LINKS + 1).checked_sub(1);
        let byte_quota = u64::from(input.u16());
        let p = &self.nodes[parent];
        if p.held.is_none() {
            return;
        }
        let outcome = p.capability.derive(
            Terms {
                base,
                length,
                rights,
                byte_quota,
                links: [link.map(|l| Arc::clone(&self.links[l])), None],
                ..Terms::default()
            },
            holder(self.nodes.len()),
            self.meter.charge(),
        );
        let link_ended = link.is_some_and(|l| self.links[l].has_ended());
        let expected = if !p.rights.contains(rights) {
            Err(DeriveError::MissingRight)
        } else if length == 0 || base + length > p.length {
            Err(DeriveError::Bounds)
        } else if p.depth == DEPTH_MAX {
            Err(DeriveError::Depth)
        } else if p.dead || link_ended || !self.has_bytes_left(parent) {
            Err(DeriveError::Revoked)
        } else {
            Ok(())
        };
        let found = outcome.as_ref().map(|_| ()).map_err(|error| *error);
        assert_eq!(found, expected, "derived from node {parent}");
        let Ok(held) = outcome else { return };
        self.nodes.push(Node {
            capability: Arc::clone(held.capability()),
            held: Some(held),
            parent: Some(parent),
            link,
            base: p.base + base,
            length,
            rights,
            depth: p.depth + 1,
            dead: false,
            byte_quota,
            bytes: 0,
        });
    }

    /// Bytes move through a capability, if they may: as a worker does it.
    fn account(&mut self, node: usize, bytes: u64) {
        let n = &self.nodes[node];
        if n.dead || n.held.is_none() {
            return;
        }
        let fits = self.path(node).all(|i| {
            let n = &self.nodes[i];
            n.byte_quota == 0 || n.bytes + bytes <= n.byte_quota
        });
        assert_eq!(n.capability.within_limits(bytes), fits, "node {node}");
        if !fits {
            return;
        }
        n.capability.account(bytes, 0);
        for i in self.path(node).collect::<Vec<_>>() {
            self.nodes[i].bytes += bytes;
        }
    }

    fn has_bytes_left(&self, node: usize) -> bool {
        self.path(node).all(|i| {
            let n = &self.nodes[i];
            n.byte_quota == 0 || n.bytes < n.byte_quota
        })
    }

    /// A node and all above it.
    fn path(&self, node: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(node), |i| self.nodes[*i].parent)
    }

    fn kill(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        if !n.dead && n.held.is_some() && node != 0 {
            self.to_tell.push(holder(node));
        }
        n.dead = true;
    }

    fn kill_below(&mut self, top: usize) {
        for i in 0..self.nodes.len() {
            if i != top && self.path(i).any(|above| above == top) {
                self.kill(i);
            }
        }
    }

    fn reap(&mut self, budget: usize) {
        let told = &mut self.told;
        self.graves
            .retain_mut(|grave| !grave.reap(budget, |holder| told.push(holder)));
    }

    fn check(&self) {
        for (i, node) in self.nodes.iter().enumerate() {
            // What nobody holds, nobody can use.
            if node.held.is_none() {
                continue;
            }
            let c = &node.capability;
            assert_eq!(c.is_valid(), !node.dead, "node {i}");
            // Asked again, the answer comes from what was remembered.
            assert_eq!(c.is_valid(), !node.dead, "node {i}");
            assert_eq!(
                (c.base(), c.length(), c.rights(), c.depth()),
                (node.base, node.length, node.rights, node.depth)
            );
        }
    }

    fn end(mut self) {
        while !self.graves.is_empty() {
            self.reap(7);
        }
        let living = |n: &Node| !n.dead && n.held.is_some();
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, n)| living(n)) {
            let below = |n: usize| n != i && self.path(n).any(|above| above == i);
            let alive = (0..self.nodes.len())
                .filter(|&n| below(n) && living(&self.nodes[n]))
                .count();
            let usage = self.owner.usage(&node.capability);
            assert_eq!(usage.descendants, alive as u64, "node {i}");
            assert_eq!(usage.traffic.read, node.bytes, "node {i}");
        }
        self.told.sort();
        self.to_tell.sort();
        assert_eq!(self.told, self.to_tell, "who was told");
        let held = self.nodes.iter().skip(1).filter(|n| living(n)).count();
        assert_eq!(self.owner.capabilities() as usize, held);
        assert!(self.meter.used() as usize >= held);
        for node in &mut self.nodes {
            node.held = None;
        }
        assert_eq!((self.meter.used(), self.owner.capabilities()), (0, 0));
    }
}
