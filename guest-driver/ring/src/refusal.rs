//! Why a request is not built: what an engine would answer with a status of the class "malformed"
//! (SPEC section 6), found before anything is submitted.

use byway_protocols::codec::{AAD_BYTES_MAX, XTS_UNIT_LOG2_MAX, XTS_UNIT_LOG2_MIN};
use byway_protocols::descriptor::{BATCH_COUNT_MAX, TRANSFER_BYTES_MAX};
use byway_protocols::operands::{
    DELTA_BYTES_MAX, DeltaEntry, SEGMENTS_MAX, XOR_SOURCES_MAX, XOR_SOURCES_MIN,
};
use byway_protocols::ring::ENTRIES_MAX;
use byway_protocols::{Opcode, Status};
use core::fmt;

/// Most bytes of a delta record: an entry for each word of the largest source.
pub(crate) const RECORD_BYTES_MAX: u32 = DELTA_BYTES_MAX / 8 * DeltaEntry::SIZE as u32;

/// Why a request would be refused as malformed. [`Self::status`] tells with which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The size in bytes is 0 or above 2 GiB.
    Size(u64),
    /// The size is not a whole number of the units that the operation works in.
    SizeMultiple {
        /// Bytes asked for.
        size: u64,
        /// Bytes of a word, block, or row.
        unit: u32,
    },
    /// The size is above what this operation takes.
    SizeMax {
        /// Bytes asked for.
        size: u64,
        /// Most bytes.
        max: u32,
    },
    /// The size is below what this operation needs.
    SizeMin {
        /// Bytes asked for.
        size: u64,
        /// Fewest bytes.
        min: u32,
    },
    /// XTS: the last data unit is shorter than a block of 16 bytes.
    LastUnit {
        /// Bytes asked for.
        size: u64,
        /// Bytes of a data unit.
        unit: u32,
    },
    /// The number of descriptors in a batch is 0 or above 1024.
    Count(usize),
    /// The number of descriptors to be cancelled is 0 or above 32768.
    Cancelled(u32),
    /// The number of sources of XOR is not 2 to 16.
    Sources(usize),
    /// The number of segments in a list of COPY_SG is 0 or above 1024.
    Segments(usize),
    /// Neither side of COPY_SG is a list, or its rows have no bytes.
    NoList,
    /// A list of COPY_SG has fewer bytes than are to be copied.
    ShortList {
        /// Bytes of all segments.
        bytes: u64,
        /// Bytes to be copied.
        size: u64,
    },
    /// The segment with this index has no bytes.
    EmptySegment(usize),
    /// The segment with this index has a slot above 32767, a reserved field that is not 0, or, as
    /// a source of XOR, bytes of its own.
    SegmentFields(usize),
    /// The room for a delta record is not a multiple of 10 bytes from 10 to 655360.
    DeltaRecord(u64),
    /// The operand's last byte would lie above 2^64 - 1.
    Wraps(u64),
    /// The list of a batch is not aligned to 64 bytes.
    ListAlignment(u64),
    /// A list of segments is not aligned to 16 bytes.
    SegmentAlignment(u64),
    /// The statuses of a batch are not aligned to 32 bytes, or lie at address 0.
    StatusAlignment(u64),
    /// An operand is not aligned to 8 bytes.
    WordAlignment(u64),
    /// The destinations of DUALCAST differ in bits 11:0.
    Dualcast {
        /// First destination.
        first: u64,
        /// Second destination.
        second: u64,
    },
    /// Operands of one slot overlap where they must not, or a copy that has to run backwards is
    /// to write in ascending order.
    Overlap,
    /// The operation does not take that flag.
    Flag(Opcode),
    /// The flags of tags have bits that the operation does not take.
    TagFlags {
        /// Bits found.
        found: u8,
        /// Bits that it takes.
        takes: u8,
    },
    /// The logarithm of XTS's data unit is not 9 to 16.
    Unit(u8),
    /// More than 4096 bytes of additional data.
    Additional(u32),
    /// The room at the destination is less than is known to come out.
    Room {
        /// Bytes of room.
        room: u64,
        /// Bytes that come out at least.
        least: u64,
    },
    /// Slot 0 holds the own address space, not a key.
    KeySlot,
}

impl RequestError {
    /// The status with which an engine would answer.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::Flag(_) => Status::BadFlags,
            Self::SegmentFields(_) | Self::TagFlags { .. } => Status::ReservedNotZero,
            Self::Size(_)
            | Self::SizeMultiple { .. }
            | Self::SizeMax { .. }
            | Self::SizeMin { .. }
            | Self::LastUnit { .. }
            | Self::EmptySegment(_)
            | Self::Unit(_)
            | Self::Additional(_) => Status::BadSize,
            Self::Count(_)
            | Self::Cancelled(_)
            | Self::Sources(_)
            | Self::Segments(_)
            | Self::NoList
            | Self::ShortList { .. } => Status::BadCount,
            Self::DeltaRecord(_) => Status::BadDeltaSize,
            Self::Overlap => Status::Overlap,
            Self::Dualcast { .. } => Status::BadDualcast,
            Self::ListAlignment(_) | Self::SegmentAlignment(_) => Status::ListAlignment,
            Self::StatusAlignment(_) | Self::WordAlignment(_) => Status::AddressAlignment,
            Self::KeySlot => Status::NoCapability,
            Self::Wraps(_) => Status::Bounds,
            Self::Room { .. } => Status::Overflow,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Size(found) => {
                write!(
                    f,
                    "size of {found} bytes; expected 1 to {TRANSFER_BYTES_MAX}"
                )
            }
            Self::SizeMultiple { size, unit } => {
                write!(f, "size of {size} bytes; expected a multiple of {unit}")
            }
            Self::SizeMax { size, max } => {
                write!(f, "size of {size} bytes; expected at most {max}")
            }
            Self::SizeMin { size, min } => {
                write!(f, "size of {size} bytes; expected at least {min}")
            }
            Self::LastUnit { size, unit } => write!(
                f,
                "size of {size} bytes in data units of {unit}; expected 16 bytes or more in the last"
            ),
            Self::Cancelled(found) => write!(
                f,
                "{found} descriptors to be cancelled: expected 1 to {ENTRIES_MAX}"
            ),
            Self::Count(found) => {
                write!(
                    f,
                    "batch of {found} descriptors; expected 1 to {BATCH_COUNT_MAX}"
                )
            }
            Self::Sources(found) => write!(
                f,
                "{found} sources; expected {XOR_SOURCES_MIN} to {XOR_SOURCES_MAX}"
            ),
            Self::Segments(found) => {
                write!(f, "list of {found} segments; expected 1 to {SEGMENTS_MAX}")
            }
            Self::NoList => f.write_str(
                "neither a list of segments nor rows of a length; use MEMMOVE for one range",
            ),
            Self::ShortList { bytes, size } => {
                write!(
                    f,
                    "list of {bytes} bytes in all; expected the {size} to copy"
                )
            }
            Self::EmptySegment(index) => {
                write!(f, "segment {index} has no bytes; expected 1 or more")
            }
            Self::SegmentFields(index) => write!(
                f,
                "segment {index} has a slot above 32767, reserved bytes that are not 0, or bytes \
                 where its operation has one size for all; build it with `segment` or `source`"
            ),
            Self::DeltaRecord(found) => write!(
                f,
                "delta record of {found} bytes; expected a multiple of {} up to {RECORD_BYTES_MAX}",
                DeltaEntry::SIZE
            ),
            Self::Wraps(found) => write!(f, "operand at {found:#x} runs past the last address"),
            Self::ListAlignment(found) => {
                write!(f, "batch list at {found:#x}; expected a multiple of 64")
            }
            Self::SegmentAlignment(found) => {
                write!(f, "segments at {found:#x}; expected a multiple of 16")
            }
            Self::StatusAlignment(found) => {
                write!(
                    f,
                    "batch statuses at {found:#x}; expected a multiple of 32, not 0"
                )
            }
            Self::WordAlignment(found) => {
                write!(f, "operand at {found:#x}; expected a multiple of 8")
            }
            Self::Dualcast { first, second } => write!(
                f,
                "destinations {first:#x} and {second:#x}; expected the same bits 11:0"
            ),
            Self::Overlap => f.write_str("operands overlap in a way that the request rules out"),
            Self::Flag(opcode) => write!(f, "{} does not take that flag", opcode.name()),
            Self::TagFlags { found, takes } => {
                write!(
                    f,
                    "tag flags {found:#04x}; expected none beyond {takes:#04x}"
                )
            }
            Self::Unit(found) => write!(
                f,
                "data unit of 2^{found} bytes; expected 2^{XTS_UNIT_LOG2_MIN} to 2^{XTS_UNIT_LOG2_MAX}"
            ),
            Self::Additional(found) => write!(
                f,
                "{found} bytes of additional data; expected at most {AAD_BYTES_MAX}"
            ),
            Self::Room { room, least } => {
                write!(f, "room for {room} bytes; expected {least} or more")
            }
            Self::KeySlot => f.write_str("slot 0 as a key's; expected 1 to 32767"),
        }
    }
}

impl core::error::Error for RequestError {}
