//! CRC_GEN and CRC64 of bytes that lie in one page.

use byway_protocols::{Completion, Descriptor};

use super::{Told, ended, fits, lost, reach};
use crate::backend::Backend;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::{Chunk, Operand};
use crate::ops::{Outcome, success, validate};
use crate::stage2::Access;

/// Which checksum.
enum Which {
    Crc32c,
    Crc64,
}

/// A checksum that a descriptor asks for, and is in order.
pub(super) struct Sum {
    which: Which,
    src: Operand,
    /// That of what came before.
    value: u64,
}

impl Sum {
    /// Of a CRC_GEN.
    #[inline(always)]
    pub(super) fn crc32c(d: &Descriptor) -> Option<Self> {
        let crc = validate::crc_gen(d).ok()?;
        Some(Self {
            which: Which::Crc32c,
            src: crc.src,
            value: crc.crc.into(),
        })
    }

    /// Of a CRC64.
    #[inline(always)]
    pub(super) fn crc64(d: &Descriptor) -> Option<Self> {
        let crc = validate::crc64_gen(d).ok()?;
        Some(Self {
            which: Which::Crc64,
            src: crc.src,
            value: crc.crc,
        })
    }
}

/// Carries it out if it is short, as [`super::try_short`] does a copy.
#[inline]
pub(super) fn try_sum<B: Backend>(
    d: &Descriptor,
    sum: Sum,
    chunk: &mut Chunk<'_, B>,
) -> Option<Told> {
    if !fits(d.size, chunk) {
        return None;
    }
    let (len, size) = (d.size as usize, u64::from(d.size));
    let from = reach(chunk, |w| &mut w.reads, sum.src, size, Access::Read)?;
    // SAFETY: the page was translated in this chunk for reading and holds `len` bytes; guest memory has no references.
    let value = unsafe {
        match sum.which {
            Which::Crc32c => (chunk.backend.crc32c(from, len, sum.value as u32)).into(),
            Which::Crc64 => chunk.backend.crc64(from, len, sum.value),
        }
    };
    chunk.budget.spend(OPERATION_COST + size);
    let told = || {
        Told::from(Outcome {
            completion: Completion {
                op0: value,
                ..success(d.size)
            },
            bytes: size,
        })
    };
    if chunk.has_lost_regions() {
        return Some(ended(lost(chunk, sum.src, Access::Read), told()));
    }
    Some(told())
}
