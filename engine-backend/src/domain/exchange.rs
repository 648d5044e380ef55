//! [`Exchange`]: capabilities on their way from one domain to another.

use std::collections::BTreeMap;
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
    offers: Mutex<BTreeMap<u64, Offer>>,
}

impl Exchange {
    pub(super) fn add(&self, id: u64, offer: Offer) {
        self.offers().insert(id, offer);
    }
    /// Takes an offer that was made to `to`.
    pub(super) fn accept(&self, id: u64, to: u32) -> Option<Offer> {
        let mut offers = self.offers();
        if offers.get(&id)?.to != to {
            return None;
        }
        offers.remove(&id)
    }
    /// Takes an offer back.
    pub(super) fn withdraw(&self, id: u64) -> Option<Offer> {
        self.offers().remove(&id)
    }
    /// Takes back all that match.
    pub(super) fn withdraw_where(&self, matches: impl Fn(&Offer) -> bool) -> Vec<Offer> {
        let mut offers = self.offers();
        let ids: Vec<_> = offers
            .iter()
            .filter_map(|(&id, offer)| matches(offer).then_some(id))
            .collect();
        ids.iter().filter_map(|id| offers.remove(id)).collect()
    }
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offers().len()
    }
    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn offers(&self) -> MutexGuard<'_, BTreeMap<u64, Offer>> {
        // Each change is one insertion or removal.
        self.offers.lock().unwrap_or_else(|e| e.into_inner())
    }
}
