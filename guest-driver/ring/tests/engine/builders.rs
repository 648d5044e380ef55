//! One property for each builder: see [`World::agree`].

use byway_protocols::codec::{CodecWord, Compression};
use byway_protocols::operands::*;
use byway_protocols::{Completion, Descriptor, Flags, Opcode};
use byway_ring::{
    Address, Atomic, Block, Form, Intent, Mode, Options, Pattern, Request, RequestError, Rows,
    Side, Slot, Tags,
};
use proptest::prelude::*;

use super::common;
use super::world::*;

/// With these bytes 40-63.
fn with(raw: Option<Descriptor>, fields: [u8; 24]) -> Option<Descriptor> {
    raw.map(|descriptor| descriptor.with_operands(fields))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn memmove((src, dst) in two(), bytes in size(64), strict in any::<bool>(), cached in any::<bool>()) {
        let mut built = Request::memmove(dst, src, bytes);
        let mut d = raw(Opcode::Memmove, src, dst, bytes);
        if strict {
            built = built.and_then(Request::strictly_ordered);
            d = d.map(|d| Descriptor { flags_opcode: d.flags_opcode | Flags::STRICT_ORDER.0, ..d });
        }
        if cached {
            built = built.and_then(Request::cached);
            d = d.map(|d| Descriptor { flags_opcode: d.flags_opcode | Flags::CACHE_CONTROL.0, ..d });
        }
        World::with(|world| world.agree(d, built))?;
    }

    #[test]
    fn fill(dst in place(), bytes in size(8), pattern in any::<[u8; 16]>(), wide in any::<bool>()) {
        let halves = u128::from_le_bytes(pattern);
        let (pattern, op0) = if wide {
            (Pattern::Bytes16(pattern), (halves >> 64) as u64)
        } else {
            (Pattern::Bytes8((halves as u64).to_le_bytes()), 0)
        };
        let d = raw(Opcode::Fill, NONE, dst, bytes).map(|d| Descriptor {
            src: halves as u64,
            op0,
            flags_opcode: d.flags_opcode | if wide { Flags::FILL_16.0 } else { 0 },
            ..d
        });
        World::with(|world| world.agree(d, Request::fill(dst, pattern, bytes)))?;
    }

    #[test]
    fn compare((first, second) in two(), bytes in size(64), expected in any::<Option<bool>>()) {
        let mut built = Request::compare(first, second, bytes);
        let mut d = raw(Opcode::Compare, first, second, bytes);
        if let Some(expected) = expected {
            built = built.and_then(|r| r.expecting_difference(expected));
            d = d.map(|d| Descriptor {
                op0: u64::from(expected),
                flags_opcode: d.flags_opcode | Flags::CHECK_RESULT.0,
                ..d
            });
        }
        World::with(|world| world.agree(d, built))?;
    }

    #[test]
    fn compare_value(src in place(), bytes in size(64), pattern in any::<[u8; 8]>()) {
        let d = raw(Opcode::CompareValue, src, NONE, bytes)
            .map(|d| Descriptor { dst: u64::from_le_bytes(pattern), ..d });
        World::with(|world| world.agree(d, Request::compare_value(src, pattern, bytes)))?;
    }

    #[test]
    fn batch(
        (list, statuses) in two(),
        count in prop_oneof![8 => 1..40_usize, 1 => Just(0), 1 => 1020..1030_usize],
        align in any::<bool>(),
    ) {
        let mut list = list;
        if align {
            list.addr &= !63;
        }
        let built = Request::batch(list, statuses, count);
        let d = raw(Opcode::Batch, list, statuses, count as u64)
            .map(|d| Descriptor { status_array: d.dst, dst: 0, ..d });
        World::with(|world| {
            world.reset(7);
            // What stands there is no descriptor: elements end as they may.
            let overlaps = built == Err(RequestError::Overlap);
            if overlaps {
                // Allowed by the engine, at the submitter's own risk (SPEC section 4.3).
                return Ok(());
            }
            world.agree(d, built)
        })?;
    }

    #[test]
    fn create_delta(
        (first, record) in two(),
        second in place(),
        bytes in prop_oneof![9 => size(8), 1 => (0..3_u64).prop_map(|n| (512 << 10) - 8 + 8 * n)],
        room in prop_oneof![
            6 => (1..300_u64).prop_map(|n| n * 10),
            2 => 0..400_u64,
            1 => prop::sample::select(&[655_360_u64, 655_370, 1 << 32, (1 << 32) + 10][..]),
        ],
    ) {
        let fields = CreateDeltaFields {
            delta: record.addr,
            delta_bytes_max: room as u32,
            delta_slot: record.slot.number(),
            ..CreateDeltaFields::default()
        };
        let d = with(raw(Opcode::CreateDelta, first, second, bytes), fields.to_bytes())
            .filter(|_| room <= u64::from(u32::MAX));
        let built = Request::create_delta(record, room, first, second, bytes);
        World::with(|world| world.agree(d, built))?;
    }

    #[test]
    fn apply_delta(
        (dst, record) in two(),
        bytes in prop_oneof![9 => size(8), 1 => Just((512 << 10) + 8)],
        record_bytes in prop_oneof![
            6 => (1..300_u64).prop_map(|n| n * 10),
            2 => 0..400_u64,
            1 => Just(655_370),
        ],
    ) {
        let fields = ApplyDeltaFields {
            delta_bytes: record_bytes as u32,
            ..ApplyDeltaFields::default()
        };
        let d = with(raw(Opcode::ApplyDelta, record, dst, bytes), fields.to_bytes());
        let built = Request::apply_delta(dst, bytes, record, record_bytes);
        World::with(|world| world.agree(d, built))?;
    }

    #[test]
    fn dualcast((src, first) in two(), second in place(), bytes in size(64), agrees in any::<bool>()) {
        let mut second = second;
        if agrees {
            second.addr = second.addr & !0xfff | first.addr & 0xfff;
        }
        let fields = DualcastFields {
            second: second.addr,
            second_slot: second.slot.number(),
            ..DualcastFields::default()
        };
        let d = with(raw(Opcode::Dualcast, src, first, bytes), fields.to_bytes());
        World::with(|world| world.agree(d, Request::dualcast(first, second, src, bytes)))?;
    }

    #[test]
    fn fetch_and_flush(range in place(), bytes in size(64), write in any::<bool>()) {
        let intent = if write { Intent::Write } else { Intent::Read };
        let d = raw(Opcode::TranslationFetch, range, NONE, bytes)
            .map(|d| Descriptor { op0: u64::from(write), ..d });
        World::with(|world| world.agree(d, Request::fetch(range, bytes, intent)))?;
        let d = raw(Opcode::CacheFlush, NONE, range, bytes);
        World::with(|world| world.agree(d, Request::flush(range, bytes)))?;
    }

    #[test]
    fn checksums((src, dst) in two(), bytes in size(64), seed in any::<u64>()) {
        let fields = CrcFields { seed: seed as u32, ..CrcFields::default() }.to_bytes();
        let d = with(raw(Opcode::CrcGen, src, NONE, bytes), fields);
        World::with(|world| world.agree(d, Request::crc(src, bytes, seed as u32)))?;
        let d = with(raw(Opcode::CopyCrc, src, dst, bytes), fields);
        World::with(|world| world.agree(d, Request::copy_crc(dst, src, bytes, seed as u32)))?;
        let d = raw(Opcode::Crc64, src, NONE, bytes).map(|d| Descriptor { op0: seed, ..d });
        World::with(|world| world.agree(d, Request::crc64(src, bytes, seed)))?;
    }

    #[test]
    fn protection(
        (src, dst) in two(),
        kind in 0..7_usize,
        block in prop::sample::select(&[Block::B512, Block::B520, Block::B4096, Block::B4104][..]),
        inverted in any::<(bool, bool)>(),
        blocks in 0..6_u64,
        odd in prop_oneof![4 => Just(0_u64), 1 => 1..20_u64],
        expected in tags(),
        made in tags(),
        clean in prop::bool::weighted(0.8),
    ) {
        const KINDS: [(Opcode, u8, bool, u8); 7] = [
            (Opcode::DifCheck, 8, true, 0),
            (Opcode::DifInsert, 0, false, 0x90),
            (Opcode::DifStrip, 8, true, 0),
            (Opcode::DifUpdate, 8, true, 0xf8),
            (Opcode::DifGen, 8, false, 0x90),
            (Opcode::DixGen, 0, false, 0x90),
            (Opcode::DixVerify, 0, true, 0),
        ];
        let (opcode, behind, checks, takes) = KINDS[kind];
        let made = if clean { Tags { flags: made.flags & takes, ..made } } else { made };
        let bytes = blocks * u64::from(block.bytes() + u32::from(behind)) + odd;
        let form = Form { block, inverted_seed: inverted.0, inverted_guard: inverted.1 };
        let built = match opcode {
            Opcode::DifCheck => Request::dif_check(src, bytes, form, expected),
            Opcode::DifInsert => Request::dif_insert(dst, src, bytes, form, made),
            Opcode::DifStrip => Request::dif_strip(dst, src, bytes, form, expected),
            Opcode::DifUpdate => Request::dif_update(dst, src, bytes, form, expected, made),
            Opcode::DifGen => Request::dif_generate(dst, bytes, form, made),
            Opcode::DixGen => Request::dix_generate(dst, src, bytes, form, made),
            _ => Request::dix_verify(dst, src, bytes, form, expected),
        };
        let mut fields = DifFields {
            flags: match block {
                Block::B512 => 0,
                Block::B520 => 1,
                Block::B4096 => 2,
                Block::B4104 => 3,
            } | u8::from(inverted.0) << 2 | u8::from(inverted.1) << 3,
            ..DifFields::default()
        };
        if checks {
            fields.source_flags = expected.flags;
            fields.source_ref_tag = expected.ref_tag;
            fields.source_app_tag = expected.app_tag;
            fields.source_app_mask = expected.app_mask;
        }
        if takes != 0 {
            fields.destination_flags = made.flags;
            fields.destination_ref_tag = made.ref_tag;
            fields.destination_app_tag = made.app_tag;
            fields.destination_app_mask = made.app_mask;
        }
        let src = if opcode == Opcode::DifGen { NONE } else { src };
        let dst = if opcode == Opcode::DifCheck { NONE } else { dst };
        let d = with(raw(opcode, src, dst, bytes), fields.to_bytes());
        World::with(|world| world.agree(d, built))?;
    }

    #[test]
    fn xor(
        (dst, near) in two(),
        list in list_place(),
        others in prop::collection::vec(place(), 0..17),
        bytes in size(64),
        spoilt in prop_oneof![6 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut sources: Vec<Segment> = [near].into_iter().chain(others).map(byway_ring::source).collect();
        let count = sources.len();
        if let Some(index) = spoilt {
            let source = &mut sources[index.index(count)];
            *source = match bytes % 3 {
                0 => Segment { bytes: 1, ..*source },
                1 => Segment { slot: 0x8001, ..*source },
                _ => Segment { reserved14: 1, ..*source },
            };
        }
        let fields = XorFields { count: sources.len() as u16, ..XorFields::default() };
        let d = with(raw(Opcode::Xor, list, dst, bytes), fields.to_bytes());
        World::with(|world| {
            world.write(list, &bytes_of(&sources));
            world.agree(d, Request::xor(dst, list, &sources, bytes))
        })?;
    }

    #[test]
    fn copy_sg(
        lists in (list_place(), list_place()),
        ranges in two(),
        from in prop_oneof![1 => Just(None), 3 => segments().prop_map(Some)],
        to in prop_oneof![1 => Just(None), 3 => segments().prop_map(Some)],
        cut in prop_oneof![
            6 => (1..101_u64).prop_map(Ok),
            1 => size(64).prop_map(Err),
        ],
    ) {
        // Most of what the shorter list has.
        let total = |list: &Option<Vec<Segment>>| list.as_ref().map_or(u64::MAX, |list| {
            list.iter().map(|segment| u64::from(segment.bytes)).sum()
        });
        let bytes = match cut {
            Ok(percent) => total(&from).min(total(&to)).min(50_000) * percent / 100,
            Err(bytes) => bytes,
        };
        let side = |range, list, segments: &'_ Option<Vec<Segment>>| -> (Address, u16) {
            segments.as_ref().map_or((range, 0), |s| (list, s.len() as u16))
        };
        let (src, src_count) = side(ranges.0, lists.0, &from);
        let (dst, dst_count) = side(ranges.1, lists.1, &to);
        let fields = CopySgFields { src_count, dst_count, ..CopySgFields::default() };
        let d = with(raw(Opcode::CopySg, src, dst, bytes), fields.to_bytes());
        let built = Request::copy_sg(
            to.as_ref().map_or(Side::Range(ranges.1), |segments| Side::List { at: lists.1, segments }),
            from.as_ref().map_or(Side::Range(ranges.0), |segments| Side::List { at: lists.0, segments }),
            bytes,
        );
        if [&from, &to].iter().any(|list| list.as_ref().is_some_and(Vec::is_empty)) {
            // A count of 0 says something else: that there is no list.
            prop_assert!(built.is_err());
            return Ok(());
        }
        World::with(|world| {
            world.reset(3);
            for (at, segments) in [(lists.0, &from), (lists.1, &to)] {
                world.write(at, &bytes_of(segments.as_deref().unwrap_or_default()));
            }
            // An operation that overwrites its own list meets what it wrote there.
            if lists_are_safe(&lists, &from, &to, ranges.1, bytes) {
                world.agree(d, built)
            } else {
                Ok(())
            }
        })?;
    }

    #[test]
    fn copy_rows(
        (src, dst) in two(),
        row_bytes in prop_oneof![8 => 1..600_u32, 1 => Just(0)],
        strides in (stride(), stride()),
        rows in 0..40_u64,
        odd in prop_oneof![5 => Just(0_u64), 1 => 1..20_u64],
    ) {
        let rows_of = Rows { row_bytes, src_stride: strides.0, dst_stride: strides.1 };
        let bytes = rows * u64::from(row_bytes) + odd;
        let fields = CopySgFields {
            row_bytes,
            src_stride: strides.0,
            dst_stride: strides.1,
            ..CopySgFields::default()
        };
        let built = Request::copy_rows(dst, src, rows_of, bytes);
        let d = with(raw(Opcode::CopySg, src, dst, bytes), fields.to_bytes());
        if row_bytes == 0 && built.is_err() {
            // Strides without rows are 12, neither rows nor lists 14: refused either way.
            World::with(|world| {
                let status = world.run(&d.unwrap()).status().unwrap();
                prop_assert!(is_malformed(status));
                Ok(())
            })?;
        } else {
            World::with(|world| world.agree(d, built))?;
        }
    }

    #[test]
    fn atomics_and_signals(dst in place(), kind in 0..3_u8, operand in any::<u64>(), compare in any::<u64>()) {
        let change = match kind {
            0 => Atomic::FetchAdd(operand),
            1 => Atomic::Swap(operand),
            _ => Atomic::CompareSwap { expected: compare, new: operand },
        };
        let fields = AtomicFields {
            operand,
            compare: if kind == 2 { compare } else { 0 },
            kind,
            ..AtomicFields::default()
        };
        let d = with(raw(Opcode::Atomic64, NONE, dst, 8), fields.to_bytes());
        World::with(|world| world.agree(d, Request::atomic(dst, change)))?;
        let d = raw(Opcode::Signal, NONE, dst, 8).map(|d| Descriptor { op0: operand, ..d });
        World::with(|world| world.agree(d, Request::signal(dst, operand)))?;
    }

    #[test]
    fn streams(
        (src, dst) in two(),
        bytes in prop_oneof![6 => size(512), 1 => 16380..16390_u64, 1 => 16460..16470_u64],
        room in size(4096),
        compression in prop::sample::select(Compression::ALL),
        compresses in any::<bool>(),
    ) {
        let (opcode, built) = if compresses {
            (Opcode::Compress, Request::compress(dst, room, src, bytes, compression))
        } else {
            (Opcode::Decompress, Request::decompress(dst, room, src, bytes, compression))
        };
        let d = u32::try_from(room).ok().and_then(|room| {
            let word = CodecWord::compression(compression, room).0;
            raw(opcode, src, dst, bytes).map(|d| Descriptor { op0: word, ..d })
        });
        World::with(|world| agree_but_for_room(world, d, built))?;
    }

    #[test]
    fn ciphers(
        (src, dst) in two(),
        bytes in prop_oneof![6 => size(512), 2 => size(16)],
        room in prop_oneof![3 => Just(None), 1 => size(512).prop_map(Some)],
        key in prop::sample::select(&[XTS, CBC, GCM, 0, EMPTY][..]),
        unit_log2 in prop_oneof![8 => 9..14_u8, 1 => 14..20_u8, 1 => 0..9_u8],
        iv in any::<[u8; 16]>(),
        additional in prop_oneof![6 => 0..64_u32, 1 => 4090..4100_u32],
        fused in prop_oneof![2 => Just(None), 1 => prop::sample::select(Compression::ALL).prop_map(Some)],
        encrypts in any::<bool>(),
    ) {
        let room = room.unwrap_or(bytes.saturating_add(64));
        let slot = Slot::new(key).unwrap();
        let (mode, word, iv) = match key {
            CBC => (Mode::Cbc { iv }, 0, iv),
            GCM => {
                let mut words = iv;
                words[12..].copy_from_slice(&additional.to_le_bytes());
                let nonce = *iv.first_chunk().unwrap();
                let code = fused.map_or(0, |f: Compression| f as u64);
                (Mode::Gcm { nonce, additional, fused }, code << 16, words)
            }
            _ => {
                let tweak = u128::from_le_bytes(iv);
                (Mode::Xts { unit_log2, tweak }, u64::from(unit_log2) << 24, iv)
            }
        };
        let (opcode, built) = if encrypts {
            (Opcode::Encrypt, Request::encrypt(dst, room, src, bytes, slot, &mode))
        } else {
            (Opcode::Decrypt, Request::decrypt(dst, room, src, bytes, slot, &mode))
        };
        let d = u32::try_from(room).ok().and_then(|room| {
            let op0 = CodecWord::key(key, room).0 | word;
            let words = u128::from_le_bytes(iv);
            let d = raw(opcode, src, dst, bytes)?;
            Some(Descriptor { op0, op1: words as u64, op2: (words >> 64) as u64, ..d })
        });
        // A key that is not there is all that the engine looks at.
        World::with(|world| match d {
            Some(d) if key == EMPTY && built.is_err() => {
                let status = world.run(&d).status().expect("a status of the ABI");
                prop_assert!(!status.is_success());
                Ok(())
            }
            d => agree_but_for_room(world, d, built),
        })?;
    }

    #[test]
    fn sealing(
        (src, dst) in two(),
        bytes in prop_oneof![
            6 => size(512),
            2 => 0..100_u64,
            1 => ((2 << 20) - 2)..((2 << 20) + 44_u64),
        ],
        key in prop::sample::select(&[CHANNEL, CHANNEL, GCM, 0, EMPTY][..]),
        lowest in any::<u64>(),
        label in any::<u64>(),
        seals in any::<bool>(),
    ) {
        let slot = Slot::new(key).unwrap();
        let (opcode, room, built) = if seals {
            let built = Request::seal_copy(dst, src, bytes, slot, label);
            (Opcode::SealCopy, bytes + 40, built)
        } else {
            let built = Request::open_copy(dst, src, bytes, slot, lowest, label);
            (Opcode::OpenCopy, bytes.saturating_sub(40).max(1), built)
        };
        let d = u32::try_from(room).ok().and_then(|room| {
            let op0 = CodecWord::key(key, room).0;
            let op1 = if seals { 0 } else { lowest };
            let d = raw(opcode, src, dst, bytes)?;
            Some(Descriptor { op0, op1, op2: label, ..d })
        });
        // A key that is not there is all that the engine looks at.
        World::with(|world| match d {
            Some(d) if key == EMPTY && built.is_err() => {
                let status = world.run(&d).status().expect("a status of the ABI");
                prop_assert!(!status.is_success());
                Ok(())
            }
            d => world.agree(d, built),
        })?;
    }

    #[test]
    fn blocks(
        (from, to) in two(),
        bytes in size(512),
        kind in 1..8_u8,
        summed in any::<bool>(),
        crc in any::<u32>(),
    ) {
        let built = match kind {
            1 => Request::read_blocks(to, from, bytes),
            2 => Request::write_blocks(to, from, bytes),
            3 => Request::copy_blocks(to, from, bytes),
            4 => Request::compare_blocks(from, to, bytes),
            5 => Ok(Request::flush_blocks(to.slot)),
            6 => Request::discard_blocks(to, bytes),
            _ => Request::zero_blocks(to, bytes),
        };
        let d = match kind {
            5 => raw(Opcode::DeviceTransfer, NONE, Address { addr: 0, ..to }, 0),
            6 | 7 => raw(Opcode::DeviceTransfer, NONE, to, bytes),
            _ => raw(Opcode::DeviceTransfer, from, to, bytes),
        };
        let flag = |kind| match kind {
            1 => (1, crc),
            2 => (2, 0),
            _ => (0, 0),
        };
        let (flags, crc) = if summed { flag(kind) } else { (0, 0) };
        let built = match flags {
            1 => built.and_then(|request| request.checking_crc(crc)),
            2 => built.and_then(Request::giving_crc),
            _ => built,
        };
        let fields = DeviceFields { operation: kind, flags, crc, ..DeviceFields::default() };
        // There is no device: what is well-formed ends for want of a right to blocks.
        World::with(|world| world.agree(with(d, fields.to_bytes()), built))?;
    }

    #[test]
    fn messages(local in place(), bytes in prop_oneof![4 => 1..4200_u64, 1 => size(64)], sends in any::<bool>()) {
        let port = Slot::new(EMPTY).unwrap();
        let port_at = Address::capability(port, 0);
        let (d, built) = if sends {
            (raw(Opcode::Send, local, port_at, bytes), Request::send(port, local, bytes))
        } else {
            (raw(Opcode::Receive, port_at, local, bytes), Request::receive(port, local, bytes))
        };
        World::with(|world| world.agree(d, built))?;
    }

    #[test]
    fn cancels(number in any::<u32>(), count in prop_oneof![0..40_000_u32, Just(u32::MAX)]) {
        let ticket = common::Memory::new(2).queue(Options::default()).post(Request::nop()).unwrap();
        let range = |queue| {
            let mut d = Descriptor::new(Opcode::Cancel, Flags::NONE);
            d.size = count;
            let fields = CancelFields { queue, first: ticket.sequence(), ..CancelFields::default() };
            Some(d.with_operands(fields.to_bytes()))
        };
        World::with(|world| world.agree(range(0), Request::cancel(ticket, count)))?;
        World::with(|world| world.agree(range(number), Request::cancel_in(number, ticket, count)))?;
        let all = |queue| {
            let fields = CancelFields { queue, flags: 1, ..CancelFields::default() };
            with(Some(Descriptor::new(Opcode::Cancel, Flags::NONE)), fields.to_bytes())
        };
        World::with(|world| world.agree(all(0), Ok(Request::cancel_before())))?;
        World::with(|world| world.agree(all(number), Ok(Request::cancel_queue(number))))?;
    }
}

/// What does not compress, or is not compressed data, may need more room than there is: that
/// depends on the bytes, which no builder sees.
fn agree_but_for_room(
    world: &mut World,
    d: Option<Descriptor>,
    built: Result<Request, RequestError>,
) -> Result<(), TestCaseError> {
    if let (Some(d), Ok(request)) = (d, built) {
        prop_assert_eq!(Descriptor::from(request), d);
        let status = world.run(&d).status().expect("a status of the ABI");
        let malformed = matches!(status as u8, 0x10..=0x1c);
        prop_assert!(!malformed, "taken, but answered {}", status);
        return Ok(());
    }
    world.agree(d, built)
}

fn tags() -> impl Strategy<Value = Tags> {
    let flags = prop_oneof![3 => Just(0), 2 => any::<u8>()];
    (any::<(u16, u16, u32)>(), flags).prop_map(|((app_tag, app_mask, ref_tag), flags)| Tags {
        app_tag,
        app_mask,
        ref_tag,
        flags,
    })
}

fn stride() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0..2000_u64,
        1 => Just(u64::MAX),
        1 => Just(u64::MAX / 8),
    ]
}

/// Where lists lie: on the last pages, which operands are seldom on.
fn list_place() -> impl Strategy<Value = Address> {
    prop_oneof![
        8 => (0..256_u64).prop_map(|n| at(0, VA + DATA - 2 * PAGE + 16 * n)),
        1 => Just(at(0, VA + DATA - 2 * PAGE + 8)),
        1 => (0..16_u64).prop_map(|n| at(BOB_END, 16 * n)),
        1 => Just(at(EMPTY, 0)),
    ]
}

fn segments() -> impl Strategy<Value = Vec<Segment>> {
    let bytes = prop_oneof![20 => 1..3000_u32, 1 => Just(0)];
    let broken = prop_oneof![20 => Just(0_u16), 1 => Just(1)];
    let one = (place(), bytes, broken).prop_map(|(at, bytes, reserved14)| Segment {
        reserved14,
        ..byway_ring::segment(at, bytes)
    });
    let many = (place(), 1025..1027_usize).prop_map(|(at, n)| vec![byway_ring::segment(at, 8); n]);
    prop_oneof![30 => prop::collection::vec(one, 0..12), 1 => many]
}

fn bytes_of(segments: &[Segment]) -> Vec<u8> {
    segments.iter().flat_map(Segment::to_bytes).collect()
}

/// Whether nothing is written where lists lie.
fn lists_are_safe(
    lists: &(Address, Address),
    from: &Option<Vec<Segment>>,
    to: &Option<Vec<Segment>>,
    range: Address,
    bytes: u64,
) -> bool {
    let lists_of = [(lists.0, from), (lists.1, to)];
    let apart = |a: Address, a_bytes: u64, b: Address, b_bytes: u64| {
        // The two slots of bob's never meet.
        a.slot != b.slot
            || (a.addr.wrapping_sub(b.addr) >= b_bytes && b.addr.wrapping_sub(a.addr) >= a_bytes)
    };
    let list_bytes = |list: &Option<Vec<Segment>>| list.as_ref().map_or(0, |l| 16 * l.len() as u64);
    let lists_apart = apart(lists.0, list_bytes(from), lists.1, list_bytes(to));
    let written: Vec<(Address, u64)> = match to {
        None => vec![(range, bytes)],
        Some(to) => to
            .iter()
            .map(|s| (at(s.slot & 0x7fff, s.addr), u64::from(s.bytes)))
            .collect(),
    };
    lists_apart
        && lists_of.iter().all(|(at, list)| {
            let len = list_bytes(list);
            written
                .iter()
                .all(|(to, bytes)| apart(*at, len, *to, *bytes))
        })
}

#[test]
fn a_batch_counts_as_many_statuses_as_elements() {
    let mut list = [Descriptor::default(); 3];
    let mut batch = byway_ring::Batch::new(&mut list);
    for index in 0..3 {
        assert_eq!(batch.push(Request::nop()), Ok(index));
    }
    let full = Err(byway_ring::BatchError::Full(3));
    assert_eq!(batch.push(Request::nop()), full);
    let mut few = [Completion::default(); 2];
    let statuses = byway_ring::Statuses::over(&mut few);
    assert_eq!(batch.request(&statuses), Err(RequestError::Count(3)));
    let mut enough = [Completion::default(); 3];
    let statuses = byway_ring::Statuses::over(&mut enough);
    let request = Descriptor::from(batch.request(&statuses).unwrap());
    assert_eq!(request.size, 3);
    assert_eq!(request.status_array, statuses.address().addr);
    assert_eq!(statuses.get(0), None, "nothing has written there");
}

#[test]
fn what_no_batch_takes_is_refused_as_an_element() {
    let mut list = [Descriptor::default(); 1];
    let mut batch = byway_ring::Batch::new(&mut list);
    let port = Slot::new(3).unwrap();
    let own = Address::own(0x1000);
    for request in [
        Request::send(port, own, 8),
        Request::receive(port, own, 8),
        Request::batch(own, Address::own(0x2000), 1),
    ] {
        let opcode = Opcode::from_code(Descriptor::from(request.unwrap()).code()).unwrap();
        let refused = Err(byway_ring::BatchError::NoElement(opcode));
        assert_eq!(batch.push(request.unwrap()), refused);
    }
    assert!(batch.elements().is_empty());
}
