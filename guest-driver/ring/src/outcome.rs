//! What a completion tells, by operation (SPEC sections 4 and 5).
//!
//! Each type has a function `of` that reads a completion of its operation. A completion says
//! nothing about which operation it is of: that is for the caller to know.

use byway_protocols::{Completion, Status};
use core::fmt;

/// A descriptor did not end as its caller wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure(Completion);

impl Failure {
    /// The completion, if it ended in one of these statuses.
    pub(crate) fn unless<'c>(
        completion: &'c Completion,
        wanted: &[Status],
    ) -> Result<&'c Completion, Self> {
        match completion.status() {
            Some(status) if wanted.contains(&status) => Ok(completion),
            _ => Err(Self(*completion)),
        }
    }

    /// The completion as it came.
    #[must_use]
    pub const fn completion(&self) -> &Completion {
        &self.0
    }

    /// Its status; `None` for a code that this version of the ABI has not.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        self.0.status()
    }

    /// Whether the rest may be submitted once its cause is mended; see [`resume()`](crate::resume()).
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.status().is_some_and(|status| status.is_resumable())
    }
}

impl From<Completion> for Failure {
    fn from(completion: Completion) -> Self {
        Self(completion)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.0;
        let code = c.status & !Status::WRITE_FAULT;
        match c.status() {
            Some(status) => write!(f, "ended in status {code:02x}, {status}")?,
            None => write!(
                f,
                "ended in status {code:02x}, which is of no known version"
            )?,
        }
        write!(f, ", with {} done", c.bytes_completed)?;
        if c.fault_addr != 0 {
            let access = if c.is_write_fault() {
                "writing"
            } else {
                "reading"
            };
            write!(f, "; fault on {access} at {:#x}", c.fault_addr)?;
        }
        if self.is_resumable() {
            f.write_str("; touch that page, then submit the rest")?;
        }
        Ok(())
    }
}

impl core::error::Error for Failure {}

/// What the completion of a MEMMOVE, FILL, DUALCAST, XOR, COPY_SG, TRANSLATION_FETCH, CACHE_FLUSH,
/// APPLY_DELTA, SEND, SIGNAL, NOP or DRAIN tells: no more than that it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Bytes, as the operation counts them.
    pub bytes: u32,
}

impl Done {
    /// Of any operation.
    ///
    /// # Errors
    /// It did not succeed.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let completion = Failure::unless(completion, &[Status::Success])?;
        Ok(Self {
            bytes: completion.bytes_completed,
        })
    }
}

/// What the completion of a COMPARE or COMPARE_VALUE tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Offset of the first byte that differs; `None`: all are equal.
    pub differs_at: Option<u32>,
    /// False when [`Request::expecting_difference`](crate::Request::expecting_difference) named
    /// the other result.
    pub as_expected: bool,
}

impl Compared {
    /// Of a COMPARE or COMPARE_VALUE.
    ///
    /// # Errors
    /// It did not succeed.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let wanted = [Status::Success, Status::SuccessPredicate];
        let completion = Failure::unless(completion, &wanted)?;
        Ok(Self {
            differs_at: (completion.result != 0).then_some(completion.bytes_completed),
            as_expected: completion.status() == Some(Status::Success),
        })
    }
}

/// What the completion of a COMPRESS, DECOMPRESS, ENCRYPT or DECRYPT tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transformed {
    /// Bytes of the source that were used; DECOMPRESS may leave some behind the end of a stream.
    pub used: u32,
    /// Bytes at the destination.
    pub produced: u32,
}

impl Transformed {
    /// Of a COMPRESS, DECOMPRESS, ENCRYPT or DECRYPT.
    ///
    /// # Errors
    /// It did not succeed. What lies at the destination is unspecified then.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let completion = Failure::unless(completion, &[Status::Success])?;
        Ok(Self {
            used: completion.op1 as u32,
            produced: completion.op0 as u32,
        })
    }
}

/// What the completion of a SEAL_COPY or OPEN_COPY tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes at the destination.
    pub produced: u32,
    /// The message's number under its key. A receiver names one more as the lowest that it accepts next.
    pub number: u64,
}

impl Sealed {
    /// Of a SEAL_COPY or OPEN_COPY.
    ///
    /// # Errors
    /// It did not succeed. Of a message that was not opened nothing was written.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let completion = Failure::unless(completion, &[Status::Success])?;
        Ok(Self {
            produced: completion.op0 as u32,
            number: completion.op1,
        })
    }
}

/// What the completion of a BATCH tells; each element has its own, see
/// [`Statuses`](crate::Statuses).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEnd {
    /// Elements that succeeded.
    pub succeeded: u32,
    /// Whether all did.
    pub all: bool,
}

impl BatchEnd {
    /// Of a BATCH that came to its end, whatever became of its elements.
    ///
    /// # Errors
    /// It did not come to its end: elements from some one on have no completion.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let wanted = [Status::Success, Status::BatchFailed];
        let completion = Failure::unless(completion, &wanted)?;
        Ok(Self {
            succeeded: completion.bytes_completed,
            all: completion.status() == Some(Status::Success),
        })
    }
}
