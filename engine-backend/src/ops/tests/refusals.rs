//! Descriptors that are refused before anything is looked up, in the order of SPEC
//! section 4.1.

use super::*;
use crate::ops::supported_opcodes;
use crate::ops::validate::SUPPORTED;
use byway_protocols::descriptor::{BATCH_COUNT_MAX, TRANSFER_BYTES_MAX};
use byway_protocols::operands::*;
use proptest::prelude::*;

/// A good descriptor of each operation.
fn good() -> Vec<Descriptor> {
    let sized = |opcode| Descriptor {
        size: 64,
        ..descriptor(opcode, 0, 0)
    };
    let transform = |opcode, word: u64| Descriptor {
        op0: word | 64 << 32,
        ..sized(opcode)
    };
    vec![
        descriptor(Opcode::Nop, 0, 0),
        descriptor(Opcode::Drain, 0, 0),
        Descriptor {
            size: 1,
            status_array: VA,
            src: VA,
            ..descriptor(Opcode::Batch, 0, 0)
        },
        sized(Opcode::Memmove),
        sized(Opcode::Fill),
        sized(Opcode::Compare),
        sized(Opcode::CompareValue),
        sized(Opcode::CrcGen),
        sized(Opcode::CopyCrc),
        sized(Opcode::Crc64),
        sized(Opcode::Dualcast),
        sized(Opcode::TranslationFetch),
        sized(Opcode::CacheFlush),
        sized(Opcode::InterDomainCacheFlush),
        sized(Opcode::Xor).with_operands(
            XorFields {
                count: 6,
                ..XorFields::default()
            }
            .to_bytes(),
        ),
        copy_sg_of_lists(),
        transform(Opcode::Compress, 3 << 16),
        transform(Opcode::Decompress, 3 << 16),
        transform(Opcode::Encrypt, 5),
        transform(Opcode::Decrypt, 5),
        // What follows does not take every size.
        copy_sg_of_rows(),
        create_delta(),
        apply_delta(),
        dif(Opcode::DifCheck, 520),
        dif(Opcode::DifInsert, 512),
        dif(Opcode::DifStrip, 520),
        dif(Opcode::DifUpdate, 520),
        dif(Opcode::DifGen, 520),
        dif(Opcode::DixGen, 512),
        dif(Opcode::DixVerify, 512),
        word(Opcode::Atomic64),
        word(Opcode::Signal),
        Descriptor {
            size: 1,
            ..descriptor(Opcode::Cancel, 0, 0)
        },
    ]
}

/// How many of [`good`] take any size, from which on.
const SIZED: std::ops::Range<usize> = 3..20;

fn copy_sg_of_lists() -> Descriptor {
    let fields = CopySgFields {
        src_count: 3,
        dst_count: 3,
        ..CopySgFields::default()
    };
    Descriptor {
        size: 64,
        ..descriptor(Opcode::CopySg, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

fn copy_sg_of_rows() -> Descriptor {
    let fields = CopySgFields {
        row_bytes: 24,
        ..CopySgFields::default()
    };
    Descriptor {
        size: 48,
        ..descriptor(Opcode::CopySg, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

fn create_delta() -> Descriptor {
    let fields = CreateDeltaFields {
        delta_bytes_max: 80,
        ..CreateDeltaFields::default()
    };
    Descriptor {
        size: 64,
        ..descriptor(Opcode::CreateDelta, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

fn apply_delta() -> Descriptor {
    let fields = ApplyDeltaFields {
        delta_bytes: 20,
        ..ApplyDeltaFields::default()
    };
    Descriptor {
        size: 64,
        ..descriptor(Opcode::ApplyDelta, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

fn dif(opcode: Opcode, size: u32) -> Descriptor {
    Descriptor {
        size,
        ..descriptor(opcode, 0, 0)
    }
}

fn word(opcode: Opcode) -> Descriptor {
    Descriptor {
        size: 8,
        ..descriptor(opcode, 0, 0)
    }
}

fn status_of(d: &Descriptor) -> Option<Status> {
    Execution::new(d).err()
}

#[test]
fn good_ones_are_good() {
    for d in good() {
        assert_eq!(status_of(&d), None, "{d:?}");
    }
}

#[test]
fn opcodes_are_those_offered() {
    let bits = supported_opcodes();
    for code in 0..=255_u8 {
        let offered = bits[usize::from(code) / 8] >> (code % 8) & 1 == 1;
        let listed = SUPPORTED.iter().any(|o| *o as u8 == code);
        assert_eq!(offered, listed);
        let refused = status_of(&Descriptor::with_code(code, Flags::NONE));
        assert_eq!(refused == Some(Status::BadOpcode), !offered, "{code:#x}");
    }
}

#[test]
fn flags_are_those_of_the_operation() {
    let common = Flags::FENCE.0
        | Flags::COMPLETION_VALID.0
        | Flags::REQUEST_COMPLETION.0
        | Flags::REQUEST_INTERRUPT.0;
    let block = Flags::BLOCK_ON_FAULT.0;
    let moves = block | Flags::CACHE_CONTROL.0 | Flags::STRICT_ORDER.0;
    for d in good() {
        let allowed = common
            | match Opcode::from_code(d.code()).unwrap() {
                Opcode::Memmove => moves,
                Opcode::Fill => moves | Flags::FILL_16.0,
                Opcode::Compare | Opcode::CompareValue => block | Flags::CHECK_RESULT.0,
                Opcode::CopyCrc => moves,
                Opcode::Compress
                | Opcode::Decompress
                | Opcode::Encrypt
                | Opcode::Decrypt
                | Opcode::Dualcast
                | Opcode::CopySg
                | Opcode::CacheFlush
                | Opcode::InterDomainCacheFlush => block | Flags::CACHE_CONTROL.0,
                Opcode::Nop | Opcode::Drain | Opcode::Cancel => 0,
                _ => block,
            };
        for bit in 0..24 {
            let flag = Flags(1 << bit);
            let refused = status_of(&with_flags(d, flag)) == Some(Status::BadFlags);
            assert_eq!(
                refused,
                allowed & flag.0 == 0,
                "{flag:?} of {:#x}",
                d.code()
            );
        }
    }
}

/// Bits of `op0` to `op2` that the operation uses: flipping one may spoil the descriptor,
/// but does not make it one with a reserved bit set.
fn operand_bits(d: &Descriptor, opcode: Opcode) -> [u64; 3] {
    const ALL: u64 = u64::MAX;
    const LOW: u64 = u32::MAX as u64;
    // Flags of the source in byte 40, of the destination in byte 41, of both in byte 42.
    let (checks, makes) = (0x0f_00ff, 0x0f_9000);
    match opcode {
        Opcode::CrcGen | Opcode::CopyCrc | Opcode::ApplyDelta => [LOW, 0, 0],
        Opcode::Crc64 | Opcode::Signal => [ALL, 0, 0],
        Opcode::TranslationFetch => [1, 0, 0],
        Opcode::CreateDelta => [ALL, LOW, 0x7fff << 32],
        Opcode::Dualcast => [ALL, 0, 0x7fff << 32],
        Opcode::Xor => [0xffff, 0, 0],
        // A length of rows makes counts reserved bits, and no counts make strides.
        Opcode::CopySg if *d == copy_sg_of_rows() => [LOW << 32, ALL, ALL],
        Opcode::CopySg => [LOW, 0, 0],
        Opcode::DifCheck | Opcode::DifStrip | Opcode::DixVerify => [checks, ALL, 0],
        Opcode::DifInsert | Opcode::DifGen | Opcode::DixGen => [makes, 0, ALL],
        Opcode::DifUpdate => [checks | 0xf8 << 8, ALL, ALL],
        Opcode::Atomic64 => [ALL, 0, 3],
        Opcode::Cancel => [ALL, 1, 0],
        _ => [0; 3],
    }
}

#[test]
fn each_unused_bit_is_refused() {
    for d in good() {
        let opcode = Opcode::from_code(d.code()).unwrap();
        // Fields that the operation uses, by their offset; the rest must be 0.
        let (fields, slots): (&[usize], [bool; 2]) = match opcode {
            Opcode::Nop | Opcode::Drain => (&[], [false; 2]),
            Opcode::Cancel => (&[32], [false; 2]),
            Opcode::Batch => (&[8, 16, 32], [true; 2]),
            Opcode::Memmove => (&[16, 24, 32], [true; 2]),
            Opcode::Fill => (&[16, 24, 32], [false, true]),
            Opcode::Compare => (&[16, 24, 32], [true; 2]),
            Opcode::CompareValue => (&[16, 24, 32], [true, false]),
            Opcode::Compress | Opcode::Decompress => (&[16, 24, 32, 40], [true; 2]),
            Opcode::Encrypt | Opcode::Decrypt => (&[16, 24, 32, 40, 48, 56], [true; 2]),
            Opcode::CrcGen | Opcode::Crc64 | Opcode::TranslationFetch | Opcode::DifCheck => {
                (&[16, 32], [true, false])
            }
            Opcode::CacheFlush
            | Opcode::InterDomainCacheFlush
            | Opcode::DifGen
            | Opcode::Atomic64
            | Opcode::Signal => (&[24, 32], [false, true]),
            _ => (&[16, 24, 32], [true; 2]),
        };
        let operands = operand_bits(&d, opcode);
        for bit in 0..512 {
            let mut bytes = d.to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let status = status_of(&Descriptor::from_bytes(&bytes));
            let must_be_0 = match bit {
                0..15 => !slots[0],
                15..30 => !slots[1],
                30 => true,
                31..64 | 288..304 => continue,
                // The transformations' word has parts of its own.
                320..352 if fields.contains(&40) => continue,
                _ => {
                    let field = if bit / 8 / 4 == 8 { 32 } else { bit / 64 * 8 };
                    let field = if (304..320).contains(&bit) { 38 } else { field };
                    !(fields.contains(&field)
                        || bit >= 320 && operands[bit / 64 - 5] >> (bit % 64) & 1 == 1)
                }
            };
            assert_eq!(
                status == Some(Status::ReservedNotZero),
                must_be_0,
                "bit {bit} of {opcode:?}: {status:?}"
            );
        }
    }
}

#[test]
fn optional_fields_count_with_their_flag_only() {
    let fill = good()[4];
    let wide = Descriptor { op0: 5, ..fill };
    assert_eq!(status_of(&wide), Some(Status::ReservedNotZero));
    assert_eq!(status_of(&with_flags(wide, Flags::FILL_16)), None);
    for compare in &good()[5..7] {
        let checked = with_flags(*compare, Flags::CHECK_RESULT);
        for (op0, plain_ok, checked_ok) in [(0, true, true), (1, false, true), (2, false, false)] {
            let ok = |d: &Descriptor| status_of(&Descriptor { op0, ..*d }).is_none();
            assert_eq!((ok(compare), ok(&checked)), (plain_ok, checked_ok), "{op0}");
        }
    }
}

#[test]
fn sizes_counts_handles_and_alignments() {
    for d in good() {
        let handle = Descriptor { int_handle: 1, ..d };
        assert_eq!(status_of(&handle), Some(Status::BadInterruptHandle));
    }
    for d in &good()[SIZED] {
        let sized = |size| status_of(&Descriptor { size, ..*d });
        assert_eq!(sized(0), Some(Status::BadSize));
        assert_eq!(sized(TRANSFER_BYTES_MAX), None);
        assert_eq!(sized(TRANSFER_BYTES_MAX + 1), Some(Status::BadSize));
    }
    let batch = good()[2];
    let counted = |size| status_of(&Descriptor { size, ..batch });
    assert_eq!(counted(0), Some(Status::BadCount));
    assert_eq!(counted(BATCH_COUNT_MAX), None);
    assert_eq!(counted(BATCH_COUNT_MAX + 1), Some(Status::BadCount));
    let list = |src| status_of(&Descriptor { src, ..batch });
    assert_eq!(list(VA + 32), Some(Status::ListAlignment));
    let array = |status_array| {
        status_of(&Descriptor {
            status_array,
            ..batch
        })
    };
    assert_eq!(array(VA + 16), Some(Status::AddressAlignment));
    assert_eq!(array(VA + 32), None);
    assert_eq!(array(0), Some(Status::AddressAlignment));
    let in_slot = Descriptor {
        word0: Word0::new(0, 3, false).0,
        status_array: 0,
        ..batch
    };
    assert_eq!(status_of(&in_slot), None);
}

#[test]
fn sizes_of_what_has_a_grain() {
    let with_size = |d: Descriptor, size| status_of(&Descriptor { size, ..d });
    for d in &good()[SIZED.end..] {
        if d.code() == Opcode::Cancel as u8 {
            let sizes = [0, 1, 32768, 32769].map(|size| with_size(*d, size));
            let count = Some(Status::BadCount);
            assert_eq!(sizes, [count, None, None, count]);
            continue;
        }
        assert_eq!(with_size(*d, 0), Some(Status::BadSize), "{d:?}");
        assert_eq!(with_size(*d, d.size + 1), Some(Status::BadSize), "{d:?}");
        let above = TRANSFER_BYTES_MAX + d.size;
        assert_eq!(with_size(*d, above), Some(Status::BadSize), "{d:?}");
    }
    // At the bound, and one grain above, of what comes in rows and blocks.
    let moving = [
        Opcode::CopySg,
        Opcode::DifCheck,
        Opcode::DifInsert,
        Opcode::DifStrip,
    ];
    let moving = [
        &moving[..],
        &[
            Opcode::DifUpdate,
            Opcode::DifGen,
            Opcode::DixGen,
            Opcode::DixVerify,
        ],
    ];
    for d in &good()[SIZED.end..] {
        if !moving
            .concat()
            .iter()
            .any(|&opcode| opcode as u8 == d.code())
        {
            continue;
        }
        let grain = match d.code() {
            code if code == Opcode::CopySg as u8 => {
                CopySgFields::from_bytes(&d.operands()).row_bytes
            }
            _ => d.size,
        };
        let most = TRANSFER_BYTES_MAX / grain * grain;
        assert_eq!(with_size(*d, most), None, "{d:?}");
        assert_eq!(with_size(*d, most + grain), Some(Status::BadSize), "{d:?}");
    }
    for d in [create_delta(), apply_delta()] {
        assert_eq!(with_size(d, DELTA_BYTES_MAX), None);
        assert_eq!(with_size(d, DELTA_BYTES_MAX + 8), Some(Status::BadSize));
        let misplaced = Descriptor { dst: 4, ..d };
        assert_eq!(status_of(&misplaced), Some(Status::AddressAlignment));
    }
    for bytes in [0, 15, DELTA_BYTES_MAX / 8 * 10 + 10, u32::MAX] {
        let create = CreateDeltaFields {
            delta_bytes_max: bytes,
            ..CreateDeltaFields::default()
        };
        let d = create_delta().with_operands(create.to_bytes());
        assert_eq!(status_of(&d), Some(Status::BadDeltaSize), "{bytes}");
        let apply = ApplyDeltaFields {
            delta_bytes: bytes,
            ..ApplyDeltaFields::default()
        };
        let d = apply_delta().with_operands(apply.to_bytes());
        assert_eq!(status_of(&d), Some(Status::BadDeltaSize), "{bytes}");
    }
    // Every size of block, with and without information behind it.
    for (flags, block) in [(0, 512), (1, 520), (2, 4096), (3, 4104)] {
        let fields = DifFields {
            flags,
            ..DifFields::default()
        };
        for (opcode, unit) in [
            (Opcode::DifCheck, block + 8),
            (Opcode::DifInsert, block),
            (Opcode::DifGen, block + 8),
            (Opcode::DixVerify, block),
        ] {
            let d = dif(opcode, 0).with_operands(fields.to_bytes());
            assert_eq!(with_size(d, 3 * unit), None);
            assert_eq!(with_size(d, 3 * unit + 8), Some(Status::BadSize));
        }
    }
}

#[test]
fn counts_and_places_of_lists() {
    for (count, status) in [
        (0, Some(Status::BadCount)),
        (1, Some(Status::BadCount)),
        (2, None),
        (16, None),
        (17, Some(Status::BadCount)),
    ] {
        let fields = XorFields {
            count,
            ..XorFields::default()
        };
        let d = Descriptor {
            size: 1,
            ..descriptor(Opcode::Xor, 0, 0)
        }
        .with_operands(fields.to_bytes());
        assert_eq!(status_of(&d), status, "{count}");
    }
    for (src_count, dst_count, status) in [
        (0, 0, Some(Status::BadCount)),
        (SEGMENTS_MAX, 0, None),
        (0, SEGMENTS_MAX, None),
        (SEGMENTS_MAX + 1, 0, Some(Status::BadCount)),
        (0, u16::MAX, Some(Status::BadCount)),
    ] {
        let fields = CopySgFields {
            src_count,
            dst_count,
            ..CopySgFields::default()
        };
        let d = copy_sg_of_lists().with_operands(fields.to_bytes());
        assert_eq!(status_of(&d), status, "{src_count} {dst_count}");
        // A side without a list may lie anywhere.
        let odd = Descriptor { dst: 8, ..d };
        let list = status.or((dst_count != 0).then_some(Status::ListAlignment));
        assert_eq!(status_of(&odd), list, "{src_count} {dst_count}");
    }
    let dualcast = DualcastFields {
        second: 0x5_0010,
        ..DualcastFields::default()
    };
    let d = good()[10].with_operands(dualcast.to_bytes());
    assert_eq!(status_of(&d), Some(Status::BadDualcast));
    assert_eq!(status_of(&Descriptor { dst: 0x10, ..d }), None);
    for opcode in [Opcode::Atomic64, Opcode::Signal] {
        let odd = Descriptor {
            dst: 4,
            ..word(opcode)
        };
        assert_eq!(status_of(&odd), Some(Status::AddressAlignment));
    }
}

#[test]
fn the_first_failure_in_order_is_reported() {
    // Everything wrong at once; mended one by one.
    let mut d = Descriptor {
        word0: Word0::RESERVED,
        int_handle: 1,
        size: 0,
        ..Descriptor::with_code(0xff, Flags(1 << 23))
    };
    assert_eq!(status_of(&d), Some(Status::BadOpcode));
    d.flags_opcode = d.flags_opcode & Flags::MASK | (Opcode::Memmove as u32) << 24;
    assert_eq!(status_of(&d), Some(Status::BadFlags));
    d.flags_opcode &= !Flags::MASK;
    assert_eq!(status_of(&d), Some(Status::ReservedNotZero));
    d.word0 = 0;
    assert_eq!(status_of(&d), Some(Status::BadInterruptHandle));
    d.int_handle = 0;
    assert_eq!(status_of(&d), Some(Status::BadSize));
    d.size = 1;
    assert_eq!(status_of(&d), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the bytes, a status comes out, and nothing but mapped memory is touched.
    #[test]
    fn random_descriptors_end(words in proptest::collection::vec(any::<[u64; 8]>(), 1..64)) {
        let mut rig = Rig::new();
        let before = fill_noise(&rig.bob, 4);
        fill_noise(&rig.alice, 8);
        // Slot 1: to be read only.
        rig.bob.give(&rig.alice, VA, 4 * PAGE, byway_protocols::Rights::READ);
        for mut words in words {
            // Towards what exists: an operation, few flags, slots and near addresses.
            let opcode = SUPPORTED[words[6] as usize % SUPPORTED.len()] as u64;
            words[0] = opcode << 56 | words[0] & 0x0000_2111_8001_8001;
            words[1] = if opcode == Opcode::Batch as u64 { VA + words[1] % 64 * 32 } else { 0 };
            for i in [2, 3, 5] {
                words[i] = (VA + words[i] % (9 * PAGE)) & !(words[7] >> 60);
            }
            words[4] &= 0x3fff;
            match words[7] % 4 {
                0 => words[5..].fill(0),
                1 => words[6..].fill(0),
                2 => words[5] &= 0x000f_0003,
                _ => words[7] &= 0xffff,
            }
            let mut bytes = [0; 64];
            for (i, word) in words.iter().enumerate() {
                bytes[8 * i..8 * i + 8].copy_from_slice(&word.to_le_bytes());
            }
            let c = rig.complete(&Descriptor::from_bytes(&bytes));
            prop_assert!(c.status().is_some());
        }
        prop_assert!(rig.bob.read(VA, 4 * PAGE) == before);
    }
}
