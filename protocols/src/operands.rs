//! What single operations keep in bytes 40-63 of their descriptor and 16-31 of their
//! completion (SPEC sections 4.10 to 4.23), and the lists that they read. Where Intel
//! DSA has the operation, the fields are DSA's; offset 60 names the slot of a third
//! operand.

use crate::completion::Completion;
use crate::descriptor::Descriptor;
use crate::wire::wire_struct;

/// Room for an endpoint's name, in bytes.
pub const ENDPOINT_NAME_BYTES: usize = 32;

/// Values of [`DeviceFields::operation`].
pub mod device_operation {
    /// Blocks to memory.
    pub const READ: u8 = 1;
    /// Memory to blocks.
    pub const WRITE: u8 = 2;
    /// Blocks to blocks, of the same endpoint or of another.
    pub const COPY: u8 = 3;
    /// Blocks with memory.
    pub const COMPARE: u8 = 4;
    /// What was written, to where it outlasts a loss of power.
    pub const FLUSH: u8 = 5;
    /// Blocks that nobody needs any more.
    pub const DISCARD: u8 = 6;
    /// Zeros to blocks.
    pub const WRITE_ZEROES: u8 = 7;
}

/// Bits of [`DeviceFields::flags`].
pub mod device_flags {
    /// The CRC-32C of what is read has to be the one in `crc`.
    pub const CHECK_CRC: u8 = 1 << 0;
    /// The CRC-32C of what is written is told in the completion.
    pub const GIVE_CRC: u8 = 1 << 1;
    /// All defined bits.
    pub const ALL: u8 = CHECK_CRC | GIVE_CRC;
}

/// Bits of [`crate::control::EndpointOpenReply::features`].
pub mod endpoint_features {
    /// FLUSH is carried out.
    pub const FLUSH: u32 = 1 << 0;
    /// DISCARD is carried out.
    pub const DISCARD: u32 = 1 << 1;
    /// WRITE_ZEROES is carried out.
    pub const WRITE_ZEROES: u32 = 1 << 2;
}

wire_struct! {
    /// Bytes 40-63 of DEVICE_TRANSFER.
    pub struct DeviceFields: 24 align 8 {
        /// See [`device_operation`].
        operation: u8 = 0,
        /// See [`device_flags`].
        flags: u8 = 1,
        /// 0.
        reserved2: u16 = 2,
        /// With CHECK_CRC: the CRC-32C expected; else 0.
        crc: u32 = 4,
        /// Address of a descriptor that says what becomes of the bytes read, or makes those written, a multiple of 64; 0 = none.
        chain: u64 = 8,
        /// 0.
        reserved16: [u8; 8] = 16,
    }
}

/// Bits of [`CancelFields::flags`].
pub mod cancel_flags {
    /// All that there is, and not a range.
    pub const EVERYTHING: u8 = 1 << 0;
    /// All defined bits.
    pub const ALL: u8 = EVERYTHING;
}

wire_struct! {
    /// Bytes 40-63 of CANCEL.
    pub struct CancelFields: 24 align 8 {
        /// Number of the queue, of the same context; 0 = the one that the CANCEL is in.
        queue: u32 = 0,
        /// Number of the first descriptor, counted from 0 since the queue was created, modulo 2^32; 0 with EVERYTHING.
        first: u32 = 4,
        /// See [`cancel_flags`].
        flags: u8 = 8,
        /// 0.
        reserved9: [u8; 15] = 9,
    }
}

/// Largest source of CREATE_DELTA and largest destination of APPLY_DELTA, in bytes.
pub const DELTA_BYTES_MAX: u32 = 512 << 10;
/// Fewest sources of XOR.
pub const XOR_SOURCES_MIN: u16 = 2;
/// Most sources of XOR.
pub const XOR_SOURCES_MAX: u16 = 16;
/// Most segments in a list of COPY_SG.
pub const SEGMENTS_MAX: u16 = 1024;

wire_struct! {
    /// Bytes 40-63 of CREATE_DELTA.
    pub struct CreateDeltaFields: 24 align 8 {
        /// Where the delta record is written.
        delta: u64 = 0,
        /// Room for it in bytes, a multiple of 10.
        delta_bytes_max: u32 = 8,
        /// 0.
        reserved12: [u8; 8] = 12,
        /// Slot of the record.
        delta_slot: u16 = 20,
        /// 0.
        reserved22: u16 = 22,
    }
}

wire_struct! {
    /// Bytes 40-63 of APPLY_DELTA.
    pub struct ApplyDeltaFields: 24 align 8 {
        /// Length of the delta record in bytes, a multiple of 10.
        delta_bytes: u32 = 0,
        /// 0.
        reserved4: [u8; 20] = 4,
    }
}

wire_struct! {
    /// One difference in a delta record.
    pub struct DeltaEntry: 10 align 2 {
        /// Which 8 bytes differ, in units of 8 bytes.
        word: u16 = 0,
        /// What they are in the second source.
        data: [u8; 8] = 2,
    }
}

wire_struct! {
    /// Bytes 40-63 of DUALCAST.
    pub struct DualcastFields: 24 align 8 {
        /// Second destination.
        second: u64 = 0,
        /// 0.
        reserved8: [u8; 12] = 8,
        /// Slot of the second destination.
        second_slot: u16 = 20,
        /// 0.
        reserved22: u16 = 22,
    }
}

wire_struct! {
    /// Bytes 40-63 of CRC_GEN and COPY_CRC.
    pub struct CrcFields: 24 align 8 {
        /// CRC-32C of the bytes that come before; 0 when none do.
        seed: u32 = 0,
        /// 0.
        reserved4: [u8; 20] = 4,
    }
}

wire_struct! {
    /// Bytes 40-63 of the operations on protection information.
    pub struct DifFields: 24 align 8 {
        /// What is checked in the source, see `dif_source_flags`.
        source_flags: u8 = 0,
        /// What is written to the destination, see `dif_destination_flags`.
        destination_flags: u8 = 1,
        /// Block size and form of the guard, see `dif_flags`.
        flags: u8 = 2,
        /// 0.
        reserved3: [u8; 5] = 3,
        /// Reference tag of the source's first block.
        source_ref_tag: u32 = 8,
        /// Bits of the application tag that are not checked.
        source_app_mask: u16 = 12,
        /// Application tag of the source's first block.
        source_app_tag: u16 = 14,
        /// Reference tag of the destination's first block.
        destination_ref_tag: u32 = 16,
        /// Bits of the application tag that come from the source, or are 0 without one.
        destination_app_mask: u16 = 20,
        /// Application tag of the destination's first block.
        destination_app_tag: u16 = 22,
    }
}

wire_struct! {
    /// Bytes 16-31 of the completion of an operation on protection information: the
    /// tags of the first block that was not done.
    pub struct DifResult: 16 align 8 {
        /// Reference tag in the source.
        source_ref_tag: u32 = 0,
        /// As in the descriptor.
        source_app_mask: u16 = 4,
        /// Application tag in the source.
        source_app_tag: u16 = 6,
        /// Reference tag in the destination.
        destination_ref_tag: u32 = 8,
        /// As in the descriptor.
        destination_app_mask: u16 = 12,
        /// Application tag in the destination.
        destination_app_tag: u16 = 14,
    }
}

wire_struct! {
    /// Bytes 40-63 of XOR.
    pub struct XorFields: 24 align 8 {
        /// Sources, 2 to 16.
        count: u16 = 0,
        /// 0.
        reserved2: [u8; 22] = 2,
    }
}

wire_struct! {
    /// Bytes 40-63 of COPY_SG.
    pub struct CopySgFields: 24 align 8 {
        /// Segments in the list that `src` points to; 0: `src` is the source itself.
        src_count: u16 = 0,
        /// Segments in the list that `dst` points to; 0: `dst` is the destination itself.
        dst_count: u16 = 2,
        /// Bytes of a row; 0: there are lists, not rows.
        row_bytes: u32 = 4,
        /// From one row of the source to the next, in bytes.
        src_stride: u64 = 8,
        /// From one row of the destination to the next, in bytes.
        dst_stride: u64 = 16,
    }
}

wire_struct! {
    /// One segment of a list (COPY_SG), or one source (XOR).
    pub struct Segment: 16 align 16 {
        /// First byte.
        addr: u64 = 0,
        /// Bytes; 0 for XOR, where all sources are of one size.
        bytes: u32 = 8,
        /// Slot.
        slot: u16 = 12,
        /// 0.
        reserved14: u16 = 14,
    }
}

wire_struct! {
    /// Bytes 40-63 of ATOMIC64.
    pub struct AtomicFields: 24 align 8 {
        /// What is added, or stored.
        operand: u64 = 0,
        /// COMPARE_SWAP: what must be there for it to be stored.
        compare: u64 = 8,
        /// See `atomic_kind`.
        kind: u8 = 16,
        /// 0.
        reserved17: [u8; 7] = 17,
    }
}

/// Bits of [`DifFields::flags`].
pub mod dif_flags {
    /// The block's size, as [`dif_block`](super::dif_block).
    pub const BLOCK_MASK: u8 = 0x3;
    /// The guard's computation starts with 0xffff instead of 0.
    pub const INVERT_CRC_SEED: u8 = 0x4;
    /// The guard is stored with all bits inverted.
    pub const INVERT_CRC_RESULT: u8 = 0x8;
}

/// Data bytes of a block, in bits 0-1 of [`DifFields::flags`].
pub mod dif_block {
    /// 512 bytes.
    pub const BLOCK_512: u8 = 0;
    /// 520 bytes.
    pub const BLOCK_520: u8 = 1;
    /// 4096 bytes.
    pub const BLOCK_4096: u8 = 2;
    /// 4104 bytes.
    pub const BLOCK_4104: u8 = 3;
}

/// Bits of [`DifFields::source_flags`].
pub mod dif_source_flags {
    /// Information that is all ones is an error.
    pub const ALL_F_ERROR: u8 = 0x01;
    /// A block whose information is all ones is not checked.
    pub const ALL_F_DETECT: u8 = 0x02;
    /// A block whose application tag is all ones is not checked.
    pub const APP_TAG_F_DETECT: u8 = 0x04;
    /// A block whose application and reference tags are all ones is not checked.
    pub const APP_AND_REF_TAG_F_DETECT: u8 = 0x08;
    /// The application tag counts up by 1 a block.
    pub const APP_TAG_INCREMENTS: u8 = 0x10;
    /// The guard is not checked.
    pub const GUARD_CHECK_DISABLE: u8 = 0x20;
    /// The reference tag is not checked.
    pub const REF_TAG_CHECK_DISABLE: u8 = 0x40;
    /// The reference tag is the same in all blocks instead of counting up by 1.
    pub const REF_TAG_FIXED: u8 = 0x80;
}

/// Bits of [`DifFields::destination_flags`].
pub mod dif_destination_flags {
    /// UPDATE: the application tag is the source's.
    pub const APP_TAG_PASS: u8 = 0x08;
    /// The application tag counts up by 1 a block.
    pub const APP_TAG_INCREMENTS: u8 = 0x10;
    /// UPDATE: the guard is the source's.
    pub const GUARD_PASS: u8 = 0x20;
    /// UPDATE: the reference tag is the source's.
    pub const REF_TAG_PASS: u8 = 0x40;
    /// The reference tag is the same in all blocks instead of counting up by 1.
    pub const REF_TAG_FIXED: u8 = 0x80;
}

/// Bits of the result with [`Status::DifMismatch`](crate::Status::DifMismatch).
pub mod dif_mismatch {
    /// The guard is not that of the data.
    pub const GUARD: u8 = 0x1;
    /// The application tag is not the expected one.
    pub const APP_TAG: u8 = 0x2;
    /// The reference tag is not the expected one.
    pub const REF_TAG: u8 = 0x4;
    /// The information is all ones.
    pub const ALL_F: u8 = 0x8;
}

/// Result of CREATE_DELTA.
pub mod delta_result {
    /// The sources are equal; the record is empty.
    pub const EQUAL: u8 = 0;
    /// They differ; the record holds every difference.
    pub const RECORDED: u8 = 1;
    /// There are more differences than fit into the record.
    pub const FULL: u8 = 2;
}

/// What ATOMIC64 does.
pub mod atomic_kind {
    /// Adds, modulo 2^64.
    pub const FETCH_ADD: u8 = 0;
    /// Stores.
    pub const SWAP: u8 = 1;
    /// Stores if what is there is `compare`.
    pub const COMPARE_SWAP: u8 = 2;
}

/// What TRANSLATION_FETCH prepares for, in byte 40.
pub mod fetch_intent {
    /// Reads.
    pub const READ: u8 = 0;
    /// Writes: pages become dirty.
    pub const WRITE: u8 = 1;
}

impl Descriptor {
    /// Bytes 40-63, for the structures of this module.
    #[must_use]
    pub fn operands(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.op0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.op1.to_le_bytes());
        bytes[16..].copy_from_slice(&self.op2.to_le_bytes());
        bytes
    }

    /// The same descriptor with these bytes 40-63.
    #[must_use]
    pub fn with_operands(mut self, bytes: [u8; 24]) -> Self {
        let [op0, op1, op2] = words(&bytes);
        (self.op0, self.op1, self.op2) = (op0, op1, op2);
        self
    }
}

impl Completion {
    /// Bytes 16-31, for [`DifResult`].
    #[must_use]
    pub fn operands(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.op0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.op1.to_le_bytes());
        bytes
    }

    /// The same completion with these bytes 16-31.
    #[must_use]
    pub fn with_operands(mut self, bytes: [u8; 16]) -> Self {
        let [op0, op1] = words(&bytes);
        (self.op0, self.op1) = (op0, op1);
        self
    }
}

/// `N` little-endian words of 8 bytes.
fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut raw = [0; 8];
        raw.copy_from_slice(bytes);
        *word = u64::from_le_bytes(raw);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_dsa_has_them() {
        let mut bytes = [0; 64];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = i as u8;
        }
        let d = Descriptor::from_bytes(&bytes);
        assert_eq!(d.operands(), bytes[40..]);
        assert_eq!(Descriptor::default().with_operands(d.operands()).op2, d.op2);
        let delta = CreateDeltaFields::from_bytes(&d.operands());
        assert_eq!(delta.delta_bytes_max, u32::from_le_bytes([48, 49, 50, 51]));
        assert_eq!(delta.delta_slot, u16::from_le_bytes([60, 61]));
        let dif = DifFields::from_bytes(&d.operands());
        assert_eq!(
            (dif.source_flags, dif.destination_flags, dif.flags),
            (40, 41, 42)
        );
        assert_eq!(dif.source_app_tag, u16::from_le_bytes([54, 55]));
        assert_eq!(
            dif.destination_ref_tag,
            u32::from_le_bytes([56, 57, 58, 59])
        );
        assert_eq!(AtomicFields::from_bytes(&d.operands()).kind, 56);
    }

    #[test]
    fn completions_carry_16_bytes() {
        let result = DifResult {
            source_ref_tag: 0x0403_0201,
            destination_app_tag: 0x1615,
            ..DifResult::default()
        };
        let c = Completion::default().with_operands(result.to_bytes());
        assert_eq!((c.op0, c.op1), (0x0403_0201, 0x1615 << 48));
        assert_eq!(DifResult::from_bytes(&c.operands()), result);
    }
}
