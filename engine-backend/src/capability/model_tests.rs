//! Random sequences of capability operations against a naive model: a list of nodes in
//! which revocation walks over all descendants, one by one, at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use byway_protocols::Rights;
use proptest::prelude::*;

use super::tree::Holder;
use super::*;
use crate::address_space::AddressSpace;
use crate::memory::GuestMemory;

fn space() -> Arc<AddressSpace> {
    Arc::new(AddressSpace::physical(Arc::new(GuestMemory::new())))
}

const BY_OWNER: Ending = Ending::Revoked { by: 1 };

fn holder(i: usize) -> Holder {
    Holder::Slot {
        domain: 1,
        context: 1,
        slot: i as u16,
    }
}

fn terms(base: u64, length: u64, rights: Rights) -> Terms {
    Terms {
        base,
        length,
        rights,
        ..Terms::default()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Derive {
        parent: prop::sample::Index,
        base: u64,
        length: u64,
        rights: u32,
        link: Option<prop::sample::Index>,
    },
    Revoke(prop::sample::Index),
    RevokeDescendants(prop::sample::Index),
    Drop(prop::sample::Index),
    Rehold(prop::sample::Index),
    Account(prop::sample::Index, u64),
    EndLink(prop::sample::Index),
    Reap(usize),
}

fn op() -> impl Strategy<Value = Op> {
    use prop::sample::Index;
    let derive = (
        any::<Index>(),
        0..100u64,
        0..200u64,
        0..8u32,
        prop::option::weighted(0.3, any::<Index>()),
    )
        .prop_map(|(parent, base, length, rights, link)| Op::Derive {
            parent,
            base,
            length,
            rights,
            link,
        });
    prop_oneof![
        10 => derive,
        2 => any::<Index>().prop_map(Op::Revoke),
        2 => any::<Index>().prop_map(Op::RevokeDescendants),
        3 => any::<Index>().prop_map(Op::Drop),
        1 => any::<Index>().prop_map(Op::Rehold),
        3 => (any::<Index>(), 1..1000u64).prop_map(|(i, n)| Op::Account(i, n)),
        1 => any::<Index>().prop_map(Op::EndLink),
        2 => (1..20usize).prop_map(Op::Reap),
    ]
}

/// A node of the model.
struct Node {
    held: Option<Held>,
    capability: Arc<Capability>,
    parent: Option<usize>,
    link: Option<usize>,
    base: u64,
    length: u64,
    rights: u32,
    depth: u32,
    dead: bool,
    bytes: u64,
}

struct Model {
    owner: Arc<Owner>,
    meter: Arc<Meter>,
    links: Vec<Arc<Link>>,
    nodes: Vec<Node>,
    graves: Vec<Grave>,
    told: Vec<Holder>,
    /// Whom revocations have to tell, sooner or later.
    to_tell: Vec<Holder>,
}

impl Model {
    fn new() -> Self {
        let owner = Owner::new(1);
        let root = Capability::root(&owner, space());
        let all = LinkTerms {
            rights: Rights::ALL,
            max_bytes: u64::MAX,
        };
        Self {
            owner,
            meter: Meter::new(1000),
            links: (0..3).map(|i| Arc::new(Link::new(1, i, all))).collect(),
            nodes: vec![Node {
                capability: Arc::clone(root.capability()),
                held: Some(root),
                parent: None,
                link: None,
                base: 0,
                length: u64::MAX,
                rights: 7,
                depth: 0,
                dead: false,
                bytes: 0,
            }],
            graves: Vec::new(),
            told: Vec::new(),
            to_tell: Vec::new(),
        }
    }

    fn is_below(&self, node: usize, top: usize) -> bool {
        let mut at = self.nodes[node].parent;
        while let Some(i) = at {
            if i == top {
                return true;
            }
            at = self.nodes[i].parent;
        }
        false
    }

    fn kill(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if !node.dead && node.held.is_some() && i != 0 {
            self.to_tell.push(holder(i));
        }
        self.nodes[i].dead = true;
    }

    fn kill_below(&mut self, top: usize) {
        for i in 0..self.nodes.len() {
            if self.is_below(i, top) {
                self.kill(i);
            }
        }
    }

    fn run(&mut self, op: &Op) {
        let count = self.nodes.len();
        match op {
            Op::Derive {
                parent,
                base,
                length,
                rights,
                link,
            } => {
                let p = parent.index(count);
                let link = link.as_ref().map(|l| l.index(self.links.len()));
                let (base, length) = (*base, *length);
                let parent = &self.nodes[p];
                if parent.held.is_none() {
                    return;
                }
                let i = count;
                let outcome = parent.capability.derive(
                    Terms {
                        links: [link.map(|l| Arc::clone(&self.links[l])), None],
                        ..terms(base, length, Rights(*rights))
                    },
                    holder(i),
                    self.meter.charge(),
                );
                let expected = if rights & !parent.rights != 0 {
                    Err(DeriveError::MissingRight)
                } else if length == 0 || base + length > parent.length {
                    Err(DeriveError::Bounds)
                } else if parent.depth == 16 {
                    Err(DeriveError::Depth)
                } else if parent.dead || link.is_some_and(|l| self.links[l].has_ended()) {
                    Err(DeriveError::Revoked)
                } else {
                    Ok(())
                };
                assert_eq!(outcome.as_ref().map(|_| ()).map_err(|e| *e), expected);
                let Ok(held) = outcome else { return };
                let node = Node {
                    capability: Arc::clone(held.capability()),
                    held: Some(held),
                    parent: Some(p),
                    link,
                    base: parent.base + base,
                    length,
                    rights: *rights,
                    depth: parent.depth + 1,
                    dead: false,
                    bytes: 0,
                };
                self.nodes.push(node);
            }
            Op::Revoke(i) => {
                let i = i.index(count);
                if i != 0 && self.nodes[i].held.is_some() {
                    let grave = self.owner.revoke(&self.nodes[i].capability, BY_OWNER);
                    self.graves.push(grave);
                    self.kill(i);
                    self.kill_below(i);
                }
            }
            Op::RevokeDescendants(i) => {
                let i = i.index(count);
                if self.nodes[i].held.is_some() {
                    let grave = self
                        .owner
                        .revoke_descendants(&self.nodes[i].capability, BY_OWNER);
                    self.graves.push(grave);
                    self.kill_below(i);
                }
            }
            Op::Drop(i) => {
                let i = i.index(count);
                if i != 0 && self.nodes[i].held.take().is_some() {
                    // Whoever has dropped a capability need not hear of its end.
                    self.to_tell
                        .retain(|h| *h != holder(i) || self.told.contains(h));
                }
            }
            Op::Rehold(i) => {
                let i = i.index(count);
                if let Some(held) = &self.nodes[i].held
                    && i != 0
                {
                    held.set_holder(holder(i));
                }
            }
            Op::Account(i, bytes) => {
                let node = &mut self.nodes[i.index(count)];
                node.capability.account(*bytes, 2 * bytes);
                node.bytes += bytes;
            }
            Op::EndLink(l) => {
                let l = l.index(self.links.len());
                self.links[l].end();
                self.graves.push(self.owner.bury_ended());
                for i in 0..count {
                    if self.nodes[i].link == Some(l) {
                        self.kill(i);
                        self.kill_below(i);
                    }
                }
            }
            Op::Reap(budget) => self.reap(*budget),
        }
    }

    fn reap(&mut self, budget: usize) {
        let told = &mut self.told;
        self.graves
            .retain_mut(|g| !g.reap(budget, |h| told.push(h)));
    }

    fn reap_all(&mut self) {
        while !self.graves.is_empty() {
            self.reap(7);
        }
    }

    fn check(&self) {
        for (i, node) in self.nodes.iter().enumerate() {
            let c = &node.capability;
            // What nobody holds, nobody can use.
            if node.held.is_none() {
                continue;
            }
            assert_eq!(c.is_valid(), !node.dead, "node {i}");
            // Asked again, the answer comes from what was remembered.
            assert_eq!(c.is_valid(), !node.dead, "node {i}");
            assert_eq!((c.base(), c.length()), (node.base, node.length));
            if node.dead {
                continue;
            }
            let below = (0..self.nodes.len()).filter(|&n| self.is_below(n, i));
            let alive = below
                .filter(|&n| !self.nodes[n].dead && self.nodes[n].held.is_some())
                .count() as u64;
            assert_eq!(self.owner.usage(c).descendants, alive, "node {i}");
        }
    }

    /// With no grave left, nothing that went through a node or below it is forgotten.
    fn check_traffic(&self) {
        for (i, node) in self.nodes.iter().enumerate() {
            if node.dead || node.held.is_none() {
                continue;
            }
            let below = (0..self.nodes.len()).filter(|&n| n == i || self.is_below(n, i));
            let bytes: u64 = below.map(|n| self.nodes[n].bytes).sum();
            let traffic = self.owner.usage(&node.capability).traffic;
            assert_eq!((traffic.read, traffic.written), (bytes, 2 * bytes));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn trees_agree_with_a_naive_model(ops in prop::collection::vec(op(), 1..120)) {
        let mut model = Model::new();
        for op in &ops {
            model.run(op);
            model.check();
        }
        model.reap_all();
        model.check();

        let mut told = model.told.clone();
        let mut to_tell = model.to_tell.clone();
        told.sort();
        to_tell.sort();
        prop_assert_eq!(told, to_tell);

        // The quota covers what is in the tree: the living, and those that the living
        // were derived from.
        let living = model.nodes.iter().filter(|n| !n.dead && n.held.is_some()).count() - 1;
        prop_assert_eq!(model.owner.capabilities() as usize, living);
        prop_assert!(model.meter.used() as usize >= living);

        // Bytes accounted to the dead after they were reaped are nobody's.
        for node in &mut model.nodes {
            if let Some(held) = node.held.take_if(|_| node.dead) {
                drop(held);
            }
        }
        for node in &mut model.nodes {
            drop(node.held.take());
        }
        prop_assert_eq!(model.meter.used(), 0);
        prop_assert_eq!(model.owner.capabilities(), 0);
        prop_assert_eq!(model.owner.tree().entries_in_use(), 1, "all but the list of roots");
    }

    #[test]
    fn no_byte_counted_is_forgotten(ops in prop::collection::vec(op(), 1..80)) {
        let mut model = Model::new();
        for op in &ops {
            // Accounting to what is not usable does not happen: no resolve, no bytes.
            if let Op::Account(i, _) = op {
                let node = &model.nodes[i.index(model.nodes.len())];
                if node.dead || node.held.is_none() {
                    continue;
                }
            }
            model.run(op);
            model.reap_all();
            model.check_traffic();
        }
    }
}

#[test]
fn a_tombstone_kept_by_its_holder_costs_the_owner_nothing() {
    let owner = Owner::new(1);
    let root = Capability::root(&owner, space());
    let meter = Meter::new(2);
    let own = root
        .capability()
        .derive(terms(0, 64, Rights::ALL), holder(1), meter.charge())
        .unwrap();
    let given = own
        .capability()
        .derive(terms(0, 64, Rights::READ), holder(2), meter.charge())
        .unwrap();
    assert!(meter.charge().is_none());

    let mut grave = owner.revoke(&own, BY_OWNER);
    let mut told = Vec::new();
    assert!(grave.reap(100, |h| told.push(h)));
    assert_eq!(told, [holder(2), holder(1)]);
    drop(own);
    assert_eq!(meter.used(), 0);
    assert_eq!(given.state(), State::Revoked);
}

#[test]
fn an_unneeded_chain_goes_as_soon_as_its_last_descendant_does() {
    let owner = Owner::new(1);
    let root = Capability::root(&owner, space());
    let meter = Meter::new(16);
    let mut chain = vec![];
    let mut at = Arc::clone(root.capability());
    for i in 0..16 {
        let held = at
            .derive(terms(0, 64, Rights::ALL), holder(i), meter.charge())
            .unwrap();
        at = Arc::clone(held.capability());
        chain.push(held);
    }
    let last = chain.pop().unwrap();
    chain.clear();
    assert_eq!((meter.used(), owner.capabilities()), (16, 1));
    assert!(last.is_valid());
    drop(last);
    assert_eq!(meter.used(), 0);
}

#[test]
fn expiry_and_byte_quota_bind_descendants() {
    let owner = Owner::new(1);
    let root = Capability::root(&owner, space());
    let limited = root
        .capability()
        .derive(
            Terms {
                byte_quota: 100,
                ..terms(0, 1000, Rights::ALL)
            },
            holder(1),
            None,
        )
        .unwrap();
    let child = limited
        .capability()
        .derive(
            Terms {
                byte_quota: 1000,
                ..terms(0, 1000, Rights::ALL)
            },
            holder(2),
            None,
        )
        .unwrap();
    assert!(child.within_limits(100));
    assert!(!child.within_limits(101));
    child.account(40, 20);
    assert!(!limited.within_limits(41));
    assert!(limited.within_limits(40));
    limited.account(0, 40);
    assert_eq!(child.state(), State::Expired);
    assert_eq!(limited.state(), State::Expired);

    const LIFETIME: Duration = Duration::from_millis(20);
    let lives = |lifetime_ns| Terms {
        lifetime_ns,
        ..terms(0, 1000, Rights::ALL)
    };
    // Another one, should this thread have been without a core for the whole of its life.
    let (_mortal, child) = loop {
        let began = Instant::now();
        let lifetime_ns = LIFETIME.as_nanos() as u64;
        let mortal = root
            .capability()
            .derive(lives(lifetime_ns), holder(3), None);
        let mortal = mortal.unwrap();
        let child = mortal.capability().derive(lives(u64::MAX), holder(4), None);
        let state = child.as_ref().map(|child| child.state());
        if began.elapsed() < LIFETIME {
            assert_eq!(state, Ok(State::Live));
            break (mortal, child.unwrap());
        }
    };
    std::thread::sleep(LIFETIME + Duration::from_millis(10));
    assert_eq!(child.state(), State::Expired);
    assert_eq!(
        child
            .capability()
            .derive(terms(0, 1, Rights::READ), holder(5), None)
            .unwrap_err(),
        DeriveError::Revoked
    );
    // Past its time is not revoked: an elder one is untouched.
    assert_eq!(root.state(), State::Live);
}

#[test]
fn what_dies_with_its_space_is_revoked() {
    let owner = Owner::new(1);
    let space = space();
    let root = Capability::root(&owner, Arc::clone(&space));
    let c = root
        .capability()
        .derive(terms(5, 10, Rights::READ), holder(1), None)
        .unwrap();
    assert_eq!(c.state(), State::Live);
    space.kill();
    assert_eq!(c.state(), State::Revoked);
}

/// A grace period that began earlier would let a chunk begin behind it, under the right.
#[test]
fn the_right_has_ended_when_its_grace_period_may_begin() {
    let owner = Owner::new(1);
    let root = Capability::root(&owner, space());
    let derive = || {
        root.capability()
            .derive(terms(0, 64, Rights::ALL), holder(1), None)
    };
    let own = derive().unwrap();
    let epoch = owner.epoch();
    let (mut grave, seen) =
        owner.revoke_then(&own, BY_OWNER, || (own.state(), owner.epoch() != epoch));
    assert_eq!(seen, (State::Revoked, true));
    assert!(grave.reap(100, |_| ()));
}
