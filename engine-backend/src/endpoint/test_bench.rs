//! What the tests of both kinds of device need: a device with its staging, and how to look
//! at that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::OpenError;
use super::device::{BlockDevice, Outcome, Request, StagingRange, Token};
use super::staging::StagingMemory;
use crate::memory::HostSpan;

/// Bytes of staging.
pub(super) const STAGING_BYTES: u32 = 1 << 20;

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk with its staging.
pub(super) struct Bench<D> {
    pub(super) disk: D,
    staging: HostSpan,
}

impl<D: BlockDevice> Bench<D> {
    pub(super) fn open(
        open: impl FnOnce(Arc<StagingMemory>) -> Result<D, OpenError>,
    ) -> Result<Self, OpenError> {
        let staging = Arc::new(StagingMemory::new(STAGING_BYTES).unwrap());
        let file = Arc::new(staging.fd().try_clone_to_owned().unwrap().into());
        let span = HostSpan::of_file(file, STAGING_BYTES.into()).unwrap();
        Ok(Self {
            disk: open(staging)?,
            staging: span,
        })
    }

    pub(super) fn fill(&self, at: StagingRange, bytes: &[u8]) {
        assert_eq!(at.length as usize, bytes.len());
        self.staging.write_bytes(at.offset as usize, bytes);
    }

    pub(super) fn read(&self, at: StagingRange) -> Vec<u8> {
        let mut bytes = vec![0; at.length as usize];
        self.staging.read_bytes(at.offset as usize, &mut bytes);
        bytes
    }

    /// Polls until this many requests have ended.
    pub(super) fn wait(&mut self, count: usize) -> Vec<(Token, Outcome)> {
        let mut ended = Vec::new();
        let start = Instant::now();
        while ended.len() < count {
            self.disk
                .poll(&mut |token, outcome| ended.push((token, outcome)));
            assert!(start.elapsed() < PATIENCE, "{ended:?} of {count}");
            std::thread::yield_now();
        }
        ended
    }

    pub(super) fn one(&mut self, request: Request) -> Outcome {
        self.disk.submit(Token(9), &request).unwrap();
        self.disk.flush_submissions();
        let ended = self.wait(1);
        assert_eq!((ended.len(), ended[0].0), (1, Token(9)));
        ended[0].1
    }

    /// Sleeps until the device says something.
    pub(super) fn sleep(&self) {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.disk.wake_fd().unwrap());
        let mut fds = [libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        }];
        // SAFETY: the array is valid for its length.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 1, 10_000) };
        assert_eq!(ready, 1, "nobody was woken");
    }
}

/// Opens what is there for sure, as often as it takes: who does not wait long for answers may not get one of a
/// device's thread that has no core meanwhile.
pub(super) fn until_it_answers<D>(open: impl Fn() -> Result<Bench<D>, OpenError>) -> Bench<D> {
    let start = Instant::now();
    loop {
        match open() {
            Ok(bench) => return bench,
            Err(OpenError::NoAnswer { what, .. }) if start.elapsed() < PATIENCE => {
                println!("asked again: {what}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) fn staging(offset: u32, length: u32) -> StagingRange {
    StagingRange { offset, length }
}

/// Bytes that are nowhere twice.
pub(super) fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
