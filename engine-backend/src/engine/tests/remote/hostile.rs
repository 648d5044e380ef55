//! Front ends that do what they should not: each loses its connection, and nobody else anything.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use byway_protocols::Status;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::front_end::Qemu;
use super::{BOTH, World, assert_exchange};
use crate::device::tests::driver::Driver;
use crate::engine::tests::world::{BUFFER, BUFFER_BYTES, Vm, copy, until};
use crate::testing::Guest;

/// A message: request, flags, body.
fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [request, flags, body.len() as u32] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(body);
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Version 1, and a reply asked for.
const PLAIN: u32 = 1;
const REPLY: u32 = 9;

/// The world with alice's and bob's exchange going on, which every case leaves alone.
struct Bystanders {
    w: World,
    alice: Vm,
    bob: Vm,
    remote: u16,
}

impl Bystanders {
    fn new() -> Self {
        let w = World::new();
        let create = crate::interface::Action::CreateDomain {
            name: "mallory".into(),
            quotas: Default::default(),
        };
        crate::interface::Admin::act(w.daemon.as_ref().unwrap(), create).unwrap();
        let (mut alice, mut bob) = (w.boot("alice"), w.boot("bob"));
        let (_, remote) = bob.give_buffer(&mut alice, BOTH);
        Self {
            w,
            alice,
            bob,
            remote,
        }
    }
    fn assert_unharmed(&mut self) {
        assert_exchange(&mut self.alice, &self.bob, self.remote);
    }
    fn socket(&self) -> UnixStream {
        let stream = UnixStream::connect(self.w.socket("mallory")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }
    /// A front end that has negotiated.
    fn mallory(&self) -> (Qemu, Arc<Guest>) {
        let guest = Guest::new(1, BUFFER_BYTES);
        (Qemu::connect(&self.w.socket("mallory"), &guest), guest)
    }
    fn assert_detached(&mut self, what: &str) {
        until(what, || !self.w.is_attached("mallory"));
        self.assert_unharmed();
    }
}

/// Reads until the other side closes.
fn assert_closed(mut stream: UnixStream, what: &str) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "{what}: {error}"
        ),
    }
}

#[test]
fn messages_that_are_none_end_the_connection() {
    let mut b = Bystanders::new();
    for (what, bytes) in [
        ("noise", vec![0xa5; 64]),
        ("no such request", message(200, PLAIN, &[])),
        ("request 0", message(0, PLAIN, &[])),
        ("version 2", message(1, 2, &[])),
        ("reserved flags", message(1, 0x11, &[])),
        ("a reply", message(1, 5, &words(&[0]))),
        ("a body where none is", message(1, PLAIN, &words(&[0]))),
        ("too short a body", message(2, PLAIN, &[0; 4])),
        ("too long a message", {
            let mut bytes = message(2, PLAIN, &[]);
            bytes[8..12].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
            bytes
        }),
        ("a table without memory", message(5, REPLY, &words(&[0]))),
        (
            "a table of a million regions",
            message(5, REPLY, &words(&[1 << 20])),
        ),
        (
            "memory before REPLY_ACK",
            message(8, PLAIN, &words(&[256 << 32])),
        ),
        (
            "memory before REPLY_ACK, a reply asked for",
            message(8, REPLY, &words(&[256 << 32])),
        ),
        ("a ring of 3", message(8, PLAIN, &words(&[3 << 32]))),
        ("a ring that is not there", message(10, PLAIN, &words(&[7]))),
        (
            "protocol features without REPLY_ACK",
            message(16, PLAIN, &words(&[1])),
        ),
        (
            "protocol features nobody knows",
            message(16, PLAIN, &words(&[1 << 60 | 8])),
        ),
        (
            "virtio features nobody knows",
            message(2, PLAIN, &words(&[1 << 50])),
        ),
        (
            "a ring enabled before all",
            message(18, PLAIN, &words(&[1 << 32])),
        ),
        (
            "configuration space unasked for",
            message(24, PLAIN, &[0; 20]),
        ),
        ("device state", message(42, PLAIN, &words(&[0]))),
        (
            "writes to be logged without a log",
            message(2, PLAIN, &words(&[1 << 26])),
        ),
        (
            "a log without a file",
            message(6, PLAIN, &words(&[4096, 0])),
        ),
    ] {
        let mut stream = b.socket();
        stream.write_all(&bytes).unwrap();
        assert_closed(stream, what);
        b.assert_detached(what);
    }
}

#[test]
fn half_a_message_stalls_its_sender_alone() {
    let mut b = Bystanders::new();
    let whole = message(2, PLAIN, &words(&[0]));
    for length in [1, 11, 12] {
        let mut stream = b.socket();
        stream.write_all(&whole[..length]).unwrap();
        until("it is attached", || b.w.is_attached("mallory"));
        b.assert_unharmed();
        // Another front end waits for its turn, and is not served.
        drop(stream);
        b.assert_detached("half a message");
    }
    let mut stream = b.socket();
    stream.write_all(&whole[..19]).unwrap();
    assert_closed(stream, "a body that is short");
    b.assert_detached("a body that is short");
    // The daemon ends, whatever a front end does not say.
    let mut stream = b.socket();
    stream.write_all(&whole[..5]).unwrap();
    until("it is attached", || b.w.is_attached("mallory"));
    b.w.daemon = None;
    assert_closed(stream, "the end of the daemon");
}

#[test]
fn a_front_end_that_does_not_read_stalls_itself_alone() {
    let mut b = Bystanders::new();
    let mut stream = b.socket();
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let question = message(1, PLAIN, &[]);
    while stream.write_all(&question).is_ok() {}
    b.assert_unharmed();
    b.w.daemon = None;
}

#[test]
fn descriptors_that_could_hold_others_up_are_refused() {
    let mut b = Bystanders::new();
    let (pipe, _other) = UnixStream::pair().unwrap();
    let regular = tempfile::tempfile().unwrap();
    regular.set_len(1 << 20).unwrap();
    let file = regular.as_raw_fd();
    // SAFETY: takes a number; the descriptor is nobody else's.
    let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    for fd in [pipe.as_raw_fd(), file, epoll.as_raw_fd()] {
        for request in [12, 13] {
            let (qemu, _guest) = b.mallory();
            let stream = stream_of(&qemu);
            send(&stream, &message(request, PLAIN, &words(&[0])), &[fd]);
            b.assert_detached("no eventfd");
        }
    }
    let region = |handle: RawFd, bytes: u64| VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: bytes,
        userspace_addr: 1 << 40,
        mmap_offset: 0,
        mmap_handle: handle,
    };
    let memfd = Guest::new(1, 2 << 20);
    let memfd = memfd.file().as_raw_fd();
    // As large as it may be, and nothing behind it.
    // SAFETY: the name is a string with its end; the descriptor is nobody else's.
    let sparse = unsafe {
        let fd = libc::memfd_create(c"sparse".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: changes the size of an open file.
    assert_eq!(unsafe { libc::ftruncate(sparse.as_raw_fd(), 1 << 42) }, 0);
    for (handle, bytes) in [
        (file, 1 << 20),
        (pipe.as_raw_fd(), 4096),
        (memfd, 4 << 20),
        (memfd, 4097),
        (memfd, 1 << 62),
        (sparse.as_raw_fd(), (1 << 40) + 4096),
    ] {
        let (qemu, _guest) = b.mallory();
        qemu.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let refused = qemu.frontend.set_mem_table(&[region(handle, bytes)]);
        assert!(refused.is_err());
        b.assert_detached("no memory");
    }
    // Two regions at one place.
    let (qemu, _guest) = b.mallory();
    qemu.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let at = |gpa| VhostUserMemoryRegionInfo {
        guest_phys_addr: gpa,
        ..region(memfd, 1 << 20)
    };
    assert!(qemu.frontend.set_mem_table(&[at(0), at(4096)]).is_err());
    b.assert_detached("regions that overlap");
    // More descriptors than messages may have.
    let (qemu, _guest) = b.mallory();
    let stream = stream_of(&qemu);
    send(&stream, &message(12, PLAIN, &words(&[0])), &[memfd; 40]);
    // They are closed, and the message with them; what follows is waited for.
    b.assert_unharmed();
    drop((qemu, stream));
    b.assert_detached("40 descriptors");
}

#[test]
fn who_is_told_of_a_refusal_goes_on() {
    let mut b = Bystanders::new();
    let (mut qemu, guest) = b.mallory();
    let offered = qemu.frontend.get_protocol_features().unwrap();
    qemu.frontend.set_protocol_features(offered).unwrap();
    qemu.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let region = |gpa| VhostUserMemoryRegionInfo {
        guest_phys_addr: gpa,
        memory_size: BUFFER_BYTES,
        userspace_addr: (1 << 40) + gpa,
        mmap_offset: 0,
        mmap_handle: guest.file().as_raw_fd(),
    };
    qemu.frontend.add_mem_region(&region(0)).unwrap();
    // It overlaps the first one: refused, and nothing has changed.
    assert!(qemu.frontend.add_mem_region(&region(4096)).is_err());
    assert!(qemu.frontend.set_vring_num(0, 3).is_err());
    qemu.frontend.add_mem_region(&region(BUFFER_BYTES)).unwrap();
    qemu.frontend.remove_mem_region(&region(0)).unwrap();
    assert!(qemu.frontend.remove_mem_region(&region(0)).is_err());
    qemu.frontend.add_mem_region(&region(0)).unwrap();
    b.assert_unharmed();
    // What does not ask to be told is disconnected.
    qemu.frontend.set_hdr_flags(VhostUserHeaderFlag::empty());
    let _ = qemu.frontend.add_mem_region(&region(4096));
    b.assert_detached("a refusal that nobody is told of");
}

#[test]
fn an_interrupt_that_blocks_holds_up_its_owner_alone() {
    let mut b = Bystanders::new();
    let guest = Guest::new(1, 3 * BUFFER_BYTES);
    let mut qemu = Qemu::connect(&b.w.socket("mallory"), &guest);
    let driver = Driver::new(&guest);
    // Full, and made to block: whoever writes it sleeps.
    let full = || {
        let call = EventFd::new(0).unwrap();
        call.write(u64::MAX - 1).unwrap();
        call
    };
    let mut rings = [driver.control.vring(), driver.events.vring()];
    for ring in &mut rings {
        ring.call = full();
    }
    qemu.start([&rings[0], &rings[1]]);
    for _ in 0..8 {
        driver.control.kick();
        b.assert_unharmed();
    }
    let own = copy((0, BUFFER), (0, BUFFER + 4096), 4096);
    assert_eq!(b.bob.run_for(&own), Status::Success);
    drop(qemu);
    // Somebody else can operate the engine, and it ends.
    let name = "mallory".into();
    let remove = crate::interface::Action::RemoveDomain { name };
    crate::interface::Admin::act(b.w.daemon.as_ref().unwrap(), remove).unwrap();
    b.assert_unharmed();
}

fn stream_of(qemu: &Qemu) -> UnixStream {
    // SAFETY: a copy of an open socket's descriptor, owned by the stream alone.
    unsafe { UnixStream::from_raw_fd(libc::dup(qemu.frontend.as_raw_fd())) }
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[RawFd]) {
    // It may have been closed before all is written.
    let _ = stream.send_with_fds(&[bytes], fds);
}
