//! Page requests: what the engine needs mapped, and the kernel's answer (SPEC section 8.4).
//!
//! Owns nothing. The engine believes no answer: it translates anew, and one that is too late or
//! made twice is refused without harm.

use super::Device;
use crate::Error;
use crate::hal::Hal;
use crate::handle::Pasid;
use crate::message;
use crate::transport::Transport;
use byway_protocols::Rights;
use byway_protocols::control::{PageResponseRequest, page_outcome};

/// A page that a transfer waits for, in an address space of this domain. Who wants it is not
/// told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// Number to answer it by.
    pub request: u64,
    /// The address space.
    pub pasid: Pasid,
    /// First byte of the page, a multiple of 4096; need not be canonical.
    pub address: u64,
    /// The access: READ or WRITE.
    pub access: Rights,
}

/// What the kernel says to a page request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PageOutcome {
    /// The page is there: try again.
    Resolved = page_outcome::RESOLVED,
    /// The address or the access is wrong, and stays so.
    Refused = page_outcome::REFUSED,
    /// Not now: the descriptor ends, and its submitter may resume it.
    RetryLater = page_outcome::RETRY_LATER,
}

impl<T: Transport, H: Hal> Device<T, H> {
    /// PAGE_RESPONSE (SPEC section 8.2): answers a page request, once. An unmap that follows needs
    /// an invalidation as ever.
    ///
    /// # Errors
    /// The engine refuses a request that waits no more: it was answered, it was late, or its
    /// descriptor is gone.
    pub fn answer_page(&mut self, request: u64, outcome: PageOutcome) -> Result<(), Error> {
        self.call(&message::PageResponse(PageResponseRequest {
            request,
            outcome: outcome as u32,
            ..PageResponseRequest::default()
        }))
    }
}
