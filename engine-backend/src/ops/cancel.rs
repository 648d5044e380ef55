//! CANCEL (SPEC section 4.34): asks whoever serves a queue to give descriptors up, and waits for
//! the answer.

use std::sync::Arc;

use super::chunk::Chunk;
use super::{Outcome, Step, success};
use crate::queue::{Ask, Cancels, Wanted};

/// A request to cancel, under way.
#[derive(Debug)]
pub struct Cancel {
    /// Number of the queue; 0 = the one that it is in.
    queue: u32,
    wanted: Wanted,
    /// Of the queue that was asked, until there is an answer.
    asked: Option<Arc<Cancels>>,
}

impl Cancel {
    /// Nobody asked yet.
    #[must_use]
    pub fn new(queue: u32, wanted: Wanted) -> Self {
        Self {
            queue,
            wanted,
            asked: None,
        }
    }

    /// Asks, or looks for the answer.
    #[inline(never)]
    pub fn step<B>(&mut self, chunk: &mut Chunk<'_, B>) -> Step {
        if let Some(asked) = &self.asked {
            let Some(cancelled) = asked.words().answer() else {
                return Step::More;
            };
            self.asked = None;
            return done(cancelled);
        }
        let cancels = match self.queue {
            0 => chunk.stand.cancels.clone(),
            number => chunk.context.cancels(number),
        };
        // None such in this context: nothing that could be cancelled.
        let Some(cancels) = cancels else {
            return done(0);
        };
        match cancels.ask(self.wanted) {
            Ask::Busy => Step::More,
            Ask::Nothing => done(0),
            Ask::Asked { .. } => {
                self.asked = Some(cancels);
                Step::More
            }
        }
    }

    /// Whether it waits for an answer of this queue.
    pub(super) fn asks(&self, cancels: &Arc<Cancels>) -> bool {
        let is_this = |asked: &Arc<Cancels>| Arc::ptr_eq(asked, cancels);
        self.asked.as_ref().is_some_and(is_this)
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            asked.words().leave();
        }
    }
}

fn done(cancelled: u32) -> Step {
    Step::Done(Outcome {
        completion: success(cancelled),
        bytes: 0,
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_given_up_itself_asks_no_more() {
        let cancels = Arc::new(Cancels::new(1));
        cancels.words().opens();
        let asked = Ask::Asked { sleeps: false };
        assert_eq!(cancels.ask(Wanted::ALL), asked);
        let cancel = Cancel {
            asked: Some(Arc::clone(&cancels)),
            ..Cancel::new(0, Wanted::ALL)
        };
        assert!(cancel.asks(&cancels));
        assert!(!cancel.asks(&Arc::new(Cancels::new(1))));
        assert_eq!(cancels.ask(Wanted::ALL), Ask::Busy);
        drop(cancel);
        assert_eq!(cancels.ask(Wanted::ALL), asked);
    }
}
