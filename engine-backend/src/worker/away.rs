//! [`Away`]: a queue's descriptors that wait for devices, while those behind them go on; and what is to
//! be cancelled where something waits.

use std::sync::Arc;

use super::active::Flight;
use crate::endpoint::News;
use crate::queue::{Cancels, Wanted};

/// Most of them.
const AWAY_MAX: usize = 32;

/// A request to cancel that was begun with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doomed {
    pub(super) wanted: Wanted,
    /// It comes from the queue itself: what is behind it is not meant.
    pub(super) is_own: bool,
    /// Descriptors that may be taken to be cancelled yet.
    pub(super) left: u32,
    pub(super) cancelled: u32,
}

/// Descriptors that wait for devices.
#[derive(Debug)]
pub(super) struct Away {
    /// Room for [`AWAY_MAX`] is made when the first one comes: few queues ever have any.
    flights: Vec<Flight>,
    /// What had happened to devices when they were last gone through.
    seen: u64,
    /// The one that is next in this round, while it lasts.
    next: usize,
    /// Every one of this round has to look.
    thorough: bool,
    /// The one that waits for a page.
    asked: Option<usize>,
    cancels: Arc<Cancels>,
    /// Something waits in the queue, for a device, a port or a page: whoever asks to cancel is heard.
    is_waiting: bool,
    /// Under way.
    doomed: Option<Doomed>,
}

impl Away {
    /// None of a queue to which these are the requests to cancel.
    pub(super) fn new(cancels: &Arc<Cancels>) -> Self {
        Self {
            flights: Vec::new(),
            seen: 0,
            next: 0,
            thorough: false,
            asked: None,
            cancels: Arc::clone(cancels),
            is_waiting: false,
            doomed: None,
        }
    }
    pub(super) fn cancels(&self) -> &Arc<Cancels> {
        &self.cancels
    }
    /// Something waits in the queue.
    #[inline(always)]
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }
    /// Something waits in the queue from now on.
    pub(super) fn begins_to_wait(&mut self) {
        if !self.is_waiting {
            self.is_waiting = true;
            self.cancels.words().opens();
        }
    }
    /// Nothing waits in it any more.
    pub(super) fn waits_no_more(&mut self) {
        self.is_waiting = false;
        self.end_cancelling();
        self.cancels.words().closes();
    }
    /// It is to have no turns before it is rung for. False: somebody asks to cancel something.
    pub(super) fn falls_asleep(&self) -> bool {
        self.doomed.is_none() && self.cancels.words().sleeps()
    }
    /// It has turns again.
    pub(super) fn wakes_up(&self) {
        if self.is_waiting {
            self.cancels.words().opens();
        }
    }
    /// Whether something is to be cancelled.
    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.is_some() || self.cancels.words().is_asked()
    }
    /// Whether that was begun with.
    pub(super) fn is_cancelling(&self) -> bool {
        self.doomed.is_some()
    }
    /// What is to be cancelled, and whether that is new.
    pub(super) fn doomed(&mut self, entries: u32, is_own: bool) -> Option<(Doomed, bool)> {
        if let Some(doomed) = self.doomed {
            return Some((doomed, false));
        }
        let doomed = Doomed {
            wanted: self.cancels.words().take()?,
            is_own,
            left: if is_own { 0 } else { entries },
            cancelled: 0,
        };
        self.doomed = Some(doomed);
        Some((doomed, true))
    }
    /// How far it has come.
    pub(super) fn set_doomed(&mut self, doomed: Doomed) {
        self.doomed = Some(doomed);
    }
    /// Tells how many were cancelled, if there was such a request.
    pub(super) fn end_cancelling(&mut self) {
        if let Some(doomed) = self.doomed.take() {
            self.cancels.words().is_done(doomed.cancelled);
        }
    }
    /// Takes out one that is to be cancelled. True: it was the one that waits for a page.
    pub(super) fn take_doomed(
        &mut self,
        mut is_doomed: impl FnMut(&Flight) -> bool,
    ) -> Option<(Flight, bool)> {
        let index = self.flights.iter().position(&mut is_doomed)?;
        let was_asked = self.asked == Some(index);
        let flight = self.flights.swap_remove(index);
        self.asked = match self.asked {
            Some(_) if was_asked => None,
            // The last one has taken its place.
            Some(asked) if asked == self.flights.len() => Some(index),
            asked => asked,
        };
        // The round begins anew: who has had its turn in this one looks once too often.
        self.next = 0;
        self.seen = self.seen.wrapping_sub(1);
        Some((flight, was_asked))
    }
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }
    #[inline(always)]
    pub(super) fn has_room(&self) -> bool {
        self.flights.len() < AWAY_MAX
    }
    /// Whether one of them may go on.
    pub(super) fn has_news(&self, changes: u64) -> bool {
        self.seen != changes || self.next != 0
    }

    /// Before descriptors begin in a turn: what happens from then on is news to them.
    #[inline(always)]
    pub(super) fn begin_turn(&mut self, changes: u64) {
        if self.flights.is_empty() {
            (self.seen, self.next) = (changes, 0);
        }
    }
    pub(super) fn add(&mut self, flight: Flight) {
        if self.flights.capacity() == 0 {
            self.flights.reserve_exact(AWAY_MAX);
        }
        self.flights.push(flight);
        self.begins_to_wait();
    }

    /// Begins with the first, unless the last round was not finished.
    pub(super) fn begin_round(&mut self, changes: u64) {
        if self.next == 0 {
            self.thorough |= News::has_fence(self.seen, changes);
            self.seen = changes;
        }
    }
    /// The next one of this round that may go on; `None` ends it.
    pub(super) fn next(&mut self) -> Option<(usize, &mut Flight)> {
        while let Some(flight) = self.flights.get(self.next) {
            let index = self.next;
            self.next = index + 1;
            if self.thorough || flight.execution.may_go_on() {
                return self.flights.get_mut(index).map(|flight| (index, flight));
            }
        }
        (self.next, self.thorough) = (0, false);
        None
    }
    /// Takes out the one that [`Self::next`] gave.
    pub(super) fn remove(&mut self, index: usize) -> Flight {
        // The last one takes its place, and its turn.
        self.next = index;
        let flight = self.flights.swap_remove(index);
        if self.next == 0 && !self.flights.is_empty() {
            // The round goes on, if it is interrupted now.
            self.seen = self.seen.wrapping_sub(1);
        }
        flight
    }
    /// Interrupts the round: the same one comes first in the next.
    pub(super) fn stop_at(&mut self, index: usize, asked: bool) {
        self.next = index;
        // Also when that is the first.
        self.seen = self.seen.wrapping_sub(1);
        self.asked = asked.then_some(index);
    }
    /// Whether one of them waits for a page.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }
    /// The one that waits for a page.
    pub(super) fn take_asked(&mut self) -> Option<&mut Flight> {
        self.flights.get_mut(self.asked.take()?)
    }
    pub(super) fn take_all(&mut self) -> Vec<Flight> {
        std::mem::take(&mut self.flights)
    }
}

impl Drop for Away {
    /// The queue has ended, or whoever served it has: nobody is to wait for an answer.
    fn drop(&mut self) {
        self.waits_no_more();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Ask;

    #[test]
    fn who_asks_a_queue_that_ends_is_answered() {
        for is_begun in [false, true] {
            let cancels = Arc::new(Cancels::new(1));
            let mut away = Away::new(&cancels);
            away.begins_to_wait();
            let asked = Ask::Asked { sleeps: false };
            assert_eq!(cancels.ask(Wanted::ALL), asked);
            assert!(away.is_doomed() && !away.falls_asleep());
            if is_begun {
                let (mut doomed, is_new) = away.doomed(16, false).unwrap();
                assert!(is_new && doomed.left == 16 && away.is_cancelling());
                doomed.cancelled = 3;
                away.set_doomed(doomed);
                assert!(!away.falls_asleep());
            }
            assert_eq!(cancels.words().answer(), None);
            drop(away);
            let count = if is_begun { 3 } else { 0 };
            assert_eq!(cancels.words().answer(), Some(count));
            assert_eq!(cancels.ask(Wanted::ALL), Ask::Nothing);
        }
    }
}
