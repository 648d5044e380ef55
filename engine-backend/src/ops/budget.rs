//! How long a chunk may be: 64 KiB of work or 20 us, whichever comes first. Where a worker has one queue only, nobody
//! else waits for its turn, and the change between chunks would cost the queue a tenth of a 64 KiB operation at the speed
//! of a cache: its chunks may be sixteen times as much work, of no more time. Such a chunk is cut in slices of 64 KiB; when somebody
//! waits for its end, it goes on for no more than one ([`Chunk::is_spent`](super::chunk::Chunk::is_spent)).
//!
//! Work is counted in bytes; every operation counts [`OPERATION_COST`] on top, so that
//! small ones do not come for nothing. The clock, the processor's time stamp counter, is
//! read once in `LOOK_EVERY` units only, since reading it costs as much as a small copy, and once a slice in a long chunk; more
//! often where a unit takes longer than it does to copy a byte.

/// Most work of one chunk, in bytes; and of one slice of a longer one.
pub const CHUNK_BYTES: u64 = 64 << 10;

/// Most work of one chunk of a worker's only queue, in bytes.
pub const LONE_BYTES: u64 = 16 * CHUNK_BYTES;

/// Longest time of one chunk, in microseconds.
pub const CHUNK_US: u64 = 20;

/// What an operation costs beside its bytes: the 80 ns that one takes whose descriptor and completion are in no cache, at
/// the rate at which bytes are copied that are. So a flood of nothing but descriptors is not served at the expense of
/// those who move bytes.
pub const OPERATION_COST: u64 = 832;

/// Work between two looks at the clock: a microsecond of copies in a cache, seven of such that wait for memory.
const LOOK_EVERY: u64 = 32 << 10;

/// The same of slow work.
const LOOK_EVERY_SLOW: u64 = 8 << 10;

/// The processor's time stamp counter.
#[inline]
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has it, and user space may read it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// What is left of a chunk.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    spent: u64,
    /// What was spent when the slice began.
    slice: u64,
    /// What was spent at the last look at the clock.
    looked: u64,
    /// Work as fast as copies between two looks.
    look_every: u64,
    started: u64,
    limit_ticks: u64,
    elements: u32,
}

impl Budget {
    /// For `limit` bytes of work, at most [`LONE_BYTES`], and `limit_ticks` ticks of the
    /// time stamp counter, counted from `started`.
    #[inline]
    #[must_use]
    pub fn new(limit: u64, limit_ticks: u64, started: u64) -> Self {
        Self {
            limit: limit.min(LONE_BYTES),
            spent: 0,
            slice: 0,
            looked: 0,
            look_every: if limit > CHUNK_BYTES + OPERATION_COST {
                CHUNK_BYTES
            } else {
                LOOK_EVERY
            },
            started,
            limit_ticks,
            elements: 0,
        }
    }

    /// Counts work done, as fast as copies are.
    #[inline(always)]
    pub fn spend(&mut self, cost: u64) {
        self.spend_of(cost, self.look_every);
    }

    /// Counts slow work: encryption, compression, protection information, devices.
    #[inline(always)]
    pub fn spend_slowly(&mut self, cost: u64) {
        self.spend_of(cost, LOOK_EVERY_SLOW);
    }

    #[inline(always)]
    fn spend_of(&mut self, cost: u64, look_every: u64) {
        self.spent += cost;
        // One that is used up needs no clock to end.
        if self.spent - self.looked >= look_every && !self.is_over() {
            self.look(ticks());
        }
    }

    /// Counts operations that are no descriptors of their own, but a batch's elements. What they cost is
    /// spent by who carries them out.
    #[inline]
    pub fn count_elements(&mut self, elements: u32) {
        self.elements += elements;
    }

    /// Elements counted.
    #[inline]
    #[must_use]
    pub fn elements(&self) -> u32 {
        self.elements
    }

    /// Whether the chunk must end.
    #[inline(always)]
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.spent >= self.limit
    }

    /// Whether a first slice of it is done.
    #[inline(always)]
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.spent >= CHUNK_BYTES
    }

    /// Begins a slice: nobody waits. Where an operation begins or goes on, so that one of a whole slice's bytes is not cut in two.
    #[inline(always)]
    pub fn begin_slice(&mut self) {
        self.slice = self.spent;
    }

    /// Work that is left of the slice, in bytes: [`CHUNK_BYTES`] at most, and 0 where it has to begin anew.
    #[inline(always)]
    #[must_use]
    pub fn left(&self) -> u64 {
        let of_slice = CHUNK_BYTES.saturating_sub(self.spent - self.slice);
        self.rest().min(of_slice)
    }

    /// Work that is left before the clock, or whoever waits, is to be looked at again, in bytes.
    #[inline(always)]
    #[must_use]
    pub fn unseen(&self) -> u64 {
        let looked = self.look_every.saturating_sub(self.spent - self.looked);
        looked.min(self.left())
    }

    /// Work that is left of the chunk, in bytes.
    #[inline]
    #[must_use]
    pub fn rest(&self) -> u64 {
        self.limit.saturating_sub(self.spent)
    }

    /// Work done.
    #[inline]
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent
    }

    #[cold]
    fn look(&mut self, now: u64) {
        self.looked = self.spent;
        if now.wrapping_sub(self.started) >= self.limit_ticks {
            self.limit = self.spent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_it() {
        let mut b = Budget::new(1 << 30, u64::MAX, 0);
        assert_eq!((b.left(), b.is_long()), (CHUNK_BYTES, false));
        b.spend(CHUNK_BYTES - 1);
        assert_eq!((b.left(), b.is_long()), (1, false));
        b.spend(1);
        assert_eq!((b.left(), b.is_long()), (0, true));
        b.begin_slice();
        assert_eq!(b.left(), CHUNK_BYTES);
        b.spend(1000);
        assert_eq!(b.left(), CHUNK_BYTES - 1000);
        b.spend(14 * CHUNK_BYTES);
        assert_eq!(b.left(), 0);
        b.begin_slice();
        assert_eq!(b.left(), CHUNK_BYTES - 1000);
        b.spend(CHUNK_BYTES - 1001);
        assert!(!b.is_over());
        assert_eq!(b.left(), 1);
        b.spend(OPERATION_COST);
        assert!(b.is_over());
        assert_eq!(b.left(), 0);
        assert_eq!(b.spent(), LONE_BYTES - 1 + OPERATION_COST);
    }

    #[test]
    fn time_ends_it() {
        // The first look may come too late already.
        let mut b = Budget::new(LONE_BYTES, 1000, 5);
        b.spent = LOOK_EVERY;
        b.look(1005);
        assert!(b.is_over());
        let mut b = Budget::new(LONE_BYTES, 1000, 5);
        b.spent = LOOK_EVERY;
        b.look(900);
        assert!(!b.is_over());
        b.spent = 2 * LOOK_EVERY;
        b.look(1004);
        assert!(!b.is_over());
        b.look(1005);
        assert!(b.is_over());
    }

    #[test]
    fn a_long_chunk_looks_at_the_clock_once_a_slice() {
        let mut b = Budget::new(LONE_BYTES, 0, 0);
        b.spend(CHUNK_BYTES - 1);
        assert!(!b.is_over());
        b.spend(1);
        assert!(b.is_over());
    }

    #[test]
    fn work_unseen_ends_with_the_next_look_the_slice_or_the_chunk() {
        let mut b = Budget::new(CHUNK_BYTES, u64::MAX, 0);
        b.spend(1000);
        assert_eq!(b.unseen(), LOOK_EVERY - 1000);
        b.spend(LOOK_EVERY - 1000);
        assert_eq!(b.unseen(), LOOK_EVERY);
        b.spend(LOOK_EVERY - 1);
        assert_eq!(b.unseen(), 1);
        let mut b = Budget::new(LONE_BYTES, u64::MAX, 0);
        b.spend(CHUNK_BYTES);
        assert_eq!(b.unseen(), 0);
        b.begin_slice();
        assert_eq!(b.unseen(), CHUNK_BYTES);
    }

    #[test]
    fn slow_work_looks_at_the_clock_more_often() {
        // Any look finds that its time is over.
        let new = || Budget::new(CHUNK_BYTES, 0, 0);
        let mut b = new();
        b.spend(LOOK_EVERY - 1);
        assert!(!b.is_over());
        b.spend(1);
        assert!(b.is_over());
        let mut b = new();
        b.spend_slowly(LOOK_EVERY_SLOW - 1);
        assert!(!b.is_over());
        b.spend_slowly(1);
        assert!(b.is_over());
        // What was fast before counts.
        let mut b = new();
        b.spend(LOOK_EVERY_SLOW);
        assert!(!b.is_over());
        b.spend_slowly(1);
        assert!(b.is_over());
    }
}
