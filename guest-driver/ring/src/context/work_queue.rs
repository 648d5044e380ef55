//! [`WorkQueue`]: a ring with the kernel behind it.
//!
//! Owns the queue and what keeps it alive. It rings the doorbell when that is due, and sleeps when polling
//! has not helped; descriptors and completions it leaves to [`Queue`].

use byway_protocols::{Completion, Descriptor, Status};
use core::time::Duration;

use super::error::{Error, Reason, TransportError};
use super::transport::{QueueOptions, Transport, Wait, Wake};
use super::wait::Waiting;
use crate::error::SubmitError;
use crate::queue::{Options, Queue, Ticket};

/// Longest sleep between two looks at whether the queue still lives: an engine that is killed raises no
/// interrupt.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// A work queue of at most `WORDS * 64` entries. Dropped, it is destroyed, and what is outstanding ends
/// with it.
#[derive(Debug)]
pub struct WorkQueue<T: Transport, const WORDS: usize = 16> {
    /// `None` once it had to be destroyed under its owner ([`WorkQueue::end`]).
    live: Option<Live<T::Queue, WORDS>>,
    number: u32,
    waiting: Waiting,
    transport: T,
}

/// The ring, and below it what keeps its memory mapped.
#[derive(Debug)]
struct Live<Q, const WORDS: usize> {
    queue: Queue<WORDS>,
    handle: Q,
}

impl<T: Transport, const WORDS: usize> WorkQueue<T, WORDS> {
    pub(super) fn create(transport: T, options: &QueueOptions) -> Result<Self, Error<T::Error>> {
        let made = transport.create_queue(options).map_err(Error::Kernel)?;
        let no_park = options.no_park;
        // SAFETY: the transport promises what `Queue::new` asks for, for as long as the handle
        // lives, and it lives beside the queue.
        let queue = unsafe { Queue::new(made.memory, Options { no_park }) }?;
        Ok(Self {
            live: Some(Live {
                queue,
                handle: made.handle,
            }),
            number: made.number,
            waiting: Waiting::default(),
            transport,
        })
    }

    /// The number by which descriptors of other queues of the same context name it: see
    /// [`Request::cancel_queue`](crate::Request::cancel_queue).
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// What the transport keeps it by; `None` after a transfer that could not be waited for.
    pub fn handle(&self) -> Option<&T::Queue> {
        self.live.as_ref().map(|live| &live.handle)
    }

    /// Parts with the ring, and leaves the kernel's queue to whoever gets the handle.
    pub fn into_handle(self) -> Option<T::Queue> {
        self.live.map(|live| live.handle)
    }

    /// How it waits.
    pub const fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Changes how it waits.
    pub const fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// Entries of the ring.
    pub fn entries(&self) -> u32 {
        self.live.as_ref().map_or(0, |live| live.queue.entries())
    }

    /// Descriptors submitted whose completion was not consumed.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.live
            .as_ref()
            .map_or(0, |live| live.queue.outstanding())
    }

    /// Descriptors that can be submitted now.
    #[inline]
    pub fn room(&self) -> u32 {
        self.live.as_ref().map_or(0, |live| live.queue.room())
    }

    /// Whether the engine still serves the queue.
    pub fn is_alive(&mut self) -> bool {
        self.live.as_mut().is_some_and(|live| live.queue.is_alive())
    }

    /// Publishes a descriptor without looking whether the engine sleeps: [`Self::flush`] does, once
    /// for several.
    ///
    /// # Safety
    /// Until its completion has been consumed, or this queue is dropped, the engine reads and writes
    /// the memory that the descriptor names: no reference into it may exist that this contradicts,
    /// and nothing else may come to lie there.
    ///
    /// # Errors
    /// The ring is full, or the queue is dead.
    #[inline]
    pub unsafe fn post(
        &mut self,
        descriptor: impl Into<Descriptor>,
    ) -> Result<Ticket, SubmitError> {
        match &mut self.live {
            Some(live) => live.queue.post(descriptor),
            None => Err(SubmitError::Dead),
        }
    }

    /// Rings the doorbell if the engine has parked the queue and something was posted since; says
    /// whether it did.
    ///
    /// # Errors
    /// The kernel could not.
    #[inline]
    pub fn flush(&mut self) -> Result<bool, Error<T::Error>> {
        let Some(live) = &mut self.live else {
            return Ok(false);
        };
        let due = live.queue.kick_due();
        if due {
            self.transport.kick(&live.handle).map_err(Error::Kernel)?;
        }
        Ok(due)
    }

    /// Publishes a descriptor, and rings the doorbell if that is due.
    ///
    /// # Safety
    /// As [`Self::post`], also when the doorbell could not be rung: the descriptor is in the ring then.
    ///
    /// # Errors
    /// The ring is full, the queue is dead, or the kernel could not ring.
    #[inline]
    pub unsafe fn submit(
        &mut self,
        descriptor: impl Into<Descriptor>,
    ) -> Result<Ticket, Error<T::Error>> {
        // SAFETY: the caller's promise.
        let ticket = unsafe { self.post(descriptor) }?;
        self.flush()?;
        Ok(ticket)
    }

    /// The next completion, oldest descriptor first ([`Queue::poll`]).
    #[inline]
    pub fn poll(&mut self) -> Option<(Ticket, Completion)> {
        self.live.as_mut()?.queue.poll()
    }

    /// Any completion, all of them looked at ([`Queue::poll_any`]).
    pub fn poll_any(&mut self) -> Option<(Ticket, Completion)> {
        self.live.as_mut()?.queue.poll_any()
    }

    /// Lets the queue raise one more interrupt. Look at the completions after this and before
    /// [`Self::sleep`].
    ///
    /// # Errors
    /// The queue is no more, or the device is gone.
    pub fn arm(&self) -> Result<T::Armed, Error<T::Error>> {
        let live = self.live.as_ref().ok_or(SubmitError::Dead)?;
        self.transport.arm(&live.handle).map_err(Error::Kernel)
    }

    /// Sleeps until the interrupt that [`Self::arm`] allowed, or for no reason.
    ///
    /// # Errors
    /// A signal ended the wait, or the device is gone.
    pub fn sleep(&self, armed: T::Armed, wait: Wait) -> Result<Wake, Error<T::Error>> {
        let live = self.live.as_ref().ok_or(SubmitError::Dead)?;
        self.transport
            .sleep(&live.handle, armed, wait)
            .map_err(Error::Kernel)
    }

    /// Waits for the completion of one descriptor: polls, then sleeps, as [`Self::set_waiting`] says. Only a
    /// descriptor that asks for an interrupt ([`crate::Request::interrupting`]) wakes a sleeper at
    /// once.
    ///
    /// There is no limit of time. Where the queue has ended, so has the descriptor, in status 62; so has, for
    /// its caller, one that is not outstanding.
    ///
    /// # Errors
    /// The kernel could not put the process to sleep. The descriptor is outstanding still.
    #[inline]
    pub fn wait(&mut self, ticket: Ticket) -> Result<Completion, Error<T::Error>> {
        let Some(live) = &mut self.live else {
            return Ok(aborted());
        };
        let mut fruitless = 0;
        loop {
            match live.queue.poll_ticket(ticket) {
                Ok(Some(completion)) => return Ok(completion),
                Ok(None) => {}
                Err(_) => return Ok(aborted()),
            }
            match self.waiting {
                Waiting::Sleep { polls } if fruitless >= polls => {
                    if let Some(completion) = live.sleep_for(&self.transport, ticket)? {
                        return Ok(completion);
                    }
                }
                _ => {
                    fruitless = fruitless.wrapping_add(1);
                    core::hint::spin_loop();
                }
            }
        }
    }

    /// Publishes a descriptor, rings the doorbell if that is due, and waits for the completion.
    ///
    /// # Safety
    /// As [`Self::post`], until this returns. When it fails the queue is destroyed, and with it the
    /// descriptor.
    ///
    /// # Errors
    /// The ring is full, the queue is dead, or the kernel could not ring or put the process to sleep.
    #[inline]
    pub unsafe fn run(
        &mut self,
        descriptor: impl Into<Descriptor>,
    ) -> Result<Completion, Error<T::Error>> {
        // SAFETY: the caller's promise.
        let ticket = unsafe { self.post(descriptor) }?;
        let completion = self.flush().and_then(|_| self.wait(ticket));
        if completion.is_err() {
            self.end();
        }
        completion
    }

    /// Destroys the queue under its owner: nothing that is outstanding accesses memory afterwards.
    #[cold]
    pub(super) fn end(&mut self) {
        if let Some(live) = self.live.take() {
            // Whether the engine still knew it makes no difference.
            let _ = self.transport.destroy_queue(live.handle);
        }
    }

    /// Destroys the queue, and says whether that worked.
    ///
    /// # Errors
    /// It had ended before, or the device is gone.
    pub fn close(self) -> Result<(), Error<T::Error>> {
        let live = self.live.ok_or(SubmitError::Dead)?;
        self.transport
            .destroy_queue(live.handle)
            .map_err(Error::Kernel)
    }
}

impl<Q, const WORDS: usize> Live<Q, WORDS> {
    /// Arms, looks once more, and sleeps for a while.
    #[cold]
    fn sleep_for<T: Transport<Queue = Q>>(
        &mut self,
        transport: &T,
        ticket: Ticket,
    ) -> Result<Option<Completion>, Error<T::Error>> {
        let armed = transport.arm(&self.handle).map_err(Error::Kernel)?;
        // By a fresh look at the header, so that a death is seen now and not some polls later.
        self.queue.is_alive();
        if let Ok(Some(completion)) = self.queue.poll_ticket(ticket) {
            return Ok(Some(completion));
        }
        match transport.sleep(&self.handle, armed, Wait::For(SLEEP_MAX)) {
            Err(error) if error.reason() != Reason::Interrupted => Err(Error::Kernel(error)),
            Ok(Wake::Dead) => {
                self.queue.declare_dead();
                Ok(None)
            }
            _ => Ok(None),
        }
    }
}

/// What a descriptor gets whose queue is no more.
fn aborted() -> Completion {
    Completion {
        status: Status::Aborted as u8,
        ..Completion::default()
    }
}
