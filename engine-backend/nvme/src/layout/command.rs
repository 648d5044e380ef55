//! Commands and completions (sections 4.2 to 4.6).

use super::Status;

/// Operation codes of the admin command set (section 5).
pub mod admin {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const DELETE_SQ: u8 = 0x00;
    pub const CREATE_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const DELETE_CQ: u8 = 0x04;
    pub const CREATE_CQ: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    pub const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
}

/// Operation codes of the NVM command set (section 6).
pub mod nvm {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    /// In command dword 11 of dataset management: deallocate.
    pub const DEALLOCATE: u32 = 1 << 2;
    /// In command dword 12: through to the medium.
    pub const FORCE_UNIT_ACCESS: u32 = 1 << 30;
}

/// A submission queue entry, 64 bytes, little-endian.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Command {
    /// Its dwords.
    pub dwords: [u32; 16],
}

/// What a command says of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPointer {
    /// Two PRP entries.
    Prp([u64; 2]),
    /// One SGL descriptor.
    Sgl(SglDescriptor),
}

/// Bytes 8-15 of a descriptor are all that is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SglDescriptor {
    /// Address, or something else by type.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Bytes 12-14: 0.
    pub reserved: u32,
    /// Type in bits 7:4, subtype in 3:0.
    pub kind: u8,
}

impl SglDescriptor {
    /// A data block, at an address.
    pub const DATA: u8 = 0x00;
    /// A bit bucket.
    pub const BIT_BUCKET: u8 = 0x10;
    /// A segment of descriptors that another follows.
    pub const SEGMENT: u8 = 0x20;
    /// The last segment.
    pub const LAST_SEGMENT: u8 = 0x30;

    /// As in memory.
    #[must_use]
    pub fn pack(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..15].copy_from_slice(&self.reserved.to_le_bytes()[..3]);
        bytes[15] = self.kind;
        bytes
    }

    /// From memory.
    #[must_use]
    pub fn unpack(bytes: &[u8; 16]) -> Self {
        let low = u64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
        let high = u64::from_le_bytes(std::array::from_fn(|i| bytes[8 + i]));
        Self {
            address: low,
            length: high as u32,
            reserved: (high >> 32) as u32 & 0x00ff_ffff,
            kind: (high >> 56) as u8,
        }
    }
}

impl Command {
    /// One of this operation code and number.
    #[must_use]
    pub fn new(opcode: u8, id: u16, namespace: u32) -> Self {
        let mut dwords = [0; 16];
        dwords[0] = u32::from(opcode) | u32::from(id) << 16;
        dwords[1] = namespace;
        Self { dwords }
    }

    /// The same with two PRP entries.
    #[must_use]
    pub fn with_prp(mut self, prp: [u64; 2]) -> Self {
        for (i, entry) in prp.into_iter().enumerate() {
            self.dwords[6 + 2 * i] = entry as u32;
            self.dwords[7 + 2 * i] = (entry >> 32) as u32;
        }
        self
    }

    /// The same with an SGL descriptor.
    #[must_use]
    pub fn with_sgl(mut self, descriptor: &SglDescriptor) -> Self {
        let bytes = descriptor.pack();
        for i in 0..4 {
            self.dwords[6 + i] = u32::from_le_bytes(std::array::from_fn(|k| bytes[4 * i + k]));
        }
        self.dwords[0] |= 1 << 14;
        self
    }

    /// The same with a dword, 10 to 15, of the operation's own.
    #[must_use]
    pub fn with(mut self, dword: usize, value: u32) -> Self {
        self.dwords[dword] = value;
        self
    }

    /// As in memory.
    #[must_use]
    pub fn pack(&self) -> [u8; 64] {
        std::array::from_fn(|i| self.dwords[i / 4].to_le_bytes()[i % 4])
    }

    /// From memory.
    #[must_use]
    pub fn unpack(bytes: &[u8; 64]) -> Self {
        let dword = |i: usize| u32::from_le_bytes(std::array::from_fn(|k| bytes[4 * i + k]));
        Self {
            dwords: std::array::from_fn(dword),
        }
    }

    /// Operation code.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.dwords[0] as u8
    }
    /// Fused operation: 0 for none.
    #[must_use]
    pub fn fuse(&self) -> u8 {
        (self.dwords[0] >> 8) as u8 & 3
    }
    /// PRP or SGL: 0 for PRP, 1 for an SGL, 2 with an SGL for metadata too, 3 reserved.
    #[must_use]
    pub fn psdt(&self) -> u8 {
        (self.dwords[0] >> 14) as u8 & 3
    }
    /// Command identifier.
    #[must_use]
    pub fn id(&self) -> u16 {
        (self.dwords[0] >> 16) as u16
    }
    /// Namespace.
    #[must_use]
    pub fn namespace(&self) -> u32 {
        self.dwords[1]
    }
    /// Two PRP entries.
    #[must_use]
    pub fn prp(&self) -> [u64; 2] {
        [6, 8].map(|i: usize| u64::from(self.dwords[i]) | u64::from(self.dwords[i + 1]) << 32)
    }
    /// The SGL descriptor.
    #[must_use]
    pub fn sgl(&self) -> SglDescriptor {
        let dword = |i: usize| self.dwords[6 + i / 4].to_le_bytes()[i % 4];
        SglDescriptor::unpack(&std::array::from_fn(dword))
    }
    /// A dword of the operation's own.
    #[must_use]
    pub fn dword(&self, index: usize) -> u32 {
        self.dwords[index]
    }
    /// First block: dwords 10 and 11.
    #[must_use]
    pub fn lba(&self) -> u64 {
        u64::from(self.dwords[10]) | u64::from(self.dwords[11]) << 32
    }
    /// Blocks, 1 to 65536: dword 12, which counts from 0.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        (self.dwords[12] & 0xffff) + 1
    }
    /// The same with first block and number of blocks, 1 to 65536.
    #[must_use]
    pub fn with_blocks(self, lba: u64, blocks: u32) -> Self {
        self.with(10, lba as u32)
            .with(11, (lba >> 32) as u32)
            .with(12, blocks.wrapping_sub(1) & 0xffff)
    }
}

/// A completion queue entry, 16 bytes, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Dword 0: by operation.
    pub result: u32,
    /// Where the submission queue's head is.
    pub sq_head: u16,
    /// Which submission queue.
    pub sq_id: u16,
    /// Which command.
    pub id: u16,
    /// How it ended.
    pub status: Status,
    /// Phase.
    pub phase: bool,
}

impl Completion {
    /// As in memory: the phase is in bit 48 of the second word.
    #[must_use]
    pub fn pack(&self) -> [u64; 2] {
        [
            u64::from(self.result),
            u64::from(self.sq_head)
                | u64::from(self.sq_id) << 16
                | u64::from(self.id) << 32
                | u64::from(self.phase) << 48
                | u64::from(self.status.0) << 49,
        ]
    }

    /// From memory.
    #[must_use]
    pub fn unpack(words: [u64; 2]) -> Self {
        let [first, last] = words;
        Self {
            result: first as u32,
            sq_head: last as u16,
            sq_id: (last >> 16) as u16,
            id: (last >> 32) as u16,
            status: Status((last >> 49) as u16),
            phase: last >> 48 & 1 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read of 8 blocks from block 0x1_2345_6789 of namespace 1, command 0x00a5, written
    /// down by hand from figures 105 and 363.
    const READ: [u8; 64] = [
        0x02, 0x00, 0xa5, 0x00, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // dwords 0-3
        0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x10, 0x32, 0x54, 0, 0, 0, 0, // PRP 1 in 24-31
        0x00, 0x20, 0x32, 0x54, 1, 0, 0, 0, 0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0, // PRP 2, SLBA
        7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // NLB 7, of 8 blocks
    ];

    #[test]
    fn a_read_is_laid_out_as_the_specification_says() {
        let read = Command::new(nvm::READ, 0xa5, 1)
            .with_prp([0x5432_1000, 0x1_5432_2000])
            .with_blocks(0x1_2345_6789, 8);
        assert_eq!(read.pack(), READ);
        let read = Command::unpack(&READ);
        assert_eq!((read.opcode(), read.id(), read.namespace()), (2, 0xa5, 1));
        assert_eq!((read.fuse(), read.psdt()), (0, 0));
        assert_eq!(read.prp(), [0x5432_1000, 0x1_5432_2000]);
        assert_eq!((read.lba(), read.blocks()), (0x1_2345_6789, 8));
    }

    #[test]
    fn an_sgl_is_laid_out_as_the_specification_says() {
        let data = SglDescriptor {
            address: 0x1122_3344_5566_7788,
            length: 0x0001_0000,
            reserved: 0,
            kind: SglDescriptor::LAST_SEGMENT,
        };
        let bytes = [
            0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 1, 0, 0, 0, 0, 0x30,
        ];
        assert_eq!(data.pack(), bytes);
        assert_eq!(SglDescriptor::unpack(&bytes), data);
        let command = Command::new(nvm::WRITE, 1, 1).with_sgl(&data);
        assert_eq!(command.pack()[24..40], bytes);
        assert_eq!((command.psdt(), command.sgl()), (1, data));
        assert_eq!(command.pack()[1], 0x40, "PSDT 01b in bits 15:14");
    }

    #[test]
    fn a_completion_is_laid_out_as_the_specification_says() {
        // Result 7, SQ head 0x0102, SQ 3, command 0x0405, LBA out of range, DNR, phase 1.
        let words = [7, 0x8101_0405_0003_0102];
        let completion = Completion {
            result: 7,
            sq_head: 0x102,
            sq_id: 3,
            id: 0x405,
            status: Status::LBA_OUT_OF_RANGE.do_not_retry(),
            phase: true,
        };
        assert_eq!(completion.pack(), words);
        assert_eq!(Completion::unpack(words), completion);
    }
}
