//! Capabilities: who may touch what, and how that ends.
//!
//! A [`Capability`] is a right to a byte range of one address space. Each one but the
//! root of a context is derived from another and is never wider than it. All that are
//! derived over one domain's memory form that domain's trees, kept by its [`Owner`].
//!
//! Two views of a tree are kept apart:
//! - workers see capabilities through a [`SlotTable`], without locks. Whether one is
//!   still valid is a question to its ancestors (at most [`DEPTH_MAX`]); the answer is
//!   remembered until anything over the same owner's memory is revoked.
//! - control threads see the tree (`tree`) under its owner's lock, for bookkeeping.
//!
//! Revoking marks one node and bumps the owner's epoch; after a grace period
//! ([`crate::epoch::Epochs::synchronize`]) no access under it, or under anything derived
//! from it, is in flight or can start. That cost does not depend on the size of the
//! tree: burying the dead is left to [`Grave::reap`], in the background.
//!
//! Nothing here grants anything by itself: policy (links, quotas) is decided above.
//!
//! Locks: the tree's lock is taken last, and nothing is called while it is held.

mod held;
mod key;
mod limits;
mod link;
mod meter;
mod node;
mod object;
mod owner;
mod record;
mod slots;
mod tree;

#[cfg(test)]
mod model_tests;

pub use byway_protocols::capability::DEPTH_MAX;
pub use held::Held;
pub use key::Key;
pub use link::{Link, LinkTerms};
pub use meter::{Charge, Meter};
pub use node::{Capability, DeriveError, State, Terms, Traffic};
pub use owner::{Grave, Owner, Usage};
pub use record::{Audit, End, Ending, PAST_MAX, Record};
pub use slots::{SlotError, SlotTable};
pub use tree::Holder;
