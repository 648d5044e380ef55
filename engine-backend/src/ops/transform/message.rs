//! Compression, AES-GCM, both in one pass, and sealed messages: whatever keeps state from
//! chunk to chunk.
//!
//! A message that is opened is decrypted into a buffer of its job's own, and goes on from
//! there once its tag is verified: not a byte of it reaches the guest before.

use std::ops::Range;
use std::sync::Arc;

use byway_protocols::Status;
use byway_protocols::codec::{
    AAD_BYTES_MAX, GCM_OPEN_BYTES_MAX, KeyAlgorithm, SealHeader, TAG_BYTES,
};

use super::{Action, Crypt, Ended, Wanted, broken, input_max, overlap};
use crate::backend::Backend;
use crate::capability::Key;
use crate::codec::stream::StreamError;
use crate::codec::{Direction, KeyName, Progress, Stream, StreamKind, channel};
use crate::context::{KeyUse, Target};
use crate::ops::budget::CHUNK_BYTES;
use crate::ops::buffer::Buffer;
use crate::ops::chunk::{Chunk, Failure};
use crate::ops::lease::{Lease, Parts};
use crate::stage2::Access;

/// Bytes of a piece that is only encrypted, decrypted or copied.
const PIECE_BYTES: u32 = 16 << 10;

/// Bytes of an opened message that go out at a time: a chunk's.
const RELEASE_BYTES: usize = CHUNK_BYTES as usize;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Key and additional data; a sealed message's header.
    Header,
    /// The source, straight to the destination.
    Through,
    /// The source, into the job's buffer.
    Open,
    /// The tag of what was encrypted.
    Tag,
    /// From the job's buffer to the destination.
    Release,
    /// Nothing.
    End,
}

/// AES-GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Aead {
    algorithm: KeyAlgorithm,
    /// Which key it began with.
    key: u64,
    direction: Direction,
    /// Bytes of the source before what is encrypted or decrypted: additional data, or the
    /// header of a message that is opened.
    head: u32,
    /// SEAL_COPY or OPEN_COPY.
    channel: bool,
}

/// Bytes of a sealed message's header.
const HEADER_BYTES: u32 = SealHeader::SIZE as u32;

/// What is left of an operation.
#[derive(Debug)]
pub(super) struct Message {
    lease: Lease,
    phase: Phase,
    stream: bool,
    aead: Option<Aead>,
    /// Bytes of the source that are used up.
    consumed: u32,
    /// Where the source's last byte lies that is not its tag.
    body_end: u32,
    /// Bytes at the destination.
    produced: u32,
    /// Where in the job's output those lie that are to follow.
    pending: Range<usize>,
    /// Bytes of an opened message that went on.
    released: u32,
    /// Number of a sealed message.
    number: u64,
}

impl Message {
    /// Checks what there is to check beforehand, and takes a job.
    pub(super) fn begin<B>(
        wanted: &Wanted,
        kind: Option<StreamKind>,
        crypt: Option<(&Crypt, Arc<Key>)>,
        chunk: &mut Chunk<'_, B>,
        src: &Target<'_>,
        dst: &Target<'_>,
    ) -> Result<Self, Failure> {
        let aead = crypt.map(|(crypt, key)| {
            let [.., a, b, c, d] = crypt.iv;
            Aead {
                algorithm: key.algorithm(),
                key: key.id(),
                direction: crypt.direction,
                head: match (crypt.channel, crypt.direction) {
                    (false, _) => u32::from_le_bytes([a, b, c, d]),
                    (true, Direction::Encrypt) => 0,
                    (true, Direction::Decrypt) => HEADER_BYTES,
                },
                channel: crypt.channel,
            }
        });
        let opens = aead.is_some_and(|a| a.direction == Direction::Decrypt);
        let head = aead.map_or(0, |a| a.head);
        let tag = if opens { TAG_BYTES } else { 0 };
        let rest = wanted.size.checked_sub(tag);
        let (Some(body_end), true) = (rest, head <= AAD_BYTES_MAX) else {
            return Err(Status::BadSize.into());
        };
        let Some(body) = body_end.checked_sub(head) else {
            return Err(Status::BadSize.into());
        };
        if (opens && body > GCM_OPEN_BYTES_MAX)
            || kind.and_then(input_max).is_some_and(|max| body > max)
        {
            return Err(Status::BadSize.into());
        }
        if overlap(src, wanted.size, dst, wanted.capacity) {
            return Err(Status::Overlap.into());
        }
        // As much as is known to come out.
        let seal = match aead {
            Some(aead) if !opens && aead.channel => HEADER_BYTES + TAG_BYTES,
            Some(_) if !opens => TAG_BYTES,
            _ => 0,
        };
        let least = if kind.is_none() { body } else { 0 };
        if wanted.capacity < least.saturating_add(seal) {
            return Err(Status::Overflow.into());
        }
        let algorithm = aead.map(|aead| aead.algorithm);
        let lease = chunk.codecs.lease(chunk.context.domain(), algorithm);
        let mut lease = lease.ok_or(Status::EngineBusy)?;
        if let (Some(kind), Some(job)) = (kind, lease.job()) {
            job.stream.start(kind);
        }
        Ok(Self {
            lease,
            phase: if aead.is_some() {
                Phase::Header
            } else {
                Phase::Through
            },
            stream: kind.is_some(),
            aead,
            consumed: 0,
            body_end,
            produced: 0,
            pending: 0..0,
            released: 0,
            number: 0,
        })
    }

    /// Bytes of the source that are used up.
    pub(super) fn consumed(&self) -> u32 {
        self.consumed
    }

    /// Bytes at the destination.
    pub(super) fn produced(&self) -> u32 {
        self.produced
    }

    /// Goes on until done or until the chunk is over.
    pub(super) fn run<B: Backend>(
        &mut self,
        wanted: &Wanted,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<Option<Ended>, Failure> {
        let (src, dst) = wanted.resolve(chunk, self.consumed, self.produced)?;
        let key = match &wanted.action {
            Action::Crypt(crypt) => {
                let left = self.body_end.saturating_sub(self.consumed);
                let id = self.aead.map(|aead| aead.key);
                Some(wanted.key(crypt, chunk, left, id)?)
            }
            Action::Stream(_) => None,
        };
        let mut buffer = chunk.codecs.buffer.take();
        let mut work = Work {
            wanted,
            src: &src,
            dst: &dst,
            key: key.as_ref(),
            buffer: &mut buffer,
            from: (self.consumed, self.produced),
            written: 0,
        };
        let before = self.consumed;
        let result = self.phases(&mut work, chunk);
        let (read, written) = (u64::from(self.consumed - before), work.written);
        chunk.codecs.buffer = buffer;
        if let Some(key) = &key {
            key.account(read);
        }
        chunk.settle(&[(&src, Access::Read, read), (&dst, Access::Write, written)])?;
        result?;
        let is_over = self.phase == Phase::End && self.pending.is_empty();
        if is_over {
            chunk.codecs.keep(chunk.context.domain(), &mut self.lease);
        }
        Ok(is_over.then_some(Ended {
            consumed: self.consumed,
            produced: self.produced,
            number: self
                .aead
                .and_then(|aead| aead.channel.then_some(self.number)),
        }))
    }

    fn phases<B: Backend>(
        &mut self,
        work: &mut Work<'_, '_>,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        loop {
            self.flush(work, chunk)?;
            match self.phase {
                Phase::Header => self.header(work, chunk)?,
                Phase::Through => self.through(work, chunk)?,
                Phase::Open => self.open(work, chunk)?,
                Phase::Tag => self.tag()?,
                Phase::Release => self.release(work, chunk)?,
                Phase::End => return Ok(()),
            }
            if chunk.is_spent() {
                return Ok(());
            }
        }
    }

    /// Writes what was made before. A fault leaves the rest for another step.
    fn flush<B: Backend>(
        &mut self,
        work: &mut Work<'_, '_>,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let job = self.lease.job().ok_or_else(|| broken(()))?;
        let out = &mut job.output[self.pending.clone()];
        let (written, result) = work.put(self.produced, out, chunk);
        self.pending.start += written as usize;
        self.produced += written as u32;
        result
    }

    fn header<B: Backend>(
        &mut self,
        work: &mut Work<'_, '_>,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        let (Some(aead), Some(key), Action::Crypt(crypt)) =
            (self.aead, work.key, &work.wanted.action)
        else {
            return Err(broken(()));
        };
        let data = &mut work.buffer.input[..aead.head as usize];
        chunk.gather(work.src, 0, data)?;
        if aead.channel {
            return self.channel(aead, key, crypt, data);
        }
        let job = self.lease.job().ok_or_else(|| broken(()))?;
        let Parts { cipher, .. } = job.parts(aead.algorithm);
        let name = KeyName {
            id: aead.key,
            object: None,
        };
        cipher
            .start_named(name, || Ok(key.key.bytes()), &crypt.iv, aead.direction)
            .and_then(|()| cipher.authenticate(data))
            .map_err(broken)?;
        self.consumed = aead.head;
        self.phase = match aead.direction {
            Direction::Encrypt => Phase::Through,
            Direction::Decrypt => Phase::Open,
        };
        chunk.budget.spend_slowly(u64::from(aead.head));
        Ok(())
    }

    /// The header of a sealed message, made or found in `head`, and the key that it asks for.
    fn channel(
        &mut self,
        aead: Aead,
        key: &KeyUse<'_>,
        crypt: &Crypt,
        head: &[u8],
    ) -> Result<(), Failure> {
        let (lowest, label) = crypt.iv.split_at(size_of::<u64>());
        let header = match head.first_chunk() {
            // Once a message: whatever becomes of it, the number is used up.
            None => key.key.next_nonce().ok_or(Status::Revoked)?,
            Some(bytes) => {
                let header = SealHeader::from_bytes(bytes);
                // No engine writes such a header, so no tag would be right.
                if header.reserved12 != 0 {
                    return Err(Status::TagMismatch.into());
                }
                let lowest = lowest.first_chunk().copied().unwrap_or_default();
                if header.number < u64::from_le_bytes(lowest) {
                    return Err(Status::Replayed.into());
                }
                header
            }
        };
        let name = KeyName {
            id: aead.key,
            object: Some(header.object),
        };
        let derived = || channel::derive(key.key.bytes(), &header.object);
        let job = self.lease.job().ok_or_else(|| broken(()))?;
        let Parts { cipher, output, .. } = job.parts(aead.algorithm);
        cipher
            .start_named(name, derived, &channel::iv(&header), aead.direction)
            .and_then(|()| cipher.authenticate(label))
            .map_err(broken)?;
        self.number = header.number;
        self.consumed = aead.head;
        self.phase = match aead.direction {
            Direction::Encrypt => {
                let bytes = header.to_bytes();
                output[..bytes.len()].copy_from_slice(&bytes);
                self.pending = 0..bytes.len();
                Phase::Through
            }
            Direction::Decrypt => Phase::Open,
        };
        Ok(())
    }

    fn through<B: Backend>(
        &mut self,
        work: &mut Work<'_, '_>,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        let left = self.body_end - self.consumed;
        let seal = if self.aead.is_some() { TAG_BYTES } else { 0 };
        let room = work.wanted.capacity - self.produced;
        let room = room.checked_sub(seal).ok_or(Status::Overflow)?;
        let at = u64::from(self.consumed - work.from.0);
        let job = self.lease.job().ok_or_else(|| broken(()))?;
        let (progress, cost) = if self.stream {
            let wants = job.stream.wants_input();
            let len = if wants {
                left.min(job.stream.input_bytes() as u32)
            } else {
                0
            };
            let input = &mut work.buffer.input[..len as usize];
            chunk.gather(work.src, at, input)?;
            let last = wants && len == left;
            run_stream(&mut job.stream, input, last, &mut job.output, room)?
        } else {
            let len = left.min(PIECE_BYTES);
            chunk.gather(work.src, at, &mut job.output[..len as usize])?;
            let progress = Progress {
                consumed: len as usize,
                produced: len as usize,
                finished: len == left,
            };
            (progress, u64::from(len))
        };
        if let Some(aead) = self.aead {
            let Parts { cipher, output, .. } = job.parts(aead.algorithm);
            let out = &mut output[..progress.produced];
            cipher.apply(out).map_err(broken)?;
        }
        self.consumed += progress.consumed as u32;
        self.pending = 0..progress.produced;
        chunk.budget.spend_slowly(cost);
        if progress.finished {
            self.phase = if self.aead.is_some() {
                Phase::Tag
            } else {
                Phase::End
            };
        }
        Ok(())
    }

    fn open<B: Backend>(
        &mut self,
        work: &mut Work<'_, '_>,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        let aead = self.aead.ok_or_else(|| broken(()))?;
        let job = self.lease.job().ok_or_else(|| broken(()))?;
        let Parts {
            cipher, message, ..
        } = job.parts(aead.algorithm);
        let left = self.body_end - self.consumed;
        let len = left.min(PIECE_BYTES);
        let at = (self.consumed - aead.head) as usize;
        // By way of bytes that stay in the first cache: what goes to the message, which does not, is waited for while it is
        // decrypted, and not while it is copied.
        let (from, to) = (
            &mut work.buffer.input[..len as usize],
            &mut message[at..at + len as usize],
        );
        chunk.gather(work.src, u64::from(self.consumed - work.from.0), from)?;
        cipher.apply_to(from, to).map_err(broken)?;
        self.consumed += len;
        chunk.budget.spend_slowly(u64::from(len));
        if len == left {
            let mut tag = [0; TAG_BYTES as usize];
            chunk.gather(work.src, u64::from(self.consumed - work.from.0), &mut tag)?;
            if !cipher.opens(&tag) {
                return Err(Status::TagMismatch.into());
            }
            self.consumed += TAG_BYTES;
            self.phase = Phase::Release;
        }
        Ok(())
    }

    /// The tag. There is room for it: it was kept free.
    fn tag(&mut self) -> Result<(), Failure> {
        let aead = self.aead.ok_or_else(|| broken(()))?;
        let job = self.lease.job().ok_or_else(|| broken(()))?;
        let Parts { cipher, output, .. } = job.parts(aead.algorithm);
        let tag = cipher.seal().map_err(broken)?;
        output[..tag.len()].copy_from_slice(&tag);
        self.pending = 0..tag.len();
        self.phase = Phase::End;
        Ok(())
    }

    fn release<B: Backend>(
        &mut self,
        work: &mut Work<'_, '_>,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        let aead = self.aead.ok_or_else(|| broken(()))?;
        let job = self.lease.job().ok_or_else(|| broken(()))?;
        let Parts {
            stream,
            message,
            output,
            ..
        } = job.parts(aead.algorithm);
        let plain = self.body_end - aead.head;
        let rest = &mut message[self.released as usize..plain as usize];
        if !self.stream {
            let len = rest.len().min(RELEASE_BYTES);
            let (written, result) = work.put(self.produced, &mut rest[..len], chunk);
            self.produced += written as u32;
            self.released += written as u32;
            chunk.budget.spend_slowly(written);
            result?;
            if self.released == plain {
                self.phase = Phase::End;
            }
            return Ok(());
        }
        let wants = stream.wants_input();
        let len = if wants {
            rest.len().min(stream.input_bytes())
        } else {
            0
        };
        let last = wants && len == rest.len();
        let room = work.wanted.capacity - self.produced;
        let (progress, cost) = run_stream(stream, &rest[..len], last, output, room)?;
        self.released += progress.consumed as u32;
        self.pending = 0..progress.produced;
        chunk.budget.spend_slowly(cost);
        if progress.finished {
            self.phase = Phase::End;
        }
        Ok(())
    }
}

/// A chunk's worth.
struct Work<'w, 'g> {
    wanted: &'w Wanted,
    /// The source's rest at the start of the chunk.
    src: &'w Target<'g>,
    /// The destination's.
    dst: &'w Target<'g>,
    key: Option<&'w KeyUse<'g>>,
    buffer: &'w mut Buffer,
    /// What was consumed and produced before it.
    from: (u32, u32),
    /// Bytes written in it.
    written: u64,
}

/// One call of a stream, and what it cost. It gets room for a byte more than there is, to
/// tell an output that just fits from one that does not.
fn run_stream(
    stream: &mut Stream,
    input: &[u8],
    last: bool,
    output: &mut [u8],
    room: u32,
) -> Result<(Progress, u64), Failure> {
    let len = stream.output_bytes().min(room as usize + 1);
    let progress = stream
        .run(input, last, &mut output[..len])
        .map_err(|error| match error {
            StreamError::BadData => Status::BadData,
            StreamError::TooLong => Status::Overflow,
        })?;
    if progress.produced > room as usize {
        return Err(Status::Overflow.into());
    }
    if progress.consumed == 0 && progress.produced == 0 && !progress.finished {
        return Err(Status::BadData.into());
    }
    Ok((progress, stream.cost(&progress)))
}

impl Work<'_, '_> {
    /// Writes bytes where the destination goes on, and says how many were written.
    fn put<B: Backend>(
        &mut self,
        produced: u32,
        bytes: &mut [u8],
        chunk: &mut Chunk<'_, B>,
    ) -> (u64, Result<(), Failure>) {
        let at = u64::from(produced - self.from.1);
        let (written, result) = chunk.scatter(self.dst, at, bytes, self.wanted.hint());
        self.written += written;
        (written, result)
    }
}
