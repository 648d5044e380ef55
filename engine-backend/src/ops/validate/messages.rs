//! SEND and RECEIVE.

use byway_protocols::port::PORT_MESSAGE_MAX;
use byway_protocols::{Descriptor, Flags, Opcode, Status};

use super::{FAULTS, common, dst_operand, put, src_operand, transfer_size};
use crate::ops::Operation;
use crate::ops::message::Transit;
use crate::ops::rare::Rare;
use crate::port::Side;

/// A queue's descriptor with a code that batches do not take.
#[cold]
#[inline(always)]
pub(super) fn transit(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let (side, port, local, unused) = match Opcode::from_code(d.code()) {
        Some(Opcode::Send) => {
            let port = d.slots().dst_slot();
            (Side::Sender, port, src_operand(d), d.dst)
        }
        Some(Opcode::Receive) => {
            let port = d.slots().src_slot();
            (Side::Receiver, port, dst_operand(d), d.src)
        }
        _ => return Err(Status::BadOpcode),
    };
    let unused = unused | d.status_array | d.op0 | d.op1 | d.op2;
    common(d, FAULTS | Flags::NO_WAIT.0, unused)?;
    let size = transfer_size(d)?;
    if side == Side::Sender && size > PORT_MESSAGE_MAX {
        return Err(Status::BadSize);
    }
    put(
        into,
        Operation::Rare(Rare::Transit(Transit {
            side,
            port,
            local,
            size,
            no_wait: d.flags().contains(Flags::NO_WAIT),
        })),
    );
    Ok(())
}
