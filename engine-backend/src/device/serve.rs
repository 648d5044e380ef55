//! The control thread's part: carrying out requests and delivering events.

use std::time::{Duration, Instant};

use byway_protocols::config::{CONTROL_QUEUE, EVENT_QUEUE};
use byway_protocols::control::{MESSAGE_BYTES_MAX, ReplyHeader};
use byway_protocols::event::EventKind;
use byway_protocols::{ControlStatus, Event};

use super::vring::{Broken, Chain, Running};
use super::{Device, State};
use crate::control;
use crate::domain::Stopwatch;
use crate::endpoint::{Reached, Reaching};
use crate::seldom::Seldom;

/// Requests carried out before the next domain has its turn.
const REQUESTS_PER_TURN: usize = 16;
/// No request but the first is begun after this much of a turn, and none that takes longer is
/// finished in it.
const TURN_MAX: Duration = Duration::from_millis(1);
/// Events delivered before the next domain has its turn.
const EVENTS_PER_TURN: usize = 256;

/// Between two looks at devices that a reply waits for.
const HELD_LOOK: Duration = Duration::from_micros(200);

/// One byte more than the longest message, to tell a longer one.
const COPY_MAX: usize = MESSAGE_BYTES_MAX + 1;

/// A chain of the control virtqueue.
pub(super) type Request = Chain<COPY_MAX>;

/// A request that is answered when devices have answered.
#[derive(Debug)]
pub(super) struct Held {
    request: Request,
    reply: control::Reply,
    reaching: Reaching,
    since: Instant,
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more to do until somebody says so.
    Idle,
    /// There may be more.
    More,
    /// A reply waits for a device: to be looked at soon, though nobody says so.
    Held,
}

impl Device {
    /// Does a turn's work for the driver.
    pub fn serve(&self) -> Turn {
        self.domain.events().begin();
        let Some(mut state) = self.try_state() else {
            return Turn::Idle;
        };
        if state.paused {
            return Turn::Idle;
        }
        self.domain.ask_for_pages();
        if self.domain.memory().is_dead() {
            self.quarantine(&mut state);
            return Turn::Idle;
        }
        let more_requests = self.serve_requests(&mut state);
        // After the requests, which may have caused some.
        let more_events = self.serve_events(&mut state);
        if more_requests || more_events {
            Turn::More
        } else if state.held.is_some() {
            Turn::Held
        } else {
            Turn::Idle
        }
    }

    fn serve_requests(&self, state: &mut State) -> bool {
        if !self.answer_held(state) {
            return false;
        }
        let State {
            ram,
            vrings,
            unfinished,
            held,
            ..
        } = state;
        let Some(vring) = serviceable(&mut vrings[usize::from(CONTROL_QUEUE)]) else {
            // Its answer has nowhere to go: whoever finishes requests would wait for it for ever.
            *unfinished = None;
            return false;
        };
        let turn = Instant::now();
        for done in 0..REQUESTS_PER_TURN {
            let stopwatch = Stopwatch::start();
            // The host may have taken the core in the meantime: one request each turn there is.
            if done > 0 && stopwatch.started().duration_since(turn) > TURN_MAX {
                break;
            }
            let next = unfinished
                .take()
                .map_or_else(|| vring.take(ram), |chain| Ok(Some(chain)));
            let outcome = next.and_then(|chain| {
                let Some(chain) = chain else { return Ok(None) };
                if self.begin(&chain) {
                    *unfinished = Some(chain);
                    return Ok(None);
                }
                let (reply, revoked) = self.carry_out(&chain);
                let reaching = self.domain.take_reaching();
                if let Some(reply) = reply.as_ref().filter(|_| !reaching.is_empty()) {
                    *held = Some(Held {
                        request: chain,
                        reply: reply.clone(),
                        reaching,
                        since: stopwatch.started(),
                    });
                    return Ok(None);
                }
                let bytes = reply.as_ref().map_or(&[][..], control::Reply::bytes);
                vring.put(ram, &chain, bytes)?;
                Ok(Some(revoked))
            });
            match outcome {
                Ok(None) => return unfinished.is_some(),
                Ok(Some(revoked)) => {
                    if revoked {
                        self.domain.core().revokes().record(stopwatch);
                    }
                    vring.notify(ram);
                }
                Err(e) => {
                    self.give_up(vring, "control", &e);
                    return false;
                }
            }
        }
        true
    }

    /// Answers the request that waits for devices, if one does and they have answered. False: it waits on.
    fn answer_held(&self, state: &mut State) -> bool {
        let State {
            ram, vrings, held, ..
        } = state;
        let Some(waiting) = held else { return true };
        let reached = waiting.reaching.look();
        if reached == Reached::Something {
            return false;
        }
        let Some(Held {
            request,
            reply,
            since,
            ..
        }) = held.take()
        else {
            return true;
        };
        let is_overdue = reached == Reached::Overdue;
        self.domain.core().device_waits().record(since, is_overdue);
        let reply = match is_overdue && reply.is_ok() {
            true => reply.with_status(ControlStatus::DeviceHolds),
            false => reply,
        };
        if let Some(vring) = serviceable(&mut vrings[usize::from(CONTROL_QUEUE)]) {
            match vring.put(ram, &request, reply.bytes()) {
                Ok(()) => vring.notify(ram),
                Err(e) => self.give_up(vring, "control", &e),
            }
        }
        true
    }

    /// Does a turn's part of a request that takes longer; true when it has more parts.
    fn begin(&self, chain: &Request) -> bool {
        chain.room() >= ReplyHeader::SIZE
            && control::begin(&self.domain, chain.readable(), chain.room(), TURN_MAX)
    }

    /// Finishes the request that is under way, if one is: its virtqueue is about to stop, and
    /// whoever goes on with that takes it for answered. One whose virtqueue has broken meanwhile is given up, and what
    /// it waits for at devices ends in their time: so this ends, whatever the guest does.
    pub(super) fn finish_request(&self, state: &mut State) {
        while state.unfinished.is_some() || state.held.is_some() {
            self.serve_requests(state);
            if state.held.is_some() {
                // The verb's own thread: whoever has called it waits for devices too.
                std::thread::sleep(HELD_LOOK);
            }
        }
    }

    /// The reply to a chain, if it gets one, and whether something was revoked.
    fn carry_out(&self, chain: &Request) -> (Option<control::Reply>, bool) {
        if chain.readable().is_empty() || chain.room() < ReplyHeader::SIZE {
            // A bare doorbell, or no room to say anything.
            return (None, false);
        }
        let handled = control::handle(&self.domain, chain.readable(), chain.room());
        (Some(handled.reply), handled.revoked)
    }

    fn serve_events(&self, state: &mut State) -> bool {
        let State {
            ram,
            vrings,
            pending,
            sequence,
            ..
        } = state;
        let Some(vring) = serviceable(&mut vrings[usize::from(EVENT_QUEUE)]) else {
            return false;
        };
        let mut delivered = false;
        let mut outcome = Ok(true);
        for _ in 0..EVENTS_PER_TURN {
            let next = pending.take().or_else(|| self.next_event(sequence));
            let Some(event) = next else {
                outcome = Ok(false);
                break;
            };
            let chain = match vring.take::<0>(ram) {
                Ok(Some(chain)) => chain,
                Ok(None) => {
                    *pending = Some(event);
                    outcome = Ok(false);
                    break;
                }
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            };
            let bytes = event.to_bytes();
            let fits = chain.room() >= bytes.len();
            let bytes = if fits { &bytes[..] } else { &[] };
            if let Err(e) = vring.put(ram, &chain, bytes) {
                outcome = Err(e);
                break;
            }
            delivered = true;
            if !fits {
                *pending = Some(event);
            }
        }
        if delivered {
            vring.notify(ram);
        }
        outcome.unwrap_or_else(|e| {
            self.give_up(vring, "event", &e);
            false
        })
    }

    /// The next event with its number. Those that were lost have had numbers too.
    fn next_event(&self, sequence: &mut u32) -> Option<Event> {
        let events = self.domain.events();
        let lost = events.take_lost();
        let event = if lost == 0 {
            // Page requests first: transfers wait for them, and quotas bound their number.
            self.domain.next_page_request().or_else(|| events.pop())?
        } else {
            *sequence = sequence.wrapping_add(lost as u32);
            Event {
                kind: EventKind::Lost as u16,
                length: lost,
                ..Event::default()
            }
        };
        let numbered = Event {
            sequence: *sequence,
            ..event
        };
        *sequence = sequence.wrapping_add(1);
        Some(numbered)
    }

    fn give_up(&self, vring: &mut Running, which: &str, why: &Broken) {
        static TOLD: Seldom = Seldom::new();
        vring.break_off();
        TOLD.tell(|| {
            tracing::warn!(
                domain = self.domain.name(),
                "{which} virtqueue is broken and waits for a reset: {why}"
            );
        });
    }

    /// A region lost its backing: the engine's pages are not the guest's any more.
    fn quarantine(&self, state: &mut State) {
        let was_served = state.vrings.iter().flatten().any(|v| !v.is_broken());
        if was_served {
            tracing::error!(
                domain = self.domain.name(),
                "guest memory lost its backing (truncated, punched or failed): detached"
            );
            self.domain.reset();
            // Nobody is told that anything has ended: who attaches it anew waits.
            drop(self.domain.take_reaching());
            state.unfinished = None;
            state.held = None;
            state
                .vrings
                .iter_mut()
                .flatten()
                .for_each(Running::break_off);
        }
    }
}

fn serviceable(vring: &mut Option<Running>) -> Option<&mut Running> {
    vring.as_mut().filter(|v| !v.is_broken())
}
