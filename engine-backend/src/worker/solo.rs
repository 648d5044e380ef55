//! [`Solo`]: a worker without a thread, whose turns its caller takes. For measurements of
//! what a turn costs when no other processor is in it, instruction by instruction.

use std::sync::Arc;

use super::active::Active;
use super::inbox::{Command, Inbox};
use super::thread::{Shared, Thread};
use crate::backend::Software;
use crate::epoch::Epochs;
use crate::iotlb::Invalidations;
use crate::ops::Jobs;
use crate::queue::{Served, WorkQueue};
use crate::stats::Published;

/// A worker that works when it is told to.
pub struct Solo {
    inbox: Arc<Inbox>,
    thread: Thread<Software>,
}

impl std::fmt::Debug for Solo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Solo").finish_non_exhaustive()
    }
}

impl Default for Solo {
    fn default() -> Self {
        Self::new()
    }
}

impl Solo {
    /// One without queues, with the software backend.
    #[must_use]
    pub fn new() -> Self {
        let inbox = Arc::new(Inbox::new());
        let shared = Shared {
            inbox: inbox.clone(),
            epochs: Arc::new(Epochs::new(1)),
            invalidations: Arc::new(Invalidations::new(1)),
            published: Arc::new(Published::default()),
            endpoints: Arc::default(),
            jobs: Jobs::all(),
        };
        let thread = Thread::new(0, u32::MAX, shared, Software::new());
        Self { inbox, thread }
    }

    /// Whether some key is left in what operations are given.
    #[cfg(test)]
    pub(super) fn has_keys(&self) -> bool {
        self.thread.has_keys()
    }

    /// Hands it a queue.
    ///
    /// # Panics
    /// When the queue was attached before.
    pub fn attach(&mut self, queue: Arc<WorkQueue>) {
        let active = Box::new(Active::new(Served::new(queue)));
        // Its inbox is empty, so there is room.
        let _ = self.inbox.try_send(Command::Attach(active));
        self.thread.obey();
    }

    /// One chunk of whichever queue comes next. False: none has work.
    pub fn turn(&mut self) -> bool {
        self.thread.turn()
    }
}
