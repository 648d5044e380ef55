//! Byway's engine: what the guest's descriptors mean and how they are carried out.
//!
//! [`interface`] is the only way in. Below it, from the bottom up: [`stage2`] holds
//! the tables that [`memory`], the one layer that touches guest memory, looks addresses up in; [`stage1`] and [`iotlb`] translate;
//! [`epoch`] tells control threads when no worker can still use an old right;
//! [`capability`] and [`context`] decide who may touch what; [`codec`] compresses and
//! encrypts; [`queue`], [`ops`],
//! [`backend`] and [`worker`] are the data plane; [`domain`], [`control`], [`device`] and
//! [`engine`] the control plane. [`vhost_user`] and [`daemon`] stand above [`interface`] and make it
//! reachable from other processes. No module names one above it. [`threads`] tells whoever confines this process that one begins.
#![deny(missing_docs)]

pub mod address_space;
pub mod backend;
pub mod capability;
pub mod codec;
pub mod context;
pub mod control;
pub mod daemon;
pub mod device;
pub mod domain;
pub mod endpoint;
pub mod engine;
pub mod epoch;
pub mod interface;
mod invalidation;
pub mod iotlb;
pub mod memory;
pub mod ops;
pub mod port;
pub mod queue;
pub mod seldom;
pub mod stage1;
pub mod stage2;
pub mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod threads;
pub mod vhost_user;
pub mod worker;

pub use engine::{Engine, EngineConfig};

/// Bytes of the stack of each thread: far more than any needs, and less than a huge page, which a host might put behind the
/// few pages of a stack that are touched.
pub const STACK_BYTES: usize = 1 << 20;

/// The examples of `README.md`, so that they are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadMe;
