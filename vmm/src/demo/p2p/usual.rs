//! What is usually done instead, through two guests: alice's reads its disk by virtio-blk and sends what it has read by
//! virtio-net, over a socket between the two VMs, to bob's.
//!
//! Both are VMs of their own, without an engine, whose threads may run on every core. The disk is read past alice's kernel
//! (into her process's pages, as O_DIRECT does) with as many requests under way as the engine has; frames are as long as the interface
//! takes. What is slow about this path is then not that it was done badly.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use byway_agent::commands::{DeviceCounts, DiskSent, FillPattern, SendDisk, TakeStream};
use byway_agent::stream::{PAYLOAD_BYTES_MAX, WINDOW_MAX, WORD_EVERY};
use byway_agent::{GuestState, Process, checksum};

use crate::devices::settings::{DeviceSettings, DiskSettings, DiskWrites, NetSettings, TapSource};
use crate::exits::ExitSnapshot;
use crate::measure::pin;
use crate::measure::thread_load::{cpu_seconds, threads};
use crate::steer::{Guest, GuestSpec, PAGE_2M, Stage};

/// What it is, for the report.
pub(super) const WHAT: &str = "two guests: alice's kernel reads by virtio-blk into her process's pages (128 KiB requests, 16 under \
     way, the host's page cache dropped before), copies what it has into frames of virtio-net (43,776 bytes at most, up to 24 under way), \
     a Unix socket of packets to bob's VM, whose kernel copies it into his process; both sleep in hlt until an interrupt";

/// RAM of each VM in bytes: the mailbox, the buffer, and what drivers take.
const MEMORY: u64 = 96 << 20;
/// Bytes that the host counts for a frame which is in a socket, its own records included: no less than it does.
const FRAME_COST: u32 = 52 << 10;
/// Longest that a round may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether a round is over: until then a process that is done waits busily for its next command.
const LOOK: Duration = Duration::from_micros(200);

/// What it came to.
#[derive(Debug, Default)]
pub(super) struct Usual {
    pub(super) gbps: f64,
    /// Of both VMs' threads: vCPUs, disk and network devices.
    pub(super) cpu_s_per_gib: f64,
    /// Exits of both VMs that were not for the host's interrupts; `None` where KVM does not tell.
    pub(super) exits: Option<u64>,
}

/// The two VMs.
struct Pair {
    alice: Guest,
    bob: Guest,
    /// Buffers of the two processes.
    from: u64,
    to: u64,
    /// Frames that may be under way between them.
    window: u32,
    /// Every thread of theirs.
    threads: Vec<i32>,
}

/// Has the disk's image, of `bytes` bytes, sent `rounds` times, the first of which warms up; what bob's process has afterwards is held
/// against the image each time.
pub(super) fn read_and_send(stage: &Stage, image: &Path, bytes: u64, rounds: u64) -> Result<Usual> {
    // Nobody else is to be busy: the engine's worker has parked by then.
    stage.alice.sleep()?;
    stage.bob.sleep()?;
    stage.quiesce();
    let _free = pin::Bound::among(stage.cores()).context("cannot free a thread from its core")?;
    let pair = Pair::boot(image, bytes)?;
    let expected = checksum::checksum(&std::fs::read(image)?);
    let (mut ns, mut cpu_s, mut exits, mut moved) = (0, 0.0, ExitSnapshot::default(), 0);
    for round in 0..rounds {
        drop_cache(image)?;
        let one = pair.round(bytes, round)?;
        let found = pair.bob.checksum(Process::App, pair.to, bytes)?;
        ensure!(
            found == expected,
            "bob's process has something else than the disk"
        );
        if round > 0 {
            ns += one.ns;
            cpu_s += one.cpu_s;
            exits = exits.plus(&one.exits);
            moved += bytes;
        }
    }
    pair.check_counts(bytes * rounds)?;
    pair.end();
    let counted = !["exits", "irq_exits"]
        .iter()
        .any(|name| exits.missing.contains(name));
    Ok(Usual {
        gbps: moved as f64 / ns as f64,
        cpu_s_per_gib: cpu_s * (1 << 30) as f64 / moved as f64,
        exits: counted.then(|| exits.other()),
    })
}

/// Of one round.
struct Round {
    ns: u64,
    cpu_s: f64,
    exits: ExitSnapshot,
}

impl Pair {
    fn boot(image: &Path, bytes: u64) -> Result<Self> {
        let before = threads()?;
        let (one, other) = wire()?;
        let disk = DiskSettings {
            path: image.to_owned(),
            writes: DiskWrites::Refused,
        };
        let alice = boot("alice", vec![disk], &one)?;
        let bob = boot("bob", Vec::new(), &other)?;
        let from = alice.alloc(Process::App, bytes, PAGE_2M)?;
        let to = bob.alloc(Process::App, bytes, PAGE_2M)?;
        let window = window(&one)?;
        let mut threads = threads()?;
        threads.retain(|thread| !before.contains(thread));
        Ok(Self {
            alice,
            bob,
            from,
            to,
            window,
            threads,
        })
    }

    fn round(&self, bytes: u64, number: u64) -> Result<Round> {
        // What was there before is not what is to come.
        let nothing = FillPattern {
            va: self.to,
            len: bytes,
            seed: !number,
        };
        self.bob.call(Process::App, nothing)?;
        let take = TakeStream { va: self.to, bytes };
        let taking = self.bob.start(Process::App, take)?;
        let waits = || self.bob.mailbox().state() == Some(GuestState::Sleeping);
        wait(waits).context("bob's guest does not wait for its network interface")?;
        let before = (self.cpu_seconds()?, self.exits()?);
        let send = SendDisk {
            va: self.from,
            bytes,
            sector: 0,
            window: self.window.into(),
        };
        let sending = self.alice.start(Process::App, send)?;
        let over = || self.alice.is_answered(&sending);
        wait(over).context("alice's guest does not come to an end with sending its disk")?;
        let after = (self.cpu_seconds()?, self.exits()?);
        let DiskSent { ticks, .. } = self.alice.finish(sending)?;
        // Bob's guest waits for word that this was all, which nobody who waits busily is to hold up.
        self.alice.sleep()?;
        self.bob.finish(taking)?;
        Ok(Round {
            ns: self.alice.ticks_to_ns(ticks),
            cpu_s: after.0 - before.0,
            exits: after.1.delta(&before.1),
        })
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let mut all = 0.0;
        for thread in &self.threads {
            all += cpu_seconds(*thread)?;
        }
        Ok(all)
    }

    fn exits(&self) -> Result<ExitSnapshot> {
        Ok(self.alice.exits()?.plus(&self.bob.exits()?))
    }

    /// Stops both before either goes, so that none sees the other hang up.
    fn end(mut self) {
        self.alice.vm_mut().stop();
        self.bob.vm_mut().stop();
    }

    /// That it was these devices which moved `bytes` bytes.
    fn check_counts(&self, bytes: u64) -> Result<()> {
        let alice = self.alice.call(Process::App, DeviceCounts {})?;
        let bob = self.bob.call(Process::App, DeviceCounts {})?;
        let reads = bytes.div_ceil(super::SIZE);
        let frames = bytes.div_ceil(PAYLOAD_BYTES_MAX as u64);
        let came = frames..=alice.frames_sent;
        ensure!(
            alice.reads == reads && came.contains(&bob.frames_received),
            "the guests' drivers counted something else: {alice:?}, {bob:?}"
        );
        Ok(())
    }
}

fn boot(name: &str, disks: Vec<DiskSettings>, wire: &OwnedFd) -> Result<Guest> {
    let spec = GuestSpec {
        name: name.to_owned(),
        memory_bytes: MEMORY,
        pin: None,
        cpus: 1,
    };
    let devices = DeviceSettings {
        disks,
        nets: vec![NetSettings {
            tap: TapSource::Fd(wire.as_raw_fd()),
            mac: None,
        }],
        ..DeviceSettings::default()
    };
    Guest::boot_with(&spec, None, devices)
}

/// The two ends of a wire between VMs.
fn wire() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors, live for the call.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us these descriptors, and nobody else holds them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// As many frames as the host keeps between two ends of a wire: more would be lost.
fn window(wire: &OwnedFd) -> Result<u32> {
    let mut bytes: libc::c_int = 0;
    let mut len = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: value and length are live for the call, and the length is the value's.
    let got = unsafe {
        libc::getsockopt(
            wire.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw mut bytes).cast(),
            &raw mut len,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error()).context("cannot ask a socket for its buffer");
    }
    let frames = u32::try_from(bytes)? / FRAME_COST;
    ensure!(
        frames >= WORD_EVERY,
        "this host gives a socket {bytes} bytes, and {WORD_EVERY} frames take {FRAME_COST} each; raise net.core.wmem_max"
    );
    Ok(frames.min(WINDOW_MAX))
}

/// Has the host's page cache forget a file, as far as it can: the engine reads past it.
fn drop_cache(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    // SAFETY: takes no pointer. It is advice: a file system in memory keeps what it has.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    Ok(())
}

fn wait(is_so: impl Fn() -> bool) -> Result<()> {
    let since = Instant::now();
    while !is_so() {
        ensure!(since.elapsed() < PATIENCE, "not in {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use byway_agent::stream::HEADER_BYTES;

    use super::*;

    #[test]
    fn a_wire_keeps_as_many_frames_as_it_is_said_to() {
        for bytes in [FRAME_COST * WORD_EVERY / 2, 200 << 10, 400 << 10, 2 << 20] {
            let (one, _other) = wire().unwrap();
            // The host takes it twice, and no more than it allows.
            // SAFETY: the value is live for the call, and its length is given.
            let set = unsafe {
                libc::setsockopt(
                    one.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_SNDBUF,
                    (&raw const bytes).cast(),
                    size_of_val(&bytes) as libc::socklen_t,
                )
            };
            assert_eq!(set, 0);
            // SAFETY: changes a flag of an open descriptor.
            unsafe { libc::fcntl(one.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
            let window = window(&one).unwrap();
            assert!((WORD_EVERY..=WINDOW_MAX).contains(&window));
            let mut file = File::from(one);
            for frame in 0..window {
                let sent = file.write(&[0; HEADER_BYTES + PAYLOAD_BYTES_MAX]);
                assert!(
                    sent.is_ok(),
                    "frame {frame} of {window}, {bytes} bytes: {sent:?}"
                );
            }
        }
    }
}
