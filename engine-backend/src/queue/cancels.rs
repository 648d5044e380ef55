//! [`Cancels`]: how a descriptor has others of a queue given up (SPEC section 4.34).
//!
//! One request at a time, between whoever carries out a CANCEL (the *asker*) and whoever serves the
//! queue (the *server*), by a few words that both have: no lock, and no message that could miss a
//! queue which is on its way to another worker. Only a queue in which something waits looks at them,
//! so that they cost nobody anything who never waits: its server says when something begins to wait
//! and when nothing does any more. The asker asks, fences, and looks at that; the server says that
//! nothing waits (or that it has no turns any more), fences, and looks whether somebody asks. So one of
//! the two sees the other: no request is left standing, and no sleeper unrung for.
//!
//! Must never wait, or say anything of a queue to another context.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering as Order};

use crate::epoch::sync::{AtomicU64, Ordering, fence};
use crate::worker::Doorbell;

/// Which descriptors are to be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    first: u32,
    /// 0 = all.
    count: u32,
}

impl Wanted {
    /// All that there are.
    pub const ALL: Self = Self { first: 0, count: 0 };

    /// `count` of them, at least 1, from the one numbered `first` on.
    #[must_use]
    pub fn range(first: u32, count: u32) -> Self {
        Self { first, count }
    }
    /// Whether the descriptor with this number is one.
    #[must_use]
    pub fn has(self, number: u32) -> bool {
        self.count == 0 || number.wrapping_sub(self.first) < self.count
    }
    fn pack(self) -> u64 {
        u64::from(self.first) | u64::from(self.count) << 32
    }
    fn unpack(word: u64) -> Self {
        Self {
            first: word as u32,
            count: (word >> 32) as u32,
        }
    }
}

/// Nobody asks.
const FREE: u64 = 0;
/// An asker is about to.
const TAKEN: u64 = 1;
/// Somebody asks.
const ASKED: u64 = 2;
/// The server is at it.
const IN_HAND: u64 = 3;
/// It is done, and the asker has not looked yet.
const ANSWERED: u64 = 4;
/// The server is at it, and nobody waits for the answer.
const LEFT: u64 = 5;

/// Nothing waits in the queue: its server does not look whether somebody asks.
const NOTHING: u64 = 0;
/// Something waits, and the server looks by itself.
const LOOKS: u64 = 1;
/// Something waits, and the server looks when it is rung for.
const SLEEPS: u64 = 2;

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Somebody else is asking: again later.
    Busy,
    /// Nothing waits there.
    Nothing,
    /// There will be an answer.
    Asked {
        /// The server has to be rung for.
        sleeps: bool,
    },
}

/// The words themselves.
#[derive(Debug)]
pub(crate) struct Words {
    state: AtomicU64,
    waits: AtomicU64,
    wanted: AtomicU64,
    cancelled: AtomicU64,
}

impl Words {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU64::new(FREE),
            waits: AtomicU64::new(NOTHING),
            wanted: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        }
    }

    fn change(&self, from: u64, to: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state
            .compare_exchange(from, to, success, failure)
            .is_ok()
    }

    /// The asker: asks.
    pub(crate) fn ask(&self, wanted: Wanted) -> Ask {
        if !self.change(FREE, TAKEN) {
            return Ask::Busy;
        }
        self.wanted.store(wanted.pack(), Ordering::Relaxed);
        self.state.store(ASKED, Ordering::Release);
        // Store-load: pairs with those of `closes` and `sleeps`.
        fence(Ordering::SeqCst);
        match self.waits.load(Ordering::Relaxed) {
            // Unless something has begun to wait meanwhile, and the server looks.
            NOTHING if self.change(ASKED, FREE) => Ask::Nothing,
            waits => Ask::Asked {
                sleeps: waits == SLEEPS,
            },
        }
    }

    /// The asker: how many were cancelled, once that is done. What the server did before comes before.
    pub(crate) fn answer(&self) -> Option<u32> {
        if self.state.load(Ordering::Acquire) != ANSWERED {
            return None;
        }
        let cancelled = self.cancelled.load(Ordering::Relaxed);
        self.state.store(FREE, Ordering::Release);
        Some(cancelled as u32)
    }

    /// The asker, which has asked and had no answer, goes.
    pub(crate) fn leave(&self) {
        if self.change(ASKED, FREE) || self.change(IN_HAND, LEFT) {
            return;
        }
        // Answered.
        self.state.store(FREE, Ordering::Release);
    }

    /// The server: whether somebody asks.
    pub(crate) fn is_asked(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ASKED
    }

    /// The server: what is asked for. There will be an answer to it.
    pub(crate) fn take(&self) -> Option<Wanted> {
        let is_taken = self.change(ASKED, IN_HAND);
        is_taken.then(|| Wanted::unpack(self.wanted.load(Ordering::Relaxed)))
    }

    /// The server: so many were cancelled, all of whose completions are published.
    pub(crate) fn is_done(&self, cancelled: u32) {
        self.cancelled.store(cancelled.into(), Ordering::Relaxed);
        if !self.change(IN_HAND, ANSWERED) {
            self.state.store(FREE, Ordering::Release);
        }
    }

    /// The server: something waits, and it will look whether somebody asks.
    pub(crate) fn opens(&self) {
        self.waits.store(LOOKS, Ordering::Release);
    }

    /// The server: nothing waits any more. Who asks nevertheless is told so.
    pub(crate) fn closes(&self) {
        self.waits.store(NOTHING, Ordering::Release);
        // Store-load: pairs with that of `ask`.
        fence(Ordering::SeqCst);
        if self.is_asked() && self.take().is_some() {
            self.is_done(0);
        }
    }

    /// The server: it will look when it is rung for. False: somebody asks, it has to look now.
    pub(crate) fn sleeps(&self) -> bool {
        self.waits.store(SLEEPS, Ordering::Release);
        // Store-load: pairs with that of `ask`.
        fence(Ordering::SeqCst);
        if self.is_asked() {
            self.opens();
            return false;
        }
        true
    }
}

/// Requests to cancel descriptors of one queue.
#[derive(Debug)]
pub struct Cancels {
    domain: u32,
    words: Words,
    /// Of all workers, from when it was given to one.
    doorbell: OnceLock<Doorbell>,
    /// The one that serves it, or did before it was taken away: whoever takes it over looks by itself.
    worker: AtomicUsize,
}

impl Cancels {
    /// Of a queue of this domain that nobody serves yet.
    pub(crate) fn new(domain: u32) -> Self {
        Self {
            domain,
            words: Words::new(),
            doorbell: OnceLock::new(),
            worker: AtomicUsize::new(0),
        }
    }
    /// The state that both sides share.
    pub(crate) fn words(&self) -> &Words {
        &self.words
    }
    /// By which its server is rung for, whoever that is.
    pub(crate) fn set_doorbell(&self, doorbell: &Doorbell) {
        // A second call would name the same workers.
        let _ = self.doorbell.set(doorbell.clone());
    }
    /// Who serves it.
    pub(crate) fn set_worker(&self, index: usize) {
        self.worker.store(index, Order::Relaxed);
    }

    /// Asks for descriptors to be given up; rings for the server if it sleeps.
    pub(crate) fn ask(&self, wanted: Wanted) -> Ask {
        let asked = self.words.ask(wanted);
        if asked == (Ask::Asked { sleeps: true })
            && let Some(doorbell) = self.doorbell.get()
        {
            doorbell.ring_at(self.worker.load(Order::Relaxed), self.domain);
        }
        asked
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_their_numbers_over_the_wrap_and_no_other() {
        for (first, count) in [(0, 1), (5, 16), (u32::MAX - 2, 5), (7, 32768)] {
            let wanted = Wanted::range(first, count);
            assert_eq!(Wanted::unpack(wanted.pack()), wanted);
            assert!(wanted.has(first) && wanted.has(first.wrapping_add(count - 1)));
            assert!(!wanted.has(first.wrapping_sub(1)));
            assert!(!wanted.has(first.wrapping_add(count)));
        }
        let all = Wanted::unpack(Wanted::ALL.pack());
        assert!([0, 1, u32::MAX].iter().all(|&number| all.has(number)));
    }

    #[test]
    fn one_asks_at_a_time_and_is_answered_once() {
        let words = Words::new();
        assert_eq!(words.ask(Wanted::ALL), Ask::Nothing, "nothing waits");
        words.opens();
        assert!(!words.is_asked() && words.take().is_none());
        let wanted = Wanted::range(3, 2);
        assert_eq!(words.ask(wanted), Ask::Asked { sleeps: false });
        assert_eq!(words.ask(Wanted::ALL), Ask::Busy);
        assert_eq!((words.answer(), words.take()), (None, Some(wanted)));
        assert_eq!((words.ask(Wanted::ALL), words.take()), (Ask::Busy, None));
        words.is_done(7);
        assert_eq!(
            words.ask(Wanted::ALL),
            Ask::Busy,
            "nobody has looked at the answer"
        );
        assert_eq!((words.answer(), words.answer()), (Some(7), None));
        assert!(words.sleeps());
        assert_eq!(words.ask(wanted), Ask::Asked { sleeps: true });
        assert!(!words.sleeps(), "it has to look first");
        words.closes();
        assert_eq!(words.answer(), Some(0));
    }

    #[test]
    fn who_leaves_at_any_moment_leaves_it_free() {
        let words = Words::new();
        words.opens();
        for moment in 0..3 {
            assert_eq!(words.ask(Wanted::ALL), Ask::Asked { sleeps: false });
            if moment > 0 {
                assert!(words.take().is_some());
            }
            if moment > 1 {
                words.is_done(1);
            }
            words.leave();
            if moment == 1 {
                assert_eq!(words.ask(Wanted::ALL), Ask::Busy);
                words.is_done(1);
            }
            assert_eq!(
                (words.answer(), words.is_asked()),
                (None, false),
                "{moment}"
            );
        }
    }
}
