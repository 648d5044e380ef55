//! The application's side over a fake kernel, whose engine works whenever the application sleeps: so every
//! interleaving of a test is its own choice, and nothing waits.

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use byway_protocols::operands::endpoint_features;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Status};
use byway_ring::context::{
    Accepted, CapabilityInfo, Error, Info, Key, Memory, Name, NewBlocks, NewCapability, NewQueue,
    Pipeline, Port, QueueOptions, Reason, Region, State, Terms, Transport, TransportError, Wait,
    Waiting, Wake,
};
use byway_ring::{Address, Context, Request, Slot, SubmitError, WorkQueue};

/// What happened, in order.
type Log = Rc<RefCell<Vec<String>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused(Reason);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {:?}", self.0)
    }
}

impl std::error::Error for Refused {}

impl TransportError for Refused {
    fn reason(&self) -> Reason {
        self.0
    }
}

/// A capability of the fake engine.
struct Node {
    base: u64,
    length: u64,
    rights: Rights,
    revoked: bool,
}

/// What the engine does with the next descriptors, instead of carrying them out whole.
enum Turn {
    /// Moves so many bytes, then faults there.
    Fault { after: u32, status: u8 },
}

#[derive(Default)]
struct World {
    nodes: Vec<Node>,
    engine: Option<common::Engine>,
    turns: VecDeque<Turn>,
    /// Most descriptors found at once.
    deepest: usize,
    /// Sizes of the descriptors taken, and whether each asked for the interrupt and for its pages.
    taken: Vec<(u32, bool)>,
    sleep: Option<Result<Wake, Refused>>,
    revoke: Option<Refused>,
    kick: Option<Refused>,
    /// An endpoint: its name and its blocks.
    disk: Option<(String, Rc<[u8]>)>,
}

#[derive(Clone)]
struct Fake {
    world: Rc<RefCell<World>>,
    log: Log,
}

/// Something that says when it goes.
struct Handle {
    what: String,
    slot: usize,
    log: Log,
    _memory: Option<Arc<common::Memory>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.log.borrow_mut().push(format!("drop {}", self.what));
    }
}

impl Fake {
    fn new() -> Self {
        Self {
            world: Rc::default(),
            log: Rc::default(),
        }
    }

    fn context(&self) -> Context<Self> {
        Context::new(self.clone())
    }

    fn queue(&self) -> WorkQueue<Self> {
        let mut queue = self.context().queue(&QueueOptions::default()).unwrap();
        queue.set_waiting(Waiting::Sleep { polls: 0 });
        queue
    }

    fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    fn handle(&self, what: &str, slot: usize, memory: Option<Arc<common::Memory>>) -> Handle {
        Handle {
            what: what.to_owned(),
            slot,
            log: self.log.clone(),
            _memory: memory,
        }
    }

    fn made(&self, node: Node) -> NewCapability<Handle> {
        let mut world = self.world.borrow_mut();
        let (length, rights) = (node.length, node.rights);
        world.nodes.push(node);
        let slot = world.nodes.len();
        NewCapability {
            handle: self.handle(&format!("capability {slot}"), slot, None),
            slot: Slot::new(slot as u16).unwrap(),
            length,
            rights,
            badge: 0,
        }
    }
}

impl World {
    /// All that was published, in order.
    fn work(&mut self) {
        let Some(mut engine) = self.engine.take() else {
            return;
        };
        let mut found = Vec::new();
        while let Some(next) = engine.take() {
            found.push(next);
        }
        self.deepest = self.deepest.max(found.len());
        for (at, descriptor) in found {
            let asked = Flags::REQUEST_INTERRUPT.0 | Flags::BLOCK_ON_FAULT.0;
            let all = descriptor.flags_opcode & asked == asked;
            self.taken.push((descriptor.size, all));
            engine.complete(at, self.carry_out(&descriptor));
        }
        self.engine = Some(engine);
    }

    fn place(&self, slot: u16, address: u64, bytes: u32, right: Rights) -> Result<u64, Status> {
        if slot == 0 {
            return Ok(address);
        }
        let node = self.nodes.get(usize::from(slot) - 1);
        let node = node.ok_or(Status::NoCapability)?;
        if node.revoked {
            return Err(Status::Revoked);
        }
        let end = address.checked_add(u64::from(bytes));
        if end.is_none_or(|end| end > node.length) {
            return Err(Status::Bounds);
        }
        match node.rights.contains(right) {
            true => Ok(node.base + address),
            false => Err(Status::MissingRight),
        }
    }

    fn carry_out(&mut self, d: &Descriptor) -> Completion {
        let slots = d.slots();
        let reads = match d.code() {
            code if code == Opcode::Memmove as u8 => Rights::READ,
            code if code == Opcode::DeviceTransfer as u8 => Rights::BLOCK_READ,
            code => panic!("operation {code:#x}, which this engine does not know"),
        };
        let from = self.place(slots.src_slot(), d.src, d.size, reads);
        let to = self.place(slots.dst_slot(), d.dst, d.size, Rights::WRITE);
        let (from, to) = match (from, to) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(status), _) | (_, Err(status)) => {
                return Completion {
                    status: status as u8,
                    ..Completion::default()
                };
            }
        };
        let mut completion = common::success(0);
        completion.bytes_completed = d.size;
        completion.fault_addr = 0;
        if let Some(Turn::Fault { after, status }) = self.turns.pop_front() {
            let write = status & Status::WRITE_FAULT != 0;
            completion.status = status;
            completion.bytes_completed = after;
            completion.fault_addr = if write { to } else { from } + u64::from(after);
        }
        // SAFETY: addresses of the tests' own memory, lent to the transfer or shared.
        unsafe {
            std::ptr::copy(
                std::ptr::with_exposed_provenance::<u8>(from as usize),
                std::ptr::with_exposed_provenance_mut(to as usize),
                completion.bytes_completed as usize,
            );
        }
        completion
    }
}

// SAFETY: queues lie in memory that their handle keeps; the engine works in `sleep` alone, so nothing is in
// flight otherwise.
unsafe impl Transport for Fake {
    type Error = Refused;
    type Queue = Handle;
    type Capability = Handle;
    type Listener = ();
    type Foreign = Terms;
    type Armed = ();

    fn info(&self) -> Result<Info, Refused> {
        Err(Refused(Reason::NoDevice))
    }

    fn create_queue(&self, options: &QueueOptions) -> Result<NewQueue<Handle>, Refused> {
        let memory = common::Memory::new(options.entries);
        self.world.borrow_mut().engine = Some(common::Engine::start(&memory, 1));
        Ok(NewQueue {
            memory: memory.parts(),
            handle: self.handle("queue", 0, Some(memory)),
            number: 7,
        })
    }

    fn destroy_queue(&self, queue: Handle) -> Result<(), Refused> {
        self.world.borrow_mut().engine = None;
        self.log.borrow_mut().push("destroy queue".to_owned());
        drop(queue);
        Ok(())
    }

    fn kick(&self, _queue: &Handle) -> Result<(), Refused> {
        self.log.borrow_mut().push("kick".to_owned());
        match self.world.borrow().kick {
            Some(refused) => Err(refused),
            None => Ok(()),
        }
    }

    fn arm(&self, _queue: &Handle) -> Result<(), Refused> {
        Ok(())
    }

    fn sleep(&self, _queue: &Handle, (): (), wait: Wait) -> Result<Wake, Refused> {
        assert!(
            matches!(wait, Wait::For(_)),
            "the library looks now and then"
        );
        let mut world = self.world.borrow_mut();
        match world.sleep {
            Some(outcome) => outcome,
            None => {
                world.work();
                Ok(Wake::Look)
            }
        }
    }

    fn derive(
        &self,
        _parent: Option<&Handle>,
        terms: &Terms,
    ) -> Result<NewCapability<Handle>, Refused> {
        Ok(self.made(Node {
            base: terms.base,
            length: terms.length,
            rights: terms.rights,
            revoked: false,
        }))
    }

    fn attach(&self, foreign: &Terms, _terms: &Terms) -> Result<NewCapability<Handle>, Refused> {
        self.derive(None, foreign)
    }

    fn create_port(&self, _port: &Port) -> Result<NewCapability<Handle>, Refused> {
        Err(Refused(Reason::Unsupported))
    }

    fn open_endpoint(&self, endpoint: &Name, badge: u64) -> Result<NewBlocks<Handle>, Refused> {
        let disk = self.world.borrow().disk.clone();
        let disk = disk.filter(|(name, _)| name == endpoint.as_str());
        let (_, bytes) = disk.ok_or(Refused(Reason::NoSuchObject))?;
        let made = self.made(Node {
            base: bytes.as_ptr().expose_provenance() as u64,
            length: bytes.len() as u64,
            rights: Rights::BLOCK_READ | Rights::GRANT,
            revoked: false,
        });
        Ok(NewBlocks {
            capability: NewCapability { badge, ..made },
            block_bytes: 512,
            features: endpoint_features::FLUSH,
        })
    }

    fn load_key(&self, _key: &Key<'_>) -> Result<NewCapability<Handle>, Refused> {
        Err(Refused(Reason::Unsupported))
    }

    fn query(&self, capability: &Handle) -> Result<CapabilityInfo, Refused> {
        let world = self.world.borrow();
        let node = &world.nodes[capability.slot - 1];
        Ok(CapabilityInfo {
            state: if node.revoked {
                State::Revoked
            } else {
                State::Live
            },
            rights: node.rights,
            length: node.length,
            badge: 0,
            depth: 1,
            domain: 0,
            descendants: 0,
            bytes_read: 0,
            bytes_written: 0,
        })
    }

    fn revoke(&self, capability: &Handle, _descendants_only: bool) -> Result<(), Refused> {
        self.log
            .borrow_mut()
            .push(format!("revoke {}", capability.what));
        let mut world = self.world.borrow_mut();
        if let Some(refused) = world.revoke {
            return Err(refused);
        }
        world.nodes[capability.slot - 1].revoked = true;
        Ok(())
    }

    fn drop_capability(&self, capability: Handle) -> Result<(), Refused> {
        drop(capability);
        Ok(())
    }

    fn offer(
        &self,
        _capability: &Handle,
        peer: &Name,
        port: &Name,
        _rights: Rights,
    ) -> Result<(), Refused> {
        self.log.borrow_mut().push(format!("offer {peer} {port}"));
        Err(Refused(Reason::NoLink))
    }

    fn listen(&self, _port: &Name, _peer: Option<&Name>) -> Result<(), Refused> {
        Ok(())
    }

    fn accept(
        &self,
        (): &(),
        wait: Wait,
    ) -> Result<Option<Accepted<NewCapability<Handle>>>, Refused> {
        match wait {
            Wait::No => Ok(None),
            _ => Err(Refused(Reason::Interrupted)),
        }
    }
}

/// Memory that says when it goes.
struct Owned {
    bytes: Box<[u8]>,
    log: Log,
}

impl Owned {
    fn new(fake: &Fake, bytes: usize) -> Self {
        Self {
            bytes: (0..bytes).map(|at| (at * 7 % 251) as u8).collect(),
            log: fake.log.clone(),
        }
    }
}

// SAFETY: the box stays where it is when the value moves, and tests reach it through regions.
unsafe impl Memory for Owned {
    fn region(&self) -> Region<'_> {
        let start = std::ptr::NonNull::new(self.bytes.as_ptr().cast_mut()).unwrap();
        // SAFETY: the box lives as long as `self`.
        unsafe { Region::from_raw(start, self.bytes.len()) }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.log.borrow_mut().push("drop memory".to_owned());
    }
}

const BYTES: usize = 100_000;
const RW: Rights = Rights(3);

#[test]
fn long_transfers_arrive_whole_and_several_chunks_are_in_flight() {
    let fake = Fake::new();
    let memory = Owned::new(&fake, BYTES);
    let expected = memory.bytes.to_vec();
    let share = fake.context().share(memory, 0..BYTES, RW).unwrap();
    let mut queue = fake.queue();
    let mut own = vec![0; BYTES];
    let pipeline = Pipeline {
        chunk_bytes: 4096,
        depth: 5,
    };
    let mut told = Vec::new();
    let region = Region::from_mut(&mut own);
    queue
        .get_with(region, &share, 0, &pipeline, &mut |done| told.push(done))
        .unwrap();
    assert_eq!(own, expected);
    assert_eq!(told.len(), BYTES.div_ceil(4096));
    assert_eq!(told.last(), Some(&(BYTES as u64)));
    let world = fake.world.borrow();
    assert_eq!(world.deepest, 5);
    assert!(
        world
            .taken
            .iter()
            .all(|(size, asked)| *size <= 4096 && *asked)
    );
    drop(world);
    let back: Vec<u8> = expected.iter().map(|byte| !byte).collect();
    queue.put(&share, 0, back.as_slice()).unwrap();
    let mut seen = vec![0; BYTES];
    share.region().read(0, &mut seen).unwrap();
    assert_eq!(seen, back);
}

#[test]
fn a_missing_page_is_touched_and_the_rest_goes_on() {
    let fake = Fake::new();
    let memory = Owned::new(&fake, BYTES);
    let expected = memory.bytes.to_vec();
    let share = fake.context().share(memory, 0..BYTES, RW).unwrap();
    let mut queue = fake.queue();
    let missing = Status::Stage1NotPresent as u8 | Status::WRITE_FAULT;
    // As after a fork: writable, but mapped read-only until it is written.
    let shared = Status::Stage1Permission as u8 | Status::WRITE_FAULT;
    for chunk_bytes in [1024, BYTES as u32] {
        for (after, status) in [(0, missing), (500, missing), (0, shared), (300, shared)] {
            let turn = Turn::Fault { after, status };
            fake.world.borrow_mut().turns.push_back(turn);
        }
        let mut own = vec![0; BYTES];
        let pipeline = Pipeline {
            chunk_bytes,
            depth: 3,
        };
        let region = Region::from_mut(&mut own);
        queue
            .get_with(region, &share, 0, &pipeline, &mut |_| {})
            .unwrap();
        assert_eq!(own, expected, "in chunks of {chunk_bytes}");
    }
}

#[test]
fn a_page_that_never_comes_ends_the_transfer() {
    let fake = Fake::new();
    let share = fake
        .context()
        .share(Owned::new(&fake, 64), 0..64, RW)
        .unwrap();
    let mut queue = fake.queue();
    for _ in 0..1000 {
        fake.world.borrow_mut().turns.push_back(Turn::Fault {
            after: 0,
            status: Status::Stage1NotPresent as u8 | Status::WRITE_FAULT,
        });
    }
    let refused = queue.get(Region::from_mut(&mut [0; 64]), &share, 0);
    assert_eq!(
        refused.unwrap_err().status(),
        Some(Status::Stage1NotPresent)
    );
    let left = fake.world.borrow().turns.len();
    assert!((800..999).contains(&left), "tried {} times", 1000 - left);
}

#[test]
fn refusals_of_the_engine_come_back_typed() {
    let fake = Fake::new();
    let context = fake.context();
    let share = context
        .share(Owned::new(&fake, 64), 0..64, Rights::READ)
        .unwrap();
    let mut queue = fake.queue();
    let refused = queue.put(&share, 0, &[0; 8]).unwrap_err();
    assert_eq!(refused.status(), Some(Status::MissingRight));
    // What may not be read does not become readable by a touch.
    fake.world.borrow_mut().turns.push_back(Turn::Fault {
        after: 0,
        status: Status::Stage1Permission as u8,
    });
    let refused = queue.copy(Region::from_mut(&mut [0; 3]), b"abc");
    assert_eq!(
        refused.unwrap_err().status(),
        Some(Status::Stage1Permission)
    );
    let refused = queue.get(Region::from_mut(&mut [0; 8]), &share, 57);
    assert_eq!(refused.unwrap_err().status(), Some(Status::Bounds));
    share.revoke().unwrap();
    let refused = queue.get(Region::from_mut(&mut [0; 8]), &share, 0);
    assert_eq!(refused.unwrap_err().status(), Some(Status::Revoked));
    let name = Name::new("bob").unwrap();
    let refused = share.offer(&name, &name, Rights::READ).unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::NoLink));
    // The queue works on.
    let mut to = [0; 3];
    queue.copy(Region::from_mut(&mut to), b"abc").unwrap();
    assert_eq!(&to, b"abc");
}

#[test]
fn blocks_of_an_endpoint_are_read_by_their_capability() {
    let fake = Fake::new();
    let blocks: Rc<[u8]> = (0..4096).map(|i| (i / 512) as u8).collect();
    fake.world.borrow_mut().disk = Some(("disk".to_owned(), blocks));
    let context = fake.context();
    let name = |text| Name::new(text).unwrap();
    let unknown = context.endpoint(&name("tape")).err().unwrap();
    assert_eq!(unknown.reason(), Some(Reason::NoSuchObject));

    let disk = context.endpoint(&name("disk")).unwrap();
    let told = (
        disk.block_bytes,
        disk.features,
        disk.capability.length(),
        disk.capability.rights(),
    );
    let expected = (
        512,
        endpoint_features::FLUSH,
        4096,
        Rights::BLOCK_READ | Rights::GRANT,
    );
    assert_eq!(told, expected);
    let mut into = [0_u8; 1024];
    let here = Address::own(into.as_mut_ptr().expose_provenance() as u64);
    let read = Request::read_blocks(here, disk.capability.at(512), 1024).unwrap();
    let mut queue = fake.queue();
    // SAFETY: `into` is left alone until the completion has come.
    let ticket = unsafe { queue.post(read) }.unwrap();
    let done = queue.wait(ticket).unwrap();
    assert_eq!(done.status(), Some(Status::Success));
    assert_eq!(into[..512], [1; 512]);
    assert_eq!(into[512..], [2; 512]);

    drop(disk);
    assert_eq!(fake.log().last().unwrap(), "drop capability 1");
}

#[test]
fn what_is_shared_is_freed_after_the_revocation() {
    let fake = Fake::new();
    let context = fake.context();
    drop(context.share(Owned::new(&fake, 64), 0..64, RW).unwrap());
    assert_eq!(
        fake.log(),
        ["revoke capability 1", "drop capability 1", "drop memory"]
    );
    fake.log.borrow_mut().clear();
    let share = context.share(Owned::new(&fake, 64), 0..64, RW).unwrap();
    let memory = share.take_back().unwrap();
    assert_eq!(fake.log(), ["revoke capability 2", "drop capability 2"]);
    drop(memory);
    assert_eq!(fake.log().last().unwrap(), "drop memory");
}

#[test]
fn memory_that_may_still_be_reached_is_never_freed() {
    let fake = Fake::new();
    let share = fake
        .context()
        .share(Owned::new(&fake, 64), 0..64, RW)
        .unwrap();
    fake.world.borrow_mut().revoke = Some(Refused(Reason::NoDevice));
    let Err(still) = share.take_back() else {
        panic!("the memory came back although nothing was revoked");
    };
    assert_eq!(still.error.reason(), Some(Reason::NoDevice));
    drop(still);
    assert!(!fake.log().contains(&"drop memory".to_owned()));
}

#[test]
fn a_range_outside_the_memory_is_not_shared() {
    let fake = Fake::new();
    let context = fake.context();
    for range in [0..65, 64..64, 10..usize::MAX] {
        let refused = context.share(Owned::new(&fake, 64), range, RW);
        assert!(matches!(refused, Err(Error::OutOfRange(_))));
    }
    assert!(fake.world.borrow().nodes.is_empty());
}

#[test]
fn lent_memory_comes_back_only_without_descriptors_in_flight() {
    let fake = Fake::new();
    let share = fake
        .context()
        .share(Owned::new(&fake, BYTES), 0..BYTES, RW)
        .unwrap();
    // The kernel cannot put the process to sleep: the queue ends first.
    let mut queue = fake.queue();
    fake.world.borrow_mut().sleep = Some(Err(Refused(Reason::Other)));
    for bytes in [64, BYTES] {
        let mut own = vec![0; bytes];
        let pipeline = Pipeline {
            chunk_bytes: 4096,
            depth: 4,
        };
        let region = Region::from_mut(&mut own);
        let refused = queue.get_with(region, &share, 0, &pipeline, &mut |_| {});
        assert_eq!(refused.unwrap_err().reason(), Some(Reason::Other));
        assert_eq!(fake.log().last().unwrap(), "drop queue");
        let dead = queue.put(&share, 0, &[0; 8]).unwrap_err();
        assert_eq!(dead, Error::Submit(SubmitError::Dead));
        queue = fake.queue();
    }
    // Whoever is told of the progress panics.
    fake.world.borrow_mut().sleep = None;
    fake.log.borrow_mut().clear();
    let mut own = vec![0; BYTES];
    let pipeline = Pipeline {
        chunk_bytes: 4096,
        depth: 4,
    };
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let region = Region::from_mut(&mut own);
        queue.get_with(region, &share, 0, &pipeline, &mut |_| panic!("on purpose"))
    }));
    assert!(panicked.is_err());
    assert_eq!(fake.log(), ["destroy queue", "drop queue"]);
    assert!(!queue.is_alive());
}

#[test]
fn a_doorbell_that_cannot_be_rung_ends_the_queue() {
    let fake = Fake::new();
    let mut queue = fake.queue();
    let mut world = fake.world.borrow_mut();
    world.engine.as_ref().unwrap().park();
    world.kick = Some(Refused(Reason::NoDevice));
    drop(world);
    let refused = queue.copy(Region::from_mut(&mut [0; 3]), b"abc");
    assert_eq!(refused.unwrap_err().reason(), Some(Reason::NoDevice));
    assert_eq!(fake.log(), ["kick", "destroy queue", "drop queue"]);
}

#[test]
fn a_queue_that_died_ends_what_waits() {
    let fake = Fake::new();
    let mut queue = fake.queue();
    fake.world.borrow_mut().sleep = Some(Ok(Wake::Dead));
    let ended = queue.copy(Region::from_mut(&mut [0; 3]), b"abc");
    assert_eq!(ended.unwrap_err().status(), Some(Status::Aborted));
    drop(queue);
    assert_eq!(fake.log(), ["drop queue"]);
}

#[test]
fn lengths_have_to_fit() {
    let fake = Fake::new();
    let mut queue = fake.queue();
    let refused = queue.copy(Region::from_mut(&mut [0; 4]), b"abc");
    assert!(matches!(refused, Err(Error::OutOfRange(_))));
    let listener = fake.context().listen(&Name::new("x").unwrap(), None);
    assert!(listener.unwrap().accept(Wait::No).unwrap().is_none());
}
