//! [`Slots`]: a table of equal places in guest memory, such as a ring.

use std::sync::atomic::AtomicU64;

use super::{HostAddr, HostSpan, hint};

/// `WORDS` times 8 bytes for each place, a power of two of places. The table is checked when
/// it is made and every index is masked, so that an access needs no check of its own and even
/// a mispredicted one stays inside.
#[derive(Debug, Clone)]
pub struct Slots<const WORDS: usize> {
    /// As long as the table, at least.
    span: HostSpan,
    mask: u32,
}

impl<const WORDS: usize> Slots<WORDS> {
    /// Bytes of one place.
    const BYTES: usize = WORDS * size_of::<u64>();

    /// The first `count` places of a span.
    ///
    /// # Panics
    /// When `count` is no power of two, the span is shorter than that, or it does not lie at a
    /// multiple of 8.
    #[must_use]
    pub fn new(span: HostSpan, count: u32) -> Self {
        assert!(count.is_power_of_two(), "{count} places: expected 2^n");
        assert!(
            span.len() / Self::BYTES >= count as usize,
            "the span is too short"
        );
        assert!(
            span.host().0.is_multiple_of(align_of::<u64>() as u64),
            "the span is misaligned"
        );
        Self {
            span,
            mask: count - 1,
        }
    }

    /// Guest-physical address of the place `index`, and its bytes.
    #[must_use]
    pub fn gpa(&self, index: u32) -> (u64, u64) {
        let bytes = Self::BYTES as u64;
        (
            self.span.gpa() + u64::from(index & self.mask) * bytes,
            bytes,
        )
    }

    /// The words of the place `index`, modulo the number of places.
    #[inline(always)]
    #[must_use]
    pub fn words(&self, index: u32) -> &[AtomicU64; WORDS] {
        let index = (index & self.mask) as usize;
        // SAFETY: inside the span, as `new` has checked for each masked index, and aligned;
        // the span lives as long as `self`, and nobody in this process accesses guest memory
        // other than atomically or by the copy kernels.
        unsafe { self.span.start().cast().add(index).as_ref() }
    }

    /// A hint: the place will be read soon.
    #[inline(always)]
    pub fn prefetch(&self, index: u32) {
        hint::reads_soon(self.place(index));
    }

    /// A hint: the place will be written soon.
    #[inline(always)]
    pub fn prefetch_for_write(&self, index: u32) {
        hint::writes_soon(self.place(index));
    }

    #[inline(always)]
    fn place(&self, index: u32) -> HostAddr {
        let place: *const [AtomicU64; WORDS] = self.words(index);
        HostAddr(place.expose_provenance() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::memory::test_ram::TestRam;

    const BASE: u64 = 0x1000;

    fn slots(count: u32) -> Slots<4> {
        let ram = TestRam::new(&[(0, 1 << 20, true)]);
        let span = ram.memory.contiguous(BASE, 4 * 32).unwrap();
        Slots::new(span, count)
    }

    #[test]
    fn each_index_has_its_place_and_none_is_outside() {
        let slots = slots(4);
        for index in 0..4 {
            slots.words(index)[1].store(u64::from(index) + 7, Ordering::Relaxed);
            assert_eq!(slots.gpa(index), (BASE + 32 * u64::from(index), 32));
        }
        for index in [0, 1, 2, 3, 4, 7, u32::MAX] {
            let found = slots.words(index)[1].load(Ordering::Relaxed);
            assert_eq!(found, u64::from(index % 4) + 7, "{index}");
            slots.prefetch(index);
            slots.prefetch_for_write(index);
        }
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn a_table_is_not_longer_than_its_span() {
        let _ = slots(8);
    }

    #[test]
    #[should_panic(expected = "expected 2^n")]
    fn a_table_that_no_mask_fits_is_refused() {
        let _ = slots(3);
    }
}
