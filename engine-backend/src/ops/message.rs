//! SEND and RECEIVE (SPEC sections 4.29 and 4.30): each a copy between one's own memory and
//! a port, through the staging, whole and in one go.

use byway_protocols::{Completion, Rights, Status};

use super::chunk::{Chunk, Failure, Operand};
use super::{Outcome, Step, success};
use crate::backend::Backend;
use crate::context::PortUse;
use crate::port::{Await, Side};
use crate::stage2::Access;

/// One message's way into a port, or out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transit {
    /// Which way.
    pub side: Side,
    /// The port's slot; right SEND or RECEIVE.
    pub port: u16,
    /// The message, right READ; or room for one, right WRITE.
    pub local: Operand,
    /// Bytes there, at least 1.
    pub size: u32,
    /// End instead of waiting.
    pub no_wait: bool,
}

/// What came of a look at the port.
enum Look {
    /// The end, with so many bytes copied.
    Done(Completion, u64),
    /// Nothing there: the other side has to come first.
    Waits,
    /// Another receiver looks at the message at this moment.
    Again,
}

impl Transit {
    /// Looks at the port, and copies when it is ready.
    pub fn step<B: Backend>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        let look = match self.side {
            Side::Sender => self.send(chunk),
            Side::Receiver => self.receive(chunk),
        };
        let (completion, bytes) = match look {
            Ok(Look::Done(completion, bytes)) => (completion, bytes),
            Ok(Look::Waits) => return Step::Waits,
            Ok(Look::Again) => return Step::More,
            Err(failure) => (failure.completion(0, 0), 0),
        };
        Step::Done(Outcome { completion, bytes })
    }

    fn send<B: Backend>(&self, chunk: &mut Chunk<'_, B>) -> Result<Look, Failure> {
        let len = self.size as usize;
        let size = u64::from(self.size);
        let context = chunk.context;
        let used = context.resolve_port(chunk.guard, self.port, size, Rights::SEND)?;
        if len > used.port.message_max() {
            return Err(Status::Overflow.into());
        }
        let src = chunk.resolve(self.local, size, Rights::READ)?;
        let Some(room) = used.port.room() else {
            return self.wait(chunk, &used);
        };
        let copied = chunk.copy_in(&src, 0, 0..len);
        chunk.budget.spend(size);
        chunk.settle(&[(&src, Access::Read, copied.bytes as u64)])?;
        if let Some(failure) = copied.failure {
            return Err(failure);
        }
        // Before: once the message is in the port it may be received.
        used.account(0, size);
        room.send(&chunk.staging.bytes()[..len], used.badge());
        Ok(Look::Done(success(self.size), size))
    }

    fn receive<B: Backend>(&self, chunk: &mut Chunk<'_, B>) -> Result<Look, Failure> {
        let context = chunk.context;
        let used = context.resolve_port(chunk.guard, self.port, 1, Rights::RECEIVE)?;
        let room = u64::from(self.size);
        let dst = chunk.resolve(self.local, room, Rights::WRITE)?;
        let Some(oldest) = used.port.oldest() else {
            return Ok(Look::Again);
        };
        let Some(message) = oldest.message() else {
            drop(oldest);
            return self.wait(chunk, &used);
        };
        let (len, badge) = (message.bytes().len(), message.badge());
        let size = len as u64;
        if size > room {
            let completion = Completion {
                status: Status::Overflow as u8,
                op0: badge,
                op1: size,
                ..Completion::default()
            };
            return Ok(Look::Done(completion, 0));
        }
        if !used.within_limits(size) {
            return Err(Status::Revoked.into());
        }
        chunk.staging.bytes()[..len].copy_from_slice(message.bytes());
        let copied = chunk.copy_out(&dst, 0, 0..len);
        chunk.budget.spend(size);
        chunk.settle(&[(&dst, Access::Write, copied.bytes as u64)])?;
        if let Some(failure) = copied.failure {
            return Err(failure);
        }
        used.account(size, 0);
        oldest.received();
        let completion = Completion {
            op0: badge,
            ..success(len as u32)
        };
        Ok(Look::Done(completion, size))
    }

    fn wait<B>(&self, chunk: &mut Chunk<'_, B>, used: &PortUse<'_>) -> Result<Look, Failure> {
        if self.no_wait {
            return Err(Status::NotReady.into());
        }
        chunk.stand.awaits = Some(Await::new(
            used.port.clone(),
            self.side,
            used.owner(),
            used.epoch,
        ));
        Ok(Look::Waits)
    }
}
