//! A work queue as its owner sees it (SPEC sections 2 and 5).
//!
//! Owns the submitter's position, the record of which slots await their completion, and the
//! verdict whether the queue still lives. A slot is reused only after its completion has been
//! consumed. It must never write to the completions or to the header: those are the engine's.

use crate::bits::Bits;
use crate::error::{QueueError, SubmitError, UnknownTicket, WaitError};
use crate::memory::{QueueMemory, Shared, fence};
use byway_protocols::ring::QueueState;
use byway_protocols::{Completion, Descriptor, RingPosition, Status, Word0};
use core::sync::atomic::Ordering;

/// Fruitless polls after which the header is looked at for the queue's death.
pub const LOOK_AT_HEADER_EVERY: u32 = 64;
/// Fruitless polls of the oldest descriptor after which younger ones are looked at. Looking at a
/// completion line that the engine is about to write costs it and the submitter a cache miss each,
/// so this waits for longer than a queue of short transfers ever does. Once a younger one was
/// found, every fruitless poll looks around, until there is nothing more to find.
pub const LOOK_AROUND_EVERY: u32 = 256;
/// Most younger descriptors that one look around examines.
pub const LOOK_AROUND_MAX: u32 = 64;

/// How a queue was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The queue was created NO_PARK: the engine never stops polling it, so neither the fence
    /// nor the look at `need_kick` is due.
    pub no_park: bool,
}

/// Names one submitted descriptor of one queue until its completion is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u32);

impl Ticket {
    /// Descriptors submitted to the queue before this one, modulo 2^32.
    #[must_use]
    pub const fn sequence(self) -> u32 {
        self.0
    }
    #[cfg(test)]
    pub(crate) const fn numbered(sequence: u32) -> Self {
        Self(sequence)
    }
}

/// What [`Queue::submit`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a kick that is due and not given leaves the descriptor waiting"]
pub struct Submit {
    /// Names the descriptor.
    pub ticket: Ticket,
    /// The queue is parked: ask the kernel to kick the device.
    pub kick: bool,
}

/// What [`Queue::submit_burst`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a kick that is due and not given leaves the descriptors waiting"]
pub struct Burst {
    /// Names the first descriptor; the others follow by [`Ticket::sequence`].
    pub first: Ticket,
    /// Descriptors submitted: at least 1, at most as many as were given.
    pub count: u32,
    /// The queue is parked: ask the kernel to kick the device.
    pub kick: bool,
}

/// The submitting side of a work queue of at most `WORDS * 64` entries.
#[derive(Debug)]
pub struct Queue<const WORDS: usize = 16> {
    shared: Shared,
    /// Where the next descriptor goes.
    head: RingPosition,
    /// The oldest descriptor that awaits its completion; equals `head` when there is none.
    tail: RingPosition,
    /// Slots between `tail` and `head` whose completion was not consumed.
    pending: Bits<WORDS>,
    outstanding: u32,
    /// Fruitless polls since the last completion.
    misses: u32,
    /// Where the next look around goes on, as a distance from `tail`.
    cursor: u32,
    options: Options,
    /// Count of `head` when a kick was last reported as due: one kick is enough for it.
    kicked: u32,
    /// Instance that serves the queue, once it was seen running.
    instance: Option<u32>,
    dead: bool,
}

impl<const WORDS: usize> Queue<WORDS> {
    /// Most entries that this type has room for.
    pub const ENTRIES_MAX: u32 = Bits::<WORDS>::COUNT;

    /// A queue over memory that an engine serves, at its very beginning.
    ///
    /// # Safety
    /// - `memory.ring`, `memory.completions` and `memory.header` point to `entries * 64`,
    ///   `entries * 32` and 64 bytes, mapped readable and (the ring) writable for as long as the
    ///   queue lives, and they do not overlap.
    /// - They were all zero when the engine was given them, and nothing was submitted since: there
    ///   is one `Queue` over them, ever.
    /// - Nobody but this queue and the engine accesses them; no Rust reference into them exists.
    ///
    /// # Errors
    /// The number of entries or an alignment is wrong, or the type is too small.
    pub unsafe fn new(memory: QueueMemory, options: Options) -> Result<Self, QueueError> {
        let start = Self::check(&memory)?;
        // SAFETY: passed on to the caller; alignment and entries were just checked.
        let shared = unsafe { Shared::new(&memory) };
        Ok(Self::over(shared, start, options))
    }

    fn check(memory: &QueueMemory) -> Result<RingPosition, QueueError> {
        let entries = memory.entries;
        let start = RingPosition::new(entries).ok_or(QueueError::Entries(entries))?;
        if entries > Self::ENTRIES_MAX {
            return Err(QueueError::Capacity(Self::ENTRIES_MAX));
        }
        if !memory.is_aligned() {
            return Err(QueueError::Alignment);
        }
        Ok(start)
    }

    pub(crate) fn over(shared: Shared, start: RingPosition, options: Options) -> Self {
        let mut queue = Self {
            shared,
            head: start,
            tail: start,
            pending: Bits::new(),
            outstanding: 0,
            misses: 0,
            cursor: 0,
            options,
            kicked: start.count(),
            instance: None,
            dead: false,
        };
        queue.look_at_header();
        queue
    }

    /// Entries of the ring.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.head.entries()
    }

    /// Descriptors submitted whose completion was not consumed.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Descriptors that can be submitted before the ring is full. Since slots are filled in
    /// order, one old descriptor that is not consumed can make this 0 while many younger ones
    /// have been.
    #[must_use]
    pub const fn room(&self) -> u32 {
        self.entries() - self.head.distance_from(self.tail)
    }

    /// Publishes a descriptor and looks whether a kick is due.
    ///
    /// The phase bit of `descriptor` is set by the queue; all else goes out as it is.
    ///
    /// # Errors
    /// The ring is full, or the queue is dead.
    #[inline]
    pub fn submit(&mut self, descriptor: impl Into<Descriptor>) -> Result<Submit, SubmitError> {
        let ticket = self.post(descriptor)?;
        Ok(Submit {
            ticket,
            kick: self.kick_due(),
        })
    }

    /// Publishes as many of the descriptors as fit, in order, and looks once whether a kick
    /// is due. An empty burst publishes nothing and reports a count of 0.
    ///
    /// # Errors
    /// Not even the first fits, or the queue is dead.
    pub fn submit_burst(&mut self, descriptors: &[Descriptor]) -> Result<Burst, SubmitError> {
        let first = Ticket(self.head.count());
        let mut count = 0;
        for descriptor in descriptors {
            match self.post(*descriptor) {
                Ok(_) => count += 1,
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(Burst {
            first,
            count,
            kick: count > 0 && self.kick_due(),
        })
    }

    /// Publishes a descriptor without looking whether a kick is due: for loops that post
    /// several and then call [`Self::kick_due`] once. Without that call a parked engine
    /// never learns of them.
    ///
    /// # Errors
    /// The ring is full, or the queue is dead.
    #[inline]
    pub fn post(&mut self, descriptor: impl Into<Descriptor>) -> Result<Ticket, SubmitError> {
        if self.dead {
            return Err(SubmitError::Dead);
        }
        if self.room() == 0 {
            return Err(SubmitError::Full);
        }
        let mut descriptor = descriptor.into();
        descriptor.word0 = Word0(descriptor.word0).with_phase(self.head.phase()).0;
        self.shared.publish(self.head, &descriptor);
        self.pending.set(self.head.slot());
        self.outstanding += 1;
        let ticket = Ticket(self.head.count());
        self.head.advance();
        Ok(ticket)
    }

    /// Whether the engine has parked the queue and the kernel must be asked to kick. Orders
    /// everything posted before this look (SPEC section 2.7: publish, fence, read
    /// `need_kick`). Says so once for what has been posted: a second kick would be for nothing.
    #[inline]
    #[must_use = "a kick that is due and not given leaves descriptors waiting"]
    pub fn kick_due(&mut self) -> bool {
        if self.options.no_park || self.kicked == self.head.count() {
            return false;
        }
        // The store-load fence that pairs with the engine's between its setting `need_kick` and
        // its last look at the ring: one of the two sides sees the other's store.
        fence(Ordering::SeqCst);
        let due = self.shared.need_kick();
        if due {
            self.kicked = self.head.count();
        }
        due
    }

    /// The next completion, oldest descriptor first; younger ones that completed before it are
    /// looked for after [`LOOK_AROUND_EVERY`] fruitless calls. `None`: nothing found now. A caller
    /// that sleeps between two calls uses [`Self::poll_any`].
    ///
    /// On a dead queue every outstanding descriptor gets a completion: the engine's, or one
    /// with status 62 made here.
    #[inline]
    pub fn poll(&mut self) -> Option<(Ticket, Completion)> {
        if self.outstanding == 0 {
            return None;
        }
        match self.shared.completion(self.tail) {
            Some(completion) => Some(self.consume(self.tail, completion)),
            None => self.poll_miss(),
        }
    }

    /// The completion of any outstanding descriptor, all of them looked at: for a caller
    /// that was woken and polls once. Prefer [`Self::poll`] in a loop.
    pub fn poll_any(&mut self) -> Option<(Ticket, Completion)> {
        if self.outstanding == 0 {
            return None;
        }
        self.look_at_header();
        let span = self.head.distance_from(self.tail);
        self.scan(0, span).or_else(|| self.poll_dead())
    }

    /// The completion of this descriptor, if it is there.
    ///
    /// # Errors
    /// The ticket names nothing outstanding.
    #[inline]
    pub fn poll_ticket(&mut self, ticket: Ticket) -> Result<Option<Completion>, UnknownTicket> {
        let at = self.position_of(ticket).ok_or(UnknownTicket)?;
        if let Some(completion) = self.shared.completion(at) {
            return Ok(Some(self.consume(at, completion).1));
        }
        self.misses = self.misses.wrapping_add(1);
        if self.misses.is_multiple_of(LOOK_AT_HEADER_EVERY) {
            self.look_at_header();
        }
        if !self.dead {
            return Ok(None);
        }
        let completion = self.shared.completion(at).unwrap_or_else(aborted);
        Ok(Some(self.consume(at, completion).1))
    }

    /// Waits for this descriptor. `spin` is called after every fruitless look; it may pause or
    /// yield, and returns false to give up. One that sleeps gives up when it wakes for another
    /// reason than the queue's interrupt, so that [`Self::is_alive`] can be asked. A kick that
    /// [`Self::submit`] reported must have been given before.
    ///
    /// # Errors
    /// The ticket names nothing outstanding, or `spin` returned false.
    #[inline]
    pub fn wait(
        &mut self,
        ticket: Ticket,
        mut spin: impl FnMut() -> bool,
    ) -> Result<Completion, WaitError> {
        loop {
            if let Some(completion) = self.poll_ticket(ticket)? {
                return Ok(completion);
            }
            if !spin() {
                return Err(WaitError::GaveUp);
            }
        }
    }

    /// Whether the engine still serves the queue, by a fresh look at its header. Once
    /// dead, a queue stays so.
    pub fn is_alive(&mut self) -> bool {
        self.look_at_header();
        !self.dead
    }

    /// Treats the queue as dead from now on, because the kernel said that the engine is gone
    /// and could not write that into the header itself. The engine must not serve it any more.
    pub const fn declare_dead(&mut self) {
        self.dead = true;
    }

    /// Slot that the next descriptor goes to.
    #[cfg(feature = "async")]
    pub(crate) const fn next_slot(&self) -> u32 {
        self.head.slot()
    }

    /// The position of an outstanding descriptor.
    #[inline]
    fn position_of(&self, ticket: Ticket) -> Option<RingPosition> {
        let distance = ticket.0.wrapping_sub(self.tail.count());
        let at = self.tail.plus(distance);
        let inside = distance < self.head.distance_from(self.tail);
        (inside && self.pending.get(at.slot())).then_some(at)
    }

    /// Takes a pending entry's completion and frees what can be freed.
    #[inline]
    fn consume(&mut self, at: RingPosition, completion: Completion) -> (Ticket, Completion) {
        self.pending.clear(at.slot());
        self.outstanding -= 1;
        self.misses = 0;
        // At most `entries` steps: `tail` never passes `head`.
        while self.tail != self.head && !self.pending.get(self.tail.slot()) {
            self.tail.advance();
        }
        (Ticket(at.count()), completion)
    }

    #[cold]
    fn poll_miss(&mut self) -> Option<(Ticket, Completion)> {
        self.misses = self.misses.wrapping_add(1);
        if self.misses.is_multiple_of(LOOK_AT_HEADER_EVERY) {
            self.look_at_header();
        }
        if self.dead {
            return self.poll_dead();
        }
        if !self.misses.is_multiple_of(LOOK_AROUND_EVERY) {
            return None;
        }
        let span = self.head.distance_from(self.tail);
        let from = if self.cursor < span { self.cursor } else { 0 };
        let to = span.min(from + LOOK_AROUND_MAX);
        let found = self.scan(from, to);
        match found {
            // There may be more: look again at the next fruitless poll.
            Some(_) => self.misses = LOOK_AROUND_EVERY - 1,
            None => self.cursor = to,
        }
        found
    }

    /// The first completed descriptor among those `from..to` places after the oldest.
    fn scan(&mut self, from: u32, to: u32) -> Option<(Ticket, Completion)> {
        for distance in from..to {
            let at = self.tail.plus(distance);
            if !self.pending.get(at.slot()) {
                continue;
            }
            if let Some(completion) = self.shared.completion(at) {
                return Some(self.consume(at, completion));
            }
        }
        None
    }

    /// The oldest descriptor of a dead queue.
    fn poll_dead(&mut self) -> Option<(Ticket, Completion)> {
        if !self.dead || self.outstanding == 0 {
            return None;
        }
        let completion = self.shared.completion(self.tail).unwrap_or_else(aborted);
        Some(self.consume(self.tail, completion))
    }

    /// Notes that the queue died, or which instance serves it.
    fn look_at_header(&mut self) {
        let (state, instance) = self.shared.state_and_instance();
        if state == QueueState::Dead as u32 {
            self.dead = true;
        } else if state == QueueState::Running as u32 {
            self.dead |= *self.instance.get_or_insert(instance) != instance;
        }
    }
}

/// What a descriptor gets that nobody will complete any more.
fn aborted() -> Completion {
    Completion {
        status: Status::Aborted as u8,
        ..Completion::default()
    }
}
