//! [`Away`]: a queue's descriptors that wait for devices, while those behind them go on.

use super::active::Flight;
use crate::endpoint::News;

/// Most of them.
const AWAY_MAX: usize = 32;

/// Descriptors that wait for devices.
#[derive(Debug, Default)]
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
}

impl Away {
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
    /// The one that waits for a page.
    pub(super) fn take_asked(&mut self) -> Option<&mut Flight> {
        self.flights.get_mut(self.asked.take()?)
    }
    pub(super) fn take_all(&mut self) -> Vec<Flight> {
        std::mem::take(&mut self.flights)
    }
}
