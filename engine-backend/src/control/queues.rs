//! QUEUE_CREATE, QUEUE_DESTROY, QUEUE_ARM.

use byway_protocols::control::{QueueCreateReply, QueueCreateRequest, QueueRequest, queue_flags};
use byway_protocols::{ControlStatus, Descriptor, RingPosition};

use crate::domain::{Domain, QueueArguments};

pub(super) fn create(
    domain: &Domain,
    q: &QueueCreateRequest,
) -> Result<QueueCreateReply, ControlStatus> {
    let is_aligned = |gpa: u64| gpa.is_multiple_of(align_of::<Descriptor>() as u64);
    let entries = RingPosition::new(q.entries)
        .filter(|_| q.entries <= domain.quotas().queue_entries)
        .ok_or(ControlStatus::BadArgument)?;
    let aligned = [q.ring, q.completions, q.header]
        .into_iter()
        .all(is_aligned);
    if !aligned || q.flags & !queue_flags::ALL != 0 {
        return Err(ControlStatus::BadArgument);
    }
    let queue = domain.create_queue(&QueueArguments {
        context: q.context,
        entries,
        ring: q.ring,
        completions: q.completions,
        header: q.header,
        no_park: q.flags & queue_flags::NO_PARK != 0,
    })?;
    Ok(QueueCreateReply {
        queue,
        reserved4: 0,
    })
}

pub(super) fn destroy(domain: &Domain, q: &QueueRequest) -> Result<(), ControlStatus> {
    domain.destroy_queue(q.queue)
}

pub(super) fn arm(domain: &Domain, q: &QueueRequest) -> Result<(), ControlStatus> {
    domain.arm_queue(q.queue)
}
