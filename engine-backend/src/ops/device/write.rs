//! WRITE: from memory to the device.

use byway_protocols::{Completion, Rights};

use super::direct::Direct;
use super::read::CRC_BYTES;
use super::{Device, Progress, Stop, submit};
use crate::backend::{Backend, Hint, Order};
use crate::context::BlockUse;
use crate::endpoint::device::Request;
use crate::memory::HostAddr;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::{Chunk, Failure};
use crate::ops::success;
use crate::stage2::Access;

impl Device {
    pub(super) fn write<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        to: &BlockUse<'_>,
    ) -> Result<Progress, Stop> {
        let domain = chunk.context.domain();
        loop {
            let left = self.dst.count();
            if let Some(progress) = self.take_direct(chunk, to, Access::Read)? {
                return Ok(progress);
            }
            self.reap(to)?;
            if self.dst.count() < left && self.dst.ended(0).is_some() {
                // Of the other kind than the last.
                continue;
            }
            if self.done == self.wanted.size {
                let completion = Completion {
                    op0: u64::from(self.done) * u64::from(self.wanted.sum),
                    ..success(self.done)
                };
                return Ok(Progress::Done(self.with_sum(completion)));
            }
            if self.asked == self.wanted.size || self.dst.is_full() {
                return Ok(Progress::Waits);
            }
            let Some(slot) = self.dst.hand(domain) else {
                return Ok(Progress::Waits);
            };
            let Some(device) = self.dst.device() else {
                return Ok(Progress::Waits);
            };
            let length = self.length(self.asked);
            let host = device.host(slot);
            if self.filled == 0 {
                let block = to.endpoint.geometry().block_bytes;
                let request = Request::Write {
                    lba: (to.first + u64::from(self.asked)) / u64::from(block),
                    blocks: length / block,
                    at: device.range(slot, length),
                };
                match self.ask_directly(chunk, to, &request, Access::Read)? {
                    Direct::Asked => {
                        self.asked += length;
                        if chunk.budget.is_over() {
                            return Ok(Progress::More);
                        }
                        continue;
                    }
                    Direct::Not(progress) => return Ok(progress),
                    Direct::Staged => {}
                }
            }
            let Some(device) = self.dst.device() else {
                return Ok(Progress::Waits);
            };
            device.prepare(slot, domain);
            if let Err(failure) = self.fill(chunk, host, length) {
                self.dst.drop_hand();
                self.filled = 0;
                if self.dst.count() > 0 {
                    // The bytes before it are to be told exactly: once they are written.
                    chunk.missing = None;
                    return Ok(Progress::Waits);
                }
                return Err(failure.into());
            }
            if self.filled < length || !self.sum_up(chunk, host) {
                return Ok(Progress::More);
            }
            if let Some(progress) = self.send(chunk, to, length)? {
                return Ok(progress);
            }
        }
    }

    /// Has the device write this many bytes, whole blocks, of the slot in hand. `Some`: nothing more now.
    pub(super) fn send<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        to: &BlockUse<'_>,
        length: u32,
    ) -> Result<Option<Progress>, Stop> {
        let (Some(device), Some(slot)) = (self.dst.device(), self.dst.in_hand()) else {
            return Ok(Some(Progress::Waits));
        };
        let block = to.endpoint.geometry().block_bytes;
        let request = Request::Write {
            lba: (to.first + u64::from(self.asked)) / u64::from(block),
            blocks: length / block,
            at: device.range(slot, length),
        };
        if let Some(progress) = submit(&mut self.dst, &request)? {
            return Ok(Some(progress));
        }
        self.asked += length;
        self.filled = 0;
        chunk.budget.spend(OPERATION_COST);
        Ok(chunk.is_spent().then_some(Progress::More))
    }

    /// Copies the rest of a piece into its slot, as far as the chunk goes.
    fn fill<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        slot: HostAddr,
        length: u32,
    ) -> Result<(), Failure> {
        let left = u64::from(length - self.filled);
        if left == 0 {
            return Ok(());
        }
        let at = u64::from(self.asked) + u64::from(self.filled);
        let src = chunk.resolve(self.wanted.src.plus(at), left, Rights::READ)?;
        let hint = Hint {
            order: Order::Disjoint,
            total: left,
            cached: true,
        };
        let mut moved = 0;
        let mut result = Ok(());
        while moved < left {
            let room = chunk.room(left - moved);
            let piece = match chunk.forward(&src, moved, room, Access::Read) {
                Ok(piece) => piece,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            let into = HostAddr(slot.0 + u64::from(self.filled) + moved);
            // SAFETY: the piece was translated in this chunk for reading; the slot is in the
            // staging of a device, which `self` keeps mapped, has room for the whole piece, and
            // is in nobody else's hand.
            unsafe {
                chunk
                    .backend
                    .copy(into, piece.host, piece.len as usize, hint)
            };
            moved += piece.len;
            chunk.budget.spend_slowly(piece.len);
            if chunk.is_spent() {
                break;
            }
        }
        chunk.settle(&[(&src, Access::Read, moved)])?;
        self.filled += moved as u32;
        result
    }

    /// Adds what is in hand, in the slot at `host`, to the checksum, if one is wanted. False: the
    /// chunk is over before.
    pub(super) fn sum_up<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>, host: HostAddr) -> bool {
        let end = self.asked + self.filled;
        while self.wanted.sum && self.summed < end {
            if chunk.is_spent() {
                return false;
            }
            let at = HostAddr(host.0 + u64::from(self.summed - self.asked));
            let len = CRC_BYTES.min((end - self.summed).into());
            // SAFETY: the slot is in the staging of a device, which `self` keeps mapped, and to
            // which there are no references; it is filled up to there.
            self.crc = unsafe { chunk.backend.crc32c(at, len as usize, self.crc) };
            self.summed += len as u32;
            chunk.budget.spend_slowly(len);
        }
        true
    }

    /// The completion with the checksum, for who wants it.
    pub(super) fn with_sum(&self, completion: Completion) -> Completion {
        let sum = if self.wanted.sum { self.crc } else { 0 };
        Completion {
            op0: completion.op0 | u64::from(sum) << 32,
            ..completion
        }
    }
}
