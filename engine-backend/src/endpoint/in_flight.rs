//! [`InFlight`]: the requests that a device has, by slot, as the engine remembers them.
//!
//! A device names what it has done by numbers that it could make up; here they are looked up.
//! A request that is too long for the device is carried out in pieces, one after the other.

use std::time::{Duration, Instant};

use super::device::{Outcome, Request, Token};

/// One request and how far it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) token: Token,
    pub(super) request: Request,
    /// Blocks done.
    done: u32,
    /// Blocks of the piece that the device has; 0 for a flush.
    pub(super) piece: u32,
    since: Instant,
}

impl Work {
    /// First block of the piece that the device has.
    pub(super) fn lba(&self) -> u64 {
        let lba = match self.request {
            Request::Read { lba, .. }
            | Request::Write { lba, .. }
            | Request::Compare { lba, .. }
            | Request::Discard { lba, .. }
            | Request::WriteZeroes { lba, .. } => lba,
            Request::Flush => 0,
        };
        lba + u64::from(self.done)
    }

    fn blocks(&self) -> u32 {
        match self.request {
            Request::Read { blocks, .. }
            | Request::Write { blocks, .. }
            | Request::Compare { blocks, .. }
            | Request::Discard { blocks, .. }
            | Request::WriteZeroes { blocks, .. } => blocks,
            Request::Flush => 0,
        }
    }

    /// Notes that the piece is done; false: it was the last. Else the next one is the
    /// device's, of at most `max` blocks.
    pub(super) fn next(&mut self, max: u32) -> bool {
        self.done += self.piece;
        self.piece = max.min(self.blocks() - self.done);
        self.piece != 0
    }

    /// What it ends as when the device fails the piece, after `more` bytes of it.
    pub(super) fn failed(&self, device_status: u16, block_bytes: u32, more: u32) -> Outcome {
        // Ranges without data may be of more than 4 GiB; what is told ends there.
        let bytes = u64::from(self.done) * u64::from(block_bytes) + u64::from(more);
        Outcome::Failed {
            device_status,
            bytes_done: u32::try_from(bytes).unwrap_or(u32::MAX - (block_bytes - 1)),
        }
    }
}

/// Requests by slot.
#[derive(Debug)]
pub(super) struct InFlight {
    slots: Box<[Option<Work>]>,
    /// Empty ones; never grows beyond its first capacity.
    free: Vec<u16>,
}

impl InFlight {
    /// Room for this many.
    pub(super) fn new(depth: u16) -> Self {
        Self {
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts one into a slot, with a first piece of at most `max` blocks.
    pub(super) fn insert(
        &mut self,
        token: Token,
        request: &Request,
        max: u32,
        now: Instant,
    ) -> Option<(u16, Work)> {
        let slot = self.free.pop()?;
        let mut work = Work {
            token,
            request: *request,
            done: 0,
            piece: 0,
            since: now,
        };
        work.next(max);
        self.slots[usize::from(slot)] = Some(work);
        Some((slot, work))
    }

    /// The request in a slot that the device named, if there are such a slot and request.
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Work> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Empties a slot.
    pub(super) fn remove(&mut self, slot: u16) {
        if self.slots[usize::from(slot)].take().is_some() {
            self.free.push(slot);
        }
    }

    /// Empties all, each as gone.
    pub(super) fn give_up(&mut self, ended: &mut dyn FnMut(Token, Outcome)) {
        for slot in 0..self.slots.len() as u16 {
            if let Some(work) = self.slots[usize::from(slot)] {
                self.remove(slot);
                ended(work.token, Outcome::Gone);
            }
        }
    }

    /// What to say of a device that has had its oldest request for longer than `limit`.
    pub(super) fn overdue(&self, limit: Duration) -> Option<String> {
        let oldest = self.slots.iter().flatten().map(|work| work.since).min()?;
        let since = oldest.elapsed();
        (since > limit).then(|| {
            format!(
                "a request has been under way for {} ms: it may take {} ms",
                since.as_millis(),
                limit.as_millis()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_request_goes_in_pieces_and_tells_how_far_it_came() {
        let mut table = InFlight::new(1);
        let request = Request::Discard {
            lba: 100,
            blocks: 25,
        };
        let (slot, first) = table
            .insert(Token(7), &request, 10, Instant::now())
            .unwrap();
        assert_eq!((first.lba(), first.piece), (100, 10));
        assert!(
            table
                .insert(Token(8), &request, 10, Instant::now())
                .is_none()
        );
        let work = table.get_mut(slot.into()).unwrap();
        assert!(work.next(10));
        assert_eq!((work.lba(), work.piece), (110, 10));
        let failed = Outcome::Failed {
            device_status: 1,
            bytes_done: 10 * 512 + 512,
        };
        assert_eq!(work.failed(1, 512, 512), failed);
        assert!(work.next(10));
        assert_eq!((work.lba(), work.piece), (120, 5));
        assert!(!work.next(10));
        table.remove(slot);
        assert!(table.get_mut(slot.into()).is_none());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_flush_is_one_piece() {
        let mut table = InFlight::new(2);
        let (slot, work) = table
            .insert(Token(1), &Request::Flush, 0, Instant::now())
            .unwrap();
        assert_eq!(work.piece, 0);
        assert!(!table.get_mut(slot.into()).unwrap().next(0));
    }

    #[test]
    fn numbers_that_were_not_given_out_name_nothing() {
        let mut table = InFlight::new(4);
        let (slot, _) = table
            .insert(Token(1), &Request::Flush, 0, Instant::now())
            .unwrap();
        for number in [4, 5, 1 << 16, u32::MAX, u32::from(slot) + 1] {
            assert!(table.get_mut(number).is_none(), "{number}");
        }
        let mut gone = Vec::new();
        table.give_up(&mut |token, outcome| gone.push((token, outcome)));
        assert_eq!(gone, [(Token(1), Outcome::Gone)]);
        assert_eq!((table.len(), table.overdue(Duration::ZERO)), (0, None));
    }
}
