//! Page tables that change under the engine: [`Churn`], as compaction, reclaim, fork and copy-on-write would do
//! it, with the protocol that such a kernel owes to the engine.
//!
//! The order is what matters: the entry changes, the engine is told and acknowledges, and only then is the
//! frame used for anything else. Owns which pages are shared, and what they held when they became so.

use core::sync::atomic::{AtomicU64, Ordering};

use byway_agent::commands::{
    CHURN_BREAK_SHARE, CHURN_DISCARD, CHURN_FILL, CHURN_MOVE, CHURN_REUSE_TOO_EARLY, CHURN_SHARE,
    Churn, Churned, SHARED_PAGES,
};
use byway_agent::layout::Process;
use byway_agent::{Failure, Status, checksum};
use byway_driver::{Invalidation, Rights};

use super::device::{failure, own_pasid, ticks};
use super::frames::{Frames, direct};
use super::machine::Machine;
use super::space::heap_bits;
use super::strangers::{Damage, Strangers};
use super::tables::{ACCESSED, DIRTY, Entry, PRESENT, WRITABLE};
use super::task::Task;
use crate::layout::{GIVEN, PAGE};

/// What a fresh page is mapped with: nobody has used it yet, so that the engine has to say so.
const FRESH: u64 = heap_bits(false) & !(ACCESSED | DIRTY);

/// A page that is shared.
#[derive(Debug, Clone, Copy)]
struct Shared {
    va: u64,
    /// Of its contents.
    checksum: u64,
}

/// What has become of pages so far.
pub struct Ledger {
    strangers: Strangers,
    shared: [Option<Shared>; SHARED_PAGES as usize],
}

impl Ledger {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            strangers: Strangers::new(),
            shared: [None; SHARED_PAGES as usize],
        }
    }

    fn shared_at(&mut self, va: u64) -> Option<&mut Option<Shared>> {
        self.shared
            .iter_mut()
            .find(|slot| slot.is_some_and(|shared| shared.va == va))
    }
}

/// The entry as the CPU and the engine share it.
fn atomic(entry: Entry) -> &'static AtomicU64 {
    // SAFETY: `Tables::walk` found the address in RAM, aligned; CPU and engine use it by locked operations, this kernel by
    // this.
    unsafe { AtomicU64::from_ptr(direct::<u64>(entry.address)) }
}

fn frame_checksum(gpa: u64) -> u64 {
    // SAFETY: a frame of the process's region; all RAM is mapped. Writes of an engine at fault are what is looked
    // for.
    checksum::checksum(unsafe { core::slice::from_raw_parts(direct::<u8>(gpa), PAGE as usize) })
}

fn copy_frame(from: u64, to: u64) {
    // SAFETY: two different frames, `to` just taken from the allocator.
    unsafe { direct::<u8>(to).copy_from_nonoverlapping(direct::<u8>(from), PAGE as usize) };
}

/// A transfer of `process` wants the page at `va` for what `access` says: true when it may try again. A page that
/// was discarded comes back zeroed, as a fault of the process itself would bring it; one that was only on its way to
/// another frame is there by now.
pub fn give_wanted(machine: &mut Machine, process: Process, va: u64, access: Rights) -> bool {
    let is_shared = machine.ledger.shared_at(va).is_some();
    let (task, frames) = machine.task_and_frames(process);
    if task.space.check_pages(va, 1).is_err() {
        return false;
    }
    if task.space.frame_of(va).is_none() {
        return map_zeroed(task, frames, va).is_ok();
    }
    let Some(entry) = task.space.tables.walk(frames, va, 1) else {
        return false;
    };
    let bits = atomic(entry).load(Ordering::Relaxed);
    let may_write = bits & WRITABLE != 0 && !is_shared;
    entry.level == 1 && bits & PRESENT != 0 && (may_write || !access.contains(Rights::WRITE))
}

/// A frame for a process, filled by `contents` and mapped at `va`.
fn map_fresh(
    task: &mut Task,
    frames: &mut Frames,
    va: u64,
    contents: impl FnOnce(u64),
) -> Result<(), Failure> {
    let gpa = frames
        .take_run(1)
        .ok_or(Failure::new(Status::NoMemory, PAGE))?;
    contents(gpa);
    task.space.set_frame(va, gpa);
    let entry = task.space.tables.entry(frames, va, 1)?;
    atomic(entry).store(gpa | FRESH, Ordering::Release);
    Ok(())
}

fn map_zeroed(task: &mut Task, frames: &mut Frames, va: u64) -> Result<(), Failure> {
    map_fresh(task, frames, va, |new| {
        // SAFETY: just taken from the allocator.
        unsafe { direct::<u8>(new).write_bytes(0, PAGE as usize) };
    })
}

/// One [`Churn`] under way.
struct Work<'m> {
    machine: &'m mut Machine,
    request: Churn,
    ticks: u64,
    damage: Damage,
    pages: u64,
}

/// Carries the command out for the process that runs.
pub fn carry_out(machine: &mut Machine, request: Churn) -> Result<Churned, Failure> {
    if !request.va.is_multiple_of(PAGE) {
        return Err(Failure::argument(0, request.va));
    }
    if request.flags & !CHURN_REUSE_TOO_EARLY != 0 {
        return Err(Failure::argument(3, request.flags));
    }
    let (task, _) = machine.current();
    task.space.check_pages(request.va, request.pages)?;
    let mut work = Work {
        machine: &mut *machine,
        request,
        ticks: 0,
        damage: Damage::default(),
        pages: 0,
    };
    match request.action {
        CHURN_MOVE => work.replace(true)?,
        CHURN_DISCARD => work.replace(false)?,
        CHURN_FILL => work.fill()?,
        CHURN_SHARE => work.share()?,
        CHURN_BREAK_SHARE => work.break_share()?,
        other => return Err(Failure::argument(2, other)),
    }
    let Work {
        ticks,
        damage,
        pages,
        ..
    } = work;
    Ok(Churned {
        pages,
        damaged: damage.frames,
        damaged_at: damage.at,
        found: damage.found,
        given: machine.ledger.strangers.count(),
        given_va: GIVEN,
        ticks,
    })
}

impl Work<'_> {
    fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        let Churn { va, pages, .. } = self.request;
        (0..pages).map(move |page| va + page * PAGE)
    }

    /// The page's frame and entry, where it has both.
    fn page(&mut self, va: u64) -> Option<(u64, Entry)> {
        let (task, frames) = self.machine.current();
        let gpa = task.space.frame_of(va)?;
        let entry = task.space.tables.walk(frames, va, 1)?;
        (entry.level == 1).then_some((gpa, entry))
    }

    /// Has the engine forget the range, and waits until no access by what it knew is under way.
    fn invalidate(&mut self) -> Result<(), Failure> {
        let pasid = own_pasid(self.machine.current_process());
        let what = Invalidation::Range {
            pasid,
            address: self.request.va,
            pages: self.request.pages,
        };
        let byway = self.machine.byway.as_mut();
        let byway = byway.ok_or(Failure::new(Status::NoDevice, 0))?;
        let start = ticks();
        byway.device().invalidate(what).map_err(failure)?;
        self.ticks += ticks() - start;
        Ok(())
    }

    /// Does `reuse` to each page when the engine has let go of the range; or, on request, a moment too early.
    fn after_invalidation(
        &mut self,
        mut reuse: impl FnMut(&mut Self, u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let too_early = self.request.flags & CHURN_REUSE_TOO_EARLY != 0;
        if !too_early {
            self.invalidate()?;
        }
        for va in self.addresses() {
            reuse(self, va)?;
        }
        if too_early {
            self.invalidate()?;
        }
        Ok(())
    }

    /// A frame for the process, mapped at `va`.
    fn map_fresh(&mut self, va: u64, contents: impl FnOnce(u64)) -> Result<(), Failure> {
        let (task, frames) = self.machine.current();
        map_fresh(task, frames, va, contents)
    }

    /// The frame goes to the other process.
    fn give_away(&mut self, gpa: u64) -> Result<(), Failure> {
        let Self {
            machine, damage, ..
        } = self;
        let (ledger, owner, frames) = machine.ledger_and_other();
        ledger
            .strangers
            .give(frames, &owner.space, gpa, damage)
            .map_err(Failure::from)?;
        // The frame that came back is nobody's before the other process has lost it.
        self.machine.flush_second();
        Ok(())
    }

    /// Unmaps what is mapped and gives its frames away; pages that are `kept` get their contents in another
    /// frame.
    fn replace(&mut self, kept: bool) -> Result<(), Failure> {
        for va in self.addresses() {
            if self.machine.ledger.shared_at(va).is_none()
                && let Some((_, entry)) = self.page(va)
            {
                atomic(entry).swap(0, Ordering::SeqCst);
            }
        }
        self.after_invalidation(|work, va| {
            if work.machine.ledger.shared_at(va).is_some() {
                return Ok(());
            }
            let Some((old, _)) = work.page(va) else {
                return Ok(());
            };
            if kept {
                work.map_fresh(va, |new| copy_frame(old, new))?;
            } else {
                work.machine.current().0.space.set_frame(va, 0);
            }
            work.pages += 1;
            work.give_away(old)
        })
    }

    /// Gives zeroed frames to pages that have none.
    fn fill(&mut self) -> Result<(), Failure> {
        for va in self.addresses() {
            if self.page(va).is_none() {
                let (task, frames) = self.machine.current();
                map_zeroed(task, frames, va)?;
                self.pages += 1;
            }
        }
        Ok(())
    }

    /// Makes pages read-only and remembers what they hold, as long as there is room for it.
    fn share(&mut self) -> Result<(), Failure> {
        for va in self.addresses() {
            if self.machine.ledger.shared_at(va).is_some() {
                continue;
            }
            let Some((_, entry)) = self.page(va) else {
                continue;
            };
            let room = self.machine.ledger.shared.iter_mut().find(|s| s.is_none());
            let Some(room) = room else { break };
            *room = Some(Shared { va, checksum: 0 });
            atomic(entry).fetch_and(!WRITABLE, Ordering::SeqCst);
            self.pages += 1;
        }
        self.after_invalidation(|work, va| {
            let Some((gpa, _)) = work.page(va) else {
                return Ok(());
            };
            if let Some(Some(shared)) = work.machine.ledger.shared_at(va)
                && shared.checksum == 0
            {
                shared.checksum = frame_checksum(gpa);
            }
            Ok(())
        })
    }

    /// Gives shared pages frames of their own; the shared ones, which must be as they were, are given away.
    fn break_share(&mut self) -> Result<(), Failure> {
        for va in self.addresses() {
            if self.machine.ledger.shared_at(va).is_some()
                && let Some((_, entry)) = self.page(va)
            {
                atomic(entry).fetch_and(!PRESENT, Ordering::SeqCst);
            }
        }
        self.after_invalidation(|work, va| {
            let shared = work.machine.ledger.shared_at(va).and_then(Option::take);
            let (Some(shared), Some((old, _))) = (shared, work.page(va)) else {
                return Ok(());
            };
            if frame_checksum(old) != shared.checksum {
                work.damage.add(old, 0);
            }
            work.map_fresh(va, |new| copy_frame(old, new))?;
            work.pages += 1;
            work.give_away(old)
        })
    }
}
