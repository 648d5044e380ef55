//! Futures for completions, with any executor (feature `async`).
//!
//! A [`Driver`] owns a [`Queue`] and remembers who waits for which descriptor. It starts no thread
//! and needs no executor in particular: whoever runs tasks calls [`Driver::turn`] once per turn,
//! which polls the queue and wakes the tasks whose completions are there.
//!
//! ```
//! use byway_ring::asynchronous::Driver;
//! use byway_ring::{Address, Crc32c, Queue, Request};
//!
//! # fn example(queue: Queue, local: u64, kick: impl Fn()) -> Result<(), Box<dyn core::error::Error>> {
//! // `kick` asks the guest kernel to kick the device: a system call, when the queue has parked.
//! let driver = Driver::new(queue, kick);
//! let both = async {
//!     let first = driver.submit(Request::crc(Address::own(local), 4096, 0)?)?;
//!     let second = driver.submit(Request::crc(Address::own(local + 4096), 4096, 0)?)?;
//!     // Both are under way; their order does not matter.
//!     let second = Crc32c::of(&second.await)?.value;
//!     let first = Crc32c::of(&first.await)?.value;
//!     Ok::<_, Box<dyn core::error::Error>>((first, second))
//! };
//! // No executor at hand: the driver has a small one. What waits may spin, yield, or sleep until
//! // the queue's interrupt; false gives up.
//! let (first, second) = driver.block_on(both, || {
//!     core::hint::spin_loop();
//!     true
//! })??;
//! println!("{first:08x} {second:08x}");
//! # Ok(())
//! # }
//! ```
//!
//! `examples/async_gather.rs` is a program with an executor of several tasks.
//!
//! It allocates nothing. Tasks may be of several threads: a driver is `Sync`, its state under a lock
//! that is held for some nanoseconds, and no waker runs while it is held.
//!
//! **Dropping a future does not stop its transfer.** The engine goes on with the memory that the
//! descriptor names until its completion, which the driver then drops: memory that a future in
//! flight names has to live on, as for a ticket that nobody polls. Nor could dropping stop it: only a
//! completion tells that the engine has let go, and a drop cannot wait for one. Who wants it to end asks by
//! [`Submission::cancel`] and awaits both.

use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};

use byway_protocols::{Completion, Descriptor};

use crate::error::{SubmitError, WaitError};
use crate::lock::Lock;
use crate::queue::{Queue, Ticket};
use crate::request::Request;

/// What has become of the descriptor of a slot.
#[derive(Debug, Default)]
enum Place {
    /// Nothing is outstanding.
    #[default]
    Free,
    /// Submitted, with the task that waits for it, if it was polled already.
    Waiting(Option<Waker>),
    /// Completed, and not fetched.
    Done(Completion),
    /// Its future was dropped: the completion will be, too.
    Abandoned,
}

#[derive(Debug)]
struct State<const WORDS: usize> {
    queue: Queue<WORDS>,
    /// By slot of the ring.
    places: [[Place; 64]; WORDS],
}

impl<const WORDS: usize> State<WORDS> {
    fn place(&mut self, slot: u32) -> &mut Place {
        let index = slot as usize % (WORDS * 64);
        &mut self.places[index / 64][index % 64]
    }

    fn slot(&self, ticket: Ticket) -> u32 {
        ticket.sequence() % self.queue.entries()
    }

    /// Notes a completion: the task that waits for it.
    fn settle(&mut self, ticket: Ticket, completion: Completion) -> Option<Waker> {
        let slot = self.slot(ticket);
        let place = self.place(slot);
        match core::mem::take(place) {
            Place::Waiting(waker) => {
                *place = Place::Done(completion);
                waker
            }
            // Nobody is interested any more.
            Place::Abandoned | Place::Free | Place::Done(_) => None,
        }
    }
}

/// A queue whose completions are futures.
#[derive(Debug)]
pub struct Driver<K, const WORDS: usize = 16> {
    state: Lock<State<WORDS>>,
    kick: K,
}

impl<K: Fn(), const WORDS: usize> Driver<K, WORDS> {
    /// Over a queue with nothing outstanding; tickets of earlier descriptors are lost. `kick` asks
    /// the guest kernel to kick the device.
    pub fn new(queue: Queue<WORDS>, kick: K) -> Self {
        let places = core::array::from_fn(|_| core::array::from_fn(|_| Place::Free));
        Self {
            state: Lock::new(State { queue, places }),
            kick,
        }
    }

    /// Publishes a descriptor at once, and kicks if that is due. The future gives its completion,
    /// with whatever status.
    ///
    /// # Errors
    /// The ring is full, which it also is while the completion of the descriptor that was in the
    /// next slot is not fetched from its future; or the queue is dead.
    pub fn submit(
        &self,
        descriptor: impl Into<Descriptor>,
    ) -> Result<Submission<'_, K, WORDS>, SubmitError> {
        let descriptor = descriptor.into();
        let submitted = self.state.with(|state| {
            let slot = state.queue.next_slot();
            if !matches!(state.place(slot), Place::Free) && state.queue.is_alive() {
                return Err(SubmitError::Full);
            }
            let submitted = state.queue.submit(descriptor)?;
            *state.place(slot) = Place::Waiting(None);
            Ok(submitted)
        })?;
        if submitted.kick {
            (self.kick)();
        }
        Ok(Submission {
            driver: self,
            ticket: Some(submitted.ticket),
        })
    }

    /// Submits as soon as there is room, and waits for the completion. While the ring is full, the
    /// task is polled once per turn of its executor.
    ///
    /// # Errors
    /// The queue is dead.
    pub async fn execute(
        &self,
        descriptor: impl Into<Descriptor>,
    ) -> Result<Completion, SubmitError> {
        let descriptor = descriptor.into();
        loop {
            match self.submit(descriptor) {
                Ok(submission) => return Ok(submission.await),
                Err(SubmitError::Full) => yield_now().await,
                Err(SubmitError::Dead) => return Err(SubmitError::Dead),
            }
        }
    }

    /// Polls the queue and wakes the tasks whose completions are there: how many descriptors were
    /// completed, at most as many as the ring has entries. Once per turn of an executor. Younger
    /// descriptors that completed before the oldest are found as by [`Queue::poll`]: soon, not at
    /// once.
    pub fn turn(&self) -> u32 {
        self.deliver(Queue::poll)
    }

    /// The same with every outstanding descriptor looked at, as by [`Queue::poll_any`]: for a thread
    /// that has slept.
    pub fn sweep(&self) -> u32 {
        self.deliver(Queue::poll_any)
    }

    fn deliver(&self, poll: impl Fn(&mut Queue<WORDS>) -> Option<(Ticket, Completion)>) -> u32 {
        let entries = self.state.with(|state| state.queue.entries());
        let mut count = 0;
        while count < entries {
            let found = self.state.with(|state| {
                let (ticket, completion) = poll(&mut state.queue)?;
                Some(state.settle(ticket, completion))
            });
            let Some(waker) = found else { break };
            count += 1;
            // Not under the lock: a waker may do anything, submit included.
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        count
    }

    /// Runs one future to its end on this thread, with a turn between two of its polls. `wait` is
    /// called whenever a turn found nothing: it may spin, yield, or sleep until the queue's interrupt,
    /// and returns false to give up.
    ///
    /// # Errors
    /// [`WaitError::GaveUp`]; what the future had submitted is still outstanding.
    pub fn block_on<F: Future>(
        &self,
        future: F,
        mut wait: impl FnMut() -> bool,
    ) -> Result<F::Output, WaitError> {
        let mut future = pin!(future);
        // It is polled whatever wakes it: after each completion, and after each wait.
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return Ok(output);
            }
            if self.turn() == 0 {
                if !wait() {
                    return Err(WaitError::GaveUp);
                }
                self.sweep();
            }
        }
    }

    /// Descriptors submitted that have not completed.
    pub fn outstanding(&self) -> u32 {
        self.state.with(|state| state.queue.outstanding())
    }

    /// Whether the engine still serves the queue, by a fresh look. When not, every outstanding
    /// future ends with status 62 in the turns that follow.
    pub fn is_alive(&self) -> bool {
        self.state.with(|state| state.queue.is_alive())
    }

    /// See [`Queue::declare_dead`].
    pub fn declare_dead(&self) {
        self.state.with(|state| state.queue.declare_dead());
    }
}

/// A submitted descriptor: a future of its completion.
#[derive(Debug)]
#[must_use = "the completion is lost when its future is dropped"]
pub struct Submission<'d, K: Fn(), const WORDS: usize = 16> {
    driver: &'d Driver<K, WORDS>,
    /// `None` once the completion was given.
    ticket: Option<Ticket>,
}

impl<'d, K: Fn(), const WORDS: usize> Submission<'d, K, WORDS> {
    /// Asks for its descriptor to be given up, by a CANCEL in the same queue: what that has come to its future
    /// tells ([`Cancelled`](crate::Cancelled)), and this one gives its completion as ever, with status 62 if it
    /// was given up. Descriptors of which a queue waits as a whole are not reached so: see
    /// [`Request::cancel_before`].
    ///
    /// # Errors
    /// As [`Driver::submit`].
    pub fn cancel(&self) -> Result<Submission<'d, K, WORDS>, SubmitError> {
        let request = self.ticket.map(|ticket| Request::cancel(ticket, 1));
        match request {
            Some(Ok(request)) => self.driver.submit(request),
            // It has given its completion: nothing is left to be given up.
            _ => self.driver.submit(Request::nop()),
        }
    }
}

impl<K: Fn(), const WORDS: usize> Future for Submission<'_, K, WORDS> {
    type Output = Completion;

    /// # Panics
    /// After it has given its completion.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let ticket = self.ticket.expect("a future is not polled after its end");
        let (poll, replaced) = self.driver.state.with(|state| {
            let slot = state.slot(ticket);
            if let Place::Done(completion) = *state.place(slot) {
                *state.place(slot) = Place::Free;
                return (Poll::Ready(completion), None);
            }
            // Perhaps it is there, and only no turn has been since.
            if let Ok(Some(completion)) = state.queue.poll_ticket(ticket) {
                let old = core::mem::take(state.place(slot));
                return (Poll::Ready(completion), Some(old));
            }
            let Place::Waiting(waker) = state.place(slot) else {
                return (Poll::Pending, None);
            };
            if waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(context.waker()))
            {
                return (Poll::Pending, None);
            }
            let old = waker.replace(context.waker().clone());
            (Poll::Pending, Some(Place::Waiting(old)))
        });
        // A waker's end may be anybody's code: not under the lock.
        drop(replaced);
        if poll.is_ready() {
            self.ticket = None;
        }
        poll
    }
}

impl<K: Fn(), const WORDS: usize> Drop for Submission<'_, K, WORDS> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let old = self.driver.state.with(|state| {
            let slot = state.slot(ticket);
            let place = state.place(slot);
            let next = match place {
                Place::Waiting(_) => Place::Abandoned,
                _ => Place::Free,
            };
            core::mem::replace(place, next)
        });
        drop(old);
    }
}

/// Lets others run once.
fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |context| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}
