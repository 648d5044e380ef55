//! CRC_GEN and CRC64 of bytes that lie in one page.

use byway_protocols::{Completion, Descriptor, Opcode};

use super::{find, fits, lost};
use crate::backend::Backend;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::{Chunk, Operand};
use crate::ops::{Outcome, success, validate};
use crate::stage2::Access;

/// Which checksum, and of what came before.
enum Sum {
    Crc32c(u32),
    Crc64(u64),
}

/// What a descriptor asks for, if that is one of them, and in order.
#[inline(always)]
fn wanted(d: &Descriptor) -> Option<(Sum, Operand)> {
    if d.code() == Opcode::CrcGen as u8 {
        let crc = validate::crc_gen(d).ok()?;
        return Some((Sum::Crc32c(crc.crc), crc.src));
    }
    if d.code() == Opcode::Crc64 as u8 {
        let crc = validate::crc64_gen(d).ok()?;
        return Some((Sum::Crc64(crc.crc), crc.src));
    }
    None
}

/// Carries the descriptor out if it is such a checksum, as [`super::try_short`] does a copy.
#[inline(always)]
pub(super) fn try_sum<B: Backend>(d: &Descriptor, chunk: &mut Chunk<'_, B>) -> Option<Outcome> {
    let (sum, src) = wanted(d)?;
    if !fits(d.size, chunk) {
        return None;
    }
    let size = u64::from(d.size);
    let from = match chunk.windows.reads.find(src, size) {
        Some(from) => {
            chunk.windows.reads.passed(size);
            from
        }
        None => {
            let found = find(chunk, src, size, Access::Read)?;
            let reads = &mut chunk.windows.reads;
            reads.open(&found);
            reads.passed(size);
            reads.opened();
            found.host
        }
    };
    let len = d.size as usize;
    // SAFETY: the page was translated in this chunk for reading and holds `len` bytes; guest memory has no references.
    let sum = unsafe {
        match sum {
            Sum::Crc32c(crc) => chunk.backend.crc32c(from, len, crc).into(),
            Sum::Crc64(crc) => chunk.backend.crc64(from, len, crc),
        }
    };
    chunk.budget.spend(OPERATION_COST + size);
    if chunk.has_lost_regions() {
        return Some(ended(chunk, src, d.size, sum));
    }
    Some(Outcome {
        completion: Completion {
            op0: sum,
            ..success(d.size)
        },
        bytes: size,
    })
}

/// How it ended, if some region was lost. Apart, as [`Step::failed`](crate::ops::Step::failed).
#[cold]
#[inline(never)]
fn ended<B: Backend>(chunk: &Chunk<'_, B>, src: Operand, size: u32, sum: u64) -> Outcome {
    let completion = match lost(chunk, src, Access::Read) {
        Ok(()) => success(size),
        Err(failure) => failure.completion(0, size),
    };
    Outcome {
        completion: Completion {
            op0: sum,
            ..completion
        },
        bytes: size.into(),
    }
}
