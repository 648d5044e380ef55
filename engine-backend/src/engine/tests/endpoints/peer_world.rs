//! What tests of devices in other processes share: an engine with alice and bob, a file and a
//! peer that alice has opened, and what all their memory has to be.

use super::*;
use crate::testing::{BlkPeer, BlkPlan, Mischief, NvmeMischief, NvmePeer, NvmePlan};

/// Bytes of a disk here.
pub(super) const DISK: usize = 2 << 20;
/// What memory is that nobody has written to.
const UNTOUCHED: u8 = 0xee;
/// Bytes between the destinations of two transfers.
const GAP: u64 = 4096;

/// A device on the other side of a socket, which lives as long as this.
pub(super) enum Peer {
    Blk(BlkPeer),
    Nvme(NvmePeer),
}

impl Peer {
    pub(super) fn kind(&self) -> EndpointKind {
        match self {
            Self::Blk(_) => EndpointKind::VhostUserBlk,
            Self::Nvme(_) => EndpointKind::Nvme,
        }
    }

    fn set_disk(&self, bytes: &[u8]) {
        match self {
            Self::Blk(peer) => peer.disk().copy_from_slice(bytes),
            Self::Nvme(peer) => peer.disk().copy_from_slice(bytes),
        }
    }

    pub(super) fn disk(&self) -> Vec<u8> {
        match self {
            Self::Blk(peer) => peer.disk().clone(),
            Self::Nvme(peer) => peer.disk().clone(),
        }
    }
}

/// Starts a device at a path.
pub(super) type Start = Box<dyn Fn(&Path) -> Peer>;

/// A vhost-user-blk device that breaks a rule after so many requests.
pub(super) fn blk(mischief: Mischief, after: u64, bytes: usize) -> Start {
    let plan = BlkPlan {
        bytes,
        mischief,
        after,
        ..BlkPlan::default()
    };
    Box::new(move |path| Peer::Blk(BlkPeer::start(path, plan)))
}

/// An NVMe controller that does.
pub(super) fn nvme(mischief: NvmeMischief, after: u64, bytes: usize) -> Start {
    let plan = NvmePlan {
        bytes,
        mischief,
        after,
        ..NvmePlan::default()
    };
    Box::new(move |path| Peer::Nvme(NvmePeer::start(path, plan.clone())))
}

/// How long a device may take that is to answer, and one that is to be late.
pub(super) const PATIENT_MS: u32 = 20_000;
pub(super) const IMPATIENT_MS: u32 = 300;

pub(super) fn try_attach(
    engine: &Engine,
    kind: EndpointKind,
    path: &Path,
    timeout_ms: u32,
) -> Result<(), String> {
    let config = EndpointConfig {
        name: "peer".to_owned(),
        kind,
        path: path.to_owned(),
        read_only: false,
        timeout_ms,
    };
    let act = engine.act(Action::AttachEndpoint(config));
    act.map(drop).map_err(|error| error.to_string())
}

/// Attaches one that is there, as often as it takes: it may have no core for as long as somebody impatient waits.
fn attach_peer(engine: &Engine, kind: EndpointKind, path: &Path, timeout_ms: u32) {
    until("the peer answers in its time", || {
        let attached = try_attach(engine, kind, path, timeout_ms);
        let is_late = |error: &String| error.contains("is the device's process running");
        assert!(attached.as_ref().err().is_none_or(is_late), "{attached:?}");
        attached.is_ok()
    });
}

/// A transfer that was submitted: `size` bytes from `at` of a disk to `to` of alice's buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) slot: u16,
    pub(super) at: u64,
    pub(super) to: u64,
    pub(super) size: u64,
}

/// A folder for sockets, an engine with alice, a file in her slot 0 of these, and a peer in 1.
pub(super) struct Peers {
    folder: tempfile::TempDir,
    pub(super) engine: Engine,
    pub(super) alice: Vm,
    bob: Vm,
    pub(super) file: Disk,
    pub(super) slots: [u16; 2],
    peer: Option<Peer>,
    timeout_ms: u32,
    /// What both disks hold.
    pub(super) pattern: Vec<u8>,
    /// What alice's buffer has to be, as far as it is used, and a little beyond.
    memory: Vec<u8>,
    /// What bob's has to be.
    bobs: Vec<u8>,
}

impl Peers {
    pub(super) fn new(start: &Start) -> Self {
        Self::with_timeout(start, PATIENT_MS)
    }

    pub(super) fn with_timeout(start: &Start, timeout_ms: u32) -> Self {
        let (engine, mut alice, bob) = pair();
        let pattern = pattern(DISK);
        let file = Disk::new(&pattern);
        attach(&engine, "disk", &file.path());
        grant(&engine, "disk", "alice");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let peer = start(&path);
        peer.set_disk(&pattern);
        attach_peer(&engine, peer.kind(), &path, timeout_ms);
        grant(&engine, "peer", "alice");
        let slots = ["disk", "peer"].map(|name| open(&mut alice, name).unwrap().slot as u16);
        let memory = vec![UNTOUCHED; GAP as usize];
        alice.fill(0, GAP, UNTOUCHED);
        bob.fill(0, 64 << 10, UNTOUCHED);
        let bobs = bob.read(0, 64 << 10);
        Self {
            folder,
            engine,
            alice,
            bob,
            file,
            slots,
            peer: Some(peer),
            timeout_ms,
            pattern,
            memory,
            bobs,
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        self.peer.as_ref().unwrap()
    }

    pub(super) fn bob(&mut self) -> &mut Vm {
        &mut self.bob
    }

    /// Whether the peer is there, and why not.
    pub(super) fn state(&self) -> (bool, Option<String>) {
        let Reply::Endpoints { endpoints } = self.engine.act(Action::Endpoints).unwrap() else {
            panic!("another reply");
        };
        let mut rows = endpoints.into_iter();
        let row = rows.find(|row| row.name == "peer").unwrap();
        (row.attached, row.reason)
    }

    /// Ends the peer and attaches another in its place, with a disk as it was.
    pub(super) fn replace(&mut self, start: &Start) {
        drop(self.peer.take());
        let name = "peer".to_owned();
        self.engine.act(Action::DetachEndpoint { name }).unwrap();
        let path = self.folder.path().join("socket");
        let fresh = start(&path);
        fresh.set_disk(&self.pattern);
        attach_peer(&self.engine, fresh.kind(), &path, self.timeout_ms);
        self.peer = Some(fresh);
    }

    /// Submits a read to where nothing was before.
    pub(super) fn ask_read(&mut self, slot: u16, at: u64, size: u64) -> Asked {
        let to = self.memory.len() as u64;
        let room = size + GAP;
        self.alice.fill(to, room, UNTOUCHED);
        self.memory.resize((to + room) as usize, UNTOUCHED);
        self.alice.submit(&read(slot, at, to, size));
        Asked { slot, at, to, size }
    }

    /// From now on so many bytes of a disk have to be in alice's buffer.
    pub(super) fn expect(&mut self, at: u64, to: u64, bytes: u64) {
        let (at, to, bytes) = (at as usize, to as usize, bytes as usize);
        self.memory[to..to + bytes].copy_from_slice(&self.pattern[at..at + bytes]);
    }

    /// These bytes have to be.
    pub(super) fn expect_bytes(&mut self, to: u64, bytes: &[u8]) {
        let to = to as usize;
        self.memory[to..to + bytes.len()].copy_from_slice(bytes);
    }

    /// All that has to be in memory is, and nothing else.
    pub(super) fn check_memory(&self, what: &str) {
        let found = self.alice.read(0, self.memory.len() as u64);
        if found != self.memory {
            let mut pairs = found.iter().zip(&self.memory);
            let at = pairs.position(|(a, b)| a != b).unwrap();
            panic!("{what}: alice's buffer differs at {at:#x}");
        }
        assert!(
            self.bob.read(0, self.bobs.len() as u64) == self.bobs,
            "{what}: bob's memory"
        );
    }
}
