//! Why a queue is not built, does not take a descriptor, or has no completion to give.

use core::fmt;

/// Why a queue cannot be built over this memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueError {
    /// The number of entries is not a power of two from 2 to 32768.
    Entries(u32),
    /// The type has room for this many entries only; use a larger `WORDS`.
    Capacity(u32),
    /// An area is not aligned to 64 bytes.
    Alignment,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(found) => {
                write!(
                    f,
                    "{found} entries; expected a power of two from 2 to 32768"
                )
            }
            Self::Capacity(room) => {
                write!(
                    f,
                    "this Queue type has room for {room} entries; use a larger WORDS"
                )
            }
            Self::Alignment => f.write_str("ring, completions and header need 64-byte alignment"),
        }
    }
}

impl core::error::Error for QueueError {}

/// Why a descriptor was not submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitError {
    /// The next slot still awaits its completion: poll, then try again.
    Full,
    /// The engine serves the queue no more: open another one.
    Dead,
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the ring is full; consume completions first",
            Self::Dead => "the queue is dead; open another one",
        })
    }
}

impl core::error::Error for SubmitError {}

/// The ticket names nothing that is outstanding: consumed already, or of another queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownTicket;

impl fmt::Display for UnknownTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ticket's completion was consumed before, or it is of another queue")
    }
}

impl core::error::Error for UnknownTicket {}

/// Why [`crate::Queue::wait`] returned without a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitError {
    /// See [`UnknownTicket`].
    UnknownTicket,
    /// The caller's function said to stop; the descriptor is still outstanding.
    GaveUp,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTicket => UnknownTicket.fmt(f),
            Self::GaveUp => f.write_str("gave up waiting; the descriptor is still outstanding"),
        }
    }
}

impl core::error::Error for WaitError {}

impl From<UnknownTicket> for WaitError {
    fn from(_: UnknownTicket) -> Self {
        Self::UnknownTicket
    }
}
