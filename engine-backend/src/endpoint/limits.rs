//! [`Limits`]: whether a device does what it is asked, and how much of it at a time.

use super::device::{Geometry, Request, StagingRange};

/// What a driver goes by, whatever the device says later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) geometry: Geometry,
    /// Most blocks of one discard.
    pub(super) discard_blocks_max: u32,
    /// Most blocks of one request for zeroes.
    pub(super) zero_blocks_max: u32,
    pub(super) staging_bytes: u32,
}

impl Limits {
    /// Most blocks of one piece of a request; `None`: the device does not do it, or not there.
    pub(super) fn piece_max(&self, request: &Request) -> Option<u32> {
        let geometry = &self.geometry;
        let writable = !geometry.read_only;
        match *request {
            Request::Read { lba, blocks, at } => self.staged(lba, blocks, at),
            Request::Write { lba, blocks, at } if writable => self.staged(lba, blocks, at),
            Request::Compare { lba, blocks, at } if geometry.compare => {
                self.staged(lba, blocks, at)
            }
            Request::Flush => geometry.flush.then_some(0),
            Request::Discard { lba, blocks } if writable && geometry.discard => self
                .is_inside(lba, blocks)
                .then_some(self.discard_blocks_max),
            Request::WriteZeroes { lba, blocks } if writable && geometry.write_zeroes => {
                self.is_inside(lba, blocks).then_some(self.zero_blocks_max)
            }
            _ => None,
        }
    }

    fn is_inside(&self, lba: u64, blocks: u32) -> bool {
        let end = lba.checked_add(blocks.into());
        blocks != 0 && end.is_some_and(|end| end <= self.geometry.blocks)
    }

    /// Requests that move data go in one piece.
    fn staged(&self, lba: u64, blocks: u32, at: StagingRange) -> Option<u32> {
        let bytes = u64::from(blocks) * u64::from(self.geometry.block_bytes);
        let end = at.offset.checked_add(at.length);
        let fits = self.is_inside(lba, blocks)
            && bytes == u64::from(at.length)
            && at.length <= self.geometry.transfer_bytes_max
            && at.offset.is_multiple_of(4)
            && end.is_some_and(|end| end <= self.staging_bytes);
        fits.then_some(blocks)
    }
}
