//! [`Reach`]: what a request has a device reach of guests' memory; [`Reaching`]: all that were under way at one moment.
//!
//! For devices this is what epochs are for workers. Whoever takes a right away makes it unusable first, and waits for a grace
//! period: whatever was begun by it is under way then, and nothing more is begun. It notes what that is, of what it
//! took away or more, and goes on when each of that has ended. So nobody who begins new requests can make it
//! wait for ever, and nothing is counted that could be counted wrongly.

use std::sync::Arc;

use super::attachment::Attachment;

/// Whose memory a request is about, and by which rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The domain whose memory it is.
    pub owner: u32,
    /// The domain whose descriptor it is.
    pub user: u32,
    /// The address space that the memory is in.
    pub space: u64,
    /// First address there.
    pub address: u64,
    /// Place of the endpoint.
    pub place: u32,
    /// First byte of the blocks.
    pub first: u64,
    /// Bytes, of memory and of blocks.
    pub bytes: u64,
}

impl Reach {
    /// Whether a domain has a part in it.
    #[must_use]
    pub fn involves(&self, domain: u32) -> bool {
        self.owner == domain || self.user == domain
    }
    /// Whether it is about a byte of this range of an address space.
    #[must_use]
    pub fn is_in_memory(&self, space: u64, address: u64, bytes: u64) -> bool {
        self.space == space && overlap((self.address, self.bytes), (address, bytes))
    }
    /// Whether it is about a byte of these blocks.
    #[must_use]
    pub fn is_in_blocks(&self, place: u32, first: u64, bytes: u64) -> bool {
        self.place == place && overlap((self.first, self.bytes), (first, bytes))
    }
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
}

/// One request, by the number that no other of its device has.
#[derive(Debug)]
struct One {
    attachment: Arc<Attachment>,
    slot: u8,
    number: u64,
}

/// Requests that were under way at one moment.
#[derive(Debug, Default)]
pub struct Reaching(Vec<One>);

/// What has become of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// All have ended.
    Nothing,
    /// Some are under way, within the time that their devices have.
    Something,
    /// Some are under way, and all of those are with devices that were given up.
    Overdue,
}

impl Reaching {
    pub(super) fn add(&mut self, attachment: &Arc<Attachment>, slot: u8, number: u64) {
        self.0.push(One {
            attachment: Arc::clone(attachment),
            slot,
            number,
        });
    }
    /// Whether there is nothing to wait for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Waits for these too.
    pub fn merge(&mut self, other: Self) {
        for one in other.0 {
            let is_it = |known: &One| {
                known.number == one.number && Arc::ptr_eq(&known.attachment, &one.attachment)
            };
            if !self.0.iter().any(is_it) {
                self.0.push(one);
            }
        }
    }
    /// Has the devices tell what has ended. Never waits for them.
    pub fn look(&mut self) -> Reached {
        for one in &self.0 {
            one.attachment.drive();
        }
        self.0
            .retain(|one| one.attachment.still_lends(one.slot, one.number));
        if self.0.is_empty() {
            return Reached::Nothing;
        }
        match self.0.iter().all(|one| one.attachment.is_given_up()) {
            true => Reached::Overdue,
            false => Reached::Something,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reach_is_found_by_whatever_it_touches() {
        let reach = Reach {
            owner: 1,
            user: 2,
            space: 7,
            address: 0x1000,
            place: 3,
            first: 512,
            bytes: 4096,
        };
        assert!(reach.involves(1) && reach.involves(2) && !reach.involves(3));
        assert!(reach.is_in_memory(7, 0x1fff, 1) && reach.is_in_memory(7, 0, u64::MAX));
        assert!(!reach.is_in_memory(7, 0x2000, 1) && !reach.is_in_memory(7, 0, 0x1000));
        assert!(!reach.is_in_memory(8, 0x1000, 4096));
        assert!(reach.is_in_blocks(3, 0, 513) && !reach.is_in_blocks(3, 0, 512));
        assert!(!reach.is_in_blocks(2, 512, 4096));
    }
}
