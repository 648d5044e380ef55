//! The engine over vhost-user: one Unix socket per domain, by which VMMs of other
//! processes drive [`Domain`](crate::interface::Domain).
//!
//! A [`Station`] is a domain's socket and the thread that serves it: it accepts one front
//! end at a time, translates its messages (`session`) and carries interrupts to it. What a
//! front end sends, its descriptors included, is as hostile as what a guest writes
//! (`descriptors`); a mistake ends its connection, and with it the domain's use of the
//! engine, and nothing else. Because each domain has its thread, a front end that stalls
//! one stalls itself.
//!
//! [`RemoteDomain`] is the other end: a [`Domain`](crate::interface::Domain) whose engine is
//! another process.
//!
//! Nothing here knows more of the engine than [`crate::interface`], and what it takes to map the
//! dirty log.

mod connect;
mod connection;
mod descriptors;
mod doorway;
mod folder;
mod log;
mod peer;
mod remote;
mod session;
mod station;
mod wait;
mod watch;

pub use connect::connect_within;
pub use doorway::Doorway;
pub use folder::{FolderError, SocketFolder, listen_at};
pub use peer::Peer;
pub use remote::RemoteDomain;
pub use station::Station;
pub(crate) use wait::is_writable;
pub use wait::{Ready, wait};
