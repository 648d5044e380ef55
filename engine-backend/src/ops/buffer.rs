//! A worker's private buffer: libraries work on copies, and never on guest memory, which
//! changes under them.
//!
//! Beside [`Staging`](super::staging::Staging), whose halves are pieces of a stream and small
//! enough for the second cache: a data unit of a cipher or a codec has to be there whole.
//!
//! Of fixed size, allocated when the worker starts. What is in them is left over from any
//! domain: an operation writes out only what it has itself put there before.

use super::aligned::Aligned;
use super::chunk::{Chunk, Failure};
use crate::backend::{Backend, Hint, Order};
use crate::context::Target;
use crate::memory::HostAddr;
use crate::stage2::Access;

/// Bytes of it: the largest data unit, and the most that a chunk moves.
pub const BUFFER_BYTES: usize = 64 << 10;

/// A buffer for what comes in and is done with in the same chunk.
#[derive(Debug)]
pub struct Buffer {
    /// [`BUFFER_BYTES`] bytes.
    pub input: Aligned,
}

impl Buffer {
    /// Allocates it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            input: Aligned::zeroed(BUFFER_BYTES),
        }
    }

    /// Moves it out, to be put back; allocates nothing.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self {
            input: std::mem::take(&mut self.input),
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of private memory, as the backend is given them. Its caller has borrowed them
/// and leaves them alone until [`Backend::finish`].
fn private(bytes: *mut u8) -> HostAddr {
    HostAddr(bytes.expose_provenance() as u64)
}

impl<B: Backend> Chunk<'_, B> {
    /// Copies from `offset` of an operand into private memory, all of it or nothing that
    /// counts.
    ///
    /// # Errors
    /// As [`Chunk::forward`].
    pub fn gather(
        &mut self,
        from: &Target<'_>,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Failure> {
        let hint = Hint {
            order: Order::Disjoint,
            total: into.len() as u64,
            cached: true,
        };
        let mut at = 0;
        let mut result = Ok(());
        while at < into.len() {
            let left = (into.len() - at) as u64;
            let piece = match self.forward(from, offset + at as u64, left, Access::Read) {
                Ok(piece) => piece,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            let len = piece.len as usize;
            let to = private(into[at..at + len].as_mut_ptr());
            // SAFETY: the piece was translated in this chunk for reading; the slice is
            // borrowed by this function alone, which does not touch it before `finish`.
            unsafe { self.backend.copy(to, piece.host, len, hint) };
            at += len;
        }
        self.backend.finish();
        result
    }

    /// Translates every page of a range, so that an access to any of them will succeed in
    /// this chunk.
    ///
    /// # Errors
    /// As [`Chunk::page`].
    pub fn reach(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<(), Failure> {
        let mut at = 0;
        while at < len {
            at += self.page(target, offset + at, access)?.len;
        }
        Ok(())
    }

    /// Copies from private memory to `offset` of an operand; says how many bytes were
    /// written, by a fault too.
    pub fn scatter(
        &mut self,
        to: &Target<'_>,
        offset: u64,
        from: &mut [u8],
        hint: Hint,
    ) -> (u64, Result<(), Failure>) {
        let mut at = 0;
        let mut result = Ok(());
        while at < from.len() {
            let left = (from.len() - at) as u64;
            let piece = match self.forward(to, offset + at as u64, left, Access::Write) {
                Ok(piece) => piece,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            let len = piece.len as usize;
            let source = private(from[at..at + len].as_mut_ptr());
            // SAFETY: the piece was translated in this chunk for writing; the slice is
            // borrowed by this function alone, which does not touch it before `finish`.
            unsafe { self.backend.copy(piece.host, source, len, hint) };
            at += len;
        }
        self.backend.finish();
        (at as u64, result)
    }
}
