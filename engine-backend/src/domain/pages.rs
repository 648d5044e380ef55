//! Page requests: descriptors that wait for a guest kernel to map a page (SPEC section
//! 8.4).
//!
//! - **Who owns what.** A parked descriptor stays in its worker, out of the schedule; a
//!   request is here, in one table of the engine ([`PageRequests`]), from the moment that
//!   the control thread has taken it over until it is answered, late, or pointless. Between
//!   the two lies [`Waiting`], one per domain: the worker takes a unit of the *submitter's*
//!   quota and leaves a note, without waiting; there is room for as many notes as units.
//!   The unit is given back when the request ends, before the worker is told.
//! - **Order.** A worker leaves its note in the middle of a turn. The answer is a command in
//!   that worker's inbox, which it obeys between turns: so it has parked by then, however
//!   early the answer was. Each wait has a number that the engine never uses twice, and an
//!   answer for another wait is ignored: a queue that died, or its key's next user.
//! - **Who times out.** The control thread alone, by the deadlines here; workers look at no
//!   clock for it.
//! - **What is told.** The owner's kernel pulls requests straight from the table when it has
//!   a buffer: no overflow of its other events loses one.
//!
//! Must never believe a number: requests are found by owner *and* number, so nobody can
//! answer for another domain. Lock: the table's is a leaf; nothing is called under it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use byway_protocols::control::features;
use byway_protocols::event::EventKind;
use byway_protocols::{ControlStatus, Event, Rights};
use crossbeam_queue::ArrayQueue;

use super::{Core, Domain};
use crate::capability::{Charge, Meter};
use crate::ops::Verdict;
use crate::queue::PageNeed;

/// Numbers of waits, engine-wide.
static NEXT_WAIT: AtomicU64 = AtomicU64::new(1);

/// A descriptor that waits, as a worker knows it.
#[derive(Debug)]
struct Waiter {
    /// The worker's key of the queue.
    queue: u32,
    /// Number of the wait.
    wait: u64,
    /// The unit of the submitter's quota.
    charge: Charge,
}

/// A worker's note.
#[derive(Debug)]
struct Note {
    waiter: Waiter,
    need: PageNeed,
}

/// Descriptors of one domain that wait, and the notes that were not taken over yet.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The domain's driver answers page requests.
    enabled: AtomicBool,
    parked: Arc<Meter>,
    most: AtomicU32,
    notes: ArrayQueue<Note>,
}

impl Waiting {
    /// Nobody waits; at most `quota` will at once.
    pub(super) fn new(quota: u32) -> Self {
        Self {
            enabled: AtomicBool::new(false),
            parked: Meter::new(quota),
            most: AtomicU32::new(0),
            notes: ArrayQueue::new((quota as usize).max(1)),
        }
    }
    pub(super) fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::SeqCst);
    }
    /// Descriptors that wait now, and the most that ever did at once.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.parked.used(), self.most.load(Ordering::Relaxed))
    }
    /// A worker needs a page. The number of the wait, or `None` when the descriptor must not
    /// wait. Never blocks; whoever gets a number has the control thread look.
    pub(super) fn note(&self, queue: u32, need: &PageNeed) -> Option<u64> {
        if need.own && !self.enabled.load(Ordering::Relaxed) {
            return None;
        }
        let charge = self.parked.charge()?;
        self.most.fetch_max(self.parked.used(), Ordering::Relaxed);
        let wait = NEXT_WAIT.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter {
            queue,
            wait,
            charge,
        };
        // There are no more units than room.
        let note = Note {
            waiter,
            need: *need,
        };
        self.notes.push(note).ok().map(|()| wait)
    }
}

/// A request by its owner and its number there.
type Name = (u32, u64);

/// A request that was not answered yet.
#[derive(Debug)]
struct Pending {
    waiter: Waiter,
    event: Event,
    deadline: Instant,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<Name, Pending>,
    deadlines: BTreeSet<(Instant, Name)>,
    /// What a queue waits for: one thing at most. What it waited for before it was cancelled stays pending without.
    by_queue: HashMap<u32, Name>,
    /// Pending ones that their owner was not told of; its numbers ascend, so oldest first.
    untold: BTreeSet<Name>,
}

impl State {
    fn remove(&mut self, name: Name) -> Option<Waiter> {
        let Pending {
            waiter, deadline, ..
        } = self.pending.remove(&name)?;
        self.deadlines.remove(&(deadline, name));
        if self.by_queue.get(&waiter.queue) == Some(&name) {
            self.by_queue.remove(&waiter.queue);
        }
        // An owner that gives no buffers must not have these pile up.
        self.untold.remove(&name);
        Some(waiter)
    }
}

/// All page requests of an engine that wait for an answer.
#[derive(Debug)]
pub struct PageRequests {
    state: Mutex<State>,
    /// How long an owner has to answer.
    patience: Duration,
}

impl PageRequests {
    /// None yet.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            state: Mutex::default(),
            patience,
        }
    }

    /// A request by which `owner` is to be told `event`.
    fn add(&self, owner: u32, event: Event, waiter: Waiter, now: Instant) {
        let name = (owner, event.request);
        let deadline = now + self.patience;
        let mut state = self.state();
        state.by_queue.insert(waiter.queue, name);
        state.deadlines.insert((deadline, name));
        state.untold.insert(name);
        let pending = Pending {
            waiter,
            event,
            deadline,
        };
        state.pending.insert(name, pending);
    }

    /// The oldest request that `owner` was not told of.
    fn tell(&self, owner: u32) -> Option<Event> {
        let mut state = self.state();
        let mut untold = state.untold.range((owner, 0)..=(owner, u64::MAX));
        let name = *untold.next()?;
        state.untold.remove(&name);
        Some(state.pending.get(&name)?.event)
    }

    fn take(&self, name: Name) -> Option<Waiter> {
        self.state().remove(name)
    }

    /// What was asked of a domain that cannot answer any more.
    fn take_all_of(&self, owner: u32) -> Vec<Waiter> {
        let mut state = self.state();
        let names: Vec<Name> = state
            .pending
            .range((owner, 0)..=(owner, u64::MAX))
            .map(|(&name, _)| name)
            .collect();
        names
            .into_iter()
            .filter_map(|name| state.remove(name))
            .collect()
    }

    /// A queue is gone: nobody waits for its answer.
    fn forget_queue(&self, queue: u32) {
        let mut state = self.state();
        if let Some(&name) = state.by_queue.get(&queue) {
            state.remove(name);
        }
    }

    /// What nobody has answered in time.
    fn take_late(&self, now: Instant) -> Vec<Waiter> {
        let mut state = self.state();
        let mut late = Vec::new();
        while let Some(&(deadline, name)) = state.deadlines.first() {
            if deadline > now {
                break;
            }
            // Each deadline is a pending request's: `remove` takes both.
            late.extend(state.remove(name));
        }
        late
    }

    /// How long nobody needs to look for what is late; `None`: nobody waits.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Duration> {
        let state = self.state();
        let (deadline, _) = state.deadlines.first()?;
        Some(deadline.saturating_duration_since(now))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its parts are changed together without anything in between that could panic.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Core {
    fn end_wait(&self, waiter: Waiter, verdict: Verdict) {
        let Waiter {
            queue,
            wait,
            charge,
        } = waiter;
        // Before the worker is told: whoever sees the completion finds the unit given back.
        drop(charge);
        self.workers().answer(queue, wait, verdict);
    }

    /// Ends the waits that have lasted too long. For the control thread.
    pub fn end_late_page_requests(&self, now: Instant) {
        for waiter in self.pages().take_late(now) {
            self.end_wait(waiter, Verdict::TimedOut);
        }
    }
}

impl Domain {
    /// Takes over what workers have noted for this domain's descriptors, and asks whoever
    /// owns the pages. Called with the domain's device held.
    pub fn ask_for_pages(&self) {
        while let Some(Note { waiter, need }) = self.waiting.notes.pop() {
            if need.own {
                self.request_page(&need, waiter);
                continue;
            }
            match self.core.peers().get(need.owner) {
                Some(owner) => owner.request_page(&need, waiter),
                None => self.core.end_wait(waiter, Verdict::Refused),
            }
        }
    }

    /// Asks this domain's driver for a page of its own.
    fn request_page(&self, need: &PageNeed, waiter: Waiter) {
        let pasid = self.tables().spaces.pasid_of(need.space);
        let (Some(pasid), true) = (pasid, self.answers_pages()) else {
            return self.core.end_wait(waiter, Verdict::Refused);
        };
        let access = if need.write {
            Rights::WRITE
        } else {
            Rights::READ
        };
        let request = self.next_page_request.fetch_add(1, Ordering::Relaxed);
        let event = Event {
            kind: EventKind::PageRequest as u16,
            id: u64::from(pasid),
            rights: access.0,
            address: need.page,
            request,
            ..Event::default()
        };
        let pages = self.core.pages();
        pages.add(self.id, event, waiter, Instant::now());
        // A reset looks for requests after it has said that nobody answers any more: either
        // it finds this one, or this sees that.
        if !self.answers_pages() {
            if let Some(waiter) = pages.take((self.id, request)) {
                self.core.end_wait(waiter, Verdict::Refused);
            }
            return;
        }
        self.events.poke();
    }

    /// Whether its driver answers page requests.
    fn answers_pages(&self) -> bool {
        self.is_ready() && self.waiting.enabled.load(Ordering::SeqCst)
    }

    /// The oldest page request that its driver was not told of.
    #[must_use]
    pub fn next_page_request(&self) -> Option<Event> {
        self.core.pages().tell(self.id)
    }

    /// PAGE_RESPONSE.
    ///
    /// # Errors
    /// As SPEC section 8.2 lists them.
    pub fn answer_page_request(&self, request: u64, verdict: Verdict) -> Result<(), ControlStatus> {
        self.need_feature(features::PAGE_REQUESTS)?;
        let waiter = self.core.pages().take((self.id, request));
        let waiter = waiter.ok_or(ControlStatus::NoSuchObject)?;
        self.core.end_wait(waiter, verdict);
        Ok(())
    }

    /// Its driver answers nothing any more: whoever waits for it goes on without.
    pub(super) fn refuse_page_requests(&self) {
        for waiter in self.core.pages().take_all_of(self.id) {
            self.core.end_wait(waiter, Verdict::Refused);
        }
    }

    /// A queue has left its worker: what it waited for is of no interest any more.
    pub(super) fn forget_waiting(&self, queue: u32) {
        // Its note may be among those that nobody has taken over yet.
        self.ask_for_pages();
        self.core.pages().forget_queue(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    fn need(own: bool) -> PageNeed {
        PageNeed {
            owner: 1,
            space: 2,
            page: 0x1000,
            write: false,
            own,
        }
    }

    fn waiter(waiting: &Waiting, queue: u32) -> Waiter {
        waiting.note(queue, &need(false)).unwrap();
        waiting.notes.pop().unwrap().waiter
    }

    fn event(request: u64) -> Event {
        Event {
            request,
            ..Event::default()
        }
    }

    fn queues(waiters: &[Waiter]) -> Vec<u32> {
        waiters.iter().map(|w| w.queue).collect()
    }

    #[test]
    fn as_many_wait_as_the_quota_says() {
        let waiting = Waiting::new(2);
        assert_eq!(waiting.note(1, &need(true)), None, "no driver answers");
        waiting.enable(true);
        let first = waiting.note(1, &need(true)).unwrap();
        let second = waiting.note(2, &need(false)).unwrap();
        assert_ne!(first, second);
        assert_eq!(waiting.note(3, &need(true)), None);
        assert_eq!(waiting.counts(), (2, 2));
        // Taken over is not over.
        let note = waiting.notes.pop().unwrap();
        assert_eq!(note.waiter.wait, first);
        assert_eq!(waiting.note(3, &need(true)), None);
        drop(note);
        assert!(waiting.note(3, &need(true)).is_some());
        assert_eq!(waiting.counts(), (2, 2));
        assert_eq!(Waiting::new(0).note(1, &need(false)), None);
    }

    #[test]
    fn only_the_owner_answers_and_once() {
        let (waiting, pages) = (Waiting::new(8), PageRequests::new(PATIENCE));
        pages.add(1, event(7), waiter(&waiting, 10), Instant::now());
        assert!(pages.take((2, 7)).is_none());
        assert!(pages.take((1, 8)).is_none());
        assert_eq!(pages.take((1, 7)).map(|w| w.queue), Some(10));
        assert!(pages.take((1, 7)).is_none());
        assert_eq!(waiting.counts(), (0, 1));
        assert_eq!(pages.next_deadline(Instant::now()), None);
    }

    #[test]
    fn each_is_told_once_in_order_unless_it_has_ended() {
        let (waiting, pages) = (Waiting::new(8), PageRequests::new(PATIENCE));
        for request in 1..=3 {
            let queue = request as u32;
            pages.add(1, event(request), waiter(&waiting, queue), Instant::now());
        }
        pages.add(2, event(9), waiter(&waiting, 9), Instant::now());
        drop(pages.take((1, 2)));
        let told = || pages.tell(1).map(|e| e.request);
        assert_eq!((told(), told(), told()), (Some(1), Some(3), None));
        assert_eq!(queues(&pages.take_all_of(1)), [1, 3]);
        assert_eq!(pages.tell(2).map(|e| e.request), Some(9));
        // Who is never told leaves nothing behind.
        pages.add(3, event(4), waiter(&waiting, 4), Instant::now());
        drop(pages.take_late(Instant::now() + 2 * PATIENCE));
        assert!(pages.state().untold.is_empty());
    }

    #[test]
    fn they_are_late_one_after_the_other() {
        let (waiting, pages) = (Waiting::new(8), PageRequests::new(PATIENCE));
        let start = Instant::now();
        let step = Duration::from_millis(100);
        for i in 0..3 {
            let request = u64::from(i);
            pages.add(1, event(request), waiter(&waiting, i), start + step * i);
        }
        assert_eq!(pages.next_deadline(start), Some(PATIENCE));
        assert!(pages.take_late(start + PATIENCE - step / 2).is_empty());
        assert_eq!(queues(&pages.take_late(start + PATIENCE + step)), [0, 1]);
        let left = pages.next_deadline(start + PATIENCE + step);
        assert_eq!(left, Some(step));
        pages.forget_queue(2);
        assert_eq!(pages.next_deadline(start), None);
        assert_eq!(waiting.counts(), (0, 3));
    }
}
