//! The network device against a driver, honest and hostile; a socket pair of packets stands for the host's interface, but where
//! that is to be had.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::devices::memory::DeviceMemory;
use crate::devices::seat::OwnThread;
use crate::devices::settings::{Mac, TapSource};
use crate::devices::test_driver::{DATA, Driver, SIZE, hostile, ram};
use crate::devices::virtio::VirtioDevice;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

struct World {
    device: NetDevice,
    memory: DeviceMemory,
    receive: Driver,
    transmit: Driver,
    host: UnixDatagram,
}

fn world() -> World {
    let (host, guest) = UnixDatagram::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    world_of(Tap::from_file(File::from(OwnedFd::from(guest))), host)
}

fn world_of(tap: Tap, host: UnixDatagram) -> World {
    host.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let memory = DeviceMemory::new(ram());
    let mac = Mac::of("alice", 0);
    let mut device = NetDevice::new(memory.clone(), tap, mac).unwrap();
    device
        .start_thread("test".to_owned(), Box::new(|| ()))
        .unwrap();
    let receive = Driver::new(&mut device, RECEIVE, &memory);
    let transmit = Driver::new(&mut device, TRANSMIT, &memory);
    World {
        device,
        memory,
        receive,
        transmit,
        host,
    }
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add(at as u8)).collect()
}

fn heard(host: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let len = host.recv(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

#[test]
fn frames_go_out_without_their_header() {
    let mut world = world();
    let sent = frame(100, 3);
    // The header in two parts, the second with the frame's beginning.
    world.transmit.write(DATA, &[0xff; 12]);
    world.transmit.write(DATA + 12, &sent);
    world
        .transmit
        .request(&[(DATA, 5), (DATA + 5, 30), (DATA + 35, 77)], &[]);
    assert_eq!(world.transmit.used(), (0, 0));
    assert_eq!(heard(&world.host), sent);
    assert!(world.transmit.interrupted(&world.device));
}

#[test]
fn what_is_no_frame_is_dropped() {
    let mut world = world();
    for parts in [&[(DATA, 11)][..], &[(DATA, 12)], &[(DATA, 25)]] {
        world.transmit.request(parts, &[]);
        assert_eq!(world.transmit.used(), (0, 0));
    }
    world.transmit.write(DATA + 12, &frame(14, 1));
    world.transmit.request(&[(DATA, 26)], &[]);
    world.transmit.used();
    assert_eq!(heard(&world.host), frame(14, 1));
}

#[test]
fn frames_come_in_with_a_header_and_wait_for_a_buffer() {
    let mut world = world();
    let (first, second) = (frame(60, 9), frame(1514, 77));
    world.host.send(&first).unwrap();
    world.host.send(&second).unwrap();
    for sent in [first, second] {
        world
            .receive
            .request(&[], &[(DATA, 7), (DATA + 0x1000, 1600)]);
        let len = sent.len() as u32 + 12;
        assert_eq!(world.receive.used(), (0, len));
        let got = [
            world.receive.read(DATA, 7),
            world.receive.read(DATA + 0x1000, len as usize - 7),
        ]
        .concat();
        assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(got[12..], sent);
    }
}

#[test]
fn a_frame_that_does_not_fit_is_lost_and_the_next_comes() {
    let mut world = world();
    world.host.send(&frame(1000, 1)).unwrap();
    world.host.send(&frame(50, 2)).unwrap();
    world.receive.request(&[], &[(DATA, 1011)]);
    assert_eq!(world.receive.used(), (0, 0));
    world.receive.request(&[], &[(DATA, 1011)]);
    assert_eq!(world.receive.used(), (0, 62));
    assert_eq!(world.receive.read(DATA + 12, 50), frame(50, 2));
}

#[test]
fn the_address_is_in_the_configuration() {
    let world = world();
    let mut bytes = [0xff; 8];
    world.device.read_config(0, &mut bytes);
    assert_eq!(bytes[..6], Mac::of("alice", 0).bytes());
    assert_eq!(bytes[6..], [0, 0]);
    assert_eq!(world.device.features() >> 32, 0);
}

#[test]
fn an_interface_that_cannot_be_had_says_why() {
    // Open, and no TAP interface; and sockets, which are of another kind or have no other end.
    let null = File::open("/dev/null").unwrap();
    let stream = UnixStream::pair().unwrap().0;
    let datagram = UnixDatagram::pair().unwrap().0;
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // SAFETY: takes no pointer.
    let alone = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0) };
    // SAFETY: a fresh descriptor, owned by nobody else.
    let alone = unsafe { OwnedFd::from_raw_fd(alone) };
    for (fd, why) in [
        (null.as_raw_fd(), "not attached"),
        (1_000_000, "not open"),
        (stream.as_raw_fd(), "SOCK_SEQPACKET"),
        (datagram.as_raw_fd(), "SOCK_SEQPACKET"),
        (udp.as_raw_fd(), "SOCK_SEQPACKET"),
        (alone.as_raw_fd(), "not connected"),
    ] {
        let error = Tap::open(&TapSource::Fd(fd)).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    // Loopback is there wherever there is /dev/net/tun, and is no TAP interface.
    let error = Tap::open(&TapSource::Name("lo".to_owned())).unwrap_err();
    assert!(
        matches!(
            error,
            TapError::NoTun | TapError::Forbidden(_) | TapError::Unusable { .. }
        ),
        "{error}"
    );
}

/// A network interface with a socket of packets, as a VM that is given its descriptor has it, and the other end of that.
fn wired() -> World {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors, live for the call.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: fresh descriptors, owned by nobody else.
    let [guest, host] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    let tap = Tap::open(&TapSource::Fd(guest.as_raw_fd())).unwrap();
    // Of a socket of datagrams only what all sockets have is used.
    world_of(tap, UnixDatagram::from(host))
}

#[test]
fn frames_pass_a_socket_both_ways() {
    let mut world = wired();
    for len in [FRAME_BYTES_MIN as usize, 1514, FRAME_BYTES_MAX as usize] {
        let sent = frame(len, len as u8);
        world.transmit.write(DATA + 12, &sent);
        world.transmit.request(&[(DATA, 12 + len as u32)], &[]);
        assert_eq!(world.transmit.used(), (0, 0));
        assert_eq!(heard(&world.host), sent);
        world.host.send(&sent).unwrap();
        world.receive.request(&[], &[(DATA, 70_000)]);
        assert_eq!(world.receive.used(), (0, 12 + len as u32));
        assert_eq!(world.receive.read(DATA + 12, len), sent);
    }
}

#[test]
fn packets_that_are_no_frames_are_dropped_and_frames_behind_them_come() {
    let mut world = wired();
    for len in [1, 13, 65_536, 70_000] {
        world.host.send(&frame(len, 1)).unwrap();
    }
    let sent = frame(200, 9);
    world.host.send(&sent).unwrap();
    world.receive.request(&[], &[(DATA, 80_000)]);
    assert_eq!(world.receive.used(), (0, 212));
    assert_eq!(world.receive.read(DATA + 12, 200), sent);
}

#[test]
fn an_end_that_does_not_listen_or_has_gone_costs_frames_and_stops_nobody() {
    let mut world = wired();
    let len = 60_000;
    world.transmit.write(DATA + 12, &frame(len, 2));
    // More than any socket's buffer has room for.
    for _ in 0..200 {
        world.transmit.request(&[(DATA, 12 + len as u32)], &[]);
        assert_eq!(world.transmit.used(), (0, 0));
    }
    assert_eq!(heard(&world.host), frame(len, 2));
    let other = UnixDatagram::unbound().unwrap();
    drop(std::mem::replace(&mut world.host, other));
    // Else a thread would never rest again: the socket stays readable.
    assert!(socket::frame_of(0).is_err());
    world.receive.request(&[], &[(DATA, 2000)]);
    assert_eq!(world.receive.used_within(Duration::from_millis(50)), None);
    for _ in 0..10 {
        world.transmit.request(&[(DATA, 100)], &[]);
        assert_eq!(world.transmit.used(), (0, 0));
    }
}

/// EtherType for experiments (IEEE 802): nothing else on the host sends such frames.
const EXPERIMENT: u16 = 0x88b5;

/// A TAP interface in a network namespace of its own, and a socket on the host's side of it that has the frames of
/// [`EXPERIMENT`]. `None`, having said why, where the host grants no such thing. The calling thread stays in the namespace.
fn real_tap() -> Option<(Tap, UnixDatagram)> {
    let skip = |why: &str| {
        println!("SKIPPED: {why}: {}", std::io::Error::last_os_error());
        None
    };
    // SAFETY: concerns this thread alone, which has nothing of the old namespace open.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        return skip("no network namespace to be had");
    }
    let tap = match Tap::open(&TapSource::Name("tap0".to_owned())) {
        Ok(tap) => tap,
        Err(why) if why.is_hosts() => return skip(&why.to_string()),
        Err(why) => panic!("{why}"),
    };
    let protocol = EXPERIMENT.to_be();
    // SAFETY: takes no pointer.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) };
    if socket < 0 {
        return skip("no packet socket to be had");
    }
    // SAFETY: a fresh descriptor, owned by nobody else. Of a socket of datagrams only what all sockets have is used.
    let host = UnixDatagram::from(unsafe { OwnedFd::from_raw_fd(socket) });
    // SAFETY: plain data; zeros are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tap0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is whole and live for the call.
    let up = unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(up, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: as above.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    // SAFETY: the name ends with a zero.
    address.sll_ifindex = unsafe { libc::if_nametoindex(c"tap0".as_ptr()) } as i32;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: an address of this length, live for the call.
    let bound = unsafe { libc::bind(socket, (&raw const address).cast(), len) };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    Some((tap, host))
}

/// As [`frame`], with the type of [`real_tap`]'s socket, to everybody.
fn experiment(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = frame(len, seed);
    bytes[..6].fill(0xff);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, seed]);
    bytes[12..14].copy_from_slice(&EXPERIMENT.to_be_bytes());
    bytes
}

#[test]
fn frames_pass_a_tap_interface_of_the_host_both_ways() {
    let Some((tap, host)) = real_tap() else {
        return;
    };
    let mut world = world_of(tap, host);
    let sent = experiment(600, 5);
    world.transmit.write(DATA, &[0; 12]);
    world.transmit.write(DATA + 12, &sent);
    world.transmit.request(&[(DATA, 612)], &[]);
    assert_eq!(world.transmit.used(), (0, 0));
    assert_eq!(heard(&world.host), sent);

    let sent = experiment(1514, 8);
    world.host.send(&sent).unwrap();
    // The host's kernel has words of its own for an interface that comes up.
    for _ in 0..100 {
        world.receive.request(&[], &[(DATA, 1600)]);
        let (_, len) = world.receive.used();
        let got = world.receive.read(DATA + 12, len as usize - 12);
        if got[12..14] == EXPERIMENT.to_be_bytes() {
            assert_eq!(got, sent);
            return;
        }
    }
    panic!("the frame has not come");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_chain_stops_the_device(
        out in hostile(),
        into in hostile(),
        heads in prop::collection::vec(0..SIZE, 1..8),
    ) {
        let mut world = world();
        world.transmit.describe(&out);
        world.receive.describe(&into);
        for head in &heads {
            world.host.send(&frame(100, *head as u8)).unwrap();
            world.transmit.offer(*head);
            world.receive.offer(*head);
        }
        for _ in &heads {
            world.transmit.used();
        }
        world.device.stop_queue(RECEIVE).unwrap();
        world.device.stop_queue(TRANSMIT).unwrap();
        // And it serves whoever comes next.
        world.transmit = Driver::new(&mut world.device, TRANSMIT, &world.memory);
        let last = [0xee; 222];
        world.transmit.write(DATA + 12, &last);
        world.transmit.request(&[(DATA, 234)], &[]);
        world.transmit.used();
        while heard(&world.host) != last {}
    }
}
