//! Faults that somebody can mend: what an operation waits for, and what the answer means
//! (SPEC section 8.4).
//!
//! A fault is noted as [`Missing`] where it is met. When it ends an operation that may
//! wait, [`Asked`] turns the end into a request; the worker parks the execution and hands
//! it the [`Verdict`] later. A verdict is believed only as far as it ends things: the
//! operation always tries again, and where it does not fault any more it goes on. So a
//! right that was taken back meanwhile is met as ever, and nothing that an answer says
//! opens memory.
//!
//! Owns no translation and no memory. Must never wait, and must ask for one page a bounded
//! number of times.

use byway_protocols::Status;

use super::Outcome;
use crate::address_space::{Fault, Root};
use crate::context::Target;
use crate::queue::PageNeed;

/// How often in a row one page is asked for.
pub const REQUESTS_MAX: u8 = 8;

/// First byte of the page that holds an address.
const PAGE_MASK: u64 = !0xfff;

/// What became of a page request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The page is said to be there.
    Resolved,
    /// It will never be.
    Refused,
    /// Not now; also when nobody could be asked.
    Later,
    /// Nobody answered in time.
    TimedOut,
}

/// A fault that the kernel of the memory's owner may mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The page.
    pub need: PageNeed,
    /// The status that the submitter would see.
    status: Status,
}

impl Missing {
    /// The fault in these terms, if there is anybody to ask. `status` is what its submitter,
    /// of domain `submitter`, would see.
    #[must_use]
    pub fn of(target: &Target<'_>, fault: &Fault, status: Status, submitter: u32) -> Option<Self> {
        let has_tables = matches!(target.space.root(), Root::Tables(_));
        let is_mendable = match fault.status {
            Status::Stage1NotPresent | Status::Stage2Pending => true,
            // A page that is shared until it is written to is mapped read-only: its kernel knows
            // whether the process may write, and makes it the process's own then.
            Status::Stage1Permission if fault.write => true,
            // In one's own memory these tell that the address or the tables are wrong. In a
            // peer's that is for its kernel to find, and not for the submitter to notice.
            Status::Stage1Permission | Status::NonCanonical | Status::ReservedBit => !target.own,
            _ => false,
        };
        (has_tables && is_mendable).then(|| Self {
            need: PageNeed {
                owner: target.owner().unwrap_or(submitter),
                space: target.space.id(),
                page: fault.addr & PAGE_MASK,
                write: fault.write,
                own: target.own,
            },
            status,
        })
    }

    /// Whether this fault, and not something else, ended an operation so.
    fn ended(&self, outcome: &Outcome) -> bool {
        let told = Status::from_code(outcome.completion.status & !Status::WRITE_FAULT);
        told.is_some_and(|told| {
            // A batch names the part of its memory instead of the cause.
            let part = matches!(told, Status::BatchListFault | Status::StatusArrayFault);
            told == self.status || (part && self.need.own)
        })
    }
}

/// The page that an execution has asked for last, and what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    last: Option<PageNeed>,
    times: u8,
    verdict: Option<Verdict>,
}

impl Asked {
    /// Notes what became of the request.
    pub fn answer(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }

    /// Decides about an operation that ended after the fault `missing`: the page to wait
    /// for, or `None` when this is its end; its status is then the answer's. `block` tells
    /// whether it is to wait for pages of its own domain.
    #[cold]
    pub fn decide(
        &mut self,
        missing: Missing,
        block: bool,
        outcome: &mut Outcome,
    ) -> Option<PageNeed> {
        let need = missing.need;
        if !missing.ended(outcome) || (need.own && !block) {
            return None;
        }
        let verdict = self.verdict.take();
        if self.last != Some(need) {
            *self = Self {
                last: Some(need),
                times: 1,
                verdict: None,
            };
            return Some(need);
        }
        let status = match verdict {
            None | Some(Verdict::Resolved) if self.times < REQUESTS_MAX => {
                self.times += 1;
                return Some(need);
            }
            // The right to write stays missing; there is no page that is.
            Some(Verdict::Refused) if missing.status == Status::Stage1Permission => None,
            Some(Verdict::Refused) => Some(Status::PageRefused),
            Some(Verdict::TimedOut) => Some(Status::PageResponseTimeout),
            _ => None,
        };
        *self = Self::default();
        if let Some(status) = status.filter(|_| need.own) {
            let write = outcome.completion.status & Status::WRITE_FAULT;
            outcome.completion.status = status as u8 | write;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use byway_protocols::Completion;

    use super::*;

    fn missing(page: u64, own: bool) -> Missing {
        let status = if own {
            Status::Stage1NotPresent
        } else {
            Status::RemoteFault
        };
        missing_as(page, own, status)
    }

    fn missing_as(page: u64, own: bool, status: Status) -> Missing {
        Missing {
            need: PageNeed {
                owner: 1,
                space: 2,
                page,
                write: true,
                own,
            },
            status,
        }
    }

    fn ended(missing: &Missing) -> Outcome {
        Outcome {
            completion: Completion {
                status: missing.status as u8 | Status::WRITE_FAULT,
                bytes_completed: 5,
                ..Completion::default()
            },
            bytes: 5,
        }
    }

    /// The status after one request and its answer; `None` when it is asked for again.
    fn after(verdict: Verdict, own: bool) -> Option<Status> {
        after_that(missing(0x1000, own), verdict)
    }

    fn after_that(missing: Missing, verdict: Verdict) -> Option<Status> {
        let mut asked = Asked::default();
        let mut outcome = ended(&missing);
        assert_eq!(
            asked.decide(missing, true, &mut outcome),
            Some(missing.need)
        );
        asked.answer(verdict);
        let again = asked.decide(missing, true, &mut outcome);
        assert!(outcome.completion.is_write_fault());
        assert_eq!(outcome.completion.bytes_completed, 5);
        again
            .is_none()
            .then(|| outcome.completion.status().unwrap())
    }

    #[test]
    fn each_answer_has_its_status_and_a_peer_s_are_all_the_same() {
        assert_eq!(after(Verdict::Resolved, true), None);
        assert_eq!(after(Verdict::Refused, true), Some(Status::PageRefused));
        assert_eq!(after(Verdict::Later, true), Some(Status::Stage1NotPresent));
        assert_eq!(
            after(Verdict::TimedOut, true),
            Some(Status::PageResponseTimeout)
        );
        assert_eq!(after(Verdict::Resolved, false), None);
        for verdict in [Verdict::Refused, Verdict::Later, Verdict::TimedOut] {
            assert_eq!(after(verdict, false), Some(Status::RemoteFault));
        }
    }

    #[test]
    fn a_right_that_is_refused_is_told_as_a_right() {
        let right = missing_as(0x1000, true, Status::Stage1Permission);
        let permission = Some(Status::Stage1Permission);
        assert_eq!(after_that(right, Verdict::Resolved), None);
        assert_eq!(after_that(right, Verdict::Refused), permission);
        assert_eq!(after_that(right, Verdict::Later), permission);
        assert_eq!(
            after_that(right, Verdict::TimedOut),
            Some(Status::PageResponseTimeout)
        );
    }

    #[test]
    fn one_page_is_asked_for_a_bounded_number_of_times() {
        let missing = missing(0x1000, true);
        let mut asked = Asked::default();
        let mut requests = 0;
        let mut outcome = ended(&missing);
        while asked.decide(missing, true, &mut outcome).is_some() {
            requests += 1;
            asked.answer(Verdict::Resolved);
            assert!(requests <= REQUESTS_MAX);
        }
        assert_eq!(requests, REQUESTS_MAX);
        assert_eq!(outcome.completion.status(), Some(Status::Stage1NotPresent));
    }

    #[test]
    fn an_answer_is_for_the_page_that_was_asked_for() {
        let (first, second) = (missing(0x1000, true), missing(0x2000, true));
        let mut asked = Asked::default();
        let mut outcome = ended(&first);
        assert!(asked.decide(first, true, &mut outcome).is_some());
        asked.answer(Verdict::Refused);
        // It got past the first page nevertheless.
        assert_eq!(asked.decide(second, true, &mut outcome), Some(second.need));
        assert_eq!(outcome.completion.status(), Some(Status::Stage1NotPresent));
    }

    #[test]
    fn only_whoever_asks_waits_and_only_for_what_ended_it() {
        let own = missing(0, true);
        let mut outcome = ended(&own);
        assert_eq!(Asked::default().decide(own, false, &mut outcome), None);
        let peer = missing(0, false);
        assert!(
            Asked::default()
                .decide(peer, false, &mut ended(&peer))
                .is_some()
        );
        outcome.completion.status = Status::Revoked as u8;
        assert_eq!(Asked::default().decide(own, true, &mut outcome), None);
    }
}
