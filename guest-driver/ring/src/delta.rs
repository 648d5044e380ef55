//! Differences of two ranges, recorded and applied (SPEC sections 4.10 and 4.11).

use byway_protocols::operands::{
    ApplyDeltaFields, CreateDeltaFields, DELTA_BYTES_MAX, DeltaEntry, delta_result,
};
use byway_protocols::{Completion, Descriptor, Opcode, Status};

use crate::outcome::Failure;
use crate::refusal::RECORD_BYTES_MAX;
use crate::request::{Address, Request, RequestError, Slot, apart, ends, placed};

/// Bytes that are compared and replaced at once.
const WORD: u32 = 8;
const ENTRY: u64 = DeltaEntry::SIZE as u64;

impl Request {
    /// CREATE_DELTA: records at `record`, in at most `room` bytes, in which words `second` differs
    /// from `first`; see [`Delta::of`].
    ///
    /// # Errors
    /// The size is not a multiple of 8 up to 512 KiB, the room not one of 10 up to 640 KiB
    /// ([`Request::delta_room`] is always enough); an operand is not aligned to 8 or wraps; the
    /// record overlaps a source.
    pub fn create_delta(
        record: Address,
        room: u64,
        first: Address,
        second: Address,
        size: u64,
    ) -> Result<Self, RequestError> {
        words(size)?;
        let delta_bytes_max = entries(room)?;
        for operand in [first, second, record] {
            aligned(operand)?;
        }
        let descriptor = placed(Opcode::CreateDelta, Some(first), Some(second), size)?;
        ends(record, room)?;
        for source in [first, second] {
            apart((source, size), (record, room))?;
        }
        let fields = CreateDeltaFields {
            delta: record.addr,
            delta_bytes_max,
            delta_slot: record.slot.number(),
            ..CreateDeltaFields::default()
        };
        Ok(Self(descriptor.with_operands(fields.to_bytes())))
    }

    /// Room in bytes that a record of two sources of `size` bytes never exceeds.
    #[must_use]
    pub const fn delta_room(size: u64) -> u64 {
        size / WORD as u64 * ENTRY
    }

    /// APPLY_DELTA: writes what the record of `record_bytes` bytes says into the `size` bytes at
    /// `dst`, which hold the first source.
    ///
    /// # Errors
    /// As [`Self::create_delta`]; the record may lie at any alignment.
    pub fn apply_delta(
        dst: Address,
        size: u64,
        record: Address,
        record_bytes: u64,
    ) -> Result<Self, RequestError> {
        words(size)?;
        let delta_bytes = entries(record_bytes)?;
        aligned(dst)?;
        ends(record, record_bytes)?;
        let mut descriptor = placed(Opcode::ApplyDelta, None, Some(dst), size)?;
        descriptor.word0 |= u32::from(record.slot.number());
        descriptor.src = record.addr;
        apart((record, record_bytes), (dst, size))?;
        let fields = ApplyDeltaFields {
            delta_bytes,
            ..ApplyDeltaFields::default()
        };
        Ok(Self(descriptor.with_operands(fields.to_bytes())))
    }

    /// The rest of a CREATE_DELTA that ended early, by a fault ([`Status::is_resumable`]) or with
    /// [`Difference::Full`], into another record: its entries count words from the rest's beginning,
    /// which is `bytes_completed` behind the beginning of `descriptor`'s sources.
    ///
    /// # Errors
    /// As [`Self::create_delta`]; [`RequestError::Size`] with 0 when nothing is left.
    pub fn rest_of_delta(
        descriptor: &Descriptor,
        completion: &Completion,
        record: Address,
        room: u64,
    ) -> Result<Self, RequestError> {
        let done = u64::from(completion.bytes_completed);
        let size = u64::from(descriptor.size).saturating_sub(done);
        let source = |slot, addr: u64| {
            let addr = addr.checked_add(done).ok_or(RequestError::Wraps(addr))?;
            let slot = Slot::cut(slot);
            Ok(Address { slot, addr })
        };
        let slots = descriptor.slots();
        let first = source(slots.src_slot(), descriptor.src)?;
        let second = source(slots.dst_slot(), descriptor.dst)?;
        let rest = Self::create_delta(record, room, first, second, size)?;
        Ok(rest.with(descriptor.flags()))
    }
}

/// Whole words, as many as an entry can name.
fn words(size: u64) -> Result<(), RequestError> {
    if size == 0 {
        return Err(RequestError::Size(size));
    }
    if size > u64::from(DELTA_BYTES_MAX) {
        return Err(RequestError::SizeMax {
            size,
            max: DELTA_BYTES_MAX,
        });
    }
    if !size.is_multiple_of(WORD.into()) {
        return Err(RequestError::SizeMultiple { size, unit: WORD });
    }
    Ok(())
}

fn entries(bytes: u64) -> Result<u32, RequestError> {
    u32::try_from(bytes)
        .ok()
        .filter(|fits| (1..=RECORD_BYTES_MAX).contains(fits) && bytes.is_multiple_of(ENTRY))
        .ok_or(RequestError::DeltaRecord(bytes))
}

pub(crate) fn aligned(operand: Address) -> Result<(), RequestError> {
    if operand.addr.is_multiple_of(WORD.into()) {
        Ok(())
    } else {
        Err(RequestError::WordAlignment(operand.addr))
    }
}

/// What CREATE_DELTA found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The sources are equal; the record is empty, and there is nothing to apply.
    Equal,
    /// The record holds every difference.
    Recorded,
    /// The record holds those before [`Delta::compared`], and has no room for the one there: go on
    /// with [`Request::rest_of_delta`].
    Full,
}

/// What a CREATE_DELTA's completion tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta {
    /// What was found.
    pub difference: Difference,
    /// Bytes of the record: what [`Request::apply_delta`] takes.
    pub record_bytes: u32,
    /// Bytes of each source that were compared and whose differences are recorded.
    pub compared: u32,
}

impl Delta {
    /// Of a CREATE_DELTA.
    ///
    /// # Errors
    /// It did not succeed.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let completion = Failure::unless(completion, &[Status::Success])?;
        let difference = match completion.result {
            delta_result::EQUAL => Difference::Equal,
            delta_result::RECORDED => Difference::Recorded,
            delta_result::FULL => Difference::Full,
            _ => return Err(Failure::from(*completion)),
        };
        Ok(Self {
            difference,
            record_bytes: completion.op0 as u32,
            compared: completion.bytes_completed,
        })
    }
}
