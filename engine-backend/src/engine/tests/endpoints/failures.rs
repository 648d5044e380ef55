//! Devices that fail what they are asked for: the submitter is told what the device said, at
//! which block, and how many bytes before it are done.

use super::failing_host::{FailingLoop, FullDisk};
use super::peer_world::{DISK, Peers, Start, blk, nvme};
use super::*;
use crate::endpoint::vhost_user_blk::SHORT_READ;
use crate::testing::{Mischief, NvmeMischief};

/// Bytes of one request to these devices.
const PIECE: u64 = 128 << 10;

/// What a transfer has to be told that a device failed.
#[derive(Debug)]
struct Failure {
    /// In the device's own terms.
    says: u16,
    /// Where the transfer began on the device.
    first: u64,
    /// Bytes done before.
    done: u64,
    /// It is the side that is written to which failed.
    is_write: bool,
}

impl Failure {
    fn check(&self, done: &Completion, block: u64) {
        let at = self.first + self.done;
        let write = u8::from(self.is_write) << 7;
        assert_eq!(
            (
                done.status,
                u64::from(done.bytes_completed),
                done.op0,
                done.op1,
                done.fault_addr
            ),
            (
                Status::DeviceError as u8 | write,
                self.done,
                self.says.into(),
                at / block,
                at
            ),
            "{self:?}: {done:?}"
        );
    }
}

/// Devices that fail everything after so many requests, each with what it says.
fn failing(after: u64) -> [(u16, Start); 2] {
    // IOERR of virtio; Unrecovered Read Error of NVMe's, not to be asked again.
    let (io_error, unrecovered) = (1, 0x4281);
    [
        (io_error, blk(Mischief::Fails(io_error as u8), after, DISK)),
        (
            unrecovered,
            nvme(NvmeMischief::Fails(unrecovered), after, DISK),
        ),
    ]
}

#[test]
fn what_a_device_says_of_a_read_is_told_with_the_block() {
    for (says, start) in failing(2) {
        let mut world = Peers::new(&start);
        let (peer, first, size) = (world.slots[1], 64 << 10, 4 * PIECE);
        for done in [2 * PIECE, 0] {
            let to = world.ask_read(peer, first, size).to;
            let told = world.alice.queue.wait();
            let is_write = false;
            Failure {
                says,
                first,
                done,
                is_write,
            }
            .check(&told, 512);
            world.expect(first, to, done);
            world.check_memory("after a failed read");
        }
        assert_eq!(world.state(), (true, None), "a failure is no lie");
    }
}

#[test]
fn what_a_device_says_of_a_write_is_told_with_the_block() {
    for (says, start) in failing(2) {
        let mut world = Peers::new(&start);
        let (peer, first, size) = (world.slots[1], 64 << 10, 4 * PIECE);
        world.alice.fill(1, size, 0x44);
        let told = world.alice.run(&write(peer, first, 1, size));
        let (done, is_write) = (2 * PIECE, true);
        Failure {
            says,
            first,
            done,
            is_write,
        }
        .check(&told, 512);
        let (at, end) = (first as usize, (first + done) as usize);
        let disk = world.peer().disk();
        assert!(disk[at..end].iter().all(|&b| b == 0x44));
        assert!(disk[..at] == world.pattern[..at]);
        let behind = (first + size) as usize;
        assert!(disk[behind..] == world.pattern[behind..]);
        for operation in [device_operation::FLUSH, device_operation::DISCARD] {
            let size = u64::from(operation == device_operation::DISCARD) * size;
            let told = world
                .alice
                .run(&transfer(operation, (0, 0), (peer, 0), size));
            Failure {
                says,
                first: 0,
                done: 0,
                is_write,
            }
            .check(&told, 512);
        }
        assert_eq!(world.state(), (true, None));
    }
}

#[test]
fn a_request_that_a_device_takes_in_parts_tells_how_many_it_did() {
    // 64 sectors at a time.
    let mut world = Peers::new(&blk(Mischief::Fails(1), 2, DISK));
    let (peer, first) = (world.slots[1], 64 << 10);
    let zeroes = transfer(device_operation::WRITE_ZEROES, (0, 0), (peer, first), PIECE);
    let told = world.alice.run(&zeroes);
    let done = 2 * 64 * 512;
    Failure {
        says: 1,
        first,
        done,
        is_write: true,
    }
    .check(&told, 512);
    let (at, end) = (first as usize, (first + done) as usize);
    let disk = world.peer().disk();
    assert!(disk[at..end].iter().all(|&b| b == 0));
    assert!(disk[..at] == world.pattern[..at]);
    assert!(disk[end..] == world.pattern[end..]);
}

#[test]
fn a_copy_tells_which_of_its_devices_failed() {
    for is_write in [false, true] {
        for (says, start) in failing(3) {
            let mut world = Peers::new(&start);
            let [file, peer] = world.slots;
            let (sound, broken) = ((file, 1 << 20), (peer, 32 << 10));
            let copy = match is_write {
                true => transfer(device_operation::COPY, sound, broken, 1 << 20),
                false => transfer(device_operation::COPY, broken, sound, 1 << 20),
            };
            let told = world.alice.run(&copy);
            let (first, done) = (broken.1, 3 * PIECE);
            Failure {
                says,
                first,
                done,
                is_write,
            }
            .check(&told, 512);
            let (from, to) = if is_write {
                (1 << 20, 32 << 10)
            } else {
                (32 << 10, 1 << 20)
            };
            let there = if is_write {
                world.peer().disk()
            } else {
                world.file.bytes()
            };
            let end = done as usize;
            assert!(there[to..to + end] == world.pattern[from..from + end]);
            assert!(there[..to] == world.pattern[..to]);
        }
    }
}

#[test]
fn a_read_that_ends_too_early_is_told_to_the_byte() {
    let mut world = Peers::new(&blk(Mischief::ShortRead, 1, DISK));
    let (peer, first) = (world.slots[1], 4096);
    let to = world.ask_read(peer, first, 3 * PIECE).to;
    let told = world.alice.queue.wait();
    let done = 2 * PIECE - 512;
    Failure {
        says: SHORT_READ,
        first,
        done,
        is_write: false,
    }
    .check(&told, 512);
    world.expect(first, to, done);
    world.check_memory("after a short read");
    assert_eq!(world.state(), (true, None));
}

#[test]
fn more_than_a_device_has_room_for_waits_its_turn() {
    for start in [
        blk(Mischief::None, 0, DISK),
        nvme(NvmeMischief::None, 0, DISK),
    ] {
        let mut world = Peers::new(&start);
        let [file, peer] = world.slots;
        // 8 requests each, of the 64 that a device takes at a time.
        let asked: Vec<_> = (0..14)
            .map(|i| world.ask_read(if i == 5 { file } else { peer }, i << 15, 1 << 20))
            .collect();
        for asked in asked {
            let done = world.alice.queue.wait();
            assert_eq!(done.status(), Some(Status::Success), "{done:?}");
            world.expect(asked.at, asked.to, asked.size);
        }
        world.check_memory("after more than fits");
        assert_eq!(world.state(), (true, None));
    }
}

/// An engine and alice with the file or device at this path; her slot and its blocks.
fn with_disk(path: &Path) -> (Engine, Vm, u16, u64) {
    let (engine, mut alice, _bob) = pair();
    attach(&engine, "disk", path);
    grant(&engine, "disk", "alice");
    let opened = open(&mut alice, "disk").unwrap();
    (engine, alice, opened.slot as u16, opened.block_bytes.into())
}

#[test]
fn a_host_that_refuses_a_write_is_told_by_its_errno() {
    use std::os::fd::{AsRawFd, FromRawFd};
    // SAFETY: the name is a C string; the descriptor is new, and checked by what uses it.
    let file = unsafe {
        let fd = libc::memfd_create(
            c"disk".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        );
        std::fs::File::from_raw_fd(fd)
    };
    file.set_len(DISK as u64).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let (_engine, mut alice, slot, block) = with_disk(&path);
    alice.fill(0, 4 * PIECE, 0x11);
    assert_eq!(alice.run_for(&write(slot, 0, 0, PIECE)), Status::Success);
    // SAFETY: an integer argument.
    let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    assert_eq!(sealed, 0);
    let first = 8192;
    let told = alice.run(&write(slot, first, PIECE, 3 * PIECE));
    let says = libc::EPERM as u16;
    Failure {
        says,
        first,
        done: 0,
        is_write: true,
    }
    .check(&told, block);
    assert_eq!(
        alice.run_for(&read(slot, 0, 8 << 20, 2 * PIECE)),
        Status::Success
    );
    assert!(alice.read(8 << 20, PIECE) == alice.read(0, PIECE));
    assert_eq!(
        alice.read((8 << 20) + PIECE, PIECE),
        vec![0; PIECE as usize]
    );
}

#[test]
fn a_full_disk_tells_how_much_fitted() {
    let room = (1 << 20) + (64 << 10);
    let Some(full) = FullDisk::new(DISK as u64, room) else {
        return;
    };
    let (engine, mut alice, slot, block) = with_disk(&full.path());
    alice.fill(0, DISK as u64, 0x22);
    let told = alice.run(&write(slot, 0, 0, DISK as u64));
    let says = libc::ENOSPC as u16;
    Failure {
        says,
        first: 0,
        done: room,
        is_write: true,
    }
    .check(&told, block);
    assert!(full.bytes()[..room as usize].iter().all(|&b| b == 0x22));
    // What fits goes on, and what did not does when there is room.
    assert_eq!(alice.run_for(&write(slot, 0, 0, room)), Status::Success);
    full.make_room();
    assert_eq!(
        alice.run_for(&write(slot, 0, 0, DISK as u64)),
        Status::Success
    );
    assert!(full.bytes() == vec![0x22; DISK]);
    let Reply::Endpoints { endpoints } = engine.act(Action::Endpoints).unwrap() else {
        panic!("another reply");
    };
    let row = &endpoints[0];
    let written = 2 * room + DISK as u64;
    assert!(row.attached && row.failures > 0, "{row:?}");
    assert_eq!(row.bytes_written, written);
}

#[test]
fn a_bad_block_is_told_with_what_is_before_it() {
    let bad = 5 * PIECE;
    let Some(device) = FailingLoop::new(&pattern(DISK)) else {
        return;
    };
    let (_engine, mut alice, slot, block) = with_disk(&device.path());
    device.fail_from(bad);
    let (first, size) = (PIECE, 7 * PIECE);
    alice.fill(0, size + 4096, 0x33);
    let told = alice.run(&read(slot, first, 0, size));
    let (says, done) = (libc::EIO as u16, bad - first);
    Failure {
        says,
        first,
        done,
        is_write: false,
    }
    .check(&told, block);
    let expected = pattern(DISK);
    assert!(alice.read(0, done) == expected[first as usize..bad as usize]);
    let behind = alice.read(done, size + 4096 - done);
    assert!(
        behind.iter().all(|&b| b == 0x33),
        "what was not read is not shown"
    );
}
