//! PAGE_RESPONSE.

use byway_protocols::ControlStatus;
use byway_protocols::control::{PageResponseRequest, page_outcome};

use crate::domain::Domain;
use crate::ops::Verdict;

pub(super) fn respond(domain: &Domain, q: &PageResponseRequest) -> Result<(), ControlStatus> {
    let verdict = match q.outcome {
        page_outcome::RESOLVED => Verdict::Resolved,
        page_outcome::REFUSED => Verdict::Refused,
        page_outcome::RETRY_LATER => Verdict::Later,
        _ => return Err(ControlStatus::BadArgument),
    };
    domain.answer_page_request(q.request, verdict)
}
