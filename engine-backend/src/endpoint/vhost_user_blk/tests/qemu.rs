//! QEMU's storage daemon as the device: another implementation of the specification, whose disk is
//! a file that can be looked at without it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const DISK_BYTES: usize = 16 << 20;

struct Daemon {
    process: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// `None`, said aloud: the host has no storage daemon.
    fn start(options: &str) -> Option<Self> {
        Self::start_on("disk", &[], options)
    }

    /// The same with more nodes, exporting one of them.
    fn start_on(node: &str, more: &[&str], options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("disk"), pattern(77, DISK_BYTES)).unwrap();
        let process = Self::spawn(&folder, node, more, options)?;
        Some(Self { process, folder })
    }

    fn spawn(
        folder: &tempfile::TempDir,
        node: &str,
        more: &[&str],
        options: &str,
    ) -> Option<Child> {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let _ = fs::remove_file(folder.path().join("socket"));
        let spawned = Command::new("qemu-storage-daemon")
            .arg("--blockdev")
            .arg(format!(
                "driver=file,node-name=disk,discard=unmap,filename={}",
                path("disk")
            ))
            .args(more.iter().flat_map(|node| ["--blockdev", node]))
            .arg("--export")
            .arg(format!(
                "type=vhost-user-blk,id=export,node-name={node},addr.type=unix,addr.path={}{options}",
                path("socket")
            ))
            .stdin(Stdio::null())
            .spawn();
        let process = match spawned {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("SKIPPED: no qemu-storage-daemon here (Debian: qemu-system-common)");
                return None;
            }
            Err(error) => panic!("qemu-storage-daemon: {error}"),
        };
        let start = Instant::now();
        while !is_listening(&path("socket")) {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "nobody listens at the socket"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(process)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// The disk, read without the daemon.
    fn disk(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("disk")).unwrap()
    }
}

/// Whether somebody accepts connections there. The file is there a moment before, and a connection to see would be the one
/// that the daemon serves.
fn is_listening(path: &str) -> bool {
    /// `__SO_ACCEPTCON` in the column of flags.
    const ACCEPTS: &str = "00010000";
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().any(|line| {
        let mut columns = line.split_whitespace();
        columns.nth(3) == Some(ACCEPTS) && columns.next_back() == Some(path)
    })
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn qemus_storage_daemon_is_read_and_written() {
    let Some(daemon) = Daemon::start(",writable=on,logical-block-size=512") else {
        return;
    };
    let mut bench = open(&daemon.path(), &Options::default()).unwrap();
    let geometry = *bench.disk.geometry();
    assert_eq!(
        u64::from(geometry.block_bytes) * geometry.blocks,
        DISK_BYTES as u64
    );
    assert!(geometry.flush && geometry.discard && geometry.write_zeroes && !geometry.read_only);

    // All of the disk, in requests of all sizes, several at a time, out of step.
    let mut expected = pattern(77, DISK_BYTES);
    let mut lba = 0;
    let mut seed = 1_u32;
    while lba < geometry.blocks {
        let mut batch = Vec::new();
        for n in 0..8 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let blocks = (seed >> 8) % 240 + 1;
            let blocks = u64::from(blocks).min(geometry.blocks - lba) as u32;
            if blocks == 0 {
                break;
            }
            let at = staging(n * 131_072, blocks * 512);
            let request = Request::Read { lba, blocks, at };
            bench.disk.submit(Token(n), &request).unwrap();
            batch.push((lba, at));
            lba += u64::from(blocks);
        }
        bench.disk.flush_submissions();
        for (token, outcome) in bench.wait(batch.len()) {
            assert_eq!(outcome, Outcome::Done);
            let (lba, at) = batch[token.0 as usize];
            let from = lba as usize * 512;
            assert!(
                bench.read(at) == expected[from..from + at.length as usize],
                "at {lba}"
            );
        }
    }

    let data = pattern(3, 300 * 512);
    let here = staging(8192, 300 * 512);
    bench.fill(here, &data);
    let write = Request::Write {
        lba: 1001,
        blocks: 300,
        at: here,
    };
    assert_eq!(bench.one(write), Outcome::Done);
    expected[1001 * 512..1301 * 512].copy_from_slice(&data);
    assert_eq!(
        bench.one(Request::WriteZeroes {
            lba: 1100,
            blocks: 50
        }),
        Outcome::Done
    );
    expected[1100 * 512..1150 * 512].fill(0);
    assert_eq!(
        bench.one(Request::Discard {
            lba: 8192,
            blocks: 128
        }),
        Outcome::Done
    );
    assert_eq!(bench.one(Request::Flush), Outcome::Done);
    let mut found = daemon.disk();
    // What was discarded may read as anything.
    found[8192 * 512..8320 * 512].fill(0);
    expected[8192 * 512..8320 * 512].fill(0);
    assert!(found == expected, "the file differs from what was written");
}

#[test]
fn qemus_storage_daemon_refuses_writes_to_a_disk_that_is_read_only() {
    let Some(daemon) = Daemon::start("") else {
        return;
    };
    let mut bench = open(&daemon.path(), &Options::default()).unwrap();
    assert!(bench.disk.geometry().read_only);
    let write = Request::Write {
        lba: 0,
        blocks: 1,
        at: staging(0, 512),
    };
    assert_eq!(
        bench.disk.submit(Token(0), &write),
        Err(Refused::NotSupported)
    );
}

#[test]
fn qemus_storage_daemon_is_killed_and_attached_again() {
    let Some(mut daemon) = Daemon::start(",writable=on") else {
        return;
    };
    let mut bench = open(&daemon.path(), &Options::default()).unwrap();
    let read = |n: u32| Request::Read {
        lba: n.into(),
        blocks: 64,
        at: staging(n * 32768, 32768),
    };
    assert_eq!(bench.one(read(0)), Outcome::Done);
    daemon.process.kill().unwrap();
    for n in 0..8 {
        // A device that is known to be dead takes nothing more.
        if bench.disk.submit(Token(n), &read(n)).is_err() {
            assert_eq!(bench.disk.gone(), Some("it hung up"));
        }
    }
    bench.disk.flush_submissions();
    for (_, outcome) in bench.wait(8) {
        assert_eq!(outcome, Outcome::Gone);
    }
    assert_eq!(bench.disk.gone(), Some("it hung up"));
    drop(bench);

    daemon.process.wait().unwrap();
    daemon.process = Daemon::spawn(&daemon.folder, "disk", &[], ",writable=on").unwrap();
    let mut bench = open(&daemon.path(), &Options::default()).unwrap();
    assert_eq!(bench.one(read(5)), Outcome::Done);
    assert!(bench.read(staging(5 * 32768, 32768)) == daemon.disk()[5 * 512..5 * 512 + 32768]);
}

#[test]
fn qemus_storage_daemon_tells_of_blocks_that_fail() {
    // EIO of one block that is read, ENOSPC of one that is written: virtio has one status for both.
    let failing = r#"{"driver": "blkdebug", "node-name": "failing", "image": "disk", "inject-error": [
        {"event": "none", "iotype": "read", "errno": 5, "sector": 2000},
        {"event": "none", "iotype": "write", "errno": 28, "sector": 3000}]}"#;
    let options = ",writable=on,logical-block-size=512";
    let Some(daemon) = Daemon::start_on("failing", &[failing], options) else {
        return;
    };
    let mut bench = open(&daemon.path(), &Options::default()).unwrap();
    let at = staging(0, 8 * 512);
    let (lba, blocks) = (1996, 8);
    let failed = Outcome::Failed {
        device_status: 1,
        bytes_done: 0,
    };
    assert_eq!(bench.one(Request::Read { lba, blocks, at }), failed);
    let before = lba - 8;
    assert_eq!(
        bench.one(Request::Read {
            lba: before,
            blocks,
            at
        }),
        Outcome::Done
    );
    let expected = pattern(77, DISK_BYTES);
    let from = before as usize * 512;
    assert!(bench.read(at) == expected[from..from + 4096]);
    bench.fill(at, &pattern(5, 4096));
    for (lba, outcome) in [(2996, failed), (2000, Outcome::Done)] {
        assert_eq!(bench.one(Request::Write { lba, blocks, at }), outcome);
    }
    let found = daemon.disk();
    assert!(found[2000 * 512..2008 * 512] == pattern(5, 4096));
    let untouched = 2996 * 512..3004 * 512;
    assert!(found[untouched.clone()] == expected[untouched]);
    assert_eq!(bench.disk.gone(), None, "a failure is no lie");
}
