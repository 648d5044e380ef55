//! The model against vectors that were written by hand from the specification, and against
//! data pointers that are built anew here.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::layout::registers::{CC_ENTRY_SIZES, CC_SHUTDOWN, CSTS, VS};
use crate::layout::{SglDescriptor, admin, identify, nvm};
use crate::medium::Memory;

const ADMIN_SQ: u64 = 0x1000;
const ADMIN_CQ: u64 = 0x2000;
const IO_SQ: u64 = 0x3000;
const IO_CQ: u64 = 0x4000;
const DATA: u64 = 0x10_0000;
const LIST: u64 = 0x8000;
const ENTRIES: u64 = 16;
const DISK_BYTES: usize = 1 << 20;

/// A host with one controller.
struct Host {
    memory: GuestMemoryMmap<()>,
    controller: Controller<Memory>,
    /// Tail, head and phase of the admin queue and of I/O queue 1.
    queues: [(u64, u64, bool); 2],
    interrupts: Vec<u16>,
}

impl Host {
    fn off(config: Config) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let disk = (0..DISK_BYTES).map(|i| (i / 512) as u8 ^ i as u8).collect();
        Self {
            memory,
            controller: Controller::new(config, Memory(disk)),
            queues: [(0, 0, true); 2],
            interrupts: Vec::new(),
        }
    }

    fn new() -> Self {
        Self::with(Config::default())
    }

    /// Enabled, with an I/O queue.
    fn with(config: Config) -> Self {
        let mut host = Self::off(config);
        host.enable();
        let size = (ENTRIES as u32 - 1) << 16 | 1;
        let cq = Command::new(admin::CREATE_CQ, 1, 0).with_prp([IO_CQ, 0]);
        assert_eq!(
            host.admin(cq.with(10, size).with(11, 3 | 1 << 16)).status,
            Status::SUCCESS
        );
        let sq = Command::new(admin::CREATE_SQ, 2, 0).with_prp([IO_SQ, 0]);
        assert_eq!(
            host.admin(sq.with(10, size).with(11, 1 | 1 << 16)).status,
            Status::SUCCESS
        );
        host
    }

    fn enable(&mut self) {
        let c = &mut self.controller;
        c.mmio_write(AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1), 4);
        c.mmio_write(ASQ, ADMIN_SQ, 8);
        c.mmio_write(ACQ, ADMIN_CQ, 4);
        c.mmio_write(ACQ + 4, 0, 4);
        c.mmio_write(CC, u64::from(CC_ENABLE | CC_ENTRY_SIZES), 4);
        assert_eq!(c.mmio_read(CSTS, 4), u64::from(CSTS_READY));
    }

    /// Submits without waiting.
    fn submit(&mut self, queue: usize, command: Command) {
        let base = [ADMIN_SQ, IO_SQ][queue];
        let tail = &mut self.queues[queue].0;
        let at = GuestAddress(base + *tail * 64);
        self.memory.write_slice(&command.pack(), at).unwrap();
        *tail = (*tail + 1) % ENTRIES;
        let doorbell = DOORBELLS + 8 * queue as u64;
        self.controller.mmio_write(doorbell, *tail, 4);
    }

    fn run(&mut self) -> usize {
        let mut interrupts = Vec::new();
        let done = self
            .controller
            .process(&self.memory, &mut |v| interrupts.push(v));
        self.interrupts.extend(interrupts);
        done
    }

    /// The next completion, if there is one.
    fn reap(&mut self, queue: usize) -> Option<Completion> {
        let base = [ADMIN_CQ, IO_CQ][queue];
        let (_, head, phase) = &mut self.queues[queue];
        let mut words = [0; 2];
        for (i, word) in words.iter_mut().enumerate() {
            let at = GuestAddress(base + *head * 16 + 8 * i as u64);
            *word = self.memory.read_obj::<u64>(at).unwrap();
        }
        let completion = Completion::unpack(words);
        if completion.phase != *phase {
            return None;
        }
        *head = (*head + 1) % ENTRIES;
        if *head == 0 {
            *phase = !*phase;
        }
        let doorbell = DOORBELLS + 8 * queue as u64 + 4;
        self.controller.mmio_write(doorbell, *head, 4);
        Some(completion)
    }

    fn one(&mut self, queue: usize, command: Command) -> Completion {
        self.submit(queue, command);
        self.run();
        let completion = self.reap(queue).expect("a completion");
        assert_eq!(
            (completion.id, completion.sq_id),
            (command.id(), queue as u16)
        );
        completion
    }

    fn admin(&mut self, command: Command) -> Completion {
        self.one(0, command)
    }

    fn io(&mut self, command: Command) -> Status {
        self.one(1, command).status
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }
}

fn io(opcode: u8) -> Command {
    Command::new(opcode, 77, 1).with_prp([DATA, DATA + 4096])
}

const fn dnr(status: Status) -> Status {
    status.do_not_retry()
}

#[test]
fn it_is_ready_when_it_is_enabled_and_shut_down_when_told() {
    let mut host = Host::off(Config::default());
    let c = &mut host.controller;
    assert_eq!(c.mmio_read(VS, 4), 0x0001_0400);
    assert_eq!(c.mmio_read(CAP, 8) >> 32, c.mmio_read(CAP + 4, 4));
    assert_eq!(c.mmio_read(CSTS, 4), 0);
    // Queues of one entry, none at all, pages that it does not have, another command set.
    for (aqa, asq, cc) in [
        (0, 0x1000, 1),
        (0xf000f, 0, 1),
        (0xf000f, 0x1000, 1 | 1 << 7),
        (0xf000f, 0x1000, 1 | 6 << 4),
    ] {
        c.mmio_write(AQA, aqa, 4);
        c.mmio_write(ASQ, asq, 8);
        c.mmio_write(ACQ, 0x2000, 8);
        c.mmio_write(CC, cc, 4);
        assert_eq!(
            c.mmio_read(CSTS, 4),
            u64::from(CSTS_FATAL),
            "{aqa:#x} {asq:#x} {cc:#x}"
        );
        c.mmio_write(CC, 0, 4);
        assert_eq!(c.mmio_read(CSTS, 4), 0);
    }
    host.enable();
    let cc = u64::from(CC_ENABLE | CC_ENTRY_SIZES | CC_SHUTDOWN);
    host.controller.mmio_write(CC, cc, 4);
    let csts = host.controller.mmio_read(CSTS, 4);
    assert_eq!(csts, u64::from(CSTS_READY | CSTS_SHUT_DOWN));
    host.controller.mmio_write(CC, 0, 4);
    assert_eq!(host.controller.mmio_read(CSTS, 4), 0);
}

#[test]
fn masks_registers_and_strange_accesses() {
    let mut host = Host::new();
    let c = &mut host.controller;
    c.mmio_write(INTMS, 0b1010, 4);
    c.mmio_write(INTMC, 0b0010, 4);
    assert_eq!([c.mmio_read(INTMS, 4), c.mmio_read(INTMC, 4)], [0b1000; 2]);
    let before = c.mmio_read(CC, 4);
    for (offset, bytes) in [
        (CC, 8),
        (CC + 1, 4),
        (CC, 2),
        (CC, 1),
        (CAP, 4),
        (CSTS, 4),
        (0x5000, 8),
        (0x1003, 4),
    ] {
        c.mmio_write(offset, 0, bytes);
        assert_eq!(c.mmio_read(CC, 4), before, "{offset:#x} {bytes}");
    }
    assert_eq!(
        [
            c.mmio_read(CC, 3),
            c.mmio_read(CC + 2, 4),
            c.mmio_read(0x800, 8)
        ],
        [0; 3]
    );
    assert!(c.is_ready());
}

#[test]
fn reads_writes_and_the_rest_do_what_they_say() {
    let mut host = Host::new();
    let disk = host.controller.medium().0.clone();
    assert_eq!(host.io(io(nvm::READ).with_blocks(5, 4)), Status::SUCCESS);
    assert_eq!(host.bytes(DATA, 2048), disk[5 * 512..9 * 512]);
    assert_eq!(host.io(io(nvm::COMPARE).with_blocks(5, 4)), Status::SUCCESS);
    assert_eq!(
        host.io(io(nvm::COMPARE).with_blocks(6, 4)),
        Status::COMPARE_FAILURE
    );
    assert_eq!(host.io(io(nvm::WRITE).with_blocks(100, 4)), Status::SUCCESS);
    assert_eq!(
        host.controller.medium().0[100 * 512..104 * 512],
        disk[5 * 512..9 * 512]
    );
    assert_eq!(
        host.io(io(nvm::WRITE_ZEROES).with_blocks(101, 2)),
        Status::SUCCESS
    );
    assert_eq!(host.controller.medium().0[101 * 512..103 * 512], [0; 1024]);
    assert_eq!(host.io(io(nvm::FLUSH)), Status::SUCCESS);
    // Two ranges: context attributes, blocks, first block.
    let ranges = [[3_u64 << 32, 200], [1 << 32, 300]].concat();
    let bytes: Vec<u8> = ranges.iter().flat_map(|word| word.to_le_bytes()).collect();
    host.memory.write_slice(&bytes, GuestAddress(DATA)).unwrap();
    let trim = io(nvm::DATASET_MANAGEMENT)
        .with(10, 1)
        .with(11, nvm::DEALLOCATE);
    assert_eq!(host.io(trim), Status::SUCCESS);
    assert_eq!(host.controller.medium().0[200 * 512..203 * 512], [0; 1536]);
    assert_eq!(host.controller.medium().0[300 * 512..301 * 512], [0; 512]);
    assert_eq!(
        host.controller.medium().0[203 * 512..204 * 512],
        disk[203 * 512..204 * 512]
    );
    assert!(host.interrupts.iter().all(|&vector| vector < 2));
    assert!(host.interrupts.contains(&1), "the queue's own vector");
}

#[test]
fn every_error_has_its_status() {
    let last = DISK_BYTES as u64 / 512;
    let read = io(nvm::READ);
    let namespace = |n: u32| {
        let mut c = read;
        c.dwords[1] = n;
        c
    };
    let word0 = |bits: u32| {
        let mut c = read;
        c.dwords[0] |= bits;
        c
    };
    let odd_range = {
        let mut host = Host::new();
        let range = [(1_u64 << 32).to_le_bytes(), last.to_le_bytes()].concat();
        host.memory.write_slice(&range, GuestAddress(DATA)).unwrap();
        host.io(io(nvm::DATASET_MANAGEMENT).with(11, nvm::DEALLOCATE))
    };
    assert_eq!(odd_range, dnr(Status::LBA_OUT_OF_RANGE));
    for (command, expected) in [
        (io(0x04), dnr(Status::INVALID_OPCODE)),
        (io(0xff), dnr(Status::INVALID_OPCODE)),
        (namespace(0), dnr(Status::INVALID_NAMESPACE)),
        (namespace(2), dnr(Status::INVALID_NAMESPACE)),
        (namespace(u32::MAX), dnr(Status::INVALID_NAMESPACE)),
        (word0(1 << 8), dnr(Status::INVALID_FIELD)),
        (word0(3 << 14), dnr(Status::INVALID_FIELD)),
        (read.with_blocks(last, 1), dnr(Status::LBA_OUT_OF_RANGE)),
        (read.with_blocks(last - 1, 2), dnr(Status::LBA_OUT_OF_RANGE)),
        (read.with_blocks(u64::MAX, 1), dnr(Status::LBA_OUT_OF_RANGE)),
        (
            io(nvm::WRITE_ZEROES).with_blocks(last, 1),
            dnr(Status::LBA_OUT_OF_RANGE),
        ),
        // 65536 blocks are more than a transfer's 1 MiB, and than the disk.
        (read.with_blocks(0, 65536), dnr(Status::LBA_OUT_OF_RANGE)),
        (
            read.with_prp([DATA + 2, 0]),
            dnr(Status::PRP_OFFSET_INVALID),
        ),
        (
            read.with_prp([DATA, DATA + 4100]).with_blocks(0, 16),
            dnr(Status::PRP_OFFSET_INVALID),
        ),
        (
            read.with_prp([DATA, LIST + 4]).with_blocks(0, 32),
            dnr(Status::PRP_OFFSET_INVALID),
        ),
        (read.with_prp([1 << 40, 0]), Status::DATA_TRANSFER_ERROR),
        (
            read.with_prp([DATA, 1 << 40]).with_blocks(0, 32),
            Status::DATA_TRANSFER_ERROR,
        ),
    ] {
        let mut host = Host::new();
        assert_eq!(host.io(command), expected, "{command:x?}");
        assert_eq!(host.io(read), Status::SUCCESS, "it goes on");
    }
    let small = Config {
        transfer_pages_log2: 1,
        sgl: false,
        ..Config::default()
    };
    let mut host = Host::with(small);
    assert_eq!(
        host.io(read.with_blocks(0, 17)),
        dnr(Status::INVALID_FIELD),
        "over MDTS"
    );
    assert_eq!(
        host.io(word0(1 << 14)),
        dnr(Status::INVALID_FIELD),
        "no SGLs"
    );
}

#[test]
fn a_medium_that_fails_is_told_as_such() {
    struct Broken(i32, bool);
    impl Medium for Broken {
        fn bytes(&self) -> u64 {
            1 << 20
        }
        fn is_read_only(&self) -> bool {
            self.1
        }
        fn read(&mut self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(self.0))
        }
        fn write(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(self.0))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(self.0))
        }
        fn zero(&mut self, _: u64, _: u64, _: bool) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(self.0))
        }
        fn deallocate(&mut self, _: u64, _: u64) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(self.0))
        }
    }
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    let run = |errno, read_only, opcode| {
        let mut controller = Controller::new(Config::default(), Broken(errno, read_only));
        controller.io(&memory, &io(opcode)).unwrap_err()
    };
    assert_eq!(run(libc::EIO, false, nvm::READ), Status::UNRECOVERED_READ);
    assert_eq!(
        run(libc::EIO, false, nvm::COMPARE),
        Status::UNRECOVERED_READ
    );
    for opcode in [nvm::WRITE, nvm::WRITE_ZEROES, nvm::FLUSH] {
        assert_eq!(run(libc::EIO, false, opcode), Status::WRITE_FAULT);
        assert_eq!(run(libc::ENOSPC, false, opcode), Status::CAPACITY_EXCEEDED);
    }
    for opcode in [nvm::WRITE, nvm::WRITE_ZEROES] {
        assert_eq!(run(libc::EIO, true, opcode), dnr(Status::WRITE_PROTECTED));
    }
}

#[test]
fn queues_are_made_and_deleted_in_order() {
    let mut host = Host::new();
    let queue = |opcode, id: u32, entries: u32, dword11: u32| {
        Command::new(opcode, 9, 0)
            .with_prp([0x6000, 0])
            .with(10, id | (entries.wrapping_sub(1)) << 16)
            .with(11, dword11)
    };
    use admin::{CREATE_CQ, CREATE_SQ, DELETE_CQ, DELETE_SQ};
    for (command, expected) in [
        (queue(CREATE_CQ, 1, 8, 1), Status::QUEUE_ID_INVALID),
        (queue(CREATE_CQ, 0, 8, 1), Status::QUEUE_ID_INVALID),
        (queue(CREATE_CQ, 17, 8, 1), Status::QUEUE_ID_INVALID),
        (queue(CREATE_CQ, 0xffff, 8, 1), Status::QUEUE_ID_INVALID),
        (queue(CREATE_CQ, 2, 1, 1), Status::QUEUE_SIZE_INVALID),
        (queue(CREATE_CQ, 2, 1025, 1), Status::QUEUE_SIZE_INVALID),
        (queue(CREATE_CQ, 2, 65536, 1), Status::QUEUE_SIZE_INVALID),
        (queue(CREATE_CQ, 2, 8, 0), Status::INVALID_FIELD),
        (
            queue(CREATE_CQ, 2, 8, 3 | 17 << 16),
            Status::INTERRUPT_VECTOR_INVALID,
        ),
        (
            queue(CREATE_CQ, 2, 8, 1).with_prp([0x6010, 0]),
            Status::PRP_OFFSET_INVALID,
        ),
        (queue(CREATE_SQ, 2, 8, 1), Status::COMPLETION_QUEUE_INVALID),
        (
            queue(CREATE_SQ, 2, 8, 1 | 2 << 16),
            Status::COMPLETION_QUEUE_INVALID,
        ),
        (
            queue(CREATE_SQ, 2, 8, 1 | 0xffff << 16),
            Status::COMPLETION_QUEUE_INVALID,
        ),
        (
            queue(CREATE_SQ, 1, 8, 1 | 1 << 16),
            Status::QUEUE_ID_INVALID,
        ),
        (queue(DELETE_CQ, 1, 1, 0), Status::QUEUE_DELETION_INVALID),
        (queue(DELETE_CQ, 0, 1, 0), Status::QUEUE_ID_INVALID),
        (queue(DELETE_SQ, 0, 1, 0), Status::QUEUE_ID_INVALID),
        (queue(DELETE_SQ, 5, 1, 0), Status::QUEUE_ID_INVALID),
        (Command::new(0xc0, 1, 0), Status::INVALID_OPCODE),
        (
            Command::new(admin::GET_LOG_PAGE, 1, 0)
                .with_prp([DATA, 0])
                .with(10, 0x70),
            Status::LOG_PAGE_INVALID,
        ),
        (
            Command::new(admin::IDENTIFY, 1, 0)
                .with_prp([DATA, 0])
                .with(10, 0x44),
            Status::INVALID_FIELD,
        ),
        (
            Command::new(admin::IDENTIFY, 1, 5).with_prp([DATA, 0]),
            Status::INVALID_NAMESPACE,
        ),
        (
            Command::new(admin::SET_FEATURES, 1, 0).with(10, 0x7f),
            Status::INVALID_FIELD,
        ),
        (
            Command::new(admin::SET_FEATURES, 1, 0)
                .with(10, 7)
                .with(11, 0xffff),
            Status::INVALID_FIELD,
        ),
        (
            Command::new(admin::SET_FEATURES, 1, 0).with(10, 1 << 31 | 6),
            Status::NOT_SAVEABLE,
        ),
        (
            Command::new(admin::DOORBELL_BUFFER_CONFIG, 1, 0).with_prp([0x6010, 0x7000]),
            Status::INVALID_FIELD,
        ),
    ] {
        assert_eq!(host.admin(command).status, dnr(expected), "{command:x?}");
    }
    assert_eq!(
        host.admin(queue(DELETE_SQ, 1, 1, 0)).status,
        Status::SUCCESS
    );
    assert_eq!(
        host.admin(queue(DELETE_CQ, 1, 1, 0)).status,
        Status::SUCCESS
    );
    let queues = Command::new(admin::SET_FEATURES, 1, 0)
        .with(10, 7)
        .with(11, 3 | 99 << 16);
    assert_eq!(host.admin(queues).result, 3 | 15 << 16);
    let cache = Command::new(admin::GET_FEATURES, 1, 0).with(10, 6);
    assert_eq!(host.admin(cache).result, 1);
}

#[test]
fn it_says_what_it_is() {
    let mut host = Host::new();
    let mut get = |select: u32, namespace: u32| {
        let command = Command::new(admin::IDENTIFY, 1, namespace);
        let command = command.with_prp([DATA, 0]).with(10, select);
        assert_eq!(host.admin(command).status, Status::SUCCESS);
        host.bytes(DATA, identify::BYTES)
    };
    let controller = get(1, 0);
    assert_eq!(&controller[4..13], b"BYWAY0001");
    assert_eq!(controller[24..64].trim_ascii_end(), b"Byway NVMe model");
    assert_eq!(
        (controller[77], controller[512], controller[513]),
        (8, 0x66, 0x44)
    );
    assert_eq!(identify::number::<4>(&controller, 516), 1);
    let namespace = get(0, 1);
    assert_eq!(
        identify::number::<8>(&namespace, 0),
        DISK_BYTES as u64 / 512
    );
    assert_eq!(identify::number::<4>(&namespace, 128), 9 << 16);
    assert_eq!(identify::number::<8>(&get(2, 0), 0), 1);
    assert_eq!(identify::number::<8>(&get(2, 1), 0), 0);
    assert_eq!(get(3, 1)[..2], [3, 16]);
}

#[test]
fn a_full_completion_queue_is_waited_for_and_phases_turn() {
    let mut host = Host::new();
    for round in 0..20_u16 {
        for n in 0..ENTRIES as u16 - 1 {
            let mut flush = io(nvm::FLUSH);
            flush.dwords[0] = u32::from(nvm::FLUSH) | u32::from(round * 100 + n) << 16;
            host.submit(1, flush);
        }
        while host.run() != 0 {}
        // One more than fits: it stays where it is until there is room.
        host.submit(1, io(nvm::FLUSH));
        assert_eq!(host.run(), 0, "round {round}");
        for n in 0..ENTRIES as u16 - 1 {
            let completion = host.reap(1).unwrap();
            assert_eq!(completion.id, round * 100 + n);
        }
        assert_eq!(host.reap(1), None);
        assert_eq!(host.run(), 1);
        assert_eq!(host.reap(1).unwrap().id, 77);
    }
}

#[test]
fn doorbells_that_cannot_be_are_told_as_events() {
    let mut host = Host::new();
    for id in 0..4 {
        host.submit(0, Command::new(admin::ASYNC_EVENT_REQUEST, 50 + id, 0));
    }
    host.submit(0, Command::new(admin::ASYNC_EVENT_REQUEST, 60, 0));
    host.run();
    let refused = host.reap(0).unwrap();
    assert_eq!(
        (refused.id, refused.status),
        (60, dnr(Status::ASYNC_EVENT_LIMIT))
    );
    host.controller.mmio_write(DOORBELLS + 8, ENTRIES, 4);
    host.controller.mmio_write(DOORBELLS + 8 * 9, 1, 4);
    assert_eq!(host.run(), 0);
    let told: Vec<_> = (0..2)
        .map(|_| host.reap(0).unwrap())
        .map(|c| (c.id, c.result))
        .collect();
    assert_eq!(told, [(50, 0x0001_0100), (51, 0x0001_0000)]);
    assert_eq!(host.io(io(nvm::READ)), Status::SUCCESS);
}

#[test]
fn shadow_doorbells_are_looked_at_and_armed() {
    let mut host = Host::new();
    let (shadow, events) = (0x6000, 0x7000);
    let config = Command::new(admin::DOORBELL_BUFFER_CONFIG, 1, 0).with_prp([shadow, events]);
    assert_eq!(host.admin(config).status, Status::SUCCESS);
    let at = GuestAddress(IO_SQ);
    host.memory.write_slice(&io(nvm::FLUSH).pack(), at).unwrap();
    assert!(!host.controller.arm(&host.memory));
    assert_eq!(
        host.memory
            .read_obj::<u32>(GuestAddress(events + 8))
            .unwrap(),
        0
    );
    host.memory
        .write_obj(1_u32, GuestAddress(shadow + 8))
        .unwrap();
    assert!(
        host.controller.arm(&host.memory),
        "something came in between"
    );
    assert_eq!(host.run(), 1);
    // Silent again: no step from 1 passes 0.
    assert_eq!(
        host.memory
            .read_obj::<u32>(GuestAddress(events + 8))
            .unwrap(),
        0
    );
    assert_eq!(host.reap(1).unwrap().id, 77);
    host.memory
        .write_obj(9999_u32, GuestAddress(shadow + 8))
        .unwrap();
    assert_eq!(host.run(), 0, "no such place");
    assert!(host.controller.is_ready());
}

#[test]
fn identify_data_tells_kind_and_what_deallocated_blocks_read_as() {
    let mut host = Host::new();
    let mut byte = |select: u8, at: usize| -> u8 {
        let identify = Command::new(admin::IDENTIFY, 1, 1).with_prp([DATA, 0]);
        let done = host.admin(identify.with(10, select.into()));
        assert_eq!(done.status, Status::SUCCESS);
        host.memory
            .read_obj(GuestAddress(DATA + at as u64))
            .unwrap()
    };
    // An I/O controller (figure 247); zeros, and write zeroes may deallocate (figure 245).
    assert_eq!(byte(identify::CNS_CONTROLLER, 111), 1);
    assert_eq!(byte(identify::CNS_NAMESPACE, 33), 0b1001);
}

#[test]
fn one_that_has_broken_off_waits_for_nothing() {
    let mut host = Host::new();
    let (shadow, events) = (0x6000, 0x7000);
    let config = Command::new(admin::DOORBELL_BUFFER_CONFIG, 1, 0).with_prp([shadow, events]);
    assert_eq!(host.admin(config).status, Status::SUCCESS);
    // A queue where there is no memory, with its first command there.
    let size = (ENTRIES as u32 - 1) << 16 | 2;
    let sq = Command::new(admin::CREATE_SQ, 2, 0).with_prp([1 << 40, 0]);
    let made = host.admin(sq.with(10, size).with(11, 1 | 1 << 16));
    assert_eq!(made.status, Status::SUCCESS);
    let tail = GuestAddress(shadow + tail_doorbell(2, 0));
    host.memory.write_obj(1_u32, tail).unwrap();
    assert_eq!(host.run(), 0);
    assert_eq!(host.controller.mmio_read(CSTS, 4) & 2, 2);
    assert!(!host.controller.arm(&host.memory));
}

#[test]
fn queues_where_there_is_no_memory_are_fatal_until_a_reset() {
    let mut host = Host::off(Config::default());
    host.enable();
    host.controller.mmio_write(CC, 0, 4);
    host.controller.mmio_write(ASQ, 1 << 40, 8);
    host.controller.mmio_write(CC, u64::from(CC_ENABLE), 4);
    host.controller.mmio_write(DOORBELLS, 1, 4);
    assert_eq!(host.run(), 0);
    assert_eq!(host.controller.mmio_read(CSTS, 4) & 2, 2);
    host.controller.mmio_write(CC, 0, 4);
    host.queues = [(0, 0, true); 2];
    host.memory
        .write_slice(&[0; 4096], GuestAddress(ADMIN_CQ))
        .unwrap();
    host.enable();
    assert!(host.controller.is_ready());
}

/// Data pages anywhere, in any order, and the pointers to them, made from the pages.
fn prp_of(pages: &[u64], offset: u64, bytes: u64, host: &Host) -> [u64; 2] {
    let first = DATA + pages[0] * 4096 + offset;
    let count = (offset + bytes).div_ceil(4096) as usize;
    let rest: Vec<u64> = pages[1..count]
        .iter()
        .map(|page| DATA + page * 4096)
        .collect();
    match rest.as_slice() {
        [] => [first, 0xdead_0000],
        [second] => [first, *second],
        rest => {
            // The list starts in the middle of a page, so that it has to go on in another.
            let mut at = LIST + 4096 - 24;
            let list = at;
            for (i, entry) in rest.iter().enumerate() {
                if at % 4096 == 4088 && i + 1 != rest.len() {
                    let next = at + 8 + 4096;
                    host.memory.write_obj(next, GuestAddress(at)).unwrap();
                    at = next;
                }
                host.memory.write_obj(*entry, GuestAddress(at)).unwrap();
                at += 8;
            }
            [first, list]
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prps_name_the_bytes_that_they_were_made_of(
        pages in Just((0_u64..200).collect::<Vec<_>>()).prop_shuffle(),
        offset in (0_u64..1024).prop_map(|x| 4 * x),
        blocks in 1_u64..800,
        lba in 0_u64..1000,
    ) {
        let mut host = Host::new();
        let bytes = blocks * 512;
        let read = Command::new(nvm::READ, 3, 1)
            .with_prp(prp_of(&pages, offset, bytes, &host))
            .with_blocks(lba, blocks as u32);
        prop_assert_eq!(host.io(read), Status::SUCCESS);
        let expected = host.controller.medium().0[(lba * 512) as usize..][..bytes as usize].to_vec();
        let mut found = Vec::new();
        let mut at = offset;
        for page in &pages {
            let length = (4096 - at).min(bytes - found.len() as u64);
            found.extend(host.bytes(DATA + page * 4096 + at, length as usize));
            at = 0;
        }
        prop_assert!(found == expected);
    }

    #[test]
    fn sgls_name_the_bytes_that_they_were_made_of(
        cuts in prop::collection::vec((1_u32..3000, any::<bool>()), 1..40),
        per_segment in 2_usize..9,
    ) {
        let mut host = Host::new();
        let total: u32 = cuts.iter().map(|cut| cut.0).sum();
        let blocks = total.div_ceil(512);
        let mut parts: Vec<(u32, bool)> = cuts;
        if total != blocks * 512 {
            parts.push((blocks * 512 - total, false));
        }
        // Blocks of data 4 KiB apart, buckets in between.
        let descriptors: Vec<_> = parts.iter().enumerate().map(|(i, &(length, bucket))| SglDescriptor {
            address: if bucket { 0 } else { DATA + 4096 * i as u64 + 3 },
            length,
            reserved: 0,
            kind: if bucket { SglDescriptor::BIT_BUCKET } else { SglDescriptor::DATA },
        }).collect();
        // All but the last segment end in the name of the next.
        let mut segments: Vec<Vec<SglDescriptor>> = descriptors.chunks(per_segment - 1).map(<[_]>::to_vec).collect();
        let count = segments.len();
        let place = |i: usize| LIST + 0x200 * i as u64;
        let name = |i: usize, length: usize| SglDescriptor {
            address: place(i),
            length: 16 * length as u32,
            reserved: 0,
            kind: if i + 1 == count { SglDescriptor::LAST_SEGMENT } else { SglDescriptor::SEGMENT },
        };
        for i in (1..count).rev() {
            let next = name(i, segments[i].len());
            segments[i - 1].push(next);
        }
        for (i, segment) in segments.iter().enumerate() {
            let bytes: Vec<u8> = segment.iter().flat_map(SglDescriptor::pack).collect();
            host.memory.write_slice(&bytes, GuestAddress(place(i))).unwrap();
        }
        let first = name(0, segments[0].len());
        let read = Command::new(nvm::READ, 3, 1).with_sgl(&first).with_blocks(9, blocks);
        prop_assert_eq!(host.io(read), Status::SUCCESS);
        let disk = host.controller.medium().0[9 * 512..][..blocks as usize * 512].to_vec();
        let mut at = 0;
        for (i, &(length, bucket)) in parts.iter().enumerate() {
            if !bucket {
                let found = host.bytes(DATA + 4096 * i as u64 + 3, length as usize);
                prop_assert!(found == disk[at..at + length as usize]);
            }
            at += length as usize;
        }
    }

    #[test]
    fn whatever_a_host_writes_it_answers_or_says_that_it_cannot(
        words in prop::collection::vec(any::<[u32; 16]>(), 1..12),
        opcodes in prop::collection::vec(0_u8..14, 12),
        near in any::<[bool; 12]>(),
        lists in prop::collection::vec(any::<u64>(), 64),
    ) {
        let mut host = Host::new();
        for (i, word) in lists.iter().enumerate() {
            // Half of them point to where there is memory.
            let word = if i % 2 == 0 { word & 0x3f_fff8 } else { *word };
            host.memory.write_obj(word, GuestAddress(LIST + 8 * i as u64)).unwrap();
        }
        for (i, words) in words.iter().enumerate() {
            let mut command = Command { dwords: *words };
            command.dwords[0] = command.dwords[0] & !0x3ff | u32::from(opcodes[i]);
            if near[i] {
                command.dwords[1] = 1;
                command.dwords[7] = 0;
                command.dwords[9] = 0;
                command.dwords[6] &= 0x3f_ffff;
                command.dwords[8] = LIST as u32;
                command.dwords[10] &= 0x3ff;
                command.dwords[11] = 0;
                command.dwords[12] &= 0x7f;
            }
            if matches!(command.opcode(), admin::ASYNC_EVENT_REQUEST) {
                continue;
            }
            // Queues that are made or deleted would change what the next command means.
            let completion = host.one(1, command);
            prop_assert!(completion.status.0 < 1 << 15);
        }
    }
}
