//! One virtqueue from the side of a device of this process: takes requests, gives them back, raises the interrupt.
//!
//! Everything in guest memory is hostile. Each descriptor is read once, into a [`Chain`] that is bounded and whose
//! parts are checked to lie in RAM; a device sees nothing but that copy.

use byway_engine::seldom::Seldom;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::memory::{DeviceMemory, Snapshot};
use super::virtio::{DeviceError, QueueSetup};

/// Most parts of one request; a longer chain is malformed.
pub const PARTS_MAX: usize = 256;
/// Bytes of a used ring before its elements, and of an element; and of the event index behind them.
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;
const USED_EVENT: u64 = 2;

/// A part of a request: a range of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Guest-physical.
    pub addr: u64,
    /// Bytes; not 0.
    pub len: u32,
}

/// A request, fetched and checked.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    memory: Snapshot,
    /// What the device may read, then what it may write.
    parts: Vec<Part>,
    readable: usize,
}

impl Chain {
    /// Guest RAM as it was when the request was taken.
    pub fn memory(&self) -> &Snapshot {
        &self.memory
    }

    /// What the device may read.
    pub fn readable(&self) -> &[Part] {
        &self.parts[..self.readable]
    }

    /// What the device may write.
    pub fn writable(&self) -> &[Part] {
        &self.parts[self.readable..]
    }

    /// Fills `bytes` with what is readable from byte `offset`; returns whether there was enough.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let mut done = 0;
        for part in cut(self.readable(), offset, bytes.len() as u64) {
            let end = done + part.len as usize;
            let read = self
                .memory
                .read_slice(&mut bytes[done..end], GuestAddress(part.addr));
            if read.is_err() {
                return false;
            }
            done = end;
        }
        done == bytes.len()
    }
}

/// Of a chain: what the device may read, so many, then what it may write.
struct Parts {
    parts: Vec<Part>,
    readable: usize,
}

/// Number of bytes of `parts`.
pub fn bytes_of(parts: &[Part]) -> u64 {
    parts.iter().map(|part| u64::from(part.len)).sum()
}

/// The parts of `len` bytes from byte `offset` of what `parts` are together.
pub fn cut(parts: &[Part], offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let (mut skip, mut left) = (offset, len);
    parts.iter().filter_map(move |part| {
        let gone = skip.min(part.len.into());
        skip -= gone;
        let taken = left.min(u64::from(part.len) - gone);
        left -= taken;
        (taken > 0).then_some(Part {
            // Both fit: they are no more than the part's length, and the part lies in RAM.
            addr: part.addr + gone,
            len: taken as u32,
        })
    })
}

/// A queue that is being served.
#[derive(Debug)]
pub struct ServedQueue {
    queue: Queue,
    memory: DeviceMemory,
    kick: EventFd,
    call: EventFd,
    /// The driver broke the ring; nothing is taken from it until it is set up anew.
    is_broken: bool,
}

impl ServedQueue {
    /// A queue as the transport has checked it. With `event_idx` that feature was negotiated.
    ///
    /// # Errors
    /// When the addresses or the size are not those of a queue.
    pub fn new(
        setup: QueueSetup,
        memory: &DeviceMemory,
        event_idx: bool,
    ) -> Result<Self, DeviceError> {
        let wrong = |error: virtio_queue::Error| DeviceError {
            what: format!("no virtqueue: {error}"),
            source: None,
        };
        let mut queue = Queue::new(setup.size).map_err(wrong)?;
        queue.try_set_size(setup.size).map_err(wrong)?;
        let address = GuestAddress;
        queue
            .try_set_desc_table_address(address(setup.desc_table))
            .map_err(wrong)?;
        queue
            .try_set_avail_ring_address(address(setup.avail_ring))
            .map_err(wrong)?;
        queue
            .try_set_used_ring_address(address(setup.used_ring))
            .map_err(wrong)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(Self {
            queue,
            memory: memory.clone(),
            kick: setup.kick,
            call: setup.call,
            is_broken: false,
        })
    }

    /// Readable when the guest has notified.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Forgets notifications so far; whoever calls it looks at the queue next.
    pub fn clear_kick(&self) {
        // Empty already, if it fails.
        let _ = self.kick.read();
    }

    /// The next request, if there is one; malformed ones are given back at once, and the guest is told of them by whoever
    /// serves the next, or here.
    pub fn pop(&mut self) -> Option<Chain> {
        let mut is_owed = false;
        let chain = self.well_formed(&mut is_owed);
        if is_owed && chain.is_none() {
            self.signal();
        }
        chain
    }

    /// The next request; `gave_back` says whether there were malformed ones before.
    fn well_formed(&mut self, gave_back: &mut bool) -> Option<Chain> {
        // Bounded, so that a ring full of rubbish costs no more than a ring full of requests.
        for _ in 0..self.queue.size() {
            let memory = self.memory.snapshot();
            let (head, fetched) = self.fetch(&memory)?;
            if let Some(Parts { parts, readable }) = fetched {
                return Some(Chain {
                    head,
                    memory,
                    parts,
                    readable,
                });
            }
            self.give_back(head, 0);
            *gave_back = true;
        }
        None
    }

    /// A chain's head, and its parts if it is well-formed.
    fn fetch(&mut self, memory: &Snapshot) -> Option<(u16, Option<Parts>)> {
        if self.is_broken {
            return None;
        }
        let chain = self.queue.pop_descriptor_chain(memory.clone())?;
        let head = chain.head_index();
        if head >= self.queue.size() {
            self.break_off("a chain that begins outside the descriptor table");
            return None;
        }
        let mut parts = Vec::with_capacity(8);
        let mut readable = 0;
        for descriptor in chain {
            let writable = descriptor.is_write_only();
            let (addr, len) = (descriptor.addr(), descriptor.len());
            let in_order = writable || readable == parts.len();
            let in_ram = memory.check_range(addr, len as usize);
            if !in_order || !in_ram || len == 0 || parts.len() == PARTS_MAX {
                return Some((head, None));
            }
            parts.push(Part {
                addr: addr.raw_value(),
                len,
            });
            readable += usize::from(!writable);
        }
        Some((head, Some(Parts { parts, readable })))
    }

    /// Gives a request back, of whose writable parts the first `written` bytes were written.
    pub fn complete(&mut self, chain: &Chain, written: u64) {
        // All of it may have been: one that failed halfway has written more than it tells.
        for part in chain.writable() {
            self.memory.wrote(part.addr, part.len.into());
        }
        self.give_back(chain.head, written.min(u32::MAX.into()) as u32);
    }

    fn give_back(&mut self, head: u16, written: u32) {
        let used = self.queue.used_ring();
        let bytes = USED_HEADER + USED_ELEMENT * u64::from(self.queue.size()) + USED_EVENT;
        self.memory.wrote(used, bytes);
        let memory = self.memory.snapshot();
        if let Err(error) = self.queue.add_used(&*memory, head, written) {
            self.break_off(&error.to_string());
        }
    }

    /// Tells the guest of what was given back, if it wants to be told.
    pub fn signal(&mut self) {
        let memory = self.memory.snapshot();
        // One interrupt too many does no harm.
        if self.queue.needs_notification(&*memory).unwrap_or(true)
            && let Err(error) = self.call.write(1)
        {
            tracing::warn!("cannot raise a virtqueue's interrupt: {error}");
        }
    }

    /// Asks for a notification of the next request; returns whether one has come meanwhile.
    pub fn arm(&mut self) -> bool {
        if self.is_broken {
            return false;
        }
        let memory = self.memory.snapshot();
        match self.queue.enable_notification(&*memory) {
            Ok(more) => more,
            Err(error) => {
                self.break_off(&error.to_string());
                false
            }
        }
    }

    /// As [`Self::arm`], for when [`Self::pop`] has just found nothing: if that stays so although
    /// there is more, the ring makes no sense, and looking again would never end.
    pub fn arm_empty(&mut self) -> Option<Chain> {
        if !self.arm() {
            return None;
        }
        let next = self.queue.next_avail();
        let chain = self.pop();
        if chain.is_none() {
            if self.queue.next_avail() == next {
                self.break_off("an available index that is no request's");
            } else {
                // Malformed ones came meanwhile and were given back. What comes behind them has not been asked to notify, so
                // whoever waits is to look again; not here, since a guest could go on like that.
                let _ = self.kick.write(1);
            }
        }
        chain
    }

    fn break_off(&mut self, why: &str) {
        static TOLD: Seldom = Seldom::new();
        if !std::mem::replace(&mut self.is_broken, true) {
            TOLD.tell(|| {
                tracing::warn!(
                    "a guest broke a virtqueue, which is left alone until it is reset: {why}"
                );
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::test_driver::{DATA, Driver, SIZE, ram};

    fn queue() -> (ServedQueue, Driver) {
        let memory = DeviceMemory::new(ram());
        let driver = Driver::apart(0, &memory);
        let queue = ServedQueue::new(driver.setup(), &memory, false).unwrap();
        (queue, driver)
    }

    /// A driver is not held to write its requests while the device looks elsewhere.
    #[test]
    fn a_malformed_request_that_comes_between_two_looks_breaks_nothing() {
        let (mut queue, mut driver) = queue();
        assert!(queue.pop().is_none());
        driver.request(&[(DATA, 0)], &[]);
        queue.clear_kick();
        assert!(queue.arm_empty().is_none());
        assert_eq!(driver.used(), (0, 0));
        assert!(driver.is_called(), "the driver is told");
        // Whoever waits looks again.
        assert!(queue.kick().read().is_ok());
        driver.request(&[(DATA, 5)], &[]);
        assert_eq!(bytes_of(queue.pop().unwrap().readable()), 5);
    }

    #[test]
    fn an_index_that_is_no_requests_breaks_the_queue() {
        let (mut queue, mut driver) = queue();
        driver.write_avail(SIZE + 1);
        assert!(queue.pop().is_none());
        queue.clear_kick();
        assert!(queue.arm_empty().is_none());
        assert!(queue.kick().read().is_err(), "nothing to look at");
        driver.request(&[(DATA, 5)], &[]);
        assert!(queue.pop().is_none());
    }
}
