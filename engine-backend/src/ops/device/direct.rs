//! Pieces that a device moves to or from a guest's memory by itself (SPEC section 7.10).
//!
//! The memory has to be pinned, by the word of its owner's kernel, and the device trusted with it by the operator. All is
//! translated when a piece begins, in the chunk in which the rights are found good; from then on the request has the
//! pages themselves, and whoever takes a right away waits for it ([`crate::endpoint::Reaching`]).
//!
//! Whatever is not fit for it is staged, piece by piece. A piece that fails is done again by staging, and so is
//! all behind it: what is told then is what is always told.

use byway_protocols::Rights;

use super::{Device, Kind, Progress, Stop};
use crate::backend::Backend;
use crate::context::{BlockUse, Target};
use crate::endpoint::device::{Outcome, Request};
use crate::endpoint::{Reach, Refusal};
use crate::memory::{Lent, LentPart, LentParts};
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::Chunk;
use crate::stage2::Access;

/// What came of an attempt.
pub(super) enum Direct {
    /// The device was asked: the slot in hand is a piece.
    Asked,
    /// Neither this nor anything else, now.
    Not(Progress),
    /// It is to be staged.
    Staged,
}

impl Device {
    /// Whether a device may reach memory on behalf of it. Whoever ends a transfer early must not tell its submitter before this is
    /// false: he would take the memory for his own again.
    pub fn lends(&self) -> bool {
        self.src.lend() || self.dst.lend()
    }

    /// Its memory, if a device may reach that: all that is left of it.
    fn pinned<'g, B>(
        &self,
        chunk: &Chunk<'g, B>,
        blocks: &BlockUse<'_>,
        access: Access,
    ) -> Option<Target<'g>> {
        let is_plain = self.wanted.chain == 0 && self.wanted.crc.is_none() && !self.wanted.sum;
        if self.staged || !is_plain {
            return None;
        }
        let (operand, right) = match (self.wanted.kind, access) {
            (Kind::Read, Access::Write) => (self.wanted.dst, Rights::WRITE),
            (Kind::Write, Access::Read) => (self.wanted.src, Rights::READ),
            _ => return None,
        };
        if operand.slot == 0 {
            return None;
        }
        let left = u64::from(self.wanted.size - self.asked);
        let operand = operand.plus(self.asked.into());
        let target = chunk.resolve(operand, left, right | Rights::PINNED).ok()?;
        let capability = target.capability()?;
        // Limits are counted when bytes have moved, and are looked at in between.
        let is_fit = !capability.is_limited()
            && blocks.endpoint.is_trusted_with(capability.owner().domain());
        is_fit.then_some(target)
    }

    /// Has the device do a piece by itself, by the slot in hand, if that can be.
    pub(super) fn ask_directly<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        blocks: &BlockUse<'_>,
        request: &Request,
        access: Access,
    ) -> Result<Direct, Stop> {
        let pieces = match access {
            Access::Write => &self.src,
            Access::Read => &self.dst,
        };
        let (Some(device), Some(slot)) = (pieces.device(), pieces.in_hand()) else {
            return Ok(Direct::Staged);
        };
        if !device.reaches_memory() {
            return Ok(Direct::Staged);
        }
        let Some(target) = self.pinned(chunk, blocks, access) else {
            return Ok(Direct::Staged);
        };
        let bytes = u64::from(self.length(self.asked));
        let block = u64::from(device.geometry().block_bytes);
        let Some(memory) = lend(chunk, &target, bytes, block, access) else {
            return Ok(Direct::Staged);
        };
        let Some(owner) = target.owner() else {
            return Ok(Direct::Staged);
        };
        let reach = Reach {
            owner,
            user: chunk.context.domain(),
            space: target.space.id(),
            address: target.addr,
            place: device.place(),
            first: blocks.first + u64::from(self.asked),
            bytes,
        };
        chunk.budget.spend(OPERATION_COST);
        match device.submit_direct(slot, request, reach, memory) {
            Ok(()) => {}
            Err(Refusal::Later) => return Ok(Direct::Not(Progress::Waits)),
            Err(Refusal::Contended) => return Ok(Direct::Not(Progress::More)),
            Err(Refusal::NotSupported) => return Ok(Direct::Staged),
            Err(Refusal::Gone) => return Err(Stop::Device(Outcome::Gone)),
        }
        match access {
            Access::Write => self.src.push_as(true),
            Access::Read => self.dst.push_as(true),
        }
        Ok(Direct::Asked)
    }

    /// Takes back what the device has done by itself, in its order. `Some`: nothing more now, or the end.
    pub(super) fn take_direct<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        blocks: &BlockUse<'_>,
        access: Access,
    ) -> Result<Option<Progress>, Stop> {
        self.returns = false;
        while let Some(outcome) = self.oldest_direct(access) {
            match outcome {
                Outcome::Done => self.take_one(chunk, blocks, access)?,
                Outcome::Gone => return Err(Stop::Device(Outcome::Gone)),
                Outcome::Failed { .. } => break,
            }
            if self.done == self.wanted.size {
                return Ok(Some(Progress::Done(crate::ops::success(self.done))));
            }
        }
        let pieces = match access {
            Access::Write => &mut self.src,
            Access::Read => &mut self.dst,
        };
        if !pieces.has_failed_directly() {
            return Ok(None);
        }
        if pieces.are_under_way() {
            self.returns = true;
            return Ok(Some(Progress::Waits));
        }
        // All from the first that was not handed on or taken back is done again. What is staged before one
        // that has failed may be further.
        let has_staged_first = pieces.count() > 0 && !pieces.is_direct(0);
        if has_staged_first {
            return Ok(None);
        }
        pieces.clear();
        self.staged = true;
        (self.base, self.asked, self.filled) = (self.done, self.done, 0);
        Ok(None)
    }

    /// How the oldest piece ended, if it is one that reaches memory.
    fn oldest_direct(&self, access: Access) -> Option<Outcome> {
        let pieces = match access {
            Access::Write => &self.src,
            Access::Read => &self.dst,
        };
        pieces.is_direct(0).then(|| pieces.ended(0)).flatten()
    }

    /// The oldest piece was done: its pages are marked once more, its bytes counted.
    fn take_one<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        blocks: &BlockUse<'_>,
        access: Access,
    ) -> Result<(), Stop> {
        let length = self.length(self.done);
        let (operand, right) = match access {
            Access::Write => (self.wanted.dst, Rights::WRITE),
            Access::Read => (self.wanted.src, Rights::READ),
        };
        let operand = operand.plus(self.done.into());
        let target = chunk.resolve(operand, length.into(), right)?;
        if access == Access::Write {
            mark(chunk, &target, length.into());
            self.src.pop();
        } else {
            self.dst.pop();
        }
        // In memory that is gone nothing is done.
        chunk.settle(&[(&target, access, length.into())])?;
        match access {
            Access::Write => {
                self.count(blocks, length);
                self.base += length;
            }
            Access::Read => {
                self.done += length;
                blocks.account(0, length.into());
                if let Some(device) = self.dst.device() {
                    device.account(0, length.into());
                }
            }
        }
        Ok(())
    }

    /// It ends although it was not done: what devices have done by themselves until then is done all the same.
    pub(super) fn count_direct(&mut self) {
        for access in [Access::Write, Access::Read] {
            while self.oldest_direct(access) == Some(Outcome::Done) {
                self.done += self.length(self.done);
                match access {
                    Access::Write => self.src.pop(),
                    Access::Read => self.dst.pop(),
                }
            }
        }
    }
}

/// Translates `bytes` bytes at the start of a target for a device whose blocks have `block` bytes. `None`: they are to be
/// staged, which finds out why.
fn lend<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    target: &Target<'_>,
    bytes: u64,
    block: u64,
    access: Access,
) -> Option<Lent> {
    if !target.addr.is_multiple_of(block) {
        return None;
    }
    let mut parts = LentParts::default();
    let mut at = 0;
    while at < bytes {
        let span = chunk
            .iotlb
            .translate(target.space, target.addr + at, access);
        let span = span.ok()?;
        let part = LentPart {
            host: span.host.0,
            gpa: span.gpa,
            bytes: span.bytes.min(bytes - at),
        };
        if !parts.push(part) {
            return None;
        }
        at += part.bytes;
    }
    let is_written = access == Access::Write;
    target.space.memory().lend(parts, is_written)
}

/// Marks pages as accessed and dirty that were written since they were translated.
fn mark<B: Backend>(chunk: &mut Chunk<'_, B>, target: &Target<'_>, bytes: u64) {
    let mut at = 0;
    while at < bytes {
        // A page that is not there now was not pinned: that is its owner's matter.
        let span = chunk
            .iotlb
            .translate(target.space, target.addr + at, Access::Write);
        at += match span {
            Ok(span) => span.bytes,
            Err(_) => 4096 - (target.addr + at) % 4096,
        };
    }
}
