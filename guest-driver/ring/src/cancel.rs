//! Requests that give up others (SPEC section 4.34).

use byway_protocols::operands::{CancelFields, cancel_flags};
use byway_protocols::ring::ENTRIES_MAX;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status};

use crate::outcome::Failure;
use crate::queue::Ticket;
use crate::request::{Request, RequestError};

/// What the completion of a CANCEL tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled {
    /// Descriptors that it has ended, each in status 62: their completions are there. Others that it was
    /// about have completed by themselves, or do so soon; only from another queue it may have come before
    /// one had begun, which may wait yet: ask again while a completion is missing.
    pub descriptors: u32,
}

impl Cancelled {
    /// Of a CANCEL.
    ///
    /// # Errors
    /// It did not succeed.
    pub fn of(completion: &Completion) -> Result<Self, Failure> {
        let completion = Failure::unless(completion, &[Status::Success])?;
        Ok(Self {
            descriptors: completion.bytes_completed,
        })
    }
}

fn everything(queue: u32) -> Request {
    let fields = CancelFields {
        queue,
        flags: cancel_flags::EVERYTHING,
        ..CancelFields::default()
    };
    let descriptor = Descriptor::new(Opcode::Cancel, Flags::NONE);
    Request(descriptor.with_operands(fields.to_bytes()))
}

fn range(queue: u32, first: Ticket, count: u32) -> Result<Request, RequestError> {
    if count == 0 || count > ENTRIES_MAX {
        return Err(RequestError::Cancelled(count));
    }
    let fields = CancelFields {
        queue,
        first: first.sequence(),
        ..CancelFields::default()
    };
    let mut descriptor = Descriptor::new(Opcode::Cancel, Flags::NONE);
    descriptor.size = count;
    Ok(Request(descriptor.with_operands(fields.to_bytes())))
}

impl Request {
    /// CANCEL: whatever is before it in its own queue, has not completed and waits for a device. What a queue
    /// holds up as a whole (a RECEIVE, a FENCE, a page) holds this up as well: see
    /// [`Request::cancel_queue`].
    #[inline]
    pub fn cancel_before() -> Self {
        everything(0)
    }

    /// CANCEL: `count` descriptors before it in its own queue, from this one on.
    ///
    /// # Errors
    /// There are none, or more than a ring has entries.
    #[inline]
    pub fn cancel(first: Ticket, count: u32) -> Result<Self, RequestError> {
        range(0, first, count)
    }

    /// CANCEL: all of another queue of the same context, by the number that the kernel gave it
    /// ([`WorkQueue::number`](crate::WorkQueue::number)).
    #[inline]
    pub fn cancel_queue(number: u32) -> Self {
        everything(number)
    }

    /// CANCEL: `count` descriptors of another queue, from this one on.
    ///
    /// # Errors
    /// As [`Request::cancel`].
    #[inline]
    pub fn cancel_in(number: u32, first: Ticket, count: u32) -> Result<Self, RequestError> {
        range(number, first, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(request: Request) -> (Descriptor, CancelFields) {
        let d = Descriptor::from(request);
        (d, CancelFields::from_bytes(&d.operands()))
    }

    #[test]
    fn each_names_its_queue_and_its_descriptors() {
        let (d, f) = fields(Request::cancel_before());
        assert_eq!((d.code(), d.size, d.word0), (0x71, 0, 0));
        assert_eq!((f.queue, f.first, f.flags), (0, 0, 1));
        let (d, f) = fields(Request::cancel_queue(7));
        assert_eq!((d.size, f.queue, f.first, f.flags), (0, 7, 0, 1));
        let ticket = Ticket::numbered(0xffff_fffe);
        let (d, f) = fields(Request::cancel(ticket, 1).unwrap());
        assert_eq!((d.size, f.queue, f.first, f.flags), (1, 0, 0xffff_fffe, 0));
        let (d, f) = fields(Request::cancel_in(9, ticket, 32768).unwrap());
        assert_eq!((d.size, f.queue, f.flags), (32768, 9, 0));
        for count in [0, 32769] {
            let refused = Request::cancel(ticket, count).err();
            assert_eq!(refused, Some(RequestError::Cancelled(count)));
        }
        assert!(Request::cancel_before().blocking_on_fault().is_err());
    }

    #[test]
    fn a_completion_tells_how_many() {
        let done = Completion {
            status: Status::Success as u8,
            bytes_completed: 3,
            ..Completion::default()
        };
        assert_eq!(Cancelled::of(&done), Ok(Cancelled { descriptors: 3 }));
        let status = Status::BadCount as u8;
        assert!(Cancelled::of(&Completion { status, ..done }).is_err());
    }
}
