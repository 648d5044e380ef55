//! [`OpenError`]: why a device could not be opened.

use std::io;

use crate::memory::MemoryError;

/// Why a device could not be opened; one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answers there, or not in time, or it broke off.
    #[error("{path}: {what}; is the device's process running, and may this one connect to it?")]
    NoAnswer {
        /// Where.
        path: String,
        /// What happened.
        what: String,
    },
    /// It answers, but not as such a device has to.
    #[error("{path}: not a usable device: {what}")]
    NotUsable {
        /// Where.
        path: String,
        /// What was found, and expected.
        what: String,
    },
    /// An option that cannot be.
    #[error("{0}")]
    BadOption(String),
    /// The host refused something that the engine needs.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// Memory for the device's queues cannot be mapped.
    #[error("cannot map memory to share with a device: {0}")]
    Memory(#[from] MemoryError),
}
