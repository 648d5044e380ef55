//! Every wire structure, for the generator of the C header and for tests.

use crate::{StructLayout, completion, config, control, descriptor, event, invalidation, ring};

/// All structures in the order of the header.
pub const ALL: &[StructLayout] = &[
    config::ConfigSpace::LAYOUT,
    descriptor::Descriptor::LAYOUT,
    completion::Completion::LAYOUT,
    ring::QueueHeader::LAYOUT,
    invalidation::InvalidationHeader::LAYOUT,
    invalidation::InvalidationRange::LAYOUT,
    event::Event::LAYOUT,
    control::RequestHeader::LAYOUT,
    control::ReplyHeader::LAYOUT,
    control::QueryRequest::LAYOUT,
    control::QueryReply::LAYOUT,
    control::LookupRequest::LAYOUT,
    control::LookupReply::LAYOUT,
    control::BindRequest::LAYOUT,
    control::UnbindRequest::LAYOUT,
    control::ContextCreateRequest::LAYOUT,
    control::ContextCreateReply::LAYOUT,
    control::ContextDestroyRequest::LAYOUT,
    control::QueueCreateRequest::LAYOUT,
    control::QueueCreateReply::LAYOUT,
    control::QueueRequest::LAYOUT,
    control::CapDeriveRequest::LAYOUT,
    control::CapDeriveReply::LAYOUT,
    control::CapOfferRequest::LAYOUT,
    control::CapOfferReply::LAYOUT,
    control::CapAcceptRequest::LAYOUT,
    control::CapAcceptReply::LAYOUT,
    control::CapSlotRequest::LAYOUT,
    control::CapQueryReply::LAYOUT,
    control::InvalidateRequest::LAYOUT,
    control::InvalidateReply::LAYOUT,
    control::PageResponseRequest::LAYOUT,
];
