//! Descriptors that are refused before anything is looked up, in the order of SPEC
//! section 4.1.

use super::*;
use crate::ops::supported_opcodes;
use crate::ops::validate::SUPPORTED;
use byway_protocols::descriptor::{BATCH_COUNT_MAX, TRANSFER_BYTES_MAX};
use proptest::prelude::*;

/// A good descriptor of each operation.
fn good() -> Vec<Descriptor> {
    let sized = |opcode| Descriptor {
        size: 64,
        ..descriptor(opcode, 0, 0)
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
    ]
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
                Opcode::Batch => block,
                _ => 0,
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

#[test]
fn each_unused_bit_is_refused() {
    for d in good() {
        let opcode = Opcode::from_code(d.code()).unwrap();
        // Fields that the operation uses, by their offset; the rest must be 0.
        let (fields, slots): (&[usize], [bool; 2]) = match opcode {
            Opcode::Nop | Opcode::Drain => (&[], [false; 2]),
            Opcode::Batch => (&[8, 16, 32], [true; 2]),
            Opcode::Memmove => (&[16, 24, 32], [true; 2]),
            Opcode::Fill => (&[16, 24, 32], [false, true]),
            Opcode::Compare => (&[16, 24, 32], [true; 2]),
            Opcode::CompareValue => (&[16, 24, 32], [true, false]),
            other => panic!("{other:?}"),
        };
        for bit in 0..512 {
            let mut bytes = d.to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let status = status_of(&Descriptor::from_bytes(&bytes));
            let must_be_0 = match bit {
                0..15 => !slots[0],
                15..30 => !slots[1],
                30 => true,
                31..64 | 288..304 => continue,
                _ => {
                    let field = if bit / 8 / 4 == 8 { 32 } else { bit / 64 * 8 };
                    let field = if (304..320).contains(&bit) { 38 } else { field };
                    !fields.contains(&field)
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
    for d in &good()[3..] {
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
        for mut words in words {
            // Towards what exists: an operation, few flags, near addresses.
            words[0] &= 0x27_00f3_8000_7fff | 0xffff_ffff;
            words[2] = VA + words[2] % (9 * PAGE);
            words[3] = VA + words[3] % (9 * PAGE);
            words[4] &= 0x3fff;
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
