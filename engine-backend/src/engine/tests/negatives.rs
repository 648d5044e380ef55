//! The exhaustive product of who, with which rights, in which state, does what: every
//! descriptor and control request against a rule written from SPEC sections 4.1 and 7,
//! and not a byte moved where it says no. After Hafnium's tests of memory sharing.

use std::time::Duration;

use byway_protocols::control::{
    CapAcceptRequest, CapDeriveReply, CapDeriveRequest, CapOfferRequest, CapQueryReply,
    CapSlotRequest, ContextCreateReply, ContextCreateRequest, RequestKind, revoke_flags,
};
use byway_protocols::{ControlStatus, Descriptor, Flags, Opcode, Rights, Status, Word0};

use super::world::{BUFFER, PASID, Queue, Vm, create, engine, link};
use crate::Engine;
use crate::interface::{Action, Admin};

/// Bytes of each object.
const LENGTH: u64 = 4096;
/// Bytes that an operation touches.
const SIZE: u32 = 64;
/// Long enough to give everything away in.
const LIFETIME: Duration = Duration::from_millis(1500);
/// Fewer bytes than any operation asks for.
const QUOTA: u64 = 16;
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
fn held(who: Who, state: State, rights: Rights) -> Held {
    use State::*;
    let usable = Held::Usable {
        length: LENGTH,
        quota: u64::MAX,
    };
    match who {
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
            length: LENGTH,
            quota: QUOTA,
        },
        Revoked | DescendantsRevoked | LinkEnded if who == Who::Owner => usable,
        // All over his context's memory, his own slots with it.
        _ => Held::Revoked,
    }
}

/// What is done with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Get,
    Put,
    Within,
    Fill,
    CompareSource,
    CompareDestination,
    CompareValue,
    BatchList,
    BatchStatuses,
    AliasGet,
    AliasPut,
    AliasFill,
    AliasCompare,
    AliasCompareValue,
}

const DEEDS: [Deed; 14] = [
    Deed::Get,
    Deed::Put,
    Deed::Within,
    Deed::Fill,
    Deed::CompareSource,
    Deed::CompareDestination,
    Deed::CompareValue,
    Deed::BatchList,
    Deed::BatchStatuses,
    Deed::AliasGet,
    Deed::AliasPut,
    Deed::AliasFill,
    Deed::AliasCompare,
    Deed::AliasCompareValue,
];

impl Deed {
    /// The right that each operand needs, in the order in which they are checked, and the
    /// bytes that it spans.
    fn needs(self) -> Vec<(Rights, u64)> {
        let size = u64::from(SIZE);
        match self {
            Self::Within => vec![(Rights::READ, size), (Rights::WRITE, size)],
            Self::Put | Self::Fill | Self::AliasPut | Self::AliasFill => {
                vec![(Rights::WRITE, size)]
            }
            Self::BatchStatuses => vec![(Rights::WRITE, 32)],
            _ => vec![(Rights::READ, size)],
        }
    }
    fn is_batch(self) -> bool {
        matches!(self, Self::BatchList | Self::BatchStatuses)
    }
    fn descriptor(self, slot: u16) -> Descriptor {
        let pattern = u64::from_le_bytes([CANARY; 8]);
        let (own, landing) = (BUFFER + SOURCE, BUFFER + LANDING);
        let new = |opcode, src_slot, dst_slot, src, dst| Descriptor {
            word0: Word0::new(src_slot, dst_slot, false).0,
            src,
            dst,
            size: SIZE,
            ..Descriptor::new(opcode, Flags::NONE)
        };
        match self {
            Self::Get => new(Opcode::Memmove, slot, 0, 0, landing),
            Self::Put => new(Opcode::Memmove, 0, slot, own, 0),
            Self::Within => new(Opcode::Memmove, slot, slot, 0, 0),
            Self::Fill => new(Opcode::Fill, 0, slot, pattern, 0),
            Self::CompareSource => new(Opcode::Compare, slot, 0, 0, own),
            Self::CompareDestination => new(Opcode::Compare, 0, slot, own, 0),
            Self::CompareValue => new(Opcode::CompareValue, slot, 0, 0, pattern),
            Self::BatchList => Descriptor {
                size: 1,
                status_array: landing,
                ..new(Opcode::Batch, slot, 0, 0, 0)
            },
            Self::BatchStatuses => Descriptor {
                size: 1,
                ..new(Opcode::Batch, 0, slot, own, 0)
            },
            Self::AliasGet => new(Opcode::InterDomainMemmove, slot, 0, 0, landing),
            Self::AliasPut => new(Opcode::InterDomainMemmove, 0, slot, own, 0),
            Self::AliasFill => new(Opcode::InterDomainFill, 0, slot, pattern, 0),
            Self::AliasCompare => new(Opcode::InterDomainCompare, slot, 0, 0, own),
            Self::AliasCompareValue => new(Opcode::InterDomainCompareValue, slot, 0, 0, pattern),
        }
    }
}

/// The rule: the status that a deed is refused with, by SPEC section 4.1, step 6.
fn refusal(held: Held, rights: Rights, deed: Deed) -> Option<Status> {
    for (right, bytes) in deed.needs() {
        let refused = match held {
            Held::Nothing => Some(Status::NoCapability),
            Held::Revoked | Held::Expired => Some(Status::Revoked),
            Held::Usable { .. } if !rights.contains(right) => Some(Status::MissingRight),
            Held::Usable { length, .. } if bytes > length => Some(Status::Bounds),
            Held::Usable { quota, .. } if bytes > quota => Some(Status::Revoked),
            Held::Usable { .. } => None,
        };
        if refused.is_some() {
            return refused;
        }
    }
    None
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
}

const BOB: usize = 0;
const ALICE: usize = 1;
const CAROL: usize = 2;
const SLOTS: u32 = 32;

/// All sets of rights but the empty one, which cannot be given.
fn all_rights() -> impl Iterator<Item = Rights> {
    (1..8).map(Rights)
}

/// Slots of the object with these rights: as it was given, and as derived from that.
fn given(rights: Rights) -> u32 {
    rights.0
}
fn derived(rights: Rights) -> u32 {
    8 + rights.0
}

fn object(rights: Rights) -> u64 {
    64 * 1024 + u64::from(rights.0) * LENGTH
}

impl World {
    fn new(state: State) -> Self {
        let engine = engine();
        let names = ["bob", "alice", "carol", "dave"];
        for name in names {
            create(&engine, name);
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
        all_rights().for_each(|rights| world.give(rights));
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

    /// Bob derives the object for himself, gives it to alice, and she derives from it.
    fn give(&mut self, rights: Rights) {
        let (bob, alice) = (self.actor(Who::Owner), self.actor(Who::Holder));
        let (bob, alice) = (self.actors[bob].context, self.actors[alice].context);
        let mut q = CapDeriveRequest {
            context: bob,
            base: BUFFER + object(rights),
            length: LENGTH,
            // Bob needs no right to give what is his own, but cannot give what he lacks.
            rights: rights.0,
            target_context: bob,
            target_slot: given(rights),
            ..CapDeriveRequest::default()
        };
        match self.state {
            State::Narrowed => q.length = u64::from(SIZE / 2),
            State::Expired => q.lifetime_ns = LIFETIME.as_nanos() as u64,
            State::UsedUp => q.byte_quota = QUOTA,
            _ => {}
        }
        self.vm(BOB)
            .ask::<8>(RequestKind::CapDerive, &q.to_bytes())
            .unwrap();
        let to = self.vm(ALICE).id;
        self.vm(BOB).context = bob;
        let offer = self.vm(BOB).offer(given(rights), to, rights).unwrap();
        let q = CapAcceptRequest {
            offer,
            context: alice,
            slot: given(rights),
            ..CapAcceptRequest::default()
        };
        self.vm(ALICE)
            .ask::<32>(RequestKind::CapAccept, &q.to_bytes())
            .unwrap();
        let q = CapDeriveRequest {
            context: alice,
            slot: given(rights),
            length: match self.state {
                State::Narrowed => u64::from(SIZE / 2),
                _ => LENGTH,
            },
            rights: rights.0,
            target_context: alice,
            target_slot: derived(rights),
            ..CapDeriveRequest::default()
        };
        let outcome = self
            .vm(ALICE)
            .ask::<8>(RequestKind::CapDerive, &q.to_bytes());
        let may = rights.contains(Rights::GRANT);
        assert_eq!(outcome.is_ok(), may, "{rights:?}: {outcome:?}");
    }

    fn enter_state(&mut self) {
        let contexts = [Who::Owner, Who::Holder].map(|who| self.actors[self.actor(who)].context);
        let each = |world: &mut Self, at: usize, kind, flags| {
            for rights in all_rights() {
                let q = CapSlotRequest {
                    context: contexts[at],
                    slot: given(rights),
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

    /// Carries a deed out and tells how it ended.
    fn run(&mut self, actor: usize, descriptor: &Descriptor) -> Status {
        let queue = self.actors[actor].queue.take().expect("a queue");
        let vm = self.vms[self.actors[actor].vm].as_mut().unwrap();
        let idle = std::mem::replace(&mut vm.queue, queue);
        let status = vm.run_for(descriptor);
        self.actors[actor].queue = Some(std::mem::replace(&mut vm.queue, idle));
        status
    }

    fn paint(&self, rights: Rights, actor: usize) {
        let bob = self.vms[BOB].as_ref().unwrap();
        bob.fill(object(rights), LENGTH, CANARY);
        let vm = self.vms[self.actors[actor].vm].as_ref().unwrap();
        vm.fill(SOURCE, u64::from(SIZE), OWN);
        vm.fill(LANDING, u64::from(SIZE), OWN);
    }
    fn bytes(&self, rights: Rights, actor: usize) -> (Vec<u8>, Vec<u8>) {
        let bob = self.vms[BOB].as_ref().unwrap();
        let vm = self.vms[self.actors[actor].vm].as_ref().unwrap();
        (
            bob.read(object(rights), LENGTH),
            vm.read(LANDING, u64::from(SIZE)),
        )
    }
}

fn every_deed(world: &mut World, who: Who, rights: Rights) -> u32 {
    let actor = world.actor(who);
    if world.actors[actor].queue.is_none() {
        return 0;
    }
    let state = world.state;
    let slot = match who {
        Who::Derived => derived(rights),
        _ => given(rights),
    };
    for deed in DEEDS {
        let case = format!("{who:?} x {rights:?} x {state:?} x {deed:?}");
        world.paint(rights, actor);
        let status = world.run(actor, &deed.descriptor(slot as u16));
        let (object, landing) = world.bytes(rights, actor);
        let untouched = vec![CANARY; LENGTH as usize];
        let refused = refusal(held(who, state, rights), rights, deed);
        if let Some(refused) = refused {
            assert_eq!(status, refused, "{case}");
            assert_eq!(object, untouched, "{case}: something was written");
            assert!(landing.iter().all(|&b| b == OWN), "{case}: something came");
            continue;
        }
        if deed.is_batch() {
            // What the element says is not the batch's matter.
            assert!(
                matches!(status, Status::Success | Status::BatchFailed),
                "{case}: {status:?}"
            );
            continue;
        }
        assert_eq!(status, Status::Success, "{case}");
        match deed {
            Deed::Get | Deed::AliasGet => {
                assert!(landing.iter().all(|&b| b == CANARY), "{case}");
                assert_eq!(object, untouched, "{case}");
            }
            Deed::Put | Deed::AliasPut => {
                let (new, old) = object.split_at(SIZE as usize);
                assert!(new.iter().all(|&b| b == OWN), "{case}");
                assert!(old.iter().all(|&b| b == CANARY), "{case}");
            }
            _ => assert_eq!(object, untouched, "{case}"),
        }
    }
    DEEDS.len() as u32
}

#[test]
fn every_descriptor_by_everybody_in_every_state() {
    let mut cases = 0;
    for state in STATES {
        let mut world = World::new(state);
        for rights in all_rights() {
            for who in EVERYBODY {
                cases += every_deed(&mut world, who, rights);
            }
        }
    }
    // Nobody's turn was left out: the owner has none where he is gone.
    let all = STATES.len() * 7 * EVERYBODY.len() * DEEDS.len();
    let gone = 4 * 7 * DEEDS.len();
    assert_eq!(cases as usize, all - gone);
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
        for (rights, who) in all_rights().flat_map(|r| EVERYBODY.map(|who| (r, who))) {
            let actor = world.actor(who);
            if world.actors[actor].queue.is_none() {
                continue;
            }
            let (at, context) = (world.actors[actor].vm, world.actors[actor].context);
            let slot = match who {
                Who::Derived => derived(rights),
                _ => given(rights),
            };
            let holding = held(who, state, rights);
            let check = |kind, asks, outcome: Result<(), ControlStatus>| {
                let case = format!("{who:?} x {rights:?} x {state:?} x {kind:?} {asks:?}");
                let failures = control_failures(holding, who, rights, asks, kind);
                match outcome {
                    Ok(()) => assert!(failures.is_empty(), "{case}: expected {failures:?}"),
                    Err(e) => assert!(failures.contains(&e), "{case}: {e:?} of {failures:?}"),
                }
            };
            // Derived and dropped again, with every set of rights there is.
            for asks in all_rights() {
                let q = CapDeriveRequest {
                    context,
                    slot,
                    length: 1,
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
                assert_eq!(state, expected, "{who:?} x {rights:?} x {:?}", world.state);
            }
        }
        // Last, because it changes what the others find; those who hold nothing first.
        for who in [Who::Unlinked, Who::Stranger, Who::OtherContext] {
            let actor = world.actor(who);
            let (at, context) = (world.actors[actor].vm, world.actors[actor].context);
            for rights in all_rights() {
                for kind in [RequestKind::CapRevoke, RequestKind::CapDrop] {
                    let vm = world.vm(at);
                    vm.context = context;
                    let outcome = vm.slot_request(kind, given(rights));
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
    let rights = Rights::ALL;
    let owner = world.actor(Who::Owner);
    let context = world.actors[owner].context;
    let to = world.vm(ALICE).id;
    let bob = world.vm(BOB);
    bob.context = context;
    let offer = bob.offer(given(rights), to, rights).unwrap();
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
