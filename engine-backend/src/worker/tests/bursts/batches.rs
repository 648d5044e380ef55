//! Elements that are like the one before but for their addresses, and batches whose own memory lies where that of the one before
//! did: each must end as it would alone.

use super::*;

/// Elements of a batch here.
const COUNT: usize = 8;
/// Where the elements lie that differ from the others.
const ODD: [usize; 4] = [0, 1, 4, COUNT - 1];
/// Where bob has a list and its records, behind what is moved.
const LIST_OF_BOB: u64 = 128 << 10;
const RECORDS_OF_BOB: u64 = 160 << 10;

fn copy(from: (usize, u64), to: (usize, u64), size: u32) -> Move {
    Move {
        what: Opcode::Memmove,
        from,
        to,
        size,
        strict: false,
    }
}

/// Copies of `size` bytes, one after the other, between the large pages.
fn alike(world: &World, size: u32) -> Vec<Descriptor> {
    (0..COUNT as u64)
        .map(|i| {
            let at = i * u64::from(size);
            let (from, to) = ((WIDE_OF_ALICE, at), (WIDE_OF_BOB, at + 64));
            world.descriptor(&copy(from, to, size))
        })
        .collect()
}

/// Makes a descriptor differ from others.
type Differ = Box<dyn Fn(&mut Descriptor)>;

/// What may be different, in words that are otherwise the same, and in those that are 0.
fn differences(world: &World) -> Vec<(&'static str, Differ)> {
    let [all, read_only] = [1, 3].map(|slot| world.slots[slot]);
    vec![
        ("nothing", Box::new(|_| ())),
        ("a status array", Box::new(|d| d.status_array = 64)),
        ("op0", Box::new(|d| d.op0 = 1)),
        ("op1", Box::new(|d| d.op1 = 1 << 63)),
        ("op2", Box::new(|d| d.op2 = 1 << 32)),
        ("an interrupt handle", Box::new(|d| d.int_handle = 1)),
        ("reserved bytes", Box::new(|d| d.reserved38 = 1 << 15)),
        ("a reserved bit", Box::new(|d| d.word0 |= Word0::RESERVED)),
        ("a flag", Box::new(|d| d.flags_opcode |= 1 << 23)),
        ("a fence", Box::new(|d| d.flags_opcode |= Flags::FENCE.0)),
        (
            "an order",
            Box::new(|d| d.flags_opcode |= Flags::STRICT_ORDER.0),
        ),
        (
            "a slot for both",
            Box::new(move |d| d.word0 = Word0::new(all, all, false).0),
        ),
        (
            "no right to write",
            Box::new(move |d| d.word0 = Word0::new(0, read_only, false).0),
        ),
        ("a size", Box::new(|d| d.size -= 1)),
        ("no size", Box::new(|d| d.size = 0)),
        ("a place behind", Box::new(|d| d.dst += WIDE_BYTES)),
        ("a source nowhere", Box::new(|d| d.src -= 1 << 40)),
        ("an operation", Box::new(|d| d.flags_opcode ^= 7 << 24)),
    ]
}

#[test]
fn one_that_differs_from_those_around_it_ends_as_it_would_alone() {
    for size in [64, 4096, 20_000] {
        let count = differences(&World::new()).len();
        for (number, odd) in (0..count).flat_map(|number| ODD.map(|odd| (number, odd))) {
            let [mut together, mut alone] = [World::new(), World::new()];
            let mut elements = alike(&together, size);
            let (what, differ) = &differences(&together)[number];
            differ(&mut elements[odd]);
            for round in 0..2 {
                let told = together.serve_batches(&elements, COUNT / 2, (0, LIST), (0, RECORDS));
                let expected: Vec<_> = (elements.iter())
                    .flat_map(|d| alone.serve(std::slice::from_ref(d)))
                    .collect();
                assert_eq!(told, expected, "{what} at {odd} of {size} bytes, {round}");
                assert!(together.state() == alone.state(), "{what} at {odd}: memory");
            }
        }
    }
}

#[test]
fn a_fence_stops_those_that_are_alike_behind_a_failure() {
    let mut world = World::new();
    let mut elements = alike(&world, 64);
    elements[2].size = 0;
    elements[6].flags_opcode |= Flags::FENCE.0;
    let told = world.serve_batches(&elements, COUNT, (0, LIST), (0, RECORDS));
    let statuses: Vec<_> = told.iter().map(|c| c.status().unwrap()).collect();
    let mut expected = [Status::Success; COUNT];
    expected[2] = Status::BadSize;
    expected[6..].fill(Status::NotAttempted);
    assert_eq!(statuses, expected);
    let copied = world.capabilities[WIDE_OF_BOB - 1].traffic().written;
    assert_eq!(copied, 5 * 64);
}

#[test]
fn the_memory_of_batches_is_counted_in_a_burst() {
    let mut world = World::new();
    let slot = world.slots[WIDE_OF_BOB];
    for size in [64, 4096] {
        let before = world.capabilities[WIDE_OF_BOB - 1].traffic();
        let elements: Vec<_> = (0..4).flat_map(|_| alike(&world, size)).collect();
        let told = world.serve_batches(
            &elements,
            COUNT,
            (slot, LIST_OF_BOB),
            (slot, RECORDS_OF_BOB),
        );
        let success = success_of(size);
        assert!(told.iter().all(|c| *c == success), "{told:?}");
        let after = world.capabilities[WIDE_OF_BOB - 1].traffic();
        let count = elements.len() as u64;
        assert_eq!(after.read - before.read, count * 64);
        assert_eq!(
            after.written - before.written,
            count * (32 + u64::from(size))
        );
    }
}

fn success_of(size: u32) -> Completion {
    Completion {
        status: Status::Success as u8,
        bytes_completed: size,
        ..Completion::default()
    }
}

/// All but the first `keep` bytes of bob's large page is taken from under him.
fn cut_bobs_page(world: &World, keep: u64) {
    let guest = world.bob.guest();
    let entry = guest.read_u64(world.bob.entry_of(WIDE).unwrap());
    let frame = entry & pte::FRAME & !(2 * MIB - 1);
    let at = frame - guest.ram().0;
    guest.file().set_len(at + keep).unwrap();
}

#[test]
fn among_those_that_are_alike_each_behind_a_lost_page_is_told() {
    let mut world = World::new();
    let elements: Vec<_> = alike(&world, 4096)
        .into_iter()
        .map(|d| Descriptor {
            word0: Word0::new(world.slots[WIDE_OF_BOB], 0, false).0,
            src: d.dst - 64,
            dst: d.src,
            ..d
        })
        .collect();
    // Where all lies is known before: what is lost are bytes, not tables.
    let told = world.serve_batches(&elements, COUNT, (0, LIST), (0, RECORDS));
    assert!(told.iter().all(|c| *c == success_of(4096)), "{told:?}");
    cut_bobs_page(&world, 4 * 4096);
    let before = world.capabilities[WIDE_OF_BOB - 1].traffic().read;
    let told = world.serve_batches(&elements, COUNT, (0, LIST), (0, RECORDS));
    let statuses: Vec<_> = told.iter().map(|c| c.status().unwrap()).collect();
    let mut expected = [Status::Success; COUNT];
    expected[4..].fill(Status::RemoteFault);
    assert_eq!(statuses, expected);
    assert_eq!(told[4].bytes_completed, 4096);
    // What is gone was read all the same, as zeroes.
    let after = world.capabilities[WIDE_OF_BOB - 1].traffic().read;
    assert_eq!(after - before, COUNT as u64 * 4096);
}

#[test]
fn what_is_not_aligned_is_refused_also_where_it_is_known_from_before() {
    let mut world = World::new();
    // It begins at no multiple of 32.
    let (slot, _) = world.place((2, 0));
    let elements = alike(&world, 64);
    let bytes: Vec<u8> = elements.iter().flat_map(Descriptor::to_bytes).collect();
    world.alice.write(LIST, &bytes);
    world.bob.write(VA + PART.0, &bytes);
    let good = Descriptor {
        src: LIST,
        status_array: RECORDS,
        size: COUNT as u32,
        ..Descriptor::new(Opcode::Batch, Flags::NONE)
    };
    let sum = world.descriptor(&Move {
        what: Opcode::CrcGen,
        ..copy((2, 0), (0, 1), 64)
    });
    let fill = world.descriptor(&Move {
        what: Opcode::Fill,
        ..copy((0, 0), (2, 2048), 64)
    });
    let of_list = Descriptor {
        word0: Word0::new(slot, 0, false).0,
        src: 0,
        ..good
    };
    let of_records = Descriptor {
        word0: Word0::new(0, slot, false).0,
        status_array: 2048,
        ..good
    };
    // What comes before a batch of each kind has left a window there, and one for what is copied.
    let copies = world.descriptor(&copy((WIDE_OF_ALICE, 0), (WIDE_OF_BOB, 64), 64));
    for (before, batch, expected) in [
        (&sum, &of_list, Status::ListAlignment),
        (&fill, &of_records, Status::AddressAlignment),
    ] {
        let ended = world.serve(&[copies, good, *before, *batch]);
        let statuses: Vec<_> = ended.iter().map(|c| c.status().unwrap()).collect();
        let done = Status::Success;
        assert_eq!(statuses, [done, done, done, expected]);
    }
}
