//! COPY: from blocks to blocks, through the staging of both devices.

use super::read::host_of;
use super::{Device, Progress, Stop, submit};
use crate::backend::{Backend, Hint, Order};
use crate::context::BlockUse;
use crate::endpoint::Refusal;
use crate::endpoint::device::{self, Request};
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::Chunk;
use crate::ops::success;

impl Device {
    pub(super) fn copy<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        from: &BlockUse<'_>,
        to: &BlockUse<'_>,
    ) -> Result<Progress, Stop> {
        let domain = chunk.context.domain();
        loop {
            self.reap(to)?;
            if self.done == self.wanted.size {
                return Ok(Progress::Done(success(self.done)));
            }
            let before = (self.asked, self.src.count());
            if let Some(progress) = self.pass_on(chunk, from, to)? {
                return Ok(progress);
            }
            // Both slots or none, so that no two copies wait for each other's.
            if self.asked < self.wanted.size
                && !self.dst.is_full()
                && let Some(slot) = self.src.hand(domain)
            {
                let Some(target) = self.dst.hand(domain) else {
                    self.src.drop_hand();
                    return Ok(Progress::Waits);
                };
                let (Some(source), Some(sink)) = (self.src.device(), self.dst.device()) else {
                    return Ok(Progress::Waits);
                };
                let (length, block) = (self.length(self.asked), source.geometry().block_bytes);
                source.prepare(slot, domain);
                sink.prepare(target, domain);
                let request = Request::Read {
                    lba: (from.first + u64::from(self.asked)) / u64::from(block),
                    blocks: length / block,
                    at: source.range(slot, length),
                };
                match submit(&mut self.src, &request) {
                    Ok(None) => self.dst.push(),
                    Ok(Some(progress)) => {
                        self.dst.drop_hand();
                        self.src.drop_hand();
                        return Ok(progress);
                    }
                    Err(stop) => {
                        self.dst.drop_hand();
                        if self.dst.count() == 0 {
                            return Err(stop);
                        }
                        return Ok(Progress::Waits);
                    }
                }
                self.asked += length;
                chunk.budget.spend(OPERATION_COST);
            }
            if chunk.is_spent() {
                return Ok(Progress::More);
            }
            if before == (self.asked, self.src.count()) {
                return Ok(Progress::Waits);
            }
        }
    }

    /// Has the oldest piece that was read be written, if it was. `Some`: not now.
    fn pass_on<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        from: &BlockUse<'_>,
        to: &BlockUse<'_>,
    ) -> Result<Option<Progress>, Stop> {
        let Some(outcome) = self.src.ended(0) else {
            return Ok(None);
        };
        // Pieces that are not read yet are the youngest of those to be written.
        let index = self.dst.count() - self.src.count();
        if outcome != device::Outcome::Done {
            // What was read before it is written first, so that it is told exactly.
            return match index {
                0 => Err(Stop::Device(outcome)),
                _ => Ok(Some(Progress::Waits)),
            };
        }
        let at = self.asked - self.unread();
        let length = self.length(at);
        let (Some(source), Some(target)) = (host_of(&self.src, 0), host_of(&self.dst, index))
        else {
            return Ok(None);
        };
        let hint = Hint {
            order: Order::Disjoint,
            total: length.into(),
            cached: true,
        };
        // SAFETY: both slots are in stagings of devices, which `self` keeps mapped, have
        // room for the piece, and are in nobody else's hand; the device has ended the one
        // and was not asked by the other.
        unsafe { chunk.backend.copy(target, source, length as usize, hint) };
        chunk.backend.finish();
        chunk.budget.spend_slowly(length.into());
        let (Some(device), Some(slot)) = (self.dst.device(), self.dst.slot(index)) else {
            return Ok(None);
        };
        let block = device.geometry().block_bytes;
        let request = Request::Write {
            lba: (to.first + u64::from(at)) / u64::from(block),
            blocks: length / block,
            at: device.range(slot, length),
        };
        match device.submit(slot, &request) {
            Ok(()) => {}
            Err(Refusal::Later) => return Ok(Some(Progress::Waits)),
            Err(Refusal::Contended) => return Ok(Some(Progress::More)),
            Err(Refusal::Gone) => return Err(Stop::Device(device::Outcome::Gone)),
            Err(Refusal::NotSupported) => {
                return Err(byway_protocols::Status::DeviceUnsupported.into());
            }
        }
        if let Some(device) = self.src.device() {
            device.account(length.into(), 0);
        }
        from.account(length.into(), 0);
        self.src.pop();
        Ok(None)
    }

    /// Bytes of the pieces that are being read.
    fn unread(&self) -> u32 {
        let pieces = self.src.count() as u32;
        let last = self.asked % self.piece;
        match (pieces, last) {
            (0, _) => 0,
            (pieces, 0) => pieces * self.piece,
            (pieces, last) => (pieces - 1) * self.piece + last,
        }
    }
}
