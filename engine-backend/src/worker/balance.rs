//! Which queue goes to which worker.
//!
//! A new queue goes to the worker that has the fewest. That says little about work, so
//! the workers are looked at now and then: when one is short of time while another has
//! plenty, one queue moves, the one that evens the two out best. One at a time, so that
//! what it brings is seen before the next one moves; and never a worker's only busy queue,
//! which would take its load along.
//!
//! Pure policy on numbers; [`super::Workers::rebalance`] carries it out.

/// A queue of the busiest worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its number.
    pub(super) queue: u32,
    /// Work that it did in the time looked at.
    pub(super) work: u64,
}

/// The workers to take from and to give to, if it is worth while: the busiest one was
/// busy for three quarters of `window` or more, and for a quarter of it more than the
/// least busy one.
pub(super) fn pair(busy: &[u64], window: u64) -> Option<(usize, usize)> {
    let from = (0..busy.len()).max_by_key(|&w| busy[w])?;
    let to = (0..busy.len()).min_by_key(|&w| busy[w])?;
    let is_short = busy[from] >= window - window / 4;
    let differs = busy[from] - busy[to] >= (window / 4).max(1);
    (is_short && differs).then_some((from, to))
}

/// The queue to move from a worker that was busy for `from` to one that was for `to`.
pub(super) fn choose(from: u64, to: u64, candidates: &[Candidate]) -> Option<u32> {
    let total: u128 = candidates.iter().map(|c| u128::from(c.work)).sum();
    let gap = u128::from(from.checked_sub(to)?);
    candidates
        .iter()
        .filter_map(|c| {
            // Its part of the busy time.
            let busy = (u128::from(from) * u128::from(c.work)).checked_div(total)?;
            let is_worth_it = busy * 8 >= gap && busy < gap;
            is_worth_it.then(|| (c.queue, busy.abs_diff(gap / 2)))
        })
        .min_by_key(|&(_, off)| off)
        .map(|(queue, _)| queue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(work: &[u64]) -> Vec<Candidate> {
        let numbered = (0..).zip(work);
        numbered
            .map(|(queue, &work)| Candidate { queue, work })
            .collect()
    }

    #[test]
    fn who_has_time_gives_nothing_away() {
        assert_eq!(pair(&[70, 0], 100), None);
        assert_eq!(pair(&[100, 80], 100), None);
        assert_eq!(pair(&[0, 0], 0), None);
        assert_eq!(pair(&[100], 100), None);
        assert_eq!(pair(&[30, 100, 20], 100), Some((1, 2)));
    }

    #[test]
    fn the_queue_that_evens_out_best_moves() {
        assert_eq!(choose(100, 0, &candidates(&[10, 40, 50])), Some(2));
        assert_eq!(choose(100, 60, &candidates(&[10, 20, 70])), Some(1));
    }

    #[test]
    fn the_only_busy_queue_stays() {
        assert_eq!(choose(100, 0, &candidates(&[1000])), None);
        assert_eq!(choose(100, 0, &candidates(&[1000, 0, 0])), None);
        assert_eq!(choose(100, 0, &candidates(&[0, 0])), None);
        assert_eq!(choose(100, 0, &[]), None);
    }

    proptest! {
        /// Moving again and again comes to an end, and no move makes the busiest busier.
        #[test]
        fn it_settles(
            work in proptest::collection::vec((0_usize..4, 1_u64..1000), 1..40),
        ) {
            let mut queues = work;
            let loads = |queues: &[(usize, u64)]| {
                let mut loads = [0_u64; 4];
                queues.iter().for_each(|&(worker, work)| loads[worker] += work);
                loads
            };
            let window = *loads(&queues).iter().max().unwrap_or(&0);
            let mut moves = 0;
            loop {
                let busy = loads(&queues);
                let Some((from, to)) = pair(&busy, window) else { break };
                let of: Vec<_> = (0..)
                    .zip(&queues)
                    .filter(|(_, q)| q.0 == from)
                    .map(|(queue, q)| Candidate { queue, work: q.1 })
                    .collect();
                let Some(queue) = choose(busy[from], busy[to], &of) else { break };
                queues[queue as usize].0 = to;
                let after = loads(&queues);
                prop_assert!(after[from].max(after[to]) < busy[from]);
                moves += 1;
                prop_assert!(moves < 200, "it goes on for ever");
            }
        }
    }
}
