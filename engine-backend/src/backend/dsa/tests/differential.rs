//! Random streams of descriptors on both backends.

use std::cell::RefCell;

use byway_protocols::codec::{CodecWord, Compression};
use byway_protocols::operands::{
    ApplyDeltaFields, AtomicFields, CopySgFields, CrcFields, CreateDeltaFields, DifFields,
    DualcastFields, Segment, XorFields, dif_source_flags,
};
use byway_protocols::{Descriptor, Flags, Opcode};
use proptest::prelude::*;

use super::world::{KEY, LIST, PAGE, PAGES, RECORDS, SLOT, VA, World, descriptor, noise};
use super::*;
use crate::backend::{Backend, Software};
use crate::ops::budget::CHUNK_BYTES;
use crate::testing::pte;

/// Bytes of a process's data.
const DATA: u64 = PAGES * PAGE;

/// An operand: whose memory, and where in it.
#[derive(Debug, Clone, Copy)]
struct Place {
    of_bob: bool,
    offset: u64,
}

impl Place {
    fn slot(self) -> u16 {
        if self.of_bob { SLOT } else { 0 }
    }
    fn addr(self) -> u64 {
        if self.of_bob {
            self.offset
        } else {
            VA + self.offset
        }
    }
}

fn place() -> impl Strategy<Value = Place> {
    // Page starts are where most goes wrong.
    let offset = prop_oneof![
        2 => 0..DATA,
        1 => (0..PAGES).prop_map(|page| page * PAGE),
        1 => Just(DATA - 1),
    ];
    (any::<bool>(), offset).prop_map(|(of_bob, offset)| Place { of_bob, offset })
}

fn size() -> impl Strategy<Value = u32> {
    prop_oneof![
        2 => 1_u32..300,
        4 => 4000_u32..40_000,
        2 => 40_000_u32..110_000,
        1 => Just(0),
    ]
}

/// Those of which the device does its share, and some that software does in between.
const OPERATIONS: [Opcode; 13] = [
    Opcode::Memmove,
    Opcode::Fill,
    Opcode::Compare,
    Opcode::CompareValue,
    Opcode::Dualcast,
    Opcode::CrcGen,
    Opcode::CopyCrc,
    Opcode::CopySg,
    Opcode::Compress,
    Opcode::Encrypt,
    Opcode::Crc64,
    Opcode::CacheFlush,
    Opcode::Signal,
];

/// Those that software does on either backend, between what the device does: they find its bytes, and it finds theirs.
const OTHERS: [Opcode; 12] = [
    Opcode::Xor,
    Opcode::CreateDelta,
    Opcode::ApplyDelta,
    Opcode::DifCheck,
    Opcode::DifInsert,
    Opcode::DifStrip,
    Opcode::DifUpdate,
    Opcode::DifGen,
    Opcode::DixGen,
    Opcode::Decrypt,
    Opcode::TranslationFetch,
    Opcode::Atomic64,
];

/// Where the list of XOR's sources lies: behind those of batches.
const SOURCES: u64 = LIST + PAGE;

/// What a stream is made of.
#[derive(Debug, Clone)]
enum Item {
    One(Descriptor),
    Batch(Vec<Descriptor>),
}

fn one() -> impl Strategy<Value = Descriptor> {
    let flags = prop_oneof![
        3 => Just(0),
        1 => Just(Flags::CACHE_CONTROL.0),
        1 => Just(Flags::STRICT_ORDER.0),
        1 => Just(Flags::FILL_16.0),
        1 => Just(Flags::FENCE.0),
    ];
    let operation = prop_oneof![
        3 => proptest::sample::select(&OPERATIONS[..]),
        1 => proptest::sample::select(&OTHERS[..]),
    ];
    (
        operation,
        place(),
        place(),
        size(),
        flags,
        any::<[u64; 2]>(),
        0..8_u8,
    )
        .prop_map(|(opcode, src, dst, size, flags, patterns, shape)| {
            // Often one is the other, or a little beside it.
            let dst = match shape {
                0 => src,
                1 => Place {
                    offset: (src.offset + 5000).min(DATA - 1),
                    ..src
                },
                2 => Place {
                    offset: src.offset.saturating_sub(5000),
                    ..src
                },
                _ => dst,
            };
            let place = |slots| Descriptor {
                src: src.addr(),
                dst: dst.addr(),
                size,
                ..descriptor(opcode, slots)
            };
            let d = match opcode {
                Opcode::Fill => Descriptor {
                    src: patterns[0],
                    op0: if flags == Flags::FILL_16.0 {
                        patterns[1]
                    } else {
                        0
                    },
                    ..place((0, dst.slot()))
                },
                Opcode::CompareValue => Descriptor {
                    // Sometimes what a fill of the stream may have written.
                    dst: if shape == 3 { 0 } else { patterns[0] },
                    ..place((src.slot(), 0))
                },
                Opcode::Dualcast => {
                    // A page's offset in common, most of the time.
                    let second = if shape == 3 {
                        dst.addr() ^ 8
                    } else {
                        VA + (dst.offset % PAGE) + (src.offset + 9 * PAGE) / PAGE * PAGE % DATA
                    };
                    let fields = DualcastFields {
                        second,
                        ..DualcastFields::default()
                    };
                    place((src.slot(), dst.slot())).with_operands(fields.to_bytes())
                }
                Opcode::CrcGen | Opcode::CopyCrc => {
                    let fields = CrcFields {
                        seed: patterns[0] as u32,
                        ..CrcFields::default()
                    };
                    let d = if opcode == Opcode::CopyCrc {
                        place((src.slot(), dst.slot()))
                    } else {
                        Descriptor {
                            dst: 0,
                            ..place((src.slot(), 0))
                        }
                    };
                    d.with_operands(fields.to_bytes())
                }
                Opcode::CopySg => {
                    // Rows of a page or so, nearer to each other or farther than they are long.
                    let row = 3000 + patterns[0] as u32 % 2000;
                    let fields = CopySgFields {
                        row_bytes: row,
                        src_stride: patterns[0] >> 32 & 0x1fff,
                        dst_stride: patterns[1] & 0x1fff,
                        ..CopySgFields::default()
                    };
                    let rows = Descriptor {
                        size: size / row * row,
                        ..place((src.slot(), dst.slot()))
                    };
                    rows.with_operands(fields.to_bytes())
                }
                // They copy in and out through the backend.
                Opcode::Compress => Descriptor {
                    op0: CodecWord::compression(Compression::Lz4Frame, size + 4096).0,
                    ..place((src.slot(), dst.slot()))
                },
                Opcode::Encrypt => Descriptor {
                    op0: CodecWord::key(KEY, size.max(1)).with_unit(12).0,
                    op1: patterns[0],
                    ..place((src.slot(), dst.slot()))
                },
                Opcode::Crc64 => Descriptor {
                    dst: 0,
                    op0: patterns[0],
                    ..place((src.slot(), 0))
                },
                Opcode::CacheFlush => Descriptor {
                    src: 0,
                    ..place((0, dst.slot()))
                },
                Opcode::Signal => Descriptor {
                    src: 0,
                    dst: dst.addr() & !7,
                    size: 8,
                    op0: patterns[0],
                    ..place((0, dst.slot()))
                },
                Opcode::Memmove | Opcode::Compare => place((src.slot(), dst.slot())),
                _ => other(opcode, (src, dst), size, patterns),
            };
            Descriptor {
                flags_opcode: d.flags_opcode | flags,
                ..d
            }
        })
}

/// One of [`OTHERS`], in the grain and at the alignment that it asks for.
fn other(opcode: Opcode, (src, dst): (Place, Place), size: u32, patterns: [u64; 2]) -> Descriptor {
    let place = |slots, size| Descriptor {
        src: src.addr(),
        dst: dst.addr(),
        size,
        ..descriptor(opcode, slots)
    };
    let both = (src.slot(), dst.slot());
    let words = |d: Descriptor| Descriptor {
        src: d.src & !7,
        dst: d.dst & !7,
        ..d
    };
    let blocks = |unit: u32| size / unit * unit;
    match opcode {
        Opcode::Xor => {
            let fields = XorFields {
                count: 2 + patterns[0] as u16 % 2,
                ..XorFields::default()
            };
            let sum = Descriptor {
                src: SOURCES,
                ..place((0, dst.slot()), size)
            };
            sum.with_operands(fields.to_bytes())
        }
        Opcode::CreateDelta => {
            let fields = CreateDeltaFields {
                delta: VA + patterns[0] % DATA,
                delta_bytes_max: 10 * (patterns[1] as u32 % 3000 + 1),
                ..CreateDeltaFields::default()
            };
            let fields = CreateDeltaFields {
                delta: fields.delta & !7,
                ..fields
            };
            words(place(both, blocks(8))).with_operands(fields.to_bytes())
        }
        Opcode::ApplyDelta => {
            let fields = ApplyDeltaFields {
                delta_bytes: 10 * (patterns[1] as u32 % 300 + 1),
                ..ApplyDeltaFields::default()
            };
            words(place(both, blocks(8))).with_operands(fields.to_bytes())
        }
        Opcode::DifCheck | Opcode::DifInsert | Opcode::DifStrip | Opcode::DifUpdate => {
            // Blocks of noise have no information that is right.
            let checks = opcode != Opcode::DifInsert;
            let fields = DifFields {
                source_flags: if checks && !patterns[0].is_multiple_of(4) {
                    dif_source_flags::GUARD_CHECK_DISABLE | dif_source_flags::REF_TAG_CHECK_DISABLE
                } else {
                    0
                },
                source_app_mask: if checks { u16::MAX } else { 0 },
                ..DifFields::default()
            };
            let size = blocks(if checks { 520 } else { 512 });
            let d = if opcode == Opcode::DifCheck {
                Descriptor {
                    dst: 0,
                    ..place((src.slot(), 0), size)
                }
            } else {
                place(both, size)
            };
            d.with_operands(fields.to_bytes())
        }
        Opcode::DifGen => Descriptor {
            src: 0,
            ..place((0, dst.slot()), blocks(520))
        },
        Opcode::DixGen => place(both, blocks(512)),
        Opcode::Decrypt => Descriptor {
            op0: CodecWord::key(KEY, size.max(1)).with_unit(12).0,
            op1: patterns[0],
            ..place(both, size)
        },
        Opcode::TranslationFetch => Descriptor {
            dst: 0,
            op0: patterns[0] & 1,
            ..place((src.slot(), 0), size)
        },
        _ => {
            let fields = AtomicFields {
                operand: patterns[0],
                ..AtomicFields::default()
            };
            let d = Descriptor {
                src: 0,
                ..place((0, dst.slot()), 8)
            };
            words(d).with_operands(fields.to_bytes())
        }
    }
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        5 => one().prop_map(Item::One),
        1 => prop::collection::vec(one(), 1..12).prop_map(Item::Batch),
    ]
}

/// Pages that are missing, read-only or the kernel's.
fn spoilt() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
    let bits = prop_oneof![Just(pte::P), Just(pte::RW), Just(pte::US)];
    prop::collection::vec((any::<bool>(), 0..PAGES, bits), 0..4)
}

fn run<B: Backend>(world: &mut World<B>, stream: &[Item], chunk_bytes: u64) -> Vec<[u8; 32]> {
    for (at, (slot, addr)) in (0..).zip([(0, VA + 3), (SLOT, 7 * PAGE), (0, VA + 9 * PAGE + 1)]) {
        let source = Segment {
            addr,
            slot,
            ..Segment::default()
        };
        world.alice.write(SOURCES + 16 * at, &source.to_bytes());
    }
    let completions = stream.iter().map(|item| match item {
        Item::One(d) => world.run(d, chunk_bytes),
        Item::Batch(elements) => {
            for (i, element) in elements.iter().enumerate() {
                world.alice.write(LIST + 64 * i as u64, &element.to_bytes());
            }
            let batch = Descriptor {
                src: LIST,
                status_array: RECORDS,
                size: elements.len() as u32,
                ..descriptor(Opcode::Batch, (0, 0))
            };
            world.run(&batch, chunk_bytes)
        }
    });
    completions.map(|c| c.to_bytes()).collect()
}

thread_local! {
    /// Guests are dear to make; each case makes their memory and tables anew.
    static WORLDS: RefCell<(World<Software>, World<Dsa<Model>>)> = RefCell::new((
        World::new(Software::new()),
        World::new(calm(Entry::Enqcmd)),
    ));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_backends_give_the_same_bytes_and_completions(
        seed in 1_u64..1 << 40,
        stream in prop::collection::vec(item(), 1..8),
        spoilt in spoilt(),
        entry in proptest::sample::select(&ENTRIES[..]),
        breaks in prop::bool::weighted(0.3),
        chunk_bytes in prop_oneof![Just(CHUNK_BYTES), 4096..CHUNK_BYTES],
    ) {
        WORLDS.with_borrow_mut(|(software, device)| {
            let plan = if breaks { Plan::breaking(seed) } else { Plan::busy(seed) };
            device.backend = dsa(features(entry), plan);
            let noise = noise(seed);
            software.reset(&noise, &spoilt);
            device.reset(&noise, &spoilt);
            let want = run(software, &stream, chunk_bytes);
            let got = run(device, &stream, chunk_bytes);
            prop_assert_eq!(got, want);
            let (got, want) = (device.state(), software.state());
            prop_assert!(got.1 == want.1, "A and D bits differ");
            let first = got.0.iter().zip(&want.0).position(|(a, b)| a != b);
            prop_assert_eq!(first, None, "the first byte that differs");
            if let Some(portal) = device.backend.portal() {
                prop_assert_eq!((portal.seen().malformed, portal.seen().overruns), (0, 0));
            }
            Ok(())
        })?;
    }
}
