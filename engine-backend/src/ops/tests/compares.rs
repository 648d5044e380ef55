//! COMPARE and COMPARE_VALUE.

use super::*;
use byway_protocols::Rights;
use proptest::prelude::*;

const PAGES: u64 = 40;
const HALF: u64 = PAGES * PAGE / 2;

fn compare(size: u64) -> Descriptor {
    Descriptor {
        src: VA,
        dst: VA + HALF,
        size: size as u32,
        ..descriptor(Opcode::Compare, 0, 0)
    }
}

/// A rig in which both halves of alice's arena are alike.
fn twins() -> (Rig, Vec<u8>) {
    let rig = Rig::new();
    rig.alice.map_scattered(VA, PAGES * PAGE);
    let bytes = noise(HALF as usize, 1);
    rig.alice.write(VA, &bytes);
    rig.alice.write(VA + HALF, &bytes);
    (rig, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_first_difference_is_found(
        size in prop_oneof![1..300_u64, 1..HALF],
        flips in proptest::collection::vec(0..HALF, 0..3),
        expected in proptest::option::of(any::<bool>()),
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let (mut rig, bytes) = twins();
        rig.chunk_bytes = chunk;
        for &at in &flips {
            rig.alice.write(VA + HALF + at, &[bytes[at as usize] ^ 0x40]);
        }
        let mut d = compare(size);
        if let Some(expected) = expected {
            d = with_flags(Descriptor { op0: expected.into(), ..d }, Flags::CHECK_RESULT);
        }
        let first = flips.iter().copied().filter(|&at| at < size).min();
        let differs = first.is_some();
        let status = match expected {
            Some(expected) if expected != differs => Status::SuccessPredicate,
            _ => Status::Success,
        };
        let c = rig.complete(&d);
        prop_assert_eq!(short_form(&c), (status, false, first.unwrap_or(size) as u32));
        prop_assert_eq!(c.result, u8::from(differs));
        prop_assert_eq!(c.fault_addr, 0);
    }

    #[test]
    fn a_value_is_compared_with_its_phase_kept(
        size in prop_oneof![1..300_u64, 1..HALF],
        start in 0..16_u64,
        value: u64,
        flip in proptest::option::of(0..HALF),
        expected in proptest::option::of(any::<bool>()),
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let mut rig = Rig::new();
        rig.chunk_bytes = chunk;
        rig.alice.map_scattered(VA, PAGES * PAGE);
        let mut bytes: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(size as usize).collect();
        let flip = flip.filter(|&at| at < size);
        if let Some(at) = flip {
            bytes[at as usize] ^= 1;
        }
        rig.alice.write(VA + start, &bytes);
        let mut d = Descriptor {
            src: VA + start,
            dst: value,
            size: size as u32,
            ..descriptor(Opcode::InterDomainCompareValue, 0, 0)
        };
        if let Some(expected) = expected {
            d = with_flags(Descriptor { op0: expected.into(), ..d }, Flags::CHECK_RESULT);
        }
        let status = match expected {
            Some(expected) if expected != flip.is_some() => Status::SuccessPredicate,
            _ => Status::Success,
        };
        let c = rig.complete(&d);
        prop_assert_eq!(short_form(&c), (status, false, flip.unwrap_or(size) as u32));
        prop_assert_eq!(c.result, u8::from(flip.is_some()));
    }
}

#[test]
fn faults_tell_how_far_it_was_equal() {
    let (mut rig, _) = twins();
    rig.alice
        .change_entry(VA + HALF + 3 * PAGE, |entry| entry & !pte::P);
    let c = rig.complete(&compare(HALF));
    assert_eq!(
        short_form(&c),
        (Status::Stage1NotPresent, false, 3 * PAGE as u32)
    );
    assert_eq!(c.fault_addr, VA + HALF + 3 * PAGE);
    // A difference before the fault is the answer.
    rig.alice.write(VA + 100, &[0; 8]);
    rig.alice.write(VA + HALF + 100, &[1; 8]);
    let c = rig.complete(&compare(HALF));
    assert_eq!(short_form(&c), (Status::Success, false, 100));
    assert_eq!(c.result, 1);
}

#[test]
fn a_comparison_reads_only() {
    let (mut rig, _) = twins();
    let slot = rig.alice.give(&rig.alice, VA + HALF, HALF, Rights::READ);
    let d = Descriptor {
        dst: 0,
        word0: Word0::new(0, slot, false).0,
        ..compare(HALF)
    };
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::Success, false, HALF as u32));
    let (_, flags) = reveal(&rig.alice, VA, PAGES as usize);
    assert!(flags.iter().all(|f| *f == (true, false)), "{flags:?}");
}
