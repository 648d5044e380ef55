//! What an Intel DSA device reads and writes: descriptors, completion records, operation
//! codes and statuses (Intel DSA architecture specification; names as in Linux's `idxd.h`).
//!
//! Layouts only. Nothing here touches a device.

use std::sync::atomic::{AtomicU64, Ordering};

use byway_protocols::{Flags, Opcode};

/// A descriptor, 64 bytes, little-endian as the processor is.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HwDescriptor {
    /// PASID and privilege: 0, the queue or the instruction supplies them.
    pub pasid: u32,
    /// Flags in bits 0-23, operation code in bits 24-31.
    pub flags_opcode: u32,
    /// Host virtual address of the [`Record`].
    pub record: u64,
    /// Source, pattern or descriptor list.
    pub src: u64,
    /// Destination, second source or pattern.
    pub dst: u64,
    /// Bytes, or descriptors of a list.
    pub size: u32,
    /// Interrupt handle: 0.
    pub interrupt: u16,
    /// 0.
    pub reserved: u16,
    /// By operation.
    pub op: [u64; 3],
}

const _: () = assert!(size_of::<HwDescriptor>() == 64);

/// Flags of every descriptor: its record's address is valid, and a record is wanted.
const RECORD_FLAGS: u32 = Flags::COMPLETION_VALID.0 | Flags::REQUEST_COMPLETION.0;

impl HwDescriptor {
    /// A descriptor of this operation that reports to a record.
    #[must_use]
    pub fn new(opcode: Opcode, flags: Flags) -> Self {
        Self {
            flags_opcode: flags.0 | RECORD_FLAGS | (opcode as u32) << 24,
            ..Self::default()
        }
    }

    /// The same for another operation.
    #[must_use]
    pub fn with_opcode(self, opcode: Opcode) -> Self {
        Self {
            flags_opcode: self.flags_opcode & 0x00ff_ffff | (opcode as u32) << 24,
            ..self
        }
    }

    /// Its operation code.
    #[must_use]
    pub fn code(&self) -> u8 {
        (self.flags_opcode >> 24) as u8
    }
}

/// Statuses that the backend tells apart.
pub mod status {
    /// Done.
    pub const SUCCESS: u8 = 0x01;
    /// Stopped at a page that was not present; the rest can be done later.
    pub const PAGE_FAULT: u8 = 0x03;
    /// A descriptor of the batch did not succeed: see their records.
    pub const BATCH_FAIL: u8 = 0x05;
    /// The code itself: bit 7 says that the faulting access was a write.
    pub const MASK: u8 = 0x7f;
}

/// A completion record, 32 bytes: the device writes it, the worker polls it.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct Record([AtomicU64; 4]);

const _: () = assert!(size_of::<Record>() == 32);

/// What a record said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Status, without the write bit.
    pub status: u8,
    /// Result of a comparison; 1 for a copy that ran backwards.
    pub result: u8,
    /// Bytes completed, or descriptors of a batch.
    pub bytes: u32,
    /// Bytes 16-31, by operation.
    pub extra: [u64; 2],
}

impl Record {
    /// Makes it say that nothing has been written, before its descriptor is submitted.
    pub fn clear(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the device has written it.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.0[0].load(Ordering::Acquire) & 0xff != 0
    }

    /// What it says, once it has been written.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        // The device writes the status last: what goes with it is there by then.
        if !self.is_written() {
            return None;
        }
        let [first, .., low, high] = [0, 1, 2, 3].map(|i: usize| self.0[i].load(Ordering::Relaxed));
        Some(Report {
            status: first as u8 & status::MASK,
            result: (first >> 8) as u8,
            bytes: (first >> 32) as u32,
            extra: [low, high],
        })
    }

    /// Writes it as a device does, status last.
    #[cfg(any(test, feature = "testing"))]
    pub fn write(&self, report: &Report, fault_addr: u64, is_write: bool) {
        let status = report.status | if is_write { 0x80 } else { 0 };
        self.0[1].store(fault_addr, Ordering::Relaxed);
        self.0[2].store(report.extra[0], Ordering::Relaxed);
        self.0[3].store(report.extra[1], Ordering::Relaxed);
        let first =
            u64::from(status) | u64::from(report.result) << 8 | u64::from(report.bytes) << 32;
        self.0[0].store(first, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_carry_code_and_record_flags() {
        let d = HwDescriptor::new(Opcode::Fill, Flags::CACHE_CONTROL);
        assert_eq!(d.code(), 4);
        assert_eq!(d.flags_opcode & 0x00ff_ffff, 0x10c);
    }

    #[test]
    fn a_record_says_what_was_written_to_it() {
        let record = Record::default();
        assert_eq!(record.report(), None);
        let report = Report {
            status: status::PAGE_FAULT,
            result: 1,
            bytes: 0xdead_beef,
            extra: [5, 6],
        };
        record.write(&report, 0x1000, true);
        assert_eq!(record.report(), Some(report));
        record.clear();
        assert!(!record.is_written());
    }
}
