//! [`Queue`]: gets lines into a device through its [`Portal`] and waits for their records.
//!
//! Owns the lines and records, which the device reads and writes while the worker looks on.
//! Whatever happens - a full queue, a refusal, a device that stops answering - [`Queue::run`]
//! returns with nothing in flight; what has no record then was not done for certain, and
//! may have been done in part.

use byway_protocols::{Flags, Opcode};

use super::portal::{Entry, Features, Portal};
use super::wire::{HwDescriptor, Record, Report, status};

/// Lines that a queue holds: a chunk of scattered 4 KiB pages, both ends misaligned.
pub(super) const LINES: usize = 34;

/// Bytes of a completion record's alignment.
const _: () = assert!(align_of::<Record>() == 32 && LINES < u64::BITS as usize);

/// How long a queue is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries to get one descriptor into a full queue; then software does the piece.
    pub tries_max: u32,
    /// Looks at a record until the device counts as dead.
    pub looks_max: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // A full shared queue is somebody else's work: doing this piece is quicker.
            tries_max: 32,
            // About a second of PAUSE: a page fault in the device takes 85 us at worst.
            looks_max: 1 << 24,
        }
    }
}

/// The device stopped answering and was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// A portal with lines and records.
#[derive(Debug)]
pub(super) struct Queue<P: Portal> {
    portal: P,
    features: Features,
    patience: Patience,
    lines: Box<[HwDescriptor; LINES]>,
    records: Box<[Record; LINES]>,
    batch: Box<(HwDescriptor, Record)>,
}

impl<P: Portal> Queue<P> {
    pub(super) fn new(portal: P, features: Features, patience: Patience) -> Self {
        Self {
            portal,
            features,
            patience,
            lines: Box::new([HwDescriptor::default(); LINES]),
            records: Box::new(std::array::from_fn(|_| Record::default())),
            batch: Box::default(),
        }
    }

    pub(super) fn features(&self) -> &Features {
        &self.features
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn portal(&self) -> &P {
        &self.portal
    }

    /// Fills a line in; its record's address is set here.
    pub(super) fn set_line(&mut self, at: usize, line: HwDescriptor) {
        self.lines[at] = HwDescriptor {
            record: (&raw const self.records[at]).expose_provenance() as u64,
            ..line
        };
    }

    /// What the record of a line said after [`Self::run`]; `None`: it was not written.
    pub(super) fn report(&self, at: usize) -> Option<Report> {
        self.records[at].report()
    }

    /// Has the first `count` lines carried out, in any order, and waits for them.
    ///
    /// # Errors
    /// [`Lost`]: the device was given up, and the queue must not be used again.
    ///
    /// # Safety
    /// The memory that the lines name may be read, and written where they write, until
    /// this returns.
    pub(super) unsafe fn run(&mut self, count: usize) -> Result<(), Lost> {
        for record in &self.records[..count] {
            record.clear();
        }
        if count >= 2 && count <= self.features.batch_max as usize {
            // SAFETY: the caller's guarantee; the lists are the queue's own.
            return unsafe { self.run_batch(count) };
        }
        if self.features.entry == Entry::Write {
            // SAFETY: as above.
            return unsafe { self.run_written(count) };
        }
        let mut submitted = 0;
        while submitted < count {
            if let Entry::Movdir64b { credits } = self.features.entry {
                // Those before have left the queue when their records are there.
                let oldest = submitted.saturating_sub(credits.saturating_sub(1) as usize);
                self.wait(oldest)?;
            }
            let line = &self.lines[submitted];
            // SAFETY: the caller's guarantee; there is a credit.
            if !unsafe { enter(&mut self.portal, self.features.entry, self.patience, line) } {
                break;
            }
            submitted += 1;
        }
        self.wait(submitted)
    }

    /// One BATCH of the first `count` lines.
    unsafe fn run_batch(&mut self, count: usize) -> Result<(), Lost> {
        let (line, record) = &mut *self.batch;
        record.clear();
        *line = HwDescriptor {
            record: (&raw const *record).expose_provenance() as u64,
            src: self.lines.as_ptr().expose_provenance() as u64,
            size: count as u32,
            ..HwDescriptor::new(Opcode::Batch, Flags::NONE)
        };
        // SAFETY: the caller's guarantee; one descriptor is in flight, and a queue has room
        // for one.
        if !unsafe { enter(&mut self.portal, self.features.entry, self.patience, line) } {
            return Ok(());
        }
        let mut looks = 0;
        while !self.batch.1.is_written() {
            look_again(&mut self.portal, self.patience, &mut looks)?;
        }
        // A list that could not be read to its end leaves records unwritten; with these two
        // there is one for each.
        match self.batch.1.report().map(|report| report.status) {
            Some(status::SUCCESS | status::BATCH_FAIL) => self.wait(count),
            _ => Ok(()),
        }
    }

    /// The first `count` lines by `write`.
    unsafe fn run_written(&mut self, count: usize) -> Result<(), Lost> {
        let mut submitted = 0;
        let mut tries = 0;
        while submitted < count && tries < self.patience.tries_max {
            // SAFETY: the caller's guarantee; no line is a BATCH.
            match unsafe { self.portal.write(&self.lines[submitted..count]) } {
                Ok(taken) if taken > 0 => submitted += taken.min(count - submitted),
                // A full queue looks like this, and passes; what does not pass runs out
                // of tries.
                Ok(_) | Err(_) => {
                    tries += 1;
                    self.portal.relax();
                }
            }
        }
        self.wait(submitted)
    }

    /// Waits for the records of the first `count` lines.
    fn wait(&mut self, count: usize) -> Result<(), Lost> {
        let mut looks = 0;
        for record in &self.records[..count] {
            while !record.is_written() {
                look_again(&mut self.portal, self.patience, &mut looks)?;
            }
        }
        Ok(())
    }
}

impl<P: Portal> Drop for Queue<P> {
    fn drop(&mut self) {
        // Before the lines and records go: a panic may have come between.
        self.portal.close();
    }
}

/// Submits one descriptor. False: the queue did not take it.
///
/// # Safety
/// See [`Portal`]; a dedicated queue has room.
unsafe fn enter<P: Portal>(
    portal: &mut P,
    entry: Entry,
    patience: Patience,
    line: &HwDescriptor,
) -> bool {
    for _ in 0..patience.tries_max {
        // SAFETY: the caller's guarantee.
        let taken = unsafe {
            match entry {
                Entry::Movdir64b { .. } => {
                    portal.movdir64b(line);
                    true
                }
                Entry::Enqcmd => portal.enqcmd(line),
                Entry::Write => matches!(portal.write(std::slice::from_ref(line)), Ok(1)),
            }
        };
        if taken {
            return true;
        }
        portal.relax();
    }
    false
}

/// Between two looks at a record; gives the device up when it was looked at too often.
fn look_again<P: Portal>(portal: &mut P, patience: Patience, looks: &mut u32) -> Result<(), Lost> {
    *looks += 1;
    if *looks > patience.looks_max {
        portal.close();
        return Err(Lost);
    }
    portal.relax();
    Ok(())
}
