//! Log pages (section 5.14): errors, health, firmware.

use super::Controller;
use crate::layout::Status;
use crate::medium::Medium;

const ERRORS: u8 = 1;
const HEALTH: u8 = 2;
const FIRMWARE: u8 = 3;

/// Bytes that the health log counts in.
const UNIT_BYTES: u64 = 512 * 1000;

/// What the health log counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    bytes_read: u64,
    bytes_written: u64,
    reads: u64,
    writes: u64,
}

impl Counts {
    pub(super) fn read(&mut self, bytes: u64) {
        self.reads += 1;
        self.bytes_read += bytes;
    }

    pub(super) fn written(&mut self, bytes: u64) {
        self.writes += 1;
        self.bytes_written += bytes;
    }
}

impl<M: Medium> Controller<M> {
    /// All of a log page.
    pub(super) fn log(&self, page: u8) -> Result<Vec<u8>, Status> {
        match page {
            // No error that an entry would tell more of than its completion did.
            ERRORS => Ok(vec![0; 64]),
            HEALTH => {
                let mut log = vec![0; 512];
                // 300 K; nothing spare was used.
                log[1..3].copy_from_slice(&300_u16.to_le_bytes());
                (log[3], log[4]) = (100, 10);
                let counts = &self.counts;
                for (at, value) in [
                    (32, counts.bytes_read.div_ceil(UNIT_BYTES)),
                    (48, counts.bytes_written.div_ceil(UNIT_BYTES)),
                    (64, counts.reads),
                    (80, counts.writes),
                ] {
                    log[at..at + 8].copy_from_slice(&value.to_le_bytes());
                }
                Ok(log)
            }
            FIRMWARE => {
                let mut log = vec![0; 512];
                log[0] = 1;
                let revision = env!("CARGO_PKG_VERSION").bytes();
                log[8..16].fill(b' ');
                log[8..16]
                    .iter_mut()
                    .zip(revision)
                    .for_each(|(to, from)| *to = from);
                Ok(log)
            }
            _ => Err(Status::LOG_PAGE_INVALID.do_not_retry()),
        }
    }
}
