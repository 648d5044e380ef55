//! [`Portal`]: the door of a user work queue, and what a queue can take ([`Features`]).

use std::io;

use byway_protocols::Opcode;

use super::wire::HwDescriptor;

/// How descriptors get into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// ENQCMD: a shared queue, which says whether it took the descriptor.
    Enqcmd,
    /// MOVDIR64B: a dedicated queue, which takes whatever comes and loses what does not
    /// fit. Who submits counts `credits`: descriptors that it may have in flight.
    Movdir64b {
        /// Size of the queue.
        credits: u32,
    },
    /// `write` to the queue's device file: the kernel submits.
    Write,
}

/// Operations as a set: bit n of word n / 64 is operation code n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operations(pub [u64; 4]);

impl Operations {
    /// A set of these.
    #[must_use]
    pub fn of(opcodes: &[Opcode]) -> Self {
        let mut words = [0; 4];
        for &opcode in opcodes {
            words[opcode as usize / 64] |= 1 << (opcode as usize % 64);
        }
        Self(words)
    }

    /// Whether the operation is in it.
    #[must_use]
    pub fn has(&self, opcode: Opcode) -> bool {
        self.0[opcode as usize / 64] >> (opcode as usize % 64) & 1 != 0
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }
}

/// What a queue and its device take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// The way in.
    pub entry: Entry,
    /// Operations.
    pub operations: Operations,
    /// Largest transfer of one descriptor, in bytes.
    pub transfer_bytes_max: u64,
    /// Most descriptors of one batch; below 2: no batches.
    pub batch_max: u32,
}

/// The door of one user work queue, in one worker's hands.
///
/// # Safety of the methods that submit
/// The caller guarantees for every descriptor, for those in a batch's list and for the
/// records of them all: the memory that they name may be read, and written where the
/// operation writes, from the call until the record has been written or
/// [`Portal::close`] has returned; and no Rust reference to it but to atomics exists.
pub trait Portal {
    /// ENQCMD. False: the queue is full, nothing was taken.
    ///
    /// # Safety
    /// See the trait. The queue is shared.
    unsafe fn enqcmd(&mut self, descriptor: &HwDescriptor) -> bool;

    /// MOVDIR64B.
    ///
    /// # Safety
    /// See the trait. The queue is dedicated and has room.
    unsafe fn movdir64b(&mut self, descriptor: &HwDescriptor);

    /// `write`: tells how many were taken, from the front.
    ///
    /// # Errors
    /// What the kernel said; none was taken then.
    ///
    /// # Safety
    /// See the trait. None is a BATCH where the kernel refuses them.
    unsafe fn write(&mut self, descriptors: &[HwDescriptor]) -> io::Result<usize>;

    /// Called between two looks at a record that is not there yet, or two tries.
    fn relax(&mut self);

    /// Gives the queue up: when this returns, the device accesses nothing any more of what
    /// was submitted. Nothing is submitted afterwards.
    fn close(&mut self);
}
