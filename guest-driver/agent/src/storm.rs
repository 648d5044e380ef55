//! What host program and guest process must agree on for [`crate::commands::Storm`]: the storm region.
//!
//! ```text
//! source   filled once with a pattern; read by the process and its peer
//! inbox    written by the peer, and read back by it
//! own      written by the process itself
//! ```
//!
//! Pages of all three move and are shared; those of the last are discarded and refilled too, since their contents
//! are nobody's loss. Inbox and own are divided into cells, and one transfer at a time has a cell, so that
//! what must stand there afterwards is known.

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a cell: the largest transfer.
pub const CELL: u64 = 64 << 10;
/// Cells of `inbox`, and of `own`.
pub const CELLS: u64 = 48;

/// Offset of `source` in the region, in bytes.
pub const SOURCE: u64 = 0;
/// Bytes of `source`.
pub const SOURCE_BYTES: u64 = 1 << 20;
/// Offset of `inbox`.
pub const INBOX: u64 = SOURCE + SOURCE_BYTES;
/// Offset of `own`.
pub const OWN: u64 = INBOX + CELLS * CELL;
/// Bytes of the region.
pub const REGION_BYTES: u64 = OWN + CELLS * CELL;
/// Most transfers in flight: entries of the work queue.
pub const DEPTH: u32 = 64;

/// What must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Violation {
    /// A page that has a new owner was written by someone else. Detail: guest-physical or virtual address.
    Canary = 1,
    /// A completion says that bytes were moved which are not there. Detail: offset in the storm region.
    WrongBytes = 2,
    /// A transfer ended in a status that nothing in the storm explains. Detail: bytes 0-7 of the completion.
    Status = 3,
}

impl Violation {
    /// The violation with this number.
    #[must_use]
    pub const fn from_raw(value: u64) -> Option<Self> {
        match value {
            1 => Some(Self::Canary),
            2 => Some(Self::WrongBytes),
            3 => Some(Self::Status),
            _ => None,
        }
    }

    /// What happened, for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Canary => "a page was written after it was given to another process",
            Self::WrongBytes => "bytes are missing that were reported as moved",
            Self::Status => "a transfer ended in an impossible status",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Violation;

    #[test]
    fn violations_decode_to_themselves() {
        for value in 0..5 {
            let found = Violation::from_raw(value);
            assert_eq!(
                found.map(|violation| violation as u64),
                (1..=3).contains(&value).then_some(value)
            );
        }
    }
}
