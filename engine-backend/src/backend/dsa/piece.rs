//! A copy or fill that waits for the device, and what of memory it touches.

use byway_protocols::{Flags, Opcode};

use super::wire::HwDescriptor;
use crate::backend::{Backend, Hint, Order, Software};
use crate::memory::HostAddr;

/// Operations of at least this size, in bytes, go to memory unless the submitter asks
/// otherwise; shorter ones to the last cache, where they are likely to be read next.
const PAST_CACHES_FROM: u64 = 1 << 20;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing is written.
    Read { src: HostAddr },
    /// See [`Backend::copy`].
    Copy { dst: HostAddr, src: HostAddr },
    /// See [`Backend::fill`].
    Fill { dst: HostAddr, pattern: u128 },
    /// See [`Backend::dualcast`].
    Dualcast { dst: [HostAddr; 2], src: HostAddr },
}

/// A piece of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    work: Work,
    len: usize,
    hint: Hint,
}

/// Host addresses, from the first byte on.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    len: u64,
}

impl Range {
    fn meets(self, other: Self) -> bool {
        // Host addresses of mapped bytes: neither sum wraps.
        self.start < other.start + other.len && other.start < self.start + self.len
    }
}

impl Piece {
    /// No byte.
    pub(super) const NONE: Self = Self::reads(HostAddr(0), 0);

    pub(super) fn new(work: Work, len: usize, hint: Hint) -> Self {
        Self { work, len, hint }
    }

    /// One that reads only.
    pub(super) const fn reads(src: HostAddr, len: usize) -> Self {
        Self {
            work: Work::Read { src },
            len,
            hint: Hint {
                order: Order::Disjoint,
                total: 0,
                cached: false,
            },
        }
    }

    fn range(&self, start: HostAddr) -> Range {
        Range {
            start: start.0,
            len: self.len as u64,
        }
    }

    fn read(&self) -> Option<Range> {
        match self.work {
            Work::Read { src } | Work::Copy { src, .. } | Work::Dualcast { src, .. } => {
                Some(self.range(src))
            }
            Work::Fill { .. } => None,
        }
    }

    fn written(&self) -> [Option<Range>; 2] {
        match self.work {
            Work::Copy { dst, .. } | Work::Fill { dst, .. } => [Some(self.range(dst)), None],
            Work::Dualcast { dst, .. } => dst.map(|dst| Some(self.range(dst))),
            Work::Read { .. } => [None, None],
        }
    }

    /// Whether the order of the two matters: one writes what the other touches.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let touches = |piece: &Self, range: Range| {
            let all = piece.written().into_iter().chain([piece.read()]);
            all.flatten().any(|touched| touched.meets(range))
        };
        self.written()
            .into_iter()
            .flatten()
            .any(|range| touches(other, range))
            || other
                .written()
                .into_iter()
                .flatten()
                .any(|range| touches(self, range))
    }

    /// Whether it writes what it reads: then doing it twice is not doing it once.
    pub(super) fn meets_itself(&self) -> bool {
        let written = self.written().into_iter().flatten();
        self.read()
            .is_some_and(|read| written.into_iter().any(|range| range.meets(read)))
    }

    /// What a device is told.
    pub(super) fn line(&self) -> HwDescriptor {
        let flags = if self.hint.cached || self.hint.total < PAST_CACHES_FROM {
            Flags::CACHE_CONTROL
        } else {
            Flags::NONE
        };
        let size = self.len as u32;
        match self.work {
            Work::Copy { dst, src } => HwDescriptor {
                src: src.0,
                dst: dst.0,
                size,
                ..HwDescriptor::new(Opcode::Memmove, flags)
            },
            Work::Fill { dst, pattern } => HwDescriptor {
                src: pattern as u64,
                dst: dst.0,
                size,
                ..HwDescriptor::new(Opcode::Fill, flags)
            },
            Work::Dualcast { dst, src } => HwDescriptor {
                src: src.0,
                dst: dst[0].0,
                size,
                op: [dst[1].0, 0, 0],
                ..HwDescriptor::new(Opcode::Dualcast, flags)
            },
            Work::Read { .. } => HwDescriptor::new(Opcode::Nop, Flags::NONE),
        }
    }

    /// Does it in software, but for its first `done` bytes.
    ///
    /// # Safety
    /// See [`Backend`].
    pub(super) unsafe fn run(&self, software: &mut Software, done: usize) {
        let done = done.min(self.len);
        let len = self.len - done;
        let at = |start: HostAddr| HostAddr(start.0 + done as u64);
        match self.work {
            // SAFETY: the caller's guarantee, for a part of it.
            Work::Copy { dst, src } => unsafe {
                software.copy(at(dst), at(src), len, self.hint);
            },
            Work::Fill { dst, pattern } => {
                let pattern = pattern.rotate_right(8 * (done % 16) as u32);
                // SAFETY: as above.
                unsafe { software.fill(at(dst), len, pattern, self.hint) };
            }
            // SAFETY: as above.
            Work::Dualcast { dst, src } => unsafe {
                software.dualcast(dst.map(at), at(src), len, self.hint);
            },
            Work::Read { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINT: Hint = Hint {
        order: Order::Disjoint,
        total: 4 << 20,
        cached: false,
    };

    fn copy(dst: u64, src: u64, len: usize) -> Piece {
        let (dst, src) = (HostAddr(dst), HostAddr(src));
        Piece::new(Work::Copy { dst, src }, len, HINT)
    }

    #[test]
    fn order_matters_where_one_writes_what_the_other_touches() {
        let first = copy(100, 200, 10);
        assert!(first.meets(&copy(109, 300, 10)), "write, write");
        assert!(first.meets(&copy(300, 91, 10)), "write, read");
        assert!(first.meets(&copy(209, 300, 10)), "read, write");
        assert!(!first.meets(&copy(300, 205, 10)), "both read");
        assert!(!first.meets(&copy(110, 210, 10)), "neighbours");
        assert!(!first.meets(&copy(90, 190, 10)), "neighbours below");
        assert!(first.meets(&Piece::reads(HostAddr(105), 1)));
        assert!(!first.meets(&Piece::NONE));
    }

    #[test]
    fn a_piece_that_overlaps_itself_is_known() {
        assert!(copy(100, 109, 10).meets_itself());
        assert!(!copy(100, 110, 10).meets_itself());
        let dst = HostAddr(5);
        assert!(!Piece::new(Work::Fill { dst, pattern: 1 }, 9, HINT).meets_itself());
    }

    #[test]
    fn long_operations_go_past_the_caches_unless_asked() {
        let flag = |hint| {
            let src = HostAddr(0);
            let piece = Piece::new(Work::Copy { dst: src, src }, 1, hint);
            piece.line().flags_opcode & Flags::CACHE_CONTROL.0 != 0
        };
        assert!(!flag(HINT));
        assert!(flag(Hint {
            cached: true,
            ..HINT
        }));
        assert!(flag(Hint {
            total: 8192,
            ..HINT
        }));
    }
}
