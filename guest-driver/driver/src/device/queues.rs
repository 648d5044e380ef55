//! Work queues: QUEUE_CREATE, QUEUE_DESTROY, QUEUE_ARM (SPEC section 8).

use super::Device;
use crate::hal::Hal;
use crate::handle::{ContextId, QueueId};
use crate::message;
use crate::rings::{NotDestroyed, OwnedQueue, RingAddresses, RingLayout};
use crate::transport::Transport;
use crate::{ControlStatus, Error};
use byway_protocols::control::{QueueCreateRequest, QueueRequest, queue_flags};

impl<T: Transport, H: Hal> Device<T, H> {
    /// QUEUE_CREATE (SPEC section 8.2) over pages that the driver allocates: zeroed, contiguous,
    /// laid out by [`RingLayout`]. `no_park` needs an operator's quota.
    ///
    /// # Errors
    /// A bad number of entries, no memory, or what the engine refuses. When the device breaks in
    /// the middle, the pages leak: the engine may have taken them.
    pub fn create_owned_queue(
        &mut self,
        context: ContextId,
        entries: u32,
        no_park: bool,
    ) -> Result<OwnedQueue, Error> {
        let layout = RingLayout::new(entries).ok_or(Error::Entries(entries))?;
        let pages = self.hal.allocate(layout.pages()).ok_or(Error::NoMemory)?;
        match self.create_queue(context, &layout.at(pages.gpa), no_park) {
            Ok(id) => Ok(OwnedQueue {
                id,
                layout,
                pages,
                generation: self.generation,
            }),
            Err(error) => {
                if matches!(error, Error::Refused(_) | Error::RefusedUnknown(_)) {
                    // SAFETY: from this `hal`; the engine said that it took nothing.
                    unsafe { self.hal.free(pages) };
                }
                Err(error)
            }
        }
    }

    /// QUEUE_CREATE (SPEC section 8.2) over the caller's areas. They must be zeroed and stay in
    /// place until the queue is destroyed: the engine reads and writes them, and refuses only what
    /// lies outside RAM.
    ///
    /// # Errors
    /// The engine refuses bad areas, unknown contexts and what exceeds a quota.
    pub fn create_queue(
        &mut self,
        context: ContextId,
        rings: &RingAddresses,
        no_park: bool,
    ) -> Result<QueueId, Error> {
        let request = QueueCreateRequest {
            context: context.0,
            entries: rings.entries,
            ring: rings.ring,
            completions: rings.completions,
            header: rings.header,
            flags: if no_park { queue_flags::NO_PARK } else { 0 },
            ..QueueCreateRequest::default()
        };
        Ok(QueueId(self.call(&message::QueueCreate(request))?.queue))
    }

    /// QUEUE_DESTROY (SPEC section 8.2): descriptors not completed end in status 62. After this
    /// returns the engine touches the areas no more.
    ///
    /// # Errors
    /// The engine refuses an unknown queue.
    pub fn destroy_queue(&mut self, queue: QueueId) -> Result<(), Error> {
        self.call(&message::QueueDestroy(of(queue)))
    }

    /// Destroys a queue, if the engine still knows it, and frees its pages. The process
    /// that had them mapped must not have them any more.
    ///
    /// # Errors
    /// The device broke; the queue comes back and can be given again after a reset.
    pub fn destroy_owned_queue(&mut self, queue: OwnedQueue) -> Result<(), NotDestroyed> {
        // A reset since has ended it.
        if queue.generation == self.generation {
            match self.destroy_queue(queue.id) {
                // Gone already: its context was destroyed, or its memory was detached.
                Ok(()) | Err(Error::Refused(ControlStatus::NoSuchObject)) => {}
                Err(error) => return Err(NotDestroyed { error, queue }),
            }
        }
        // SAFETY: from this `hal`, and the engine acknowledged that it serves the queue no more.
        unsafe { self.hal.free(queue.pages) };
        Ok(())
    }

    /// QUEUE_ARM (SPEC section 8.2): lets the queue raise one more completion interrupt. Look at
    /// the completions once more afterwards, then sleep.
    ///
    /// # Errors
    /// The engine refuses an unknown queue.
    pub fn arm(&mut self, queue: QueueId) -> Result<(), Error> {
        self.call(&message::QueueArm(of(queue)))
    }
}

fn of(queue: QueueId) -> QueueRequest {
    QueueRequest {
        queue: queue.0,
        ..QueueRequest::default()
    }
}
