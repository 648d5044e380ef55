//! The demand pager: ranges of processes whose pages are given when they are wanted, by the process
//! itself or by a transfer of the engine's, and what is said of the others.
//!
//! Owns which ranges are lazy and how requests went. The frames stay the heap regions' own: what is
//! taken out of the page tables and put back is always the same memory.

use byway_agent::commands::{LAZY_IGNORE, LAZY_LATER, LAZY_MAP, LAZY_OFF, LAZY_REFUSE, PagerIs};
use byway_agent::layout::Process;
use byway_agent::{Failure, Status};
use byway_driver::{ControlStatus, Error, PageOutcome, PageRequest};

use super::churn;
use super::device::{failure, own_pasid};
use super::machine::Machine;
use crate::layout::PAGE;

/// Lazy ranges of all processes together.
const MAX_RANGES: usize = 16;

/// What happens to who wants a page of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is given.
    Map,
    /// It is refused for good.
    Refuse,
    /// It is refused for now.
    Later,
    /// Nothing is said.
    Ignore,
}

impl Policy {
    /// The policy of a command's argument; `Some(None)` is none at all.
    pub const fn from_raw(value: u64) -> Option<Option<Self>> {
        Some(match value {
            LAZY_OFF => None,
            LAZY_MAP => Some(Self::Map),
            LAZY_REFUSE => Some(Self::Refuse),
            LAZY_LATER => Some(Self::Later),
            LAZY_IGNORE => Some(Self::Ignore),
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Range {
    process: Process,
    va: u64,
    bytes: u64,
    policy: Policy,
}

/// Lazy ranges, and counts since boot.
#[derive(Debug)]
pub struct Pager {
    ranges: [Option<Range>; MAX_RANGES],
    /// How requests and touches went.
    pub counts: PagerIs,
}

impl Pager {
    /// Nothing is lazy.
    pub const fn new() -> Self {
        Self {
            ranges: [None; MAX_RANGES],
            counts: PagerIs {
                requests: 0,
                mapped: 0,
                refused: 0,
                postponed: 0,
                ignored: 0,
                late: 0,
                touched: 0,
            },
        }
    }

    /// Sets what holds for a range from now on, instead of what held for one that begins there.
    pub fn set(
        &mut self,
        process: Process,
        va: u64,
        bytes: u64,
        policy: Option<Policy>,
    ) -> Result<(), Failure> {
        for slot in &mut self.ranges {
            if slot.is_some_and(|range| range.process == process && range.va == va) {
                *slot = None;
            }
        }
        let Some(policy) = policy else { return Ok(()) };
        let free = self.ranges.iter_mut().find(|slot| slot.is_none());
        *free.ok_or(Failure::new(Status::NoMemory, MAX_RANGES as u64))? = Some(Range {
            process,
            va,
            bytes,
            policy,
        });
        Ok(())
    }

    fn policy(&self, process: Process, address: u64) -> Option<Policy> {
        let holds = |range: &&Range| {
            range.process == process && address >= range.va && address - range.va < range.bytes
        };
        Some(self.ranges.iter().flatten().find(holds)?.policy)
    }
}

impl Machine {
    /// Takes every event that the engine has sent; page requests are answered on the way.
    pub fn drain_events(&mut self) {
        // Bounded: the engine cannot send more than it has buffers for before they are stocked
        // again, but a broken one might try.
        for _ in 0..1024 {
            let Some(request) = self.byway.as_mut().and_then(|b| b.next_page_request()) else {
                return;
            };
            self.answer_page_request(&request);
        }
    }

    fn answer_page_request(&mut self, request: &PageRequest) {
        self.pager.counts.requests += 1;
        let process = Process::ALL
            .into_iter()
            .find(|process| own_pasid(*process) == request.pasid);
        let policy = process.and_then(|process| self.pager.policy(process, request.address));
        let outcome = match (process, policy) {
            (_, Some(Policy::Ignore)) => {
                self.pager.counts.ignored += 1;
                return;
            }
            (_, Some(Policy::Later)) => {
                self.pager.counts.postponed += 1;
                PageOutcome::RetryLater
            }
            (Some(process), Some(Policy::Map)) if self.give_page(process, request.address) => {
                self.pager.counts.mapped += 1;
                PageOutcome::Resolved
            }
            (Some(process), None)
                if churn::give_wanted(self, process, request.address, request.access) =>
            {
                self.pager.counts.mapped += 1;
                PageOutcome::Resolved
            }
            _ => {
                self.pager.counts.refused += 1;
                PageOutcome::Refused
            }
        };
        let Some(byway) = &mut self.byway else { return };
        match byway.device().answer_page(request.request, outcome) {
            Ok(()) => {}
            // Its descriptor is gone, or did not wait so long.
            Err(Error::Refused(ControlStatus::NoSuchObject)) => self.pager.counts.late += 1,
            // Said once by whoever uses the device next: it is broken.
            Err(error) => _ = failure(error),
        }
    }

    /// A page fault of the process itself: true when it may try again.
    pub fn touched(&mut self, process: Process, address: u64) -> bool {
        let lazy = self.pager.policy(process, address) == Some(Policy::Map);
        let given = lazy && self.give_page(process, address & !(PAGE - 1));
        self.pager.counts.touched += u64::from(given);
        given
    }

    fn give_page(&mut self, process: Process, address: u64) -> bool {
        let (task, frames) = self.task_and_frames(process);
        task.space.put_back(frames, address)
    }
}
