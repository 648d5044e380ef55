//! [`Exchange`]: capabilities on their way from one domain to another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use crate::capability::{Charge, Held};

/// A capability that waits to be accepted.
#[derive(Debug)]
pub(super) struct Offer {
    /// Domain that made it.
    pub(super) from: u32,
    /// Domain that alone may accept it.
    pub(super) to: u32,
    /// Context and slot of what was offered.
    pub(super) source: (u32, u32),
    /// The capability to be had.
    pub(super) held: Held,
    /// Against the quota of whoever made it.
    pub(super) _charge: Charge,
}

/// All offers of an engine that wait, bounded by each domain's quota.
///
/// What is taken out is dropped by the caller, after the lock: that takes another.
#[derive(Debug, Default)]
pub struct Exchange {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    offers: BTreeMap<u64, Offer>,
    /// Offers that a domain has made or may accept, so that none has to look through
    /// those of others.
    of_domain: BTreeMap<u32, BTreeSet<u64>>,
}

impl State {
    fn add(&mut self, id: u64, offer: Offer) {
        for domain in [offer.from, offer.to] {
            self.of_domain.entry(domain).or_default().insert(id);
        }
        self.offers.insert(id, offer);
    }
    fn remove(&mut self, id: u64) -> Option<Offer> {
        let offer = self.offers.remove(&id)?;
        for domain in [offer.from, offer.to] {
            if let Some(ids) = self.of_domain.get_mut(&domain) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.of_domain.remove(&domain);
                }
            }
        }
        Some(offer)
    }
}

impl Exchange {
    pub(super) fn add(&self, id: u64, offer: Offer) {
        self.state().add(id, offer);
    }
    /// Takes an offer that was made to `to`.
    pub(super) fn accept(&self, id: u64, to: u32) -> Option<Offer> {
        let mut state = self.state();
        if state.offers.get(&id)?.to != to {
            return None;
        }
        state.remove(id)
    }
    /// Takes an offer back.
    pub(super) fn withdraw(&self, id: u64) -> Option<Offer> {
        self.state().remove(id)
    }
    /// Takes back all that a domain made from one of the sources that match.
    pub(super) fn withdraw_made(
        &self,
        from: u32,
        matches: impl Fn((u32, u32)) -> bool,
    ) -> Vec<Offer> {
        self.withdraw_where(from, |offer| offer.from == from && matches(offer.source))
    }
    /// Takes back all that a domain made or may accept.
    pub(super) fn withdraw_all(&self, domain: u32) -> Vec<Offer> {
        self.withdraw_where(domain, |_| true)
    }
    fn withdraw_where(&self, domain: u32, matches: impl Fn(&Offer) -> bool) -> Vec<Offer> {
        let mut state = self.state();
        let Some(ids) = state.of_domain.get(&domain) else {
            return Vec::new();
        };
        let is_match = |id: &u64| state.offers.get(id).is_some_and(&matches);
        let ids: Vec<_> = ids.iter().copied().filter(is_match).collect();
        ids.into_iter().filter_map(|id| state.remove(id)).collect()
    }
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().offers.len()
    }
    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between the map and its index would leave an offer that is not found by
        // domain: it can still be accepted or reaped, by number.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}
