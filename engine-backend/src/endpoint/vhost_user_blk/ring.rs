//! [`Ring`]: the driver's side of a split virtqueue (virtio 1.2, section 2.7), in memory that
//! the device can write at any time.
//!
//! Tells what the device wrote, each word read once; whether it makes sense is for the
//! caller to say. Never reads what it has written itself.

use std::sync::atomic::{Ordering, fence};

use crate::memory::HostSpan;

/// The device reads from the chain's next descriptor.
pub(super) const NEXT: u16 = 1;
/// The device writes what the descriptor names.
pub(super) const WRITE: u16 = 2;
/// In `avail.flags`: no signals, please.
const NO_INTERRUPT: u16 = 1;
/// In `used.flags`: no kicks, please.
const NO_NOTIFY: u16 = 1;

/// Where the parts are, in bytes from the start of the ring's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Descriptors; a power of two, at most 1024.
    pub(super) size: u16,
    pub(super) avail: usize,
    pub(super) used: usize,
    /// Bytes of all of it.
    pub(super) end: usize,
}

impl Layout {
    pub(super) const fn new(size: u16) -> Self {
        assert!(size.is_power_of_two() && size <= 1024);
        let count = size as usize;
        let avail = 16 * count;
        // The device's part in cache lines of its own.
        let used = (avail + 6 + 2 * count).next_multiple_of(64);
        Self {
            size,
            avail,
            used,
            end: (used + 6 + 8 * count).next_multiple_of(64),
        }
    }

    fn used_event(&self) -> usize {
        self.avail + 4 + 2 * self.size as usize
    }

    fn avail_event(&self) -> usize {
        self.used + 4 + 8 * self.size as usize
    }
}

/// One descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Where the device finds it.
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

/// An entry of the used ring, as the device wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) id: u32,
    pub(super) length: u32,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Ring {
    span: HostSpan,
    layout: Layout,
    has_event_idx: bool,
    /// Index of the next chain to make available.
    next_avail: u16,
    /// What the device was last told of.
    published: u16,
    /// Used entries that were taken.
    taken: u16,
}

impl Ring {
    /// An empty ring, silent, in memory that is all zero.
    pub(super) fn new(span: HostSpan, layout: Layout, has_event_idx: bool) -> Self {
        let ring = Self {
            span,
            layout,
            has_event_idx,
            next_avail: 0,
            published: 0,
            taken: 0,
        };
        ring.silence();
        ring
    }

    pub(super) fn set_descriptor(&self, index: u16, descriptor: &Descriptor) {
        let at = 16 * usize::from(index % self.layout.size);
        let rest = u64::from(descriptor.length)
            | u64::from(descriptor.flags) << 32
            | u64::from(descriptor.next) << 48;
        self.span.store_u64(at, descriptor.address.to_le());
        self.span.store_u64(at + 8, rest.to_le());
    }

    /// Makes a chain available, which the device sees after [`Self::publish`]. The caller has no
    /// more chains out than there are descriptors.
    pub(super) fn push(&mut self, head: u16) {
        let place = usize::from(self.next_avail % self.layout.size);
        let at = self.layout.avail + 4 + 2 * place;
        self.span.store_u16_release(at, head.to_le());
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Shows the device what was pushed; true: it wants a kick.
    pub(super) fn publish(&mut self) -> bool {
        let before = self.published;
        if before == self.next_avail {
            return false;
        }
        self.published = self.next_avail;
        let idx = self.layout.avail + 2;
        self.span.store_u16_release(idx, self.published.to_le());
        // The device asks for kicks and looks once more; here the other way round.
        fence(Ordering::SeqCst);
        if self.has_event_idx {
            let event = u16::from_le(self.span.load_u16_acquire(self.layout.avail_event()));
            crosses(event, self.published, before)
        } else {
            u16::from_le(self.span.load_u16_acquire(self.layout.used)) & NO_NOTIFY == 0
        }
    }

    /// Chains that were pushed and not shown.
    pub(super) fn unpublished(&self) -> u16 {
        self.next_avail.wrapping_sub(self.published)
    }

    /// How many used entries the device says there are that were not taken.
    pub(super) fn waiting(&self) -> u16 {
        let idx = u16::from_le(self.span.load_u16_acquire(self.layout.used + 2));
        idx.wrapping_sub(self.taken)
    }

    /// Takes one used entry, of those that are [`Self::waiting`].
    pub(super) fn take(&mut self) -> Used {
        let place = usize::from(self.taken % self.layout.size);
        let at = self.layout.used + 4 + 8 * place;
        self.taken = self.taken.wrapping_add(1);
        Used {
            id: u32::from_le(self.span.load_u32(at)),
            length: u32::from_le(self.span.load_u32(at + 4)),
        }
    }

    /// Asks the device not to signal. To be called again as entries are taken, or the
    /// event index would come round.
    pub(super) fn silence(&self) {
        if self.has_event_idx {
            let behind = self.taken.wrapping_sub(1);
            self.span
                .store_u16_release(self.layout.used_event(), behind.to_le());
        } else {
            self.span
                .store_u16_release(self.layout.avail, NO_INTERRUPT.to_le());
        }
    }

    /// Asks the device to signal the next used entry. True: there is one already.
    pub(super) fn arm(&self) -> bool {
        if self.has_event_idx {
            self.span
                .store_u16_release(self.layout.used_event(), self.taken.to_le());
        } else {
            self.span.store_u16_release(self.layout.avail, 0);
        }
        fence(Ordering::SeqCst);
        self.waiting() != 0
    }
}

/// Whether going from `before` to `now` passes `event` (virtio 1.2, section 2.7.10).
fn crosses(event: u16, now: u16, before: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::peer_memory::PeerMemory;

    fn ring(has_event_idx: bool) -> (Ring, HostSpan) {
        let memory = PeerMemory::new(c"byway-test-ring", 8192).unwrap();
        let span = memory.span().clone();
        (Ring::new(span.clone(), Layout::new(8), has_event_idx), span)
    }

    #[test]
    fn parts_do_not_overlap_and_are_aligned() {
        for size in [1, 2, 8, 256, 1024] {
            let layout = Layout::new(size);
            let count = usize::from(size);
            assert!(layout.avail >= 16 * count && layout.avail.is_multiple_of(2));
            assert!(layout.used >= layout.used_event() + 2 && layout.used.is_multiple_of(4));
            assert!(layout.end >= layout.avail_event() + 2);
        }
    }

    #[test]
    fn a_chain_is_seen_when_published_and_not_before() {
        let (mut ring, span) = ring(false);
        let idx = |span: &HostSpan| span.load_u16_acquire(ring_avail() + 2);
        fn ring_avail() -> usize {
            Layout::new(8).avail
        }
        ring.push(6);
        assert_eq!(idx(&span), 0);
        assert!(ring.publish());
        assert_eq!(
            (idx(&span), span.load_u16_acquire(ring_avail() + 4)),
            (1, 6)
        );
        assert!(!ring.publish(), "nothing new");
        span.store_u16_release(Layout::new(8).used, NO_NOTIFY);
        ring.push(3);
        assert!(!ring.publish(), "the device wants none");
    }

    #[test]
    fn kicks_are_given_when_the_device_asked_for_the_next() {
        let (mut ring, span) = ring(true);
        let event = Layout::new(8).avail_event();
        ring.push(0);
        assert!(ring.publish(), "it waits for the first");
        ring.push(3);
        assert!(!ring.publish(), "it has not said that it saw the first");
        span.store_u16_release(event, 2);
        ring.push(6);
        assert!(ring.publish());
    }

    #[test]
    fn used_entries_are_taken_in_order_across_the_wrap() {
        let (mut ring, span) = ring(true);
        let used = Layout::new(8).used;
        for n in 0..70_000_u32 {
            assert_eq!(ring.waiting(), 0);
            let at = used + 4 + 8 * (n as usize % 8);
            span.store_u32(at, n);
            span.store_u32(at + 4, n ^ 5);
            span.store_u16_release(used + 2, (n + 1) as u16);
            assert_eq!(ring.waiting(), 1);
            let expected = Used {
                id: n,
                length: n ^ 5,
            };
            assert_eq!(ring.take(), expected);
            ring.silence();
            let wish = span.load_u16_acquire(Layout::new(8).used_event());
            assert!(!crosses(wish, (n + 2) as u16, (n + 1) as u16), "silent");
        }
        assert!(!ring.arm());
        let wish = span.load_u16_acquire(Layout::new(8).used_event());
        assert!(crosses(wish, 70_001_u32 as u16, 70_000_u32 as u16), "armed");
        span.store_u16_release(used + 2, 70_001_u32 as u16);
        assert!(ring.arm());
    }
}
