//! Descriptors: any 64 bytes, in a context that holds some rights and lacks others.
//!
//! Alice submits; bob has given her capabilities over parts of his memory. Whatever she
//! writes: every descriptor ends in a status of this ABI, no byte changes that she may not
//! write, what changes is marked dirty, and nothing that she can see depends on a byte that
//! she may not read: each input runs twice, with other secrets, and must look the same.

mod world;

use std::cell::RefCell;

use byway_engine::ops::supported_opcodes;
use byway_protocols::{Completion, Descriptor, Flags, Status, Word0};

use crate::input::Input;
use world::World;

pub(crate) use world::{PAGE, PAGES, SLOTS, VA};

/// Steps of one input at most.
const STEPS_MAX: u32 = 16;
/// Chunks after which a descriptor is given up.
const CHUNKS_MAX: u32 = 64;
/// Work per chunk, in bytes.
const CHUNK_BYTES: [u64; 4] = [64 << 10, 4096, 64, 1];

/// What an input does in one step.
pub(crate) mod step {
    /// Runs a descriptor: which fields to bring into range ([`super::tidy`]), its 64 bytes.
    pub(crate) const RUN: u8 = 0;
    /// Writes bytes as alice's own CPU does: offset (u16), length (u8), bytes.
    pub(crate) const WRITE: u8 = 1;
    /// Revokes what a slot holds.
    pub(crate) const REVOKE: u8 = 2;
    /// Revokes what a slot holds in mid-descriptor: slot, after how many chunks.
    pub(crate) const REVOKE_LATER: u8 = 3;
    /// How many there are.
    pub(crate) const KINDS: usize = 4;
}

/// What is brought into range, so that not only refusals are met.
pub(crate) mod tidy {
    /// Slots: those that may hold something.
    pub(crate) const SLOTS: u8 = 1 << 0;
    /// Source and destination: inside the mapped pages, or an offset of that size.
    pub(crate) const ADDRESSES: u8 = 1 << 1;
    /// Size: up to the mapped pages.
    pub(crate) const SIZE: u8 = 1 << 2;
    /// Opcode: one that is supported; reserved fields 0.
    pub(crate) const OPCODE: u8 = 1 << 3;
    /// Flags: FENCE and REQUEST_INTERRUPT only.
    pub(crate) const FLAGS: u8 = 1 << 4;
    /// Two bits: work per chunk.
    pub(crate) const CHUNK_SHIFT: u8 = 5;
}

thread_local! {
    /// Two worlds that differ in what alice must not learn.
    static WORLDS: RefCell<Option<[World; 2]>> = const { RefCell::new(None) };
}

/// Runs one input.
pub fn run(data: &[u8]) {
    WORLDS.with_borrow_mut(|worlds| {
        // Taken out, so that a panic leaves no half-used world behind.
        let mut pair = worlds
            .take()
            .unwrap_or_else(|| [0x00, 0xff].map(World::new));
        let seen = pair.each_mut().map(|world| live(world, data));
        assert!(seen[0] == seen[1], "alice learns what she may not read");
        *worlds = Some(pair);
    });
}

/// Runs one input in one world; returns all that alice sees of it.
fn live(world: &mut World, data: &[u8]) -> (Vec<Completion>, Vec<u8>) {
    world.reset();
    let mut input = Input::new(data);
    let mut completions = Vec::new();
    let mut revoke_later = None;
    for _ in 0..STEPS_MAX {
        if !input.has_more() {
            break;
        }
        match input.below(step::KINDS) as u8 {
            step::RUN => {
                let tidied = input.u8();
                let d = tidy_up(&Descriptor::from_bytes(&input.array()), tidied);
                let chunk_bytes = CHUNK_BYTES[usize::from(tidied >> tidy::CHUNK_SHIFT & 3)];
                let completion = world.submit(&d, chunk_bytes, CHUNKS_MAX, revoke_later.take());
                check(&d, &completion);
                completions.push(completion);
            }
            step::WRITE => {
                let offset = u64::from(input.u16()) % (2 * PAGE);
                let len = u64::from(input.u8()).min(2 * PAGE - offset);
                world.write_own(offset, input.take(len as usize));
            }
            step::REVOKE => world.revoke(input.below(SLOTS) as u16),
            _ => revoke_later = Some((input.below(SLOTS) as u16, u32::from(input.u8() & 7))),
        }
    }
    world.check();
    (completions, world.own_bytes())
}

fn tidy_up(raw: &Descriptor, what: u8) -> Descriptor {
    let has = |bit| what & bit != 0;
    let mut d = *raw;
    if has(tidy::SLOTS) {
        let slots = raw.slots();
        let slot = |s: u16| s % SLOTS as u16;
        d.word0 = Word0::new(slot(slots.src_slot()), slot(slots.dst_slot()), false).0;
    }
    if has(tidy::ADDRESSES) {
        let place = |slot: u16, addr: u64| {
            let offset = addr % (PAGES as u64 * PAGE);
            if slot == 0 { VA + offset } else { offset }
        };
        d.src = place(d.slots().src_slot(), raw.src);
        d.dst = place(d.slots().dst_slot(), raw.dst);
    }
    if has(tidy::SIZE) {
        d.size = raw.size % (PAGES as u32 * PAGE as u32 + 1);
    }
    if has(tidy::OPCODE) {
        let bits = supported_opcodes();
        let supported: Vec<u8> = (0..=u8::MAX)
            .filter(|&code| bits[usize::from(code / 8)] >> (code % 8) & 1 == 1)
            .collect();
        let code = supported[usize::from(raw.code()) % supported.len()];
        d.flags_opcode = raw.flags_opcode & 0xff_ffff | u32::from(code) << 24;
        d.int_handle = 0;
        d.reserved38 = 0;
    }
    if has(tidy::FLAGS) {
        let kept = (Flags::FENCE | Flags::REQUEST_INTERRUPT).0 | 0xff << 24;
        d.flags_opcode &= kept;
    }
    d
}

/// What holds of every completion.
fn check(d: &Descriptor, completion: &Completion) {
    let status = completion.status();
    assert!(status.is_some(), "{completion:?} of {d:?}");
    assert_eq!((completion.reserved2, completion.phase), (0, 0));
    assert!(
        completion.bytes_completed <= d.size,
        "{completion:?} of {d:?}"
    );
    if completion.is_write_fault() {
        assert_ne!(status, Some(Status::Success));
    }
    if status == Some(Status::RemoteFault) {
        // No address of the peer's: an offset.
        assert!(completion.fault_addr < VA, "{completion:?}");
    }
}
