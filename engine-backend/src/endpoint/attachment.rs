//! [`Attachment`]: a device while it is there, with its staging, shared by all workers.
//!
//! Whoever has something for the device, or waits for it, drives it: the device is behind a
//! lock that workers try and never wait for, and how each request ended is in its slot, for
//! whoever owns that. So it does not matter which worker polls, and a queue that moves to
//! another worker takes nothing along.
//!
//! When a device goes, its attachment goes with it, staging and all; one that comes back gets a
//! new one.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use super::device::{BlockDevice, Geometry, Outcome, Refused, Request, StagingRange, Token};
use super::reach::{Reach, Reaching};
use super::registry::News;
use super::slot::{Parting, SLOT_BYTES, SLOTS_MAX, Slot};
use super::staging::StagingMemory;
use crate::memory::{HostAddr, Lent};
use crate::ops::budget::ticks;

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Again when something has changed.
    Later,
    /// Again soon: another worker is at the device.
    Contended,
    /// The device is gone.
    Gone,
    /// The device does not do this.
    NotSupported,
}

/// What the operator is told of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Requests that ended.
    pub requests: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Bytes that the device read for the engine.
    pub bytes_read: u64,
    /// Bytes that it wrote.
    pub bytes_written: u64,
    /// System calls that its driver made.
    pub system_calls: u64,
    /// Requests under way now.
    pub under_way: u32,
    /// Requests by which it was given memory of guests.
    pub direct: u64,
    /// Those of them that it has not answered.
    pub holds: u32,
}

/// Longest time that a device is waited for of which leave is taken.
pub(crate) const CLOSE: Duration = Duration::from_secs(2);

struct Driver {
    device: Box<dyn BlockDevice>,
    /// Something was submitted that the device was not told of.
    untold: bool,
    /// What the device was lent, by slot: all that its requests may reach. Each is here until the device has answered.
    lent: Box<[Option<Loan>]>,
    /// Number of the next loan.
    next: u64,
    /// The device was asked to give everything back.
    recalled: Option<Instant>,
}

/// Memory of a guest that a device has.
struct Loan {
    number: u64,
    reach: Reach,
    memory: Lent,
}

/// A device, as long as it is there.
pub struct Attachment {
    geometry: Geometry,
    staging: Arc<StagingMemory>,
    piece_bytes: u32,
    reaches_memory: bool,
    driver: Mutex<Driver>,
    slots: Box<[Slot]>,
    free: ArrayQueue<u8>,
    /// Device is gone; nothing is submitted any more.
    gone: AtomicBool,
    /// Nothing more is to be done about that.
    closed: AtomicBool,
    /// Loans that were not given back.
    lent: AtomicU32,
    /// Those of all devices.
    all_lent: Arc<AtomicU32>,
    /// What is lent yet will not be waited for.
    given_up: AtomicBool,
    direct: AtomicU64,
    reason: Mutex<Option<String>>,
    under_way: AtomicU32,
    /// Some slot may be fenced.
    fences: AtomicBool,
    news: Arc<News>,
    /// Its endpoint's place, as a bit.
    place: u32,
    requests: AtomicU64,
    failures: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment")
            .field("geometry", &self.geometry)
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

/// Staging that a device with these numbers needs at most.
#[must_use]
pub const fn staging_bytes() -> u32 {
    SLOT_BYTES * SLOTS_MAX as u32
}

impl Attachment {
    /// Takes a device over that was opened with this staging, of [`staging_bytes`].
    pub(super) fn new(
        device: Box<dyn BlockDevice>,
        staging: Arc<StagingMemory>,
        news: Arc<News>,
        all_lent: Arc<AtomicU32>,
        place: u32,
    ) -> Self {
        let geometry = *device.geometry();
        let count = usize::from(geometry.depth).min(SLOTS_MAX);
        let free = ArrayQueue::new(count);
        for index in 0..count {
            // There is room for every slot.
            let _ = free.push(index as u8);
        }
        let block = geometry.block_bytes;
        Self {
            geometry,
            staging,
            // Not 0: a block is smaller than a slot, and no request is below a block.
            piece_bytes: geometry.transfer_bytes_max.min(SLOT_BYTES) / block * block,
            reaches_memory: device.reaches_memory(),
            driver: Mutex::new(Driver {
                device,
                untold: false,
                lent: (0..count).map(|_| None).collect(),
                next: 0,
                recalled: None,
            }),
            slots: (0..count).map(|_| Slot::default()).collect(),
            free,
            gone: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            lent: AtomicU32::new(0),
            all_lent,
            given_up: AtomicBool::new(false),
            direct: AtomicU64::new(0),
            reason: Mutex::new(None),
            under_way: AtomicU32::new(0),
            fences: AtomicBool::new(false),
            news,
            place,
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        }
    }

    /// Its endpoint's place.
    #[must_use]
    pub fn place(&self) -> u32 {
        self.place
    }
    /// How many requests it can have at a time.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }
    /// What the device is.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    /// Most bytes of a request, a multiple of the device's blocks.
    #[must_use]
    pub fn piece_bytes(&self) -> u32 {
        self.piece_bytes
    }
    /// Whether the device is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
    /// Why it is gone.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let reason = self.reason.lock();
        // Replaced whole.
        reason.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A slot for this domain, if there is one and the domain has not too many: half of them
    /// are for others.
    #[must_use]
    pub fn take(&self, domain: u32) -> Option<u8> {
        let half = self.slots.len() / 2;
        if self.free.len() <= half && self.slots.len() > 1 {
            let mine = self.slots.iter().filter(|s| s.holder() == domain);
            if mine.count() >= half {
                return None;
            }
        }
        let slot = self.free.pop()?;
        self.slots[usize::from(slot)].set_holder(domain);
        Some(slot)
    }

    /// Where a slot's bytes are.
    #[must_use]
    pub fn host(&self, slot: u8) -> HostAddr {
        let base = self.staging.address().expose_provenance() as u64;
        HostAddr(base + u64::from(slot) * u64::from(SLOT_BYTES))
    }
    /// The first bytes of a slot, as the device knows them.
    #[must_use]
    pub fn range(&self, slot: u8, length: u32) -> StagingRange {
        StagingRange {
            offset: u32::from(slot) * SLOT_BYTES,
            length,
        }
    }

    /// Prepares a slot for bytes of this domain: those of another one that were there before
    /// are overwritten with zeros, so that a device that reads nothing shows nobody's.
    pub fn prepare(&self, slot: u8, domain: u32) {
        let before = self.slots[usize::from(slot)].change_domain(domain);
        if before != domain && before != 0 {
            self.clear(slot, 0..SLOT_BYTES);
        }
    }

    /// Overwrites a part of a slot with zeros: what is behind the last byte that is to be
    /// written.
    pub fn clear(&self, slot: u8, part: std::ops::Range<u32>) {
        let end = part.end.min(SLOT_BYTES);
        let first = usize::from(slot) * SLOT_BYTES as usize + part.start as usize;
        let bytes = end.saturating_sub(part.start) as usize;
        let at = self.staging.address();
        // SAFETY: within the slot, and so within the mapping; it is in its owner's hand alone, and a
        // device that writes to it nevertheless races with volatile-like stores of a libc
        // call on raw memory to which there is no reference.
        unsafe { std::ptr::write_bytes(at.add(first), 0, bytes) };
    }

    /// Asks the device for something, by a slot that is held and quiet. The device need not
    /// hear of it before `tell`.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn submit(&self, slot: u8, request: &Request) -> Result<(), Refusal> {
        self.submit_by(slot, request, None)
    }

    /// Whether [`Self::submit_direct`] may be taken.
    #[must_use]
    pub fn reaches_memory(&self) -> bool {
        self.reaches_memory
    }

    /// Asks for a read or write between the device and memory of a guest, in a chunk in which the rights to both were
    /// found good.
    ///
    /// # Errors
    /// See [`Refusal`]; with [`Refusal::NotSupported`] it is to be asked for by staging.
    pub fn submit_direct(
        &self,
        slot: u8,
        request: &Request,
        reach: Reach,
        memory: Lent,
    ) -> Result<(), Refusal> {
        self.submit_by(slot, request, Some((reach, memory)))
    }

    fn submit_by(
        &self,
        slot: u8,
        request: &Request,
        direct: Option<(Reach, Lent)>,
    ) -> Result<(), Refusal> {
        if self.is_gone() {
            return Err(Refusal::Gone);
        }
        if self.fences.load(Ordering::Acquire) && self.must_wait(request) {
            return Err(Refusal::Later);
        }
        let mut driver = self.try_drive().ok_or(Refusal::Contended)?;
        // Whoever has said so since will have the lock before anything is given up.
        if self.is_gone() {
            return Err(Refusal::Gone);
        }
        let index = usize::from(slot);
        let (place, token) = (&self.slots[index], Token(slot.into()));
        let lends = direct.is_some();
        place.set_lends(lends);
        place.begin(request, ticks());
        let taken = match &direct {
            Some((_, memory)) => driver.device.submit_direct(token, request, memory),
            None => driver.device.submit(token, request),
        };
        match taken {
            Ok(()) => {}
            Err(refused) => {
                place.cancel();
                return Err(match refused {
                    Refused::Full => Refusal::Later,
                    Refused::Gone => Refusal::Gone,
                    Refused::NotSupported => Refusal::NotSupported,
                });
            }
        }
        if let Some((reach, memory)) = direct {
            self.lend(&mut driver, index, reach, memory);
        }
        driver.untold = true;
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.news.set_untold(self.place);
        self.news.set_busy(self.place);
        Ok(())
    }

    fn lend(&self, driver: &mut Driver, index: usize, reach: Reach, memory: Lent) {
        driver.next += 1;
        let loan = Loan {
            number: driver.next,
            reach,
            memory,
        };
        let before = driver.lent[index].replace(loan);
        debug_assert!(before.is_none(), "a slot is not used again before its end");
        self.direct.fetch_add(1, Ordering::Relaxed);
        self.lent.fetch_add(1, Ordering::SeqCst);
        self.all_lent.fetch_add(1, Ordering::SeqCst);
    }

    /// The device can reach a loan no more.
    fn settle(&self, loan: Option<Loan>) {
        if let Some(loan) = loan {
            // Before anybody is told, whoever that is.
            loan.memory.note_written();
            // While it counts, so that whoever removes its region keeps that: the last one to let go of it unmaps it,
            // which is no worker's part.
            drop(loan);
            self.lent.fetch_sub(1, Ordering::SeqCst);
            self.all_lent.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether the device has memory of guests.
    #[must_use]
    pub fn lends(&self) -> bool {
        self.lent.load(Ordering::SeqCst) != 0
    }

    /// Whether it will not be waited for any longer, whatever it has.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Adds what it has of guests' memory, as far as somebody asks for that.
    pub(super) fn reaching(
        self: &Arc<Self>,
        is_wanted: &dyn Fn(&Reach) -> bool,
        all: &mut Reaching,
    ) {
        if !self.lends() {
            return;
        }
        for (index, loan) in self.lock().lent.iter().enumerate() {
            if let Some(loan) = loan.as_ref().filter(|loan| is_wanted(&loan.reach)) {
                all.add(self, index as u8, loan.number);
            }
        }
    }

    /// Whether it has not given this loan back.
    pub(super) fn still_lends(&self, slot: u8, number: u64) -> bool {
        if !self.lends() {
            return false;
        }
        // A worker that has it says so soon.
        let Some(driver) = self.try_drive() else {
            return true;
        };
        let loan = driver.lent.get(usize::from(slot)).and_then(Option::as_ref);
        loan.is_some_and(|loan| loan.number == number)
    }

    /// Whether something that nobody waits for may still write to the same blocks.
    #[cold]
    fn must_wait(&self, request: &Request) -> bool {
        let is_fenced = self.slots.iter().any(|slot| slot.is_in_the_way(request));
        if !is_fenced && self.slots.iter().all(|slot| !slot.is_under_way()) {
            self.fences.store(false, Ordering::SeqCst);
            // Whoever fences one now says so after it has; one of before is seen here.
            if self.slots.iter().any(Slot::is_fenced) {
                self.fences.store(true, Ordering::SeqCst);
            }
        }
        is_fenced
    }

    /// How a slot's request ended; `None` while it has not.
    #[inline]
    #[must_use]
    pub fn ended(&self, slot: u8) -> Option<Outcome> {
        self.slots[usize::from(slot)].ended()
    }

    /// Gives a slot back, whatever the device does with it.
    pub fn give_back(&self, slot: u8) {
        match self.slots[usize::from(slot)].part() {
            Parting::Free => self.set_free(slot),
            Parting::Orphan => self.fences.store(true, Ordering::SeqCst),
        }
    }

    fn set_free(&self, slot: u8) {
        self.slots[usize::from(slot)].set_holder(0);
        // There is room for every slot, and each is there once.
        let _ = self.free.push(slot);
        self.news.changed();
    }

    /// Has everything that is asked from now on wait for what the device may still write of
    /// before, where it is about the same blocks.
    pub fn fence(&self) {
        let mut any = false;
        for slot in &self.slots {
            any |= slot.fence();
        }
        if any {
            self.fences.store(true, Ordering::SeqCst);
        }
    }

    /// Tells the device of what was submitted, and looks at what has ended. Waits for nobody.
    pub fn drive(&self) {
        let Some(mut driver) = self.try_drive() else {
            return;
        };
        self.look(&mut driver);
    }

    fn look(&self, driver: &mut Driver) {
        if driver.untold {
            driver.untold = false;
            driver.device.flush_submissions();
        }
        let mut changed = false;
        let mut lies = None;
        let Driver { device, lent, .. } = driver;
        device.poll(&mut |token, outcome| {
            changed = true;
            let index = token.0 as usize;
            self.settle(lent.get_mut(index).and_then(Option::take));
            // What a device that is gone had, was told of already.
            if self.note(token, outcome).is_none() && !self.is_gone() {
                lies = Some(token);
            }
        });
        if changed {
            self.news.changed();
        }
        if let Some(token) = lies {
            let what = format!("it ended request {}, which it had not been given", token.0);
            self.leave(&what);
        } else if let Some(reason) = driver.device.gone() {
            self.leave(reason);
        }
        if self.under_way.load(Ordering::SeqCst) == 0 && !driver.untold {
            self.news.clear_busy(self.place);
            if self.under_way.load(Ordering::SeqCst) != 0 {
                self.news.set_busy(self.place);
            }
        }
    }

    /// Whether some request has been told to nobody yet, or is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) != 0
    }

    /// One request has ended. `None`: it was not under way.
    fn note(&self, token: Token, outcome: Outcome) -> Option<()> {
        let index = token.0 as usize;
        let slot = self.slots.get(index)?;
        let free = slot.end(outcome)?;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::Relaxed);
        if outcome != Outcome::Done {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        if free {
            self.set_free(index as u8);
        }
        Some(())
    }

    /// Counts bytes that went from the device, and to it.
    pub fn account(&self, read: u64, written: u64) {
        self.bytes_read.fetch_add(read, Ordering::Relaxed);
        self.bytes_written.fetch_add(written, Ordering::Relaxed);
    }

    /// Ends a device: what is under way is gone. Waits for what it was lent, though not for long.
    pub fn close(&self, reason: &str) {
        self.leave(reason);
        if !self.closed.swap(true, Ordering::AcqRel) {
            let mut driver = self.lock();
            // What was begun while it went.
            self.end_staged();
            driver.device.close(CLOSE);
            self.look(&mut driver);
            self.give_up(&driver);
        }
    }

    /// Those who wait wait no longer. What is lent yet stays so until the device answers.
    fn give_up(&self, driver: &Driver) {
        self.given_up.store(true, Ordering::Release);
        for (index, loan) in driver.lent.iter().enumerate() {
            if loan.is_some() {
                self.note(Token(index as u32), Outcome::Gone);
            }
        }
        self.news.changed();
    }

    #[cold]
    fn leave(&self, reason: &str) {
        if self.gone.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!("an endpoint's device is gone: {reason}");
        // Replaced whole.
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        self.end_staged();
    }

    /// What is under way is gone, but for what the device was lent, which can be reached yet and is waited for.
    fn end_staged(&self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.is_under_way() && !slot.lends() {
                // Whoever writes to its staging does so: nobody reads that any more.
                self.note(Token(index as u32), Outcome::Gone);
            }
        }
        self.news.changed();
    }

    /// Gives the device up when it has not answered for `limit` ticks, and closes one that is
    /// gone. May wait for it, but not where it was lent something: it is asked for that, and looked at again.
    pub fn look_after(&self, limit: u64) {
        if self.is_busy() || self.lends() {
            // An answer to what nobody waits for any more is seen by no worker that sleeps; it has been given
            // all the same.
            self.drive();
        }
        let now = ticks();
        let oldest = self.slots.iter().filter_map(|slot| slot.age(now)).max();
        let reason = if oldest.is_some_and(|age| age > limit) {
            "it has not answered in its time"
        } else if self.is_gone() {
            "it is gone"
        } else {
            return;
        };
        if !self.lends() || self.closed.load(Ordering::Acquire) {
            self.close(reason);
        } else {
            self.recall(reason);
        }
    }

    /// Asks for what was lent; gives it up when that was long ago.
    #[cold]
    fn recall(&self, reason: &str) {
        self.leave(reason);
        let mut driver = self.lock();
        let now = Instant::now();
        let since = match driver.recalled {
            Some(since) => since,
            None => {
                // What was begun while it went.
                self.end_staged();
                driver.device.close(Duration::ZERO);
                *driver.recalled.insert(now)
            }
        };
        self.look(&mut driver);
        if now.duration_since(since) >= CLOSE || !self.lends() {
            self.closed.store(true, Ordering::Release);
            self.give_up(&driver);
        }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            system_calls: self.lock().device.system_calls(),
            under_way: self.under_way.load(Ordering::Relaxed),
            direct: self.direct.load(Ordering::Relaxed),
            holds: self.lent.load(Ordering::Relaxed),
        }
    }

    fn try_drive(&self) -> Option<MutexGuard<'_, Driver>> {
        match self.driver.try_lock() {
            Ok(driver) => Some(driver),
            // A driver that panicked is in some state or other; its device is asked nothing.
            Err(TryLockError::Poisoned(_)) => {
                self.gone.store(true, Ordering::Release);
                None
            }
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// For control threads: workers hold it for a moment.
    fn lock(&self) -> MutexGuard<'_, Driver> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Nobody asks any more, nor is to be told why.
        self.gone.store(true, Ordering::Release);
        let mut driver = match self.driver.lock() {
            Ok(mut driver) => {
                if !self.closed.swap(true, Ordering::AcqRel) {
                    driver.device.close(CLOSE);
                }
                self.look(&mut driver);
                driver
            }
            // Nobody knows what the device has.
            Err(poisoned) => poisoned.into_inner(),
        };
        for loan in driver.lent.iter_mut().filter_map(Option::take) {
            // The device may reach it for as long as it likes.
            loan.memory.keep_for_ever();
        }
    }
}

#[cfg(test)]
mod tests;
