//! Bursts: what a worker does for many small transfers, fills, comparisons and checksums at once, published one by one or as a
//! batch, must be what it does for each of them alone.

use std::sync::Arc;

use byway_protocols::operands::{CopySgFields, Segment, XorFields};
use proptest::prelude::*;

mod batches;
mod rows;

use super::*;
use crate::capability::{Capability, Holder, Terms, Traffic};
use crate::worker::Solo;

const PAGE: u64 = 4096;
const PAGES: u64 = 12;
const BYTES: u64 = PAGES * PAGE;
/// Where alice has a batch, and behind it the completions of its elements: in memory that no transfer names.
const LIST: u64 = VA + (1 << 30);
const RECORDS: u64 = LIST + PAGE;
/// What the smaller capability covers: it begins and ends inside pages.
const PART: (u64, u64) = (PAGE + 100, 3 * PAGE);
const QUOTA: u64 = 2000;
/// Where each has a large page, of which this much is used.
const WIDE: u64 = VA + (2 << 30);
const WIDE_BYTES: u64 = 192 << 10;
/// Kinds of capabilities that alice holds, by the place in `World::slots`; 0 is her own memory.
const SLOTS: usize = 6;
/// The capability for bob's large page, and a place that means alice's own.
const WIDE_OF_BOB: usize = 5;
const WIDE_OF_ALICE: usize = 6;

/// What is filled with, and compared with.
const PATTERN: u64 = u64::from_ne_bytes([0x5a; 8]);

/// One small transfer or checksum, as indices and offsets.
#[derive(Debug, Clone)]
struct Move {
    what: Opcode,
    from: (usize, u64),
    to: (usize, u64),
    size: u32,
    strict: bool,
}

/// What happens between two bursts.
#[derive(Debug, Clone)]
enum Event {
    Nothing,
    /// Bob takes one back.
    Revoke(usize),
    /// A page of bob's loses its right to be written, or gets it back.
    Toggle(u64),
    /// Writes into bob's memory are logged from now on.
    Log,
}

struct World {
    alice: Process,
    bob: Process,
    slots: [u16; SLOTS],
    capabilities: Vec<Arc<Capability>>,
    worker: Solo,
    queue: Submitter,
}

impl World {
    fn new() -> Self {
        let guest = |id| Guest::new(id, 8 * MIB);
        let (alice, bob) = (Process::new(&guest(1), 16), Process::new(&guest(2), 16));
        for process in [&alice, &bob] {
            // Neighbours by address are none by place.
            process.map_scattered(VA, BYTES);
            let noise: Vec<u8> = (0..BYTES).map(|i| (i * 7 + i / 251) as u8).collect();
            process.write(VA, &noise);
            process.map(WIDE, 2 * MIB, PageSize::Large);
            let noise: Vec<u8> = (0..WIDE_BYTES).map(|i| (i * 13 + i / 509) as u8).collect();
            process.write(WIDE, &noise);
        }
        alice.map(LIST, 2 * PAGE, PageSize::Small);
        let all = bob.give(&alice, VA, BYTES, Rights::ALL);
        let part = bob.give(&alice, VA + PART.0, PART.1, Rights::ALL);
        let read_only = bob.give(&alice, VA, BYTES, Rights::READ);
        let peek = |slot: u16| alice.context().slots().peek(u32::from(slot)).unwrap();
        let limited = peek(all).derive(
            Terms {
                length: BYTES,
                rights: Rights::ALL,
                byte_quota: QUOTA,
                ..Terms::default()
            },
            Holder::Nobody,
            None,
        );
        let limited = alice.context().slots().insert(0, limited.unwrap());
        let wide = bob.give(&alice, WIDE, WIDE_BYTES, Rights::ALL);
        let slots = [0, all, part, read_only, limited.ok().unwrap(), wide];
        let capabilities = slots[1..].iter().map(|&slot| peek(slot)).collect();
        let queue = Submitter::new(&alice, 64, true);
        let mut worker = Solo::new();
        worker.attach(queue.queue().clone());
        Self {
            alice,
            bob,
            slots,
            capabilities,
            worker,
            queue,
        }
    }

    /// Slot and address of a place.
    fn place(&self, (slot, offset): (usize, u64)) -> (u16, u64) {
        match slot {
            0 => (0, VA + offset),
            WIDE_OF_ALICE => (0, WIDE + offset),
            _ => (self.slots[slot], offset),
        }
    }

    fn descriptor(&self, m: &Move) -> Descriptor {
        let value = (0, PATTERN);
        let (from, to) = (self.place(m.from), self.place(m.to));
        let ((src_slot, src), (dst_slot, dst)) = match m.what {
            Opcode::Fill => (value, to),
            Opcode::CompareValue => (from, value),
            Opcode::CrcGen | Opcode::Crc64 => (from, (0, 0)),
            _ => (from, to),
        };
        let (flags, op0) = match m.what {
            Opcode::Memmove | Opcode::Fill if m.strict => (Flags::STRICT_ORDER, 0),
            Opcode::Memmove | Opcode::Fill => (Flags::NONE, 0),
            Opcode::Compare | Opcode::CompareValue if m.strict => (Flags::CHECK_RESULT, 1),
            Opcode::Compare | Opcode::CompareValue => (Flags::NONE, 0),
            // A checksum's seed: no two of one size have the same.
            _ => (Flags::NONE, m.to.1),
        };
        Descriptor {
            word0: Word0::new(src_slot, dst_slot, false).0,
            src,
            dst,
            size: m.size,
            op0,
            ..Descriptor::new(m.what, flags)
        }
    }

    /// Publishes some, has them served, and says how each ended.
    fn run(&mut self, moves: &[Move]) -> Vec<Completion> {
        let descriptors: Vec<_> = moves.iter().map(|m| self.descriptor(m)).collect();
        self.serve(&descriptors)
    }

    /// The same of any descriptors.
    fn serve(&mut self, descriptors: &[Descriptor]) -> Vec<Completion> {
        for descriptor in descriptors {
            self.queue.submit(descriptor);
        }
        while self.worker.turn() {}
        let ended: Vec<_> = std::iter::from_fn(|| self.queue.poll()).collect();
        assert_eq!(ended.len(), descriptors.len());
        // The lap's phase alone may differ.
        (ended.into_iter())
            .map(|c| Completion { phase: 0, ..c })
            .collect()
    }

    /// The same as elements of batches, of `each` at most, which are published at once.
    fn run_batches(&mut self, moves: &[Move], each: usize) -> Vec<Completion> {
        let elements: Vec<_> = moves.iter().map(|m| self.descriptor(m)).collect();
        self.serve_batches(&elements, each, (0, LIST), (0, RECORDS))
    }

    /// The same of any descriptors, which are written to a place of alice's own, and lie where `list` says.
    fn serve_batches(
        &mut self,
        elements: &[Descriptor],
        each: usize,
        list: (u16, u64),
        records: (u16, u64),
    ) -> Vec<Completion> {
        let (lists, of_records) = if list.0 == 0 {
            (&self.alice, LIST)
        } else {
            (&self.bob, WIDE + list.1)
        };
        let bytes: Vec<u8> = elements.iter().flat_map(Descriptor::to_bytes).collect();
        lists.write(of_records, &bytes);
        let place = |(_, addr): (u16, u64), before: usize, bytes| addr + (before * bytes) as u64;
        let batches: Vec<_> = (elements.chunks(each).enumerate())
            .map(|(i, batch)| Descriptor {
                word0: Word0::new(list.0, records.0, false).0,
                src: place(list, i * each, Descriptor::SIZE),
                status_array: place(records, i * each, Completion::SIZE),
                size: batch.len() as u32,
                ..Descriptor::new(Opcode::Batch, Flags::NONE)
            })
            .collect();
        let ended = self.serve(&batches);
        let (records_of, at) = if records.0 == 0 {
            (&self.alice, RECORDS)
        } else {
            (&self.bob, WIDE + records.1)
        };
        let told = records_of.read(at, (elements.len() * Completion::SIZE) as u64);
        let told: Vec<_> = (told.as_chunks().0.iter())
            .map(|bytes| Completion {
                phase: 0,
                ..Completion::from_bytes(bytes)
            })
            .collect();
        let good = |c: &&Completion| c.status().is_some_and(Status::is_success);
        for (batch, told) in ended.iter().zip(told.chunks(each)) {
            let succeeded = told.iter().filter(good).count();
            assert_eq!(batch.bytes_completed as usize, succeeded);
            let expected = match succeeded == told.len() {
                true => Status::Success,
                false => Status::BatchFailed,
            };
            assert_eq!(batch.status(), Some(expected));
        }
        told
    }

    fn happen(&self, event: &Event) {
        match *event {
            Event::Nothing => {}
            Event::Revoke(slot) => {
                let held = &self.capabilities[slot - 1];
                if held.state() != crate::capability::State::Revoked {
                    self.bob.revoke(&self.alice, self.slots[slot]);
                }
            }
            Event::Toggle(page) => {
                self.bob.change_entry(VA + page * PAGE, |e| e ^ pte::RW);
                self.bob.space().invalidate_all();
            }
            Event::Log => self.bob.guest().memory().set_dirty_log(true),
        }
    }

    fn state(&self) -> (Vec<[Vec<u8>; 2]>, Vec<Traffic>) {
        let traffic = self.capabilities.iter().map(|c| c.traffic()).collect();
        let memory = [&self.alice, &self.bob]
            .map(|process| [process.read(VA, BYTES), process.read(WIDE, WIDE_BYTES)]);
        (memory.into(), traffic)
    }

    /// Which of bob's pages were logged since the last time.
    fn logged(&self) -> Option<Vec<u64>> {
        let memory = self.bob.guest().memory();
        let (start, bytes) = self.bob.guest().ram();
        memory
            .dirty_log()
            .is_on()
            .then(|| memory.take_dirty(start, bytes).unwrap())
    }
}

/// Few pages, and places around their ends and the smaller capability's.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..3_u64, 0..40_u64).prop_map(|(page, line)| page * PAGE + line * 64),
        2 => (1..PAGES, 0..400_u64).prop_map(|(page, at)| page * PAGE + at - 200),
        1 => (0..400_u64).prop_map(|at| PART.1 + at - 200),
        1 => 0..BYTES + 100,
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let slot = || prop_oneof![3 => Just(0_usize), 6 => Just(1), 3 => 2..WIDE_OF_BOB];
    let size = prop_oneof![4 => Just(64_u32), 2 => 1..300_u32, 1 => 3000..5000_u32];
    let small = ((slot(), offset()), (slot(), offset()), size).boxed();
    // As long as a chunk, and longer.
    let slot = || prop_oneof![Just(WIDE_OF_BOB), Just(WIDE_OF_ALICE)];
    let offset = || prop_oneof![0..2000_u64, 0..WIDE_BYTES + 100];
    let size = prop_oneof![1..10_000_u32, 60_000..66_000_u32];
    let wide = ((slot(), offset()), (slot(), offset()), size).boxed();
    let what = prop_oneof![
        3 => Just(Opcode::Memmove),
        1 => Just(Opcode::CrcGen),
        1 => Just(Opcode::Crc64),
        1 => Just(Opcode::Fill),
        1 => Just(Opcode::Compare),
        1 => Just(Opcode::CompareValue),
    ];
    let place = prop_oneof![4 => small, 1 => wide];
    let one = (what, place, 0..8_u8).prop_map(|(what, (from, to, size), which)| Move {
        what,
        from,
        // At one place both had the same at first.
        to: match what {
            Opcode::Compare if which > 2 => (to.0, from.1),
            _ => to,
        },
        size,
        strict: which == 0,
    });
    // Runs of neighbours, as a program would make them, among others.
    let run = (one, 1..12_u64).prop_map(|(first, count)| {
        let step = |n| Move {
            from: (first.from.0, first.from.1 + 64 * n),
            to: (first.to.0, first.to.1 + 64 * n),
            ..first.clone()
        };
        (0..count).map(step).collect::<Vec<_>>()
    });
    proptest::collection::vec(run, 1..6).prop_map(|runs| {
        let mut moves = runs.concat();
        moves.truncate(60);
        moves
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Nothing),
        1 => (1..SLOTS).prop_map(Event::Revoke),
        2 => (0..PAGES).prop_map(Event::Toggle),
        1 => Just(Event::Log),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_burst_does_what_each_transfer_would_do_alone(
        bursts in proptest::collection::vec((event(), moves()), 1..6),
    ) {
        let (mut together, mut alone) = (World::new(), World::new());
        for (event, moves) in &bursts {
            for world in [&together, &alone] {
                world.happen(event);
            }
            let ended = together.run(moves);
            let expected: Vec<_> = moves.iter().flat_map(|m| alone.run(std::slice::from_ref(m))).collect();
            prop_assert_eq!(ended, expected);
            prop_assert!(together.state() == alone.state(), "memory or counts differ");
            prop_assert_eq!(together.logged(), alone.logged());
        }
    }

    #[test]
    fn batches_do_what_each_transfer_would_do_alone(
        bursts in proptest::collection::vec((event(), moves()), 1..6),
        each in prop_oneof![1..8_usize, 8..61_usize],
    ) {
        let (mut together, mut alone) = (World::new(), World::new());
        for (event, moves) in &bursts {
            for world in [&together, &alone] {
                world.happen(event);
            }
            let ended = together.run_batches(moves, each);
            let expected: Vec<_> = moves.iter().flat_map(|m| alone.run(std::slice::from_ref(m))).collect();
            prop_assert_eq!(ended, expected);
            prop_assert!(together.state() == alone.state(), "memory or counts differ");
            prop_assert_eq!(together.logged(), alone.logged());
        }
    }
}

#[test]
fn what_is_taken_back_between_two_bursts_is_refused_in_the_second() {
    let mut world = World::new();
    let put = Move {
        what: Opcode::Memmove,
        from: (0, 0),
        to: (1, 0),
        size: 64,
        strict: false,
    };
    let burst = vec![put; 20];
    let good = |c: &Completion| c.status() == Some(Status::Success);
    assert!(world.run(&burst).iter().all(good));
    assert_eq!(world.capabilities[0].traffic().written, 20 * 64);
    world.happen(&Event::Revoke(1));
    let ended = world.run(&burst);
    let refused = |c: &Completion| c.status() == Some(Status::Revoked) && c.bytes_completed == 0;
    assert!(ended.iter().all(refused), "{ended:?}");
    assert_eq!(world.capabilities[0].traffic().written, 20 * 64);
}

#[test]
fn in_a_burst_each_is_told_that_its_region_is_gone() {
    let all = [
        Opcode::Fill,
        Opcode::Compare,
        Opcode::CompareValue,
        Opcode::CrcGen,
    ];
    for what in all {
        let mut world = World::new();
        let at = |slot| (slot, 4000);
        let (from, to) = match what {
            Opcode::Compare => (at(WIDE_OF_ALICE), at(WIDE_OF_BOB)),
            _ => (at(WIDE_OF_BOB), at(WIDE_OF_BOB)),
        };
        let burst = vec![
            Move {
                what,
                from,
                to,
                size: 20_000,
                strict: false,
            };
            4
        ];
        let good = |c: &Completion| c.status() == Some(Status::Success);
        assert!(world.run(&burst).iter().all(good), "{what:?}");
        // Where it lies is known now, so that what is lost is not looked at before it is met.
        world.bob.guest().file().set_len(0).unwrap();
        for completion in world.run(&burst) {
            assert_eq!(completion.status(), Some(Status::RemoteFault), "{what:?}");
            // A checksum is told all the same: another one may go on with it.
            assert_eq!(completion.op0 != 0, what == Opcode::CrcGen, "{what:?}");
        }
    }
}

/// A sum or a gather of two pieces of alice's own memory, by a list at an offset in a slot.
fn of_list(world: &World, opcode: Opcode, list: (usize, u64), to: u64) -> Descriptor {
    let (slot, src) = world.place(list);
    let sum = XorFields {
        count: 2,
        ..XorFields::default()
    };
    let gather = CopySgFields {
        src_count: 2,
        ..CopySgFields::default()
    };
    let place = Descriptor {
        word0: Word0::new(slot, 0, false).0,
        src,
        dst: VA + to,
        size: 100,
        ..Descriptor::new(opcode, Flags::NONE)
    };
    place.with_operands(match opcode {
        Opcode::Xor => sum.to_bytes(),
        _ => gather.to_bytes(),
    })
}

#[test]
fn lists_are_read_and_counted_in_a_burst_as_they_are_alone() {
    // In whole words and not, across a page's end, at the end of what the slot covers, behind it, and where each use counts.
    let lists = [
        (0, 512),
        (1, 512),
        (1, PAGE - 16),
        (2, 160),
        (2, PART.1 - 32),
        (2, PART.1 - 16),
        (4, 512),
    ];
    for (opcode, bytes) in [(Opcode::Xor, 0), (Opcode::CopySg, 50)] {
        for place @ (slot, offset) in lists {
            let [mut together, mut alone] = [World::new(), World::new()];
            for world in [&together, &alone] {
                let (owner, base) = match slot {
                    0 => (&world.alice, VA),
                    2 => (&world.bob, VA + PART.0),
                    _ => (&world.bob, VA),
                };
                // In one page, so that a gather finds both where the one before did.
                for (i, addr) in [VA + 5 * PAGE, VA + 5 * PAGE + 150].into_iter().enumerate() {
                    let segment = Segment {
                        addr,
                        bytes,
                        ..Segment::default()
                    };
                    owner.write(base + offset + 16 * i as u64, &segment.to_bytes());
                }
            }
            let all: Vec<_> = (0..6)
                .map(|i| of_list(&together, opcode, place, 8 * PAGE + 100 * i))
                .collect();
            let ended = together.serve(&all);
            let expected: Vec<_> = all.chunks(1).flat_map(|d| alone.serve(d)).collect();
            assert_eq!(ended, expected, "{opcode:?} {place:?}");
            assert!(together.state() == alone.state(), "{opcode:?} {place:?}");
            let is_inside = place != (2, PART.1 - 16);
            for completion in &ended {
                let succeeds = completion.status() == Some(Status::Success);
                assert_eq!(succeeds, is_inside, "{opcode:?} {place:?} {completion:?}");
            }
            if slot != 0 {
                let read = together.capabilities[slot - 1].traffic().read;
                let lists = if is_inside { 6 * 32 } else { 0 };
                assert_eq!(read, lists, "{opcode:?} {place:?}");
            }
        }
    }
    // Where one in bounds was read, one of which only what is looked at is.
    let mut world = World::new();
    let segment = Segment {
        addr: VA + 5 * PAGE,
        bytes: 50,
        ..Segment::default()
    };
    let gathers = [512, WIDE_BYTES - 64].map(|list| {
        for at in [list, list + 16] {
            world.bob.write(WIDE + at, &segment.to_bytes());
        }
        let fields = CopySgFields {
            src_count: 6,
            ..CopySgFields::default()
        };
        of_list(&world, Opcode::CopySg, (WIDE_OF_BOB, list), 8 * PAGE)
            .with_operands(fields.to_bytes())
    });
    let ended = world.serve(&gathers.repeat(3));
    let statuses = ended.iter().map(|c| c.status().unwrap());
    let expected = [Status::Success, Status::Bounds].repeat(3);
    assert_eq!(statuses.collect::<Vec<_>>(), expected);
}

/// A copy by one list: its segments' places, lengths and reserved fields, the other side's place, and how much longer than
/// all segments it is to be.
#[derive(Debug, Clone)]
struct Listed {
    scatters: bool,
    /// The list is bob's, in what alice holds of him.
    is_bobs: bool,
    segments: Vec<((usize, u64), u32, u16)>,
    whole: (usize, u64),
    more: i32,
}

/// Where bob has lists, in his large page: few copies go there.
const LISTS: u64 = WIDE_BYTES - PAGE;

impl Listed {
    /// Writes the list, and says what asks for the copy.
    fn descriptor(&self, world: &World, number: usize) -> Descriptor {
        let list: Vec<u8> = (self.segments.iter())
            .flat_map(|&(at, bytes, reserved14)| {
                let (slot, addr) = world.place(at);
                let segment = Segment {
                    addr,
                    bytes,
                    slot,
                    reserved14,
                };
                segment.to_bytes()
            })
            .collect();
        let offset = 256 * number as u64;
        let (list_slot, list) = if self.is_bobs {
            world.bob.write(WIDE + LISTS + offset, &list);
            (world.slots[WIDE_OF_BOB], LISTS + offset)
        } else {
            world.alice.write(LIST + offset, &list);
            (0, LIST + offset)
        };
        let all: i64 = (self.segments.iter())
            .map(|&(_, bytes, _)| i64::from(bytes))
            .sum();
        let (whole_slot, whole) = world.place(self.whole);
        let count = self.segments.len() as u16;
        let (slots, [src, dst], counts) = match self.scatters {
            true => ((whole_slot, list_slot), [whole, list], (0, count)),
            false => ((list_slot, whole_slot), [list, whole], (count, 0)),
        };
        let fields = CopySgFields {
            src_count: counts.0,
            dst_count: counts.1,
            ..CopySgFields::default()
        };
        Descriptor {
            word0: Word0::new(slots.0, slots.1, false).0,
            src,
            dst,
            size: (all + i64::from(self.more)).max(1) as u32,
            ..Descriptor::new(Opcode::CopySg, Flags::NONE)
        }
        .with_operands(fields.to_bytes())
    }
}

/// Lists as short as a line and longer, all of them bob's or none, most of them in order and in large pages. No byte of a source is one
/// of the destination: what those are afterwards is not specified.
fn lists(is_bobs: bool) -> impl Strategy<Value = Vec<Listed>> {
    let wide = || prop_oneof![Just(WIDE_OF_BOB), Just(WIDE_OF_ALICE)];
    let other = prop_oneof![40 => Just(None), 1 => (0..=WIDE_OF_ALICE).prop_map(Some)];
    let whole = (wide(), 100_000..102_000_u64);
    let bytes = prop_oneof![40 => 1..2000_u32, 8 => 8000..9000_u32, 1 => Just(0_u32)];
    let reserved = prop_oneof![99 => Just(0_u16), 1 => Just(1_u16)];
    let segments = proptest::collection::vec((other, 0..80_000_u64, bytes, reserved), 1..11);
    let more = prop_oneof![6 => Just(0), 1 => -1500..1500_i32];
    let one = (any::<bool>(), wide(), segments, whole, more).prop_map(
        move |(scatters, slot, segments, whole, more)| Listed {
            scatters,
            is_bobs,
            segments: (segments.into_iter())
                .map(|(other, at, bytes, reserved)| ((other.unwrap_or(slot), at), bytes, reserved))
                .collect(),
            whole,
            more,
        },
    );
    proptest::collection::vec(one, 2..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn a_burst_of_lists_does_what_each_would_do_alone(
        (is_bobs, bursts) in any::<bool>().prop_flat_map(|is_bobs| {
            (Just(is_bobs), proptest::collection::vec((event(), lists(is_bobs)), 1..4))
        }),
    ) {
        let (mut together, mut alone) = (World::new(), World::new());
        for (event, lists) in &bursts {
            for world in [&together, &alone] {
                world.happen(event);
            }
            let of = |world: &World| -> Vec<_> {
                lists.iter().enumerate().map(|(i, list)| list.descriptor(world, i)).collect()
            };
            let (all, single) = (of(&together), of(&alone));
            let ended = together.serve(&all);
            let expected: Vec<_> = single.chunks(1).flat_map(|d| alone.serve(d)).collect();
            prop_assert_eq!(ended, expected);
            let ((memory, traffic), (expected, due)) = (together.state(), alone.state());
            prop_assert!(memory == expected, "memory differs");
            for (counted, due) in traffic.iter().zip(&due) {
                prop_assert_eq!(counted.written, due.written);
                // What is left of a line of a list when a chunk ends is read once more in the next one.
                if !is_bobs {
                    prop_assert_eq!(counted.read, due.read);
                }
            }
            prop_assert_eq!(together.logged(), alone.logged());
        }
    }
}

#[test]
fn of_lists_in_a_burst_each_is_told_that_its_region_is_gone() {
    let mut world = World::new();
    let gather = |place: u64| Listed {
        scatters: false,
        is_bobs: false,
        segments: vec![((WIDE_OF_BOB, 0), 100, 0), ((WIDE_OF_BOB, 500), 200, 0)],
        whole: (WIDE_OF_ALICE, 1000 * place),
        more: 0,
    };
    let all: Vec<_> = (0..4)
        .map(|i| gather(i).descriptor(&world, i as usize))
        .collect();
    // Where everything lies is known afterwards, so that nothing of what is lost is looked at before it is copied.
    for completion in world.serve(&all) {
        assert_eq!(completion.status(), Some(Status::Success));
    }
    world.bob.guest().file().set_len(0).unwrap();
    let ended = world.serve(&all);
    for completion in &ended {
        assert_eq!(completion.status(), Some(Status::RemoteFault), "{ended:?}");
        assert_eq!((completion.bytes_completed, completion.op0), (100, 1));
        assert_eq!(completion, &ended[0]);
    }
}
