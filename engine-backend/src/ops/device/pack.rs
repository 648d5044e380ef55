//! WRITE of what a chained descriptor makes of memory: ENCRYPT, COMPRESS or SEAL_COPY, whose
//! destination is a [`View`] of the piece in hand. What is made goes to the device piece by
//! piece, and is never in memory.

use byway_protocols::Status;

use super::chain::Link;
use super::view::View;
use super::{Device, Progress, Stop};
use crate::backend::Backend;
use crate::context::BlockUse;
use crate::memory::HostAddr;
use crate::ops::Step;
use crate::ops::chunk::Chunk;

impl Device {
    pub(super) fn write_chained<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        to: &BlockUse<'_>,
    ) -> Result<Progress, Stop> {
        let domain = chunk.context.domain();
        let block = to.endpoint.geometry().block_bytes;
        loop {
            self.reap(to)?;
            let ended = self.chain.as_ref().and_then(Link::ended);
            if let Some(completion) = ended
                && self.done == self.wanted.size
            {
                return Ok(Progress::Done(self.with_sum(completion)));
            }
            if (ended.is_some() && self.filled == 0) || self.dst.is_full() {
                return Ok(Progress::Waits);
            }
            let Some(slot) = self.dst.hand(domain) else {
                return Ok(Progress::Waits);
            };
            let Some(device) = self.dst.device().cloned() else {
                return Ok(Progress::Waits);
            };
            if ended.is_none() && self.filled < self.piece {
                if self.filled == 0 {
                    device.prepare(slot, domain);
                }
                let has_ended = self.make(chunk, device.host(slot), block)?;
                if !has_ended && self.filled < self.piece {
                    return Ok(Progress::More);
                }
                if self.filled == 0 {
                    self.dst.drop_hand();
                    continue;
                }
            }
            if !self.sum_up(chunk, device.host(slot)) {
                return Ok(Progress::More);
            }
            // What is made may end within a block.
            let length = self.filled.next_multiple_of(block);
            device.clear(slot, self.filled..length);
            if let Some(progress) = self.send(chunk, to, length)? {
                return Ok(progress);
            }
        }
    }

    /// Goes on with the chained operation, into the rest of the slot at `host`. True: it has ended.
    fn make<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        host: HostAddr,
        block: u32,
    ) -> Result<bool, Stop> {
        let Some(link) = self.chain.as_mut() else {
            return Err(Status::HardwareError.into());
        };
        let Some(transform) = link.transform() else {
            return Err(Status::HardwareError.into());
        };
        let mut view = View {
            base: self.asked.into(),
            end: u64::from(self.asked) + u64::from(self.piece),
            piece: self.piece.into(),
            ..View::default()
        };
        view.hosts[0] = host.0;
        chunk.staging.view = view;
        let step = transform.step(chunk);
        let is_full = std::mem::take(&mut chunk.staging.view.was_short);
        let made = transform.produced();
        self.filled = made - self.asked;
        match step {
            Step::Done(outcome) if !is_full => {
                if !outcome.completion.is_success() {
                    return Err(Stop::Ended(outcome.completion));
                }
                link.set_ended(outcome.completion);
                // As much as there is.
                self.wanted.size = made.next_multiple_of(block);
                Ok(true)
            }
            // It wanted room where there was some.
            Step::Done(_) if self.filled != self.piece => Err(Status::HardwareError.into()),
            _ => Ok(false),
        }
    }
}
