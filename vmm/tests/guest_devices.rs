//! The built-in image as a driver of this VMM's disk and network interface, without an engine: what a guest does without Byway, and what
//! it is told where the other side does not play along.

mod common;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use byway_agent::commands::{
    self, ALLOC_READ_ONLY, DISK_READ_BYTES, DeviceCounts, DiskRead, DiskWait, FillPattern, Free,
    NetDrain, NetReceive, NetSend, SendDisk, Status, TakeStream,
};
use byway_agent::stream::{HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, WORD_EVERY};
use byway_agent::{Failure, GuestState, Process, checksum, pattern};
use byway_vmm::devices::settings::{
    DeviceSettings, DiskSettings, DiskWrites, NetSettings, TapSource,
};
use byway_vmm::steer::{Guest, GuestSpec, PAGE_2M, PAGE_4K};
use common::kvm_is_here;

const APP: Process = Process::App;
const PATIENCE: Duration = Duration::from_secs(20);

fn boot(name: &str, devices: DeviceSettings) -> Guest {
    let spec = GuestSpec {
        name: name.to_owned(),
        memory_bytes: 64 << 20,
        pin: None,
        cpus: 1,
    };
    Guest::boot_with(&spec, None, devices).unwrap()
}

/// A disk of `bytes` bytes of the pattern of `seed`, in a file without a name that lives as long as the first of these.
fn disk(bytes: usize, seed: u64) -> (File, Vec<u8>, DiskSettings) {
    let mut data = vec![0; bytes];
    pattern::fill(&mut data, seed);
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &data, 0).unwrap();
    let settings = DiskSettings {
        path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        writes: DiskWrites::Refused,
    };
    (file, data, settings)
}

fn with_disk(disk: DiskSettings) -> DeviceSettings {
    DeviceSettings {
        disks: vec![disk],
        ..DeviceSettings::default()
    }
}

fn with_net(wire: &OwnedFd) -> DeviceSettings {
    DeviceSettings {
        nets: vec![NetSettings {
            tap: TapSource::Fd(wire.as_raw_fd()),
            mac: None,
        }],
        ..DeviceSettings::default()
    }
}

/// Both ends of a wire.
fn wire() -> [OwnedFd; 2] {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors, live for the call.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr()) };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    // SAFETY: fresh descriptors, owned by nobody else.
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) })
}

/// Waits until the guest sleeps, for longer than a moment.
fn wait_asleep(guest: &Guest) {
    let since = Instant::now();
    let mut times = 0;
    while times < 20 {
        let asleep = guest.mailbox().state() == Some(GuestState::Sleeping);
        times = if asleep { times + 1 } else { 0 };
        assert!(since.elapsed() < PATIENCE, "the guest does not sleep");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes of the process at `va`.
fn bytes_at(guest: &Guest, va: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    guest.read(APP, va, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_guest_reads_its_disk_into_pages_wherever_they_are() {
    if !kvm_is_here() {
        return;
    }
    let (_file, data, settings) = disk(4 << 20, 7);
    let guest = boot("reader", with_disk(settings));
    let mut reads = 0;
    // More requests than are under way at once; one that ends within a request; one sector; scattered pages and large ones.
    for (page, bytes, sector) in [
        (PAGE_2M, 4 << 20, 0),
        (PAGE_4K, 3 << 20, 8),
        (PAGE_4K, 300 << 10, 3),
        (PAGE_2M, 512, 8191),
    ] {
        let va = guest.alloc(APP, bytes, page).unwrap();
        let read = DiskRead { va, bytes, sector };
        guest.call(APP, read).unwrap();
        let mut there = 0;
        while there < bytes {
            let now = guest.call(APP, DiskWait { above: there }).unwrap().bytes;
            assert!(now > there && now <= bytes);
            there = now;
        }
        let at = sector as usize * 512;
        let found = bytes_at(&guest, va, bytes as usize);
        assert!(found == data[at..at + bytes as usize], "{read:?}");
        reads += bytes.div_ceil(DISK_READ_BYTES);
        assert_eq!(guest.call(APP, DeviceCounts {}).unwrap().reads, reads);
    }
}

#[test]
fn reads_that_cannot_be_are_refused_and_the_next_is_carried_out() {
    if !kvm_is_here() {
        return;
    }
    let (_file, data, settings) = disk(1 << 20, 8);
    let guest = boot("reader", with_disk(settings));
    let va = guest.alloc(APP, 1 << 20, PAGE_4K).unwrap();
    let good = DiskRead {
        va,
        bytes: 1 << 20,
        sector: 0,
    };
    for (index, bad) in [
        (0, DiskRead { va: va + 1, ..good }),
        (1, DiskRead { bytes: 513, ..good }),
        (2, DiskRead { sector: 1, ..good }),
        (
            2,
            DiskRead {
                sector: u64::MAX,
                ..good
            },
        ),
        // The page behind the buffer is mapped nowhere.
        (
            0,
            DiskRead {
                va: va + 4096,
                ..good
            },
        ),
    ] {
        let mut outcome = guest.try_call(APP, bad).unwrap().map(drop);
        if outcome.is_ok() {
            outcome = guest
                .try_call(APP, DiskWait { above: 1 << 20 })
                .unwrap()
                .map(drop);
        }
        let failure = outcome.unwrap_err();
        assert_eq!(failure.status, Status::BadArgument, "{bad:?}");
        assert_eq!(failure.details[0], index, "{bad:?}");
    }
    // Nor is what the process itself may not write.
    let constant = commands::Alloc {
        bytes: 4096,
        page_size: PAGE_4K,
        flags: ALLOC_READ_ONLY,
    };
    let constant = guest.call(APP, constant).unwrap().va;
    let bad = DiskRead {
        va: constant,
        bytes: 4096,
        sector: 0,
    };
    let failure = guest.try_call(APP, bad).unwrap().unwrap_err();
    assert_eq!(failure, Failure::argument(0, constant));
    guest.call(APP, good).unwrap();
    guest
        .call(
            APP,
            DiskWait {
                above: (1 << 20) - 1,
            },
        )
        .unwrap();
    assert!(bytes_at(&guest, va, 1 << 20) == data);
    // Without a disk none is read.
    let bare = boot("bare", DeviceSettings::default());
    let failure = bare.try_call(APP, good).unwrap().unwrap_err();
    assert_eq!(failure, Failure::new(Status::DeviceFailed, 0));
}

#[test]
fn memory_that_is_read_into_goes_when_the_disk_is_done_with_it() {
    if !kvm_is_here() {
        return;
    }
    let (_file, _, settings) = disk(8 << 20, 9);
    let guest = boot("reader", with_disk(settings));
    for _ in 0..20 {
        let va = guest.alloc(APP, 8 << 20, PAGE_2M).unwrap();
        let bytes = 8 << 20;
        guest
            .call(
                APP,
                DiskRead {
                    va,
                    bytes,
                    sector: 0,
                },
            )
            .unwrap();
        // Under way; the frames go to the next region, whose owner must not find the disk's bytes there.
        guest.call(APP, Free { va }).unwrap();
        let next = guest.alloc(APP, 8 << 20, PAGE_2M).unwrap();
        let fill = FillPattern {
            va: next,
            len: bytes,
            seed: 1,
        };
        guest.call(APP, fill).unwrap();
        let expected = guest.checksum(APP, next, bytes).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(guest.checksum(APP, next, bytes).unwrap(), expected);
        guest.call(APP, Free { va: next }).unwrap();
        let gone = guest.try_call(APP, DiskWait { above: 0 }).unwrap();
        assert_eq!(gone.unwrap_err().status, Status::BadArgument);
    }
}

#[test]
fn what_one_guest_reads_another_gets_through_any_window() {
    if !kvm_is_here() {
        return;
    }
    const BYTES: u64 = (2 << 20) + 512;
    let (_file, data, settings) = disk(BYTES as usize, 10);
    let [one, other] = wire();
    let mut devices = with_net(&one);
    devices.disks.push(settings);
    let alice = boot("alice", devices);
    let bob = boot("bob", with_net(&other));
    let from = alice.alloc(APP, BYTES, PAGE_2M).unwrap();
    let to = bob.alloc(APP, BYTES, PAGE_4K).unwrap();
    let mut payload_frames = 0;
    for (window, seed) in [(4, 1), (5, 2), (8, 3)] {
        let fill = FillPattern {
            va: to,
            len: BYTES,
            seed,
        };
        bob.call(APP, fill).unwrap();
        let taking = bob
            .start(
                APP,
                TakeStream {
                    va: to,
                    bytes: BYTES,
                },
            )
            .unwrap();
        let send = SendDisk {
            va: from,
            bytes: BYTES,
            sector: 0,
            window,
        };
        // Its end is that all of it was taken.
        alice.call(APP, send).unwrap();
        bob.finish(taking).unwrap();
        let found = bob.checksum(APP, to, BYTES).unwrap();
        assert_eq!(found, checksum::checksum(&data), "window {window}");
        payload_frames += BYTES.div_ceil(PAYLOAD_BYTES_MAX as u64);
        let sent = alice.call(APP, DeviceCounts {}).unwrap().frames_sent;
        assert!(sent >= payload_frames, "{sent} of {payload_frames}");
    }
    let slept = bob.call(APP, DeviceCounts {}).unwrap().sleeps;
    assert!(slept > 0, "bob's guest has not slept");
    for window in [0, 3, 25, u64::MAX] {
        let send = NetSend {
            va: from,
            bytes: 1,
            window,
        };
        let failure = alice.try_call(APP, send).unwrap().unwrap_err();
        assert_eq!(failure.status, Status::BadArgument, "window {window}");
    }
}

/// The other end of a guest's wire, in this test's hand.
struct Hand(UnixDatagram);

impl Hand {
    /// Of a socket of datagrams only what all sockets have is used.
    fn new(end: OwnedFd) -> Self {
        let hand = UnixDatagram::from(end);
        hand.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(hand)
    }

    fn send(&self, header: Header, payload: &[u8]) {
        let mut frame = header.to_bytes([2, 0, 0, 0, 0, 1]).to_vec();
        frame.extend(payload);
        self.0.send(&frame).unwrap();
    }

    fn hear(&self) -> (Header, Vec<u8>) {
        let mut frame = vec![0; 70_000];
        let len = self.0.recv(&mut frame).unwrap();
        frame.truncate(len);
        let payload = frame.split_off(HEADER_BYTES);
        let header = Header::from_bytes(frame.as_slice().try_into().unwrap());
        (header.unwrap(), payload)
    }
}

fn header(kind: Kind, bytes: u32, number: u32, taken: u32) -> Header {
    Header {
        kind,
        bytes,
        number,
        taken,
    }
}

#[test]
fn a_guest_sends_no_more_than_may_be_under_way_and_sleeps_meanwhile() {
    if !kvm_is_here() {
        return;
    }
    let [one, other] = wire();
    let hand = Hand::new(other);
    let guest = boot("sender", with_net(&one));
    let bytes = 6 * PAYLOAD_BYTES_MAX as u64 - 5;
    let va = guest.alloc(APP, bytes, PAGE_4K).unwrap();
    let fill = FillPattern {
        va,
        len: bytes,
        seed: 11,
    };
    guest.call(APP, fill).unwrap();
    let send = NetSend {
        va,
        bytes,
        window: WORD_EVERY.into(),
    };
    let sending = guest.start(APP, send).unwrap();
    let mut heard = Vec::new();
    for number in 0..WORD_EVERY {
        let (got, payload) = hand.hear();
        let all = payload.len() as u32;
        assert_eq!(got, header(Kind::Data, all, number, 0));
        heard.extend(payload);
    }
    wait_asleep(&guest);
    assert!(!guest.is_answered(&sending));
    hand.0.set_nonblocking(true).unwrap();
    assert!(hand.0.recv(&mut [0; 64]).is_err(), "more than the window");
    hand.0.set_nonblocking(false).unwrap();
    hand.send(header(Kind::Taken, 0, 0, 2), &[]);
    for _ in 0..2 {
        heard.extend(hand.hear().1);
    }
    guest.finish(sending).unwrap();
    let mut expected = vec![0; bytes as usize];
    pattern::fill(&mut expected, 11);
    assert!(heard == expected);
    // It is content when all was taken.
    let draining = guest.start(APP, NetDrain {}).unwrap();
    hand.send(header(Kind::Taken, 0, 0, 5), &[]);
    wait_asleep(&guest);
    assert!(!guest.is_answered(&draining));
    hand.send(header(Kind::Taken, 0, 0, 6), &[]);
    guest.finish(draining).unwrap();
}

#[test]
fn a_guest_takes_what_is_for_it_and_says_when_something_is_missing() {
    if !kvm_is_here() {
        return;
    }
    let [one, other] = wire();
    let hand = Hand::new(other);
    let guest = boot("receiver", with_net(&one));
    let va = guest.alloc(APP, 8192, PAGE_4K).unwrap();
    let receive = |bytes| NetReceive { va, bytes };
    let taking = guest.start(APP, receive(7)).unwrap();
    // Somebody else's, and one in which more is than is asked for.
    hand.0.send(&[0x55; 200]).unwrap();
    hand.send(header(Kind::Data, 5, 0, 0), b"hello");
    hand.send(header(Kind::Data, 4, 1, 0), b" at!");
    guest.finish(taking).unwrap();
    assert_eq!(bytes_at(&guest, va, 7), b"hello a");
    // The first was taken, and part of the second.
    assert_eq!(hand.hear().0, header(Kind::Taken, 0, 0, 1));
    guest.call(APP, receive(2)).unwrap();
    assert_eq!(bytes_at(&guest, va, 2), b"t!");
    assert_eq!(hand.hear().0, header(Kind::Taken, 0, 0, 2));
    // One is missing.
    hand.send(header(Kind::Data, 1, 3, 0), b"?");
    let failure = guest.try_call(APP, receive(1)).unwrap().unwrap_err();
    assert_eq!(failure.status, Status::DeviceFailed);
    let said = guest.console();
    assert!(said.contains("stream broke"), "{said}");
}
