//! Block devices, driven by descriptors of ring-3 processes: no guest's kernel takes part, no VM exits.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use byway_agent::pattern;
use byway_engine::interface::{Action, Admin, EndpointConfig, EndpointGrant, EndpointKind, Reply};
use byway_engine::testing::{BlkPeer, BlkPlan};
use byway_engine::{Engine, EngineConfig};
use byway_nvme::attach::{Server, serve};
use byway_nvme::controller::{Config, Controller};
use byway_nvme::medium::{Medium, Memory};
use byway_protocols::{Descriptor, Rights, Status};
use byway_ring::{Address, Cancelled, DeviceFailure, Request, Slot};

use super::remote;
use super::world::{APP, KIB, MIB, Party, RW, collect, engine, submit, turn, until};

/// Bytes of a disk.
const DISK: u64 = 8 * MIB;

/// A file beside the build, where O_DIRECT is likely to work, removed at the end.
struct Disk(PathBuf);

impl Disk {
    fn new(name: &str, bytes: &[u8]) -> Result<Self> {
        let test = std::env::current_exe()?;
        let folder = test.parent().context("a test is in a folder")?;
        let path = folder.join(format!("byway-{name}-{}.img", std::process::id()));
        let mut file = File::create(&path)?;
        file.write_all(bytes)?;
        file.set_len(DISK)?;
        Ok(Self(path))
    }
    fn bytes(&self, at: u64, bytes: u64) -> Result<Vec<u8>> {
        Ok(std::fs::read(&self.0)?[at as usize..(at + bytes) as usize].to_vec())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn attach(engine: &Engine, name: &str, disk: &Disk, users: &[&str]) -> Result<()> {
    attach_as(engine, EndpointKind::File, name, &disk.0, users)
}

fn attach_as(
    engine: &impl Admin,
    kind: EndpointKind,
    name: &str,
    path: &Path,
    users: &[&str],
) -> Result<()> {
    engine.act(Action::AttachEndpoint(EndpointConfig {
        name: name.to_owned(),
        kind,
        path: path.to_owned(),
        read_only: false,
        timeout_ms: 10_000,
    }))?;
    for user in users {
        engine.act(Action::GrantEndpoint(EndpointGrant {
            endpoint: name.to_owned(),
            domain: (*user).to_owned(),
            first: 0,
            bytes: 0,
            read: true,
            write: true,
            trusted: false,
        }))?;
    }
    Ok(())
}

fn blocks(party: &Party, name: &str) -> Result<Slot> {
    let opened = party.open_endpoint(APP, name)?;
    ensure!(opened.length == DISK, "another length: {opened:?}");
    Slot::new(opened.slot).context("15 bits")
}

/// An engine that is confined opens devices of each kind while it runs, drives them and lets them go, and its workers, which
/// can open nothing, need no more than they have.
#[test]
fn a_confined_engine_drives_devices_that_come_while_it_runs() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let engine = remote::Engine::start(&folder)?;
    let engine = engine.remote();
    let disk = Disk::new("confined", &[])?;
    let (blk, nvme) = (folder.path().join("blk"), folder.path().join("nvme"));
    let _blk = BlkPeer::start(&blk, BlkPlan::default());
    let _nvme = Server::start(&nvme, |socket, stop| {
        let memory = Memory(vec![0; DISK as usize]);
        serve(
            socket,
            &mut Controller::new(Config::default(), memory),
            stop,
        )
    })?;
    let alice = Party::boot(engine, "alice", 4 * MIB)?;
    let run = |request: Request| alice.execute_one(APP, &Descriptor::from(request));
    for (kind, path) in [
        (EndpointKind::File, &disk.0),
        (EndpointKind::VhostUserBlk, &blk),
        (EndpointKind::Nvme, &nvme),
        (EndpointKind::NvmeModel, &disk.0),
    ] {
        let name = kind.name();
        attach_as(engine, kind, name, path, &["alice"])?;
        let slot = blocks(&alice, name)?;
        let there = Address::capability(slot, MIB);
        let at = |offset| Address::own(alice.buffer + offset);
        alice.fill(0, MIB, 3)?;
        let done = run(Request::write_blocks(there, at(0), MIB)?)?;
        ensure!(done.status() == Some(Status::Success), "{name}: {done:?}");
        let done = run(Request::flush_blocks(slot))?;
        ensure!(done.status() == Some(Status::Success), "{name}: {done:?}");
        let done = run(Request::read_blocks(at(2 * MIB), there, MIB)?)?;
        ensure!(done.status() == Some(Status::Success), "{name}: {done:?}");
        alice.expect(2 * MIB, MIB, 3)?;
        let name = name.to_owned();
        engine.act(Action::DetachEndpoint { name })?;
    }
    Ok(())
}

/// A file that a process in alice wrote to a disk reaches a process in bob, by his own read, and
/// into his memory by hers.
#[test]
fn blocks_go_from_one_vm_s_process_to_another_s() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let disk = Disk::new("disk", &[])?;
    attach(&engine, "disk", &disk, &["alice", "bob"])?;
    let alice = Party::boot(&engine, "alice", 4 * MIB)?;
    let bob = Party::boot(&engine, "bob", 4 * MIB)?;
    let (his, hers) = (blocks(&bob, "disk")?, blocks(&alice, "disk")?);
    let bytes = 3 * MIB;
    alice.fill(0, bytes, 7)?;
    let run = |party: &Party, request: Result<Request, _>| {
        let descriptor = Descriptor::from(request?);
        party.execute_one(APP, &descriptor)
    };
    let at = |slot, offset| Address::capability(slot, offset);
    let own = |party: &Party, offset| Address::own(party.buffer + offset);
    let done = run(
        &alice,
        Request::write_blocks(at(hers, MIB), own(&alice, 0), bytes),
    )?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    let done = run(
        &alice,
        Ok::<_, byway_ring::RequestError>(Request::flush_blocks(hers)),
    )?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    let mut expected = vec![0; bytes as usize];
    pattern::fill(&mut expected, 7);
    ensure!(
        disk.bytes(MIB, bytes)? == expected,
        "the file has something else"
    );
    // Bob reads it.
    bob.mark(0)?;
    let done = run(
        &bob,
        Request::read_blocks(own(&bob, 5), at(his, MIB), bytes),
    )?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    ensure!(bob.see(5, bytes)? == expected, "bob read something else");
    // Alice reads some of it into his memory.
    let (_, remote) = bob.give(&alice, 0, 4 * MIB, RW)?;
    let remote = Slot::new(remote).context("15 bits")?;
    bob.mark(0)?;
    let read = Request::read_blocks(at(remote, 64 * KIB), at(hers, MIB), 64 * KIB);
    let done = run(&alice, read)?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    let part = &expected[..64 << 10];
    ensure!(bob.see(64 * KIB, 64 * KIB)? == part, "another's bytes");
    Ok(())
}

/// A disk that is trusted reads into a peer's pinned memory without the engine's being in between, and nothing else does.
#[test]
fn blocks_go_straight_to_pinned_memory_of_a_trusted_domain() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let mut image = vec![0; DISK as usize];
    pattern::fill(&mut image, 9);
    for trusted in [true, false] {
        let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
        let disk = Disk::new("direct", &image)?;
        attach(&engine, "disk", &disk, &["alice"])?;
        engine.act(Action::GrantEndpoint(EndpointGrant {
            endpoint: "disk".to_owned(),
            domain: "bob".to_owned(),
            first: 0,
            bytes: 0,
            read: true,
            write: false,
            trusted,
        }))?;
        let alice = Party::boot(&engine, "alice", 4 * MIB)?;
        let bob = Party::boot(&engine, "bob", 4 * MIB)?;
        let blocks = blocks(&alice, "disk")?;
        let (own, remote) = bob.give(&alice, 0, 4 * MIB, RW | Rights::PINNED)?;
        let remote = Slot::new(remote).context("15 bits")?;
        let bytes = 3 * MIB;
        let run = |request: Result<Request, _>| alice.execute_one(APP, &Descriptor::from(request?));
        let at = Address::capability;
        bob.mark(0)?;
        let done = run(Request::read_blocks(
            at(remote, 64 * KIB),
            at(blocks, MIB),
            bytes,
        ))?;
        ensure!(done.status() == Some(Status::Success), "{done:?}");
        let first = MIB as usize;
        let expected = &image[first..first + bytes as usize];
        ensure!(bob.see(64 * KIB, bytes)? == expected, "other bytes");
        let done = run(Request::write_blocks(
            at(blocks, 0),
            at(remote, 64 * KIB),
            bytes,
        ))?;
        ensure!(done.status() == Some(Status::Success), "{done:?}");
        ensure!(
            disk.bytes(0, bytes)? == expected,
            "the file has something else"
        );
        let Reply::Endpoints { endpoints } = engine.act(Action::Endpoints)? else {
            bail!("the engine does not list its endpoints");
        };
        let expected = if trusted { 2 * bytes / (128 * KIB) } else { 0 };
        ensure!(endpoints[0].direct == expected, "{:?}", endpoints[0]);
        bob.revoke(APP, own)?;
        let done = run(Request::read_blocks(at(remote, 0), at(blocks, 0), 4096))?;
        ensure!(done.status() == Some(Status::Revoked), "{done:?}");
    }
    Ok(())
}

/// What the operator did not grant, and what a device cannot do, end in a status.
#[test]
fn what_is_not_granted_or_not_there_is_told() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let disk = Disk::new("told", &[])?;
    attach(&engine, "disk", &disk, &["alice"])?;
    let alice = Party::boot(&engine, "alice", 4 * MIB)?;
    let bob = Party::boot(&engine, "bob", 4 * MIB)?;
    ensure!(
        bob.open_endpoint(APP, "disk").is_err(),
        "bob was granted nothing"
    );
    let slot = blocks(&alice, "disk")?;
    let read = |at, size| {
        let request = Request::read_blocks(Address::own(alice.buffer), at, size)?;
        alice.execute_one(APP, &Descriptor::from(request))
    };
    let at = |offset| Address::capability(slot, offset);
    ensure!(
        read(at(DISK), 4096)?.status() == Some(Status::Bounds),
        "bounds"
    );
    ensure!(
        read(at(1), 4096)?.status() == Some(Status::AddressAlignment),
        "alignment"
    );
    ensure!(read(at(0), 4095)?.status() == Some(Status::BadSize), "size");
    File::options().write(true).open(&disk.0)?.set_len(MIB)?;
    let done = read(at(MIB - 8192), MIB)?;
    let told = DeviceFailure::of(&done).with_context(|| format!("{done:?}"))?;
    ensure!(told.bytes_done == 8192, "{told:?}");
    let name = "disk".to_owned();
    engine.act(Action::DetachEndpoint { name })?;
    ensure!(
        read(at(0), 4096)?.status() == Some(Status::DeviceGone),
        "gone"
    );
    Ok(())
}

/// QEMU's storage daemon with an image, as a vhost-user-blk device.
struct StorageDaemon(Child);

impl StorageDaemon {
    /// `None`, said aloud: the host has none.
    fn start(image: &Path, socket: &Path) -> Result<Option<Self>> {
        // One that was killed leaves it behind.
        let _ = std::fs::remove_file(socket);
        let spawned = Command::new("qemu-storage-daemon")
            .arg("--blockdev")
            .arg(format!("driver=file,node-name=disk,filename={}", image.display()))
            .arg("--export")
            .arg(format!(
                "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={},writable=on",
                socket.display()
            ))
            .stdin(Stdio::null())
            .spawn();
        let daemon = match spawned {
            Ok(process) => Self(process),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("SKIPPED: no qemu-storage-daemon here (Debian: qemu-system-common)");
                return Ok(None);
            }
            Err(error) => return Err(error).context("qemu-storage-daemon"),
        };
        let path = socket.to_str().context("a path in UTF-8")?;
        // It serves one connection: to try would be that one. The flag says that somebody listens.
        until("the daemon listens", || {
            let sockets = std::fs::read_to_string("/proc/net/unix")?;
            let listens = |line: &str| line.contains(" 00010000 ") && line.ends_with(path);
            Ok(sockets.lines().any(listens).then_some(()))
        })?;
        Ok(Some(daemon))
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A device that others wrote, from its image to processes of two VMs and back. It is killed with transfers under way, and
/// another one takes its place behind the capability that alice has.
#[test]
fn a_device_of_another_make_serves_two_vms_and_comes_back() -> Result<()> {
    const PIECE: u64 = 256 * KIB;
    let Some(_turn) = turn() else { return Ok(()) };
    let mut image = vec![0; DISK as usize];
    pattern::fill(&mut image, 11);
    let disk = Disk::new("qemu", &image)?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let Some(daemon) = StorageDaemon::start(&disk.0, &socket)? else {
        return Ok(());
    };
    let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
    let kind = EndpointKind::VhostUserBlk;
    attach_as(&engine, kind, "disk", &socket, &["alice"])?;
    let alice = Party::boot(&engine, "alice", 4 * MIB)?;
    let bob = Party::boot(&engine, "bob", 4 * MIB)?;
    let slot = blocks(&alice, "disk")?;
    let (_, remote) = bob.give(&alice, 0, 4 * MIB, RW)?;
    let remote = Slot::new(remote).context("15 bits")?;
    let at = Address::capability;
    let run = |request: Result<Request, _>| alice.execute_one(APP, &Descriptor::from(request?));

    // From the image to bob, and from bob to another place of it.
    bob.mark(0)?;
    let done = run(Request::read_blocks(at(remote, 5), at(slot, MIB), PIECE))?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    let first = MIB as usize;
    let expected = &image[first..first + PIECE as usize];
    ensure!(bob.see(5, PIECE)? == expected, "bob has other bytes");
    let done = run(Request::write_blocks(
        at(slot, 6 * MIB),
        at(remote, 5),
        PIECE,
    ))?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    let done = run(Ok::<_, byway_ring::RequestError>(Request::flush_blocks(
        slot,
    )))?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    ensure!(
        disk.bytes(6 * MIB, PIECE)? == expected,
        "the image has other bytes"
    );

    let reads = (0..8)
        .map(|i| {
            let request = Request::read_blocks(at(remote, i * PIECE), at(slot, i * PIECE), PIECE);
            Ok(Descriptor::from(request?))
        })
        .collect::<Result<Vec<_>>>()?;
    submit(&alice, APP, &reads)?;
    drop(daemon);
    for done in collect(&alice, APP, reads.len())? {
        let told = matches!(done.status(), Some(Status::Success | Status::DeviceGone));
        ensure!(told, "{done:?}");
    }
    let read = || Request::read_blocks(at(remote, 0), at(slot, 2 * MIB), PIECE);
    until("the engine knows", || {
        Ok((run(read())?.status() == Some(Status::DeviceGone)).then_some(()))
    })?;
    let Some(_daemon) = StorageDaemon::start(&disk.0, &socket)? else {
        bail!("there was one a moment ago");
    };
    attach_as(&engine, kind, "disk", &socket, &[])?;
    bob.mark(0)?;
    let done = run(read())?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    let first = 2 * MIB as usize;
    let expected = &image[first..first + PIECE as usize];
    ensure!(bob.see(0, PIECE)? == expected, "bob has other bytes");
    Ok(())
}

/// Blocks that nobody gets to read before they are let go.
struct Hanging {
    blocks: Memory,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    is_open: AtomicBool,
    /// Reads that are over.
    reads: AtomicUsize,
}

/// Opens it when a test ends, however that does: the device's thread would wait for ever.
struct Opens(Arc<Gate>);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.is_open.store(true, Ordering::Release);
    }
}

impl Medium for Hanging {
    fn bytes(&self) -> u64 {
        self.blocks.bytes()
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        while !self.gate.is_open.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.gate.reads.fetch_add(1, Ordering::AcqRel);
        self.blocks.read(offset, into)
    }
    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.blocks.write(offset, from)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.blocks.flush()
    }
    fn zero(&mut self, offset: u64, length: u64, deallocate: bool) -> io::Result<()> {
        self.blocks.zero(offset, length, deallocate)
    }
    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.blocks.deallocate(offset, length)
    }
}

/// A device hangs with as many transfers as a queue holds. The process that waits for them gives them up by
/// itself: what comes late lands nowhere, and the queue goes on.
#[test]
fn a_process_gives_up_what_a_device_does_not_answer() -> Result<()> {
    const HELD: u64 = 32;
    const SIZE: u64 = 16 * KIB;
    let Some(_turn) = turn() else { return Ok(()) };
    let config = EngineConfig {
        // So that the doorbell is never due.
        park_us: 1_000_000,
        ..EngineConfig::default()
    };
    let engine = engine(config, &["alice"])?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("nvme");
    let gate = Arc::new(Gate::default());
    let theirs = Arc::clone(&gate);
    let _server = Server::start(&path, move |socket, stop| {
        let hanging = Hanging {
            blocks: Memory(vec![0x77; DISK as usize]),
            gate: Arc::clone(&theirs),
        };
        serve(
            socket,
            &mut Controller::new(Config::default(), hanging),
            stop,
        )
    })?;
    // Before the server ends.
    let opens = Opens(Arc::clone(&gate));
    attach_as(&engine, EndpointKind::Nvme, "disk", &path, &["alice"])?;
    let alice = Party::boot(&engine, "alice", 4 * MIB)?;
    let slot = blocks(&alice, "disk")?;
    let read = |index: u64| -> Result<Descriptor> {
        let to = Address::own(alice.buffer + index * SIZE);
        let from = Address::capability(slot, index * SIZE);
        Ok(Request::read_blocks(to, from, SIZE)?.into())
    };
    alice.mark(0)?;
    let mut all = (0..HELD).map(read).collect::<Result<Vec<_>>>()?;
    all.push(Request::cancel_before().into());
    let before = alice.exits()?;
    submit(&alice, APP, &all)?;
    let ended = collect(&alice, APP, all.len())?;
    let delta = alice.exits()?.delta(&before);
    let (last, others) = ended.split_last().context("completions")?;
    ensure!(Cancelled::of(last)?.descriptors == HELD as u32, "{last:?}");
    for done in others {
        let told = (done.status(), done.bytes_completed);
        ensure!(told == (Some(Status::Aborted), 0), "{done:?}");
    }
    ensure!(delta.is_quiet(), "it took exits: {delta:?}");
    ensure!(gate.reads.load(Ordering::Acquire) == 0, "the device hangs");
    // The device answers all the same, to nobody.
    drop(opens);
    until("the device's answers", || {
        let over = gate.reads.load(Ordering::Acquire) >= HELD as usize;
        Ok(over.then_some(()))
    })?;
    let done = alice.execute_one(APP, &read(HELD)?)?;
    ensure!(done.status() == Some(Status::Success), "{done:?}");
    ensure!(
        alice.see(HELD * SIZE, SIZE)? == vec![0x77; SIZE as usize],
        "the next read"
    );
    ensure!(
        alice.see(0, HELD * SIZE)? == vec![0; (HELD * SIZE) as usize],
        "something landed"
    );
    Ok(())
}
