//! The private overlay of a disk: a sparse file with the blocks that were written, and a map of which those are.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0-7 | magic `BYWAYOVL` |
//! | 8-15 | version, 1 |
//! | 16-23 | bytes of the disk that it lies over |
//! | 24-31 | when that file was last changed, in nanoseconds since 1970: an overlay over something else is rubbish |
//! | 4096- | the map: a bit for each block of 4096 bytes, least significant first |
//! | from the next multiple of 4096 | the blocks, each where it is on the disk |
//!
//! Numbers are little-endian. The map in the file is brought up to date, after the blocks have been made to last, whenever the guest
//! flushes, and at the end: after a crash it never names a block that was not written.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::transfer::{Way, discard, transfer, write_zeros};
use crate::devices::memory::Snapshot;
use crate::devices::served_queue::{Part, cut};

const MAGIC: [u8; 8] = *b"BYWAYOVL";
const VERSION: u64 = 1;
/// Bytes of a block, and of the header.
pub(super) const BLOCK: u64 = 4096;
const BITS: u64 = 64;

/// An overlay over a disk.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    /// Where the blocks begin.
    blocks_at: u64,
    map: Vec<u64>,
    /// Whether a flush is to reach the disk: pointless for a file that is gone after a crash anyway.
    lasts: bool,
    /// Words of the map that the file does not have yet: from and to.
    unsaved: Option<(usize, usize)>,
}

impl Overlay {
    /// Uses `file` as overlay over `base`, which has `base_bytes`: as it is, or anew if it is empty.
    ///
    /// # Errors
    /// When it is an overlay over something else, or none; as the host says.
    pub(super) fn open(file: File, lasts: bool, base: &File, base_bytes: u64) -> io::Result<Self> {
        let blocks = base_bytes.div_ceil(BLOCK);
        let words = blocks.div_ceil(BITS);
        let blocks_at = BLOCK + (words * 8).next_multiple_of(BLOCK);
        let changed = base.metadata()?;
        let changed_ns = if changed.is_file() {
            (changed.mtime() as u64)
                .wrapping_mul(1_000_000_000)
                .wrapping_add(changed.mtime_nsec() as u64)
        } else {
            // That of a device is when its node was made.
            0
        };
        let mut header = [0; 32];
        for (at, value) in [(8, VERSION), (16, base_bytes), (24, changed_ns)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[..8].copy_from_slice(&MAGIC);

        let mut map = vec![0; words as usize];
        if file.metadata()?.len() == 0 {
            file.set_len(blocks_at + blocks * BLOCK)?;
            file.write_all_at(&header, 0)?;
        } else {
            let mut found = [0; 32];
            let read = file.read_exact_at(&mut found, 0);
            if read.is_err() || found[..16] != header[..16] {
                return Err(wrong("it is no overlay of this version"));
            }
            if found != header {
                return Err(wrong(
                    "it is an overlay over another disk, or that has been changed since",
                ));
            }
            let mut bytes = vec![0; words as usize * 8];
            file.read_exact_at(&mut bytes, BLOCK)?;
            for (word, bytes) in map.iter_mut().zip(bytes.chunks_exact(8)) {
                let mut number = [0; 8];
                number.copy_from_slice(bytes);
                *word = u64::from_le_bytes(number);
            }
        }
        Ok(Self {
            file,
            blocks_at,
            map,
            lasts,
            unsaved: None,
        })
    }

    fn has(&self, block: u64) -> bool {
        self.map[(block / BITS) as usize] >> (block % BITS) & 1 == 1
    }

    fn mark(&mut self, block: u64) {
        let word = (block / BITS) as usize;
        let bit = 1 << (block % BITS);
        if self.map[word] & bit == 0 {
            self.map[word] |= bit;
            let (from, to) = self.unsaved.unwrap_or((word, word));
            self.unsaved = Some((from.min(word), to.max(word)));
        }
    }

    /// Pieces of a range that lie in blocks which are all written, or all not: `(at, bytes, written)`.
    fn runs(&self, at: u64, len: u64) -> Vec<(u64, u64, bool)> {
        let end = at + len;
        let mut runs: Vec<(u64, u64, bool)> = Vec::new();
        let mut from = at;
        while from < end {
            let block = from / BLOCK;
            let to = end.min((block + 1) * BLOCK);
            let written = self.has(block);
            match runs.last_mut() {
                Some(last) if last.2 == written => last.1 += to - from,
                _ => runs.push((from, to - from, written)),
            }
            from = to;
        }
        runs
    }

    /// Reads a range of the disk into the guest.
    ///
    /// # Errors
    /// As the host says.
    pub(super) fn read(
        &self,
        base: &File,
        at: u64,
        parts: &[Part],
        (skip, len): (u64, u64),
        memory: &Snapshot,
    ) -> io::Result<()> {
        for (from, bytes, written) in self.runs(at, len) {
            let parts = cut(parts, skip + (from - at), bytes);
            let (file, from) = if written {
                (&self.file, self.blocks_at + from)
            } else {
                (base, from)
            };
            transfer(file, from, parts, memory, Way::ToGuest)?;
        }
        Ok(())
    }

    /// Writes a range of the disk from the guest.
    ///
    /// # Errors
    /// As the host says.
    pub(super) fn write(
        &mut self,
        base: &File,
        at: u64,
        parts: &[Part],
        (skip, len): (u64, u64),
        memory: &Snapshot,
    ) -> io::Result<()> {
        self.fill_ends(base, at, len)?;
        let parts = cut(parts, skip, len);
        transfer(&self.file, self.blocks_at + at, parts, memory, Way::ToFile)?;
        self.mark_all(at, len);
        Ok(())
    }

    /// Has zeros in a range of the disk.
    ///
    /// # Errors
    /// As the host says.
    pub(super) fn zero(&mut self, base: &File, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.fill_ends(base, at, len)?;
        write_zeros(&self.file, self.blocks_at + at, len, unmap)?;
        self.mark_all(at, len);
        Ok(())
    }

    /// Gives back the room of blocks that were written. What is not written stays as the base has it.
    ///
    /// # Errors
    /// As the host says.
    pub(super) fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        for (from, bytes, written) in self.runs(at, len) {
            if written {
                discard(&self.file, self.blocks_at + from, bytes)?;
            }
        }
        Ok(())
    }

    /// Makes what was written last.
    ///
    /// # Errors
    /// As the host says.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.lasts {
            self.save()?;
        }
        Ok(())
    }

    fn save(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if let Some((from, to)) = self.unsaved {
            let words = self.map[from..=to].iter();
            let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
            self.file.write_all_at(&bytes, BLOCK + from as u64 * 8)?;
            self.file.sync_data()?;
            self.unsaved = None;
        }
        Ok(())
    }

    fn mark_all(&mut self, at: u64, len: u64) {
        if len > 0 {
            for block in at / BLOCK..=(at + len - 1) / BLOCK {
                self.mark(block);
            }
        }
    }

    /// Copies from the base what the first and the last block of a range keep of it.
    fn fill_ends(&mut self, base: &File, at: u64, len: u64) -> io::Result<()> {
        let end = at + len;
        for (block, is_whole) in [
            (at / BLOCK, at.is_multiple_of(BLOCK) && len >= BLOCK),
            (end / BLOCK, end.is_multiple_of(BLOCK)),
        ] {
            if len == 0 || is_whole || self.has(block) {
                continue;
            }
            let mut bytes = [0; BLOCK as usize];
            let mut read = 0;
            while read < bytes.len() {
                match base.read_at(&mut bytes[read..], block * BLOCK + read as u64) {
                    // The disk may end within its last block.
                    Ok(0) => break,
                    Ok(more) => read += more,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.file
                .write_all_at(&bytes, self.blocks_at + block * BLOCK)?;
            self.mark(block);
        }
        Ok(())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!("a disk's overlay could not be written to its end: {error}");
        }
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
