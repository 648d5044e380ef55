//! A queue in a worker's hands, with the descriptor that it is in the middle of.

use std::sync::Arc;

use byway_protocols::{Descriptor, Opcode, Status};

use super::Account;
use super::away::{Away, Doomed};
use crate::backend::Backend;
use crate::epoch::ChunkGuard;
use crate::iotlb::Iotlb;
use crate::ops::budget::OPERATION_COST;
use crate::ops::chunk::Chunk;
use crate::ops::{
    Budget, Codecs, Execution, Outcome, Staging, Stand, Step, Verdict, Windows, is_urgent,
    must_wait, try_longer, try_short, wants_interrupt,
};
use crate::port::Seat;
use crate::queue::{Served, Ticket, WorkQueue};

/// From so many descriptors in a row on it is worth fetching ahead. A single one must not:
/// the lines behind it are the submitter's, who is about to write them.
const BURST: u32 = 2;

/// From so many bytes on, an operation takes longer than the next descriptor's line takes to come from
/// another core: it is fetched meanwhile, whether there is one yet or not.
const LONG_BYTES: u32 = 16 << 10;

/// A descriptor that goes on in a later chunk.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) ticket: Ticket,
    pub(super) execution: Execution,
    /// It must not begin before all that are at devices have ended.
    held: bool,
}

/// What comes after a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More turns.
    Turns,
    /// None, until the page that the descriptor in flight needs has been answered for.
    Page,
}

/// What a worker works with, whatever the queue.
#[derive(Debug)]
pub(super) struct Tools<B> {
    pub(super) iotlb: Iotlb,
    pub(super) backend: B,
    pub(super) staging: Staging,
    /// Lost regions that have been seen to.
    pub(super) regions_lost: u64,
    pub(super) codecs: Codecs,
}

/// Publishes how a descriptor ended, its bytes before.
#[inline(always)]
fn complete<B: Backend>(
    served: &mut Served,
    chunk: &mut Chunk<'_, B>,
    ticket: Ticket,
    outcome: &Outcome,
    interrupt: bool,
) {
    chunk.backend.finish();
    served.complete(ticket, &outcome.completion, outcome.bytes, interrupt);
}

/// How far an execution came in a chunk.
enum Advance {
    Done(Outcome),
    Paused(Next),
    /// It waits for a device, and others may go on.
    Away,
}

/// Goes on with an execution. Where it needs a page that nobody may be asked for, it goes
/// on as if the answer had been to come back later: each such step gets past one operation
/// at least.
#[inline(always)]
fn advance<B: Backend>(
    execution: &mut Execution,
    chunk: &mut Chunk<'_, B>,
    served: &Served,
    waits_for: &mut Option<u64>,
) -> Advance {
    loop {
        match execution.step(chunk) {
            Step::Done(outcome) => return Advance::Done(outcome),
            // Polled for, when it waits: see `Active::has_work`.
            Step::More | Step::Waits => return Advance::Paused(Next::Turns),
            Step::Device => return Advance::Away,
            Step::Blocked(need) => {
                *waits_for = served.ask_for(&need);
                if waits_for.is_some() {
                    return Advance::Paused(Next::Page);
                }
                execution.answer(Verdict::Later);
            }
        }
    }
}

/// Begins with a descriptor that the short way has left. `Some` when it pauses; it is `flight` then.
///
/// Apart from the short way on purpose: an execution may hold what has to be dropped, and the
/// code for that would cost every small message a quarter.
#[inline(never)]
fn begin<B: Backend>(
    descriptor: &Descriptor,
    ticket: Ticket,
    chunk: &mut Chunk<'_, B>,
    served: &mut Served,
    flight: &mut Option<Flight>,
    away: &mut Away,
    waits_for: &mut Option<u64>,
) -> Option<Next> {
    let mut execution = Execution::idle();
    if let Err(status) = execution.accept(descriptor) {
        served.refuse(ticket, status, wants_interrupt(descriptor));
        return None;
    }
    if !away.is_empty() && must_wait(descriptor) {
        *flight = Some(Flight {
            ticket,
            execution,
            held: true,
        });
        return Some(Next::Turns);
    }
    let advance = advance(&mut execution, chunk, served, waits_for);
    if let Advance::Done(outcome) = advance {
        complete(served, chunk, ticket, &outcome, execution.interrupt());
        return None;
    }
    // Streamed bytes, too, are out before the chunk is over.
    chunk.backend.finish();
    let begun = Flight {
        ticket,
        execution,
        held: false,
    };
    match advance {
        Advance::Paused(next) => {
            *flight = Some(begun);
            if next == Next::Page || chunk.stand.awaits.is_some() {
                away.begins_to_wait();
            }
            Some(next)
        }
        _ => {
            away.add(begun);
            None
        }
    }
}

/// Goes on with the descriptor in flight, in place: it is moved when it begins and when it ends
/// only. `Some` when it pauses again.
#[inline(never)]
fn go_on<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    served: &mut Served,
    flight: &mut Option<Flight>,
    away: &mut Away,
    waits_for: &mut Option<u64>,
) -> Option<Next> {
    let resumed = flight.as_mut()?;
    if resumed.held && !away.is_empty() {
        return Some(Next::Turns);
    }
    resumed.held = false;
    match advance(&mut resumed.execution, chunk, served, waits_for) {
        Advance::Done(outcome) => {
            let interrupt = resumed.execution.interrupt();
            if let Some(Flight { ticket, .. }) = flight.take() {
                complete(served, chunk, ticket, &outcome, interrupt);
            }
            None
        }
        Advance::Paused(next) => {
            chunk.backend.finish();
            if next == Next::Page || chunk.stand.awaits.is_some() {
                away.begins_to_wait();
            }
            Some(next)
        }
        Advance::Away => {
            chunk.backend.finish();
            if let Some(begun) = flight.take() {
                away.add(begun);
            }
            None
        }
    }
}

/// Goes on with those that wait for devices, once something has changed there. `Some` when one
/// of them pauses.
#[inline(never)]
fn look_away<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    served: &mut Served,
    away: &mut Away,
    changes: u64,
    waits_for: &mut Option<u64>,
) -> Option<Next> {
    away.begin_round(changes);
    while let Some((index, resumed)) = away.next() {
        match advance(&mut resumed.execution, chunk, served, waits_for) {
            Advance::Done(outcome) => {
                let interrupt = resumed.execution.interrupt();
                let Flight { ticket, .. } = away.remove(index);
                complete(served, chunk, ticket, &outcome, interrupt);
            }
            Advance::Away => {}
            Advance::Paused(next) => {
                chunk.backend.finish();
                away.stop_at(index, next == Next::Page);
                return Some(next);
            }
        }
        if chunk.is_spent() {
            break;
        }
    }
    chunk.backend.finish();
    None
}

/// Publishes that a descriptor was given up.
fn cancel<B: Backend>(
    given_up: Flight,
    chunk: &mut Chunk<'_, B>,
    served: &mut Served,
    doomed: &mut Doomed,
) {
    let Flight {
        ticket, execution, ..
    } = given_up;
    let outcome = execution.abort();
    complete(served, chunk, ticket, &outcome, execution.interrupt());
    doomed.cancelled += 1;
}

/// Gives up what somebody has asked to cancel, as far as the chunk goes: what is under way at once, and
/// what follows in the ring one by one.
#[inline(never)]
fn give_up<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    served: &mut Served,
    flight: &mut Option<Flight>,
    away: &mut Away,
    waits_for: &mut Option<u64>,
) {
    let is_own = (flight.as_ref()).is_some_and(|flight| flight.execution.asks(away.cancels()));
    let Some((mut doomed, is_new)) = away.doomed(served.entries(), is_own) else {
        return;
    };
    let wanted = doomed.wanted;
    if is_new {
        while let Some((given_up, was_asked)) =
            // One by which a device is in pinned memory ends by itself: a byte may come until then.
            away.take_doomed(|flight| {
                wanted.has(served.number_of(&flight.ticket)) && !flight.execution.lends()
            })
        {
            if was_asked {
                *waits_for = None;
            }
            cancel(given_up, chunk, served, &mut doomed);
        }
        // Of a queue's own request this is the one that asks.
        let is_doomed = |flight: &Flight| {
            wanted.has(served.number_of(&flight.ticket)) && !flight.execution.lends()
        };
        if !doomed.is_own && flight.as_ref().is_some_and(is_doomed) {
            if !away.is_asked() {
                *waits_for = None;
            }
            if let Some(given_up) = flight.take() {
                cancel(given_up, chunk, served, &mut doomed);
            }
        }
    }
    while doomed.left > 0 && wanted.has(served.next_number()) && !chunk.is_spent() {
        let Some(word) = served.poll() else {
            doomed.left = 0;
            break;
        };
        let (ticket, descriptor) = served.take(word);
        served.refuse(ticket, Status::Aborted, wants_interrupt(&descriptor));
        chunk.budget.spend(OPERATION_COST);
        doomed.cancelled += 1;
        doomed.left -= 1;
    }
    away.set_doomed(doomed);
    if doomed.left == 0 || !wanted.has(served.next_number()) {
        away.end_cancelling();
    }
}

/// As many descriptors as fit into the chunk. What comes after it.
///
/// A function of its own, so that the registers are its loop's.
#[inline(never)]
fn burst<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    served: &mut Served,
    flight: &mut Option<Flight>,
    away: &mut Away,
    waits_for: &mut Option<u64>,
) -> Next {
    let mut burst = 0_u32;
    while !chunk.is_spent() && away.has_room() {
        let Some(word) = served.poll() else { break };
        if burst >= BURST {
            served.prefetch();
        }
        burst += 1;
        let (ticket, descriptor) = served.take(word);
        let may_begin = away.is_empty() || !must_wait(&descriptor);
        if may_begin && let Some(outcome) = try_short(&descriptor, chunk) {
            let interrupt = wants_interrupt(&descriptor);
            complete(served, chunk, ticket, &outcome, interrupt);
            continue;
        }
        // A copy, made of the same words: the original stays in registers, where the short way had it.
        let descriptor = Descriptor { ..descriptor };
        // Its size is a number of elements.
        let is_batch = descriptor.code() == Opcode::Batch as u8;
        if is_batch || descriptor.size >= LONG_BYTES {
            served.prefetch_next();
        }
        if may_begin
            && !is_batch
            && let Some(told) = try_longer(&descriptor, chunk)
        {
            let interrupt = wants_interrupt(&descriptor);
            let outcome = Outcome::from(told);
            complete(served, chunk, ticket, &outcome, interrupt);
            continue;
        }
        let paused = begin(&descriptor, ticket, chunk, served, flight, away, waits_for);
        // Behind the operation, so that one of a whole chunk's bytes is not cut in two for it.
        chunk.budget.spend(OPERATION_COST);
        if let Some(next) = paused {
            return next;
        }
    }
    Next::Turns
}

/// A chunk's work on a queue, beside what waits for devices.
#[inline(always)]
fn serve_rest<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    served: &mut Served,
    flight: &mut Option<Flight>,
    away: &mut Away,
    waits_for: &mut Option<u64>,
) -> Next {
    if flight.is_some()
        && let Some(next) = go_on(chunk, served, flight, away, waits_for)
    {
        return next;
    }
    burst(chunk, served, flight, away, waits_for)
}

/// The same of one in which something waits.
#[inline(never)]
fn serve_waiting<B: Backend>(
    chunk: &mut Chunk<'_, B>,
    served: &mut Served,
    flight: &mut Option<Flight>,
    away: &mut Away,
    waits_for: &mut Option<u64>,
    changes: u64,
) -> Next {
    if away.is_doomed() {
        give_up(chunk, served, flight, away, waits_for);
    }
    if waits_for.is_some() {
        return Next::Page;
    }
    if !away.is_empty()
        && away.has_news(changes)
        && let Some(next) = look_away(chunk, served, away, changes, waits_for)
    {
        return next;
    }
    // Behind as many as there may be only what may end them is begun.
    if !away.has_room()
        && flight.is_none()
        && let Some(word) = served.poll()
        && is_urgent(word)
    {
        let (ticket, descriptor) = served.take(word);
        let paused = begin(&descriptor, ticket, chunk, served, flight, away, waits_for);
        chunk.budget.spend(OPERATION_COST);
        return paused.unwrap_or(Next::Turns);
    }
    serve_rest(chunk, served, flight, away, waits_for)
}

/// One queue of a worker.
#[derive(Debug)]
pub(super) struct Active {
    queue: Arc<WorkQueue>,
    served: Served,
    flight: Option<Flight>,
    /// Those that wait for devices.
    away: Away,
    /// Number of the page request that one of them or the flight waits for.
    waits_for: Option<u64>,
    /// What the flight waits for at a port.
    stand: Stand,
    /// It has no turns while it waits for a page.
    rests: bool,
    /// Where it is rung for while it is parked.
    seat: Option<Seat>,
    /// Served since the last look at the clock.
    worked: bool,
    /// Tick of the last look at the clock at which it had worked.
    last_worked: u64,
    reported_dead: bool,
}

impl Active {
    pub(super) fn new(served: Served) -> Self {
        let queue = served.queue().clone();
        let cancels = queue.cancels();
        Self {
            away: Away::new(cancels),
            stand: Stand {
                awaits: None,
                cancels: Some(Arc::clone(cancels)),
            },
            queue,
            served,
            flight: None,
            waits_for: None,
            rests: false,
            seat: None,
            worked: true,
            last_worked: 0,
            reported_dead: false,
        }
    }

    /// Engine-wide number of the queue.
    pub(super) fn id(&self) -> u32 {
        self.queue.id()
    }

    /// Its domain.
    pub(super) fn domain(&self) -> u32 {
        self.queue.domain()
    }

    /// What its domain gets of the workers.
    pub(super) fn account(&self) -> &Arc<Account> {
        self.queue.account()
    }

    /// Whether a chunk would find something to do: one load. `changes` is what has happened to
    /// devices so far.
    #[inline(always)]
    pub(super) fn has_work(&self, changes: u64) -> bool {
        if self.away.is_waiting() {
            return self.has_work_beside(changes);
        }
        self.served.poll().is_some() || self.flight.is_some()
    }

    /// The same where something waits.
    #[inline(never)]
    fn has_work_beside(&self, changes: u64) -> bool {
        if self.away.is_doomed() {
            return true;
        }
        if self.waits_for.is_some() {
            return false;
        }
        if !self.away.is_empty() && self.away.has_news(changes) {
            return true;
        }
        match (&self.stand.awaits, &self.flight) {
            (Some(awaits), _) => awaits.is_over(),
            (None, Some(flight)) => !flight.held || self.away.is_empty(),
            (None, None) => match self.served.poll() {
                Some(word) => self.away.has_room() || is_urgent(word),
                None => false,
            },
        }
    }

    /// One chunk of work: the rest of a long descriptor, or as many small ones as fit. What comes after it, and what was spent.
    #[inline]
    pub(super) fn serve<B: Backend>(
        &mut self,
        tools: &mut Tools<B>,
        guard: &ChunkGuard<'_>,
        budget: Budget,
        changes: u64,
    ) -> (Next, Budget) {
        self.worked = true;
        self.served.watch_log();
        self.away.begin_turn(changes);
        let has_waited = self.away.is_waiting();
        if has_waited {
            // What is still to be waited for at a port when something else has happened is found anew.
            self.stand.awaits = None;
        }
        let Self {
            queue,
            served,
            flight,
            away,
            waits_for,
            stand,
            ..
        } = self;
        let mut chunk = Chunk {
            guard,
            awaited: guard.awaited(),
            context: queue.context(),
            iotlb: &mut tools.iotlb,
            windows: Windows::new(),
            backend: &mut tools.backend,
            staging: &mut tools.staging,
            budget,
            regions_lost: tools.regions_lost,
            missing: None,
            stand,
            codecs: &mut tools.codecs,
        };
        let next = if has_waited {
            serve_waiting(&mut chunk, served, flight, away, waits_for, changes)
        } else {
            serve_rest(&mut chunk, served, flight, away, waits_for)
        };
        let budget = chunk.end();
        if has_waited {
            self.settle();
        }
        (next, budget)
    }

    /// After a turn of a queue in which something waited.
    fn settle(&mut self) {
        let waits = !self.away.is_empty() || self.stand.awaits.is_some();
        if !waits && self.waits_for.is_none() && !self.away.is_cancelling() {
            self.away.waits_no_more();
        }
    }

    /// Whether some of it waits for a device.
    pub(super) fn is_away(&self) -> bool {
        !self.away.is_empty()
    }

    /// Its turns are over until the page that it waits for is answered for, or somebody asks to cancel
    /// something. False: somebody does.
    pub(super) fn rest(&mut self) -> bool {
        self.rests = self.away.falls_asleep();
        self.rests
    }

    /// Whether it waits for a page, and is to have no turns until then.
    pub(super) fn waits(&self) -> bool {
        self.waits_for.is_some()
    }

    /// Gives it turns again. True: it had none.
    pub(super) fn wake(&mut self) -> bool {
        self.away.wakes_up();
        std::mem::take(&mut self.rests)
    }

    /// The answer to page request `number`. False: it waits for none such.
    pub(super) fn answer(&mut self, number: u64, verdict: Verdict) -> bool {
        if self.waits_for != Some(number) {
            return false;
        }
        self.waits_for = None;
        self.worked = true;
        let asked = self.away.take_asked();
        if let Some(flight) = asked.or(self.flight.as_mut()) {
            flight.execution.answer(verdict);
        }
        true
    }

    /// Notes which worker serves it.
    pub(super) fn set_worker(&self, index: usize) {
        self.queue.cancels().set_worker(index);
    }

    /// Makes its counters visible.
    #[inline]
    pub(super) fn publish(&self) {
        self.served.publish();
    }

    /// Descriptors completed and bytes touched so far.
    #[inline]
    pub(super) fn progress(&self) -> (u64, u64) {
        let stats = self.served.stats();
        (stats.descriptors, stats.bytes)
    }

    /// A look at the clock: whether the queue has been idle for `limit` ticks.
    pub(super) fn is_idle_for(&mut self, now: u64, limit: u64) -> bool {
        let is_busy = self.flight.is_some() && self.stand.awaits.is_none();
        if self.worked || is_busy || !self.away.is_empty() {
            self.worked = false;
            self.last_worked = now;
        }
        !self.queue.no_park() && now.wrapping_sub(self.last_worked) >= limit
    }

    /// Asks for a kick. False: work came meanwhile, it stays polled.
    ///
    /// One that waits at a port needs no kick, since its ring is not looked at: it takes a
    /// seat there.
    pub(super) fn park(&mut self) -> bool {
        match &self.stand.awaits {
            None => self.served.park(),
            Some(awaits) => {
                let seat = awaits.park(self.queue.domain());
                self.seat = seat.filter(|_| self.away.falls_asleep());
                self.seat.is_some()
            }
        }
    }

    /// Polled again: asks for no kick, and its idle time starts anew.
    pub(super) fn unpark(&mut self) {
        self.worked = true;
        self.seat = None;
        self.wake();
        self.served.unpark();
    }

    /// Reports the queue dead, once, if its domain's memory has lost its backing.
    pub(super) fn check_memory(&mut self) {
        let memory_is_dead = self.queue.context().space().memory().is_dead();
        if memory_is_dead && !self.reported_dead {
            self.reported_dead = true;
            self.served.report_dead(Status::RegionGone);
        }
    }

    /// Ends the queue: what is in flight and what was published end in status 62. Not
    /// on a worker: a full ring takes longer than a chunk.
    pub(super) fn abort(mut self) {
        let away = self.away.take_all();
        for Flight {
            ticket, execution, ..
        } in away.into_iter().chain(self.flight.take())
        {
            let outcome = execution.abort();
            if !self.served.queue().is_abandoned() {
                self.served
                    .complete(ticket, &outcome.completion, outcome.bytes, false);
            }
        }
        self.served.abort();
    }
}
