//! The completion: 32 bytes, written by the engine into an array beside the ring,
//! index = submission slot (SPEC section 5).

use crate::status::Status;
use crate::wire::wire_struct;

wire_struct! {
    /// How one descriptor ended. Bytes 8-31 are written first, then bytes 0-7 with one
    /// release store.
    pub struct Completion: 32 align 32 {
        /// [`Status`] code; bit 7: the faulting access was a write.
        status: u8 = 0,
        /// By operation: COMPARE 1 = differs; MEMMOVE 1 = ran backwards.
        result: u8 = 1,
        /// 0.
        reserved2: u8 = 2,
        /// Bit 7 is the phase, bits 0-6 are 0.
        phase: u8 = 3,
        /// Bytes done, or descriptors completed (BATCH).
        bytes_completed: u32 = 4,
        /// Faulting address in one's own address space, or offset into the capability.
        fault_addr: u64 = 8,
        /// By operation.
        op0: u64 = 16,
        /// By operation.
        op1: u64 = 24,
    }
}

impl Completion {
    /// The phase bit in the byte `phase`.
    pub const PHASE: u8 = 0x80;
    /// The phase bit in the first 8 bytes.
    pub const PUBLISH_PHASE: u64 = 1 << 31;

    /// The status, or `None` when the code is not of this ABI.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        Status::from_code(self.status & !Status::WRITE_FAULT)
    }
    /// Whether the status is that of an operation that was carried out to its end: [`Status::is_success`], without
    /// looking the code up.
    #[inline]
    #[must_use]
    pub const fn is_success(&self) -> bool {
        const SUCCESS: u8 = Status::Success as u8;
        const SUCCESS_PREDICATE: u8 = Status::SuccessPredicate as u8;
        matches!(
            self.status & !Status::WRITE_FAULT,
            SUCCESS | SUCCESS_PREDICATE
        )
    }
    /// Whether the faulting access was a write.
    #[must_use]
    pub const fn is_write_fault(&self) -> bool {
        self.status & Status::WRITE_FAULT != 0
    }
    /// Bytes 0-7 as the one word that publishes the completion.
    #[must_use]
    pub const fn publish_word(&self) -> u64 {
        self.status as u64
            | (self.result as u64) << 8
            | (self.reserved2 as u64) << 16
            | (self.phase as u64) << 24
            | (self.bytes_completed as u64) << 32
    }
    /// The one of which this is the word that publishes it, and these are the three behind.
    #[inline]
    #[must_use]
    pub const fn from_words(publish: u64, [fault_addr, op0, op1]: [u64; 3]) -> Self {
        Self {
            status: publish as u8,
            result: (publish >> 8) as u8,
            reserved2: (publish >> 16) as u8,
            phase: (publish >> 24) as u8,
            bytes_completed: (publish >> 32) as u32,
            fault_addr,
            op0,
            op1,
        }
    }
    /// The same completion with this phase.
    #[must_use]
    pub const fn with_phase(mut self, phase: bool) -> Self {
        self.phase = if phase { Self::PHASE } else { 0 };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_word_is_the_first_eight_bytes() {
        let c = Completion {
            status: Status::Stage1NotPresent as u8 | Status::WRITE_FAULT,
            result: 1,
            bytes_completed: 0x1234_5678,
            ..Completion::default()
        }
        .with_phase(true);
        let bytes = c.to_bytes();
        assert_eq!(c.publish_word().to_le_bytes(), bytes[..8]);
        assert_ne!(c.publish_word() & Completion::PUBLISH_PHASE, 0);
        assert_eq!(c.status(), Some(Status::Stage1NotPresent));
        assert!(c.is_write_fault());
        let rest = [!0, 1 << 63, 7];
        let [fault_addr, op0, op1] = rest;
        let whole = Completion {
            fault_addr,
            op0,
            op1,
            ..c
        };
        assert_eq!(Completion::from_words(whole.publish_word(), rest), whole);
    }

    #[test]
    fn success_is_what_the_status_says() {
        for status in 0..=u8::MAX {
            let c = Completion {
                status,
                ..Completion::default()
            };
            assert_eq!(
                c.is_success(),
                c.status().is_some_and(Status::is_success),
                "{status:#x}"
            );
        }
    }
}
