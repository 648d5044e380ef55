//! [`Status`]: how a command ended (section 4.6.1).

/// The status field of a completion, without its phase bit: code in bits 7:0, type in 10:8,
/// More in 13, Do Not Retry in 14.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

const fn generic(code: u8) -> Status {
    Status(code as u16)
}
const fn specific(code: u8) -> Status {
    Status(1 << 8 | code as u16)
}
const fn media(code: u8) -> Status {
    Status(2 << 8 | code as u16)
}

/// Do Not Retry.
const DNR: u16 = 1 << 14;

#[allow(missing_docs, reason = "the names are the specification's")]
impl Status {
    pub const SUCCESS: Self = generic(0x00);
    pub const INVALID_OPCODE: Self = generic(0x01);
    pub const INVALID_FIELD: Self = generic(0x02);
    pub const ID_CONFLICT: Self = generic(0x03);
    pub const DATA_TRANSFER_ERROR: Self = generic(0x04);
    pub const INTERNAL_ERROR: Self = generic(0x06);
    pub const ABORT_REQUESTED: Self = generic(0x07);
    pub const ABORTED_BY_DELETION: Self = generic(0x08);
    pub const INVALID_NAMESPACE: Self = generic(0x0b);
    pub const INVALID_SGL_SEGMENT: Self = generic(0x0d);
    pub const INVALID_SGL_COUNT: Self = generic(0x0e);
    pub const SGL_LENGTH_INVALID: Self = generic(0x0f);
    pub const SGL_TYPE_INVALID: Self = generic(0x11);
    pub const PRP_OFFSET_INVALID: Self = generic(0x13);
    pub const WRITE_PROTECTED: Self = generic(0x20);
    pub const LBA_OUT_OF_RANGE: Self = generic(0x80);
    pub const CAPACITY_EXCEEDED: Self = generic(0x81);
    pub const COMPLETION_QUEUE_INVALID: Self = specific(0x00);
    pub const QUEUE_ID_INVALID: Self = specific(0x01);
    pub const QUEUE_SIZE_INVALID: Self = specific(0x02);
    pub const ASYNC_EVENT_LIMIT: Self = specific(0x05);
    pub const INTERRUPT_VECTOR_INVALID: Self = specific(0x08);
    pub const LOG_PAGE_INVALID: Self = specific(0x09);
    pub const QUEUE_DELETION_INVALID: Self = specific(0x0c);
    pub const NOT_SAVEABLE: Self = specific(0x0d);
    pub const NOT_CHANGEABLE: Self = specific(0x0e);
    pub const WRITE_FAULT: Self = media(0x80);
    pub const UNRECOVERED_READ: Self = media(0x81);
    pub const COMPARE_FAILURE: Self = media(0x85);
}

impl Status {
    /// The same, to be tried again in vain.
    #[must_use]
    pub const fn do_not_retry(self) -> Self {
        Self(self.0 | DNR)
    }

    /// Code and type alone.
    #[must_use]
    pub const fn kind(self) -> Self {
        Self(self.0 & 0x7ff)
    }

    /// Whether the command was carried out.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.kind().0 == 0
    }
}
