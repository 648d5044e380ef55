//! Whose turn it is: weighted deficit round robin over domains, and over the queues of
//! each.
//!
//! Pure bookkeeping on numbers: it reads no ring and no clock, so that fairness is
//! tested on a virtual clock. Each turn is one chunk. A domain, and in it a queue, is
//! served for as long as it has credit and work; credit is granted per round, to domains
//! in proportion to their weights, and spent by the work done (bytes plus a fixed cost per
//! operation, or the time it took if that is more). Who overdraws pays in the next rounds;
//! who runs out of work keeps nothing. A domain past its rate limit is passed over.
//!
//! To ask a queue for work takes time as well, a miss of the cache where there are many.
//! A domain is asked for what its credit pays for, and [`LOOKS_MAX`] times at most, before
//! the next one has its turn; where the search has stopped it goes on.
//!
//! What it guarantees: between two turns of a domain with work, each other domain gets
//! one grant and one chunk at most, the search for its work included, however many queues
//! it has; the same among the queues of a domain. The heaviest domain's grant is one chunk,
//! so weights make nobody wait for longer than equal ones do.

use std::sync::Arc;

use super::account::Account;
use crate::ops::budget::{CHUNK_BYTES, LONE_BYTES, OPERATION_COST};

/// What the heaviest domain may spend in a round: a whole chunk of one operation, so that such
/// operations, one after the other, do not slip across chunks.
const DOMAIN_GRANT: i64 = (CHUNK_BYTES + OPERATION_COST) as i64;

/// What a queue may spend in a round of its domain: a whole chunk, so that a domain's
/// only queue is served in long ones.
const QUEUE_GRANT: i64 = (CHUNK_BYTES + OPERATION_COST) as i64;

/// Credit that is not worth a turn: what is left when an operation took a chunk's bytes and went on.
const SPARE: i64 = OPERATION_COST as i64;

/// Shortest turn: a light domain is served in few turns of this length rather than in
/// many that are hardly worth the change, and owes the rest.
const TURN_MIN: i64 = 4 << 10;

/// Queues of a domain that are passed, with work or without, in one visit at most.
const LOOKS_MAX: usize = 64;

/// What a look at a queue without work costs, in bytes: what is moved meanwhile if its ring
/// has to come from memory. A visit without success so costs a quarter of a chunk at most.
const LOOK_COST: i64 = 256;

/// From so many looks without success on it is worth a look at the clock to keep the time
/// that they took from whoever comes next.
const LOOKS_UNTIMED: u32 = 8;

/// Rounds that one look for work goes at most, so that a domain that owes much gets its
/// turn at once when nobody else has work.
const ROUNDS_MAX: u32 = 64;

/// Names a queue: the worker's index of it.
pub(crate) type Key = usize;

#[derive(Debug)]
struct Queue {
    key: Key,
    credit: i64,
}

/// What stands between a domain and its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Open for as long as its account says so.
    Limited,
    Paused,
}

#[derive(Debug)]
struct Domain {
    id: u32,
    gate: Gate,
    credit: i64,
    grant: i64,
    queues: Vec<Queue>,
    cursor: usize,
    /// Queues passed without success in the search numbered `search`.
    passed: usize,
    search: u64,
    /// Ticks that its turns took, not yet told its account.
    busy: u64,
    /// `None` until it has a queue.
    account: Option<Arc<Account>>,
}

/// The queue whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Which.
    pub(crate) key: Key,
    /// Work that it may do in this chunk: [`LONE_BYTES`] where no other queue is polled.
    pub(crate) budget: u64,
    /// The search took so long that its time is not to be charged to this turn: those
    /// whose queues were asked have paid for it.
    pub(crate) was_searched_for: bool,
}

/// What a visit to a domain came to.
enum Visit {
    /// A queue with work, and what it may spend.
    Found(Key, u64),
    /// None of its queues has work.
    Idle,
    /// Not all of them were asked yet.
    Unfinished,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bill {
    /// Work charged, in bytes.
    pub(crate) cost: u64,
    /// Bytes done.
    pub(crate) bytes: u64,
    /// Operations done.
    pub(crate) operations: u64,
    /// Ticks that it took.
    pub(crate) busy: u64,
}

/// Queues that are polled, by domain.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    domains: Vec<Domain>,
    cursor: usize,
    /// Number of the last search for work.
    search: u64,
    /// Place of each key among its domain's queues; of no meaning for those in none.
    places: Vec<usize>,
}

impl Schedule {
    /// Adds a queue to the polled ones.
    pub(crate) fn add(&mut self, domain: u32, key: Key, account: &Arc<Account>) {
        if self.places.len() <= key {
            self.places.resize(key + 1, 0);
        }
        let at = self.place_of(domain);
        let domain = &mut self.domains[at];
        self.places[key] = domain.queues.len();
        domain.queues.push(Queue { key, credit: 0 });
        if domain.account.is_none() {
            domain.account = Some(Arc::clone(account));
        }
        self.refresh();
    }

    /// Takes a queue out.
    pub(crate) fn remove(&mut self, domain: u32, key: Key) {
        let Some(d) = self.domains.iter().position(|d| d.id == domain) else {
            return;
        };
        let Domain { queues, cursor, .. } = &mut self.domains[d];
        if let Some(&place) = self.places.get(key)
            && queues.get(place).is_some_and(|q| q.key == key)
        {
            // The last one takes its place: thousands may be taken out in a row.
            queues.swap_remove(place);
            if let Some(moved) = queues.get(place) {
                self.places[moved.key] = place;
            }
            if *cursor >= queues.len() {
                *cursor = 0;
            }
        }
        self.forget_if_empty(d);
        self.refresh();
    }

    /// Stops or goes on giving turns to a domain.
    pub(crate) fn set_paused(&mut self, domain: u32, paused: bool) {
        let at = self.place_of(domain);
        self.domains[at].gate = if paused { Gate::Paused } else { Gate::Open };
        self.forget_if_empty(at);
        self.refresh();
    }

    /// Takes over what the domains' accounts say by now, and tells them what time was
    /// spent. To be called now and then: weights and limits are changed at run time.
    pub(crate) fn refresh(&mut self) {
        let mut heaviest = 1;
        for domain in &mut self.domains {
            domain.settle();
            if let Some(account) = &domain.account
                && domain.gate != Gate::Paused
            {
                heaviest = heaviest.max(account.weight());
                domain.gate = match account.is_limited() {
                    true => Gate::Limited,
                    false => Gate::Open,
                };
            }
        }
        for domain in &mut self.domains {
            let weight = domain.account.as_ref().map_or(1, |a| a.weight());
            // A weight is 1 at least and its maximum is small, so nobody's grant is 0.
            domain.grant = (DOMAIN_GRANT * i64::from(weight) / i64::from(heaviest)).max(1);
        }
    }

    /// Whether anything is to be polled.
    pub(crate) fn is_idle(&self) -> bool {
        self.domains
            .iter()
            .all(|d| d.gate == Gate::Paused || d.queues.is_empty())
    }

    /// Queues that are polled, paused ones left out.
    pub(crate) fn polled(&self) -> impl Iterator<Item = Key> {
        self.domains
            .iter()
            .filter(|d| d.gate != Gate::Paused)
            .flat_map(|d| d.queues.iter().map(|q| q.key))
    }

    /// The next queue that has work, as `ready` says, at the tick `now`; each is asked
    /// twice a round at most. `None` after [`ROUNDS_MAX`] rounds too, while some have not
    /// been asked: they come first the next time.
    #[inline]
    pub(crate) fn next(&mut self, now: u64, mut ready: impl FnMut(Key) -> bool) -> Option<Turn> {
        let is_lone = self.is_lone();
        self.search += 1;
        let mut looks = 0;
        for _ in 0..ROUNDS_MAX {
            let mut is_over = true;
            // One more than there are: the first may be out of credit and come again.
            for _ in 0..=self.domains.len() {
                let domain = self.domains.get_mut(self.cursor)?;
                if domain.gate == Gate::Open || domain.is_let_through(now) {
                    if domain.has_credit() {
                        match domain.visit(self.search, &mut ready, &mut looks) {
                            Visit::Found(key, budget) => {
                                return Some(Turn {
                                    key,
                                    budget: if is_lone { LONE_BYTES } else { budget },
                                    was_searched_for: looks > LOOKS_UNTIMED,
                                });
                            }
                            Visit::Idle => {}
                            Visit::Unfinished => is_over = false,
                        }
                        domain.credit = 0;
                    } else {
                        is_over &= domain.credit == 0;
                    }
                }
                self.next_domain();
            }
            if is_over {
                break;
            }
        }
        None
    }

    /// Charges the queue that [`Self::next`] named for what it did up to the tick `now`.
    #[inline]
    pub(crate) fn charge(&mut self, now: u64, bill: &Bill) {
        // A queue that nobody waited for owes nobody anything who comes later.
        let is_lone = self.is_lone();
        if let Some(domain) = self.domains.get_mut(self.cursor) {
            let cost = bill.cost as i64;
            let cost = if is_lone {
                cost.min(domain.grant)
            } else {
                cost
            };
            domain.credit -= cost;
            domain.busy += bill.busy;
            if let Some(queue) = domain.queues.get_mut(domain.cursor) {
                queue.credit -= cost;
            }
            if domain.gate == Gate::Limited {
                domain.charge_account(now, bill);
            }
        }
    }

    /// Whether there is one queue only, of a domain without limits, so that its turns keep nobody from theirs.
    #[inline]
    fn is_lone(&self) -> bool {
        match &self.domains[..] {
            [domain] => domain.gate == Gate::Open && domain.queues.len() == 1,
            _ => false,
        }
    }

    fn next_domain(&mut self) {
        self.cursor += 1;
        if self.cursor >= self.domains.len() {
            self.cursor = 0;
        }
        if let Some(domain) = self.domains.get_mut(self.cursor) {
            domain.credit = (domain.credit + domain.grant).min(domain.grant);
        }
    }

    /// Where a domain is; it is made if it is not there.
    fn place_of(&mut self, id: u32) -> usize {
        match self.domains.iter().position(|d| d.id == id) {
            Some(at) => at,
            None => {
                self.domains.push(Domain {
                    id,
                    gate: Gate::Open,
                    credit: 0,
                    grant: DOMAIN_GRANT,
                    queues: Vec::new(),
                    cursor: 0,
                    passed: 0,
                    search: 0,
                    busy: 0,
                    account: None,
                });
                self.domains.len() - 1
            }
        }
    }

    /// A domain without queues is kept only for as long as it is paused.
    fn forget_if_empty(&mut self, at: usize) {
        if self.domains[at].queues.is_empty() && self.domains[at].gate != Gate::Paused {
            self.domains[at].settle();
            self.domains.remove(at);
            self.cursor = cursor_without(self.cursor, at, self.domains.len());
        }
    }
}

/// Where a cursor stands after the entry `removed` is gone and `len` are left.
fn cursor_without(cursor: usize, removed: usize, len: usize) -> usize {
    let cursor = cursor - usize::from(removed < cursor);
    if cursor < len { cursor } else { 0 }
}

impl Domain {
    /// Asks its queues for work, for as long as its credit pays for it. Counts in `looks`
    /// those that have none.
    #[inline]
    fn visit(
        &mut self,
        search: u64,
        ready: &mut impl FnMut(Key) -> bool,
        looks: &mut u32,
    ) -> Visit {
        for _ in 0..LOOKS_MAX {
            let Some(queue) = self.queues.get_mut(self.cursor) else {
                return Visit::Idle;
            };
            if queue.credit > SPARE {
                if ready(queue.key) {
                    let budget = queue.credit.min(self.credit).max(TURN_MIN);
                    return Visit::Found(queue.key, budget as u64);
                }
                queue.credit = 0;
                *looks += 1;
                self.credit -= LOOK_COST;
            }
            self.next_queue();
            if self.search != search {
                (self.search, self.passed) = (search, 0);
            }
            self.passed += 1;
            // One more than there are: the first may be out of credit and come again.
            if self.passed > self.queues.len() {
                return Visit::Idle;
            }
            if self.credit <= 0 {
                break;
            }
        }
        Visit::Unfinished
    }

    /// Whether it is to be asked for work. A light domain is for whatever it has got: its grant may be less than what is
    /// spared.
    #[inline]
    fn has_credit(&self) -> bool {
        self.credit > if self.grant > 2 * SPARE { SPARE } else { 0 }
    }

    fn next_queue(&mut self) {
        self.cursor += 1;
        if self.cursor >= self.queues.len() {
            self.cursor = 0;
        }
        if let Some(queue) = self.queues.get_mut(self.cursor) {
            queue.credit = (queue.credit + QUEUE_GRANT).min(QUEUE_GRANT);
        }
    }

    #[cold]
    fn is_let_through(&self, now: u64) -> bool {
        self.gate == Gate::Limited && self.account.as_ref().is_none_or(|a| a.may_go(now))
    }

    #[cold]
    fn charge_account(&self, now: u64, bill: &Bill) {
        if let Some(account) = &self.account {
            account.spend(now, bill.bytes, bill.operations);
        }
    }

    /// Tells the account what time was spent.
    fn settle(&mut self) {
        if let Some(account) = &self.account {
            account.add_busy(std::mem::take(&mut self.busy));
        }
    }
}

#[cfg(test)]
mod tests;
