//! [`Await`]: what a descriptor waits for at a port, and [`Seat`]: its queue, parked.

use std::sync::Arc;

use super::{Port, Side};
use crate::capability::Owner;

/// A descriptor's wait for the other side of a port.
#[derive(Debug)]
pub struct Await {
    port: Arc<Port>,
    side: Side,
    owner: Arc<Owner>,
    /// The owner's, of before the right to the port was checked.
    epoch: u64,
}

impl Await {
    /// A wait that is over, too, when something of `owner`'s was revoked after `epoch`.
    #[must_use]
    pub fn new(port: Arc<Port>, side: Side, owner: &Arc<Owner>, epoch: u64) -> Self {
        Self {
            port,
            side,
            owner: Arc::clone(owner),
            epoch,
        }
    }

    /// Whether the descriptor should look again: a few loads.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.port.is_ready(self.side) || self.owner.epoch() != self.epoch
    }

    /// Has the doorbell of `domain`, whose queue this is, rung from now on when the port
    /// changes. `None`: it is over already, or too many are parked there.
    #[must_use]
    pub fn park(&self, domain: u32) -> Option<Seat> {
        let index = self.port.seats(self.side).take(domain)?;
        let seat = Seat {
            port: Arc::clone(&self.port),
            side: self.side,
            index,
        };
        // After the seat's fence.
        (!self.is_over()).then_some(seat)
    }
}

/// A parked queue's seat at a port, left when it is dropped.
#[derive(Debug)]
pub struct Seat {
    port: Arc<Port>,
    side: Side,
    index: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.port.seats(self.side).leave(self.index);
    }
}
