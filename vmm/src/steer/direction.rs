//! Put and get between the two buffers of a [`Stage`].

use byway_protocols::{Descriptor, Flags, Opcode, Word0};

use super::Stage;

/// Which way the bytes go, seen from alice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Alice's memory to bob's.
    Put,
    /// Bob's memory to alice's.
    Get,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Put, Self::Get];

    /// Name in the report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }

    /// The descriptor of a transfer at the beginning of both buffers.
    #[must_use]
    pub fn descriptor(self, stage: &Stage, size: u64) -> Descriptor {
        let (src_slot, src, dst_slot, dst) = match self {
            Self::Put => (0, stage.alice_buffer, stage.slot, 0),
            Self::Get => (stage.slot, 0, 0, stage.alice_buffer),
        };
        Descriptor {
            word0: Word0::new(src_slot, dst_slot, false).0,
            src,
            dst,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            ..Descriptor::new(Opcode::Memmove, Flags::NONE)
        }
    }
}
