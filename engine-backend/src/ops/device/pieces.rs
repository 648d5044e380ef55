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
    /// Which of them are requests that reach memory, by place.
    direct: u8,
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
        is_there.then(|| self.slots[self.place(index)])
    }
    /// How the request of a piece ended; `None` while it has not, or there is no such piece.
    pub(super) fn ended(&self, index: usize) -> Option<Outcome> {
        self.attachment.as_ref()?.ended(self.slot(index)?)
    }

    /// Whether the request of a piece reaches the memory of a guest.
    pub(super) fn is_direct(&self, index: usize) -> bool {
        index < self.count() && self.direct >> self.place(index) & 1 == 1
    }
    /// Whether a device may reach the memory of a guest by one of them.
    pub(super) fn lend(&self) -> bool {
        let mut all = 0..self.count();
        self.direct != 0 && all.any(|index| self.is_direct(index) && self.ended(index).is_none())
    }
    /// Whether one that reaches memory has ended otherwise than well.
    pub(super) fn has_failed_directly(&self) -> bool {
        let failed = |index| matches!(self.ended(index), Some(outcome) if outcome != Outcome::Done);
        let mut all = 0..self.count();
        self.direct != 0 && all.any(|index| self.is_direct(index) && failed(index))
    }
    /// Whether the device has any of them.
    pub(super) fn are_under_way(&self) -> bool {
        (0..self.count()).any(|index| self.ended(index).is_none())
    }
    fn place(&self, index: usize) -> usize {
        (usize::from(self.first) + index) % WINDOW
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
        self.push_as(false);
    }
    /// The slot in hand becomes the youngest piece; whether it reaches memory.
    pub(super) fn push_as(&mut self, is_direct: bool) {
        if let Some(slot) = self.hand.take() {
            let at = self.place(self.count());
            self.slots[at] = slot;
            self.direct = self.direct & !(1 << at) | u8::from(is_direct) << at;
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
