//! [`Pieces`]: the requests that a transfer has at a device, in the order in which they were
//! made. Whatever ends the transfer gives them back.

use std::sync::Arc;

use super::WINDOW;
use crate::endpoint::device::Outcome;
use crate::endpoint::{Attachment, Endpoint};

/// Slots of one device.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// `None` before the transfer has begun, and where it has no blocks.
    attachment: Option<Arc<Attachment>>,
    slots: [u8; WINDOW],
    first: u8,
    count: u8,
    /// One that nothing was asked by yet.
    hand: Option<u8>,
}

impl Pieces {
    /// None yet.
    pub(super) fn new(attachment: Arc<Attachment>) -> Self {
        Self {
            attachment: Some(attachment),
            ..Self::default()
        }
    }
    /// The device.
    pub(super) fn device(&self) -> Option<&Arc<Attachment>> {
        self.attachment.as_ref()
    }
    /// Whether they are at this endpoint's device.
    pub(super) fn are_of(&self, endpoint: &Endpoint) -> bool {
        let place = |attachment: &Arc<Attachment>| attachment.place() == endpoint.place();
        self.attachment.as_ref().is_some_and(place)
    }
    pub(super) fn count(&self) -> usize {
        self.count.into()
    }
    pub(super) fn is_full(&self) -> bool {
        self.count() == WINDOW
    }
    /// The slot of the piece with this number, counted from the oldest.
    pub(super) fn slot(&self, index: usize) -> Option<u8> {
        let is_there = index < self.count();
        is_there.then(|| self.slots[(usize::from(self.first) + index) % WINDOW])
    }
    /// How the request of a piece ended; `None` while it has not, or there is no such piece.
    pub(super) fn ended(&self, index: usize) -> Option<Outcome> {
        self.attachment.as_ref()?.ended(self.slot(index)?)
    }

    /// A slot in hand: the one that is, or a new one, if there is one for this domain.
    pub(super) fn hand(&mut self, domain: u32) -> Option<u8> {
        if self.hand.is_none() {
            self.hand = self.attachment.as_ref()?.take(domain);
        }
        self.hand
    }
    /// The slot in hand, if there is one.
    pub(super) fn in_hand(&self) -> Option<u8> {
        self.hand
    }
    /// The slot in hand becomes the youngest piece.
    pub(super) fn push(&mut self) {
        if let Some(slot) = self.hand.take() {
            let at = (self.first + self.count) as usize % WINDOW;
            self.slots[at] = slot;
            self.count += 1;
        }
    }
    /// Gives the slot in hand back.
    pub(super) fn drop_hand(&mut self) {
        if let (Some(attachment), Some(slot)) = (&self.attachment, self.hand.take()) {
            attachment.give_back(slot);
        }
    }
    /// Gives the oldest piece back.
    pub(super) fn pop(&mut self) {
        if let (Some(attachment), Some(slot)) = (&self.attachment, self.slot(0)) {
            attachment.give_back(slot);
            self.first = (self.first + 1) % WINDOW as u8;
            self.count -= 1;
        }
    }
    /// Gives all back.
    pub(super) fn clear(&mut self) {
        self.drop_hand();
        while self.count > 0 {
            self.pop();
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.clear();
    }
}
