//! The measuring loops: one descriptor again and again, through the ring-3 library as an
//! application would.
//!
//! Owns nothing. Between the first submission and the last completion nothing here traps, unless
//! the queue parks: what is measured is the engine.

use byway_agent::commands::{
    RUN_SAMPLES, RUN_SAMPLES_MAX, RUN_STOP_ON_FAILURE, RUN_TEMPLATE, Ran, Run,
};
use byway_agent::guest::GuestChannel;
use byway_agent::{Failure, Status};
use byway_ring::{Completion, Descriptor};

use super::now;
use super::queues::Queue;
use super::transfer::{descriptor_at, ring_doorbell, words};

/// Fruitless polls between two looks at whether the host wants the command to end.
const POLLS_PER_LOOK: u32 = 1 << 16;
/// Such looks that go by after the host said so before descriptors are given up: seconds, since a worker may have no core and a
/// page may be waited for.
const LOOKS_BEFORE_ABANDON: u32 = 8192;
/// Descriptors between two such looks where there is always something to do.
const DESCRIPTORS_PER_LOOK: u64 = 1 << 10;

/// Descriptors with addresses that move on.
struct Source {
    template: Descriptor,
    added: u64,
    stride: u64,
    window: u64,
}

impl Source {
    #[inline]
    fn next(&mut self) -> Descriptor {
        let mut descriptor = self.template;
        descriptor.src = descriptor.src.wrapping_add(self.added);
        descriptor.dst = descriptor.dst.wrapping_add(self.added);
        self.added = self.added.wrapping_add(self.stride);
        if self.window != 0 && self.added >= self.window {
            self.added = 0;
        }
        descriptor
    }
}

/// What came back so far.
#[derive(Default)]
struct Tally {
    completed: u64,
    failures: u64,
    first_failure: [u64; 4],
}

impl Tally {
    #[inline]
    fn take(&mut self, completion: &Completion) {
        self.completed += 1;
        if completion.status != byway_ring::Status::Success as u8 {
            self.fail(completion);
        }
    }

    #[cold]
    fn fail(&mut self, completion: &Completion) {
        if self.failures == 0 {
            self.first_failure = words(completion);
        }
        self.failures += 1;
    }
}

/// When to end before all is done.
struct Patience<'c> {
    channel: &'c GuestChannel,
    stop_on_failure: bool,
    polls: u32,
    looks: u32,
    stopping: bool,
}

impl Patience<'_> {
    /// Whether no more descriptors should be submitted, as far as can be told without a look.
    #[inline]
    fn is_over(&self, tally: &Tally) -> bool {
        self.stopping || self.stop_on_failure && tally.failures != 0
    }

    #[inline]
    fn look_every(&mut self, completed: u64) {
        if completed.is_multiple_of(DESCRIPTORS_PER_LOOK) {
            self.stopping |= self.channel.should_stop();
        }
    }

    /// A fruitless poll; whether to give up on what is outstanding.
    #[inline]
    fn is_lost(&mut self) -> bool {
        self.polls = self.polls.wrapping_add(1);
        self.polls.is_multiple_of(POLLS_PER_LOOK) && self.look()
    }

    #[cold]
    fn look(&mut self) -> bool {
        self.stopping |= self.channel.should_stop();
        self.looks += u32::from(self.stopping);
        self.looks > LOOKS_BEFORE_ABANDON
    }
}

/// Room for one latency each, in the bulk area.
struct Samples {
    next: *mut u32,
    left: u64,
}

impl Samples {
    /// The time, if it is of use: reading it takes as long as a part of what is measured.
    #[inline]
    fn start(&self) -> u64 {
        if self.left > 0 { now() } else { 0 }
    }

    /// Keeps the time since `start`.
    #[inline]
    fn push_since(&mut self, start: u64) {
        if self.left > 0 {
            let ticks = now() - start;
            // SAFETY: `run` checked that `left` of them fit, and they are written by this process
            // alone.
            unsafe {
                self.next
                    .write_volatile(u32::try_from(ticks).unwrap_or(u32::MAX));
                self.next = self.next.add(1);
            }
            self.left -= 1;
        }
    }
}

/// Runs the loop that the request asks for.
pub fn run(channel: &GuestChannel, queue: &mut Queue, request: &Run) -> Result<Ran, Failure> {
    if queue.outstanding() != 0 {
        return Err(Failure::argument(0, request.queue));
    }
    if request.depth == 0 || request.depth > u64::from(queue.entries()) {
        return Err(Failure::argument(2, request.depth));
    }
    if request.samples > RUN_SAMPLES_MAX || request.samples != 0 && request.depth != 1 {
        return Err(Failure::argument(3, request.samples));
    }
    if request.flags & !RUN_STOP_ON_FAILURE != 0 {
        return Err(Failure::argument(6, request.flags));
    }
    let bytes = request.samples * size_of::<u32>() as u64;
    let room = channel.bulk_range(RUN_SAMPLES as u64, bytes);
    let room = room.ok_or(Failure::argument(3, request.samples))?.as_ptr();
    // SAFETY: just checked. Touched beforehand, so that no page of it is missing while time is
    // taken.
    unsafe { room.write_bytes(0, bytes as usize) };
    let mut samples = Samples {
        next: room.cast(),
        left: request.samples,
    };
    let mut source = Source {
        template: descriptor_at(channel, RUN_TEMPLATE),
        added: 0,
        stride: request.stride,
        window: request.window,
    };
    let mut patience = Patience {
        channel,
        stop_on_failure: request.flags & RUN_STOP_ON_FAILURE != 0,
        polls: 0,
        looks: 0,
        stopping: false,
    };
    let mut tally = Tally::default();

    let start = now();
    let kicks = if request.depth == 1 {
        one_by_one(
            queue,
            request,
            &mut source,
            &mut patience,
            &mut samples,
            &mut tally,
        )?
    } else {
        many_at_once(queue, request, &mut source, &mut patience, &mut tally)?
    };
    let ticks = now() - start;

    let [first_failure, fault_addr, ..] = tally.first_failure;
    Ok(Ran {
        ticks,
        completed: tally.completed,
        failures: tally.failures,
        first_failure,
        fault_addr,
        samples: request.samples - samples.left,
        kicks,
        abandoned: u64::from(queue.outstanding()),
    })
}

/// Depth 1: each descriptor is submitted when the one before is done. Returns the doorbells rung.
fn one_by_one(
    queue: &mut Queue,
    request: &Run,
    source: &mut Source,
    patience: &mut Patience<'_>,
    samples: &mut Samples,
    tally: &mut Tally,
) -> Result<u64, Failure> {
    let mut kicks = 0;
    while tally.completed < request.iterations && !patience.is_over(tally) {
        let descriptor = source.next();
        let before = samples.start();
        let submitted = queue.submit(descriptor);
        let submitted = submitted.map_err(|_| Failure::new(Status::QueueDead, request.queue))?;
        if submitted.kick {
            ring_doorbell()?;
            kicks += 1;
        }
        let completion = loop {
            if let Some((_, completion)) = queue.poll() {
                break completion;
            }
            if patience.is_lost() {
                return Ok(kicks);
            }
        };
        samples.push_since(before);
        tally.take(&completion);
        patience.look_every(tally.completed);
    }
    Ok(kicks)
}

/// Any other depth: the ring is kept as full as asked. Returns the doorbells rung.
fn many_at_once(
    queue: &mut Queue,
    request: &Run,
    source: &mut Source,
    patience: &mut Patience<'_>,
    tally: &mut Tally,
) -> Result<u64, Failure> {
    let depth = request.depth as u32;
    let mut kicks = 0;
    let mut submitted = 0;
    loop {
        let over = patience.is_over(tally);
        let mut posted = false;
        while !over
            && submitted < request.iterations
            && queue.outstanding() < depth
            && queue.room() > 0
        {
            let ticket = queue.post(source.next());
            ticket.map_err(|_| Failure::new(Status::QueueDead, request.queue))?;
            submitted += 1;
            posted = true;
        }
        if posted && queue.kick_due() {
            ring_doorbell()?;
            kicks += 1;
        }
        if queue.outstanding() == 0 {
            return Ok(kicks);
        }
        // All that is there before the next round of submissions: one fence for several.
        let mut found = false;
        while let Some((_, completion)) = queue.poll() {
            tally.take(&completion);
            patience.look_every(tally.completed);
            found = true;
        }
        if !found && patience.is_lost() {
            return Ok(kicks);
        }
    }
}
