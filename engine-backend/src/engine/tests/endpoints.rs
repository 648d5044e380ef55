//! Block devices, from the operator's grant to the bytes in a guest's process and back.

mod cancels;
mod chains;
mod direct;
mod failing_host;
mod failures;
mod fences;
mod peer_world;
mod peers;
mod slow_disk;

use std::io::Write;
use std::path::{Path, PathBuf};

use byway_protocols::codec::{CodecWord, Compression};
use byway_protocols::control::{
    CapDeriveReply, CapDeriveRequest, EndpointOpenReply, EndpointOpenRequest, RequestKind,
};
use byway_protocols::operands::{DeviceFields, device_flags, device_operation};
use byway_protocols::{
    Completion, ControlStatus, Descriptor, Flags, Opcode, Rights, Status, Word0,
};

use super::world::{BUFFER, Vm, copy, pair, until};
use crate::Engine;
use crate::codec::StreamKind;
use crate::interface::{Action, Admin, EndpointConfig, EndpointGrant, EndpointKind, Reply};

/// Bytes of the disk.
const DISK: usize = 8 << 20;

/// A file as a disk, with a pattern.
pub(super) struct Disk(tempfile::NamedTempFile);

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i / 4096 * 7 + i % 253) as u8).collect()
}

impl Disk {
    /// Beside the build, since `/tmp` may be memory.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let folder = std::env::current_exe().unwrap();
        let mut file = tempfile::NamedTempFile::new_in(folder.parent().unwrap()).unwrap();
        file.write_all(bytes).unwrap();
        Self(file)
    }
    pub(super) fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.0.path()).unwrap()
    }
}

pub(super) fn attach(engine: &Engine, name: &str, path: &Path) {
    attach_as(engine, name, path, EndpointKind::File);
}

fn attach_as(engine: &Engine, name: &str, path: &Path, kind: EndpointKind) {
    let config = EndpointConfig {
        name: name.to_owned(),
        kind,
        path: path.to_owned(),
        read_only: false,
        timeout_ms: 10_000,
    };
    engine.act(Action::AttachEndpoint(config)).unwrap();
}

pub(super) fn grant(engine: &Engine, endpoint: &str, domain: &str) -> EndpointGrant {
    let grant = EndpointGrant {
        endpoint: endpoint.to_owned(),
        domain: domain.to_owned(),
        first: 0,
        bytes: 0,
        read: true,
        write: true,
        trusted: false,
    };
    engine.act(Action::GrantEndpoint(grant.clone())).unwrap();
    grant
}

fn open(vm: &mut Vm, name: &str) -> Result<EndpointOpenReply, ControlStatus> {
    open_into(vm, name, 0)
}

pub(super) fn open_into(
    vm: &mut Vm,
    name: &str,
    slot: u32,
) -> Result<EndpointOpenReply, ControlStatus> {
    let mut padded = [0; 32];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    let q = EndpointOpenRequest {
        context: vm.context,
        slot,
        name: padded,
        ..EndpointOpenRequest::default()
    };
    let reply = vm.ask(RequestKind::EndpointOpen, &q.to_bytes())?;
    Ok(EndpointOpenReply::from_bytes(&reply))
}

/// An engine with alice, bob and a disk that alice has opened; her slot.
fn world() -> (Engine, Vm, Vm, Disk, u16) {
    let (engine, mut alice, bob) = pair();
    let disk = Disk::new(&pattern(DISK));
    attach(&engine, "disk", &disk.path());
    grant(&engine, "disk", "alice");
    let opened = open(&mut alice, "disk").unwrap();
    assert_eq!(opened.length, DISK as u64);
    (engine, alice, bob, disk, opened.slot as u16)
}

fn transfer(operation: u8, src: (u16, u64), dst: (u16, u64), size: u64) -> Descriptor {
    with(
        DeviceFields {
            operation,
            ..DeviceFields::default()
        },
        src,
        dst,
        size,
    )
}

fn with(fields: DeviceFields, src: (u16, u64), dst: (u16, u64), size: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(src.0, dst.0, false).0,
        src: src.1,
        dst: dst.1,
        size: size as u32,
        ..Descriptor::new(Opcode::DeviceTransfer, Flags::NONE)
    }
    .with_operands(fields.to_bytes())
}

fn read(slot: u16, at: u64, to: u64, size: u64) -> Descriptor {
    transfer(device_operation::READ, (slot, at), (0, BUFFER + to), size)
}

fn write(slot: u16, at: u64, from: u64, size: u64) -> Descriptor {
    transfer(
        device_operation::WRITE,
        (0, BUFFER + from),
        (slot, at),
        size,
    )
}

#[test]
fn blocks_reach_a_process_and_come_back() {
    let (engine, mut alice, _bob, disk, slot) = world();
    let expected = pattern(DISK);
    // One piece, several, and more than are under way at a time; memory anywhere.
    for (at, to, size) in [(4096, 5, 4096), (0, 1, 300 << 10), (1 << 20, 0, 5 << 20)] {
        alice.fill(to, size, 0);
        let done = alice.run(&read(slot, at, to, size));
        assert_eq!(done.status(), Some(Status::Success), "{done:?}");
        assert_eq!(done.bytes_completed, size as u32);
        let range = at as usize..(at + size) as usize;
        assert!(alice.read(to, size) == expected[range], "{size} bytes");
    }
    let size = 3 << 20;
    alice.fill(7, size, 0xa5);
    let done = alice.run(&write(slot, 8192, 7, size));
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert_eq!(done.bytes_completed, size as u32);
    let flush = transfer(device_operation::FLUSH, (0, 0), (slot, 0), 0);
    assert_eq!(alice.run_for(&flush), Status::Success);
    let there = disk.bytes();
    assert!(there[8192..8192 + size as usize].iter().all(|&b| b == 0xa5));
    assert_eq!(there[..8192], expected[..8192]);
    assert_eq!(
        there[8192 + size as usize..],
        expected[8192 + size as usize..]
    );

    let Reply::Endpoints { endpoints } = engine.act(Action::Endpoints).unwrap() else {
        panic!("another reply");
    };
    let row = &endpoints[0];
    assert_eq!(
        (row.name.as_str(), row.attached, row.under_way),
        ("disk", true, 0)
    );
    assert_eq!(row.bytes_written, size);
    assert_eq!(row.bytes_read, 4096 + (300 << 10) + (5 << 20));
    assert!(row.system_calls > 0 && row.requests > 60, "{row:?}");
    assert_eq!(row.users[0].domain, "alice");
}

#[test]
fn the_other_operations_do_what_they_say() {
    let (_engine, mut alice, _bob, disk, slot) = world();
    let op = |operation, src, dst, size| transfer(operation, src, dst, size);
    alice.guest.write(alice.buffer_gpa(), &pattern(1 << 20));
    let compare = op(device_operation::COMPARE, (slot, 0), (0, BUFFER), 1 << 20);
    let same = alice.run(&compare);
    assert_eq!((same.status(), same.result), (Some(Status::Success), 0));
    alice.fill(700_001, 1, 0xff);
    let differs = alice.run(&compare);
    assert_eq!(
        (differs.status(), differs.result),
        (Some(Status::Success), 1)
    );
    assert_eq!(differs.bytes_completed, 700_001);

    let copied = op(device_operation::COPY, (slot, 0), (slot, 4 << 20), 2 << 20);
    assert_eq!(alice.run_for(&copied), Status::Success);
    assert!(disk.bytes()[4 << 20..6 << 20] == pattern(2 << 20));
    let overlapping = op(device_operation::COPY, (slot, 0), (slot, 4096), 8192);
    assert_eq!(alice.run_for(&overlapping), Status::Overlap);

    let zeroes = op(device_operation::WRITE_ZEROES, (0, 0), (slot, 65536), 65536);
    let done = alice.run(&zeroes);
    match done.status() {
        Some(Status::Success) => assert_eq!(disk.bytes()[65536..131_072], [0; 65536]),
        // Not every file system can.
        _ => assert_eq!(
            (done.status, done.op0),
            (Status::DeviceError as u8 | 0x80, 95)
        ),
    }
    let discard = op(device_operation::DISCARD, (0, 0), (slot, 1 << 20), 65536);
    let done = alice.run(&discard);
    assert!(matches!(
        done.status(),
        Some(Status::Success | Status::DeviceError)
    ));
}

#[test]
fn disks_are_cloned_to_each_other() {
    let (engine, mut alice, _bob, _disk, slot) = world();
    let other = Disk::new(&vec![0; DISK]);
    attach(&engine, "other", &other.path());
    grant(&engine, "other", "alice");
    let target = open(&mut alice, "other").unwrap().slot as u16;
    let clone = transfer(device_operation::COPY, (slot, 0), (target, 0), DISK as u64);
    let done = alice.run(&clone);
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert_eq!(done.bytes_completed, DISK as u32);
    assert!(other.bytes() == pattern(DISK));
}

#[test]
fn an_nvme_controller_is_a_disk_like_another() {
    let (engine, mut alice, _bob, _disk, slot) = world();
    let other = Disk::new(&vec![0; DISK]);
    attach_as(&engine, "nvme", &other.path(), EndpointKind::NvmeModel);
    grant(&engine, "nvme", "alice");
    let nvme = open(&mut alice, "nvme").unwrap().slot as u16;
    let clone = transfer(device_operation::COPY, (slot, 0), (nvme, 0), DISK as u64);
    let done = alice.run(&clone);
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert!(other.bytes() == pattern(DISK));
    let size = 3 << 20;
    let done = alice.run(&read(nvme, 8192, 3, size));
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert!(alice.read(3, size) == pattern(DISK)[8192..8192 + size as usize]);
    let zeroes = transfer(device_operation::WRITE_ZEROES, (0, 0), (nvme, 65536), 65536);
    assert_eq!(alice.run_for(&zeroes), Status::Success);
    let flush = transfer(device_operation::FLUSH, (0, 0), (nvme, 0), 0);
    assert_eq!(alice.run_for(&flush), Status::Success);
    assert_eq!(other.bytes()[65536..131_072], [0; 65536]);
}

#[test]
fn what_is_wrong_is_refused_and_moves_nothing() {
    let (_engine, mut alice, _bob, disk, slot) = world();
    alice.fill(0, 65536, 0x11);
    let read_at = |at, size| read(slot, at, 0, size);
    let end = DISK as u64;
    let fields = |change: fn(&mut DeviceFields)| {
        let mut fields = DeviceFields {
            operation: device_operation::READ,
            ..DeviceFields::default()
        };
        change(&mut fields);
        with(fields, (slot, 0), (0, BUFFER), 4096)
    };
    for (descriptor, status) in [
        (read_at(end - 4096, 8192), Status::Bounds),
        (read_at(u64::MAX - 4095, 4096), Status::Bounds),
        (read_at(100, 4096), Status::AddressAlignment),
        (read_at(0, 1000), Status::BadSize),
        (read_at(0, 0), Status::BadSize),
        (read(0, 0, 0, 4096), Status::MissingRight),
        (read(40, 0, 0, 4096), Status::NoCapability),
        (copy((slot, 0), (0, BUFFER), 4096), Status::MissingRight),
        (copy((0, BUFFER), (slot, 0), 4096), Status::MissingRight),
        (fields(|f| f.operation = 0), Status::ReservedNotZero),
        (fields(|f| f.operation = 8), Status::ReservedNotZero),
        (fields(|f| f.flags = 2), Status::ReservedNotZero),
        (fields(|f| f.crc = 1), Status::ReservedNotZero),
        (fields(|f| f.reserved16[3] = 1), Status::ReservedNotZero),
        (fields(|f| f.chain = 100), Status::ReservedNotZero),
        (
            transfer(device_operation::FLUSH, (0, 0), (slot, 0), 512),
            Status::BadSize,
        ),
        (
            transfer(device_operation::READ, (slot, 0), (0, 0x1000), 4096),
            Status::Stage1NotPresent,
        ),
        (
            transfer(device_operation::WRITE, (0, 0x1000), (slot, 0), 4096),
            Status::Stage1NotPresent,
        ),
    ] {
        let done = alice.run(&descriptor);
        assert_eq!(done.status(), Some(status), "{descriptor:?}: {done:?}");
        assert_eq!(done.bytes_completed, 0);
    }
    assert_eq!(alice.read(0, 65536), [0x11; 65536]);
    assert!(disk.bytes() == pattern(DISK));
    // A write that faults behind its first pieces tells what is written.
    let hole = super::world::BUFFER_BYTES;
    let from = hole - (300 << 10);
    let done = alice.run(&write(slot, 0, from, 400 << 10));
    assert_eq!(done.status(), Some(Status::Stage1NotPresent));
    assert_eq!(done.bytes_completed, 256 << 10);
    assert_eq!(done.fault_addr, BUFFER + hole);
    let written = alice.read(from, 256 << 10);
    assert!(disk.bytes()[..256 << 10] == written);
}

fn derive(
    vm: &mut Vm,
    slot: u16,
    base: u64,
    length: u64,
    rights: Rights,
) -> Result<u16, ControlStatus> {
    let q = CapDeriveRequest {
        context: vm.context,
        slot: slot.into(),
        base,
        length,
        rights: rights.0,
        target_context: vm.context,
        ..CapDeriveRequest::default()
    };
    let reply = vm.ask(RequestKind::CapDerive, &q.to_bytes())?;
    Ok(CapDeriveReply::from_bytes(&reply).slot as u16)
}

#[test]
fn ranges_are_cut_given_on_and_taken_back() {
    let (engine, mut alice, mut bob, disk, slot) = world();
    let (first, length) = (1 << 20, 64 << 10);
    let readable = Rights::BLOCK_READ | Rights::GRANT;
    for (base, length) in [
        (100, 4096),
        (0, 1000),
        (0, DISK as u64 + 4096),
        (DISK as u64, 4096),
    ] {
        let refused = derive(&mut alice, slot, base, length, readable);
        assert_eq!(refused, Err(ControlStatus::Bounds), "{base}+{length}");
    }
    let widened = derive(&mut alice, slot, first, length, Rights::READ);
    assert_eq!(widened, Err(ControlStatus::MissingRight));
    let cut = derive(&mut alice, slot, first, length, readable).unwrap();
    let offer = alice.offer(cut.into(), bob.id, Rights::BLOCK_READ).unwrap();
    let his = bob.accept(offer).unwrap();
    assert_eq!(bob.run_for(&read(his, 0, 0, length)), Status::Success);
    let range = first as usize..(first + length) as usize;
    assert!(bob.read(0, length) == pattern(DISK)[range]);
    assert_eq!(bob.run_for(&read(his, length, 0, 4096)), Status::Bounds);
    assert_eq!(bob.run_for(&write(his, 0, 0, 4096)), Status::MissingRight);
    alice.revoke(cut.into()).unwrap();
    bob.fill(0, length, 3);
    assert_eq!(bob.run_for(&read(his, 0, 0, length)), Status::Revoked);
    assert_eq!(bob.read(0, length), vec![3; length as usize]);
    // Another's disk is not there to open.
    assert_eq!(
        open(&mut bob, "disk").err(),
        Some(ControlStatus::NoSuchObject)
    );
    assert_eq!(
        open(&mut bob, "nothing").err(),
        Some(ControlStatus::NoSuchObject)
    );
    assert_eq!(
        open(&mut bob, "Not a name").err(),
        Some(ControlStatus::BadArgument)
    );
    // The operator takes it all back.
    let (endpoint, domain) = ("disk".to_owned(), "alice".to_owned());
    engine
        .act(Action::UngrantEndpoint { endpoint, domain })
        .unwrap();
    assert_eq!(alice.run_for(&read(slot, 0, 0, 4096)), Status::Revoked);
    assert_eq!(
        open(&mut alice, "disk").err(),
        Some(ControlStatus::NoSuchObject)
    );
    assert!(disk.bytes() == pattern(DISK));
}

#[test]
fn grants_that_make_no_sense_are_refused() {
    let (engine, _alice, _bob, _disk, _slot) = world();
    let good = EndpointGrant {
        endpoint: "disk".to_owned(),
        domain: "bob".to_owned(),
        first: 4096,
        bytes: 8192,
        read: true,
        write: false,
        trusted: false,
    };
    let refused = |change: fn(&mut EndpointGrant)| {
        let mut grant = good.clone();
        change(&mut grant);
        let refused = engine.act(Action::GrantEndpoint(grant));
        refused.err().unwrap().to_string()
    };
    assert!(refused(|g| g.endpoint = "nothing".to_owned()).contains("no endpoint named"));
    assert!(refused(|g| g.domain = "carol".to_owned()).contains("no domain named"));
    assert!(refused(|g| g.first = 1).contains("expected multiples of"));
    assert!(refused(|g| g.bytes = u64::MAX / 4096 * 4096).contains("expected multiples of"));
    assert!(refused(|g| (g.first, g.bytes) = (DISK as u64, 0)).contains("a grant of 0 bytes"));
    assert!(refused(|g| g.read = false).contains("say read, write or trusted"));
    engine.act(Action::GrantEndpoint(good)).unwrap();
}

#[test]
fn a_disk_that_became_shorter_is_told_to_the_byte() {
    let (_engine, mut alice, _bob, disk, slot) = world();
    let rest = 300 << 10;
    disk.0.as_file().set_len(4096 + rest).unwrap();
    let done = alice.run(&read(slot, 4096, 0, 1 << 20));
    assert_eq!(done.status(), Some(Status::DeviceError), "{done:?}");
    assert_eq!(done.bytes_completed, rest as u32);
    assert_eq!(done.fault_addr, 4096 + rest);
    assert_eq!(done.op0, libc::ENODATA as u64);
    let lba = done.op1 * (4096 + rest) / done.op1;
    assert_eq!(lba, 4096 + rest);
    assert!(alice.read(0, rest) == pattern(DISK)[4096..4096 + rest as usize]);
}

#[test]
fn deep_queues_and_fences_keep_their_promises() {
    let (_engine, mut alice, _bob, disk, slot) = world();
    let piece = 64 << 10;
    let count = 12;
    // As many as the ring has room for, then one behind a fence that reads what they wrote.
    for i in 0..count {
        alice.fill(i * piece, piece, i as u8 + 1);
        alice.submit(&write(slot, i * piece, i * piece, piece));
    }
    let mut fenced = transfer(
        device_operation::READ,
        (slot, 0),
        (0, BUFFER + (8 << 20)),
        count * piece,
    );
    fenced.flags_opcode |= Flags::FENCE.0;
    alice.submit(&fenced);
    alice.submit(&Descriptor::new(Opcode::Drain, Flags::NONE));
    for i in 0..count + 2 {
        let done = alice.queue.wait();
        assert_eq!(done.status(), Some(Status::Success), "{i}: {done:?}");
    }
    assert!(alice.read(8 << 20, count * piece) == alice.read(0, count * piece));
    assert!(disk.bytes()[..(count * piece) as usize] == alice.read(0, count * piece));
}

#[test]
fn batches_take_device_transfers() {
    let (_engine, mut alice, _bob, _disk, slot) = world();
    let list = 12 << 20;
    let elements = [
        read(slot, 0, 0, 8192),
        read(slot, 8, 0, 4096),
        read(slot, 1 << 20, 1 << 20, 400 << 10),
        copy((0, BUFFER + (1 << 20)), (0, BUFFER + (4 << 20)), 400 << 10),
    ];
    for (i, element) in elements.iter().enumerate() {
        let at = alice.buffer_gpa() + list + 64 * i as u64;
        alice.guest.write(at, &element.to_bytes());
    }
    let done = alice.run(&Descriptor {
        src: BUFFER + list,
        status_array: BUFFER + list + 4096,
        size: elements.len() as u32,
        ..Descriptor::new(Opcode::Batch, Flags::NONE)
    });
    assert_eq!(done.status(), Some(Status::BatchFailed));
    let statuses: Vec<_> = (0..elements.len() as u64)
        .map(|i| {
            let record = alice.read(list + 4096 + 32 * i, 32);
            let record = Completion::from_bytes(&record.try_into().unwrap());
            record.status().unwrap()
        })
        .collect();
    let good = Status::Success;
    assert_eq!(statuses, [good, Status::AddressAlignment, good, good]);
    let expected = pattern(DISK);
    assert!(alice.read(4 << 20, 400 << 10) == expected[1 << 20..(1 << 20) + (400 << 10)]);
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn what_is_read_is_checked_and_decompressed_on_the_way() {
    let (engine, mut alice, _bob, _disk, _slot) = world();
    let data: Vec<u8> = (0..3 << 20)
        .map(|i: u32| (i / 1000 + i % 7 * (i / 300_000)) as u8)
        .collect();
    let mut stored = lz4_frame(&data);
    let size = stored.len();
    let rounded = size.next_multiple_of(4096);
    stored.resize(rounded + 4096, 0xcc);
    let object = Disk::new(&stored);
    attach(&engine, "object", &object.path());
    grant(&engine, "object", "alice");
    let slot = open(&mut alice, "object").unwrap().slot as u16;
    let block = u64::from(open(&mut alice, "object").unwrap().block_bytes);
    let outer = (size as u64).next_multiple_of(block);
    let chain = 14 << 20;
    let inner = Descriptor {
        dst: BUFFER,
        size: size as u32,
        op0: CodecWord::compression(Compression::Lz4Frame, 4 << 20).0,
        ..Descriptor::new(Opcode::Decompress, Flags::NONE)
    };
    let set = |vm: &Vm, inner: &Descriptor| {
        vm.guest.write(vm.buffer_gpa() + chain, &inner.to_bytes());
    };
    let fields = DeviceFields {
        operation: device_operation::READ,
        flags: device_flags::CHECK_CRC,
        crc: crc32c(&stored[..size]),
        chain: BUFFER + chain,
        ..DeviceFields::default()
    };
    let chained = with(fields, (slot, 0), (0, 0), outer);
    set(&alice, &inner);
    let done = alice.run(&chained);
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert_eq!(
        (done.bytes_completed, done.op0),
        (size as u32, data.len() as u64)
    );
    assert!(alice.read(0, data.len() as u64) == data);

    // As many at a time as a domain may have, of the one queue that there is.
    for _ in 0..4 {
        alice.submit(&chained);
    }
    for i in 0..4 {
        let done = alice.queue.wait();
        assert_eq!(done.status(), Some(Status::Success), "{i}: {done:?}");
    }

    // Another checksum than expected.
    let wrong = DeviceFields {
        crc: fields.crc ^ 1,
        ..fields
    };
    let done = alice.run(&with(wrong, (slot, 0), (0, 0), outer));
    assert_eq!(done.status(), Some(Status::ChecksumMismatch), "{done:?}");
    // Sizes that do not belong together, and what cannot be chained.
    let done = alice.run(&with(fields, (slot, 0), (0, 0), outer + block));
    assert_eq!(done.status(), Some(Status::BadSize));
    set(&alice, &Descriptor { src: 8, ..inner });
    assert_eq!(alice.run_for(&chained), Status::ReservedNotZero);
    set(&alice, &copy((0, 0), (0, BUFFER), size as u64));
    assert_eq!(alice.run_for(&chained), Status::BadOpcode);
    set(
        &alice,
        &Descriptor {
            dst: 0x1000,
            ..inner
        },
    );
    assert_eq!(alice.run_for(&chained), Status::Stage1NotPresent);
}

fn lz4_frame(data: &[u8]) -> Vec<u8> {
    let mut stream = crate::codec::Stream::new();
    stream.start(StreamKind::Compress(Compression::Lz4Frame));
    let (mut out, mut at, mut room) = (Vec::new(), 0, vec![0; (16 << 10) + 1]);
    loop {
        let wants = if stream.wants_input() {
            stream.input_bytes()
        } else {
            0
        };
        let end = (at + wants).min(data.len());
        let last = stream.wants_input() && end == data.len();
        let progress = stream.run(&data[at..end], last, &mut room).unwrap();
        at += progress.consumed;
        out.extend_from_slice(&room[..progress.produced]);
        if progress.finished {
            return out;
        }
    }
}

#[test]
fn a_right_that_ends_in_mid_transfer_ends_the_transfer() {
    let (_engine, mut alice, mut bob, _disk, slot) = world();
    let (mine, his) = bob.give_buffer(&mut alice, Rights(3));
    for round in 0..20 {
        let cut = derive(&mut alice, slot, 0, DISK as u64, Rights::BLOCK_READ).unwrap();
        let to_bob = |slot| transfer(device_operation::READ, (slot, 0), (his, 0), DISK as u64);
        alice.submit(&to_bob(cut));
        if round % 3 != 0 {
            std::thread::sleep(std::time::Duration::from_micros(100 * round));
        }
        alice.revoke(cut.into()).unwrap();
        // Nothing lands afterwards.
        bob.fill(0, DISK as u64, 0x77);
        let done = alice.queue.wait();
        assert!(
            matches!(done.status(), Some(Status::Success | Status::Revoked)),
            "{done:?}"
        );
        assert!(
            bob.read(0, DISK as u64).iter().all(|&b| b == 0x77),
            "round {round}"
        );
        alice
            .slot_request(RequestKind::CapDrop, cut.into())
            .unwrap();
    }
    // The memory's owner takes his back.
    alice.submit(&transfer(
        device_operation::READ,
        (slot, 0),
        (his, 0),
        DISK as u64,
    ));
    bob.revoke(mine).unwrap();
    bob.fill(0, DISK as u64, 0x78);
    let done = alice.queue.wait();
    assert!(
        matches!(done.status(), Some(Status::Success | Status::Revoked)),
        "{done:?}"
    );
    assert!(bob.read(0, DISK as u64).iter().all(|&b| b == 0x78));
}

#[test]
fn queues_and_processes_may_go_while_devices_work() {
    let (engine, mut alice, _bob, _disk, slot) = world();
    for _ in 0..10 {
        for i in 0..8 {
            alice.submit(&write(slot, 0, 0, 1 << 20));
            alice.submit(&read(slot, i << 20, 0, 1 << 20));
        }
        alice.queue_request(RequestKind::QueueDestroy).unwrap();
        let mut ended = 0;
        while let Some(done) = alice.queue.poll() {
            assert!(matches!(
                done.status(),
                Some(Status::Success | Status::Aborted)
            ));
            ended += 1;
        }
        assert_eq!(ended, 16);
        alice.create_queue();
    }
    until("the device is quiet", || {
        let Ok(Reply::Endpoints { endpoints }) = engine.act(Action::Endpoints) else {
            return false;
        };
        endpoints[0].under_way == 0
    });
    // And all slots are there again.
    assert_eq!(alice.run_for(&read(slot, 0, 0, 8 << 20)), Status::Success);
}

#[test]
fn a_device_may_go_and_come_back() {
    let (engine, mut alice, _bob, disk, slot) = world();
    for i in 0..8 {
        alice.submit(&read(slot, i << 20, 0, 1 << 20));
    }
    let name = "disk".to_owned();
    engine
        .act(Action::DetachEndpoint { name: name.clone() })
        .unwrap();
    for _ in 0..8 {
        let done = alice.queue.wait();
        assert!(
            matches!(done.status(), Some(Status::Success | Status::DeviceGone)),
            "{done:?}"
        );
    }
    assert_eq!(alice.run_for(&read(slot, 0, 0, 4096)), Status::DeviceGone);
    assert_eq!(
        open(&mut alice, "disk").err(),
        Some(ControlStatus::NoSuchObject)
    );
    attach(&engine, "disk", &disk.path());
    assert_eq!(alice.run_for(&read(slot, 0, 0, 4096)), Status::Success);
    assert!(alice.read(0, 4096) == pattern(DISK)[..4096]);
    // Smaller than it was.
    engine.act(Action::DetachEndpoint { name }).unwrap();
    disk.0.as_file().set_len(4 << 20).unwrap();
    let config = EndpointConfig {
        name: "disk".to_owned(),
        kind: EndpointKind::File,
        path: disk.path(),
        read_only: false,
        timeout_ms: 10_000,
    };
    let refused = engine.act(Action::AttachEndpoint(config)).unwrap_err();
    assert!(
        refused.to_string().contains("it came back with"),
        "{refused}"
    );
}
