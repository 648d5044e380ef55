//! Descriptors in, completions out, as the host program words them.
//!
//! Owns nothing. Descriptors are not looked at: an engine must stand whatever they say.

use byway_agent::commands::{
    COMPLETION_RECORD_BYTES, DESCRIPTOR_BYTES, Doorbell, Poll, Polled, Submit, Submitted,
    WaitSleeping, Woken,
};
use byway_agent::guest::GuestChannel;
use byway_agent::layout::BULK_BYTES;
use byway_agent::{Failure, Status};
use byway_ring::context::Wait;
use byway_ring::{Completion, Descriptor, SubmitError, Ticket};

use super::call::kernel;
use super::now;
use super::queues::{Queue, failure};

/// The descriptor at byte `offset` of the bulk area, fetched once.
pub fn descriptor_at(channel: &GuestChannel, offset: usize) -> Descriptor {
    let mut bytes = [0; DESCRIPTOR_BYTES];
    if let Some(from) = channel.bulk_range(offset as u64, DESCRIPTOR_BYTES as u64) {
        // SAFETY: `bulk_range` checked the source.
        unsafe { from.as_ptr().copy_to(bytes.as_mut_ptr(), DESCRIPTOR_BYTES) };
    }
    Descriptor::from_bytes(&bytes)
}

/// Rings the doorbell, which is the kernel's to ring.
pub fn ring_doorbell() -> Result<(), Failure> {
    kernel(Doorbell {}).map(|_| ())
}

/// Publishes a descriptor of the host program's.
pub fn post(queue: &mut Queue, descriptor: Descriptor) -> Result<Ticket, SubmitError> {
    // SAFETY: what it names is memory that the host program allocated for such use, or none of this
    // program's: nothing in this program keeps references there. Where it names more, the damage is
    // the test's.
    unsafe { queue.post(descriptor) }
}

/// Rings the doorbell if that is due, and says whether it was.
pub fn flush(queue: &mut Queue) -> Result<bool, Failure> {
    queue.flush().map_err(|error| failure(error, 0, 0))
}

/// The four words of a completion.
pub fn words(completion: &Completion) -> [u64; 4] {
    [
        completion.publish_word(),
        completion.fault_addr,
        completion.op0,
        completion.op1,
    ]
}

/// Publishes what stands in the bulk area.
pub fn submit(
    channel: &GuestChannel,
    queue: &mut Queue,
    request: &Submit,
) -> Result<Submitted, Failure> {
    if request.count > (BULK_BYTES / DESCRIPTOR_BYTES) as u64 {
        return Err(Failure::argument(1, request.count));
    }
    let mut first = None;
    let mut count = 0;
    while count < request.count {
        let descriptor = descriptor_at(channel, count as usize * DESCRIPTOR_BYTES);
        match post(queue, descriptor) {
            Ok(ticket) => _ = first.get_or_insert(ticket),
            Err(SubmitError::Full) => break,
            Err(SubmitError::Dead) if count == 0 => {
                return Err(Failure::new(Status::QueueDead, request.queue));
            }
            Err(SubmitError::Dead) => break,
        }
        count += 1;
    }
    let tsc = now();
    let kick = flush(queue)?;
    let first = u64::from(first.map_or(0, Ticket::sequence));
    Ok(Submitted {
        count,
        first,
        tsc,
        kicks: u64::from(kick),
    })
}

/// Consumes completions into the bulk area.
pub fn poll(channel: &GuestChannel, queue: &mut Queue, request: &Poll) -> Result<Polled, Failure> {
    if request.max > (BULK_BYTES / COMPLETION_RECORD_BYTES) as u64 {
        return Err(Failure::argument(1, request.max));
    }
    let start = now();
    let mut count = 0;
    while count < request.max && queue.outstanding() > 0 {
        if let Some((ticket, completion)) = queue.poll() {
            record(channel, count, now(), ticket, &completion);
            count += 1;
        } else if now() - start > request.ticks || channel.should_stop() {
            break;
        }
    }
    Ok(Polled {
        count,
        outstanding: u64::from(queue.outstanding()),
    })
}

/// Writes record `index`.
fn record(channel: &GuestChannel, index: u64, tsc: u64, ticket: Ticket, completion: &Completion) {
    let [a, b, c, d] = words(completion);
    let words = [u64::from(ticket.sequence()), tsc, a, b, c, d];
    let offset = index * COMPLETION_RECORD_BYTES as u64;
    if let Some(to) = channel.bulk_range(offset, COMPLETION_RECORD_BYTES as u64) {
        // SAFETY: `bulk_range` checked the target, and records are multiples of 8 bytes in an area
        // that begins on a page.
        unsafe { to.cast::<[u64; 6]>().write(words) };
    }
}

/// Sleeps until a completion is there.
pub fn wait_sleeping(
    channel: &GuestChannel,
    queue: &mut Queue,
    request: &WaitSleeping,
) -> Result<Woken, Failure> {
    let mut sleeps = 0;
    loop {
        if queue.outstanding() == 0 {
            return Err(Failure::argument(0, request.queue));
        }
        if channel.should_stop() {
            return Err(Failure::new(Status::TimedOut, sleeps));
        }
        // Before the look at the completions: an interrupt after this is one to wake for.
        let armed = queue
            .arm()
            .map_err(|error| failure(error, 0, request.queue))?;
        if let Some((ticket, completion)) = queue.poll_any() {
            let [word0, word1, word2, word3] = words(&completion);
            let number = u64::from(ticket.sequence());
            return Ok(Woken {
                number,
                word0,
                word1,
                word2,
                word3,
                sleeps,
            });
        }
        queue
            .sleep(armed, Wait::Forever)
            .map_err(|error| failure(error, 0, request.queue))?;
        sleeps += 1;
    }
}
