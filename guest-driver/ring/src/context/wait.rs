//! How a queue waits for its completions.

/// Polls of a completion before the queue sleeps, unless told otherwise: some tens of microseconds,
/// longer than a short transfer takes and shorter than a sleep costs.
const POLLS: u32 = 1 << 14;

/// What a [`super::WorkQueue`] does until a completion comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Polls for as long as it takes. Nothing enters the kernel; one CPU is busy.
    Poll,
    /// Polls so many times, then arms the queue's interrupt and sleeps. Transfers ask for the
    /// interrupt.
    Sleep {
        /// Fruitless polls before it sleeps.
        polls: u32,
    },
}

impl Default for Waiting {
    /// Polls for some tens of microseconds, then sleeps.
    fn default() -> Self {
        Self::Sleep { polls: POLLS }
    }
}
