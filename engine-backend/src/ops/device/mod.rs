//! DEVICE_TRANSFER (SPEC section 4.33).
//!
//! A transfer is cut into pieces, of which a few are at the device at a time (`pieces`). What a
//! device has read lies in its staging, and is an operand like any other from there on
//! (`view`): MEMMOVE, COMPARE and the transforming operations take it as their source, and those
//! that make something to be stored have what is to be written as their destination. So
//! whatever happens to the guest's side happens in ordinary chunks.
//!
//! A transfer that has to wait says [`Step::Device`]: it holds slots, and nothing of a guest's. Only pieces that a device
//! moves to or from pinned memory by itself are lent that (`direct`); no transfer ends before such a piece has.

mod chain;
mod copy;
mod direct;
mod pack;
mod pieces;
mod read;
mod view;
mod write;

use byway_protocols::{Completion, Rights, Status};

use super::budget::OPERATION_COST;
use super::chunk::{Chunk, Failure, Operand};
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::context::BlockUse;
use crate::endpoint::Refusal;
use crate::endpoint::device::{self, Request};
use crate::stage2::Access;
use pieces::Pieces;

pub use chain::{Chains, Link};
pub use view::View;
pub(super) use view::{SLOT, space};

/// Pieces of one transfer that a device has at a time.
const WINDOW: usize = 8;

/// Most bytes that one request without data is about.
const RANGE_BYTES: u32 = 1 << 30;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Blocks to memory.
    Read,
    /// Memory to blocks.
    Write,
    /// Blocks to blocks.
    Copy,
    /// Blocks with memory.
    Compare,
    /// All that was written.
    Flush,
    /// Blocks that nobody needs.
    Discard,
    /// Zeros to blocks.
    WriteZeroes,
}

impl Kind {
    fn reads_blocks(self) -> bool {
        matches!(self, Self::Read | Self::Copy | Self::Compare)
    }
    fn writes_blocks(self) -> bool {
        !matches!(self, Self::Read | Self::Compare)
    }
}

/// Operands, checked as far as a descriptor alone can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What is to be done.
    pub kind: Kind,
    /// Source.
    pub src: Operand,
    /// Destination.
    pub dst: Operand,
    /// Bytes; 0 for a flush alone.
    pub size: u32,
    /// The CRC-32C that what is read has to have.
    pub crc: Option<u32>,
    /// The submitter wants the CRC-32C of what is written.
    pub sum: bool,
    /// Address of a descriptor for what is read or written; 0 = none.
    pub chain: u64,
    /// The submitter wants the destination in the caches.
    pub cached: bool,
}

/// A transfer under way.
#[derive(Debug)]
pub struct Device {
    wanted: Wanted,
    src: Pieces,
    dst: Pieces,
    /// First bytes on the devices, to notice that a slot has come to mean something else.
    first: [u64; 2],
    /// Bytes of a piece; 0 before it has begun.
    piece: u32,
    /// Bytes done: handed on, or taken by the device.
    done: u32,
    /// Bytes before the oldest piece.
    base: u32,
    /// Bytes that the device was asked for, or in a copy was asked to read.
    asked: u32,
    /// Bytes of the piece in hand that are there.
    filled: u32,
    /// The first byte that a device could not read, where that is not `done`.
    failed_at: u32,
    /// Bytes whose checksum `crc` is.
    summed: u32,
    crc: u32,
    /// No more pieces are to reach memory: something has failed, and is done again by staging.
    staged: bool,
    /// It has stopped, and waits for what devices were lent.
    returns: bool,
    /// What becomes of the bytes read, or makes those that are written, when they are not to be
    /// just copied.
    chain: Option<Link>,
}

/// What came of a look.
enum Progress {
    /// The chunk is over.
    More,
    /// Nothing to do until the device has answered.
    Waits,
    /// The end.
    Done(Completion),
}

/// Why it stops.
enum Stop {
    /// As any operation does.
    Failure(Failure),
    /// As another operation did.
    Ended(Completion),
    /// The device said so.
    Device(device::Outcome),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failure(status.into())
    }
}

impl Device {
    /// Nothing done yet.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            src: Pieces::default(),
            dst: Pieces::default(),
            first: [0; 2],
            piece: 0,
            done: 0,
            base: 0,
            asked: 0,
            filled: 0,
            failed_at: 0,
            summed: 0,
            crc: 0,
            staged: false,
            returns: false,
            chain: None,
        }
    }

    /// Bytes done so far.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    /// Whether a step would come any further: false while all that could be asked for is under
    /// way, and the oldest piece is.
    pub(super) fn may_go_on(&self) -> bool {
        let pieces = [&self.src, &self.dst];
        let may_ask = self.asked < self.wanted.size && !pieces.iter().any(|p| p.is_full());
        let is_idle = pieces.iter().all(|p| p.count() == 0);
        may_ask
            || is_idle
            || self.returns
            || pieces
                .iter()
                .any(|p| p.in_hand().is_some() || p.ended(0).is_some())
    }

    /// Goes on until done, until the device has to answer, or until the chunk is over. After a
    /// fault another step goes on where it stopped.
    #[inline(never)]
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let result = self.run(chunk);
        if result.is_err() && self.lends() {
            // What stops it does so again when everything is back: until then nobody is told, since
            // whoever is takes the memory for his own again.
            chunk.missing = None;
            self.returns = true;
            return Step::Device;
        }
        if result.is_err() {
            self.count_direct();
        }
        let completion = match result {
            Ok(Progress::More) => return Step::More,
            Ok(Progress::Waits) => return Step::Device,
            Ok(Progress::Done(completion)) | Err(Stop::Ended(completion)) => completion,
            Err(Stop::Failure(failure)) => failure.completion(0, self.done),
            Err(Stop::Device(outcome)) => self.device_error(outcome),
        };
        Step::Done(Outcome {
            completion,
            bytes: u64::from(completion.bytes_completed),
        })
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<Progress, Stop> {
        chunk.budget.spend(OPERATION_COST);
        let wanted = self.wanted;
        let is_new = self.piece == 0;
        let from = match wanted.kind.reads_blocks() {
            true => Some(self.blocks(chunk, wanted.src, Rights::BLOCK_READ, 0)?),
            false => None,
        };
        if wanted.kind == Kind::Write && wanted.chain == 0 {
            // Before the destination, as in every operation.
            self.memory(chunk, wanted.src, Rights::READ)?;
        }
        let to = match wanted.kind.writes_blocks() {
            true => Some(self.blocks(chunk, wanted.dst, Rights::BLOCK_WRITE, 1)?),
            false => None,
        };
        match wanted.kind {
            Kind::Read if wanted.chain == 0 => self.memory(chunk, wanted.dst, Rights::WRITE)?,
            Kind::Compare => self.memory(chunk, wanted.dst, Rights::READ)?,
            _ => {}
        }
        if is_new {
            self.begin(chunk, from.as_ref(), to.as_ref())?;
        }
        match (from, to) {
            (Some(from), None) => self.read(chunk, &from),
            (Some(from), Some(to)) => self.copy(chunk, &from, &to),
            (None, Some(to)) if wanted.kind == Kind::Write => match wanted.chain {
                0 => self.write(chunk, &to),
                _ => self.write_chained(chunk, &to),
            },
            (None, Some(to)) => self.command(chunk, &to),
            // Every kind has blocks.
            (None, None) => Err(Status::BadOpcode.into()),
        }
    }

    /// The right to the blocks that are left. The capability in the slot has to be to the same ones as when
    /// it began.
    fn blocks<'g, B>(
        &self,
        chunk: &Chunk<'g, B>,
        operand: Operand,
        right: Rights,
        which: usize,
    ) -> Result<BlockUse<'g>, Stop> {
        let context = chunk.context;
        let left = self.wanted.size - self.done.min(self.wanted.size);
        // The end of one that went on by a block at the end of its space does not wrap.
        let at = operand.addr.saturating_add(u64::from(self.done));
        let mut used =
            context.resolve_blocks(chunk.guard, operand.slot, at, u64::from(left), right)?;
        used.first -= u64::from(self.done);
        if self.piece != 0 {
            let pieces = if which == 0 { &self.src } else { &self.dst };
            if used.first != self.first[which] || !pieces.are_of(&used.endpoint) {
                return Err(Status::Revoked.into());
            }
        }
        Ok(used)
    }

    /// The right to the memory that is left.
    fn memory<B>(
        &self,
        chunk: &Chunk<'_, B>,
        operand: Operand,
        right: Rights,
    ) -> Result<(), Failure> {
        let left = u64::from(self.wanted.size - self.done);
        let rest = operand.plus(u64::from(self.done));
        chunk.resolve(rest, left, right).map(|_| ())
    }

    /// Checks what depends on the device.
    fn begin<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        from: Option<&BlockUse<'_>>,
        to: Option<&BlockUse<'_>>,
    ) -> Result<(), Stop> {
        let mut piece = RANGE_BYTES;
        for (which, used, operand) in [(0, from, self.wanted.src), (1, to, self.wanted.dst)] {
            let Some(used) = used else { continue };
            let block = used.endpoint.geometry().block_bytes;
            if !self.wanted.size.is_multiple_of(block) {
                return Err(Status::BadSize.into());
            }
            if !operand.addr.is_multiple_of(block.into()) {
                return Err(Status::AddressAlignment.into());
            }
            let attachment = used.endpoint.attachment().ok_or(Status::DeviceGone)?;
            if self.moves() {
                piece = piece.min(attachment.piece_bytes());
            }
            let pieces = Pieces::new(attachment);
            self.first[which] = used.first;
            match which {
                0 => self.src = pieces,
                _ => self.dst = pieces,
            }
        }
        if let (Some(from), Some(to)) = (from, to) {
            let (size, block) = (
                u64::from(self.wanted.size),
                to.endpoint.geometry().block_bytes,
            );
            let apart = from.first.abs_diff(to.first);
            if self.dst.are_of(&from.endpoint) && apart < size {
                return Err(Status::Overlap.into());
            }
            // Whole blocks of both.
            piece = piece / block * block;
            let alone = self.dst.device().is_some_and(|d| d.slots() < 2);
            if piece == 0 || (alone && self.dst.are_of(&from.endpoint)) {
                return Err(Status::DeviceUnsupported.into());
            }
        }
        if self.wanted.chain != 0 {
            let used = from.or(to);
            let block = used.map_or(1, |used| used.endpoint.geometry().block_bytes);
            piece = self.begin_chain(chunk, block, piece)?;
        }
        self.piece = piece;
        Ok(())
    }

    /// Whether bytes pass through staging.
    fn moves(&self) -> bool {
        !matches!(
            self.wanted.kind,
            Kind::Flush | Kind::Discard | Kind::WriteZeroes
        )
    }

    /// Bytes of the piece that begins at this byte.
    fn length(&self, at: u32) -> u32 {
        self.piece.min(self.wanted.size - at)
    }

    /// FLUSH, DISCARD and WRITE_ZEROES.
    fn command<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        to: &BlockUse<'_>,
    ) -> Result<Progress, Stop> {
        self.reap(to)?;
        let is_flush = self.wanted.kind == Kind::Flush;
        while (self.asked < self.wanted.size || (is_flush && self.asked == 0))
            && !self.dst.is_full()
        {
            let length = self.length(self.asked);
            let block = to.endpoint.geometry().block_bytes;
            let lba = (to.first + u64::from(self.asked)) / u64::from(block);
            let blocks = length / block;
            let request = match self.wanted.kind {
                Kind::Flush => Request::Flush,
                Kind::Discard => Request::Discard { lba, blocks },
                _ => Request::WriteZeroes { lba, blocks },
            };
            if self.dst.hand(chunk.context.domain()).is_none() {
                return Ok(Progress::Waits);
            }
            if let Some(progress) = submit(&mut self.dst, &request)? {
                return Ok(progress);
            }
            // A flush is about no bytes.
            self.asked += length.max(u32::from(is_flush));
            chunk.budget.spend(OPERATION_COST);
        }
        if self.dst.count() > 0 {
            return Ok(Progress::Waits);
        }
        Ok(Progress::Done(success(self.done)))
    }

    /// Takes back the pieces that the device has written, in their order.
    fn reap(&mut self, to: &BlockUse<'_>) -> Result<(), Stop> {
        // Of a copy, the youngest are not written yet. Those that reach memory are taken back elsewhere.
        while self.dst.count() > self.src.count()
            && !self.dst.is_direct(0)
            && let Some(outcome) = self.dst.ended(0)
        {
            let length = self.length(self.done);
            let (moved, stop) = match outcome {
                device::Outcome::Done => (length, None),
                device::Outcome::Failed { bytes_done, .. } => {
                    (bytes_done.min(length), Some(Stop::Device(outcome)))
                }
                device::Outcome::Gone => (0, Some(Stop::Device(outcome))),
            };
            self.dst.pop();
            self.done += moved;
            to.account(0, moved.into());
            if self.moves()
                && let Some(device) = self.dst.device()
            {
                device.account(0, moved.into());
            }
            if let Some(stop) = stop {
                return Err(stop);
            }
        }
        Ok(())
    }

    /// The completion of a transfer that the device has ended.
    fn device_error(&self, outcome: device::Outcome) -> Completion {
        let is_read = self.dst.device().is_none() || self.is_read_error(outcome);
        let (operand, pieces) = match is_read {
            true => (self.wanted.src, &self.src),
            false => (self.wanted.dst, &self.dst),
        };
        let block = pieces.device().map_or(1, |d| d.geometry().block_bytes);
        let at = operand.addr + u64::from(self.done.max(self.failed_at) / block * block);
        let (status, code) = match outcome {
            device::Outcome::Failed { device_status, .. } => (Status::DeviceError, device_status),
            _ => (Status::DeviceGone, 0),
        };
        let access = if is_read { Access::Read } else { Access::Write };
        Completion {
            op0: code.into(),
            op1: at / u64::from(block),
            ..Failure::at(status, access, at).completion(0, self.done)
        }
    }

    /// In a copy: whether it is the side that is read which has failed.
    fn is_read_error(&self, outcome: device::Outcome) -> bool {
        self.wanted.kind == Kind::Copy && self.src.ended(0) == Some(outcome)
    }
}

/// Asks by the slot in hand, which becomes a piece. `Some`: not now.
fn submit(pieces: &mut Pieces, request: &Request) -> Result<Option<Progress>, Stop> {
    let (Some(device), Some(slot)) = (pieces.device(), pieces.in_hand()) else {
        return Ok(Some(Progress::Waits));
    };
    match device.submit(slot, request) {
        Ok(()) => {
            pieces.push();
            Ok(None)
        }
        Err(Refusal::Later) => Ok(Some(Progress::Waits)),
        Err(Refusal::Contended) => Ok(Some(Progress::More)),
        Err(Refusal::Gone) => {
            pieces.drop_hand();
            Err(Stop::Device(device::Outcome::Gone))
        }
        Err(Refusal::NotSupported) => {
            pieces.drop_hand();
            Err(Status::DeviceUnsupported.into())
        }
    }
}
