//! READ and COMPARE: from the device to whoever takes the bytes.

use byway_protocols::{Completion, Status};

use super::direct::Direct;
use super::view::View;
use super::{Device, Kind, Progress, Stop, WINDOW, submit};
use crate::backend::{Backend, Order};
use crate::context::BlockUse;
use crate::endpoint::device::{self, Request};
use crate::memory::HostAddr;
use crate::ops::chunk::Chunk;
use crate::ops::compare::{Compare, Other};
use crate::ops::memmove::Memmove;
use crate::ops::{Step, success};
use crate::stage2::Access;

impl Device {
    pub(super) fn read<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        from: &BlockUse<'_>,
    ) -> Result<Progress, Stop> {
        loop {
            let before = (self.asked, self.done, self.summed);
            if let Some(progress) = self.take_direct(chunk, from, Access::Write)? {
                return Ok(progress);
            }
            let refused = self.ask(chunk, from);
            chunk.staging.view = self.view();
            if self.wanted.crc.is_some() {
                self.sum(chunk)?;
            }
            let ended = self.hand_on(chunk, from);
            let ended = match ended {
                Err(stop) => {
                    if !self.lends() {
                        self.let_go(chunk);
                    }
                    return Err(stop);
                }
                Ok(ended) => ended,
            };
            self.pop_done();
            if let Some(completion) = ended {
                return Ok(Progress::Done(completion));
            }
            if chunk.is_spent() {
                return Ok(Progress::More);
            }
            if before == (self.asked, self.done, self.summed) {
                // All that came was handed on: what has failed is next.
                if let Some((outcome, at)) = self.failed() {
                    self.failed_at = at;
                    return Err(Stop::Device(outcome));
                }
                return match refused {
                    // Nothing is under way any more.
                    Err(stop) if self.src.count() == 0 => Err(stop),
                    Ok(Some(progress)) => Ok(progress),
                    _ => Ok(Progress::Waits),
                };
            }
        }
    }

    /// Asks for as much as may be under way.
    fn ask<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        from: &BlockUse<'_>,
    ) -> Result<Option<Progress>, Stop> {
        let domain = chunk.context.domain();
        let block = from.endpoint.geometry().block_bytes;
        while self.asked < self.wanted.size && !self.src.is_full() {
            let Some(slot) = self.src.hand(domain) else {
                return Ok(Some(Progress::Waits));
            };
            let Some(device) = self.src.device() else {
                return Ok(Some(Progress::Waits));
            };
            let length = self.length(self.asked);
            let request = Request::Read {
                lba: (from.first + u64::from(self.asked)) / u64::from(block),
                blocks: length / block,
                at: device.range(slot, length),
            };
            match self.ask_directly(chunk, from, &request, Access::Write)? {
                Direct::Asked => {
                    self.asked += length;
                    continue;
                }
                Direct::Not(progress) => return Ok(Some(progress)),
                Direct::Staged => {}
            }
            let Some(device) = self.src.device() else {
                return Ok(Some(Progress::Waits));
            };
            device.prepare(slot, domain);
            if let Some(progress) = submit(&mut self.src, &request)? {
                return Ok(Some(progress));
            }
            self.asked += length;
            chunk.budget.spend(crate::ops::budget::OPERATION_COST);
        }
        Ok(None)
    }

    /// What has come, without a gap.
    fn view(&self) -> View {
        let mut view = View {
            base: self.base.into(),
            end: self.base.into(),
            piece: self.piece.into(),
            ..View::default()
        };
        let Some(device) = self.src.device() else {
            return view;
        };
        for (index, host) in view.hosts.iter_mut().enumerate().take(WINDOW) {
            if self.src.is_direct(index) {
                // Where it is to be already.
                break;
            }
            let (Some(slot), Some(outcome)) = (self.src.slot(index), self.src.ended(index)) else {
                break;
            };
            *host = device.host(slot).0;
            let length = self.length(view.end as u32);
            let block = device.geometry().block_bytes;
            match outcome {
                device::Outcome::Done => view.end += u64::from(length),
                device::Outcome::Failed { bytes_done, .. } => {
                    view.end += u64::from(bytes_done.min(length) / block * block);
                    break;
                }
                device::Outcome::Gone => break,
            }
        }
        view
    }

    /// How the oldest request ended that was not done, once all before it were, and which byte is
    /// the first that it lacks.
    fn failed(&self) -> Option<(device::Outcome, u32)> {
        let mut at = self.base;
        for index in 0..self.src.count() {
            if self.src.is_direct(index) {
                // Found out by staging, if it is so.
                return None;
            }
            match self.src.ended(index)? {
                device::Outcome::Done => at += self.length(at),
                outcome @ device::Outcome::Failed { bytes_done, .. } => {
                    return Some((outcome, at + bytes_done.min(self.length(at))));
                }
                device::Outcome::Gone => return Some((device::Outcome::Gone, at)),
            }
        }
        None
    }

    /// Adds what has come to the checksum. Nothing goes on before it was: the view ends there.
    fn sum<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Stop> {
        let Some(expected) = self.wanted.crc else {
            return Ok(());
        };
        let whole = self.stored();
        let end = chunk.staging.view.end.min(whole.into()) as u32;
        while self.summed < end && !chunk.is_spent() {
            let piece = chunk.staging.view.find(self.summed.into())?;
            let len = piece.len.min((end - self.summed).into()).min(CRC_BYTES);
            // SAFETY: the piece is in the staging of a device, which `self` keeps mapped, and
            // to which there are no references.
            self.crc = unsafe { chunk.backend.crc32c(piece.host, len as usize, self.crc) };
            self.summed += len as u32;
            chunk.budget.spend_slowly(len);
        }
        if self.summed == whole && self.crc != expected {
            return Err(Status::ChecksumMismatch.into());
        }
        let view = &mut chunk.staging.view;
        // What is behind the last byte that is stored has no checksum, and is nobody's.
        view.end = view.end.min(self.summed.into());
        Ok(())
    }

    /// Bytes that are stored: less than is read when something else than blocks is.
    fn stored(&self) -> u32 {
        self.chain
            .as_ref()
            .map_or(self.wanted.size, |link| link.size())
    }

    /// Hands what has come to whoever takes it. `Some` is the end.
    fn hand_on<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        from: &BlockUse<'_>,
    ) -> Result<Option<Completion>, Stop> {
        if self.chain.is_some() {
            return self.hand_on_chained(chunk, from);
        }
        let end = chunk.staging.view.end as u32;
        if end <= self.done {
            return Ok(None);
        }
        let (src, dst) = (
            View::operand(self.done),
            self.wanted.dst.plus(self.done.into()),
        );
        let size = end - self.done;
        let (step, done) = if self.wanted.kind == Kind::Compare {
            let mut compare = Compare {
                src,
                with: Other::Range(dst),
                size,
                expected: None,
                done: 0,
            };
            (compare.step(chunk), compare.done)
        } else {
            let mut copy = Memmove {
                src,
                dst,
                size,
                cached: self.wanted.cached,
                strict: false,
                done: 0,
                order: Some(Order::Disjoint),
            };
            (copy.step(chunk), copy.done)
        };
        self.count(from, done);
        let Step::Done(outcome) = step else {
            return Ok(None);
        };
        let completion = Completion {
            bytes_completed: self.done,
            ..outcome.completion
        };
        let succeeded = completion.is_success();
        if !succeeded {
            return Err(Stop::Ended(completion));
        }
        if completion.result != 0 {
            return Ok(Some(completion));
        }
        Ok((self.done == self.wanted.size).then(|| success(self.done)))
    }

    /// Counts bytes that were handed on.
    pub(super) fn count(&mut self, from: &BlockUse<'_>, bytes: u32) {
        self.done += bytes;
        from.account(bytes.into(), 0);
        if let Some(device) = self.src.device() {
            device.account(bytes.into(), 0);
        }
    }

    /// Gives pieces back all of whose bytes were handed on.
    fn pop_done(&mut self) {
        while self.src.count() > 0 && self.done - self.base >= self.length(self.base) {
            self.base += self.length(self.base);
            self.src.pop();
        }
    }

    /// What faults may wait for long: others shall have the slots meanwhile. With a checksum
    /// nothing is read again, since it might be something else then.
    fn let_go<B>(&mut self, chunk: &Chunk<'_, B>) {
        let block = self.src.device().map_or(1, |d| d.geometry().block_bytes);
        if chunk.missing.is_some() && self.wanted.crc.is_none() {
            self.src.clear();
            self.base = self.done / block * block;
            self.asked = self.base;
        }
    }
}

/// Bytes between two looks at the budget.
pub(super) const CRC_BYTES: u64 = 8 << 10;

/// Where a piece's bytes are.
pub(super) fn host_of(pieces: &super::Pieces, index: usize) -> Option<HostAddr> {
    Some(pieces.device()?.host(pieces.slot(index)?))
}
