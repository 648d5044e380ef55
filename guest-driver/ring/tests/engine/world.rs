//! Two processes of two guests, a worker's tools, keys; and places to draw operands from.

use std::cell::RefCell;
use std::sync::LazyLock;

use byway_engine::capability::Key;
use byway_engine::testing::{Guest, PageSize, Process, Stepper, pte};
use byway_protocols::codec::{KEY_BYTES_MAX, KeyAlgorithm};
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Status, Word0};
use byway_ring::{Address, Request, RequestError, Slot};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// A page.
pub const PAGE: u64 = 4096;
/// Pages of each process's data.
pub const PAGES: u64 = 48;
/// Bytes of it.
pub const DATA: u64 = PAGES * PAGE;
/// Where processes have their data.
pub const VA: u64 = 0x7000_0000_0000;
/// Alice's slots: two disjoint parts of bob's data, nothing, keys.
pub const BOB: u16 = 1;
pub const BOB_END: u16 = 2;
pub const EMPTY: u16 = 9;
pub const XTS: u16 = 3;
pub const CBC: u16 = 4;
pub const GCM: u16 = 5;
pub const CHANNEL: u16 = 6;
/// Where the second of bob's parts begins.
const PART: u64 = DATA * 3 / 4;

/// The two, and what carries descriptors out.
pub struct World {
    pub alice: Process,
    pub bob: Process,
    stepper: Stepper,
}

impl World {
    fn new() -> Self {
        let guests = [1, 2].map(|id| Guest::new(id, 4 << 20));
        let [alice, bob] = guests.map(|guest| Process::new(&guest, 16));
        for process in [&alice, &bob] {
            process.map(VA, DATA / 2, PageSize::Small);
            process.map_scattered(VA + DATA / 2, DATA / 2);
        }
        assert_eq!(bob.give(&alice, VA, PART, Rights::ALL), BOB);
        let end = bob.give(&alice, VA + PART, DATA - PART, Rights::ALL);
        assert_eq!(end, BOB_END);
        for (algorithm, slot) in [
            (KeyAlgorithm::AesXts256, XTS),
            (KeyAlgorithm::AesCbc128, CBC),
            (KeyAlgorithm::AesGcm256, GCM),
            (KeyAlgorithm::Channel256, CHANNEL),
        ] {
            let mut bytes = [0; KEY_BYTES_MAX];
            for (index, byte) in bytes[..algorithm.key_bytes()].iter_mut().enumerate() {
                *byte = index as u8 ^ slot as u8;
            }
            let key = Key::new(algorithm, &bytes).expect("a key with halves that differ");
            assert_eq!(alice.give_key(&alice, key, Rights::KEY), slot);
        }
        Self {
            alice,
            bob,
            stepper: Stepper::new(),
        }
    }

    /// Runs a test in this thread's world; guests are dear to make.
    pub fn with<T>(test: impl FnOnce(&mut Self) -> T) -> T {
        thread_local! {
            static WORLD: RefCell<World> = RefCell::new(World::new());
        }
        WORLD.with_borrow_mut(test)
    }

    /// Has all pages, holding noise.
    pub fn reset(&self, seed: u64) {
        for process in [&self.alice, &self.bob] {
            for page in 0..PAGES {
                process.change_entry(VA + page * PAGE, |entry| entry | pte::USER);
            }
            process.write(VA, &noise(seed.rotate_left(process.guest().id() * 8)));
        }
    }

    /// Takes pages of alice's away.
    pub fn take(&self, pages: &[u64]) {
        for page in pages {
            let va = VA + page % PAGES * PAGE;
            self.alice.change_entry(va, |entry| entry & !pte::P);
        }
    }

    /// Gives the page of an address back.
    pub fn mend(&self, va: u64) {
        self.alice.change_entry(va, |entry| entry | pte::P);
    }

    /// Writes where an operand lies, if all of that is data.
    pub fn write(&self, at: Address, bytes: &[u8]) {
        let (process, va, room) = match at.slot.number() {
            0 => (&self.alice, at.addr, (VA + DATA).saturating_sub(at.addr)),
            BOB => (
                &self.bob,
                VA.wrapping_add(at.addr),
                PART.saturating_sub(at.addr),
            ),
            BOB_END => {
                let va = (VA + PART).wrapping_add(at.addr);
                (&self.bob, va, (DATA - PART).saturating_sub(at.addr))
            }
            _ => return,
        };
        if va >= VA && bytes.len() as u64 <= room {
            process.write(va, bytes);
        }
    }

    /// Reads alice's data.
    pub fn read(&self, va: u64, bytes: u64) -> Vec<u8> {
        self.alice.read(va, bytes)
    }

    /// Has alice submit it. Its chunks are small, so that it has many.
    pub fn run(&mut self, descriptor: &Descriptor) -> Completion {
        let outcome = self.stepper.run(&self.alice, descriptor, 4096, |_, _| true);
        outcome.completion
    }

    /// What builder and engine say of the same operands: both take them and mean the same
    /// descriptor, or both refuse them for the same reason.
    pub fn agree(
        &mut self,
        raw: Option<Descriptor>,
        built: Result<Request, RequestError>,
    ) -> Result<(), TestCaseError> {
        let Some(raw) = raw else {
            // No descriptor can say that.
            prop_assert!(built.is_err());
            return Ok(());
        };
        let status = self.run(&raw).status().expect("a status of the ABI");
        match built {
            Ok(request) => {
                prop_assert_eq!(Descriptor::from(request), raw);
                prop_assert!(!is_malformed(status), "taken, but answered {}", status);
            }
            // The engine looks at rights and bounds before it compares operands.
            Err(error) => prop_assert!(
                status == error.status()
                    || (is_late(error) && is_authority(status))
                    || (is_of_a_segment(error) && !status.is_success()),
                "refused since {}, but answered {}",
                error,
                status
            ),
        }
        Ok(())
    }
}

/// The class of statuses that a builder is there to prevent, and that of room.
pub fn is_malformed(status: Status) -> bool {
    matches!(status as u8, 0x10..=0x1c | 0x51)
}

fn is_authority(status: Status) -> bool {
    matches!(status as u8, 0x48..=0x4b)
}

/// What an engine can find only once it has looked operands up.
fn is_late(error: RequestError) -> bool {
    use RequestError as E;
    !matches!(
        error,
        E::Size(_) | E::Dualcast { .. } | E::Flag(_) | E::Count(_) | E::Sources(_)
    )
}

/// Segments are looked at one by one: the engine may have met something else before.
fn is_of_a_segment(error: RequestError) -> bool {
    use RequestError as E;
    matches!(
        error,
        E::EmptySegment(_) | E::SegmentFields(_) | E::ShortList { .. } | E::Wraps(_)
    )
}

/// Bytes for this seed: always the same noise, begun elsewhere.
fn noise(seed: u64) -> Vec<u8> {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        (0..DATA / 8)
            .flat_map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x.to_le_bytes()
            })
            .collect()
    });
    let (end, beginning) = NOISE.split_at((seed % DATA) as usize);
    [beginning, end].concat()
}

/// A descriptor by hand.
pub fn raw(opcode: Opcode, src: Address, dst: Address, size: u64) -> Option<Descriptor> {
    Some(Descriptor {
        word0: Word0::new(src.slot.number(), dst.slot.number(), false).0,
        src: src.addr,
        dst: dst.addr,
        size: u32::try_from(size).ok()?,
        ..Descriptor::new(opcode, Flags::NONE)
    })
}

/// No operand.
pub const NONE: Address = Address::own(0);

pub fn at(slot: u16, addr: u64) -> Address {
    let slot = Slot::new(slot).expect("15 bits");
    Address { slot, addr }
}

/// An operand: mostly where there is data, often where something else is.
pub fn place() -> impl Strategy<Value = Address> {
    let offset = prop_oneof![
        4 => (0..PAGES).prop_map(|page| page * PAGE),
        4 => (0..DATA / 16).prop_map(|line| line * 16),
        2 => 0..DATA,
        1 => Just(DATA - 1),
    ];
    let slot = prop_oneof![
        8 => Just(0),
        5 => Just(BOB),
        2 => Just(BOB_END),
        1 => Just(EMPTY),
    ];
    let own = |slot, offset| if slot == 0 { VA + offset } else { offset };
    prop_oneof![
        30 => (slot, offset).prop_map(move |(slot, offset)| at(slot, own(slot, offset))),
        // The end of all addresses.
        1 => (0..3_u16, 0..600_u64).prop_map(|(slot, back)| at(slot, u64::MAX - back)),
    ]
}

/// A place beside another, so that operands meet.
pub fn beside(other: Address) -> impl Strategy<Value = Address> {
    let near = prop_oneof![
        Just(0_i64),
        -700_i64..700,
        prop::sample::select(&[-4096_i64, 4096, 8192, -8, 8, 512, 16384][..]),
    ]
    .prop_map(move |by| Address {
        addr: other.addr.wrapping_add_signed(by),
        ..other
    });
    prop_oneof![2 => place(), 1 => near]
}

/// Two places.
pub fn two() -> impl Strategy<Value = (Address, Address)> {
    place().prop_flat_map(|first| (Just(first), beside(first)))
}

/// Nothing, the limit, and what a word of 32 bits cuts.
const ODD_SIZES: [u64; 6] = [
    0,
    1 << 31,
    (1 << 31) + 1,
    u32::MAX as u64,
    1 << 32,
    (1 << 32) + 8,
];

/// A size, often a multiple of `unit`.
pub fn size(unit: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (1..20_u64).prop_map(move |n| n * unit),
        3 => 1..3000_u64,
        1 => prop::sample::select(&ODD_SIZES[..]),
    ]
}

/// How many cases: `BYWAY_OPS_CASES`, or enough to have met what there is to meet.
pub fn cases() -> ProptestConfig {
    let cases = std::env::var("BYWAY_OPS_CASES").ok();
    ProptestConfig {
        cases: cases.and_then(|n| n.parse().ok()).unwrap_or(256),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
