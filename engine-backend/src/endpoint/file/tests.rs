use std::io::Write;

use super::super::EndpointKind;
use super::super::device::StagingRange;
use super::*;

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
