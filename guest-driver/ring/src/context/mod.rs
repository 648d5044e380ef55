//! What an application holds: a context, capabilities, work queues, memory that it shares.
//!
//! Owns the one API that applications see in every kind of guest. What a guest kernel does for them
//! goes through [`Transport`]; the bare-metal guest implements it by its call gate, the crate
//! `byway-linux` by `/dev/byway`. Here is no system call, no allocation and, once a queue exists, no
//! way into the kernel but a kick that is due and a sleep that was asked for.
//!
//! # Memory that others access meanwhile
//!
//! The engine reads and writes memory while the program runs, on behalf of the program itself or of
//! whoever holds a capability. A `&[u8]` over such memory would promise the compiler that it does
//! not change, a `&mut [u8]` that nobody else sees it; so there is none:
//!
//! - [`Region`] is memory that may change at any moment, read and written by atomic accesses only.
//! - [`Share`] is a capability over memory of one's own together with that memory. It gives the memory back
//!   after a revocation that the engine has acknowledged, never before; dropped, it revokes; forgotten,
//!   it keeps the memory for ever.
//! - The transfers of [`WorkQueue`] return when the engine is through with the memory that they were
//!   given, so for so long a plain `&mut [u8]` may be lent to them ([`Region::from_mut`]).
//!
//! What stays `unsafe` is what names memory by bare addresses: [`WorkQueue::post`] and
//! [`Context::derive`].

mod capability;
mod error;
mod name;
mod open;
mod region;
mod share;
mod transfer;
mod transport;
mod wait;
mod work_queue;

pub use capability::{Capability, Listener};
pub use error::{Ended, Error, Reason, TransportError};
pub use name::{Name, NameError};
pub use open::{Blocks, Context};
pub use region::{OutOfRange, Region, Source};
pub use share::{Memory, Share, StillShared};
pub use transfer::{DEPTH_MAX, Pipeline};
pub use transport::{
    Accepted, CapabilityInfo, Info, Key, NewBlocks, NewCapability, NewQueue, Port, QueueOptions,
    State, Terms, Transport, Wait, Wake,
};
pub use wait::Waiting;
pub use work_queue::WorkQueue;
