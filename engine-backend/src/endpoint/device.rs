//! [`BlockDevice`]: what the engine needs of a block device, whoever carries it out.
//!
//! A device is driven by whichever worker has something for it, one at a time: see
//! `attachment`. It is handed requests and says how they ended; it knows
//! neither guests nor capabilities: all that it can reach is the
//! [`StagingMemory`](super::staging::StagingMemory) that it was opened with, and, for as long as one request takes, the
//! pages that this was given.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::memory::Lent;

/// What a device is, as it was when it was opened. Checked by [`Geometry::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a block: a power of two, 512 to 4096.
    pub block_bytes: u32,
    /// Blocks, at least 1.
    pub blocks: u64,
    /// Most bytes of one request that moves data, a multiple of `block_bytes`.
    pub transfer_bytes_max: u32,
    /// Most requests at a time, at least 1.
    pub depth: u16,
    /// Nothing may be written.
    pub read_only: bool,
    /// [`Request::Flush`] is carried out.
    pub flush: bool,
    /// [`Request::Discard`] is carried out.
    pub discard: bool,
    /// [`Request::WriteZeroes`] is carried out.
    pub write_zeroes: bool,
    /// [`Request::Compare`] is carried out.
    pub compare: bool,
}

impl Geometry {
    /// Bytes of the whole device.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_bytes)
    }

    /// Whether the numbers make sense: a device tells them, and may lie.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let block = self.block_bytes;
        if !block.is_power_of_two() || !(512..=4096).contains(&block) {
            return Err(format!(
                "blocks of {block} bytes: expected a power of two from 512 to 4096"
            ));
        }
        let max = i64::MAX as u64 / u64::from(block);
        if self.blocks == 0 || self.blocks > max {
            return Err(format!("{} blocks: expected 1 to {max}", self.blocks));
        }
        let transfer = self.transfer_bytes_max;
        if transfer < block || !transfer.is_multiple_of(block) {
            return Err(format!(
                "at most {transfer} bytes a request: expected a multiple of {block}, not 0"
            ));
        }
        if self.depth == 0 {
            return Err("0 requests at a time: expected at least 1".to_owned());
        }
        Ok(())
    }
}

/// Bytes of the endpoint's own staging memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagingRange {
    /// First byte, a multiple of 4096.
    pub offset: u32,
    /// Bytes, a multiple of the device's blocks.
    pub length: u32,
}

/// One thing that a device is asked to do. Blocks lie within the device, and a range of
/// staging is as long as its blocks and at most `transfer_bytes_max`: checked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Blocks into staging.
    Read {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
        /// Where to.
        at: StagingRange,
    },
    /// Staging into blocks.
    Write {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
        /// Where from.
        at: StagingRange,
    },
    /// Blocks against staging; a difference is [`Outcome::Failed`].
    Compare {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
        /// With what.
        at: StagingRange,
    },
    /// Everything that was written and has ended, to where it outlasts a loss of power.
    Flush,
    /// Blocks that nobody needs any more.
    Discard {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
    },
    /// Zeros into blocks.
    WriteZeroes {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
    },
}

/// Names a request under way. Its number is below [`SLOTS_MAX`](super::slot::SLOTS_MAX), and
/// not used again before [`BlockDevice::poll`] has told how the request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u32);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// Not all of it.
    Failed {
        /// What the device says, in its own terms: an errno, a virtio status, an NVMe status
        /// field. Told to the submitter.
        device_status: u16,
        /// Bytes at the start of the range that were done nevertheless.
        bytes_done: u32,
    },
    /// Nobody knows: the device is gone.
    Gone,
}

/// Why a request was not taken. Nothing of it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many as it can have are under way: again after one has ended.
    Full,
    /// The device is gone.
    Gone,
    /// The device does not do this.
    NotSupported,
}

/// A block device that the engine drives.
///
/// No method waits for the device, but [`Self::close`]. What a device writes into memory that it shares with the
/// engine is hostile: read once, bounded, checked against what was asked. A device that breaks
/// its protocol is [`Outcome::Gone`] from then on, and says why with [`Self::gone`].
pub trait BlockDevice: Send {
    /// What it is; never changes.
    fn geometry(&self) -> &Geometry;

    /// Takes a request over. It may lie in a queue until [`Self::flush_submissions`].
    ///
    /// # Errors
    /// See [`Refused`].
    fn submit(&mut self, token: Token, request: &Request) -> Result<(), Refused>;

    /// Whether it takes [`Self::submit_direct`] at all.
    fn reaches_memory(&self) -> bool {
        false
    }

    /// Takes over a read or write like [`Self::submit`], whose bytes are in `memory` instead of staging: as many, in parts that each
    /// begin at a multiple of the blocks and are as long. It stays mapped until [`Self::poll`] has told
    /// how the request ended, which is to be told of such a request alone when nothing can reach its memory any more:
    /// not before, not even when the device is gone.
    ///
    /// Whatever is not done in one go may fail: it is tried again by staging.
    ///
    /// # Errors
    /// See [`Refused`].
    fn submit_direct(
        &mut self,
        _token: Token,
        _request: &Request,
        _memory: &Lent,
    ) -> Result<(), Refused> {
        Err(Refused::NotSupported)
    }

    /// Tells the device of what was submitted: at most one system call for all of it, and
    /// none when there is nothing to tell.
    fn flush_submissions(&mut self);

    /// Tells of requests that have ended, each once, and of a bounded number at a time.
    fn poll(&mut self, ended: &mut dyn FnMut(Token, Outcome));

    /// System calls made so far, for the device's sake.
    fn system_calls(&self) -> u64;

    /// Readable when [`Self::poll`] may find something, for those who sleep. `None`: nobody is told.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Asks that [`Self::wake_fd`] becomes readable when something ends, by whoever is about to
    /// sleep. True: something has already, and is to be polled for. A device may stay silent
    /// until it is asked, since telling costs it a system call.
    fn arm(&mut self) -> bool {
        false
    }

    /// Why the device is gone, for the operator; `None` while it is there.
    fn gone(&self) -> Option<&str>;

    /// Takes leave of the device, for which it may wait this long: nothing will be submitted any more, and what is under way
    /// counts as gone, but for what was submitted by [`Self::submit_direct`], which is polled for until it has ended.
    /// Whatever may still reach the staging memory may do so: it is of this
    /// device alone, and is not used again (a device that comes back gets a new one).
    fn close(&mut self, patience: Duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_of_itself_is_checked() {
        let good = Geometry {
            block_bytes: 512,
            blocks: 8,
            transfer_bytes_max: 65536,
            depth: 1,
            read_only: false,
            flush: true,
            discard: false,
            write_zeroes: false,
            compare: false,
        };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.bytes(), 4096);
        let bad: [fn(&mut Geometry); 8] = [
            |g| g.block_bytes = 0,
            |g| g.block_bytes = 256,
            |g| g.block_bytes = 8192,
            |g| g.block_bytes = 520,
            |g| g.blocks = 0,
            |g| g.blocks = u64::MAX,
            |g| g.transfer_bytes_max = 100,
            |g| g.depth = 0,
        ];
        for (i, change) in bad.iter().enumerate() {
            let mut geometry = good;
            change(&mut geometry);
            assert!(geometry.check().is_err(), "{i}");
        }
    }
}
