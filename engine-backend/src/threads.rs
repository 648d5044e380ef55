//! What kinds of threads the engine starts, and who is told that one begins.
//!
//! A process may confine itself so that each of its threads keeps what its kind needs and no more. A thread can only do
//! that itself, as its first act; what it is to do, the engine does not know. So whoever confines the process leaves a function here, and every
//! thread calls it once it has done what only a thread that begins has to: bind itself to a processor, say.

use std::sync::OnceLock;

/// A kind of thread, by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// Carries descriptors out: reads and writes the memory of guests.
    Worker,
    /// Serves the virtqueues of all domains.
    Control,
    /// Speaks vhost-user with the front ends of a domain, one after the other.
    Session,
    /// Lets operators in, and starts a thread for each.
    Doorkeeper,
    /// Carries out what an operator asks for: makes domains and opens devices, by sockets, files and threads of their own.
    Operator,
    /// Watches a device that is another process.
    Watch,
    /// Is a model of a device.
    Model,
}

static HOOK: OnceLock<fn(ThreadKind)> = OnceLock::new();

/// From now on each thread that the engine starts calls `hook` before it does its work. For the whole process, and before the
/// first engine starts.
///
/// # Errors
/// When there is a hook already: the process keeps that.
pub fn on_start(hook: fn(ThreadKind)) -> Result<(), HookError> {
    HOOK.set(hook).map_err(|_| HookError)
}

/// There is a hook already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the threads of this process' engines have somebody to tell that they begin already")]
pub struct HookError;

/// The calling thread begins its work.
pub(crate) fn begins(kind: ThreadKind) {
    if let Some(hook) = HOOK.get() {
        hook(kind);
    }
}
