//! CONTEXT_CREATE and CONTEXT_DESTROY.

use std::time::Duration;

use byway_protocols::ControlStatus;
use byway_protocols::control::{
    ContextCreateReply, ContextCreateRequest, ContextDestroyRequest, PASID_MAX,
};

use crate::domain::Domain;

pub(super) fn create(
    domain: &Domain,
    q: &ContextCreateRequest,
) -> Result<ContextCreateReply, ControlStatus> {
    let slots_max = domain.core().limits().slots_max;
    if q.pasid > PASID_MAX || !(1..=slots_max).contains(&q.slots) {
        return Err(ControlStatus::BadArgument);
    }
    Ok(ContextCreateReply {
        context: domain.create_context(q.pasid, q.slots)?,
        reserved4: 0,
    })
}

/// Does a part of [`destroy`]; true when more is to be done before the rest.
pub(super) fn begin_destroying(domain: &Domain, q: &ContextDestroyRequest, time: Duration) -> bool {
    domain.begin_destroying_context(q.context, time)
}

pub(super) fn destroy(domain: &Domain, q: &ContextDestroyRequest) -> Result<(), ControlStatus> {
    domain.destroy_context(q.context)
}
