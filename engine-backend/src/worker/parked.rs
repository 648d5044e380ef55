//! [`Parked`]: queues that are not polled, and the search for work in them after a kick.
//!
//! A kick says whose domain it comes from, not which queue has work. So the domain's
//! parked queues are looked at one by one, a bounded number between two turns, the ones
//! parked last first: who has just been busy is most likely to be it. Whoever has many
//! idle queues waits longer for its own, and delays nobody else.

use std::collections::{BTreeMap, VecDeque};

use super::schedule::Key;

/// Looks between two turns: about a microsecond of cache misses.
pub(super) const LOOKS: usize = 8;

/// A domain's parked queues.
#[derive(Debug, Default)]
struct Lot {
    keys: Vec<Key>,
    /// Where the search goes on, downwards; never beyond the end of the list, where queues that come later would be taken
    /// for those that are to be looked at.
    cursor: usize,
    /// How many are to be looked at yet; never more than there are.
    left: usize,
}

impl Lot {
    /// Whether the search will come to the start of the list and go on at its end.
    fn goes_over_the_end(&self) -> bool {
        self.left > self.cursor
    }
}

/// All parked queues of a worker.
#[derive(Debug, Default)]
pub(super) struct Parked {
    lots: BTreeMap<u32, Lot>,
    /// Place of each key in its lot; of no meaning for those in none.
    places: Vec<usize>,
    /// Domains that are searched, each once, in the order of their turns.
    searched: VecDeque<u32>,
}

impl Parked {
    /// Takes a queue in.
    pub(super) fn add(&mut self, domain: u32, key: Key) {
        let lot = self.lots.entry(domain).or_default();
        if self.places.len() <= key {
            self.places.resize(key + 1, 0);
        }
        self.places[key] = lot.keys.len();
        lot.keys.push(key);
        if lot.goes_over_the_end() {
            lot.left += 1;
        }
    }

    /// Takes a queue out, if it is in.
    pub(super) fn remove(&mut self, domain: u32, key: Key) {
        let Some(lot) = self.lots.get_mut(&domain) else {
            return;
        };
        let Some(&place) = self.places.get(key) else {
            return;
        };
        if lot.keys.get(place) != Some(&key) {
            return;
        }
        lot.keys.swap_remove(place);
        if let Some(&moved) = lot.keys.get(place) {
            self.places[moved] = place;
            // The search must not miss it, if it has yet to come to the end of the list, where that one was.
            let is_ahead = lot.cursor > lot.keys.len() || lot.goes_over_the_end();
            if lot.left > 0 && is_ahead {
                lot.left = lot.keys.len();
            }
        }
        lot.cursor = lot.cursor.min(lot.keys.len());
        lot.left = lot.left.min(lot.keys.len());
        if lot.keys.is_empty() {
            self.lots.remove(&domain);
            self.searched.retain(|&d| d != domain);
        }
    }

    /// A kick: every queue that the domain has parked is to be looked at from now on.
    pub(super) fn kick(&mut self, domain: u32) {
        let Some(lot) = self.lots.get_mut(&domain) else {
            return;
        };
        if lot.left == 0 {
            lot.cursor = lot.keys.len();
            self.searched.push_back(domain);
        }
        lot.left = lot.keys.len();
    }

    /// Kicks of all domains.
    pub(super) fn kick_all(&mut self) {
        let domains: Vec<u32> = self.lots.keys().copied().collect();
        for domain in domains {
            self.kick(domain);
        }
    }

    /// Whether a search is under way.
    pub(super) fn is_searching(&self) -> bool {
        !self.searched.is_empty()
    }

    /// Looks at up to [`LOOKS`] queues of the domain whose turn it is, and takes out those
    /// that have work, as `has_work` says and notes.
    pub(super) fn search(&mut self, mut has_work: impl FnMut(Key) -> bool) {
        let Some(domain) = self.searched.pop_front() else {
            return;
        };
        for _ in 0..LOOKS {
            let Some(lot) = self.lots.get_mut(&domain) else {
                return;
            };
            if lot.left == 0 {
                return;
            }
            lot.left -= 1;
            lot.cursor = match lot.cursor {
                0 => lot.keys.len() - 1,
                n => n - 1,
            };
            let key = lot.keys[lot.cursor];
            if has_work(key) {
                self.remove(domain, key);
            }
        }
        if self.lots.get(&domain).is_some_and(|lot| lot.left > 0) {
            self.searched.push_back(domain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn lot(count: usize) -> Parked {
        let mut parked = Parked::default();
        for key in 0..count {
            parked.add(1, key);
        }
        parked
    }

    #[test]
    fn the_one_parked_last_is_found_first() {
        let mut parked = lot(16_384);
        parked.kick(1);
        let mut looks = 0;
        parked.search(|key| {
            looks += 1;
            assert!(key >= 16_384 - LOOKS);
            key == 16_383
        });
        assert_eq!(looks, LOOKS);
        parked.add(1, 16_383);
    }

    #[test]
    fn a_search_is_cut_into_short_pieces_and_ends() {
        let mut parked = lot(1000);
        assert!(!parked.is_searching());
        parked.kick(1);
        let mut seen = BTreeSet::new();
        let mut pieces = 0;
        while parked.is_searching() {
            let mut looks = 0;
            parked.search(|key| {
                looks += 1;
                seen.insert(key);
                false
            });
            assert!(looks <= LOOKS);
            pieces += 1;
        }
        assert_eq!((seen.len(), pieces), (1000, 1000_usize.div_ceil(LOOKS)));
    }

    #[test]
    fn domains_take_turns() {
        let mut parked = lot(1000);
        parked.add(2, 1000);
        parked.kick_all();
        parked.search(|_| false);
        let mut found = false;
        parked.search(|key| {
            found |= key == 1000;
            false
        });
        assert!(found);
    }

    #[test]
    fn queues_that_replace_others_hide_none() {
        let mut parked = lot(10);
        parked.kick(1);
        for key in 5..10 {
            parked.remove(1, key);
        }
        // Of the five that are left, and of no other.
        parked.kick(1);
        for key in 10..15 {
            parked.add(1, key);
        }
        let mut seen = BTreeSet::new();
        while parked.is_searching() {
            parked.search(|key| {
                seen.insert(key);
                false
            });
        }
        assert!(seen.is_superset(&(0..5).collect()), "{seen:?}");
    }

    proptest! {
        /// Whatever comes, goes and kicks in between: what had work at a kick is found.
        #[test]
        fn no_work_is_missed(
            steps in proptest::collection::vec((0_u8..6, 0_u32..3, 0_usize..200), 1..400),
        ) {
            let mut parked = Parked::default();
            // Domain and key of each parked queue, and those with work at the last kick.
            let mut present: BTreeSet<(u32, Key)> = BTreeSet::new();
            let mut due: BTreeSet<(u32, Key)> = BTreeSet::new();
            for (what, domain, which) in steps {
                // A key stands for one queue of one domain.
                let key = which * 3 + domain as usize;
                match what {
                    0..=2 => {
                        if present.insert((domain, key)) {
                            parked.add(domain, key);
                        }
                    }
                    3 => {
                        parked.remove(domain, key);
                        present.remove(&(domain, key));
                        due.remove(&(domain, key));
                    }
                    4 => {
                        parked.kick(domain);
                        due.extend(present.iter().filter(|(d, k)| *d == domain && k % 5 == 0));
                    }
                    _ => parked.search(|key| {
                        let found = due.remove(&((key % 3) as u32, key));
                        if found {
                            present.remove(&((key % 3) as u32, key));
                        }
                        found
                    }),
                }
            }
            let mut looks = 0;
            while parked.is_searching() {
                parked.search(|key| {
                    let found = due.remove(&((key % 3) as u32, key));
                    if found {
                        present.remove(&((key % 3) as u32, key));
                    }
                    found
                });
                looks += 1;
                prop_assert!(looks < 10_000, "an endless search");
            }
            prop_assert!(due.is_empty(), "{due:?}");
            let parked: BTreeSet<_> = parked
                .lots
                .iter()
                .flat_map(|(&d, lot)| lot.keys.iter().map(move |&k| (d, k)))
                .collect();
            prop_assert_eq!(parked, present);
        }
    }
}
