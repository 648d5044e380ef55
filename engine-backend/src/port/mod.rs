//! Ports: where two-sided messages wait between SEND and RECEIVE (SPEC section 7.8).
//!
//! A [`Port`] owns a fixed number of message buffers and hands them round: SEND takes an
//! empty one, fills it and queues it; RECEIVE takes the oldest full one and gives the
//! buffer back. The bytes stay in the engine in between, so each side's memory is resolved
//! by that side's own descriptor, in its own context and with its own faults: no chunk ever
//! holds two domains' translations, nothing has to be taken back from a peer's worker when
//! a queue or a right ends, and neither side learns anything of the other's addresses. The
//! price is a second copy of at most a page, which stays in the caches.
//!
//! A descriptor that finds the port full or empty stays where it is, the one in hand of its
//! queue, and its worker polls the port instead of the ring ([`Await`]): a couple of loads,
//! no turn. A queue that waits for long is parked as an idle one is: it takes a [`Seat`], so
//! that whoever changes the port rings the domain's doorbell (see `seats` for why no change is
//! missed). Everything that ends a queue ends this with it.
//!
//! Must never wait: all queues are lock-free and bounded, and the one lock, over the oldest
//! message, is only tried. Allocates when a port is created and never again.

mod seats;
mod waiting;

#[cfg(loom)]
mod loom_model;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use crossbeam_queue::ArrayQueue;

use crate::capability::Charge;
use crate::worker::Doorbell;
use seats::Seats;

pub use waiting::{Await, Seat};

/// Who waits at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A SEND, for room.
    Sender,
    /// A RECEIVE, for a message.
    Receiver,
}

/// A buffer of a port, and the message in it.
pub struct Message {
    buffer: Box<[u8]>,
    len: usize,
    badge: u64,
}

impl std::fmt::Debug for Message {
    /// Without the bytes, which are some guest's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Message {
    /// What was sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
    /// Badge of the capability that it was sent by.
    #[must_use]
    pub fn badge(&self) -> u64 {
        self.badge
    }
}

/// A bounded queue of messages.
#[derive(Debug)]
pub struct Port {
    message_max: usize,
    /// Empty buffers.
    free: ArrayQueue<Message>,
    /// Full ones, oldest first; all buffers together have room in either.
    sent: ArrayQueue<Message>,
    /// The oldest, from when a receiver has looked at it until one has it.
    oldest: Mutex<Option<Message>>,
    /// There is one in `oldest`, and nobody holds its lock.
    has_oldest: AtomicBool,
    senders: Seats,
    receivers: Seats,
    doorbell: Doorbell,
    _charge: Option<Charge>,
}

impl Port {
    /// An empty port for `depth` messages of up to `message_max` bytes, both at least 1.
    /// `charge` is given back when it is gone.
    #[must_use]
    pub fn new(
        depth: usize,
        message_max: usize,
        doorbell: Doorbell,
        charge: Option<Charge>,
    ) -> Self {
        let free = ArrayQueue::new(depth);
        for _ in 0..depth {
            // It has room for just as many.
            let _ = free.push(Message {
                buffer: vec![0; message_max].into_boxed_slice(),
                len: 0,
                badge: 0,
            });
        }
        Self {
            message_max,
            free,
            sent: ArrayQueue::new(depth),
            oldest: Mutex::new(None),
            has_oldest: AtomicBool::new(false),
            senders: Seats::new(),
            receivers: Seats::new(),
            doorbell,
            _charge: charge,
        }
    }

    /// Longest message, in bytes.
    #[must_use]
    pub fn message_max(&self) -> usize {
        self.message_max
    }

    /// Whether one side would find what it waits for.
    #[must_use]
    pub fn is_ready(&self, side: Side) -> bool {
        match side {
            Side::Sender => !self.free.is_empty(),
            Side::Receiver => self.has_oldest.load(Ordering::SeqCst) || !self.sent.is_empty(),
        }
    }

    /// An empty buffer, to be filled and sent; `None` when the port is full.
    #[must_use]
    pub fn room(&self) -> Option<Room<'_>> {
        let message = self.free.pop()?;
        Some(Room {
            port: self,
            message: Some(message),
        })
    }

    /// The oldest message, to be received. `None` while another receiver looks at it.
    #[must_use]
    pub fn oldest(&self) -> Option<Oldest<'_>> {
        let mut message = match self.oldest.try_lock() {
            Ok(message) => message,
            // Nothing in it can be half done.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.has_oldest.store(false, Ordering::SeqCst);
        if message.is_none() {
            *message = self.sent.pop();
        }
        Some(Oldest {
            port: self,
            message,
        })
    }

    /// Rings for the parked queues of both sides: the right of one may have ended.
    pub fn wake(&self) {
        self.wake_side(Side::Sender);
        self.wake_side(Side::Receiver);
    }

    fn wake_side(&self, side: Side) {
        self.seats(side)
            .for_each(|domain| self.doorbell.ring(domain));
    }

    fn seats(&self, side: Side) -> &Seats {
        match side {
            Side::Sender => &self.senders,
            Side::Receiver => &self.receivers,
        }
    }
}

/// An empty buffer; goes back when it is dropped unsent.
#[derive(Debug)]
pub struct Room<'p> {
    port: &'p Port,
    message: Option<Message>,
}

impl Room<'_> {
    /// Sends these bytes, at most [`Port::message_max`].
    pub fn send(mut self, bytes: &[u8], badge: u64) {
        let Some(mut message) = self.message.take() else {
            return;
        };
        message.buffer[..bytes.len()].copy_from_slice(bytes);
        message.len = bytes.len();
        message.badge = badge;
        // There is room for all buffers.
        let _ = self.port.sent.push(message);
        self.port.wake_side(Side::Receiver);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            let _ = self.port.free.push(message);
            self.port.wake_side(Side::Sender);
        }
    }
}

/// The oldest message in a receiver's hands; stays the oldest when it is dropped.
#[derive(Debug)]
pub struct Oldest<'p> {
    port: &'p Port,
    message: MutexGuard<'p, Option<Message>>,
}

impl Oldest<'_> {
    /// It; `None` when the port is empty.
    #[must_use]
    pub fn message(&self) -> Option<&Message> {
        self.message.as_ref()
    }

    /// It has been received.
    pub fn received(mut self) {
        if let Some(message) = self.message.take() {
            let _ = self.port.free.push(message);
            self.port.wake_side(Side::Sender);
        }
    }
}

impl Drop for Oldest<'_> {
    fn drop(&mut self) {
        if self.message.is_some() {
            self.port.has_oldest.store(true, Ordering::SeqCst);
            // Another receiver may have found the port empty meanwhile.
            self.port.wake_side(Side::Receiver);
        }
    }
}
