//! The descriptor: 64 bytes, one cache line, written by the submitter and read by
//! the engine exactly once (SPEC section 3).

use crate::opcode::Opcode;
use crate::wire::wire_struct;

wire_struct! {
    /// One request. Fields not used by the opcode are 0.
    pub struct Descriptor: 64 align 64 {
        /// Slots and phase: see [`Word0`].
        word0: u32 = 0,
        /// Bits 0-23 [`Flags`], bits 24-31 opcode.
        flags_opcode: u32 = 4,
        /// 0; for BATCH the address of the array of per-element completions.
        status_array: u64 = 8,
        /// Source, first source, pattern (FILL) or descriptor list (BATCH).
        src: u64 = 16,
        /// Destination, second source (COMPARE) or pattern (COMPARE_VALUE).
        dst: u64 = 24,
        /// Bytes, or descriptors (BATCH).
        size: u32 = 32,
        /// Interrupt handle; 0.
        int_handle: u16 = 36,
        /// 0.
        reserved38: u16 = 38,
        /// First 8 bytes by operation: FILL pattern bytes 8-15, COMPARE expected result.
        op0: u64 = 40,
        /// Second 8 bytes by operation.
        op1: u64 = 48,
        /// Third 8 bytes by operation.
        op2: u64 = 56,
    }
}

/// Bytes 0-3 of a descriptor: bits 0-14 source slot, 15-29 destination slot,
/// 30 reserved, 31 phase. Slot 0 is the context's own address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Word0(pub u32);

impl Word0 {
    /// Slots are 15 bits.
    pub const SLOT_MAX: u16 = 0x7fff;
    /// Must be 0.
    pub const RESERVED: u32 = 1 << 30;
    /// The phase bit.
    pub const PHASE: u32 = 1 << 31;

    /// Puts the word together; bits of a slot above 14 are dropped.
    #[must_use]
    pub const fn new(src_slot: u16, dst_slot: u16, phase: bool) -> Self {
        Self(
            (src_slot & Self::SLOT_MAX) as u32
                | ((dst_slot & Self::SLOT_MAX) as u32) << 15
                | (phase as u32) << 31,
        )
    }
    /// Source slot, 0 to 32767.
    #[must_use]
    pub const fn src_slot(self) -> u16 {
        (self.0 & Self::SLOT_MAX as u32) as u16
    }
    /// Destination slot, 0 to 32767.
    #[must_use]
    pub const fn dst_slot(self) -> u16 {
        ((self.0 >> 15) & Self::SLOT_MAX as u32) as u16
    }
    /// Phase.
    #[must_use]
    pub const fn phase(self) -> bool {
        self.0 & Self::PHASE != 0
    }
    /// The same word with another phase.
    #[must_use]
    pub const fn with_phase(self, phase: bool) -> Self {
        Self(self.0 & !Self::PHASE | (phase as u32) << 31)
    }
}

/// Descriptor flags (SPEC section 3.2); 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// Start after every earlier descriptor of the queue, or of the batch, has completed.
    pub const FENCE: Self = Self(0x1);
    /// On a fault in one's own memory ask the guest kernel instead of ending.
    pub const BLOCK_ON_FAULT: Self = Self(0x2);
    /// Accepted for DSA's sake; Byway's records stand beside the ring.
    pub const COMPLETION_VALID: Self = Self(0x4);
    /// Accepted for DSA's sake; Byway always writes a completion.
    pub const REQUEST_COMPLETION: Self = Self(0x8);
    /// Raise the queue's interrupt after the completion.
    pub const REQUEST_INTERRUPT: Self = Self(0x10);
    /// Compare the result with the expected one in byte 40.
    pub const CHECK_RESULT: Self = Self(0x80);
    /// Prefer leaving the destination in the caches.
    pub const CACHE_CONTROL: Self = Self(0x100);
    /// Write the destination in ascending order.
    pub const STRICT_ORDER: Self = Self(0x2000);
    /// FILL: the pattern has 16 bytes, the upper 8 in `op0`.
    pub const FILL_16: Self = Self(0x4000);
    /// SEND, RECEIVE: end in status 64 instead of waiting for the other side.
    pub const NO_WAIT: Self = Self(0x8000);
    /// All 24 bits.
    pub const MASK: u32 = 0x00ff_ffff;

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl core::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl Descriptor {
    /// A descriptor with this operation and flags, all else 0.
    #[must_use]
    pub fn new(opcode: Opcode, flags: Flags) -> Self {
        Self::with_code(opcode as u8, flags)
    }
    /// As [`Self::new`] with a raw operation code, known or not.
    #[must_use]
    pub fn with_code(code: u8, flags: Flags) -> Self {
        Self {
            flags_opcode: flags.0 & Flags::MASK | u32::from(code) << 24,
            ..Self::default()
        }
    }
    /// Takes the 64 bytes apart that were read as eight words, bytes 0-7 first.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 8]) -> Self {
        let [publish, status_array, src, dst, size_handle, op0, op1, op2] = words;
        Self {
            word0: publish as u32,
            flags_opcode: (publish >> 32) as u32,
            status_array,
            src,
            dst,
            size: size_handle as u32,
            int_handle: (size_handle >> 32) as u16,
            reserved38: (size_handle >> 48) as u16,
            op0,
            op1,
            op2,
        }
    }
    /// The operation code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        (self.flags_opcode >> 24) as u8
    }
    /// The flags.
    #[must_use]
    pub const fn flags(&self) -> Flags {
        Flags(self.flags_opcode & Flags::MASK)
    }
    /// Slots and phase.
    #[must_use]
    pub const fn slots(&self) -> Word0 {
        Word0(self.word0)
    }
    /// Bytes 0-7 as the one word that publishes the descriptor.
    #[must_use]
    pub const fn publish_word(&self) -> u64 {
        self.word0 as u64 | (self.flags_opcode as u64) << 32
    }
}

/// Largest transfer of one descriptor, in bytes (SPEC section 3.3).
pub const TRANSFER_BYTES_MAX: u32 = 1 << 31;
/// Most descriptors of one batch.
pub const BATCH_COUNT_MAX: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word0_keeps_its_parts_apart() {
        let w = Word0::new(0x7fff, 0, false);
        assert_eq!((w.src_slot(), w.dst_slot(), w.phase()), (0x7fff, 0, false));
        let w = Word0::new(0, 0x7fff, true);
        assert_eq!((w.src_slot(), w.dst_slot(), w.phase()), (0, 0x7fff, true));
        assert_eq!(w.0 & Word0::RESERVED, 0);
        assert!(!w.with_phase(false).phase());
        assert_eq!(w.with_phase(false).dst_slot(), 0x7fff);
    }

    #[test]
    fn bytes_round_trip() {
        let mut bytes = [0; 64];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = i as u8;
        }
        let d = Descriptor::from_bytes(&bytes);
        assert_eq!(d.code(), 7);
        assert_eq!(d.flags(), Flags(0x06_05_04));
        assert_eq!(d.size, 0x2322_2120);
        assert_eq!(d.publish_word(), 0x0706_0504_0302_0100);
        assert_eq!(d.to_bytes(), bytes);
        let word = |i: usize| u64::from_le_bytes(core::array::from_fn(|j| bytes[8 * i + j]));
        assert_eq!(Descriptor::from_words(core::array::from_fn(word)), d);
    }
}
