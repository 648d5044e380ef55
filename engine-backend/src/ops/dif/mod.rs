//! Operations on T10 protection information: DIF CHECK, INSERT, STRIP, UPDATE and
//! GENERATE, DIX_GEN and DIX_VERIFY (SPEC sections 4.16 and 4.17).
//!
//! Whole blocks are taken into private memory, checked and changed there, and written
//! out: what was checked is what goes on.

mod guard;
mod information;

use byway_protocols::operands::{DifResult, dif_block, dif_flags};
use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::staging::{HALF, Rows, Staging};
use super::walk::overlap;
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::context::Target;
use crate::stage2::Access;
use guard::guard;
pub use information::Tags;
use information::{BYTES, Information};

/// Bytes that are worked on at a time: they stay in the first cache.
const PIECE: usize = 16 << 10;
/// Room for a block and its information behind a piece.
const SPARE: usize = PIECE;
const _: () = assert!(SPARE + 4104 + BYTES <= HALF);

/// Most blocks in a piece: of 512 bytes, the shortest.
const BLOCKS_MAX: usize = PIECE / 512;

/// Bytes of the widest vectors in which the checksum reads.
const VECTOR: usize = 64;

/// What is done with the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Checks the information behind each block of the source.
    Check,
    /// Copies blocks, with information behind each.
    Insert,
    /// Checks and copies blocks without it.
    Strip,
    /// Checks and copies blocks with new information.
    Update,
    /// Writes information behind each block where it stands.
    Generate,
    /// Writes information to a place of its own.
    GenerateApart,
    /// Checks information that stands in a place of its own.
    VerifyApart,
}

impl Kind {
    /// Whether information stands behind each block of the first operand.
    pub fn is_interleaved(self) -> bool {
        matches!(
            self,
            Self::Check | Self::Strip | Self::Update | Self::Generate
        )
    }

    fn checks(self) -> bool {
        matches!(
            self,
            Self::Check | Self::Strip | Self::Update | Self::VerifyApart
        )
    }

    /// Bytes that the second operand has for each block of `block` bytes of data.
    fn second(self, block: usize) -> Option<usize> {
        match self {
            Self::Check | Self::Generate => None,
            Self::Strip => Some(block),
            Self::Insert | Self::Update => Some(block + BYTES),
            Self::GenerateApart | Self::VerifyApart => Some(BYTES),
        }
    }
}

/// Data bytes of a block, by bits 0-1 of the flags.
pub fn block_bytes(flags: u8) -> u32 {
    match flags & dif_flags::BLOCK_MASK {
        dif_block::BLOCK_512 => 512,
        dif_block::BLOCK_520 => 520,
        dif_block::BLOCK_4096 => 4096,
        _ => 4104,
    }
}

/// An operation on protection information under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dif {
    /// What is done.
    pub kind: Kind,
    /// `dif_flags`.
    pub flags: u8,
    /// First operand: blocks; right READ, for GENERATE also WRITE.
    pub first: Operand,
    /// Second operand, if there is one: right READ for DIX_VERIFY, else WRITE.
    pub second: Operand,
    /// Bytes of the first operand: whole blocks, with the information behind them.
    pub size: u32,
    /// Bytes of the first operand that are done.
    pub done: u32,
    /// What the next block must have.
    pub check: Tags,
    /// What the next block gets.
    pub make: Tags,
}

/// Why it stops: a fault, or information that is wrong.
enum Stop {
    Failure(Failure),
    Mismatch(u8),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Dif {
    /// Goes on until done or until the chunk is over.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        match self.run(chunk) {
            Ok(()) if self.done < self.size => Step::More,
            Ok(()) => Step::Done(Outcome {
                completion: self.with_tags(success(self.done)),
                bytes: u64::from(self.done),
            }),
            Err(Stop::Failure(failure)) => self.failed(failure, 0),
            Err(Stop::Mismatch(wrong)) => self.failed(Status::DifMismatch.into(), wrong),
        }
    }

    /// Apart, as [`Step::failed`].
    #[cold]
    #[inline(never)]
    fn failed(&self, failure: Failure, wrong: u8) -> Step {
        Step::Done(Outcome {
            completion: self.with_tags(failure.completion(wrong, self.done)),
            bytes: u64::from(self.done),
        })
    }

    /// The completion with the tags of the next block, for the submitter to go on with.
    fn with_tags(&self, completion: Completion) -> Completion {
        let mut tags = DifResult::default();
        if self.kind.checks() {
            tags.source_ref_tag = self.check.ref_tag;
            tags.source_app_mask = self.check.app_mask;
            tags.source_app_tag = self.check.app_tag;
        }
        if self.makes() {
            tags.destination_ref_tag = self.make.ref_tag;
            tags.destination_app_mask = self.make.app_mask;
            tags.destination_app_tag = self.make.app_tag;
        }
        completion.with_operands(tags.to_bytes())
    }

    /// Whether anybody asks for the checksum of a block.
    fn needs_guards(&self) -> bool {
        self.kind.checks() && self.check.checks_guard() || self.makes() && self.make.makes_guard()
    }

    fn makes(&self) -> bool {
        !matches!(self.kind, Kind::Check | Kind::Strip | Kind::VerifyApart)
    }

    /// Bytes of data in a block.
    fn block(&self) -> usize {
        block_bytes(self.flags) as usize
    }

    /// Bytes of the first operand for each block.
    fn unit(&self) -> usize {
        self.block() + if self.kind.is_interleaved() { BYTES } else { 0 }
    }

    /// Whether blocks are taken and written as they are, and what goes behind each is made as it is written: while the
    /// checksum of one is taken, the bytes of the one before go out.
    fn is_made_late(&self) -> bool {
        self.kind == Kind::Insert && self.block().is_multiple_of(VECTOR)
    }

    /// From one block to the next in the staging: with room for the information behind it, where some stands or goes
    /// there, and each on a boundary that the checksum's vectors want. It is half as fast off it.
    fn stride(&self) -> usize {
        let behind = match self.kind {
            Kind::GenerateApart | Kind::VerifyApart => 0,
            _ if self.is_made_late() => 0,
            _ => BYTES,
        };
        (self.block() + behind).next_multiple_of(VECTOR)
    }

    fn run<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Result<(), Stop> {
        let unit = self.unit();
        let before = self.done;
        let left = u64::from(self.size - before);
        let rights = if self.kind == Kind::Generate {
            Rights::READ | Rights::WRITE
        } else {
            Rights::READ
        };
        let first = chunk.resolve(self.first.plus(before.into()), left, rights)?;
        let second = match self.kind.second(self.block()) {
            None => None,
            Some(bytes) => {
                let (blocks, bytes) = (u64::from(before) / unit as u64, bytes as u64);
                let len = left / unit as u64 * bytes;
                let right = if self.kind == Kind::VerifyApart {
                    Rights::READ
                } else {
                    Rights::WRITE
                };
                let second = chunk.resolve(self.second.plus(blocks * bytes), len, right)?;
                if self.kind != Kind::VerifyApart && overlap(&first, left, &second, len) {
                    return Err(Failure::from(Status::Overlap).into());
                }
                Some(second)
            }
        };
        let mut result = Ok(());
        while result.is_ok() && self.done < self.size {
            if self.done > before && chunk.is_spent() {
                break;
            }
            let blocks = u64::from(self.done - before) / unit as u64;
            result = self.piece(chunk, &first, second.as_ref(), blocks);
        }
        let bytes = u64::from(self.done - before);
        let blocks = bytes / unit as u64;
        chunk.settle(&[(&first, Access::Read, bytes)])?;
        if self.kind == Kind::Generate {
            chunk.settle(&[(&first, Access::Write, blocks * BYTES as u64)])?;
        }
        if let (Some(second), Some(unit)) = (&second, self.kind.second(self.block())) {
            let access = if self.kind == Kind::VerifyApart {
                Access::Read
            } else {
                Access::Write
            };
            chunk.settle(&[(second, access, blocks * unit as u64)])?;
        }
        result
    }

    /// Works on some blocks, the first of which has `index` before it in this chunk.
    fn piece<B: Backend>(
        &mut self,
        chunk: &mut Chunk<'_, B>,
        first: &Target<'_>,
        second: Option<&Target<'_>>,
        index: u64,
    ) -> Result<(), Stop> {
        let (unit, out) = (self.unit(), self.kind.second(self.block()));
        let most = PIECE / self.stride();
        let room = (chunk.budget.left() as usize / unit).clamp(1, most);
        let blocks = room.min((self.size - self.done) as usize / unit);
        let mut blocks = self.take(chunk, first, index, blocks)?;
        let apart = HALF..HALF + blocks * out.unwrap_or(0);
        if self.kind == Kind::VerifyApart
            && let Some(second) = second
        {
            let copied = chunk.copy_in(second, index * BYTES as u64, apart);
            blocks = copied.units(BYTES)?;
        }
        let (good, wrong) = if self.is_made_late() {
            (blocks, 0)
        } else {
            self.work(chunk.staging, blocks)
        };
        let (done, failure) = match (self.kind, second, out) {
            (Kind::Generate, ..) => self.write_behind(chunk, first, index, good),
            (Kind::Check | Kind::VerifyApart, ..) | (_, None, _) | (_, _, None) => (good, None),
            (Kind::GenerateApart, Some(second), Some(out)) => {
                let range = HALF..HALF + good * out;
                let copied = chunk.copy_out(second, index * out as u64, range);
                (copied.bytes / out, copied.failure)
            }
            (_, Some(second), Some(out)) => self.put(chunk, second, index, good, out),
        };
        chunk.budget.spend_slowly((done * unit) as u64);
        self.done += (done * unit) as u32;
        self.check = self.check.after(done);
        self.make = self.make.after(done);
        match (failure, wrong) {
            (Some(failure), _) => Err(Stop::Failure(failure)),
            (None, 0) => Ok(()),
            (None, wrong) => Err(Stop::Mismatch(wrong)),
        }
    }

    /// Takes blocks, with the information behind them, into the first half of the staging; how many.
    fn take<B: Backend>(
        &self,
        chunk: &mut Chunk<'_, B>,
        first: &Target<'_>,
        index: u64,
        blocks: usize,
    ) -> Result<usize, Failure> {
        let (unit, stride) = (self.unit(), self.stride());
        if stride == unit {
            let copied = chunk.copy_in(first, index * unit as u64, 0..blocks * unit);
            return copied.units(unit);
        }
        let rows = Rows {
            count: blocks,
            bytes: unit,
            apart: unit,
            start: 0,
            stride,
        };
        match chunk.rows_in(first, index * unit as u64, rows) {
            (0, Some(failure)) => Err(failure),
            // A failure is met again when its block is the first.
            (blocks, _) => Ok(blocks),
        }
    }

    /// Writes `out` bytes of each block in the first half of the staging, or its data and the information that is made of them.
    fn put<B: Backend>(
        &self,
        chunk: &mut Chunk<'_, B>,
        second: &Target<'_>,
        index: u64,
        blocks: usize,
        out: usize,
    ) -> (usize, Option<Failure>) {
        let rows = Rows {
            count: blocks,
            bytes: out,
            apart: out,
            start: 0,
            stride: self.stride(),
        };
        let at = index * out as u64;
        if !self.is_made_late() {
            return chunk.rows_out(second, at, rows);
        }
        let rows = Rows {
            bytes: self.block(),
            ..rows
        };
        chunk.rows_out_with(second, at, rows, SPARE, |block, data| {
            self.made(block, Information::NONE, guard(data, self.flags))
        })
    }

    /// Writes new information behind blocks that stand where they are.
    fn write_behind<B: Backend>(
        &self,
        chunk: &mut Chunk<'_, B>,
        first: &Target<'_>,
        index: u64,
        blocks: usize,
    ) -> (usize, Option<Failure>) {
        let unit = self.unit();
        let rows = Rows {
            count: blocks,
            bytes: BYTES,
            apart: unit,
            start: HALF,
            stride: BYTES,
        };
        chunk.rows_out(first, index * unit as u64 + self.block() as u64, rows)
    }

    /// Checks blocks in the first half of the staging and makes what follows from them: where they
    /// are, or in the second half. Gives how many were good, and what was wrong with the next.
    fn work(&self, staging: &mut Staging, blocks: usize) -> (usize, u8) {
        let (block, stride) = (self.block(), self.stride());
        let (first, second) = staging.split();
        let mut guards = [0; BLOCKS_MAX];
        if self.needs_guards() {
            // In a loop of their own: between two checksums nothing else waits for its turn in the processor.
            let data = first
                .chunks(stride)
                .map(|block_and_rest| &block_and_rest[..block]);
            for (to, data) in guards[..blocks].iter_mut().zip(data) {
                *to = guard(data, self.flags);
            }
        }
        let guards = guards[..blocks].iter().copied().enumerate();
        let (apart, _) = second.as_chunks_mut();
        match self.kind {
            Kind::GenerateApart | Kind::Generate => {
                for ((i, guard), to) in guards.zip(apart) {
                    *to = self.made(i, Information::NONE, guard);
                }
            }
            Kind::VerifyApart => {
                for ((i, guard), &mut found) in guards.zip(apart) {
                    match self.wrong(i, found, guard) {
                        0 => {}
                        wrong => return (i, wrong),
                    }
                }
            }
            Kind::Insert => {
                for ((i, guard), row) in guards.zip(first.chunks_mut(stride)) {
                    *behind(row, block) = self.made(i, Information::NONE, guard);
                }
            }
            Kind::Check | Kind::Strip | Kind::Update => {
                for ((i, guard), row) in guards.zip(first.chunks_mut(stride)) {
                    let place = behind(row, block);
                    match self.wrong(i, *place, guard) {
                        0 => {}
                        wrong => return (i, wrong),
                    }
                    if self.kind == Kind::Update {
                        *place = self.made(i, Information::from_bytes(*place), guard);
                    }
                }
            }
        }
        (blocks, 0)
    }

    /// What is wrong with the information found with the block that has `i` before it in this piece, as `dif_mismatch`.
    #[inline]
    fn wrong(&self, i: usize, found: [u8; BYTES], guard: u16) -> u8 {
        let found = Information::from_bytes(found);
        self.check.after(i).check(found, guard)
    }

    /// What that block gets, which has had `source`.
    #[inline]
    fn made(&self, i: usize, source: Information, guard: u16) -> [u8; BYTES] {
        self.make.after(i).make(source, guard).to_bytes()
    }
}

/// The place behind the `block` bytes of data of a row in the staging.
#[inline]
fn behind(row: &mut [u8], block: usize) -> &mut [u8; BYTES] {
    row[block..]
        .first_chunk_mut()
        .expect("a row has room for it")
}
