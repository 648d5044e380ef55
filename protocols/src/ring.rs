//! Rings: where the phase bit flips, and the header line of a queue (SPEC section 2).
//!
//! Ring memory starts all zero. The first lap is published with phase 1, the second
//! with phase 0, and so on, so an entry is new exactly when its phase is that of the
//! lap. Descriptor slot and completion slot share one index.

use crate::wire::wire_struct;

/// Fewest entries of a work queue.
pub const ENTRIES_MIN: u32 = 2;
/// Most entries of a work queue that the ABI allows; an engine may offer fewer.
pub const ENTRIES_MAX: u32 = 32768;

wire_struct! {
    /// Header line of a work queue, written by the engine only.
    pub struct QueueHeader: 64 align 64 {
        /// 1: the queue is parked, ask the kernel to kick after publishing.
        need_kick: u32 = 0,
        /// Instance of the engine; changes when it restarts or the device is reset.
        instance: u32 = 4,
        /// See [`QueueState`].
        state: u32 = 8,
        /// 0.
        reserved12: u32 = 12,
        /// Descriptors that the engine has taken, modulo 2^32; for observers only.
        taken: u32 = 16,
        /// 0.
        reserved20: [u8; 44] = 20,
    }
}

/// Values of [`QueueHeader::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum QueueState {
    /// Not created yet.
    None = 0,
    /// Served.
    Running = 1,
    /// Destroyed: no descriptor will be taken any more.
    Dead = 2,
}

/// A running position in a ring: counts entries since creation and tells slot and phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingPosition {
    count: u32,
    mask: u32,
}

impl RingPosition {
    /// The start of a ring with `entries` entries, or `None` unless that is a power of
    /// two from [`ENTRIES_MIN`] to [`ENTRIES_MAX`].
    #[must_use]
    pub const fn new(entries: u32) -> Option<Self> {
        if entries.is_power_of_two() && entries >= ENTRIES_MIN && entries <= ENTRIES_MAX {
            Some(Self {
                count: 0,
                mask: entries - 1,
            })
        } else {
            None
        }
    }
    /// Index of the entry.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.count & self.mask
    }
    /// Phase with which the entry is published on this lap.
    #[must_use]
    pub const fn phase(self) -> bool {
        // The number of entries is a power of two: its bit counts laps, without a division.
        self.count & (self.mask + 1) == 0
    }
    /// Entries passed since creation, modulo 2^32.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }
    /// Entries of the ring.
    #[must_use]
    pub const fn entries(self) -> u32 {
        self.mask + 1
    }
    /// Goes on by one entry.
    pub const fn advance(&mut self) {
        self.count = self.count.wrapping_add(1);
    }
    /// The position `n` entries further on.
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self {
            count: self.count.wrapping_add(n),
            mask: self.mask,
        }
    }
    /// How far this position is ahead of `other` in the same ring.
    #[must_use]
    pub const fn distance_from(self, other: Self) -> u32 {
        self.count.wrapping_sub(other.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phase_flips_every_lap_and_survives_the_wrap_of_the_counter() {
        let mut p = RingPosition::new(4).unwrap();
        let phases: [bool; 12] = core::array::from_fn(|_| {
            let phase = p.phase();
            p.advance();
            phase
        });
        assert_eq!(phases[..4], [true; 4]);
        assert_eq!(phases[4..8], [false; 4]);
        assert_eq!(phases[8..], [true; 4]);
        let near_wrap = RingPosition {
            count: u32::MAX,
            mask: 3,
        };
        assert_eq!((near_wrap.slot(), near_wrap.phase()), (3, false));
        let after = near_wrap.plus(1);
        assert_eq!((after.slot(), after.phase()), (0, true));
        assert_eq!(after.distance_from(near_wrap), 1);
    }

    #[test]
    fn sizes_are_checked() {
        for bad in [0, 1, 3, 5, 65536] {
            assert_eq!(RingPosition::new(bad), None);
        }
        assert!(RingPosition::new(ENTRIES_MAX).is_some());
    }
}
