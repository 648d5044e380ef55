//! T10 protection information, behind each block (DIF) or apart (DIX): SPEC sections 4.16 and 4.17.

use byway_protocols::operands::{
    DifFields, DifResult, dif_block, dif_destination_flags, dif_flags, dif_mismatch,
};
use byway_protocols::{Completion, Opcode, Status};

use crate::outcome::Failure;
use crate::request::{Address, Request, RequestError, apart, ends, placed, transfer_bytes};

/// Bytes of protection information of a block.
pub const INFORMATION_BYTES: u32 = 8;

/// Bytes of data in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// 512.
    B512,
    /// 520.
    B520,
    /// 4096.
    B4096,
    /// 4104.
    B4104,
}

impl Block {
    /// Bytes of data.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B520 => 520,
            Self::B4096 => 4096,
            Self::B4104 => 4104,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::B512 => dif_block::BLOCK_512,
            Self::B520 => dif_block::BLOCK_520,
            Self::B4096 => dif_block::BLOCK_4096,
            Self::B4104 => dif_block::BLOCK_4104,
        }
    }

    /// Of the bits of a descriptor.
    pub(crate) const fn of(flags: u8) -> Self {
        match flags & dif_flags::BLOCK_MASK {
            dif_block::BLOCK_512 => Self::B512,
            dif_block::BLOCK_520 => Self::B520,
            dif_block::BLOCK_4096 => Self::B4096,
            _ => Self::B4104,
        }
    }
}

/// The block and the form of its guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Data of a block.
    pub block: Block,
    /// The guard's computation starts with 0xffff instead of 0.
    pub inverted_seed: bool,
    /// The guard is stored with all bits inverted.
    pub inverted_guard: bool,
}

impl Form {
    /// With the plain guard of T10.
    #[must_use]
    pub const fn plain(block: Block) -> Self {
        Self {
            block,
            inverted_seed: false,
            inverted_guard: false,
        }
    }

    const fn bits(self) -> u8 {
        let mut bits = self.block.code();
        if self.inverted_seed {
            bits |= dif_flags::INVERT_CRC_SEED;
        }
        if self.inverted_guard {
            bits |= dif_flags::INVERT_CRC_RESULT;
        }
        bits
    }
}

/// Tags of the first block, and how they go on: of the source what is expected, of the destination
/// what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tags {
    /// Application tag.
    pub app_tag: u16,
    /// Of the source: bits of it that are not checked. Of the destination: bits that come from the
    /// source, or are 0 without one.
    pub app_mask: u16,
    /// Reference tag.
    pub ref_tag: u32,
    /// Of the source any of [`dif_source_flags`](byway_protocols::operands::dif_source_flags), of the
    /// destination those of [`dif_destination_flags`] that the operation takes.
    pub flags: u8,
}

/// Destination flags of information that is made anew.
const NEW: u8 = dif_destination_flags::APP_TAG_INCREMENTS | dif_destination_flags::REF_TAG_FIXED;
/// And of information that replaces another.
const REPLACED: u8 = NEW
    | dif_destination_flags::APP_TAG_PASS
    | dif_destination_flags::GUARD_PASS
    | dif_destination_flags::REF_TAG_PASS;

/// What an operation has of both sides.
struct Parts {
    opcode: Opcode,
    src: Option<Address>,
    dst: Option<Address>,
    expected: Option<Tags>,
    made: Option<(Tags, u8)>,
}

impl Request {
    /// DIF_CHECK: checks `size` bytes of blocks with their information; see [`Checked::of`].
    ///
    /// # Errors
    /// The size is not a multiple of a block with its information, or the operand wraps.
    pub fn dif_check(
        src: Address,
        size: u64,
        form: Form,
        expected: Tags,
    ) -> Result<Self, RequestError> {
        let parts = Parts {
            opcode: Opcode::DifCheck,
            src: Some(src),
            dst: None,
            expected: Some(expected),
            made: None,
        };
        protected(parts, size, form)
    }

    /// DIF_INSERT: copies `size` bytes of blocks and puts information behind each.
    ///
    /// # Errors
    /// The size is not a multiple of a block, an operand wraps, the two overlap, or the flags are
    /// others than those of information that is made anew.
    pub fn dif_insert(
        dst: Address,
        src: Address,
        size: u64,
        form: Form,
        made: Tags,
    ) -> Result<Self, RequestError> {
        let parts = Parts {
            opcode: Opcode::DifInsert,
            src: Some(src),
            dst: Some(dst),
            expected: None,
            made: Some((made, NEW)),
        };
        protected(parts, size, form)
    }

    /// DIF_STRIP: checks `size` bytes of blocks with their information and copies the data only;
    /// see [`Checked::of`].
    ///
    /// # Errors
    /// As [`Self::dif_check`], or the two overlap.
    pub fn dif_strip(
        dst: Address,
        src: Address,
        size: u64,
        form: Form,
        expected: Tags,
    ) -> Result<Self, RequestError> {
        let parts = Parts {
            opcode: Opcode::DifStrip,
            src: Some(src),
            dst: Some(dst),
            expected: Some(expected),
            made: None,
        };
        protected(parts, size, form)
    }

    /// DIF_UPDATE: checks `size` bytes of blocks with their information and copies them with new
    /// information, of which parts may be the old; see [`Checked::of`].
    ///
    /// # Errors
    /// As [`Self::dif_check`], or the two overlap.
    pub fn dif_update(
        dst: Address,
        src: Address,
        size: u64,
        form: Form,
        expected: Tags,
        made: Tags,
    ) -> Result<Self, RequestError> {
        let parts = Parts {
            opcode: Opcode::DifUpdate,
            src: Some(src),
            dst: Some(dst),
            expected: Some(expected),
            made: Some((made, REPLACED)),
        };
        protected(parts, size, form)
    }

    /// DIF_GEN: writes information behind each of the blocks in `size` bytes, where they stand.
    ///
    /// # Errors
    /// The size is not a multiple of a block with its information, the operand wraps, or the flags
    /// are others than those of information that is made anew.
    pub fn dif_generate(
        dst: Address,
        size: u64,
        form: Form,
        made: Tags,
    ) -> Result<Self, RequestError> {
        let parts = Parts {
            opcode: Opcode::DifGen,
            src: None,
            dst: Some(dst),
            expected: None,
            made: Some((made, NEW)),
        };
        protected(parts, size, form)
    }

    /// DIX_GEN: writes the information of `size` bytes of blocks to `information`, 8 bytes each.
    ///
    /// # Errors
    /// As [`Self::dif_insert`].
    pub fn dix_generate(
        information: Address,
        src: Address,
        size: u64,
        form: Form,
        made: Tags,
    ) -> Result<Self, RequestError> {
        let parts = Parts {
            opcode: Opcode::DixGen,
            src: Some(src),
            dst: Some(information),
            expected: None,
            made: Some((made, NEW)),
        };
        protected(parts, size, form)
    }

    /// DIX_VERIFY: checks `size` bytes of blocks against the information at `information`; see
    /// [`Checked::of`].
    ///
    /// # Errors
    /// The size is not a multiple of a block, or an operand wraps.
    pub fn dix_verify(
        information: Address,
        src: Address,
        size: u64,
        form: Form,
        expected: Tags,
    ) -> Result<Self, RequestError> {
        let parts = Parts {
            opcode: Opcode::DixVerify,
            src: Some(src),
            dst: Some(information),
            expected: Some(expected),
            made: None,
        };
        protected(parts, size, form)
    }
}

/// Bytes of a block as `size` counts it, and of what belongs to one at the other operand.
pub(crate) const fn units(opcode: Opcode, block: Block) -> (u32, u32) {
    let (data, both) = (block.bytes(), block.bytes() + INFORMATION_BYTES);
    match opcode {
        Opcode::DifInsert => (data, both),
        Opcode::DifStrip => (both, data),
        Opcode::DixGen | Opcode::DixVerify => (data, INFORMATION_BYTES),
        // CHECK and GEN have one operand.
        _ => (both, both),
    }
}

fn protected(parts: Parts, size: u64, form: Form) -> Result<Request, RequestError> {
    if let Some((Tags { flags: found, .. }, takes)) = parts.made
        && found & !takes != 0
    {
        return Err(RequestError::TagFlags { found, takes });
    }
    let bytes = transfer_bytes(size)?;
    let (unit, other) = units(parts.opcode, form.block);
    if !bytes.is_multiple_of(unit) {
        return Err(RequestError::SizeMultiple { size, unit });
    }
    let mut descriptor = placed(parts.opcode, parts.src.or(parts.dst), None, size)?;
    match (parts.src, parts.dst) {
        (Some(src), Some(dst)) => {
            let second = size / u64::from(unit) * u64::from(other);
            ends(dst, second)?;
            if parts.opcode != Opcode::DixVerify {
                apart((src, size), (dst, second))?;
            }
        }
        // DIF_GEN: the blocks are the destination.
        (None, _) => (descriptor.src, descriptor.word0) = (0, 0),
        (Some(_), None) => {}
    }
    if let Some(dst) = parts.dst {
        descriptor.dst = dst.addr;
        descriptor.word0 |= byway_protocols::Word0::new(0, dst.slot.number(), false).0;
    }
    let expected = parts.expected.unwrap_or_default();
    let made = parts.made.map_or_else(Tags::default, |(made, _)| made);
    let fields = DifFields {
        source_flags: expected.flags,
        destination_flags: made.flags,
        flags: form.bits(),
        source_ref_tag: expected.ref_tag,
        source_app_mask: expected.app_mask,
        source_app_tag: expected.app_tag,
        destination_ref_tag: made.ref_tag,
        destination_app_mask: made.app_mask,
        destination_app_tag: made.app_tag,
        ..DifFields::default()
    };
    Ok(Request(descriptor.with_operands(fields.to_bytes())))
}

/// What is wrong with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// The guard is not that of the data.
    pub guard: bool,
    /// The application tag is not the expected one.
    pub app_tag: bool,
    /// The reference tag is not the expected one.
    pub ref_tag: bool,
    /// The information is all ones, which was to be an error.
    pub all_ones: bool,
}

/// What the completion of an operation on protection information tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// What is wrong with the block at [`Self::bytes`]; `None`: every block is done.
    pub mismatch: Option<Mismatch>,
    /// Bytes of blocks that are done, as the request's size counts them.
    pub bytes: u32,
    /// Tags of the first block that is not done: in the source what was expected there, in the
    /// destination what would have been written.
    pub tags: DifResult,
}

impl Checked {
    /// Of an operation on protection information, those that check nothing included.
    ///
    /// # Errors
    /// It ended neither in success nor in a mismatch.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let wanted = [Status::Success, Status::DifMismatch];
        let completion = Failure::unless(completion, &wanted)?;
        let has = |bit| completion.result & bit != 0;
        let differs = completion.status() == Some(Status::DifMismatch);
        Ok(Self {
            mismatch: differs.then(|| Mismatch {
                guard: has(dif_mismatch::GUARD),
                app_tag: has(dif_mismatch::APP_TAG),
                ref_tag: has(dif_mismatch::REF_TAG),
                all_ones: has(dif_mismatch::ALL_F),
            }),
            bytes: completion.bytes_completed,
            tags: DifResult::from_bytes(&completion.operands()),
        })
    }
}
