//! The function as a driver sees it: configuration space, BAR and memory, without a VM.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use byway_nvme::layout::registers::{
    ACQ, AQA, ASQ, CC, CC_ENABLE, CC_ENTRY_SIZES, CSTS, DOORBELLS, head_doorbell, tail_doorbell,
};
use byway_nvme::layout::{Command, Completion, Status, admin, identify, nvm};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::devices::memory::DeviceMemory;
use crate::devices::seat::OwnThread;
use crate::pci::{COMMAND, Function, Kept};

const ADMIN_SQ: u64 = 0x1000;
const ADMIN_CQ: u64 = 0x2000;
const IO_SQ: u64 = 0x3000;
const IO_CQ: u64 = 0x4000;
const DATA: u64 = 0x10_0000;
const ENTRIES: u64 = 8;
const DISK_BYTES: u64 = 1 << 20;
const AT: u64 = 0xe410_0000;
const MEMORY_AND_MASTER: u16 = 6;

/// A driver, and what it drives.
struct Driver {
    memory: DeviceMemory,
    function: NvmeFunction,
    messages: Kept,
    disk: File,
    /// Tail and head of the admin queues and those of I/O queue 1, and the phase.
    queues: [(u64, u64, bool); 2],
}

impl Driver {
    /// Before anything is set up; its thread runs.
    fn off(readonly: bool) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let memory = DeviceMemory::new(memory);
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(DISK_BYTES).unwrap();
        let messages = Kept::default();
        let over = (disk.try_clone().unwrap(), DISK_BYTES, readonly);
        let kept = Box::new(messages.clone());
        let mut function =
            NvmeFunction::new(memory.clone(), over, "byway-nvme-3", AT, kept).unwrap();
        let nothing = Box::new(|| ());
        function.start_thread("nvme".to_owned(), nothing).unwrap();
        Self {
            memory,
            function,
            messages,
            disk,
            queues: [(0, 0, true); 2],
        }
    }

    /// With interrupts and both queues.
    fn new(readonly: bool) -> Self {
        let mut driver = Self::off(readonly);
        driver.set_command(MEMORY_AND_MASTER);
        for vector in 0..2 {
            let entry = TABLE + 16 * vector;
            driver.write(entry, 0xfee0_0000, 8);
            driver.write(entry + 8, 0x20 + vector, 8);
        }
        let at = driver.capability();
        driver.function.config_write(at + 2, &[0, 0x80]);
        driver.enable();
        let size = (ENTRIES as u32 - 1) << 16 | 1;
        let cq = Command::new(admin::CREATE_CQ, 1, 0).with_prp([IO_CQ, 0]);
        let sq = Command::new(admin::CREATE_SQ, 2, 0).with_prp([IO_SQ, 0]);
        for command in [cq.with(11, 3 | 1 << 16), sq.with(11, 1 | 1 << 16)] {
            assert!(driver.run(0, command.with(10, size)).is_success());
        }
        driver
    }

    fn enable(&mut self) {
        self.write(AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1), 4);
        self.write(ASQ, ADMIN_SQ, 8);
        self.write(ACQ, ADMIN_CQ, 8);
        self.write(CC, u64::from(CC_ENABLE | CC_ENTRY_SIZES), 4);
        assert_eq!(self.read(CSTS, 4), 1);
    }

    fn set_command(&mut self, command: u16) {
        self.function.config_write(COMMAND, &command.to_le_bytes());
    }

    /// Where MSI-X is.
    fn capability(&mut self) -> u16 {
        let mut at = [0];
        self.function.config_read(0x34, &mut at);
        let at = u16::from(at[0]);
        let mut id = [0];
        self.function.config_read(at, &mut id);
        assert_eq!(id, [0x11]);
        at
    }

    fn read(&mut self, offset: u64, bytes: usize) -> u64 {
        let mut data = [0; 8];
        self.function.bar_read(offset, &mut data[..bytes]);
        u64::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u64, bytes: usize) {
        self.function
            .bar_write(offset, &value.to_le_bytes()[..bytes]);
    }

    /// Puts a command into a queue and rings.
    fn submit(&mut self, queue: usize, command: Command) {
        let (tail, ..) = &mut self.queues[queue];
        let at = [ADMIN_SQ, IO_SQ][queue] + 64 * *tail;
        let ram = self.memory.snapshot();
        ram.write_slice(&command.pack(), GuestAddress(at)).unwrap();
        *tail = (*tail + 1) % ENTRIES;
        let tail = *tail;
        self.write(DOORBELLS + tail_doorbell(queue as u16, 0), tail, 4);
    }

    /// The next completion, if it comes in time.
    fn reap(&mut self, queue: usize, limit: Duration) -> Option<Status> {
        let (_, head, phase) = &mut self.queues[queue];
        let at = [ADMIN_CQ, IO_CQ][queue] + 16 * *head;
        let end = Instant::now() + limit;
        loop {
            let ram = self.memory.snapshot();
            let words = [at, at + 8].map(|at| ram.read_obj(GuestAddress(at)).unwrap());
            let found = Completion::unpack(words);
            if found.phase == *phase {
                *head = (*head + 1) % ENTRIES;
                if *head == 0 {
                    *phase = !*phase;
                }
                let head = *head;
                self.write(DOORBELLS + head_doorbell(queue as u16, 0), head, 4);
                return Some(found.status);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::yield_now();
        }
    }

    fn run(&mut self, queue: usize, command: Command) -> Status {
        self.submit(queue, command);
        self.reap(queue, Duration::from_secs(20)).unwrap()
    }

    /// What has come when the thread has done its work.
    fn interrupts(&mut self) -> Vec<(u64, u32)> {
        self.function.settle();
        self.messages.take()
    }
}

fn blocks(opcode: u8, first: u32, count: u32) -> Command {
    let command = Command::new(opcode, 7, 1).with_prp([DATA, DATA + 0x1000]);
    command.with(10, first).with(12, count - 1)
}

#[test]
fn a_driver_sets_it_up_writes_and_reads() {
    let mut driver = Driver::new(false);
    assert_eq!(driver.interrupts().last(), Some(&(0xfee0_0000, 0x20)));
    let identify = Command::new(admin::IDENTIFY, 3, 0).with_prp([DATA, 0]);
    let select = u32::from(identify::CNS_CONTROLLER);
    assert!(driver.run(0, identify.with(10, select)).is_success());
    let mut serial = [0; 20];
    let ram = driver.memory.snapshot();
    ram.read_slice(&mut serial, GuestAddress(DATA + 4)).unwrap();
    assert_eq!(&serial, b"byway-nvme-3        ");
    let pattern: Vec<u8> = (0..8192_u32).map(|i| (i ^ i >> 8) as u8).collect();
    ram.write_slice(&pattern, GuestAddress(DATA)).unwrap();
    driver.interrupts();
    assert!(driver.run(1, blocks(nvm::WRITE, 3, 16)).is_success());
    assert_eq!(driver.interrupts(), [(0xfee0_0000, 0x21)]);
    let mut found = vec![0; 8192];
    driver.disk.read_exact_at(&mut found, 3 * 512).unwrap();
    assert_eq!(found, pattern);
    ram.write_slice(&[0; 8192], GuestAddress(DATA)).unwrap();
    assert!(driver.run(1, blocks(nvm::READ, 3, 16)).is_success());
    ram.read_slice(&mut found, GuestAddress(DATA)).unwrap();
    assert_eq!(found, pattern);
}

#[test]
fn a_namespace_that_is_read_only_says_so_and_stays_as_it_is() {
    let mut driver = Driver::new(true);
    let identify = Command::new(admin::IDENTIFY, 3, 1).with_prp([DATA, 0]);
    assert!(driver.run(0, identify).is_success());
    let ram = driver.memory.snapshot();
    let attributes: u8 = ram.read_obj(GuestAddress(DATA + 99)).unwrap();
    assert_eq!(attributes, 1);
    for opcode in [nvm::WRITE, nvm::WRITE_ZEROES] {
        let status = driver.run(1, blocks(opcode, 0, 1));
        assert_eq!(status, Status::WRITE_PROTECTED.do_not_retry());
    }
    assert!(driver.run(1, blocks(nvm::READ, 0, 1)).is_success());
    assert!(driver.run(1, blocks(nvm::FLUSH, 0, 1)).is_success());
}

#[test]
fn one_that_is_no_bus_master_rests_or_is_reset_accesses_nothing() {
    let mut driver = Driver::new(false);
    let short = Duration::from_millis(50);
    let long = Duration::from_secs(20);
    driver.interrupts();
    driver.set_command(2);
    driver.submit(1, blocks(nvm::FLUSH, 0, 1));
    assert_eq!(driver.reap(1, short), None);
    assert!(driver.interrupts().is_empty());
    driver.set_command(MEMORY_AND_MASTER);
    assert!(driver.reap(1, long).is_some());
    assert_eq!(driver.interrupts().len(), 1);

    driver.function.set_resting(true);
    driver.submit(1, blocks(nvm::FLUSH, 0, 1));
    assert_eq!(driver.reap(1, short), None);
    driver.function.set_resting(false);
    assert!(driver.reap(1, long).is_some());

    driver.submit(1, blocks(nvm::FLUSH, 0, 1));
    assert!(driver.reap(1, long).is_some());
    driver.function.reset();
    assert_eq!(driver.read(CSTS, 4), 0);
    driver.submit(1, blocks(nvm::FLUSH, 0, 1));
    assert_eq!(driver.reap(1, short), None);
    assert_eq!(driver.function.bar(), None);
    // Nor does it if it is told to by registers alone.
    driver.enable();
    driver.queues[0] = (0, 0, true);
    let ram = driver.memory.snapshot();
    ram.write_slice(&[0; 256], GuestAddress(ADMIN_CQ)).unwrap();
    driver.submit(0, Command::new(admin::ABORT, 1, 0));
    assert_eq!(driver.reap(0, short), None);
    let (at, mut control) = (driver.capability(), [0; 2]);
    driver.function.config_read(at + 2, &mut control);
    assert_eq!(control, [16, 0], "17 interrupts, not enabled");
}

#[test]
fn memory_that_comes_later_is_reached_and_writes_are_logged() {
    use std::sync::Arc;
    let mut driver = Driver::new(false);
    let far = 1 << 32;
    let command = blocks(nvm::READ, 0, 1).with_prp([far, 0]);
    assert_eq!(driver.run(1, command), Status::DATA_TRANSFER_ERROR);
    let more = vm_memory::GuestRegionMmap::from_range(GuestAddress(far), 4096, None).unwrap();
    driver.memory.add(Arc::new(more)).unwrap();
    driver.function.settle();
    driver.memory.set_log(true);
    assert!(driver.run(1, command).is_success());
    driver.function.settle();
    let pages: Vec<_> = driver.memory.take_log().into_iter().collect();
    assert_eq!(pages, [IO_CQ >> 12, far >> 12]);
}

#[test]
fn an_interrupt_that_is_masked_waits() {
    let mut driver = Driver::new(false);
    driver.interrupts();
    driver.write(TABLE + 16 + 12, 1, 4);
    assert!(driver.run(1, blocks(nvm::FLUSH, 0, 1)).is_success());
    assert!(driver.interrupts().is_empty());
    assert_eq!(driver.read(PENDING, 8), 2);
    driver.write(PENDING, 0, 8);
    assert_eq!(driver.read(PENDING, 4), 2, "it cannot be written");
    driver.write(TABLE + 16 + 12, 0, 4);
    assert_eq!(driver.messages.take(), [(0xfee0_0000, 0x21)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_access_is_bounded(
        acts in prop::collection::vec(
            (0_u8..6, 0_u64..BAR_BYTES, prop::collection::vec(any::<u8>(), 1..9)), 0..200),
        ram in prop::collection::vec(any::<u8>(), 256),
    ) {
        let mut driver = Driver::off(false);
        for page in [0x1000_u64, 0x2000, 0x3000] {
            driver.memory.snapshot().write_slice(&ram, GuestAddress(page)).unwrap();
        }
        driver.set_command(MEMORY_AND_MASTER);
        driver.enable();
        for (act, offset, mut data) in acts {
            let inside = offset.min(BAR_BYTES - data.len() as u64);
            match act {
                0 => driver.function.bar_read(inside, &mut data),
                1 => driver.function.bar_write(inside, &data),
                // What there is most of: doorbells, and registers as a driver writes them.
                2 => driver.write(DOORBELLS + offset % 0x90 / 4 * 4, u64::from(data[0] % 9), 4),
                3 => driver.write(offset % 0x40 / 4 * 4, u64::from(data[0]) << 12, 4),
                4 => driver.function.config_read(offset as u16 % 0x1000, &mut data),
                _ => driver.function.config_write(offset as u16 % 0x100, &data),
            }
        }
        driver.function.reset();
        prop_assert_eq!(driver.read(CSTS, 4), 0);
    }
}
