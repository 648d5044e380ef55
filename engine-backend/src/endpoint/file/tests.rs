use std::io::Write;

use super::super::EndpointKind;
use super::super::device::StagingRange;
use super::*;
use crate::memory::test_ram::TestRam;
use crate::memory::{LentPart, LentParts};
use crate::stage2::Access;

struct World {
    file: tempfile::NamedTempFile,
    staging: Arc<StagingMemory>,
    device: FileDevice,
}

/// Beside the build, since `/tmp` may be memory, which has no O_DIRECT.
fn folder() -> std::path::PathBuf {
    std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned()
}

fn config(path: &std::path::Path) -> EndpointConfig {
    EndpointConfig {
        name: "disk".to_owned(),
        kind: EndpointKind::File,
        path: path.to_owned(),
        read_only: false,
        timeout_ms: 1000,
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i / 512 + i % 251) as u8).collect()
}

impl World {
    fn new(bytes: usize) -> Self {
        let mut file = tempfile::NamedTempFile::new_in(folder()).unwrap();
        file.write_all(&pattern(bytes)).unwrap();
        let staging = Arc::new(StagingMemory::new(super::super::slot::SLOT_BYTES * 4).unwrap());
        let device = FileDevice::open(&config(file.path()), &staging).unwrap();
        Self {
            file,
            staging,
            device,
        }
    }
    fn staged(&self, offset: usize, bytes: usize) -> Vec<u8> {
        // SAFETY: within the staging, and no request is under way.
        let at = unsafe { self.staging.address().add(offset) };
        // SAFETY: as above.
        (0..bytes)
            .map(|i| unsafe { at.add(i).read_volatile() })
            .collect()
    }
    fn stage(&self, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: within the staging, and no request is under way.
            unsafe { self.staging.address().add(i).write_volatile(*byte) };
        }
    }
    fn run(&mut self, request: Request) -> Outcome {
        self.device.submit(Token(3), &request).unwrap();
        self.device.flush_submissions();
        let mut outcome = None;
        let deadline = Instant::now() + Duration::from_secs(10);
        while outcome.is_none() {
            self.device.poll(&mut |token, ended| {
                assert_eq!(token, Token(3));
                assert_eq!(outcome.replace(ended), None);
            });
            assert!(Instant::now() < deadline, "no answer");
            std::thread::yield_now();
        }
        outcome.unwrap()
    }
}

fn at(length: u32) -> StagingRange {
    StagingRange { offset: 0, length }
}

#[test]
fn blocks_come_and_go() {
    let mut w = World::new(64 << 10);
    let block = w.device.geometry().block_bytes;
    let blocks = 8192 / block;
    let lba = u64::from(16384 / block);
    let read = Request::Read {
        lba,
        blocks,
        at: at(8192),
    };
    assert_eq!(w.run(read), Outcome::Done);
    assert_eq!(w.staged(0, 8192), pattern(64 << 10)[16384..24576]);
    w.stage(&[0x5a; 8192]);
    let write = Request::Write {
        lba: 0,
        blocks,
        at: at(8192),
    };
    assert_eq!(w.run(write), Outcome::Done);
    assert_eq!(w.run(Request::Flush), Outcome::Done);
    let there = std::fs::read(w.file.path()).unwrap();
    assert_eq!(there[..8192], [0x5a; 8192]);
    assert_eq!(there[8192..], pattern(64 << 10)[8192..]);
    let zeroes = Request::WriteZeroes { lba: 0, blocks };
    match w.run(zeroes) {
        Outcome::Done => assert_eq!(std::fs::read(w.file.path()).unwrap()[..8192], [0; 8192]),
        // Not every file system can.
        outcome => assert!(matches!(
            outcome,
            Outcome::Failed { device_status, bytes_done: 0 } if device_status == libc::EOPNOTSUPP as u16
        )),
    }
    assert!(w.device.system_calls() >= 4);
}

#[test]
fn a_file_that_became_shorter_gives_what_it_has() {
    let mut w = World::new(64 << 10);
    let block = w.device.geometry().block_bytes;
    w.file.as_file().set_len(20480).unwrap();
    let read = Request::Read {
        lba: u64::from(16384 / block),
        blocks: 8192 / block,
        at: at(8192),
    };
    let expected = Outcome::Failed {
        device_status: SHORT,
        bytes_done: 4096,
    };
    assert_eq!(w.run(read), expected);
    assert_eq!(w.staged(0, 4096), pattern(64 << 10)[16384..20480]);
}

#[test]
fn what_is_no_disk_is_refused() {
    let staging = Arc::new(StagingMemory::new(4096).unwrap());
    let open = |path: &str| {
        FileDevice::open(&config(path.as_ref()), &staging)
            .err()
            .unwrap()
    };
    assert!(open("/nowhere").contains("cannot open /nowhere"));
    assert!(open("/dev/null").contains("neither a file nor a block device"));
    let empty = tempfile::NamedTempFile::new_in(folder()).unwrap();
    let e = open(empty.path().to_str().unwrap());
    assert!(e.contains("has 0 bytes: expected at least a block"), "{e}");
}

#[test]
fn a_closed_device_does_nothing_more() {
    let mut w = World::new(64 << 10);
    let read = Request::Read {
        lba: 0,
        blocks: 1,
        at: at(w.device.geometry().block_bytes),
    };
    w.device.submit(Token(0), &read).unwrap();
    w.device.close(Duration::from_secs(2));
    assert_eq!(w.device.submit(Token(1), &read), Err(Refused::Gone));
    assert!(w.device.gone().is_some());
}

/// Pages of this memory at these addresses, in this order, for a device that writes them.
fn lent(ram: &TestRam, pages: &[u64]) -> Lent {
    let mut parts = LentParts::default();
    for &gpa in pages {
        let host = ram.memory.stage2().walk(gpa, Access::Write).unwrap().host.0;
        let bytes = 4096;
        assert!(parts.push(LentPart { host, gpa, bytes }));
    }
    ram.memory.lend(parts, true).unwrap()
}

impl World {
    /// A request about memory, to its end.
    fn run_direct(&mut self, request: Request, memory: &Lent) -> Outcome {
        self.device
            .submit_direct(Token(3), &request, memory)
            .unwrap();
        self.device.flush_submissions();
        let mut outcome = None;
        while outcome.is_none() {
            self.device.poll(&mut |token, told| {
                assert_eq!(token, Token(3));
                outcome = Some(told);
            });
            std::thread::yield_now();
        }
        outcome.unwrap()
    }
}

#[test]
fn memory_is_read_into_and_written_from_in_its_parts() {
    let mut w = World::new(64 << 10);
    let block = w.device.geometry().block_bytes;
    let ram = TestRam::new(&[(0, 1 << 20, true)]);
    // Neighbours the wrong way round: no two are one part.
    let memory = lent(&ram, &[8192, 4096, 0]);
    assert_eq!(memory.parts().len(), 3);
    let (lba, blocks) = (u64::from(4096 / block), 3 * 4096 / block);
    let at = at(3 * 4096);
    let read = Request::Read { lba, blocks, at };
    assert_eq!(w.run_direct(read, &memory), Outcome::Done);
    let expected = pattern(64 << 10);
    for (i, gpa) in [8192, 4096, 0].into_iter().enumerate() {
        let page = ram.memory.contiguous(gpa, 4096).unwrap();
        let mut bytes = vec![0; 4096];
        page.read_bytes(0, &mut bytes);
        assert!(bytes == expected[(i + 1) * 4096..][..4096], "{gpa:#x}");
        page.write_bytes(0, &[i as u8 + 1; 4096]);
    }
    let write = Request::Write { lba, blocks, at };
    assert_eq!(w.run_direct(write, &memory), Outcome::Done);
    let file = std::fs::read(w.file.path()).unwrap();
    let pages = file[4096..].chunks(4096).take(3);
    for (i, page) in pages.enumerate() {
        assert!(page.iter().all(|&byte| usize::from(byte) == i + 1), "{i}");
    }
}

#[test]
fn what_memory_cannot_have_in_one_go_is_left_to_staging() {
    let mut w = World::new(64 << 10);
    let block = w.device.geometry().block_bytes;
    let ram = TestRam::new(&[(0, 1 << 20, true)]);
    let memory = lent(&ram, &[0, 8192]);
    w.file.as_file().set_len(20480).unwrap();
    let read = |at: u32| Request::Read {
        lba: u64::from(at / block),
        blocks: 8192 / block,
        at: StagingRange {
            offset: 0,
            length: 8192,
        },
    };
    let failed = |device_status: i32| Outcome::Failed {
        device_status: device_status as u16,
        bytes_done: 0,
    };
    assert_eq!(w.run_direct(read(16384), &memory), failed(libc::ENODATA));
    // The memory's file has lost what is behind it.
    ram.truncate(4096);
    assert_eq!(w.run_direct(read(0), &memory), failed(libc::EFAULT));
}

#[test]
fn what_was_lent_is_told_of_after_the_end_too() {
    let mut w = World::new(64 << 10);
    let block = w.device.geometry().block_bytes;
    let ram = TestRam::new(&[(0, 1 << 20, true)]);
    let memory = lent(&ram, &[0]);
    let read = Request::Read {
        lba: 0,
        blocks: 4096 / block,
        at: at(4096),
    };
    w.device.submit_direct(Token(3), &read, &memory).unwrap();
    w.device.submit(Token(4), &read).unwrap();
    w.device.close(Duration::from_secs(2));
    let mut told = Vec::new();
    while !told.contains(&Token(3)) {
        w.device.poll(&mut |token, _| told.push(token));
    }
    assert_eq!(told.iter().filter(|&&token| token == Token(3)).count(), 1);
    assert!(w.device.submit_direct(Token(5), &read, &memory).is_err());
}

/// A worker may drive the ring, and must not come by it to what its filter of system calls keeps from it.
#[test]
fn the_ring_does_nothing_but_what_the_device_asks() {
    let mut world = World::new(4096);
    let path = c"/dev/null";
    let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
    let nothing = opcode::Nop::new().build();
    let mut bytes = [0_u8; 512];
    let own = std::fs::File::open("/dev/zero").unwrap();
    let other = opcode::Read::new(types::Fd(own.as_raw_fd()), bytes.as_mut_ptr(), 512).build();
    for entry in [open, nothing, other] {
        // SAFETY: what the entry points to outlives the wait.
        unsafe { world.device.ring.submission().push(&entry) }.unwrap();
        world.device.ring.submit_and_wait(1).unwrap();
        let ended = world.device.ring.completion().next().unwrap();
        assert_eq!(ended.result(), -libc::EACCES);
    }
    let registered = world.device.ring.submitter().register_eventfd(2);
    assert_eq!(registered.unwrap_err().raw_os_error(), Some(libc::EACCES));
}
