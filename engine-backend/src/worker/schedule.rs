//! Whose turn it is: deficit round robin over domains, and over the queues of each.
//!
//! Pure bookkeeping on numbers: it reads no ring and no clock, so that fairness is
//! tested on a virtual clock. Each turn is one chunk. A domain, and in it a queue, is
//! served for as long as it has credit and work; credit is granted per round and spent by
//! the work done (bytes plus a fixed cost per operation). Who overdraws pays in the next
//! rounds; who runs out of work keeps nothing.
//!
//! What it guarantees: between two turns of a domain with work, each other domain gets
//! one grant and one chunk at most, however many queues it has; the same among the queues
//! of a domain.

use crate::ops::budget::CHUNK_BYTES;

/// What a domain may spend in a round.
const DOMAIN_GRANT: i64 = CHUNK_BYTES as i64;

/// What a queue may spend in a round of its domain: a whole chunk, so that a domain's
/// only queue is served in long ones.
const QUEUE_GRANT: i64 = CHUNK_BYTES as i64;

/// Names a queue: the worker's index of it.
pub(crate) type Key = usize;

#[derive(Debug)]
struct Queue {
    key: Key,
    credit: i64,
}

#[derive(Debug)]
struct Domain {
    id: u32,
    paused: bool,
    credit: i64,
    queues: Vec<Queue>,
    cursor: usize,
}

/// The queue whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Which.
    pub(crate) key: Key,
    /// Work that it may do in this chunk.
    pub(crate) budget: u64,
}

/// Queues that are polled, by domain.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    domains: Vec<Domain>,
    cursor: usize,
}

impl Schedule {
    /// Adds a queue to the polled ones.
    pub(crate) fn add(&mut self, domain: u32, key: Key) {
        let domain = self.domain(domain);
        domain.queues.push(Queue { key, credit: 0 });
    }

    /// Takes a queue out.
    pub(crate) fn remove(&mut self, domain: u32, key: Key) {
        let Some(d) = self.domains.iter().position(|d| d.id == domain) else {
            return;
        };
        let Domain { queues, cursor, .. } = &mut self.domains[d];
        if let Some(q) = queues.iter().position(|q| q.key == key) {
            queues.remove(q);
            *cursor = cursor_without(*cursor, q, queues.len());
        }
        self.forget_if_empty(d);
    }

    /// Stops or goes on giving turns to a domain.
    pub(crate) fn set_paused(&mut self, domain: u32, paused: bool) {
        self.domain(domain).paused = paused;
        if let Some(d) = self.domains.iter().position(|d| d.id == domain) {
            self.forget_if_empty(d);
        }
    }

    /// Whether anything is to be polled.
    pub(crate) fn is_idle(&self) -> bool {
        self.domains.iter().all(|d| d.paused || d.queues.is_empty())
    }

    /// Queues that are polled, paused ones left out.
    pub(crate) fn polled(&self) -> impl Iterator<Item = Key> {
        self.domains
            .iter()
            .filter(|d| !d.paused)
            .flat_map(|d| d.queues.iter().map(|q| q.key))
    }

    /// The next queue that has work, as `ready` says; each is asked twice at most.
    #[inline]
    pub(crate) fn next(&mut self, mut ready: impl FnMut(Key) -> bool) -> Option<Turn> {
        // One more than there are: the first may be out of credit and come again.
        for _ in 0..=self.domains.len() {
            let domain = self.domains.get_mut(self.cursor)?;
            if !domain.paused && domain.credit > 0 {
                if let Some(turn) = domain.next(&mut ready) {
                    return Some(turn);
                }
                domain.credit = 0;
            }
            self.next_domain();
        }
        None
    }

    /// Charges the queue that [`Self::next`] named for the work done.
    #[inline]
    pub(crate) fn charge(&mut self, cost: u64) {
        if let Some(domain) = self.domains.get_mut(self.cursor) {
            domain.credit -= cost as i64;
            if let Some(queue) = domain.queues.get_mut(domain.cursor) {
                queue.credit -= cost as i64;
            }
        }
    }

    fn next_domain(&mut self) {
        self.cursor += 1;
        if self.cursor >= self.domains.len() {
            self.cursor = 0;
        }
        if let Some(domain) = self.domains.get_mut(self.cursor) {
            domain.credit = (domain.credit + DOMAIN_GRANT).min(DOMAIN_GRANT);
        }
    }

    fn domain(&mut self, id: u32) -> &mut Domain {
        let at = match self.domains.iter().position(|d| d.id == id) {
            Some(at) => at,
            None => {
                self.domains.push(Domain {
                    id,
                    paused: false,
                    credit: 0,
                    queues: Vec::new(),
                    cursor: 0,
                });
                self.domains.len() - 1
            }
        };
        &mut self.domains[at]
    }

    /// A domain without queues is kept only for as long as it is paused.
    fn forget_if_empty(&mut self, at: usize) {
        if self.domains[at].queues.is_empty() && !self.domains[at].paused {
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
    #[inline]
    fn next(&mut self, ready: &mut impl FnMut(Key) -> bool) -> Option<Turn> {
        for _ in 0..=self.queues.len() {
            let credit = self.credit;
            let queue = self.queues.get_mut(self.cursor)?;
            if queue.credit > 0 {
                if ready(queue.key) {
                    return Some(Turn {
                        key: queue.key,
                        budget: queue.credit.min(credit) as u64,
                    });
                }
                queue.credit = 0;
            }
            self.next_queue();
        }
        None
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::budget::OPERATION_COST;
    use proptest::prelude::*;

    /// A queue on the virtual clock: `size` bytes an operation, `backlog` of them.
    struct Fake {
        domain: u32,
        size: u64,
        backlog: u64,
        served: u64,
    }

    /// Gives turns until `until` units of work are done; one unit takes one tick.
    fn run(fakes: &mut [Fake], schedule: &mut Schedule, until: u64) -> Vec<(Key, u64)> {
        let mut now = 0;
        let mut log = Vec::new();
        while now < until {
            let Some(turn) = schedule.next(|key| fakes[key].backlog > 0) else {
                break;
            };
            let fake = &mut fakes[turn.key];
            let mut spent = 0;
            while spent < turn.budget && fake.backlog > 0 {
                spent += (fake.size + OPERATION_COST).min(turn.budget - spent + 4096);
                fake.backlog -= 1;
                fake.served += 1;
            }
            schedule.charge(spent);
            now += spent;
            log.push((turn.key, spent));
        }
        log
    }

    fn setup(kinds: &[(u32, u64, u64)]) -> (Vec<Fake>, Schedule) {
        let mut schedule = Schedule::default();
        let fakes = kinds
            .iter()
            .enumerate()
            .map(|(key, &(domain, size, backlog))| {
                schedule.add(domain, key);
                Fake {
                    domain,
                    size,
                    backlog,
                    served: 0,
                }
            })
            .collect();
        (fakes, schedule)
    }

    fn work_of(log: &[(Key, u64)], fakes: &[Fake], domain: u32) -> u64 {
        log.iter()
            .filter(|(key, _)| fakes[*key].domain == domain)
            .map(|(_, spent)| spent)
            .sum()
    }

    #[test]
    fn domains_share_whatever_their_queues_and_sizes() {
        // One queue of tiny operations against eight of large ones.
        let mut kinds = vec![(1, 64, u64::MAX)];
        kinds.extend([(2, 1 << 20, u64::MAX); 8]);
        let (mut fakes, mut schedule) = setup(&kinds);
        let log = run(&mut fakes, &mut schedule, 100 << 20);
        let (a, b) = (work_of(&log, &fakes, 1), work_of(&log, &fakes, 2));
        let share = a as f64 / (a + b) as f64;
        assert!((0.49..0.51).contains(&share), "{share}");
        // Among the eight too.
        let served: Vec<_> = fakes[1..].iter().map(|f| f.served).collect();
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(most - least <= 2, "{served:?}");
    }

    #[test]
    fn a_flood_delays_a_newcomer_by_one_chunk() {
        let (mut fakes, mut schedule) = setup(&[(1, 64, 0), (2, 1 << 20, u64::MAX)]);
        run(&mut fakes, &mut schedule, 10 << 20);
        fakes[0].backlog = 1;
        let log = run(&mut fakes, &mut schedule, 1 << 20);
        let before: u64 = log
            .iter()
            .take_while(|(key, _)| *key != 0)
            .map(|(_, spent)| spent)
            .sum();
        assert!(before <= CHUNK_BYTES + 8192, "{before}");
    }

    #[test]
    fn one_queue_alone_gets_whole_chunks() {
        let (mut fakes, mut schedule) = setup(&[(1, 1 << 20, u64::MAX)]);
        let log = run(&mut fakes, &mut schedule, 64 << 20);
        let mean = log.iter().map(|(_, s)| s).sum::<u64>() / log.len() as u64;
        assert!(mean > CHUNK_BYTES * 3 / 4, "{mean}");
    }

    #[test]
    fn paused_domains_get_no_turn() {
        let (mut fakes, mut schedule) = setup(&[(1, 64, 100), (2, 64, 100)]);
        schedule.set_paused(1, true);
        run(&mut fakes, &mut schedule, u64::MAX);
        assert_eq!((fakes[0].served, fakes[1].served), (0, 100));
        assert!(!schedule.is_idle());
        schedule.remove(2, 1);
        assert!(schedule.is_idle());
        schedule.set_paused(1, false);
        run(&mut fakes, &mut schedule, u64::MAX);
        assert_eq!(fakes[0].served, 100);
    }

    #[test]
    fn a_pause_outlives_the_queues() {
        let mut schedule = Schedule::default();
        schedule.set_paused(7, true);
        schedule.add(7, 0);
        assert_eq!(schedule.next(|_| true), None);
        schedule.remove(7, 0);
        schedule.add(7, 1);
        assert_eq!(schedule.next(|_| true), None);
        schedule.set_paused(7, false);
        assert_eq!(schedule.next(|_| true).map(|t| t.key), Some(1));
    }

    proptest! {
        /// Whatever comes and goes, every queue with work is served, and nobody else.
        #[test]
        fn nobody_is_forgotten(
            steps in proptest::collection::vec((0_u8..4, 0_u32..4, 0_usize..12), 1..80),
        ) {
            let mut schedule = Schedule::default();
            let mut present: Vec<(u32, Key)> = Vec::new();
            let mut next_key = 0;
            for (what, domain, which) in steps {
                match what {
                    0 | 1 => {
                        schedule.add(domain, next_key);
                        present.push((domain, next_key));
                        next_key += 1;
                    }
                    2 if !present.is_empty() => {
                        let (domain, key) = present.swap_remove(which % present.len());
                        schedule.remove(domain, key);
                    }
                    _ => {
                        if let Some(turn) = schedule.next(|key| key % 3 == which % 3) {
                            schedule.charge(turn.budget + 100);
                        }
                    }
                }
                let mut wanted: Vec<Key> = present.iter().map(|(_, key)| *key).collect();
                let mut polled: Vec<Key> = schedule.polled().collect();
                wanted.sort_unstable();
                polled.sort_unstable();
                prop_assert_eq!(&wanted, &polled);
                for &key in &wanted {
                    let found = schedule.next(|k| k == key).map(|turn| turn.key);
                    prop_assert_eq!(found, Some(key));
                }
            }
        }
    }
}
