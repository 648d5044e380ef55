//! [`Storm`]: transfers while the pages under them come and go.
//!
//! Owns which transfers are in flight, and so what must stand where when they end. The kernel process moves the
//! pages ([`byway_agent::commands::Churn`]); nothing here reads a page that is not there.

use byway_agent::commands::{
    CHURN_BREAK_SHARE, CHURN_DISCARD, CHURN_FILL, CHURN_MOVE, CHURN_REUSE_TOO_EARLY, CHURN_SHARE,
    Churn, Churned, Storm, Stormed, Tend, Tended,
};
use byway_agent::guest::GuestChannel;
use byway_agent::storm::{
    CELL, CELLS, DEPTH, INBOX, OWN, PAGE, REGION_BYTES, SOURCE, SOURCE_BYTES, Violation,
};
use byway_agent::{Failure, Status, canary, pattern};
use byway_protocols::Word0;
use byway_ring::{Completion, Descriptor, Flags, Opcode, Ticket};

use super::call::kernel;
use super::dice::Dice;
use super::now;
use super::queues::Queue;
use super::transfer::{flush, post};

const OWN_PAGES: usize = (CELLS * CELL / PAGE) as usize;
const FLIGHTS: usize = DEPTH as usize;
/// Fruitless polls in a row before what is outstanding at the end is given up. One that waits for pages asks for
/// one after the other, and each answer takes the turns of several threads on a busy host.
const LAST_POLLS: u32 = 1 << 30;
/// Most pages of one change.
const PAGES_AT_ONCE: u64 = 16;

/// Where a transfer's bytes come from, so what they are.
#[derive(Clone, Copy)]
struct Origin {
    seed: u64,
    /// Index in that pattern of the first word.
    word: u64,
}

/// Where they go.
#[derive(Clone, Copy)]
enum Target {
    /// A cell of the own region; bytes from its beginning.
    Own { cell: u64 },
    /// A cell of the peer's inbox.
    Inbox { cell: u64 },
}

/// A transfer in flight.
#[derive(Clone, Copy)]
struct Flight {
    origin: Origin,
    target: Target,
    bytes: u64,
    /// What the clock of discards showed.
    since: u32,
}

/// What the peer's inbox holds of ours in one cell.
#[derive(Clone, Copy)]
struct Posted {
    origin: Origin,
    bytes: u64,
}

struct State<'q> {
    queue: &'q mut Queue,
    request: Storm,
    dice: Dice,
    /// By the descriptor's number modulo the entries of the ring.
    flights: [Option<Flight>; FLIGHTS],
    own_busy: [bool; CELLS as usize],
    inbox_busy: [bool; CELLS as usize],
    posted: [Option<Posted>; CELLS as usize],
    /// Clock of discards when the page was last discarded.
    discarded: [u32; OWN_PAGES],
    present: [bool; OWN_PAGES],
    clock: u32,
    done: Stormed,
}

/// Runs the storm.
pub fn run(channel: &GuestChannel, queue: &mut Queue, request: &Storm) -> Result<Stormed, Failure> {
    if queue.outstanding() != 0 || queue.entries() != DEPTH {
        return Err(Failure::argument(0, request.queue));
    }
    if request.flags & !CHURN_REUSE_TOO_EARLY != 0 {
        return Err(Failure::argument(7, request.flags));
    }
    let mut state = State {
        queue,
        request: *request,
        dice: Dice::new(request.seed),
        flights: [None; FLIGHTS],
        own_busy: [false; CELLS as usize],
        inbox_busy: [false; CELLS as usize],
        posted: [None; CELLS as usize],
        discarded: [0; OWN_PAGES],
        present: [true; OWN_PAGES],
        clock: 0,
        done: Stormed {
            transfers: 0,
            faulted: 0,
            violations: 0,
            first: 0,
            detail: 0,
            pages: 0,
            given: 0,
            given_va: 0,
        },
    };
    let start = now();
    while now() - start < request.ticks && !channel.should_stop() {
        state.submit()?;
        state.change_pages()?;
        state.collect();
    }
    state.drain()?;
    // So that whoever uses the region next finds all of it.
    state.churn(request.va, REGION_BYTES / PAGE, CHURN_BREAK_SHARE)?;
    state.churn(request.va + OWN, OWN_PAGES as u64, CHURN_FILL)?;
    Ok(state.done)
}

impl State<'_> {
    fn violation(&mut self, kind: Violation, detail: u64) {
        if self.done.violations == 0 {
            self.done.first = kind as u64;
            self.done.detail = detail;
        }
        self.done.violations += 1;
    }

    /// Fills the queue up.
    fn submit(&mut self) -> Result<(), Failure> {
        // A cell that is taken costs a try: bounded, and another turn comes soon.
        for _ in 0..2 * DEPTH {
            if self.queue.outstanding() >= DEPTH || self.queue.room() == 0 {
                break;
            }
            let Some((flight, descriptor)) = self.invent() else {
                continue;
            };
            let posted = post(self.queue, descriptor);
            let ticket = posted.map_err(|_| Failure::new(Status::QueueDead, self.request.queue))?;
            match flight.target {
                Target::Own { cell } => self.own_busy[cell as usize] = true,
                Target::Inbox { cell } => {
                    self.inbox_busy[cell as usize] = true;
                    self.posted[cell as usize] = None;
                }
            }
            self.flights[ticket.sequence() as usize % FLIGHTS] = Some(flight);
        }
        flush(self.queue)?;
        Ok(())
    }

    /// A transfer that collides with none in flight, if the dice find one.
    fn invent(&mut self) -> Option<(Flight, Descriptor)> {
        let slot = self.request.slot as u16;
        let kinds = if slot == 0 { 1 } else { 4 };
        let kind = self.dice.below(kinds);
        let cell = self.dice.below(CELLS);
        // Short ones and long ones alike.
        let most = (CELL >> self.dice.below(10)).max(8);
        let bytes = (self.dice.below(most) & !7).max(8);
        let word = self.dice.below((SOURCE_BYTES - bytes) / 8 + 1);
        let own = self.request.va;
        let source = |seed| Origin { seed, word };
        let to_own = Target::Own { cell };
        let own_address = own + OWN + cell * CELL;
        // Source slot and address, destination slot and address.
        let (origin, target, bytes, from, to) = match kind {
            // Within the own region.
            0 => (
                source(self.request.own_seed),
                to_own,
                bytes,
                (0, own + SOURCE + word * 8),
                (0, own_address),
            ),
            // A get of the peer's source.
            1 => (
                source(self.request.peer_seed),
                to_own,
                bytes,
                (slot, SOURCE + word * 8),
                (0, own_address),
            ),
            // A put into the peer's inbox.
            2 => (
                source(self.request.own_seed),
                Target::Inbox { cell },
                bytes,
                (0, own + SOURCE + word * 8),
                (slot, INBOX + cell * CELL),
            ),
            // A get of what was put there.
            _ => {
                let theirs = self.dice.below(CELLS) as usize;
                // Whoever puts there again meanwhile would change what is expected.
                let posted = self.posted[theirs].filter(|_| !self.inbox_busy[theirs])?;
                (
                    posted.origin,
                    to_own,
                    posted.bytes,
                    (slot, INBOX + theirs as u64 * CELL),
                    (0, own_address),
                )
            }
        };
        let busy = match target {
            Target::Own { cell } => self.own_busy[cell as usize],
            Target::Inbox { cell } => self.inbox_busy[cell as usize] || self.is_read(cell),
        };
        if busy {
            return None;
        }
        // Some wait for pages that are away, the others end in a fault.
        let flags = match self.dice.below(16) {
            0 => Flags::BLOCK_ON_FAULT,
            _ => Flags::NONE,
        };
        let descriptor = Descriptor {
            word0: Word0::new(from.0, to.0, false).0,
            src: from.1,
            dst: to.1,
            size: bytes as u32,
            ..Descriptor::new(Opcode::Memmove, flags)
        };
        let flight = Flight {
            origin,
            target,
            bytes,
            since: self.clock,
        };
        Some((flight, descriptor))
    }

    /// Whether a get of what stands in this cell of the peer's inbox is in flight.
    fn is_read(&self, cell: u64) -> bool {
        let Some(posted) = self.posted[cell as usize] else {
            return false;
        };
        self.flights.iter().flatten().any(|flight| {
            matches!(flight.target, Target::Own { .. })
                && flight.origin.seed == posted.origin.seed
                && flight.origin.word == posted.origin.word
        })
    }

    /// Changes some pages.
    fn change_pages(&mut self) -> Result<(), Failure> {
        let pages = 1 + self.dice.below(PAGES_AT_ONCE);
        let area = self.dice.below(4);
        let (start, bytes) = match area {
            0 => (SOURCE, SOURCE_BYTES),
            1 => (INBOX, CELLS * CELL),
            _ => (OWN, CELLS * CELL),
        };
        let first = self.dice.below(bytes / PAGE - pages + 1);
        let action = match self.dice.below(if start == OWN { 6 } else { 3 }) {
            0 => CHURN_MOVE,
            1 => CHURN_SHARE,
            2 => CHURN_BREAK_SHARE,
            3 => CHURN_DISCARD,
            _ => CHURN_FILL,
        };
        let va = self.request.va + start + first * PAGE;
        let churned = self.churn(va, pages, action)?;
        if start == OWN {
            let range = first as usize..(first + pages) as usize;
            match action {
                CHURN_DISCARD if churned.pages != 0 => {
                    self.clock += 1;
                    // Shared pages were left alone; to take them for discarded only makes the check of their bytes
                    // begin with the next transfer.
                    self.discarded[range.clone()].fill(self.clock);
                    self.present[range].fill(false);
                }
                CHURN_FILL => self.present[range].fill(true),
                _ => {}
            }
        }
        Ok(())
    }

    fn churn(&mut self, va: u64, pages: u64, action: u64) -> Result<Churned, Failure> {
        let flags = self.request.flags;
        let churned = kernel(Churn {
            va,
            pages,
            action,
            flags,
        })?;
        self.done.pages += churned.pages;
        self.done.given = churned.given;
        self.done.given_va = churned.given_va;
        if churned.damaged != 0 {
            self.violation(Violation::Canary, churned.damaged_at);
            self.done.violations += churned.damaged - 1;
        }
        Ok(churned)
    }

    /// Takes every completion that is there.
    fn collect(&mut self) {
        while let Some((ticket, completion)) = self.queue.poll() {
            self.judge(ticket, &completion);
        }
    }

    fn drain(&mut self) -> Result<(), Failure> {
        let mut polls = 0;
        while self.queue.outstanding() != 0 {
            match self.queue.poll() {
                Some((ticket, completion)) => {
                    self.judge(ticket, &completion);
                    polls = 0;
                }
                None => polls += 1,
            }
            if polls == LAST_POLLS {
                return Err(Failure::new(
                    Status::TimedOut,
                    u64::from(self.queue.outstanding()),
                ));
            }
        }
        Ok(())
    }

    /// Checks a completion against what it should have done.
    fn judge(&mut self, ticket: Ticket, completion: &Completion) {
        let place = ticket.sequence() as usize % FLIGHTS;
        let Some(flight) = self.flights[place].take() else {
            return self.violation(Violation::Status, completion.publish_word());
        };
        let bytes = match completion.status() {
            Some(byway_ring::Status::Success) => {
                self.done.transfers += 1;
                flight.bytes
            }
            // A page that was away, or read-only, or both in turn until the engine gave up.
            Some(
                byway_ring::Status::PageFault
                | byway_ring::Status::PageRefused
                | byway_ring::Status::PageResponseTimeout
                | byway_ring::Status::Stage1NotPresent
                | byway_ring::Status::Stage1Permission
                | byway_ring::Status::RemoteFault,
            ) => {
                self.done.faulted += 1;
                u64::from(completion.bytes_completed).min(flight.bytes)
            }
            _ => {
                self.violation(Violation::Status, completion.publish_word());
                0
            }
        };
        match flight.target {
            Target::Own { cell } => {
                self.own_busy[cell as usize] = false;
                self.verify(&flight, cell, bytes);
            }
            Target::Inbox { cell } => {
                self.inbox_busy[cell as usize] = false;
                self.posted[cell as usize] = (bytes == flight.bytes).then_some(Posted {
                    origin: flight.origin,
                    bytes,
                });
            }
        }
    }

    /// Whether the bytes that were reported as moved are there. Pages that were discarded meanwhile hold what they
    /// like.
    fn verify(&mut self, flight: &Flight, cell: u64, bytes: u64) {
        let start = OWN + cell * CELL;
        for offset in (0..bytes).step_by(PAGE as usize) {
            let page = ((cell * CELL + offset) / PAGE) as usize;
            if !self.present[page] || self.discarded[page] > flight.since {
                continue;
            }
            let words = (bytes - offset).min(PAGE) / 8;
            let at = self.request.va + start + offset;
            for index in 0..words {
                // SAFETY: in the process's region, mapped since its last discard. Only the engine writes there, and not
                // to this cell, since its transfer is over.
                let found = unsafe { (at as *const u64).add(index as usize).read_volatile() };
                let Origin { seed, word } = flight.origin;
                if found != pattern::word(seed, word + offset / 8 + index) {
                    self.violation(Violation::WrongBytes, start + offset + index * 8);
                    return;
                }
            }
        }
    }
}

/// The new owner looks after its frames.
pub fn tend(request: Tend) -> Result<Tended, Failure> {
    let mut tended = Tended {
        damaged: 0,
        at: 0,
        found: 0,
    };
    for place in 0..request.pages {
        let at = request.va + place * PAGE;
        // SAFETY: the kernel process mapped the frame for this process to use; if it did not, the fault ends the
        // command. Only an engine at fault writes there too, which is what is looked for.
        let page = unsafe { &mut *(at as *mut [u64; canary::WORDS]) };
        let place = place as u32;
        match canary::check(page, place) {
            Ok(seed) => canary::write(page, canary::seed(place, (seed as u32).wrapping_add(1))),
            Err(word) => {
                if tended.damaged == 0 {
                    tended.at = at + word as u64 * 8;
                    tended.found = page[word];
                }
                tended.damaged += 1;
                canary::write(page, canary::seed(place, 0));
            }
        }
    }
    Ok(tended)
}
