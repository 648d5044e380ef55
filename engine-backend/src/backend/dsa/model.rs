//! A DSA device in software, behind the [`Portal`] trait: for hosts that have none.
//!
//! It keeps the device's promises and no others: descriptors run in any order, a page fault
//! breaks a piece off anywhere, a shared queue is full whenever it likes, batches run their
//! descriptors in any order. On request it misbehaves: it fails, it stops answering, it
//! writes half of a piece before its kernel closes it. All of it is drawn from a seed, so
//! that a failure can be repeated; no thread is involved: it works when it is waited for.
//!
//! What a descriptor does is written anew here, byte by byte, and shares nothing with the
//! kernels that it is compared with. For tests and figures of the engine around a device,
//! never for a device's speed.

use std::io;

use byway_protocols::{Flags, Opcode};

use super::portal::{Entry, Features, Operations, Portal};
use super::wire::{HwDescriptor, Record, Report, status};

/// Status of a device that failed.
const HARDWARE_ERROR: u8 = 0x20;
/// Page fault on a batch's list.
const LIST_FAULT: u8 = 0x06;

/// How often something happens, of 256 times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What everything is drawn from.
    pub seed: u64,
    /// ENQCMD finds the queue full, or `write` takes less than it is given.
    pub full: u8,
    /// A page is not present.
    pub faults: u8,
    /// The device has nothing to show when it is looked at.
    pub slow: u8,
    /// A piece ends in a hardware error.
    pub errors: u8,
    /// The device stops answering.
    pub deaths: u8,
}

impl Plan {
    /// A device that does everything at once and well.
    pub const CALM: Self = Self {
        seed: 1,
        full: 0,
        faults: 0,
        slow: 0,
        errors: 0,
        deaths: 0,
    };

    /// A device at work among others: full, faulting, slow, but sound.
    #[must_use]
    pub const fn busy(seed: u64) -> Self {
        Self {
            seed,
            full: 60,
            faults: 60,
            slow: 100,
            errors: 0,
            deaths: 0,
        }
    }

    /// The same, and it breaks now and then.
    #[must_use]
    pub const fn breaking(seed: u64) -> Self {
        Self {
            errors: 3,
            deaths: 3,
            ..Self::busy(seed)
        }
    }
}

/// What DSA 1 can do, by the given way in.
#[must_use]
pub fn features(entry: Entry) -> Features {
    Features {
        entry,
        operations: Operations([0x0001_003f_03ff, 0, 0, 0]),
        transfer_bytes_max: 2 << 20,
        batch_max: if entry == Entry::Write { 0 } else { 32 },
    }
}

/// What happened to the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Descriptors taken, those in batches not counted.
    pub taken: u64,
    /// Batches among them.
    pub batches: u64,
    /// Descriptors carried out, in batches or not.
    pub executed: u64,
    /// Descriptors that came when a dedicated queue was full: lost on real hardware.
    pub overruns: u64,
    /// Descriptors that a device would refuse as malformed.
    pub malformed: u64,
}

/// The device.
#[derive(Debug)]
pub struct Model {
    features: Features,
    plan: Plan,
    state: u64,
    queue: Vec<HwDescriptor>,
    seen: Seen,
    dead: bool,
    closed: bool,
}

impl Model {
    /// A device with these features; its queue holds 16 descriptors, or the credits.
    #[must_use]
    pub fn new(features: Features, plan: Plan) -> Self {
        Self {
            features,
            plan,
            state: plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            queue: Vec::new(),
            seen: Seen::default(),
            dead: false,
            closed: false,
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// A number below `end`.
    fn draw(&mut self, end: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 16) % end.max(1)
    }

    fn happens(&mut self, of_256: u8) -> bool {
        self.draw(256) < u64::from(of_256)
    }

    fn room(&self) -> usize {
        match self.features.entry {
            Entry::Movdir64b { credits } => credits as usize,
            Entry::Enqcmd | Entry::Write => 16,
        }
    }

    fn take(&mut self, descriptor: &HwDescriptor) {
        assert!(!self.closed, "a descriptor behind the last");
        self.seen.taken += 1;
        self.seen.batches += u64::from(descriptor.code() == Opcode::Batch as u8);
        self.queue.push(*descriptor);
    }

    /// Carries out one descriptor of the queue, whichever.
    fn work(&mut self) {
        if self.queue.is_empty() || self.dead || self.happens(self.plan.slow) {
            return;
        }
        if self.happens(self.plan.deaths) {
            self.dead = true;
            return;
        }
        let at = self.draw(self.queue.len() as u64) as usize;
        let descriptor = self.queue.swap_remove(at);
        if descriptor.code() == Opcode::Batch as u8 {
            self.batch(&descriptor);
        } else {
            self.single(&descriptor);
        }
    }

    fn batch(&mut self, batch: &HwDescriptor) {
        let count = u64::from(batch.size);
        if count < 2
            || count > u64::from(self.features.batch_max)
            || !batch.src.is_multiple_of(64)
            || !self.is_well_formed(batch)
        {
            self.seen.malformed += 1;
            report(batch, 0x14, 0, 0, [0; 2]);
            return;
        }
        let mut left: Vec<u64> = (0..count).collect();
        // A list that cannot be read to its end: what was read is carried out.
        let is_cut = self.happens(self.plan.faults / 4);
        if is_cut {
            left.truncate(self.draw(count) as usize);
        }
        let started = left.len() as u32;
        let mut failed = false;
        while !left.is_empty() {
            let next = self.draw(left.len() as u64) as usize;
            let at = batch.src + 64 * left.swap_remove(next);
            let list: *const HwDescriptor = std::ptr::with_exposed_provenance(at as usize);
            // SAFETY: the submitter guarantees that the list may be read until the batch's
            // record is written.
            let descriptor = unsafe { list.read() };
            failed |= !self.single(&descriptor);
        }
        let code = match (is_cut, failed) {
            (true, _) => LIST_FAULT,
            (false, true) => status::BATCH_FAIL,
            (false, false) => status::SUCCESS,
        };
        report(batch, code, 0, started, [0; 2]);
    }

    fn is_well_formed(&self, d: &HwDescriptor) -> bool {
        let asks = Flags::COMPLETION_VALID.0 | Flags::REQUEST_COMPLETION.0;
        let known = asks | Flags::CACHE_CONTROL.0;
        let flags = d.flags_opcode & 0x00ff_ffff;
        d.pasid == 0
            && d.interrupt == 0
            && d.reserved == 0
            && flags & asks == asks
            && flags & !known == 0
            && d.record.is_multiple_of(32)
            && Opcode::from_code(d.code()).is_some_and(|o| self.features.operations.has(o))
    }

    /// Carries one out; tells whether it was done to its end.
    fn single(&mut self, d: &HwDescriptor) -> bool {
        let bytes = u64::from(d.size);
        if !self.is_well_formed(d) || bytes == 0 || bytes > self.features.transfer_bytes_max {
            self.seen.malformed += 1;
            report(d, 0x12, 0, 0, [0; 2]);
            return false;
        }
        self.seen.executed += 1;
        if self.happens(self.plan.errors) {
            report(d, HARDWARE_ERROR, 0, 0, [0; 2]);
            return false;
        }
        // SAFETY: the submitter guarantees the memory named until the record is written.
        unsafe { self.carry_out(d) }
    }

    /// At which byte a page turns out not to be present, if one does.
    fn fault(&mut self, d: &HwDescriptor) -> Option<u32> {
        if !self.happens(self.plan.faults) {
            return None;
        }
        let start = if self.draw(2) == 0 { d.src } else { d.dst };
        // The first byte of a page of an operand, or the very first.
        let into = start.wrapping_neg() % 4096;
        let pages = (u64::from(d.size).saturating_sub(into)).div_ceil(4096);
        match self.draw(pages + 1) {
            0 => Some(0),
            page => Some((into + (page - 1) * 4096).min(u64::from(d.size)) as u32),
        }
    }

    /// # Safety
    /// The memory that the descriptor names may be accessed.
    unsafe fn carry_out(&mut self, d: &HwDescriptor) -> bool {
        let fault = self.fault(d);
        // SAFETY: the caller's guarantee.
        let (result, bytes, extra) = unsafe { perform(d, fault.unwrap_or(d.size)) };
        let code = match fault {
            // A difference that was found is an answer, whatever comes behind it.
            Some(_) if result == 0 => status::PAGE_FAULT,
            _ => status::SUCCESS,
        };
        report(d, code, result, bytes, [extra, 0]);
        code == status::SUCCESS
    }
}

/// Does the first `end` bytes of an operation: result, bytes done and what else it answers.
///
/// # Safety
/// The memory that the descriptor names may be accessed.
unsafe fn perform(d: &HwDescriptor, end: u32) -> (u8, u32, u64) {
    let pattern = |value: u64, i: u32| value.to_le_bytes()[i as usize % 8];
    let answer =
        |difference: Option<u32>| (u8::from(difference.is_some()), difference.unwrap_or(end), 0);
    match Opcode::from_code(d.code()) {
        Some(Opcode::Memmove) => {
            let words = end / 8;
            for i in 0..words {
                // SAFETY: the caller's guarantee.
                unsafe { set(d.dst, 8 * i, get::<u64>(d.src, 8 * i)) };
            }
            for i in 8 * words..end {
                // SAFETY: as above.
                unsafe { set(d.dst, i, get::<u8>(d.src, i)) };
            }
            (0, end, 0)
        }
        Some(Opcode::Fill) => {
            for i in 0..end {
                // SAFETY: as above.
                unsafe { set(d.dst, i, pattern(d.src, i)) };
            }
            (0, end, 0)
        }
        Some(Opcode::Compare) => {
            let differs = |&i: &u32| {
                // SAFETY: as above.
                unsafe { get::<u8>(d.src, i) != get::<u8>(d.dst, i) }
            };
            answer((0..end).find(differs))
        }
        Some(Opcode::CompareValue) => {
            // SAFETY: as above.
            answer((0..end).find(|&i| unsafe { get::<u8>(d.src, i) } != pattern(d.dst, i)))
        }
        Some(Opcode::Dualcast) => {
            for i in 0..end {
                // SAFETY: as above.
                unsafe {
                    let byte: u8 = get(d.src, i);
                    set(d.dst, i, byte);
                    set(d.op[0], i, byte);
                }
            }
            (0, end, 0)
        }
        Some(opcode @ (Opcode::CrcGen | Opcode::CopyCrc)) => {
            // The seed is inverted, and so is the result.
            let mut register = !(d.op[0] as u32);
            for i in 0..end {
                // SAFETY: as above.
                let byte: u8 = unsafe { get(d.src, i) };
                register ^= u32::from(byte);
                for _ in 0..8 {
                    register = register >> 1 ^ 0x82f6_3b78 & (register & 1).wrapping_neg();
                }
                if opcode == Opcode::CopyCrc {
                    // SAFETY: as above.
                    unsafe { set(d.dst, i, byte) };
                }
            }
            (0, end, (!register).into())
        }
        _ => (0, 0, 0),
    }
}

/// # Safety
/// The value's bytes may be read.
unsafe fn get<T: Copy>(start: u64, at: u32) -> T {
    let from: *const T = std::ptr::with_exposed_provenance((start + u64::from(at)) as usize);
    // SAFETY: the caller's guarantee; any bytes are a value of the integers used here.
    unsafe { from.read_unaligned() }
}

/// # Safety
/// The value's bytes may be written.
unsafe fn set<T: Copy>(start: u64, at: u32, value: T) {
    let to: *mut T = std::ptr::with_exposed_provenance_mut((start + u64::from(at)) as usize);
    // SAFETY: the caller's guarantee.
    unsafe { to.write_unaligned(value) };
}

fn report(d: &HwDescriptor, status: u8, result: u8, bytes: u32, extra: [u64; 2]) {
    let record: *const Record = std::ptr::with_exposed_provenance(d.record as usize);
    let report = Report {
        status,
        result,
        bytes,
        extra,
    };
    // SAFETY: the submitter guarantees the record until it is written; it is atomics.
    unsafe { &*record }.write(&report, d.src, false);
}

impl Portal for Model {
    unsafe fn enqcmd(&mut self, descriptor: &HwDescriptor) -> bool {
        assert_eq!(self.features.entry, Entry::Enqcmd, "the wrong way in");
        if self.queue.len() >= self.room() || self.happens(self.plan.full) {
            return false;
        }
        self.take(descriptor);
        true
    }

    unsafe fn movdir64b(&mut self, descriptor: &HwDescriptor) {
        let is_dedicated = matches!(self.features.entry, Entry::Movdir64b { .. });
        assert!(is_dedicated, "the wrong way in");
        if self.queue.len() >= self.room() {
            self.seen.overruns += 1;
            return;
        }
        self.take(descriptor);
    }

    unsafe fn write(&mut self, descriptors: &[HwDescriptor]) -> io::Result<usize> {
        assert_eq!(self.features.entry, Entry::Write, "the wrong way in");
        let mut room = self.room() - self.queue.len();
        if self.happens(self.plan.full) {
            room = room.min(self.draw(3) as usize);
        }
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = room.min(descriptors.len());
        for descriptor in &descriptors[..taken] {
            if descriptor.code() == Opcode::Batch as u8 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            self.take(descriptor);
        }
        Ok(taken)
    }

    fn relax(&mut self) {
        self.work();
    }

    fn close(&mut self) {
        // A dead device may have been in the middle of anything that it was given.
        while let Some(d) = self.queue.pop() {
            let opcode = Opcode::from_code(d.code());
            if self.dead && matches!(opcode, Some(Opcode::Memmove | Opcode::Fill)) {
                let end = self.draw(u64::from(d.size)) as u32;
                // SAFETY: `close` has not returned, so the submitter's guarantee stands.
                unsafe { perform(&d, end) };
            }
        }
        self.closed = true;
    }
}
