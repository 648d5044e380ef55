//! Operations with more than two operands: DUALCAST, XOR and COPY_SG (SPEC sections 4.12, 4.20 and
//! 4.21).

use byway_protocols::operands::{
    CopySgFields, DualcastFields, SEGMENTS_MAX, Segment, XOR_SOURCES_MAX, XOR_SOURCES_MIN,
    XorFields,
};
use byway_protocols::{Descriptor, Flags, Opcode, Word0};

use crate::request::{Address, Request, RequestError, Slot};
use crate::request::{apart, ends, placed, transfer_bytes};

/// Bits in which the two destinations of DUALCAST must agree.
const PAGE_OFFSET: u64 = 0xfff;

/// A segment of a list of COPY_SG.
#[must_use]
pub fn segment(at: Address, bytes: u32) -> Segment {
    Segment {
        addr: at.addr,
        bytes,
        slot: at.slot.number(),
        ..Segment::default()
    }
}

/// A source in a list of XOR, whose sources all have the size of the request.
#[must_use]
pub fn source(at: Address) -> Segment {
    segment(at, 0)
}

/// One side of COPY_SG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side<'a> {
    /// One range.
    Range(Address),
    /// Segments, one after the other.
    List {
        /// Where the list lies for the engine: an address of the process, or an offset.
        at: Address,
        /// What stands there, for the checks.
        segments: &'a [Segment],
    },
}

/// Rows of COPY_SG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Bytes of a row, at least 1.
    pub row_bytes: u32,
    /// From the start of one row of the source to the next, in bytes.
    pub src_stride: u64,
    /// From the start of one row of the destination to the next, in bytes.
    pub dst_stride: u64,
}

impl Request {
    /// DUALCAST: copies to two destinations, with each byte read once.
    ///
    /// # Errors
    /// The size is out of range; the destinations differ in bits 11:0; an operand wraps; any two
    /// overlap.
    pub fn dualcast(
        first: Address,
        second: Address,
        src: Address,
        size: u64,
    ) -> Result<Self, RequestError> {
        transfer_bytes(size)?;
        if (first.addr ^ second.addr) & PAGE_OFFSET != 0 {
            return Err(RequestError::Dualcast {
                first: first.addr,
                second: second.addr,
            });
        }
        let descriptor = placed(Opcode::Dualcast, Some(src), Some(first), size)?;
        ends(second, size)?;
        for (a, b) in [(src, first), (src, second), (first, second)] {
            apart((a, size), (b, size))?;
        }
        let fields = DualcastFields {
            second: second.addr,
            second_slot: second.slot.number(),
            ..DualcastFields::default()
        };
        Ok(Self(descriptor.with_operands(fields.to_bytes())))
    }

    /// XOR: the exclusive or of 2 to 16 sources of `size` bytes each. `list` is where the sources,
    /// made by [`source`], lie for the engine; they must stay there, unchanged, until the
    /// completion.
    ///
    /// # Errors
    /// The size or the number of sources is out of range; a source has fields that it must not
    /// have; the list is not aligned to 16; an operand wraps; the destination overlaps a source and
    /// is not the same range.
    pub fn xor(
        dst: Address,
        list: Address,
        sources: &[Segment],
        size: u64,
    ) -> Result<Self, RequestError> {
        let bytes = transfer_bytes(size)?;
        let count = u16::try_from(sources.len())
            .ok()
            .filter(|count| (XOR_SOURCES_MIN..=XOR_SOURCES_MAX).contains(count))
            .ok_or(RequestError::Sources(sources.len()))?;
        list_ends(list, count)?;
        ends(dst, size)?;
        for (index, source) in sources.iter().enumerate() {
            let at = place(source).filter(|_| source.bytes == 0);
            let at = at.ok_or(RequestError::SegmentFields(index))?;
            ends(at, size)?;
            if at != dst {
                apart((at, size), (dst, size))?;
            }
        }
        let mut descriptor = Descriptor::new(Opcode::Xor, Flags::NONE);
        descriptor.word0 = Word0::new(list.slot.number(), dst.slot.number(), false).0;
        (descriptor.src, descriptor.dst, descriptor.size) = (list.addr, dst.addr, bytes);
        let fields = XorFields {
            count,
            ..XorFields::default()
        };
        Ok(Self(descriptor.with_operands(fields.to_bytes())))
    }

    /// COPY_SG of lists: gathers, scatters, or both. Segments that `size` does not reach are left
    /// alone. Lists, made by [`segment`], must stay where they are, unchanged, until the completion.
    ///
    /// # Errors
    /// The size is out of range; no side is a list; a list has no segment, more than 1024, or fewer
    /// bytes than are to be copied; one of its segments is empty or has fields that it must not
    /// have; a list is not aligned to 16; an operand wraps.
    pub fn copy_sg(dst: Side<'_>, src: Side<'_>, size: u64) -> Result<Self, RequestError> {
        let bytes = transfer_bytes(size)?;
        let fields = CopySgFields {
            src_count: src.count()?,
            dst_count: dst.count()?,
            ..CopySgFields::default()
        };
        if (fields.src_count, fields.dst_count) == (0, 0) {
            return Err(RequestError::NoList);
        }
        let (src_at, dst_at) = (src.at(), dst.at());
        for (side, count) in [(src, fields.src_count), (dst, fields.dst_count)] {
            if count != 0 {
                list_ends(side.at(), count)?;
            }
        }
        src.reaches(size)?;
        dst.reaches(size)?;
        let mut descriptor = Descriptor::new(Opcode::CopySg, Flags::NONE);
        descriptor.word0 = Word0::new(src_at.slot.number(), dst_at.slot.number(), false).0;
        (descriptor.src, descriptor.dst, descriptor.size) = (src_at.addr, dst_at.addr, bytes);
        Ok(Self(descriptor.with_operands(fields.to_bytes())))
    }

    /// COPY_SG of rows: `size` bytes in rows of one length, whose starts have a fixed distance.
    ///
    /// # Errors
    /// The size is out of range or not a multiple of the row, a row has no bytes, or the last one
    /// would lie above the last address.
    pub fn copy_rows(
        dst: Address,
        src: Address,
        rows: Rows,
        size: u64,
    ) -> Result<Self, RequestError> {
        let bytes = transfer_bytes(size)?;
        let Rows {
            row_bytes,
            src_stride,
            dst_stride,
        } = rows;
        if row_bytes == 0 {
            return Err(RequestError::NoList);
        }
        if !bytes.is_multiple_of(row_bytes) {
            let unit = row_bytes;
            return Err(RequestError::SizeMultiple { size, unit });
        }
        let extent = |operand: Address, stride| {
            u64::from(bytes / row_bytes - 1)
                .checked_mul(stride)
                .and_then(|starts| starts.checked_add(row_bytes.into()))
                .ok_or(RequestError::Wraps(operand.addr))
        };
        ends(src, extent(src, src_stride)?)?;
        ends(dst, extent(dst, dst_stride)?)?;
        let mut descriptor = Descriptor::new(Opcode::CopySg, Flags::NONE);
        descriptor.word0 = Word0::new(src.slot.number(), dst.slot.number(), false).0;
        (descriptor.src, descriptor.dst, descriptor.size) = (src.addr, dst.addr, bytes);
        let fields = CopySgFields {
            row_bytes,
            src_stride,
            dst_stride,
            ..CopySgFields::default()
        };
        Ok(Self(descriptor.with_operands(fields.to_bytes())))
    }
}

impl Side<'_> {
    const fn at(&self) -> Address {
        match *self {
            Self::Range(at) | Self::List { at, .. } => at,
        }
    }

    /// Segments of the list; 0 of a range.
    fn count(&self) -> Result<u16, RequestError> {
        match *self {
            Self::Range(_) => Ok(0),
            Self::List { segments, .. } => u16::try_from(segments.len())
                .ok()
                .filter(|count| (1..=SEGMENTS_MAX).contains(count))
                .ok_or(RequestError::Segments(segments.len())),
        }
    }

    /// Checks what is used of this side for `size` bytes.
    fn reaches(&self, size: u64) -> Result<(), RequestError> {
        let segments = match *self {
            Self::Range(at) => return ends(at, size),
            Self::List { segments, .. } => segments,
        };
        let mut bytes = 0_u64;
        for (index, segment) in segments.iter().enumerate() {
            if bytes >= size {
                break;
            }
            let at = place(segment).ok_or(RequestError::SegmentFields(index))?;
            if segment.bytes == 0 {
                return Err(RequestError::EmptySegment(index));
            }
            let used = u64::from(segment.bytes).min(size - bytes);
            ends(at, used)?;
            bytes += used;
        }
        if bytes < size {
            return Err(RequestError::ShortList { bytes, size });
        }
        Ok(())
    }
}

/// Where a segment lies, unless it has bits that no segment has.
fn place(segment: &Segment) -> Option<Address> {
    let slot = Slot::new(segment.slot).filter(|_| segment.reserved14 == 0)?;
    let addr = segment.addr;
    Some(Address { slot, addr })
}

/// Refuses a list that is not aligned to its elements, or has no end.
fn list_ends(list: Address, count: u16) -> Result<(), RequestError> {
    if !list.addr.is_multiple_of(Segment::SIZE as u64) {
        return Err(RequestError::SegmentAlignment(list.addr));
    }
    ends(list, u64::from(count) * Segment::SIZE as u64)
}
