//! [`Staging`]: a worker's private memory, for operations that look at data twice or hand
//! it to code that takes slices.
//!
//! A piece of an operand is copied in, each byte by one load; whatever is decided is
//! decided on the copy, and results are copied out. Translations are held for the copying
//! only.
//!
//! Every worker has one, of a fixed size that stays in the second cache, and all domains
//! take turns in it. It must never be read where it has not been written for the same
//! piece: what lies there belongs to whoever came before.

use std::ops::Range;

use super::chunk::{Chunk, Failure, Piece};
use super::device::View;
use crate::backend::Private;
use crate::context::Target;
use crate::memory::HostAddr;
use crate::stage2::Access;

/// Bytes of each half: one for what goes in, one for what comes out.
pub const HALF: usize = 32 << 10;

/// Both halves, each of which begins a page, as most of guests' buffers do: a copy between two places of which one begins a
/// little later in its page than the other loads what looks, for as far as the processor compares addresses at first, as if
/// it had just been stored.
#[repr(align(4096))]
struct Halves([u8; 2 * HALF]);

/// A worker's private memory.
pub struct Staging {
    private: Private,
    halves: Box<Halves>,
    /// What a device has read, for the operation that takes it.
    pub view: View,
}

impl std::fmt::Debug for Staging {
    /// Without the bytes, which are some guest's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").finish_non_exhaustive()
    }
}

impl Default for Staging {
    fn default() -> Self {
        Self::new()
    }
}

impl Staging {
    /// All zeros.
    #[must_use]
    pub fn new() -> Self {
        Self {
            private: Private::new(),
            halves: Box::new(Halves([0; 2 * HALF])),
            view: View::default(),
        }
    }

    /// All of it; the second half starts at [`HALF`].
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.halves.0
    }

    /// The way between it and guest memory.
    #[must_use]
    pub fn private(&self) -> Private {
        self.private
    }

    /// Its two halves.
    pub fn split(&mut self) -> (&mut [u8], &mut [u8]) {
        self.halves.0.split_at_mut(HALF)
    }
}

/// How far a copy between an operand and the staging came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Bytes copied.
    pub bytes: usize,
    /// What kept it from the rest.
    pub failure: Option<Failure>,
}

impl Copied {
    /// Whole units of `unit` bytes that were copied.
    ///
    /// # Errors
    /// What stopped the copy, if not even one was.
    pub fn units(self, unit: usize) -> Result<usize, Failure> {
        match (self.bytes / unit, self.failure) {
            (0, Some(failure)) => Err(failure),
            (units, _) => Ok(units),
        }
    }
}

/// Rows of one length: at equal distances in an operand, and in the staging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// How many.
    pub count: usize,
    /// Bytes of each.
    pub bytes: usize,
    /// From the start of one to that of the next in the operand, in bytes.
    pub apart: usize,
    /// Where the first is in the staging.
    pub start: usize,
    /// From the start of one to that of the next in the staging, in bytes.
    pub stride: usize,
}

impl Rows {
    /// Where one is in the staging.
    fn of(self, row: usize) -> Range<usize> {
        let at = self.start + row * self.stride;
        at..at + self.bytes
    }
}

impl<B> Chunk<'_, B> {
    /// Reads rows of an operand from `offset` on into the staging; how many were read whole, and what kept it from the
    /// rest.
    pub fn rows_in(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        rows: Rows,
    ) -> (usize, Option<Failure>) {
        self.each_row(
            target,
            offset,
            rows,
            Access::Read,
            |staging, row, host| {
                // SAFETY: translated in this chunk for reading; guest memory has no references.
                unsafe {
                    staging
                        .private
                        .load(&mut staging.halves.0[rows.of(row)], host)
                };
            },
            |chunk, row, at| chunk.copy_in(target, at, rows.of(row)),
        )
    }

    /// Writes rows of the staging to an operand likewise.
    pub fn rows_out(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        rows: Rows,
    ) -> (usize, Option<Failure>) {
        self.each_row(
            target,
            offset,
            rows,
            Access::Write,
            |staging, row, host| {
                // SAFETY: translated in this chunk for writing; guest memory has no references.
                unsafe { staging.private.store(host, &staging.halves.0[rows.of(row)]) };
            },
            |chunk, row, at| chunk.copy_out(target, at, rows.of(row)),
        )
    }

    /// The same with `N` bytes behind each row, which belong to it in the operand: `make` makes them of the row's number and
    /// bytes as it is written. From `spare` on nothing is in the staging that is needed, for a row with what stands behind it.
    pub fn rows_out_with<const N: usize>(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        rows: Rows,
        spare: usize,
        make: impl Fn(usize, &[u8]) -> [u8; N],
    ) -> (usize, Option<Failure>) {
        let whole = Rows {
            bytes: rows.bytes + N,
            ..rows
        };
        self.each_row(
            target,
            offset,
            whole,
            Access::Write,
            |staging, row, host| {
                let bytes = &staging.halves.0[rows.of(row)];
                let behind = make(row, bytes);
                // SAFETY: both parts of the row were translated in this chunk for writing; guest memory has no references.
                unsafe {
                    staging.private.store(host, bytes);
                    staging.private.store(host.plus(rows.bytes), &behind);
                }
            },
            |chunk, row, at| {
                let bytes = &mut chunk.staging.halves.0;
                let behind = make(row, &bytes[rows.of(row)]);
                bytes.copy_within(rows.of(row), spare);
                bytes[spare + rows.bytes..][..N].copy_from_slice(&behind);
                chunk.copy_out(target, at, spare..spare + whole.bytes)
            },
        )
    }

    /// Row by row, a page being looked up once for all rows in it: `inside` gets each that lies in one page, `across` each
    /// other one, with its offset. No page without a row is looked up.
    #[inline]
    fn each_row(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        rows: Rows,
        access: Access,
        mut inside: impl FnMut(&mut Staging, usize, HostAddr),
        mut across: impl FnMut(&mut Self, usize, u64) -> Copied,
    ) -> (usize, Option<Failure>) {
        // What is known of: a piece, and its offset.
        let (mut piece, mut from) = (Piece::NONE, 0);
        for row in 0..rows.count {
            let at = offset + (row * rows.apart) as u64;
            let bytes = rows.bytes as u64;
            // Rows ascend: `at` is never below `from`.
            if at - from + bytes > piece.len {
                piece = match self.page(target, at, access) {
                    Ok(piece) => piece,
                    Err(failure) => return (row, Some(failure)),
                };
                from = at;
            }
            if at - from + bytes <= piece.len {
                inside(self.staging, row, HostAddr(piece.host.0 + (at - from)));
                continue;
            }
            let copied = across(self, row, at);
            if copied.failure.is_some() {
                return (row, copied.failure);
            }
        }
        (rows.count, None)
    }

    /// Reads the operand's bytes from `offset` on into a range of the staging.
    pub fn copy_in(&mut self, target: &Target<'_>, offset: u64, into: Range<usize>) -> Copied {
        self.transfer(target, offset, into, Access::Read, |private, mine, host| {
            // SAFETY: translated in this chunk for reading; guest memory has no
            // references.
            unsafe { private.load(mine, host) };
        })
    }

    /// Writes a range of the staging to the operand's bytes from `offset` on.
    pub fn copy_out(&mut self, target: &Target<'_>, offset: u64, from: Range<usize>) -> Copied {
        self.transfer(
            target,
            offset,
            from,
            Access::Write,
            |private, mine, host| {
                // SAFETY: translated in this chunk for writing; guest memory has no
                // references.
                unsafe { private.store(host, mine) };
            },
        )
    }

    #[inline]
    fn transfer(
        &mut self,
        target: &Target<'_>,
        offset: u64,
        range: Range<usize>,
        access: Access,
        mut work: impl FnMut(Private, &mut [u8], HostAddr),
    ) -> Copied {
        let total = range.len();
        let mut bytes = 0;
        while bytes < total {
            let left = (total - bytes) as u64;
            let piece = match self.forward(target, offset + bytes as u64, left, access) {
                Ok(piece) => piece,
                Err(failure) => {
                    let failure = Some(failure);
                    return Copied { bytes, failure };
                }
            };
            let len = piece.len as usize;
            let at = range.start + bytes;
            let mine = &mut self.staging.halves.0[at..at + len];
            work(self.staging.private, mine, piece.host);
            bytes += len;
        }
        Copied {
            bytes,
            failure: None,
        }
    }
}
