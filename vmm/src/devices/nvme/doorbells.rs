//! [`Doorbells`]: what vCPUs have written to doorbells and the device's thread has not looked at yet.
//!
//! A doorbell is a place in a queue, so the last one counts. A vCPU waits for nobody here, however long a command takes.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use byway_nvme::controller::IO_QUEUES_MAX;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Doorbells of all queues, and one more that stands for those which no queue has.
const COUNT: usize = 2 * (IO_QUEUES_MAX as usize + 1) + 1;
/// Beside a value: it is new.
const RUNG: u64 = 1 << 32;

/// The doorbells of a controller.
#[derive(Debug)]
pub(super) struct Doorbells {
    values: [AtomicU64; COUNT],
    kick: EventFd,
}

impl Doorbells {
    /// None rung.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            values: [const { AtomicU64::new(0) }; COUNT],
            kick: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Rings the one that is `offset` bytes, a multiple of 4, behind the first, and wakes the thread.
    pub(super) fn ring(&self, offset: u64, value: u32) {
        let index = ((offset / 4) as usize).min(COUNT - 1);
        self.values[index].store(RUNG | u64::from(value), Ordering::Release);
        // An eventfd that is full is readable anyway.
        let _ = self.kick.write(1);
    }

    /// Takes what was rung: offset and value.
    pub(super) fn take(&self, mut rung: impl FnMut(u64, u32)) {
        for (offset, value) in (0..).step_by(4).zip(&self.values) {
            let value = value.swap(0, Ordering::AcqRel);
            if value & RUNG != 0 {
                rung(offset, value as u32);
            }
        }
    }

    /// Readable when one was rung.
    pub(super) fn kick(&self) -> RawFd {
        self.kick.as_raw_fd()
    }

    /// Forgets that; whoever calls it takes what was rung next.
    pub(super) fn clear_kick(&self) {
        // Empty already, if it fails.
        let _ = self.kick.read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_each_is_taken_once() {
        let doorbells = Doorbells::new().unwrap();
        for (offset, value) in [(8, 1), (0, 3), (8, u32::MAX), (0xffc, 7), (1 << 40, 8)] {
            doorbells.ring(offset, value);
        }
        let take = || {
            let mut rung = Vec::new();
            doorbells.take(|offset, value| rung.push((offset, value)));
            rung
        };
        let none = 4 * (COUNT as u64 - 1);
        assert_eq!(take(), [(0, 3), (8, u32::MAX), (none, 8)]);
        assert_eq!(take(), []);
        assert_eq!(doorbells.kick.read().unwrap(), 5);
    }
}
