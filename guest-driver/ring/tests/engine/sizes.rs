//! The largest transfers of what sums up, gathers, protects, encrypts and compresses: 2 GiB, of pages that lie in few
//! frames, since it is the counting that is in question. Those of the plain operations are in the engine's own tests.

use byway_engine::capability::Key;
use byway_engine::testing::{Guest, PageSize, Process, Stepper, pte};
use byway_protocols::codec::{Compression, KEY_BYTES_MAX, KeyAlgorithm};
use byway_protocols::descriptor::TRANSFER_BYTES_MAX;
use byway_protocols::operands::{dif_destination_flags, dif_source_flags};
use byway_protocols::{Completion, Rights, Status};
use byway_ring::{
    Address, Block, Checked, Crc32c, Crc64, Done, Form, Mode, Request, RequestError, Side, Slot,
    Tags, Transformed, segment,
};

const LARGE: u64 = 2 << 20;
const BYTES: u64 = TRANSFER_BYTES_MAX as u64;
/// Where operands lie; each begins in the middle of a page, at another place of it.
const SRC: u64 = 0x10_0000_0000 + 5;
const DST: u64 = 0x20_0000_0000 + 1000;
/// Memory that is not the same frame again and again.
const PLAIN: u64 = 0x30_0000_0000;
const PLAIN_BYTES: u64 = 16 << 20;

struct World {
    alice: Process,
    stepper: Stepper,
    /// What the source holds, again and again from its first byte on.
    source: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let guest = Guest::new(1, 32 << 20);
        let alice = Process::new(&guest, 16);
        for base in [SRC, DST].map(|va| va / LARGE * LARGE) {
            let frame = alice.map(base, LARGE, PageSize::Large);
            // Room behind it for what comes out longer than it went in.
            for page in 1..BYTES / LARGE + 16 {
                alice.map_page(base + page * LARGE, frame, PageSize::Large, pte::USER);
            }
        }
        alice.map(PLAIN, PLAIN_BYTES, PageSize::Large);
        let noise: Vec<u8> = (0..LARGE).map(|i| (i * 31 + i / 253) as u8).collect();
        alice.write(SRC / LARGE * LARGE, &noise);
        let source = alice.read(SRC, LARGE);
        let stepper = Stepper::new();
        Self {
            alice,
            stepper,
            source,
        }
    }

    fn key(&self, algorithm: KeyAlgorithm) -> Slot {
        let bytes: [u8; KEY_BYTES_MAX] = std::array::from_fn(|i| i as u8);
        let mut padded = [0; KEY_BYTES_MAX];
        padded[..algorithm.key_bytes()].copy_from_slice(&bytes[..algorithm.key_bytes()]);
        let key = Key::new(algorithm, &padded).expect("halves that differ");
        Slot::new(self.alice.give_key(&self.alice, key, Rights::KEY)).expect("15 bits")
    }

    /// All of it, in the chunks of an engine that has nothing else to do.
    fn run(&mut self, request: Result<Request, RequestError>) -> Completion {
        let descriptor = request.expect("well-formed").into();
        let outcome = self
            .stepper
            .run(&self.alice, &descriptor, 256 << 10, |_, _| true);
        let done = outcome.completion;
        assert_eq!(
            done.status(),
            Some(Status::Success),
            "{descriptor:?}: {done:?}"
        );
        assert_eq!(done.bytes_completed, descriptor.size, "{descriptor:?}");
        done
    }

    /// The last bytes of what was written to the destination: later ones are where earlier ones were.
    fn tail(&self, written: u64, bytes: u64) -> Vec<u8> {
        assert!(bytes <= LARGE);
        self.alice.read(DST + written - bytes, bytes)
    }

    /// Bytes of the source, by their place in all of it.
    fn sources(&self, from: u64, bytes: u64) -> Vec<u8> {
        (from..from + bytes)
            .map(|at| self.source[(at % LARGE) as usize])
            .collect()
    }
}

/// The checksum of a reflected polynomial, of all 2 GiB: bit by bit of the first part, and from then on by
/// doubling, since appending zeros is a linear map of the register.
fn checksum(part: &[u8], polynomial: u64, ones: u64) -> u64 {
    let zero_bit = |register: u64| register >> 1 ^ polynomial & (register & 1).wrapping_neg();
    let apply = |map: &[u64; 64], value: u64| {
        (0..64)
            .filter(|bit| value >> bit & 1 == 1)
            .fold(0, |sum, bit| sum ^ map[bit])
    };
    let squared = |map: &[u64; 64]| std::array::from_fn(|bit| apply(map, map[bit]));
    let mut sum = ones
        ^ part.iter().fold(ones, |register, byte| {
            (0..8).fold(register ^ u64::from(*byte), |register, _| {
                zero_bit(register)
            })
        });
    // What as many zero bits do as the part has.
    let mut map: [u64; 64] = std::array::from_fn(|bit| zero_bit(1 << bit));
    let mut bits = 1;
    let mut bytes = part.len() as u64;
    while bits < 8 * bytes {
        map = squared(&map);
        bits *= 2;
    }
    assert_eq!(bits, 8 * bytes, "a power of two");
    while bytes < BYTES {
        sum ^= apply(&map, sum);
        map = squared(&map);
        bytes *= 2;
    }
    sum
}

#[test]
fn checksums_and_lists_of_two_gibibytes() {
    let mut world = World::new();
    let (src, dst) = (Address::own(SRC), Address::own(DST));
    let crc32c = checksum(&world.source, 0x82f6_3b78, u32::MAX.into());
    let found = world.run(Request::crc(src, BYTES, 0));
    assert_eq!(
        Crc32c::of(&found).map(|crc| u64::from(crc.value)),
        Ok(crc32c)
    );
    let found = world.run(Request::copy_crc(dst, src, BYTES, 0));
    assert_eq!(
        Crc32c::of(&found).map(|crc| u64::from(crc.value)),
        Ok(crc32c)
    );
    assert!(world.tail(BYTES, LARGE) == world.source);
    let crc64 = checksum(&world.source, 0x9a6c_9329_ac4b_c9b5, u64::MAX);
    let found = world.run(Request::crc64(src, BYTES, 0));
    assert_eq!(Crc64::of(&found).map(|crc| crc.value), Ok(crc64));

    world.alice.write(DST, &vec![0; LARGE as usize]);
    let half = BYTES / 2 + 1;
    let segments = [
        segment(src, half as u32),
        segment(Address::own(SRC + half), (BYTES - half) as u32),
    ];
    let list: Vec<u8> = segments.iter().flat_map(|s| s.to_bytes()).collect();
    world.alice.write(PLAIN, &list);
    let from = Side::List {
        at: Address::own(PLAIN),
        segments: &segments,
    };
    let done = world.run(Request::copy_sg(Side::Range(dst), from, BYTES));
    assert_eq!(Done::of(&done).map(|done| u64::from(done.bytes)), Ok(BYTES));
    assert!(world.tail(BYTES, LARGE) == world.source);
}

/// Protection information of a block, by the standard's polynomial.
fn information(block: &[u8], tags: &Tags, number: u32) -> Vec<u8> {
    let guard = block.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            (crc << 1) ^ (0x8bb7 & (crc >> 15).wrapping_neg())
        })
    });
    let reference = tags.ref_tag.wrapping_add(number);
    [
        &guard.to_be_bytes()[..],
        &tags.app_tag.to_be_bytes(),
        &reference.to_be_bytes(),
    ]
    .concat()
}

#[test]
fn protected_blocks_of_two_gibibytes() {
    const BLOCK: u64 = 4096;
    let mut world = World::new();
    let (src, dst) = (Address::own(SRC), Address::own(DST));
    let form = Form::plain(Block::B4096);
    let tags = Tags {
        app_tag: 0x1234,
        ref_tag: u32::MAX - 5,
        ..Tags::default()
    };
    let blocks = BYTES / BLOCK;
    let good = |done: &Completion| {
        let checked = Checked::of(done).expect("success");
        assert_eq!(checked.mismatch, None);
        checked
    };
    let done = world.run(Request::dif_insert(dst, src, BYTES, form, tags));
    let next = good(&done).tags.destination_ref_tag;
    assert_eq!(next, tags.ref_tag.wrapping_add(blocks as u32));
    let last: Vec<u8> = (blocks - 3..blocks)
        .flat_map(|number| {
            let block = world.sources(number * BLOCK, BLOCK);
            let information = information(&block, &tags, number as u32);
            [block, information].concat()
        })
        .collect();
    assert!(world.tail(blocks * (BLOCK + 8), last.len() as u64) == last);

    // Nothing of what stands in the source is right: it is checked in no respect.
    let any = Tags {
        flags: dif_source_flags::GUARD_CHECK_DISABLE | dif_source_flags::REF_TAG_CHECK_DISABLE,
        app_mask: u16::MAX,
        ..Tags::default()
    };
    let fitting = TRANSFER_BYTES_MAX as u64 / (BLOCK + 8);
    let bytes = fitting * (BLOCK + 8);
    let done = world.run(Request::dif_check(src, bytes, form, any));
    good(&done);
    let done = world.run(Request::dif_strip(dst, src, bytes, form, any));
    good(&done);
    let last = world.sources(bytes - BLOCK - 8, BLOCK);
    assert!(world.tail(fitting * BLOCK, BLOCK) == last);
    let done = world.run(Request::dif_update(dst, src, bytes, form, any, tags));
    good(&done);
    let fresh = information(&last, &tags, fitting as u32 - 1);
    assert!(world.tail(bytes, 8) == fresh);
    let done = world.run(Request::dif_generate(dst, bytes, form, tags));
    good(&done);
    let block = world.alice.read(DST + bytes - BLOCK - 8, BLOCK);
    assert!(world.tail(bytes, 8) == information(&block, &tags, fitting as u32 - 1));

    // The same information for all repetitions of the source.
    let fixed = Tags {
        flags: dif_destination_flags::REF_TAG_FIXED,
        ..tags
    };
    let apart = Address::own(PLAIN);
    let done = world.run(Request::dix_generate(apart, src, BYTES, form, fixed));
    good(&done);
    let last = information(&world.sources(BYTES - BLOCK, BLOCK), &tags, 0);
    assert!(world.alice.read(PLAIN + 8 * (blocks - 1), 8) == last);
    let expected = Tags {
        flags: dif_source_flags::REF_TAG_FIXED,
        ..tags
    };
    let done = world.run(Request::dix_verify(apart, src, BYTES, form, expected));
    good(&done);
}

#[test]
fn ciphertext_of_two_gibibytes() {
    const UNIT: u64 = 4096;
    let mut world = World::new();
    let (src, dst) = (Address::own(SRC), Address::own(DST));
    let key = world.key(KeyAlgorithm::AesXts256);
    let tweak = u128::MAX - 7;
    let mode = |tweak| Mode::Xts {
        unit_log2: 12,
        tweak,
    };
    let done = world.run(Request::encrypt(dst, BYTES, src, BYTES, key, &mode(tweak)));
    assert_eq!(
        Transformed::of(&done).map(|t| u64::from(t.produced)),
        Ok(BYTES)
    );
    // The last unit, by the tweak that its number gives, is what comes back.
    let last = tweak.wrapping_add(u128::from(BYTES / UNIT) - 1);
    let unit = Address::own(DST + BYTES - UNIT);
    let back = Address::own(PLAIN);
    world.run(Request::decrypt(back, UNIT, unit, UNIT, key, &mode(last)));
    assert!(world.alice.read(PLAIN, UNIT) == world.sources(BYTES - UNIT, UNIT));

    let key = world.key(KeyAlgorithm::AesCbc256);
    let mode = |iv| Mode::Cbc { iv };
    world.run(Request::encrypt(
        dst,
        BYTES,
        src,
        BYTES,
        key,
        &mode([7; 16]),
    ));
    // What stands before the last blocks is their initialisation vector.
    let iv = world.tail(BYTES - UNIT, 16).try_into().expect("a block");
    world.run(Request::decrypt(back, UNIT, unit, UNIT, key, &mode(iv)));
    assert!(world.alice.read(PLAIN, UNIT) == world.sources(BYTES - UNIT, UNIT));
}

#[test]
fn a_stream_of_two_gibibytes() {
    let mut world = World::new();
    let (src, dst, packed) = (Address::own(SRC), Address::own(DST), Address::own(PLAIN));
    world.alice.write(SRC, &vec![0; LARGE as usize]);
    world.alice.write(DST, &vec![1; LARGE as usize]);
    let compress = Request::compress(packed, PLAIN_BYTES, src, BYTES, Compression::Lz4Frame);
    let done = world.run(compress);
    let packed_bytes = u64::from(Transformed::of(&done).expect("success").produced);
    let decompress =
        |room| Request::decompress(dst, room, packed, packed_bytes, Compression::Lz4Frame);
    let done = world.run(decompress(BYTES));
    assert_eq!(
        Transformed::of(&done).map(|t| u64::from(t.produced)),
        Ok(BYTES)
    );
    assert!(world.tail(BYTES, LARGE).iter().all(|&byte| byte == 0));
}
