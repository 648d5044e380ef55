//! The `dsa` backend: Intel DSA through user-space work queues, software for the rest.
//!
//! Owns one queue per worker (`queue`) and what of the current chunk the device has still
//! to do. The device shares the process's address space, so descriptors carry the host
//! addresses that translation ended at. Nobody else's memory can be reached by a mistake
//! of the device's users: guests never see a queue.
//!
//! - Copies and fills are collected and handed over together, as a BATCH where the queue
//!   takes one, when the chunk's work on the descriptor ends ([`Backend::finish`]) or when
//!   a later access would meet an earlier one's bytes: the device keeps no order, the trait
//!   does. Comparisons are waited for.
//! - Software does what is short ([`Tuning`]), what overlaps itself or must go in one
//!   direction, what the queue does not take ([`Features`]), what a full queue turned away,
//!   and the rest of what the device broke off: at a page that was not present the worker's
//!   own access fetches it, so no block-on-fault is asked.
//! - A device that answers with an error, or not at all, is closed - the kernel ends what is
//!   in flight - and its work done again in software, from then on all of it. That is logged
//!   once. Doing a piece twice is harmless: no piece that a device gets overlaps itself.
//!
//! Must never leave anything in flight behind `finish`, or hand a device an address that is
//! not from a piece of the current chunk or from its own lines and records.

#[cfg(any(test, feature = "testing"))]
pub mod model;
mod piece;
mod portal;
mod probe;
mod queue;
mod user_queue;
mod wire;

#[cfg(test)]
mod tests;

pub use portal::{Entry, Features, Operations, Portal};
pub use probe::{Candidate, Mode, QueueInfo, Unusable, candidates};
pub use queue::Patience;
pub use user_queue::{OpenError, UserQueue};
pub use wire::{HwDescriptor, Record, Report, status};

use byway_protocols::{Flags, Opcode};

use super::{Backend, Hint, IMMEDIATE_BYTES, Order, Software};
use crate::memory::HostAddr;
use piece::{Piece, Work};
use queue::{LINES, Lost, Queue};

/// Operations of which the backend hands over pieces.
pub const OFFLOADED: &[Opcode] = &[
    Opcode::Memmove,
    Opcode::Fill,
    Opcode::Compare,
    Opcode::CompareValue,
    Opcode::Dualcast,
    Opcode::CrcGen,
    Opcode::CopyCrc,
];

/// From which size on work goes to the device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// A copy or fill, its whole operation; above [`IMMEDIATE_BYTES`].
    pub total_min: u64,
    /// A piece of it. Pieces go together, so that they may be shorter than what pays alone.
    pub piece_min: usize,
    /// A comparison or checksum, piece by piece: each is waited for.
    pub answer_min: usize,
    /// How long the queue is waited for.
    pub patience: Patience,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            total_min: 8 << 10,
            piece_min: 1 << 10,
            answer_min: 8 << 10,
            patience: Patience::default(),
        }
    }
}

/// What the device was given, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DsaStats {
    /// Pieces handed over.
    pub pieces: u64,
    /// Pieces that the device did to their ends.
    pub done: u64,
    /// Pieces that it broke off at a page that was not present.
    pub faults: u64,
    /// Pieces that the queue did not take.
    pub refused: u64,
}

/// Executes pieces on a DSA queue or, where it has none any more, like [`Software`].
#[derive(Debug)]
pub struct Dsa<P: Portal> {
    software: Software,
    queue: Option<Queue<P>>,
    tuning: Tuning,
    pending: [Piece; LINES],
    count: usize,
    stats: DsaStats,
}

impl<P: Portal> Dsa<P> {
    /// With a queue for this worker alone; `None`: software only.
    #[must_use]
    pub fn new(queue: Option<(P, Features)>) -> Self {
        Self::with_tuning(queue, Tuning::default())
    }

    /// With other sizes.
    #[must_use]
    pub fn with_tuning(queue: Option<(P, Features)>, tuning: Tuning) -> Self {
        Self {
            software: Software::new(),
            queue: queue.map(|(portal, features)| Queue::new(portal, features, tuning.patience)),
            tuning: Tuning {
                total_min: tuning.total_min.max(IMMEDIATE_BYTES + 1),
                ..tuning
            },
            pending: [Piece::NONE; LINES],
            count: 0,
            stats: DsaStats::default(),
        }
    }

    /// Whether a device does its share.
    #[must_use]
    pub fn has_device(&self) -> bool {
        self.queue.is_some()
    }

    /// What came of it so far.
    #[must_use]
    pub fn stats(&self) -> DsaStats {
        self.stats
    }

    /// The portal, while it is in use.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn portal(&self) -> Option<&P> {
        self.queue.as_ref().map(Queue::portal)
    }

    /// Whether the queue takes the operation at this size.
    fn takes(&self, opcode: Opcode, len: usize) -> bool {
        self.queue.as_ref().is_some_and(|queue| {
            let features = queue.features();
            features.operations.has(opcode) && len as u64 <= features.transfer_bytes_max
        })
    }

    fn takes_piece(&self, opcode: Opcode, len: usize, hint: Hint) -> bool {
        hint.total >= self.tuning.total_min
            && len >= self.tuning.piece_min
            && hint.order == Order::Disjoint
            && self.takes(opcode, len)
    }

    /// Does what is pending if it would meet these bytes: the device keeps no order.
    #[inline(always)]
    fn make_way(&mut self, piece: &Piece) {
        if self.count != 0 && self.pending[..self.count].iter().any(|p| p.meets(piece)) {
            self.drain();
        }
    }

    /// Collects a piece that meets no other.
    fn collect(&mut self, piece: Piece) {
        if self.count == LINES {
            self.drain();
        }
        self.pending[self.count] = piece;
        self.count += 1;
    }

    /// Has everything that is pending done, by whomever.
    #[cold]
    fn drain(&mut self) {
        let count = std::mem::take(&mut self.count);
        let Some(queue) = &mut self.queue else {
            for piece in &self.pending[..count] {
                // SAFETY: pieces are collected by methods whose callers guarantee what the
                // trait asks until `finish` returns, which ends with this.
                unsafe { piece.run(&mut self.software, 0) };
            }
            return;
        };
        for (at, piece) in self.pending[..count].iter().enumerate() {
            queue.set_line(at, piece.line());
        }
        self.stats.pieces += count as u64;
        // SAFETY: as above; the lines name nothing but the pieces.
        let ran = unsafe { queue.run(count) };
        let mut broken = None;
        for (at, piece) in self.pending[..count].iter().enumerate() {
            let report = queue.report(at);
            let done = match report {
                Some(report) if report.status == status::SUCCESS => {
                    self.stats.done += 1;
                    continue;
                }
                Some(report) if report.status == status::PAGE_FAULT => {
                    self.stats.faults += 1;
                    // From its beginning where it went the other way.
                    if report.result == 0 { report.bytes } else { 0 }
                }
                Some(report) => {
                    broken = Some(report.status);
                    0
                }
                None => {
                    self.stats.refused += 1;
                    0
                }
            };
            // SAFETY: as above. The device is done with it.
            unsafe { piece.run(&mut self.software, done as usize) };
        }
        self.judge(ran, broken);
    }

    /// Runs one line that is waited for. `None`: software has to do it.
    ///
    /// # Safety
    /// See [`Queue::run`].
    #[cold]
    unsafe fn ask(&mut self, line: HwDescriptor) -> Option<Report> {
        self.drain();
        let queue = self.queue.as_mut()?;
        queue.set_line(0, line);
        self.stats.pieces += 1;
        // SAFETY: the caller's guarantee.
        let ran = unsafe { queue.run(1) };
        let report = queue.report(0);
        match report {
            Some(report) if report.status == status::SUCCESS => self.stats.done += 1,
            Some(report) if report.status == status::PAGE_FAULT => self.stats.faults += 1,
            Some(report) => {
                self.judge(ran, Some(report.status));
                return None;
            }
            None => self.stats.refused += 1,
        }
        self.judge(ran, None);
        report
    }

    /// Gives the device up if it deserves it.
    fn judge(&mut self, ran: Result<(), Lost>, broken: Option<u8>) {
        match (ran, broken) {
            (Ok(()), None) => return,
            (Err(Lost), _) => tracing::error!(
                "the DSA device does not answer; from now on this worker moves the bytes itself"
            ),
            (Ok(()), Some(status)) => tracing::error!(
                "the DSA device failed with status {status:#04x}; from now on this worker \
                 moves the bytes itself"
            ),
        }
        // Closes it.
        self.queue = None;
    }

    /// Where a comparison that the device made stands: all equal, or to be looked at from
    /// this offset on.
    fn compared(report: Option<Report>, len: usize) -> Result<(), usize> {
        match report {
            Some(report) if report.status == status::SUCCESS && report.result == 0 => Ok(()),
            Some(report) => Err((report.bytes as usize).min(len)),
            None => Err(0),
        }
    }
}

impl<P: Portal> Backend for Dsa<P> {
    const IMMEDIATE: u64 = IMMEDIATE_BYTES;

    type Prepared = (usize, Hint);

    #[inline]
    fn prepare(&self, len: usize, hint: Hint) -> (usize, Hint) {
        (len, hint)
    }

    #[inline]
    unsafe fn copy_prepared(&mut self, (len, hint): (usize, Hint), dst: HostAddr, src: HostAddr) {
        // SAFETY: the caller's guarantee, passed on.
        unsafe { self.copy(dst, src, len, hint) }
    }

    #[inline]
    unsafe fn copy(&mut self, dst: HostAddr, src: HostAddr, len: usize, hint: Hint) {
        let piece = Piece::new(Work::Copy { dst, src }, len, hint);
        self.make_way(&piece);
        if self.takes_piece(Opcode::Memmove, len, hint) && !piece.meets_itself() {
            self.collect(piece);
        } else {
            // SAFETY: the caller's guarantee, passed on.
            unsafe { self.software.copy(dst, src, len, hint) };
        }
    }

    #[inline]
    unsafe fn fill(&mut self, dst: HostAddr, len: usize, pattern: u128, hint: Hint) {
        let piece = Piece::new(Work::Fill { dst, pattern }, len, hint);
        self.make_way(&piece);
        if self.takes_piece(Opcode::Fill, len, hint) && is_eight_bytes(pattern) {
            self.collect(piece);
        } else {
            // SAFETY: the caller's guarantee, passed on.
            unsafe { self.software.fill(dst, len, pattern, hint) };
        }
    }

    unsafe fn compare(
        &mut self,
        a: HostAddr,
        b: HostAddr,
        len: usize,
        total: u64,
    ) -> Option<usize> {
        self.make_way(&Piece::reads(a, len));
        self.make_way(&Piece::reads(b, len));
        let mut from = 0;
        if len >= self.tuning.answer_min && self.takes(Opcode::Compare, len) {
            let line = HwDescriptor {
                src: a.0,
                dst: b.0,
                size: len as u32,
                ..HwDescriptor::new(Opcode::Compare, Flags::NONE)
            };
            // SAFETY: the caller's guarantee; it is over when this returns.
            match Self::compared(unsafe { self.ask(line) }, len) {
                Ok(()) => return None,
                Err(equal) => from = equal,
            }
        }
        let at = |start: HostAddr| HostAddr(start.0 + from as u64);
        // SAFETY: the caller's guarantee, for a part of it.
        let rest = unsafe { self.software.compare(at(a), at(b), len - from, total) };
        rest.map(|offset| from + offset)
    }

    unsafe fn compare_value(
        &mut self,
        a: HostAddr,
        len: usize,
        pattern: u128,
        total: u64,
    ) -> Option<usize> {
        self.make_way(&Piece::reads(a, len));
        let mut from = 0;
        if len >= self.tuning.answer_min
            && is_eight_bytes(pattern)
            && self.takes(Opcode::CompareValue, len)
        {
            let line = HwDescriptor {
                src: a.0,
                dst: pattern as u64,
                size: len as u32,
                ..HwDescriptor::new(Opcode::CompareValue, Flags::NONE)
            };
            // SAFETY: the caller's guarantee; it is over when this returns.
            match Self::compared(unsafe { self.ask(line) }, len) {
                Ok(()) => return None,
                Err(equal) => from = equal,
            }
        }
        let rotated = pattern.rotate_right(8 * (from % 16) as u32);
        let start = HostAddr(a.0 + from as u64);
        // SAFETY: the caller's guarantee, for a part of it.
        let rest = unsafe {
            self.software
                .compare_value(start, len - from, rotated, total)
        };
        rest.map(|offset| from + offset)
    }

    unsafe fn dualcast(&mut self, dst: [HostAddr; 2], src: HostAddr, len: usize, hint: Hint) {
        let piece = Piece::new(Work::Dualcast { dst, src }, len, hint);
        self.make_way(&piece);
        // The device asks it of its operands, as the operation does of its own.
        let is_congruent = (dst[0].0 ^ dst[1].0).is_multiple_of(4096);
        // The three ranges share no byte, whatever the order is.
        let unordered = Hint {
            order: Order::Disjoint,
            ..hint
        };
        if is_congruent
            && self.takes_piece(Opcode::Dualcast, len, unordered)
            && !piece.meets_itself()
        {
            self.collect(piece);
        } else {
            // SAFETY: the caller's guarantee, passed on.
            unsafe { self.software.dualcast(dst, src, len, hint) };
        }
    }

    unsafe fn crc32c(&mut self, src: HostAddr, len: usize, crc: u32) -> u32 {
        self.make_way(&Piece::reads(src, len));
        if len >= self.tuning.answer_min && self.takes(Opcode::CrcGen, len) {
            let line = HwDescriptor {
                src: src.0,
                size: len as u32,
                op: [crc.into(), 0, 0],
                ..HwDescriptor::new(Opcode::CrcGen, Flags::NONE)
            };
            // SAFETY: the caller's guarantee; it is over when this returns.
            if let Some(crc) = summed(unsafe { self.ask(line) }) {
                return crc;
            }
        }
        // SAFETY: the caller's guarantee, passed on.
        unsafe { self.software.crc32c(src, len, crc) }
    }

    unsafe fn crc64(&mut self, src: HostAddr, len: usize, crc: u64) -> u64 {
        // No device has it.
        self.make_way(&Piece::reads(src, len));
        // SAFETY: the caller's guarantee, passed on.
        unsafe { self.software.crc64(src, len, crc) }
    }

    unsafe fn copy_crc32c(
        &mut self,
        dst: HostAddr,
        src: HostAddr,
        len: usize,
        crc: u32,
        hint: Hint,
    ) -> u32 {
        let piece = Piece::new(Work::Copy { dst, src }, len, hint);
        self.make_way(&piece);
        if hint.total >= self.tuning.total_min
            && len >= self.tuning.answer_min
            && self.takes(Opcode::CopyCrc, len)
            && !piece.meets_itself()
        {
            let copy = piece.line();
            let line = HwDescriptor {
                op: [crc.into(), 0, 0],
                ..copy.with_opcode(Opcode::CopyCrc)
            };
            // SAFETY: the caller's guarantee; it is over when this returns.
            if let Some(crc) = summed(unsafe { self.ask(line) }) {
                return crc;
            }
        }
        // SAFETY: the caller's guarantee, passed on. What the device copied is copied again.
        unsafe { self.software.copy_crc32c(dst, src, len, crc, hint) }
    }

    unsafe fn flush(&mut self, at: HostAddr, len: usize, keep: bool) {
        // Behind what is still to be written there; a write of the device's may land in the
        // caches, too.
        self.drain();
        // SAFETY: the caller's guarantee, passed on.
        unsafe { self.software.flush(at, len, keep) };
    }

    #[inline]
    fn finish(&mut self) {
        if self.count != 0 {
            self.drain();
        }
        self.software.finish();
    }
}

/// The checksum of a piece that was gone through to its end. What a piece that was broken
/// off had summed up is not used: its bytes may have changed since.
fn summed(report: Option<Report>) -> Option<u32> {
    let report = report.filter(|report| report.status == status::SUCCESS)?;
    Some(report.extra[0] as u32)
}

/// Whether the pattern is 8 bytes twice, which is all that a device knows.
fn is_eight_bytes(pattern: u128) -> bool {
    pattern as u64 == (pattern >> 64) as u64
}
