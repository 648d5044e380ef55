//! Descriptors that an engine accepts, built from checked parts (SPEC sections 3 and 4).
//!
//! Owns the rules that an engine would answer with a status of the class "malformed": sizes,
//! counts, alignments, flags that the operation takes. It checks nothing that only the engine
//! knows: whether memory is there and whether a capability allows it.

use byway_protocols::descriptor::{BATCH_COUNT_MAX, TRANSFER_BYTES_MAX};
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Word0};

pub use crate::refusal::RequestError;

/// A capability slot of the context, 0 to 32767; 0 is the context's own address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The context's own address space.
    pub const OWN: Self = Self(0);

    /// The slot with this number, or `None` above 32767.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number <= Word0::SLOT_MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The slot in 15 bits of a word that a builder made, or that an engine would cut likewise.
    pub(crate) const fn cut(number: u16) -> Self {
        Self(number & Word0::SLOT_MAX)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// An operand: a virtual address of one's own, or an offset into a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Capability slot.
    pub slot: Slot,
    /// Virtual address for slot 0, else byte offset into the capability.
    pub addr: u64,
}

impl Address {
    /// A virtual address of the submitting process.
    #[must_use]
    pub const fn own(addr: u64) -> Self {
        Self {
            slot: Slot::OWN,
            addr,
        }
    }

    /// The virtual address of something that the submitting process holds.
    #[must_use]
    pub fn of<T: ?Sized>(pointer: *const T) -> Self {
        Self::own(pointer.cast::<u8>().expose_provenance() as u64)
    }

    /// A byte offset into the capability in `slot`.
    #[must_use]
    pub const fn capability(slot: Slot, offset: u64) -> Self {
        Self { slot, addr: offset }
    }
}

/// What FILL writes, again and again from the destination's first byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// 8 bytes.
    Bytes8([u8; 8]),
    /// 16 bytes.
    Bytes16([u8; 16]),
}

impl Pattern {
    /// One byte everywhere.
    #[must_use]
    pub const fn byte(value: u8) -> Self {
        Self::Bytes8([value; 8])
    }
}

/// A well-formed request. Converts into the [`Descriptor`] that is submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a request does nothing until it is submitted"]
pub struct Request(pub(crate) Descriptor);

impl From<Request> for Descriptor {
    #[inline]
    fn from(request: Request) -> Self {
        request.0
    }
}

impl Request {
    /// NOP: does nothing but complete.
    #[inline]
    pub fn nop() -> Self {
        Self(Descriptor::new(Opcode::Nop, Flags::NONE))
    }

    /// DRAIN: completes after every earlier descriptor of the queue.
    #[inline]
    pub fn drain() -> Self {
        Self(Descriptor::new(Opcode::Drain, Flags::NONE))
    }

    /// MEMMOVE: copies `size` bytes; the ranges may overlap.
    ///
    /// # Errors
    /// The size is out of range, or an operand wraps.
    #[inline]
    pub fn memmove(dst: Address, src: Address, size: u64) -> Result<Self, RequestError> {
        let mut descriptor = sized(Opcode::Memmove, Some(src), Some(dst), size)?;
        descriptor.src = src.addr;
        descriptor.dst = dst.addr;
        Ok(Self(descriptor))
    }

    /// Put: MEMMOVE from one's own memory at `local` into a capability.
    ///
    /// # Errors
    /// The size is out of range, or an operand wraps.
    #[inline]
    pub fn put(slot: Slot, offset: u64, local: u64, size: u64) -> Result<Self, RequestError> {
        Self::memmove(Address::capability(slot, offset), Address::own(local), size)
    }

    /// Get: MEMMOVE from a capability into one's own memory at `local`.
    ///
    /// # Errors
    /// The size is out of range, or an operand wraps.
    #[inline]
    pub fn get(local: u64, slot: Slot, offset: u64, size: u64) -> Result<Self, RequestError> {
        Self::memmove(Address::own(local), Address::capability(slot, offset), size)
    }

    /// FILL: writes a pattern over `size` bytes, which need not be a multiple of its length.
    ///
    /// # Errors
    /// The size is out of range, or the operand wraps.
    #[inline]
    pub fn fill(dst: Address, pattern: Pattern, size: u64) -> Result<Self, RequestError> {
        let mut descriptor = sized(Opcode::Fill, None, Some(dst), size)?;
        descriptor.dst = dst.addr;
        match pattern {
            Pattern::Bytes8(bytes) => descriptor.src = u64::from_le_bytes(bytes),
            Pattern::Bytes16(bytes) => {
                let pattern = u128::from_le_bytes(bytes);
                descriptor.src = pattern as u64;
                descriptor.op0 = (pattern >> 64) as u64;
                descriptor.flags_opcode |= Flags::FILL_16.0;
            }
        }
        Ok(Self(descriptor))
    }

    /// COMPARE: result 1 when the ranges differ, with the offset of the first difference in
    /// `bytes_completed`.
    ///
    /// # Errors
    /// The size is out of range, or an operand wraps.
    #[inline]
    pub fn compare(first: Address, second: Address, size: u64) -> Result<Self, RequestError> {
        let mut descriptor = sized(Opcode::Compare, Some(first), Some(second), size)?;
        descriptor.src = first.addr;
        descriptor.dst = second.addr;
        Ok(Self(descriptor))
    }

    /// COMPARE_VALUE: compares a range with an 8-byte pattern, repeated.
    ///
    /// # Errors
    /// The size is out of range, or the operand wraps.
    #[inline]
    pub fn compare_value(src: Address, pattern: [u8; 8], size: u64) -> Result<Self, RequestError> {
        let mut descriptor = sized(Opcode::CompareValue, Some(src), None, size)?;
        descriptor.src = src.addr;
        descriptor.dst = u64::from_le_bytes(pattern);
        Ok(Self(descriptor))
    }

    /// BATCH: runs `count` descriptors from a list and writes a completion for each into
    /// `statuses`, an array of as many [`Completion`]s.
    ///
    /// # Errors
    /// The count, an alignment or an address is wrong.
    #[inline]
    pub fn batch(list: Address, statuses: Address, count: usize) -> Result<Self, RequestError> {
        let number = u32::try_from(count)
            .ok()
            .filter(|number| (1..=BATCH_COUNT_MAX).contains(number))
            .ok_or(RequestError::Count(count))?;
        if !list.addr.is_multiple_of(Descriptor::SIZE as u64) {
            return Err(RequestError::ListAlignment(list.addr));
        }
        let own_null = statuses.slot == Slot::OWN && statuses.addr == 0;
        if own_null || !statuses.addr.is_multiple_of(Completion::SIZE as u64) {
            return Err(RequestError::StatusAlignment(statuses.addr));
        }
        let list_bytes = u64::from(number) * Descriptor::SIZE as u64;
        let statuses_bytes = u64::from(number) * Completion::SIZE as u64;
        ends(list, list_bytes)?;
        ends(statuses, statuses_bytes)?;
        apart((list, list_bytes), (statuses, statuses_bytes))?;
        let mut descriptor = Descriptor::new(Opcode::Batch, Flags::NONE);
        descriptor.word0 = Word0::new(list.slot.number(), statuses.slot.number(), false).0;
        descriptor.src = list.addr;
        descriptor.status_array = statuses.addr;
        descriptor.size = number;
        Ok(Self(descriptor))
    }

    /// FENCE: start only after every earlier descriptor of the queue, or of the batch, has
    /// completed.
    #[inline]
    pub fn fenced(self) -> Self {
        self.with(Flags::FENCE)
    }

    /// Raise the queue's interrupt after the completion, if it is armed.
    #[inline]
    pub fn interrupting(self) -> Self {
        self.with(Flags::REQUEST_INTERRUPT)
    }

    /// Prefer leaving the destination in the caches; of CACHE_FLUSH: leave the lines there when
    /// they have been written back.
    ///
    /// # Errors
    /// The operation does not take it (SPEC section 3.2).
    #[inline]
    pub fn cached(self) -> Result<Self, RequestError> {
        use Opcode::Dualcast;
        use Opcode::{CacheFlush, Compress, CopyCrc, CopySg, Decompress, Decrypt, DeviceTransfer};
        use Opcode::{Encrypt, Fill, Memmove};
        self.with_if(Flags::CACHE_CONTROL, |opcode| {
            matches!(
                opcode,
                Memmove
                    | Fill
                    | Compress
                    | Decompress
                    | Encrypt
                    | Decrypt
                    | CopyCrc
                    | Dualcast
                    | CopySg
                    | CacheFlush
                    | DeviceTransfer
            )
        })
    }

    /// On a fault in one's own memory ask the guest kernel for the page instead of ending. Without
    /// the engine's feature PAGE_REQUESTS it changes nothing.
    ///
    /// # Errors
    /// The operation touches no memory.
    #[inline]
    pub fn blocking_on_fault(self) -> Result<Self, RequestError> {
        self.with_if(Flags::BLOCK_ON_FAULT, |opcode| {
            !matches!(opcode, Opcode::Nop | Opcode::Drain | Opcode::Cancel)
        })
    }

    /// Write the destination in ascending order.
    ///
    /// # Errors
    /// The operation is not MEMMOVE, FILL or COPY_CRC, or it is a copy to a place within its
    /// source, which has to run backwards.
    #[inline]
    pub fn strictly_ordered(self) -> Result<Self, RequestError> {
        use Opcode::{CopyCrc, Fill, Memmove};
        let request = self.with_if(Flags::STRICT_ORDER, |opcode| {
            matches!(opcode, Memmove | Fill | CopyCrc)
        })?;
        let Descriptor { src, dst, size, .. } = request.0;
        let slots = request.0.slots();
        let copies = request.0.code() == Opcode::Memmove as u8;
        let within = src < dst && dst - src < u64::from(size);
        if copies && slots.src_slot() == slots.dst_slot() && within {
            return Err(RequestError::Overlap);
        }
        Ok(request)
    }

    /// End with status 02 unless a comparison finds what is expected.
    ///
    /// # Errors
    /// The operation is not COMPARE or COMPARE_VALUE.
    #[inline]
    pub fn expecting_difference(self, expected: bool) -> Result<Self, RequestError> {
        let mut request = self.with_if(Flags::CHECK_RESULT, |opcode| {
            matches!(opcode, Opcode::Compare | Opcode::CompareValue)
        })?;
        request.0.op0 = u64::from(expected);
        Ok(request)
    }

    #[inline]
    pub(crate) fn with(mut self, flags: Flags) -> Self {
        self.0.flags_opcode |= flags.0;
        self
    }

    #[inline]
    pub(crate) fn with_if(
        self,
        flags: Flags,
        takes: impl FnOnce(Opcode) -> bool,
    ) -> Result<Self, RequestError> {
        match Opcode::from_code(self.0.code()) {
            Some(opcode) if !takes(opcode) => Err(RequestError::Flag(opcode)),
            _ => Ok(self.with(flags)),
        }
    }
}

/// A descriptor with slots and a checked size; the addresses are checked, not set.
#[inline]
pub(crate) fn sized(
    opcode: Opcode,
    src: Option<Address>,
    dst: Option<Address>,
    size: u64,
) -> Result<Descriptor, RequestError> {
    let bytes = transfer_bytes(size)?;
    // Spelt out rather than looped over: this is on the path of every transfer.
    if let Some(operand) = src {
        ends(operand, size)?;
    }
    if let Some(operand) = dst {
        ends(operand, size)?;
    }
    let slot = |operand: Option<Address>| operand.map_or(0, |operand| operand.slot.number());
    let mut descriptor = Descriptor::new(opcode, Flags::NONE);
    descriptor.word0 = Word0::new(slot(src), slot(dst), false).0;
    descriptor.size = bytes;
    Ok(descriptor)
}

/// A size as it fits a descriptor.
#[inline]
pub(crate) fn transfer_bytes(size: u64) -> Result<u32, RequestError> {
    u32::try_from(size)
        .ok()
        .filter(|bytes| (1..=TRANSFER_BYTES_MAX).contains(bytes))
        .ok_or(RequestError::Size(size))
}

/// As [`sized`], with the addresses set.
pub(crate) fn placed(
    opcode: Opcode,
    src: Option<Address>,
    dst: Option<Address>,
    size: u64,
) -> Result<Descriptor, RequestError> {
    let mut descriptor = sized(opcode, src, dst, size)?;
    descriptor.src = src.map_or(0, |operand| operand.addr);
    descriptor.dst = dst.map_or(0, |operand| operand.addr);
    Ok(descriptor)
}

/// Refuses operands of one slot that share a byte. Whether two slots lead to the same bytes, only
/// the engine knows.
pub(crate) fn apart(first: (Address, u64), second: (Address, u64)) -> Result<(), RequestError> {
    let ((a, a_bytes), (b, b_bytes)) = (first, second);
    let shared = b.addr.wrapping_sub(a.addr) < a_bytes || a.addr.wrapping_sub(b.addr) < b_bytes;
    if a.slot == b.slot && shared {
        return Err(RequestError::Overlap);
    }
    Ok(())
}

/// Refuses an operand whose last byte has no address; `size` is not 0.
#[inline]
pub(crate) fn ends(operand: Address, size: u64) -> Result<(), RequestError> {
    match operand.addr.checked_add(size - 1) {
        Some(_) => Ok(()),
        None => Err(RequestError::Wraps(operand.addr)),
    }
}
