//! [`Peers`]: which domains there are, and which may give access to which.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use byway_protocols::Rights;

use super::Domain;
use crate::capability::{Link, LinkTerms};

/// Domains by number and the links between them.
#[derive(Debug, Default)]
pub struct Peers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    domains: BTreeMap<u32, Weak<Domain>>,
    /// By giving and receiving domain.
    links: BTreeMap<(u32, u32), Arc<Link>>,
}

/// What two domains may give each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkRights {
    /// Rights that the asking one may give.
    pub out: Rights,
    /// Rights that it may be given.
    pub into: Rights,
}

impl Peers {
    /// Makes a domain known.
    pub fn add(&self, domain: &Arc<Domain>) {
        self.state()
            .domains
            .insert(domain.id(), Arc::downgrade(domain));
    }
    /// Forgets a domain and gives back its links, for the caller to end.
    #[must_use]
    pub fn remove(&self, id: u32) -> Vec<Arc<Link>> {
        let mut state = self.state();
        state.domains.remove(&id);
        let is_its = |from, to| from == id || to == id;
        let keys: Vec<_> = state.links.keys().copied().collect();
        keys.into_iter()
            .filter(|&(from, to)| is_its(from, to))
            .filter_map(|key| state.links.remove(&key))
            .collect()
    }
    /// A domain by number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Arc<Domain>> {
        self.state().domains.get(&id)?.upgrade()
    }
    /// A domain by name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Domain>> {
        self.all().into_iter().find(|d| d.name() == name)
    }
    /// All domains, by number.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Domain>> {
        let state = self.state();
        state.domains.values().filter_map(Weak::upgrade).collect()
    }
    /// The link along which `from` may give to `to`.
    #[must_use]
    pub fn link(&self, from: u32, to: u32) -> Option<Arc<Link>> {
        self.state().links.get(&(from, to)).cloned()
    }
    /// Permits what `terms` say along a link. Gives back the link that this narrows, for
    /// the caller to end.
    #[must_use]
    pub fn set_link(&self, from: u32, to: u32, terms: LinkTerms) -> Option<Arc<Link>> {
        let mut state = self.state();
        if let Some(link) = state.links.get(&(from, to))
            && terms.covers(&link.terms())
        {
            link.widen(terms);
            return None;
        }
        state
            .links
            .insert((from, to), Arc::new(Link::new(from, to, terms)))
    }
    /// Forgets a link and gives it back, for the caller to end.
    #[must_use]
    pub fn remove_link(&self, from: u32, to: u32) -> Option<Arc<Link>> {
        self.state().links.remove(&(from, to))
    }
    /// What `id` and `peer` may give each other; `None` when no link is between them.
    #[must_use]
    pub fn rights(&self, id: u32, peer: u32) -> Option<LinkRights> {
        let out = self.link(id, peer);
        let into = self.link(peer, id);
        if out.is_none() && into.is_none() {
            return None;
        }
        let rights = |link: Option<Arc<Link>>| link.map_or(Rights::NONE, |l| l.terms().rights);
        Some(LinkRights {
            out: rights(out),
            into: rights(into),
        })
    }
    /// Domains that a link connects with `id`.
    #[must_use]
    pub fn linked(&self, id: u32) -> Vec<Arc<Domain>> {
        let all = self.all();
        all.into_iter()
            .filter(|d| d.id() != id && self.rights(id, d.id()).is_some())
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one insertion or removal.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}
