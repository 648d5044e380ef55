//! Messages through ports: SEND and RECEIVE (SPEC sections 4.29, 4.30 and 7.8).

use byway_protocols::port::PORT_MESSAGE_MAX;
use byway_protocols::{Completion, Flags, Opcode, Status};

use crate::request::{Address, Request, RequestError, Slot, sized};

/// A message that has been received: what a RECEIVE's completion tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of it, at the beginning of the buffer.
    pub bytes: u32,
    /// Badge of the capability by which it was sent: who sent it.
    pub badge: u64,
}

impl Received {
    /// The message of a RECEIVE that has succeeded; `None` after any other status.
    #[must_use]
    pub fn of(completion: &Completion) -> Option<Self> {
        (completion.status() == Some(Status::Success)).then_some(Self {
            bytes: completion.bytes_completed,
            badge: completion.op0,
        })
    }
}

impl Request {
    /// SEND: sends `size` bytes, at most 4096, to the port in slot `port`. It completes when
    /// the port has them, and waits for as long as that is full.
    ///
    /// # Errors
    /// The size is out of range, or the operand wraps.
    #[inline]
    pub fn send(port: Slot, src: Address, size: u64) -> Result<Self, RequestError> {
        if size > u64::from(PORT_MESSAGE_MAX) {
            return Err(RequestError::Size(size));
        }
        let port = Address::capability(port, 0);
        let mut descriptor = sized(Opcode::Send, Some(src), Some(port), size)?;
        descriptor.src = src.addr;
        Ok(Self(descriptor))
    }

    /// RECEIVE: the oldest message of the port in slot `port`, into a buffer of `size` bytes;
    /// see [`Received::of`]. It waits for as long as there is none, and holds up what comes
    /// behind it in its queue. To sleep meanwhile, ask for an interrupt with
    /// [`Request::interrupting`].
    ///
    /// # Errors
    /// The size is out of range, or the operand wraps.
    #[inline]
    pub fn receive(port: Slot, dst: Address, size: u64) -> Result<Self, RequestError> {
        let port = Address::capability(port, 0);
        let mut descriptor = sized(Opcode::Receive, Some(port), Some(dst), size)?;
        descriptor.dst = dst.addr;
        Ok(Self(descriptor))
    }

    /// End in status 64 instead of waiting for the other side of the port.
    ///
    /// # Errors
    /// The operation is not SEND or RECEIVE.
    #[inline]
    pub fn without_waiting(self) -> Result<Self, RequestError> {
        self.with_if(Flags::NO_WAIT, |opcode| {
            matches!(opcode, Opcode::Send | Opcode::Receive)
        })
    }
}

#[cfg(test)]
mod tests {
    use byway_protocols::Descriptor;

    use super::*;

    #[test]
    fn messages_name_their_port_and_one_place() {
        let port = Slot::new(5).unwrap();
        let send = Request::send(port, Address::own(0x1000), 4096).unwrap();
        let d = Descriptor::from(send.without_waiting().unwrap());
        assert_eq!((d.slots().src_slot(), d.slots().dst_slot()), (0, 5));
        assert_eq!((d.src, d.dst, d.size), (0x1000, 0, 4096));
        assert_eq!((d.code(), d.flags()), (0x6c, Flags::NO_WAIT));
        let receive = Request::receive(port, Address::own(0x2000), 8192).unwrap();
        let d = Descriptor::from(receive.interrupting());
        assert_eq!((d.slots().src_slot(), d.slots().dst_slot()), (5, 0));
        assert_eq!((d.src, d.dst, d.size), (0, 0x2000, 8192));
        assert_eq!((d.code(), d.flags()), (0x6d, Flags::REQUEST_INTERRUPT));
    }

    #[test]
    fn what_the_engine_would_refuse_is_refused() {
        let (port, own) = (Slot::new(5).unwrap(), Address::own(0));
        for size in [0, 4097] {
            let refused = Request::send(port, own, size).err();
            assert_eq!(refused, Some(RequestError::Size(size)));
        }
        let nop = Request::memmove(own, Address::own(64), 8).unwrap();
        let refused = nop.without_waiting().err();
        assert_eq!(refused, Some(RequestError::Flag(Opcode::Memmove)));
    }

    #[test]
    fn a_completion_tells_of_a_message_only_when_there_is_one() {
        let told = Completion {
            status: Status::Success as u8,
            bytes_completed: 7,
            op0: 9,
            ..Completion::default()
        };
        let expected = Received { bytes: 7, badge: 9 };
        assert_eq!(Received::of(&told), Some(expected));
        let status = Status::Overflow as u8;
        assert_eq!(Received::of(&Completion { status, ..told }), None);
    }
}
