//! Disk and network interface against a device that is written from the standard, honest and not.

use super::fake::{FakeHal, Shared, world};
use crate::error::{Broken, Error};
use crate::transport::{F_VERSION_1, Transport, VirtqueueAddresses, status};
use crate::virtio::{
    Block, Buffer, FRAME_BYTES_MAX, Finished, Net, PARTS_MAX, READS_MAX, RECEIVE_BUFFERS,
    TRANSMIT_BUFFERS,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

const EVENT_IDX: u64 = 1 << 29;
const BLOCK: u32 = 2;
const NET: u32 = 1;

/// A chain that the driver made available.
struct Chain {
    head: u16,
    readable: Vec<u8>,
    /// Address and length of each part.
    writable: Vec<(u64, u32)>,
}

#[derive(Default)]
struct Queue {
    addresses: Option<VirtqueueAddresses>,
    seen: u16,
    used: u16,
}

/// The device behind its registers.
struct Device {
    memory: Shared,
    id: u32,
    offered: u64,
    taken: u64,
    status: u32,
    config: [u32; 2],
    queues: [Queue; 2],
    notified: Vec<u16>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Device")
    }
}

#[derive(Clone, Debug)]
struct Registers(Rc<RefCell<Device>>);

fn device(id: u32, offered: u64) -> Registers {
    let memory = world();
    // Buffers of an interface are many.
    memory.borrow_mut().pages_left = 4000;
    Registers(Rc::new(RefCell::new(Device {
        memory,
        id,
        offered: F_VERSION_1 | offered,
        taken: 0,
        status: 0,
        config: [0x0807_0605, 0x0000_0a09],
        queues: Default::default(),
        notified: Vec::new(),
    })))
}

impl Registers {
    fn hal(&self) -> FakeHal {
        FakeHal(self.0.borrow().memory.clone())
    }

    fn ring(&self, queue: usize) -> VirtqueueAddresses {
        self.0.borrow().queues[queue].addresses.unwrap()
    }

    fn word(&self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.0.borrow().memory.borrow().read(gpa))
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        self.0.borrow().memory.borrow().write(gpa, bytes);
    }

    fn read(&self, gpa: u64, bytes: u32) -> Vec<u8> {
        let device = self.0.borrow();
        let memory = device.memory.borrow();
        let all = (0..u64::from(bytes)).map(|at| memory.read::<1>(gpa + at)[0]);
        all.collect()
    }

    /// The next chain.
    fn take(&self, queue: usize) -> Option<Chain> {
        let ring = self.ring(queue);
        let seen = self.0.borrow().queues[queue].seen;
        if self.word(ring.driver + 2) == seen {
            return None;
        }
        self.0.borrow_mut().queues[queue].seen = seen.wrapping_add(1);
        let head = self.word(ring.driver + 4 + 2 * u64::from(seen % ring.size));
        let (mut entry, mut readable, mut writable) = (head, Vec::new(), Vec::new());
        for _ in 0..ring.size {
            let at = ring.descriptors + 16 * u64::from(entry);
            let bytes = self.read(at, 16);
            let gpa = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            let flags = self.word(at + 12);
            if flags & 2 == 0 {
                assert!(writable.is_empty(), "readable parts come first");
                readable.extend(self.read(gpa, len));
            } else {
                writable.push((gpa, len));
            }
            if flags & 1 == 0 {
                return Some(Chain {
                    head,
                    readable,
                    writable,
                });
            }
            entry = self.word(at + 14);
        }
        panic!("a chain that loops");
    }

    /// Gives a chain back.
    fn give(&self, queue: usize, head: u16, written: u32) {
        let ring = self.ring(queue);
        let used = self.0.borrow().queues[queue].used;
        let at = ring.device + 4 + 8 * u64::from(used % ring.size);
        self.write(at, &u32::from(head).to_le_bytes());
        self.write(at + 4, &written.to_le_bytes());
        self.write(ring.device + 2, &used.wrapping_add(1).to_le_bytes());
        self.0.borrow_mut().queues[queue].used = used.wrapping_add(1);
    }

    /// Asks to be told of chain number `event`, of those that were made available.
    fn ask(&self, queue: usize, event: u16) {
        let ring = self.ring(queue);
        let at = ring.device + 4 + 8 * u64::from(ring.size);
        self.write(at, &event.to_le_bytes());
    }

    /// With which chain the driver wants the next interrupt.
    fn wish(&self, queue: usize) -> u16 {
        let ring = self.ring(queue);
        self.word(ring.driver + 4 + 2 * u64::from(ring.size))
    }

    fn notified(&self) -> Vec<u16> {
        std::mem::take(&mut self.0.borrow_mut().notified)
    }

    /// Memory for data.
    fn pages(&self, bytes: usize) -> u64 {
        use crate::hal::Hal;
        self.hal().allocate(bytes.div_ceil(4096)).unwrap().gpa
    }
}

impl Transport for Registers {
    fn probe(&mut self) -> Result<(), Error> {
        Ok(())
    }
    fn device_id(&mut self) -> u32 {
        self.0.borrow().id
    }
    fn status(&mut self) -> u32 {
        self.0.borrow().status
    }
    fn set_status(&mut self, status: u32) {
        self.0.borrow_mut().status = status;
    }
    fn device_features(&mut self) -> u64 {
        self.0.borrow().offered
    }
    fn set_driver_features(&mut self, features: u64) {
        self.0.borrow_mut().taken = features;
    }
    fn queue_size_max(&mut self, _: u16) -> u16 {
        64
    }
    fn enable_queue(&mut self, queue: u16, addresses: &VirtqueueAddresses) {
        self.0.borrow_mut().queues[usize::from(queue)].addresses = Some(*addresses);
    }
    fn notify(&mut self, queue: u16) {
        let mut device = self.0.borrow_mut();
        assert_ne!(device.status & status::DRIVER_OK, 0);
        device.notified.push(queue);
    }
    fn acknowledge_interrupt(&mut self) -> u32 {
        0
    }
    fn config_u32(&mut self, offset: usize) -> u32 {
        self.0.borrow().config[offset / 4]
    }
}

fn block(offered: u64) -> (Registers, Block<Registers>) {
    let registers = device(BLOCK, offered);
    let block = Block::attach(registers.clone(), &mut registers.hal()).unwrap();
    (registers, block)
}

fn net(offered: u64) -> (Registers, Net<Registers>) {
    let registers = device(NET, offered);
    let net = Net::attach(registers.clone(), &mut registers.hal()).unwrap();
    (registers, net)
}

/// A read of one part.
fn read(block: &mut Block<Registers>, sector: u64, part: Buffer, token: u64) -> bool {
    // SAFETY: memory of the test's, used by nobody else.
    unsafe { block.read(sector, &[part], token) }.unwrap()
}

fn done(token: u64, is_read: bool) -> Finished {
    Finished { token, is_read }
}

#[test]
fn a_device_of_another_kind_is_left_as_it_is() {
    let registers = device(NET, EVENT_IDX);
    registers.0.borrow_mut().status = 15;
    let error = Block::attach(registers.clone(), &mut registers.hal()).unwrap_err();
    let (found, expected) = (NET, BLOCK);
    assert_eq!(error, Error::DeviceId { found, expected });
    assert_eq!(registers.0.borrow().status, 15);
    let error = Net::attach(device(BLOCK, 0), &mut registers.hal()).unwrap_err();
    let (found, expected) = (BLOCK, NET);
    assert_eq!(error, Error::DeviceId { found, expected });
}

#[test]
fn what_is_offered_and_known_is_taken_and_memory_comes_back_where_it_is_too_little() {
    for (offered, taken) in [(0, 0), (EVENT_IDX | 1 << 28, EVENT_IDX), (1 << 5, 0)] {
        let (registers, block) = block(offered);
        assert_eq!(registers.0.borrow().taken, F_VERSION_1 | taken);
        assert_eq!(registers.0.borrow().status, 15);
        assert_eq!(block.sectors(), 0x0a09_0807_0605);
    }
    let (registers, net) = net(1 << 5);
    assert_eq!(registers.0.borrow().taken, F_VERSION_1 | 1 << 5);
    assert_eq!(net.mac(), [5, 6, 7, 8, 9, 10]);
    let registers = device(BLOCK, 0);
    registers.0.borrow().memory.borrow_mut().pages_left = 1;
    let error = Block::attach(registers.clone(), &mut registers.hal()).unwrap_err();
    assert_eq!(error, Error::NoMemory);
    assert_eq!(registers.0.borrow().memory.borrow().pages_out(), 0);
    assert_eq!(registers.0.borrow().status & status::DRIVER_OK, 0);
}

#[test]
fn a_read_says_where_from_and_where_to_and_comes_back_by_its_token() {
    let (registers, mut block) = block(EVENT_IDX);
    let gpa = registers.pages(8192);
    let parts = [
        Buffer { gpa, bytes: 512 },
        Buffer {
            gpa: gpa + 4096,
            bytes: 1024,
        },
    ];
    // SAFETY: memory of the test's, used by nobody else.
    assert!(unsafe { block.read(0x1_0000_0007, &parts, 77) }.unwrap());
    block.notify();
    assert_eq!(registers.notified(), [0]);
    assert_eq!(block.under_way(), 1);
    let chain = registers.take(0).unwrap();
    let header = [0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(chain.readable, header);
    assert_eq!(chain.writable[..2], [(gpa, 512), (gpa + 4096, 1024)]);
    let (status, 1) = chain.writable[2] else {
        panic!("no status");
    };
    assert_eq!(block.finished(), Ok(None));
    registers.write(status, &[0]);
    registers.give(0, chain.head, 1537);
    assert_eq!(block.finished(), Ok(Some(done(77, true))));
    assert_eq!((block.finished(), block.under_way()), (Ok(None), 0));
}

#[test]
fn a_read_that_failed_or_came_short_is_none() {
    let (registers, mut block) = block(0);
    let part = Buffer {
        gpa: registers.pages(512),
        bytes: 512,
    };
    // Status as the device writes it, if it does, and what it says that it wrote.
    for (status, written, is_read) in [
        (Some(0), 513, true),
        (Some(1), 513, false),
        (None, 513, false),
        (Some(0), 512, false),
    ] {
        assert!(read(&mut block, 0, part, 5));
        let chain = registers.take(0).unwrap();
        if let Some(status) = status {
            registers.write(chain.writable[1].0, &[status]);
        }
        registers.give(0, chain.head, written);
        assert_eq!(block.finished(), Ok(Some(done(5, is_read))), "{status:?}");
    }
}

#[test]
fn reads_are_bounded_and_may_come_back_in_any_order() {
    let (registers, mut block) = block(0);
    let part = Buffer {
        gpa: registers.pages(512),
        bytes: 512,
    };
    for token in 0..READS_MAX as u64 {
        assert!(read(&mut block, token, part, token));
    }
    assert!(!read(&mut block, 0, part, 99));
    let mut chains: Vec<_> = std::iter::from_fn(|| registers.take(0)).collect();
    assert_eq!(chains.len(), READS_MAX);
    chains.reverse();
    for (chain, token) in chains.iter().zip((0..READS_MAX as u64).rev()) {
        registers.write(chain.writable[1].0, &[0]);
        registers.give(0, chain.head, 513);
        assert_eq!(block.finished(), Ok(Some(done(token, true))));
    }
    // One of as many parts as there may be, twice: the entries are back.
    for _ in 0..2 {
        let parts = vec![part; PARTS_MAX];
        // SAFETY: memory of the test's, used by nobody else.
        assert!(unsafe { block.read(0, &parts, 1) }.unwrap());
        let chain = registers.take(0).unwrap();
        assert_eq!(chain.writable.len(), PARTS_MAX + 1);
        registers.give(0, chain.head, 0);
        assert_eq!(block.finished(), Ok(Some(done(1, false))));
    }
}

#[test]
fn a_disk_that_gives_back_what_it_does_not_have_is_broken_for_good() {
    let (registers, mut block) = block(0);
    let part = Buffer {
        gpa: registers.pages(512),
        bytes: 512,
    };
    assert!(read(&mut block, 0, part, 1));
    let head = registers.take(0).unwrap().head;
    registers.give(0, head + 1, 0);
    let broken = Error::Broken(Broken::UsedElement);
    assert_eq!(block.finished(), Err(broken));
    assert_eq!(block.finished(), Err(broken));
    // SAFETY: memory of the test's, used by nobody else.
    assert_eq!(unsafe { block.read(0, &[part], 2) }, Err(broken));
}

#[test]
fn neither_side_is_disturbed_unless_it_asks() {
    let (registers, mut block) = block(EVENT_IDX);
    let part = Buffer {
        gpa: registers.pages(512),
        bytes: 512,
    };
    // The device asks for the first chain at the beginning, and then for the fourth.
    let mut told = Vec::new();
    for token in 0..6 {
        assert!(read(&mut block, 0, part, token));
        block.notify();
        told.push(registers.notified().len());
        registers.ask(0, 3);
    }
    assert_eq!(told, [1, 0, 0, 1, 0, 0]);
    block.notify();
    assert_eq!(registers.notified(), [0; 0]);
    // The driver asks for the next one that comes back each time that it is about to sleep.
    assert!(!block.arm());
    assert_eq!(registers.wish(0), 0);
    for _ in 0..2 {
        let chain = registers.take(0).unwrap();
        registers.give(0, chain.head, 0);
    }
    assert!(block.arm(), "one is there, so nobody must sleep");
    while block.finished().unwrap().is_some() {}
    assert!(!block.arm());
    assert_eq!(registers.wish(0), 2);
}

#[test]
fn frames_come_without_their_header_and_their_buffers_go_back() {
    let (registers, mut net) = net(EVENT_IDX);
    assert_eq!(registers.notified(), [0]);
    for round in 0..3 * RECEIVE_BUFFERS as u8 {
        assert_eq!(net.take_frame(), Ok(None));
        let chain = registers.take(0).unwrap();
        let (gpa, room) = chain.writable[0];
        assert_eq!(room as usize, FRAME_BYTES_MAX + 12);
        // None at all, then one.
        registers.give(0, chain.head, 12);
        assert_eq!(net.take_frame(), Ok(None));
        let chain = registers.take(0).unwrap();
        assert_ne!(chain.writable[0].0, gpa);
        registers.write(chain.writable[0].0 + 12, &[round, 1, 2, 3]);
        registers.give(0, chain.head, 16);
        let frame = net.take_frame().unwrap().unwrap();
        assert_eq!(frame.bytes(), 4);
        let mut bytes = [0; 3];
        assert!(net.read(&frame, 0, &mut bytes));
        assert_eq!(bytes, [round, 1, 2]);
        assert!(net.read(&frame, 1, &mut bytes));
        assert_eq!(bytes, [1, 2, 3]);
        assert!(!net.read(&frame, 2, &mut bytes));
        assert!(!net.read(&frame, usize::MAX, &mut bytes));
        net.give_back(frame);
    }
    // All are there again but the two of the last round, whose places are at the end.
    let chains = std::iter::from_fn(|| registers.take(0)).count();
    assert_eq!(chains, RECEIVE_BUFFERS);
}

#[test]
fn frames_go_with_an_empty_header_and_no_more_than_there_are_buffers() {
    let (registers, mut net) = net(0);
    registers.notified();
    for round in 0..2 {
        for number in 0..TRANSMIT_BUFFERS as u8 {
            let buffer = net.buffer().unwrap().unwrap();
            assert!(net.write(&buffer, 0, &[0xee; 40]));
            assert!(net.write(&buffer, 2, &[number]));
            assert!(!net.write(&buffer, FRAME_BYTES_MAX, &[0]));
            net.send(buffer, 3);
        }
        assert_eq!(net.buffer(), Ok(None));
        net.notify();
        assert_eq!(registers.notified(), [1], "{round}");
        for number in 0..TRANSMIT_BUFFERS as u8 {
            let chain = registers.take(1).unwrap();
            assert_eq!(chain.readable[..12], [0; 12]);
            assert_eq!(chain.readable[12..], [0xee, 0xee, number]);
            registers.give(1, chain.head, 0);
        }
    }
}

#[test]
fn an_interface_that_wrote_more_than_there_is_room_for_is_broken_for_good() {
    let (registers, mut net) = net(0);
    let chain = registers.take(0).unwrap();
    registers.give(0, chain.head, chain.writable[0].1 + 1);
    let broken = Error::Broken(Broken::UsedElement);
    assert_eq!(net.take_frame(), Err(broken));
    assert_eq!(net.take_frame(), Err(broken));
    assert_eq!(net.buffer(), Err(broken));
}
