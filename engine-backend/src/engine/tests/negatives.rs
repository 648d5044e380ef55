//! The exhaustive product of who, to which object, with which rights, in which state, does
//! what: each place for a slot in each operation of the ABI (`deeds`), alone and in a batch,
//! and every control request, against a rule written from SPEC sections 4.1 and 7, and not
//! a byte moved where it says no. After Hafnium's tests of memory sharing.

mod deeds;

use std::time::Duration;

use byway_protocols::codec::KeyAlgorithm;
use byway_protocols::control::{
    CapAcceptRequest, CapDeriveReply, CapDeriveRequest, CapOfferRequest, CapQueryReply,
    CapSlotRequest, ContextCreateReply, ContextCreateRequest, InvalidateRequest, PortCreateRequest,
    RequestKind, invalidate_scope, revoke_flags,
};
use byway_protocols::{
    Completion, ControlStatus, Descriptor, Flags, Opcode, Rights, Status, Word0,
};

use deeds::{Deed, ELEMENTS, LIST, OWN_BLOCKS, OWN_CHANNEL, OWN_KEY, OWN_PORT, STATUSES};

use super::endpoints::{Disk, attach, grant, open_into};
use super::world::{BUFFER, PASID, Queue, Vm, create, engine, link};
use crate::Engine;
use crate::interface::{Action, Admin};
use crate::testing::pte;

/// Bytes of each piece of memory: more than any operation here touches.
const LENGTH: u64 = 1024;
/// Bytes that an operation touches.
const SIZE: u32 = 64;
/// Long enough to give everything away in.
const LIFETIME: Duration = Duration::from_millis(3000);
/// Fewer bytes than any operation asks for.
const QUOTA: u64 = 4;
/// Where in its own buffer an actor has what it sends.
const SOURCE: u64 = 0;
/// Where it receives.
const LANDING: u64 = 8192;
/// What the objects hold, and what the actors' buffers hold.
const CANARY: u8 = 0xc7;
const OWN: u8 = 0x3b;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Bob, through the slot that he derived for himself.
    Owner,
    /// Alice, who was given it.
    Holder,
    /// Alice, through what she derived from that.
    Derived,
    /// Another context of alice's.
    OtherContext,
    /// Carol, linked with everybody and given nothing.
    Stranger,
    /// Dave, linked with nobody.
    Unlinked,
}

const EVERYBODY: [Who; 6] = [
    Who::Owner,
    Who::Holder,
    Who::Derived,
    Who::OtherContext,
    Who::Stranger,
    Who::Unlinked,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    /// Derived over half of what the operations touch.
    Narrowed,
    /// Its time has passed.
    Expired,
    /// Fewer bytes may be moved than the operations ask for.
    UsedUp,
    /// The holder has revoked its own.
    Revoked,
    /// The owner has revoked all that was derived from his.
    DescendantsRevoked,
    /// The owner has revoked his.
    AncestorRevoked,
    /// The operator has taken the link away.
    LinkEnded,
    /// The holder has dropped its own.
    Dropped,
    /// The owner has destroyed the context whose memory it is.
    ContextDestroyed,
    OwnerReset,
    OwnerDetached,
    OwnerRemoved,
}

const STATES: [State; 13] = [
    State::Live,
    State::Narrowed,
    State::Expired,
    State::UsedUp,
    State::Revoked,
    State::DescendantsRevoked,
    State::AncestorRevoked,
    State::LinkEnded,
    State::Dropped,
    State::ContextDestroyed,
    State::OwnerReset,
    State::OwnerDetached,
    State::OwnerRemoved,
];

/// What an actor finds in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
    Revoked,
    Expired,
    Usable { length: u64, quota: u64 },
}

/// The rule: what somebody holds, by SPEC section 7.
fn held(who: Who, state: State, object: Object) -> Held {
    use State::*;
    let rights = object.rights;
    let usable = Held::Usable {
        length: object.kind.length(),
        quota: u64::MAX,
    };
    match who {
        // A key or a port cannot be cut.
        _ if state == Narrowed && object.kind != Kind::Memory => return Held::Nothing,
        Who::OtherContext | Who::Stranger | Who::Unlinked => return Held::Nothing,
        // Nothing can be derived without the right to.
        Who::Derived if !rights.contains(Rights::GRANT) => return Held::Nothing,
        Who::Holder if state == Dropped => return Held::Nothing,
        _ => {}
    }
    match state {
        Live | Dropped => usable,
        Narrowed => Held::Usable {
            length: u64::from(SIZE / 2),
            quota: u64::MAX,
        },
        Expired => Held::Expired,
        UsedUp => Held::Usable {
            length: object.kind.length(),
            quota: QUOTA,
        },
        Revoked | DescendantsRevoked | LinkEnded if who == Who::Owner => usable,
        // All over his context's memory, his own slots with it.
        _ => Held::Revoked,
    }
}

/// What a right is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Memory,
    Key,
    Port,
}

const KEY: KeyAlgorithm = KeyAlgorithm::AesCbc256;

impl Kind {
    /// Every right that there is to one.
    const fn rights(self) -> Rights {
        match self {
            Self::Memory => Rights::ALL,
            Self::Key => Rights::KEY,
            Self::Port => Rights::PORT,
        }
    }
    const fn length(self) -> u64 {
        match self {
            Self::Memory => LENGTH,
            Self::Key => KEY.key_bytes() as u64,
            Self::Port => SIZE as u64,
        }
    }
}

/// Something that bob gives to alice, and with which rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Object {
    kind: Kind,
    rights: Rights,
    /// Counts them.
    index: u32,
}

/// One of each kind with each set of rights but the empty one, which cannot be given.
fn objects() -> Vec<Object> {
    let mut objects = Vec::new();
    for kind in [Kind::Memory, Kind::Key, Kind::Port] {
        let all = kind.rights();
        for rights in (1..=all.0).map(Rights).filter(|&r| all.contains(r)) {
            let index = objects.len() as u32;
            objects.push(Object {
                kind,
                rights,
                index,
            });
        }
    }
    objects
}

impl Object {
    /// Slot of it as it was given.
    fn given(self) -> u32 {
        1 + self.index
    }
    /// Slot of what was derived from that.
    fn derived(self) -> u32 {
        32 + self.index
    }
    /// Bob's slot of what it is derived from: all of his memory, the key, the port.
    fn source(self) -> u32 {
        match self.kind {
            Kind::Memory => 0,
            Kind::Key => 60,
            Kind::Port => 61,
        }
    }
    /// Where in bob's buffer it is, if it is memory; some place that nobody names if not.
    fn place(self) -> u64 {
        64 * 1024 + u64::from(self.index) * LENGTH
    }
    fn slot(self, who: Who) -> u32 {
        match who {
            Who::Derived => self.derived(),
            _ => self.given(),
        }
    }
}

/// The rule: the status that a deed is refused with, by SPEC section 4.1, step 6.
fn refusal(held: Held, rights: Rights, deed: &Deed) -> Option<Status> {
    for &(right, bytes) in &deed.needs {
        let refused = match held {
            Held::Nothing => Some(Status::NoCapability),
            Held::Revoked | Held::Expired => Some(Status::Revoked),
            Held::Usable { .. } if !rights.contains(right) => Some(Status::MissingRight),
            Held::Usable { length, .. } if bytes > length && right_is_to_memory(right) => {
                Some(Status::Bounds)
            }
            Held::Usable { quota, .. } if bytes > quota => Some(Status::Revoked),
            Held::Usable { .. } => None,
        };
        if refused.is_some() {
            return refused;
        }
    }
    None
}

/// Keys and ports have no ranges.
fn right_is_to_memory(right: Rights) -> bool {
    Rights::ALL.contains(right)
}

/// Somebody with a context, a queue and a place in the world.
struct Actor {
    who: Who,
    vm: usize,
    context: u32,
    queue: Option<Queue>,
}

struct World {
    engine: Engine,
    /// Bob, alice, carol, dave.
    vms: Vec<Option<Vm>>,
    actors: Vec<Actor>,
    state: State,
    /// Everybody's blocks are on it; what they hold is no matter here.
    _disk: Disk,
}

const BOB: usize = 0;
const ALICE: usize = 1;
const CAROL: usize = 2;
const SLOTS: u32 = 64;

impl World {
    fn new(state: State) -> Self {
        let engine = engine();
        let names = ["bob", "alice", "carol", "dave"];
        let disk = Disk::new(&[CANARY; 1 << 16]);
        attach(&engine, "disk", &disk.path());
        for name in names {
            create(&engine, name);
            grant(&engine, "disk", name);
        }
        for from in &names[..3] {
            for to in &names[..3] {
                if from != to {
                    link(&engine, from, to);
                }
            }
        }
        let vms: Vec<_> = (names.iter())
            .map(|name| Some(Vm::boot(&engine, name)))
            .collect();
        let mut world = Self {
            engine,
            vms,
            actors: Vec::new(),
            state,
            _disk: disk,
        };
        for (who, vm) in [
            (Who::Owner, BOB),
            (Who::Holder, ALICE),
            (Who::OtherContext, ALICE),
            (Who::Stranger, CAROL),
            (Who::Unlinked, 3),
        ] {
            world.add_actor(who, vm);
        }
        world.make_sources();
        objects().into_iter().for_each(|object| world.give(object));
        world.enter_state();
        for vm in world.vms.iter().flatten() {
            vm.fill(0, 64 * 1024, OWN);
        }
        world
    }

    fn add_actor(&mut self, who: Who, at: usize) {
        let vm = self.vm(at);
        let q = ContextCreateRequest {
            pasid: PASID,
            slots: SLOTS,
        };
        let reply = vm.ask(RequestKind::ContextCreate, &q.to_bytes()).unwrap();
        vm.context = ContextCreateReply::from_bytes(&reply).context;
        vm.load_key(KEY, OWN_KEY.into(), key_byte);
        vm.load_key(KeyAlgorithm::Channel256, OWN_CHANNEL.into(), key_byte);
        create_port(vm, OWN_PORT.into());
        open_into(vm, "disk", OWN_BLOCKS.into()).unwrap();
        vm.create_queue();
        let fresh = Queue::new(&vm.guest);
        let actor = Actor {
            who,
            vm: at,
            context: vm.context,
            queue: Some(std::mem::replace(&mut vm.queue, fresh)),
        };
        self.actors.push(actor);
    }

    fn vm(&mut self, at: usize) -> &mut Vm {
        self.vms[at].as_mut().expect("a VM that is there")
    }
    /// Who acts; the derived one is held by the holder's context.
    fn actor(&self, who: Who) -> usize {
        let who = match who {
            Who::Derived => Who::Holder,
            who => who,
        };
        self.actors.iter().position(|a| a.who == who).unwrap()
    }

    /// What bob has that is not memory.
    fn make_sources(&mut self) {
        let context = self.actors[self.actor(Who::Owner)].context;
        let bob = self.vm(BOB);
        bob.context = context;
        bob.load_key(KEY, 60, key_byte);
        create_port(bob, 61);
    }

    /// Bob derives the object for himself, gives it to alice, and she derives from it.
    fn give(&mut self, object: Object) {
        let (bob, alice) = (self.actor(Who::Owner), self.actor(Who::Holder));
        let (bob, alice) = (self.actors[bob].context, self.actors[alice].context);
        let Object { kind, rights, .. } = object;
        let mut q = CapDeriveRequest {
            context: bob,
            slot: object.source(),
            length: kind.length(),
            // Bob needs no right to give what is his own, but cannot give what he lacks.
            rights: rights.0,
            target_context: bob,
            target_slot: object.given(),
            ..CapDeriveRequest::default()
        };
        if kind == Kind::Memory {
            q.base = BUFFER + object.place();
        }
        match self.state {
            State::Narrowed => q.length = u64::from(SIZE / 2).min(q.length / 2),
            State::Expired => q.lifetime_ns = LIFETIME.as_nanos() as u64,
            State::UsedUp => q.byte_quota = QUOTA,
            _ => {}
        }
        let outcome = self.vm(BOB).ask::<8>(RequestKind::CapDerive, &q.to_bytes());
        if self.state == State::Narrowed && kind != Kind::Memory {
            assert_eq!(outcome, Err(ControlStatus::Bounds), "{object:?}");
            return;
        }
        outcome.unwrap();
        let to = self.vm(ALICE).id;
        self.vm(BOB).context = bob;
        let offer = self.vm(BOB).offer(object.given(), to, rights).unwrap();
        let accept = CapAcceptRequest {
            offer,
            context: alice,
            slot: object.given(),
            ..CapAcceptRequest::default()
        };
        self.vm(ALICE)
            .ask::<32>(RequestKind::CapAccept, &accept.to_bytes())
            .unwrap();
        let q = CapDeriveRequest {
            context: alice,
            slot: object.given(),
            length: q.length,
            rights: rights.0,
            target_context: alice,
            target_slot: object.derived(),
            ..CapDeriveRequest::default()
        };
        let outcome = self
            .vm(ALICE)
            .ask::<8>(RequestKind::CapDerive, &q.to_bytes());
        let may = rights.contains(Rights::GRANT);
        assert_eq!(outcome.is_ok(), may, "{object:?}: {outcome:?}");
    }

    fn enter_state(&mut self) {
        let contexts = [Who::Owner, Who::Holder].map(|who| self.actors[self.actor(who)].context);
        let each = |world: &mut Self, at: usize, kind, flags| {
            for object in objects() {
                let q = CapSlotRequest {
                    context: contexts[at],
                    slot: object.given(),
                    flags,
                    ..CapSlotRequest::default()
                };
                world.vm(at).ask::<0>(kind, &q.to_bytes()).unwrap();
            }
        };
        let only = revoke_flags::DESCENDANTS_ONLY;
        match self.state {
            State::Live | State::Narrowed | State::UsedUp => {}
            State::Expired => std::thread::sleep(LIFETIME),
            State::Revoked => each(self, ALICE, RequestKind::CapRevoke, 0),
            State::DescendantsRevoked => each(self, BOB, RequestKind::CapRevoke, only),
            State::AncestorRevoked => each(self, BOB, RequestKind::CapRevoke, 0),
            State::Dropped => each(self, ALICE, RequestKind::CapDrop, 0),
            State::LinkEnded => {
                let (from, to) = ("bob".to_owned(), "alice".to_owned());
                self.engine.act(Action::Unlink { from, to }).unwrap();
            }
            State::ContextDestroyed => {
                let context = contexts[BOB];
                self.vm(BOB).destroy_context(context).unwrap();
            }
            State::OwnerReset => self.vm(BOB).device.reset(),
            State::OwnerDetached => self.detach_bob(),
            State::OwnerRemoved => {
                let name = "bob".to_owned();
                self.engine.act(Action::RemoveDomain { name }).unwrap();
            }
        }
        let is_gone = matches!(
            self.state,
            State::ContextDestroyed
                | State::OwnerReset
                | State::OwnerDetached
                | State::OwnerRemoved
        );
        if is_gone {
            // With its queues.
            let at = self.actor(Who::Owner);
            self.actors[at].queue = None;
        }
    }

    /// Bob's VMM goes; what his RAM holds can still be looked at.
    fn detach_bob(&mut self) {
        // Dropping the handle detaches; that of a domain without a VM takes its place.
        create(&self.engine, "nobody");
        let idle = self.engine.attach("nobody").unwrap();
        drop(std::mem::replace(&mut self.vm(BOB).device, idle));
    }

    /// Submits a descriptor and tells how it ended.
    fn run(&mut self, actor: usize, descriptor: &Descriptor) -> Status {
        self.complete(actor, descriptor).status().unwrap()
    }
    fn complete(&mut self, actor: usize, descriptor: &Descriptor) -> Completion {
        let queue = self.actors[actor].queue.take().expect("a queue");
        let vm = self.vms[self.actors[actor].vm].as_mut().unwrap();
        let idle = std::mem::replace(&mut vm.queue, queue);
        let completion = vm.run(descriptor);
        self.actors[actor].queue = Some(std::mem::replace(&mut vm.queue, idle));
        completion
    }

    /// The entry of a page of Bob's process's.
    fn page(&mut self, va: u64) -> u64 {
        let bob = self.vm(BOB);
        bob.guest.read_u64(bob.process.entry_of(va).unwrap())
    }
    /// Bob's kernel changes the entry of a page of his process's.
    fn set_page(&mut self, va: u64, entry: u64) {
        let bob = self.vm(BOB);
        bob.process.change_entry(va, |_| entry);
        let everything = InvalidateRequest {
            scope: invalidate_scope::DOMAIN,
            ..InvalidateRequest::default()
        };
        bob.ask::<8>(RequestKind::Invalidate, &everything.to_bytes())
            .unwrap();
    }

    fn paint(&self, object: Object, actor: usize) {
        let bob = self.vms[BOB].as_ref().unwrap();
        bob.fill(object.place(), LENGTH, CANARY);
        let vm = self.vms[self.actors[actor].vm].as_ref().unwrap();
        vm.fill(SOURCE, u64::from(SIZE), OWN);
        vm.fill(LANDING, u64::from(SIZE), OWN);
    }
    fn bytes(&self, object: Object, actor: usize) -> (Vec<u8>, Vec<u8>) {
        let bob = self.vms[BOB].as_ref().unwrap();
        let vm = self.vms[self.actors[actor].vm].as_ref().unwrap();
        (
            bob.read(object.place(), LENGTH),
            vm.read(LANDING, u64::from(SIZE)),
        )
    }
    /// Carries a deed out and tells how it ended.
    fn carry_out(&mut self, actor: usize, deed: &Deed) -> Status {
        let vm = self.vms[self.actors[actor].vm].as_ref().unwrap();
        put_list(vm, deed, LIST);
        self.run(actor, &deed.descriptor)
    }
    /// Carries them out as elements of one batch and tells how each ended.
    fn carry_out_in_a_batch(&mut self, actor: usize, deeds: &[Deed]) -> Vec<Status> {
        let vm = self.vms[self.actors[actor].vm].as_ref().unwrap();
        for ((deed, i), list) in deeds.iter().zip(0_u64..).zip((LIST..).step_by(32)) {
            put_list(vm, deed, list);
            let at = |address| match address {
                _ if deed.list.is_empty() => address,
                there if there == BUFFER + LIST => BUFFER + list,
                other => other,
            };
            let d = &deed.descriptor;
            let element = Descriptor {
                src: at(d.src),
                dst: at(d.dst),
                ..*d
            };
            let place = vm.buffer + ELEMENTS + i * Descriptor::SIZE as u64;
            vm.guest.write(place, &element.to_bytes());
        }
        let batch = Descriptor {
            src: BUFFER + ELEMENTS,
            status_array: BUFFER + STATUSES,
            size: deeds.len() as u32,
            ..Descriptor::new(Opcode::Batch, Flags::NONE)
        };
        let status = self.run(actor, &batch);
        assert!(matches!(status, Status::Success | Status::BatchFailed));
        let vm = self.vms[self.actors[actor].vm].as_ref().unwrap();
        let record = |i| {
            let place = STATUSES + i * Completion::SIZE as u64;
            let record = vm.read(place, Completion::SIZE as u64);
            Completion::from_bytes(&record.try_into().unwrap())
        };
        let records = (0..deeds.len() as u64).map(record);
        records.map(|record| record.status().unwrap()).collect()
    }
}

/// Puts what a deed needs into a list of the actor's.
fn put_list(vm: &Vm, deed: &Deed, list: u64) {
    for (segment, at) in deed.list.iter().zip((list..).step_by(16)) {
        vm.guest.write(vm.buffer + at, &segment.to_bytes());
    }
}

/// Bytes of all keys.
fn key_byte(_: usize) -> u8 {
    0x2d
}

/// Puts a port with all rights to it into a slot of the VM's context.
fn create_port(vm: &mut Vm, slot: u32) {
    let q = PortCreateRequest {
        context: vm.context,
        slot,
        depth: 2,
        bytes: SIZE,
        badge: 0,
    };
    vm.ask::<8>(RequestKind::PortCreate, &q.to_bytes()).unwrap();
}

/// The rule for an element of a batch: some operations are none.
fn refusal_in_a_batch(held: Held, rights: Rights, deed: &Deed) -> Option<Status> {
    match deed.opcode() {
        Opcode::Batch | Opcode::Send | Opcode::Receive => Some(Status::BadOpcode),
        _ => refusal(held, rights, deed),
    }
}

fn every_deed(world: &mut World, who: Who, object: Object) -> usize {
    let actor = world.actor(who);
    if world.actors[actor].queue.is_none() {
        return 0;
    }
    let state = world.state;
    let held = held(who, state, object);
    let mut deeds = deeds::all(object.slot(who) as u16);
    // In a batch it is not attempted after a failure.
    deeds.sort_by_key(|deed| deed.opcode() != Opcode::Signal);
    let case = |deed: &Deed| {
        let (opcode, name) = (deed.opcode(), deed.name);
        format!("{who:?} x {object:?} x {state:?} x {opcode:?}, {name}")
    };
    for deed in &deeds {
        world.paint(object, actor);
        let status = world.carry_out(actor, deed);
        let (there, landing) = world.bytes(object, actor);
        let untouched = || there == [CANARY; LENGTH as usize];
        if let Some(refused) = refusal(held, object.rights, deed) {
            assert_eq!(status, refused, "{}", case(deed));
            assert!(untouched(), "{}: something was written", case(deed));
            let nothing_came = landing.iter().all(|&b| b == OWN);
            assert!(nothing_came, "{}: something came", case(deed));
            continue;
        }
        assert!(deed.ends.contains(&status), "{}: {status:?}", case(deed));
        if deed.only_reads() || object.kind != Kind::Memory {
            assert!(untouched(), "{}: something was written", case(deed));
        }
        if deed.opcode().canonical() == Opcode::Memmove && deed.name == "get" {
            assert!(landing.iter().all(|&b| b == CANARY), "{}", case(deed));
        }
        if deed.opcode().canonical() == Opcode::Memmove && deed.name == "put" {
            let (new, old) = there.split_at(SIZE as usize);
            assert!(new.iter().all(|&b| b == OWN), "{}", case(deed));
            assert!(old.iter().all(|&b| b == CANARY), "{}", case(deed));
        }
    }
    world.paint(object, actor);
    let statuses = world.carry_out_in_a_batch(actor, &deeds);
    let mut nothing_is_written = true;
    for (deed, status) in deeds.iter().zip(statuses) {
        match refusal_in_a_batch(held, object.rights, deed) {
            Some(refused) => assert_eq!(status, refused, "{}, in a batch", case(deed)),
            None => {
                // What the object holds is the earlier elements' doing: no matter to most.
                let ends_so = deed.ends.len() > 1 || deed.ends.contains(&status);
                assert!(ends_so, "{}, in a batch: {status:?}", case(deed));
                nothing_is_written &= deed.only_reads();
            }
        }
    }
    let (there, _) = world.bytes(object, actor);
    let untouched = there == [CANARY; LENGTH as usize];
    assert!(
        untouched || !nothing_is_written,
        "{who:?} x {object:?} x {state:?}"
    );
    deeds.len()
}

#[test]
fn every_descriptor_by_everybody_in_every_state() {
    let mut cases = 0;
    for state in STATES {
        let mut world = World::new(state);
        for object in objects() {
            for who in EVERYBODY {
                cases += every_deed(&mut world, who, object);
            }
        }
    }
    // Nobody's turn was left out: the owner has none where he is gone.
    let each = objects().len() * deeds::all(1).len();
    let gone = 4;
    assert_eq!(cases, each * (STATES.len() * EVERYBODY.len() - gone));
}

/// Whatever this engine says that it carries out is part of the product above, unless it
/// takes no slot at all; what it does not carry out is refused, slot or no slot.
#[test]
fn no_operation_is_left_out() {
    let mut world = World::new(State::Live);
    let supported = crate::ops::supported_opcodes();
    for &opcode in Opcode::ALL {
        let code = opcode as usize;
        let is_supported = supported[code / 8] & 1 << (code % 8) != 0;
        let takes_no_slot = matches!(opcode, Opcode::Nop | Opcode::Drain | Opcode::Cancel);
        let is_in = !deeds::of(opcode, 1).is_empty();
        assert_eq!(is_in, is_supported && !takes_no_slot, "{opcode:?}");
        if is_in {
            continue;
        }
        let refused = match is_supported {
            true => Status::ReservedNotZero,
            false => Status::BadOpcode,
        };
        let owner = world.actor(Who::Owner);
        for word0 in [Word0::new(1, 0, false), Word0::new(0, 1, false)] {
            let d = Descriptor {
                word0: word0.0,
                ..Descriptor::new(opcode, Flags::NONE)
            };
            assert_eq!(world.run(owner, &d), refused, "{opcode:?}");
        }
    }
}

/// What may be wrong with a page.
type Spoil = fn(u64) -> u64;

const SPOILS: [Spoil; 4] = [
    |entry| entry & !pte::P,
    |entry| entry & !pte::US,
    |entry| entry | 1 << 51,
    |entry| entry & !pte::FRAME | 0x3f_0000_0000,
];
/// Wrong for those that write.
const READ_ONLY: Spoil = |entry| entry & !pte::RW;

/// Whatever is wrong with a peer's page, the completion is the same, to the bit: by no
/// operation and by no field of its result does a submitter learn of its cause, or of an
/// address. Who reads and writes a page finds that it can do the one and not the other, but
/// no more than that.
#[test]
fn no_operation_tells_what_is_wrong_with_a_peers_page() {
    let mut world = World::new(State::Live);
    let all = |object: &Object| object.kind == Kind::Memory && object.rights == Rights::ALL;
    let object = objects().into_iter().find(all).unwrap();
    let holder = world.actor(Who::Holder);
    let page = (BUFFER + object.place()) & !0xfff;
    let good = world.page(page);
    assert!(good & pte::P != 0, "only one thing may be wrong at a time");
    let (mut told, mut deeds_that_fault) = (Vec::new(), 0);
    for deed in deeds::all(object.given() as u16) {
        let is_to_memory = |(right, _): &(Rights, u64)| right_is_to_memory(*right);
        if !deed.needs.iter().all(is_to_memory) {
            continue;
        }
        told.clear();
        let read_only = (!deed.only_reads()).then_some(&READ_ONLY);
        for spoil in SPOILS.iter().chain(read_only) {
            world.paint(object, holder);
            world.set_page(page, spoil(good));
            let vm = world.vms[world.actors[holder].vm].as_ref().unwrap();
            put_list(vm, &deed, LIST);
            let done = world.complete(holder, &deed.descriptor).with_phase(false);
            world.set_page(page, good);
            told.push(done);
        }
        let (name, first) = (deed.name, told[0]);
        let case = format!("{:?}, {name}: {told:?}", deed.opcode());
        let reads = |(right, _): &(Rights, u64)| right.contains(Rights::READ);
        if deed.needs.iter().any(reads)
            && let Some(written) = told.get(SPOILS.len()).copied()
        {
            told.pop();
            match written.status().unwrap() {
                Status::RemoteFault => assert!(written.fault_addr < LENGTH, "{case}"),
                other => assert!(deed.ends.contains(&other), "{case}"),
            }
        }
        let same = |c: &Completion| c.to_bytes() == first.to_bytes();
        assert!(told.iter().all(same), "{case}");
        let status = first.status().unwrap();
        if status == Status::RemoteFault {
            assert!(first.fault_addr < LENGTH, "{case}");
            deeds_that_fault += 1;
        } else {
            // Those that find something wrong with what is their own before.
            assert!(deed.ends.contains(&status), "{case}");
        }
    }
    assert!(
        deeds_that_fault > 40,
        "only {deeds_that_fault} met the page"
    );
}

/// Failures that apply; which of several is told is not promised.
fn control_failures(
    held: Held,
    who: Who,
    rights: Rights,
    asks: Rights,
    kind: RequestKind,
) -> Vec<ControlStatus> {
    use ControlStatus::{MissingRight, NoLink, NoSuchObject, Revoked};
    let mut failures = Vec::new();
    if held == Held::Nothing {
        failures.push(NoSuchObject);
    }
    if matches!(kind, RequestKind::CapDerive | RequestKind::CapOffer) {
        if matches!(held, Held::Revoked | Held::Expired) {
            failures.push(Revoked);
        }
        let passes_on = who == Who::Owner || rights.contains(Rights::GRANT);
        if held != Held::Nothing && (!passes_on || !rights.contains(asks)) {
            failures.push(MissingRight);
        }
    }
    if kind == RequestKind::CapOffer && who == Who::Unlinked {
        failures.push(NoLink);
    }
    failures
}

#[test]
fn every_control_request_by_everybody_in_every_state() {
    for state in STATES {
        let mut world = World::new(state);
        for (object, who) in objects()
            .into_iter()
            .flat_map(|o| EVERYBODY.map(|who| (o, who)))
        {
            let rights = object.rights;
            let actor = world.actor(who);
            if world.actors[actor].queue.is_none() {
                continue;
            }
            let (at, context) = (world.actors[actor].vm, world.actors[actor].context);
            let slot = object.slot(who);
            let holding = held(who, state, object);
            let check = |kind, asks, outcome: Result<(), ControlStatus>| {
                let case = format!("{who:?} x {object:?} x {state:?} x {kind:?} {asks:?}");
                let failures = control_failures(holding, who, rights, asks, kind);
                match outcome {
                    Ok(()) => assert!(failures.is_empty(), "{case}: expected {failures:?}"),
                    Err(e) => assert!(failures.contains(&e), "{case}: {e:?} of {failures:?}"),
                }
            };
            // Derived and dropped again, with every set of rights there is to anything.
            for asks in objects().iter().map(|other| other.rights) {
                let q = CapDeriveRequest {
                    context,
                    slot,
                    length: match object.kind {
                        Kind::Memory => 1,
                        kind => kind.length(),
                    },
                    rights: asks.0,
                    target_context: context,
                    ..CapDeriveRequest::default()
                };
                let vm = world.vm(at);
                let outcome = vm.ask::<8>(RequestKind::CapDerive, &q.to_bytes());
                check(RequestKind::CapDerive, asks, outcome.map(|_| ()));
                if let Ok(reply) = outcome {
                    vm.context = context;
                    let fresh = CapDeriveReply::from_bytes(&reply).slot;
                    vm.slot_request(RequestKind::CapDrop, fresh).unwrap();
                }
                let to = match at {
                    CAROL => world.vm(ALICE).id,
                    _ => world.vm(CAROL).id,
                };
                let q = CapOfferRequest {
                    context,
                    slot,
                    domain: to,
                    rights: asks.0,
                    ..CapOfferRequest::default()
                };
                // Carol may be offered bob's memory by alice, bob being linked with her.
                // Once he is gone so are his links.
                let outcome = world
                    .vm(at)
                    .ask::<8>(RequestKind::CapOffer, &q.to_bytes())
                    .map(|_| ());
                if state == State::OwnerRemoved && outcome == Err(ControlStatus::NoLink) {
                    continue;
                }
                check(RequestKind::CapOffer, asks, outcome);
            }
            let q = CapSlotRequest {
                context,
                slot,
                ..CapSlotRequest::default()
            };
            let vm = world.vm(at);
            let outcome = vm.ask::<64>(RequestKind::CapQuery, &q.to_bytes());
            check(RequestKind::CapQuery, Rights::NONE, outcome.map(|_| ()));
            if let Ok(reply) = outcome {
                let state = CapQueryReply::from_bytes(&reply).state;
                let expected = match holding {
                    Held::Usable { .. } => 1,
                    Held::Revoked => 2,
                    Held::Expired => 3,
                    Held::Nothing => unreachable!("it was refused"),
                };
                assert_eq!(state, expected, "{who:?} x {object:?} x {:?}", world.state);
            }
        }
        // Last, because it changes what the others find; those who hold nothing first.
        for who in [Who::Unlinked, Who::Stranger, Who::OtherContext] {
            let actor = world.actor(who);
            let (at, context) = (world.actors[actor].vm, world.actors[actor].context);
            for object in objects() {
                for kind in [RequestKind::CapRevoke, RequestKind::CapDrop] {
                    let vm = world.vm(at);
                    vm.context = context;
                    let outcome = vm.slot_request(kind, object.given());
                    assert_eq!(
                        outcome,
                        Err(ControlStatus::NoSuchObject),
                        "{who:?} {kind:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_offer_is_for_one_domain_only() {
    let mut world = World::new(State::Live);
    let all = |object: &Object| object.kind == Kind::Memory && object.rights == Rights::ALL;
    let object = objects().into_iter().find(all).unwrap();
    let owner = world.actor(Who::Owner);
    let context = world.actors[owner].context;
    let to = world.vm(ALICE).id;
    let bob = world.vm(BOB);
    bob.context = context;
    let offer = bob.offer(object.given(), to, object.rights).unwrap();
    for who in [Who::Owner, Who::Stranger, Who::Unlinked] {
        let actor = world.actor(who);
        let (at, context) = (world.actors[actor].vm, world.actors[actor].context);
        let vm = world.vm(at);
        vm.context = context;
        assert_eq!(
            vm.accept(offer),
            Err(ControlStatus::NoSuchObject),
            "{who:?}"
        );
    }
    // Whichever of alice's contexts takes it: the second time there is nothing.
    let actor = world.actor(Who::OtherContext);
    let context = world.actors[actor].context;
    let alice = world.vm(ALICE);
    alice.context = context;
    assert!(alice.accept(offer).is_ok());
    assert_eq!(alice.accept(offer), Err(ControlStatus::NoSuchObject));
}
