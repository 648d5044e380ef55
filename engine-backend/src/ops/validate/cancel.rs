//! CANCEL.

use byway_protocols::operands::{CancelFields, cancel_flags};
use byway_protocols::ring::ENTRIES_MAX;
use byway_protocols::{Descriptor, Status};

use super::{COMMON, any, common, no_dst, no_src, put};
use crate::ops::Operation;
use crate::ops::cancel::Cancel;
use crate::queue::Wanted;

#[cold]
#[inline(always)]
pub(super) fn cancel(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    let fields = CancelFields::from_bytes(&d.operands());
    let is_all = fields.flags & cancel_flags::EVERYTHING != 0;
    let unused = u64::from(fields.flags & !cancel_flags::ALL)
        | any(&fields.reserved9)
        | if is_all { fields.first.into() } else { 0 };
    common(d, COMMON, d.status_array | unused | no_src(d) | no_dst(d))?;
    let wanted = match (is_all, d.size) {
        (true, 0) => Wanted::ALL,
        (false, 1..=ENTRIES_MAX) => Wanted::range(fields.first, d.size),
        _ => return Err(Status::BadCount),
    };
    put(into, Operation::Cancel(Cancel::new(fields.queue, wanted)));
    Ok(())
}
