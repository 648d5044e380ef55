//! AES-XTS and AES-CBC: piece by piece, each data unit or block on its own but for an
//! initialisation vector. The key is looked up, expanded and overwritten in every chunk, for all operations of the chunk
//! with the same key.

use byway_protocols::Status;
use byway_protocols::codec::{KeyAlgorithm, XTS_UNIT_LOG2_MAX, XTS_UNIT_LOG2_MIN};

use super::{Action, Crypt, Ended, Wanted, broken, is_xts, overlap};
use crate::backend::Backend;
use crate::capability::Key;
use crate::codec::cipher::BLOCK_BYTES;
use crate::codec::{Cipher, CipherError, Direction, KeyName};
use crate::context::Target;
use crate::ops::buffer::{BUFFER_BYTES, Buffer};
use crate::ops::chunk::{Chunk, Failure};
use crate::stage2::Access;

/// Bytes of a piece, unless a data unit is longer: so that it stays in the inner caches.
const PIECE_BYTES: usize = 16 << 10;

const _: () = assert!(1 << XTS_UNIT_LOG2_MAX <= BUFFER_BYTES);

/// What is left of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    algorithm: KeyAlgorithm,
    /// Which key it began with.
    key: u64,
    /// Bytes done: whole units or blocks.
    done: u32,
    /// Tweak of the next unit, or what the next block is chained to.
    iv: [u8; BLOCK_BYTES],
}

impl Blocks {
    /// Checks what the algorithm asks of a descriptor.
    pub(super) fn begin(
        wanted: &Wanted,
        crypt: &Crypt,
        key: &Key,
        src: &Target<'_>,
        dst: &Target<'_>,
    ) -> Result<Self, Failure> {
        let (size, algorithm) = (wanted.size, key.algorithm());
        if crypt.fused.is_some() || (!is_xts(algorithm) && crypt.unit_log2 != 0) {
            return Err(Status::ReservedNotZero.into());
        }
        let fits = if is_xts(algorithm) {
            (XTS_UNIT_LOG2_MIN..=XTS_UNIT_LOG2_MAX).contains(&crypt.unit_log2) && {
                let rest = size % (1 << crypt.unit_log2);
                rest == 0 || rest >= BLOCK_BYTES as u32
            }
        } else {
            size.is_multiple_of(BLOCK_BYTES as u32)
        };
        if !fits {
            return Err(Status::BadSize.into());
        }
        let in_place = src.space.id() == dst.space.id() && src.addr == dst.addr;
        if !in_place && overlap(src, size, dst, size) {
            return Err(Status::Overlap.into());
        }
        if wanted.capacity < size {
            return Err(Status::Overflow.into());
        }
        Ok(Self {
            algorithm,
            key: key.id(),
            done: 0,
            iv: crypt.iv,
        })
    }

    pub(super) fn done(&self) -> u32 {
        self.done
    }

    /// Goes on until done or until the chunk is over.
    pub(super) fn run<B: Backend>(
        &mut self,
        wanted: &Wanted,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<Option<Ended>, Failure> {
        let Action::Crypt(crypt) = &wanted.action else {
            return Err(broken(()));
        };
        let (src, dst) = wanted.resolve(chunk, self.done, self.done)?;
        let key = wanted.key(crypt, chunk, wanted.size - self.done, Some(self.key))?;
        let before = self.done;
        let mut buffer = chunk.codecs.buffer.take();
        let mut cipher = chunk
            .codecs
            .take(self.algorithm)
            .ok_or_else(|| broken(()))?;
        let name = KeyName {
            id: self.key,
            object: None,
        };
        let result = cipher
            .start_named(name, || Ok(key.key.bytes()), &self.iv, crypt.direction)
            .map_err(broken)
            .and_then(|()| {
                let mut work = Work {
                    wanted,
                    crypt,
                    src: &src,
                    dst: &dst,
                    cipher: &mut cipher,
                    buffer: &mut buffer,
                };
                work.pieces(self, chunk)
            });
        chunk.codecs.put_back(cipher);
        chunk.codecs.buffer = buffer;
        let moved = u64::from(self.done - before);
        key.account(moved);
        chunk.settle(&[(&src, Access::Read, moved), (&dst, Access::Write, moved)])?;
        result?;
        Ok((self.done == wanted.size).then_some(Ended {
            consumed: self.done,
            produced: self.done,
            number: None,
        }))
    }
}

/// A chunk's worth.
struct Work<'w, 'g> {
    wanted: &'w Wanted,
    crypt: &'w Crypt,
    src: &'w Target<'g>,
    dst: &'w Target<'g>,
    cipher: &'w mut Cipher,
    buffer: &'w mut Buffer,
}

impl Work<'_, '_> {
    fn pieces<B: Backend>(
        &mut self,
        blocks: &mut Blocks,
        chunk: &mut Chunk<'_, B>,
    ) -> Result<(), Failure> {
        let piece = PIECE_BYTES.max(1 << self.crypt.unit_log2);
        let mut at = 0;
        loop {
            let left = (self.wanted.size - blocks.done) as usize;
            let data = &mut self.buffer.input[..left.min(piece)];
            chunk.gather(self.src, at, data)?;
            // Every page of the piece, before a byte is written: what cannot be written
            // whole must leave its source as it was, which may be the same bytes.
            chunk.reach(self.dst, at, data.len() as u64, Access::Write)?;
            let iv = apply(self.cipher, self.crypt, blocks, data).map_err(broken)?;
            let len = data.len() as u64;
            chunk.scatter(self.dst, at, data, self.wanted.hint()).1?;
            blocks.iv = iv;
            blocks.done += len as u32;
            at += len;
            chunk.budget.spend_slowly(len);
            if blocks.done == self.wanted.size || chunk.is_spent() {
                return Ok(());
            }
        }
    }
}

/// Encrypts or decrypts whole units or blocks; returns what the next begin with.
fn apply(
    cipher: &mut Cipher,
    crypt: &Crypt,
    blocks: &Blocks,
    data: &mut [u8],
) -> Result<[u8; BLOCK_BYTES], CipherError> {
    if is_xts(blocks.algorithm) {
        let mut tweak = u128::from_le_bytes(blocks.iv);
        for unit in data.chunks_mut(1 << crypt.unit_log2) {
            cipher.next_unit(&tweak.to_le_bytes())?;
            cipher.apply(unit)?;
            tweak = tweak.wrapping_add(1);
        }
        return Ok(tweak.to_le_bytes());
    }
    let last = |data: &[u8]| data.last_chunk().copied().unwrap_or(blocks.iv);
    if crypt.direction == Direction::Decrypt {
        let next = last(data);
        cipher.apply(data)?;
        return Ok(next);
    }
    cipher.apply(data)?;
    Ok(last(data))
}
