//! Partial operations: pages of alice's are taken away, each fault is mended and the rest submitted,
//! and in the end memory and results are those of a run in which nothing was missing.

use byway_protocols::codec::Compression;
use byway_protocols::operands::DeltaEntry;
use byway_protocols::{Completion, Descriptor, Status};
use byway_ring::{
    Address, Atomic, BatchEnd, Block, Checked, Compared, Crc32c, Crc64, Delta, Difference, Done,
    Form, Intent, Mode, Pattern, Previous, Request, RequestError, Rows, Segment, Side, Slot, Tags,
    Transformed, resume, resume_cbc, resume_sg, resume_xor, segment, source,
};
use proptest::prelude::*;

use super::world::*;

/// Where lists, records and statuses lie: they stay.
const LISTS: u64 = VA + DATA - 4 * PAGE;
/// Pages that may go.
const LOOSE: u64 = PAGES - 4;
/// More than there are pages to fault on.
const PIECES_MAX: u32 = 4 * PAGES as u32;

/// Submits it, and its rest as `rest` makes it, until it ends otherwise than by a fault of alice's.
fn pieces(
    world: &mut World,
    descriptor: Descriptor,
    mut rest: impl FnMut(&mut World, &Descriptor, &Completion) -> Option<Descriptor>,
) -> Completion {
    let mut next = descriptor;
    for _ in 0..PIECES_MAX {
        let completion = world.run(&next);
        if !completion.status().is_some_and(Status::is_resumable) {
            return completion;
        }
        world.mend(completion.fault_addr);
        next = rest(world, &next, &completion).expect("a rest of what can be resumed");
    }
    panic!("it never ends: {next:?}");
}

fn built(request: Result<Request, RequestError>) -> Descriptor {
    request.expect("a request that is good").into()
}

/// All that alice and bob have.
fn state(world: &World) -> (Vec<u8>, Vec<u8>) {
    (world.read(VA, DATA), world.bob.read(VA, DATA))
}

/// With and without pages missing, the same ends in the same way.
fn same(
    seed: u64,
    taken: &[u64],
    prepare: impl Fn(&mut World),
    descriptor: &Descriptor,
    rest: impl FnMut(&mut World, &Descriptor, &Completion) -> Option<Descriptor>,
) -> Result<[Completion; 2], TestCaseError> {
    same_but(
        seed,
        taken,
        prepare,
        descriptor,
        rest,
        |_: &mut World, _| (),
    )
}

/// The same, with what is unspecified wiped out after the end.
fn same_but(
    seed: u64,
    taken: &[u64],
    prepare: impl Fn(&mut World),
    descriptor: &Descriptor,
    rest: impl FnMut(&mut World, &Descriptor, &Completion) -> Option<Descriptor>,
    wipe: impl Fn(&mut World, &Completion),
) -> Result<[Completion; 2], TestCaseError> {
    World::with(|world| {
        world.reset(seed);
        prepare(world);
        let whole = world.run(descriptor);
        wipe(world, &whole);
        let expected = state(world);
        world.reset(seed);
        prepare(world);
        let taken: Vec<u64> = taken.iter().map(|page| page % LOOSE).collect();
        world.take(&taken);
        let last = pieces(world, *descriptor, rest);
        for page in taken {
            world.mend(VA + page * PAGE);
        }
        wipe(world, &last);
        let found = state(world);
        let first = |a: &[u8], b: &[u8]| a.iter().zip(b).position(|(a, b)| a != b);
        prop_assert_eq!(
            first(&found.0, &expected.0),
            None,
            "alice's first wrong byte"
        );
        prop_assert_eq!(first(&found.1, &expected.1), None, "bob's first wrong byte");
        prop_assert_eq!(last.status(), whole.status());
        Ok([whole, last])
    })
}

fn plain(_: &mut World, d: &Descriptor, c: &Completion) -> Option<Descriptor> {
    resume(d, c)
}

fn nothing(_: &mut World) {}

/// A range in alice's loose pages, or at the same offset of bob's.
fn range(bytes: u64) -> impl Strategy<Value = Address> {
    let offset = prop_oneof![
        0..LOOSE * PAGE - bytes,
        (0..(LOOSE * PAGE - bytes) / PAGE).prop_map(|p| p * PAGE)
    ];
    (prop::bool::weighted(0.8), offset).prop_map(move |(own, offset)| {
        // Bob's part is shorter.
        if own {
            at(0, VA + offset)
        } else {
            at(BOB, offset % (DATA / 2 - bytes))
        }
    })
}

fn taken() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..LOOSE, 0..LOOSE as usize)
}

const SIZE: std::ops::Range<u64> = 1..40_000;
const MOST: u64 = 40_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases().cases / 20, ..cases() })]

    #[test]
    fn copies_fills_and_comparisons(
        seed in any::<u64>(),
        (a, b) in (range(MOST), range(MOST)),
        bytes in SIZE,
        pattern in any::<[u8; 16]>(),
        near in any::<Option<u16>>(),
        taken in taken(),
    ) {
        let b = near.map_or(b, |by| Address { addr: a.addr.wrapping_add(u64::from(by) % 4096), ..a });
        for request in [
            Request::memmove(b, a, bytes),
            Request::fill(b, Pattern::Bytes16(pattern), bytes),
            Request::fill(b, Pattern::Bytes8(*pattern.first_chunk().unwrap()), bytes),
            Request::fetch(a, bytes, Intent::Write),
            Request::flush(a, bytes),
        ] {
            let [_, last] = same(seed, &taken, nothing, &built(request), plain)?;
            Done::of(&last)?;
        }
        // Equal up to somewhere: offsets count from the beginning of the rest.
        let equal = |world: &mut World| {
            world.run(&built(Request::memmove(b, a, bytes)));
            world.run(&built(Request::fill(
                Address { addr: b.addr + bytes * 2 / 3, ..b },
                Pattern::byte(pattern[0]),
                1,
            )));
        };
        for request in [Request::compare(a, b, bytes), Request::compare_value(a, *pattern.first_chunk().unwrap(), bytes)] {
            let mut before = 0;
            let [whole, last] = same(seed, &taken, equal, &built(request), |_, d, c| {
                before += c.bytes_completed;
                resume(d, c)
            })?;
            let (whole, last) = (Compared::of(&whole)?, Compared::of(&last)?);
            prop_assert_eq!(whole.differs_at, last.differs_at.map(|offset| before + offset));
        }
    }

    #[test]
    fn checksums(
        seed in any::<u64>(),
        a in range(MOST),
        bytes in SIZE,
        crc in any::<u64>(),
        taken in taken(),
    ) {
        let b = at(BOB, 1234);
        prop_assume!(a.slot != b.slot);
        for request in [Request::crc(a, bytes, crc as u32), Request::copy_crc(b, a, bytes, crc as u32)] {
            let [whole, last] = same(seed, &taken, nothing, &built(request), plain)?;
            prop_assert_eq!(Crc32c::of(&whole)?, Crc32c::of(&last)?);
        }
        let [whole, last] = same(seed, &taken, nothing, &built(Request::crc64(a, bytes, crc)), plain)?;
        prop_assert_eq!(Crc64::of(&whole)?, Crc64::of(&last)?);
    }

    #[test]
    fn casts_and_sums(seed in any::<u64>(), bytes in SIZE, low in 0..4096_u64, taken in taken()) {
        let (src, first) = (at(0, VA + 17), at(0, VA + 16 * PAGE + low));
        let second = at(BOB, 2 * PAGE + low);
        let cast = built(Request::dualcast(first, second, src, bytes));
        let [_, last] = same(seed, &taken, nothing, &cast, plain)?;
        Done::of(&last)?;

        let sources = [src, at(BOB, low), at(BOB_END, low), first].map(source);
        let list = at(0, LISTS);
        let sum = built(Request::xor(first, list, &sources, bytes));
        let mut left = sources;
        let write = |world: &World, sources: &[Segment]| world.write(list, &bytes_of(sources));
        let prepare = |world: &mut World| write(world, &sources);
        // The list is what the engine last read: it is no result.
        World::with(|world| {
            world.reset(seed);
            prepare(world);
            let whole = world.run(&sum);
            let expected = world.read(first.addr, bytes);
            world.reset(seed);
            prepare(world);
            world.take(&taken.iter().map(|page| page % LOOSE).collect::<Vec<_>>());
            let last = pieces(world, sum, |world, d, c| {
                let rest = resume_xor(d, c, &mut left);
                write(world, &left);
                rest
            });
            world.take(&[]);
            prop_assert_eq!(whole.status(), last.status());
            Done::of(&last)?;
            for page in 0..PAGES {
                world.mend(VA + page * PAGE);
            }
            prop_assert!(world.read(first.addr, bytes) == expected);
            Ok(())
        })?;
    }

    #[test]
    fn lists_and_rows(
        seed in any::<u64>(),
        cuts in prop::collection::vec((0..LOOSE / 2, 0..4096_u64, 1..3000_u32), 1..12),
        scatter in any::<bool>(),
        both in any::<bool>(),
        taken in taken(),
        (row_bytes, rows, strides) in (1..700_u32, 1..30_u64, (0..3000_u64, 0..3000_u64)),
    ) {
        let segments: Vec<Segment> = cuts
            .iter()
            .map(|&(page, within, bytes)| segment(at(0, VA + page * PAGE + within), bytes))
            .collect();
        let others: Vec<Segment> = cuts
            .iter()
            .rev()
            .enumerate()
            .map(|(i, &(_, within, bytes))| segment(at(BOB, i as u64 * 2 * PAGE + within), bytes))
            .collect();
        let bytes = segments.iter().map(|s| u64::from(s.bytes)).sum();
        let (list, other_list) = (at(0, LISTS), at(0, LISTS + PAGE));
        let one = Side::List { at: list, segments: &segments };
        let other = if both {
            Side::List { at: other_list, segments: &others }
        } else {
            Side::Range(at(BOB, 100))
        };
        let (dst, src) = if scatter { (one, other) } else { (other, one) };
        // Of bytes that the segments of a destination share, nothing is promised.
        let mut places: Vec<_> = segments.iter().map(|s| (s.addr, u64::from(s.bytes))).collect();
        places.sort_unstable();
        let apart = places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
        if apart || !scatter {
            let copy = built(Request::copy_sg(dst, src, bytes));
            World::with(|world| {
                let mut left = (segments.clone(), if both { others.clone() } else { Vec::new() });
                let write = |world: &World, left: &(Vec<Segment>, Vec<Segment>), d: &Descriptor| {
                    let (one, other) = if scatter { (d.dst, d.src) } else { (d.src, d.dst) };
                    world.write(at(0, one), &bytes_of(&left.0));
                    if both {
                        world.write(at(0, other), &bytes_of(&left.1));
                    }
                };
                world.reset(seed);
                write(world, &left, &copy);
                let whole = world.run(&copy);
                let loose = LOOSE * PAGE;
                let expected = (world.read(VA, loose), world.bob.read(VA, DATA));
                world.reset(seed);
                write(world, &left, &copy);
                world.take(&taken.iter().map(|page| page % LOOSE).collect::<Vec<_>>());
                let last = pieces(world, copy, |world, d, c| {
                    let (one, other) = (&mut left.0, &mut left.1);
                    let (src, dst) = if scatter { (other, one) } else { (one, other) };
                    let next = resume_sg(d, c, src, dst)?;
                    // Lists in memory go on behind what is used up.
                    let used = |from: u64, to: u64| (to - from) as usize / 16;
                    let (src_used, dst_used) = (used(d.src, next.src), used(d.dst, next.dst));
                    let (one, other) = if scatter { (dst_used, src_used) } else { (src_used, dst_used) };
                    left.0.drain(..one);
                    if both {
                        left.1.drain(..other);
                    }
                    write(world, &left, &next);
                    Some(next)
                });
                for page in 0..PAGES {
                    world.mend(VA + page * PAGE);
                }
                prop_assert_eq!(whole.status(), last.status());
                Done::of(&last)?;
                prop_assert!(world.read(VA, loose) == expected.0);
                prop_assert!(world.bob.read(VA, DATA) == expected.1);
                Ok(())
            })?;
        }
        let rows_of = Rows { row_bytes, src_stride: strides.0, dst_stride: strides.1 };
        let bytes = rows * u64::from(row_bytes);
        let copy = built(Request::copy_rows(at(BOB, 77), at(0, VA + 5), rows_of, bytes));
        let [_, last] = same(seed, &taken, nothing, &copy, plain)?;
        Done::of(&last)?;
        let back = built(Request::copy_rows(at(0, VA + 5), at(BOB, 77), rows_of, bytes));
        let [_, last] = same(seed, &taken, nothing, &back, plain)?;
        Done::of(&last)?;
    }

    #[test]
    fn deltas(
        seed in any::<u64>(),
        words in 1..3000_u64,
        changes in prop::collection::vec((0..3000_u64, any::<[u8; 8]>()), 0..60),
        room in 1..70_u64,
        taken in taken(),
    ) {
        let bytes = words * 8;
        let (first, second, copy) = (at(0, VA), at(0, VA + 8 * PAGE), at(0, VA + 16 * PAGE + 8));
        let record = |n: u64| at(0, LISTS + 640 * n % (3 * PAGE) / 8 * 8);
        World::with(|world| {
            world.reset(seed);
            for place in [second, copy] {
                world.run(&built(Request::memmove(place, first, bytes)));
            }
            for (word, value) in &changes {
                world.write(at(0, second.addr + word % words * 8), value);
            }
            let wanted = world.read(second.addr, bytes);
            world.take(&taken.iter().map(|page| page % LOOSE).collect::<Vec<_>>());
            let mut done = 0;
            let mut next = Some(built(Request::create_delta(record(0), room * 10, first, second, bytes)));
            let mut pieces_left = PIECES_MAX + words as u32;
            while let Some(create) = next.take() {
                pieces_left -= 1;
                prop_assert!(pieces_left > 0, "it never ends");
                let completion = world.run(&create);
                let recorded = completion.op0;
                let (compared, goes_on) = match Delta::of(&completion) {
                    Ok(delta) => (delta.compared, delta.difference == Difference::Full),
                    Err(failure) => {
                        prop_assert!(failure.is_resumable(), "{}", failure);
                        world.mend(completion.fault_addr);
                        (completion.bytes_completed, true)
                    }
                };
                if recorded > 0 {
                    prop_assert_eq!(recorded % DeltaEntry::SIZE as u64, 0);
                    // What is recorded is of the part that was compared.
                    let part = Address { addr: copy.addr + done, ..copy };
                    let apply = built(Request::apply_delta(part, u64::from(create.size), record(0), recorded));
                    let applied = pieces(world, apply, plain);
                    Done::of(&applied)?;
                }
                done += u64::from(compared);
                if goes_on {
                    let same = resume(&create, &completion);
                    let rest = Request::rest_of_delta(&create, &completion, record(0), room * 10);
                    let rest = Descriptor::from(rest.expect("something is left"));
                    if let Some(same) = same {
                        prop_assert_eq!((same, recorded, compared), (rest, 0, 0));
                    }
                    next = Some(rest);
                }
            }
            prop_assert_eq!(done, bytes);
            for page in 0..PAGES {
                world.mend(VA + page * PAGE);
            }
            prop_assert!(world.read(copy.addr, bytes) == wanted);
            Ok(())
        })?;
    }

    #[test]
    fn protection_information(
        seed in any::<u64>(),
        block in prop::sample::select(&[Block::B512, Block::B520, Block::B4096, Block::B4104][..]),
        blocks in 1..9_u64,
        (app_tag, ref_tag, fixed) in any::<(u16, u32, bool)>(),
        inverted in any::<(bool, bool)>(),
        wrong in any::<Option<prop::sample::Index>>(),
        taken in taken(),
    ) {
        let form = Form { block, inverted_seed: inverted.0, inverted_guard: inverted.1 };
        let tags = Tags {
            app_tag,
            ref_tag,
            flags: if fixed { 0x80 } else { 0x10 },
            ..Tags::default()
        };
        let data = blocks * u64::from(block.bytes());
        let both = data + 8 * blocks;
        let (plain_at, out, apart) = (at(0, VA + 3), at(0, VA + 12 * PAGE + 1), at(BOB, 5));
        let insert = built(Request::dif_insert(out, plain_at, data, form, tags));
        let [_, last] = same(seed, &taken, nothing, &insert, plain)?;
        prop_assert_eq!(Checked::of(&last)?.mismatch, None);
        let inserted = |world: &mut World| {
            world.run(&insert);
            if let Some(wrong) = wrong {
                let byte = at(0, out.addr + wrong.index(both as usize) as u64);
                let old = world.read(byte.addr, 1)[0];
                world.write(byte, &[!old]);
            }
        };
        let update = Tags { app_tag: !app_tag, ..tags };
        for request in [
            Request::dif_check(out, both, form, tags),
            Request::dif_strip(apart, out, both, form, tags),
            Request::dif_update(at(BOB, 3 * PAGE), out, both, form, tags, update),
            Request::dif_generate(out, both, form, update),
        ] {
            let mut before = 0;
            let [whole, last] = same(seed, &taken, inserted, &built(request), |_, d, c| {
                before += c.bytes_completed;
                resume(d, c)
            })?;
            let (whole, last) = (Checked::of(&whole)?, Checked::of(&last)?);
            prop_assert_eq!(whole.mismatch, last.mismatch);
            prop_assert_eq!(whole.bytes, before + last.bytes);
            prop_assert_eq!(whole.tags, last.tags);
        }
        let information = at(0, VA + 30 * PAGE + 9);
        let generate = built(Request::dix_generate(information, plain_at, data, form, tags));
        let [_, last] = same(seed, &taken, nothing, &generate, plain)?;
        prop_assert_eq!(Checked::of(&last)?.mismatch, None);
        let verify = built(Request::dix_verify(information, plain_at, data, form, tags));
        let generated = |world: &mut World| {
            world.run(&generate);
            if let Some(wrong) = wrong {
                let byte = at(0, plain_at.addr + wrong.index(data as usize) as u64);
                let old = world.read(byte.addr, 1)[0];
                world.write(byte, &[!old]);
            }
        };
        let [whole, last] = same(seed, &taken, generated, &verify, plain)?;
        prop_assert_eq!(Checked::of(&whole)?.mismatch, Checked::of(&last)?.mismatch);
        prop_assert_eq!(Checked::of(&last)?.mismatch.is_some_and(|m| m.guard), wrong.is_some());
    }

    #[test]
    fn words(seed in any::<u64>(), offset in 0..LOOSE * PAGE / 8, operand in any::<u64>(), taken in taken()) {
        let word = at(0, VA + offset * 8);
        for change in [
            Atomic::FetchAdd(operand),
            Atomic::Swap(operand),
            Atomic::CompareSwap { expected: 1, new: operand },
        ] {
            let [whole, last] = same(seed, &taken, nothing, &built(Request::atomic(word, change)), plain)?;
            prop_assert_eq!(Previous::of(&whole)?, Previous::of(&last)?);
            let stays = matches!(change, Atomic::CompareSwap { .. });
            prop_assert!(Previous::of(&last)?.stored != stays, "1 is not there, but for once in 2^64");
        }
        let [_, last] = same(seed, &taken, nothing, &built(Request::signal(word, operand)), plain)?;
        prop_assert_eq!(Done::of(&last)?.bytes, 8);
    }

    #[test]
    fn streams_and_messages(
        seed in any::<u64>(),
        compression in prop::sample::select(Compression::ALL),
        bytes in 1..16_000_u64,
        nonce in any::<[u8; 12]>(),
        taken in taken(),
    ) {
        let (src, packed, back) = (at(0, VA + 1), at(0, VA + 10 * PAGE + 3), at(BOB, 11));
        let room = 20_000;
        let compress = built(Request::compress(packed, room, src, bytes, compression));
        // How it is compressed is the engine's choice each time; what it comes back as is not.
        let unpack = |produced| built(Request::decompress(back, bytes, packed, produced, compression));
        let come_back = |world: &mut World, c: &Completion| {
            let unpacked = world.run(&unpack(c.op0));
            assert_eq!(Transformed::of(&unpacked).map(|t| u64::from(t.produced)), Ok(bytes));
            world.write(packed, &vec![0; room as usize]);
        };
        let [_, last] = same_but(seed, &taken, nothing, &compress, plain, come_back)?;
        prop_assert_eq!(u64::from(Transformed::of(&last)?.used), bytes);
        let original = World::with(|world| {
            let original = world.read(src.addr, bytes);
            prop_assert!(world.bob.read(VA + 11, bytes) == original);
            Ok::<_, TestCaseError>(original)
        })?;
        let (stream, produced) = World::with(|world| {
            world.write(src, &original);
            let produced = u64::from(Transformed::of(&world.run(&compress))?.produced);
            Ok::<_, TestCaseError>((world.read(packed.addr, produced), produced))
        })?;
        let compressed = |world: &mut World| world.write(packed, &stream);
        let [_, last] = same(seed, &taken, compressed, &unpack(produced), plain)?;
        prop_assert_eq!(u64::from(Transformed::of(&last)?.produced), bytes);

        // A message under GCM: sealed by one nonce once, and so never by `resume`.
        let gcm = Mode::Gcm { nonce, additional: 5, fused: None };
        let key = Slot::new(GCM).unwrap();
        let text = bytes + 5;
        let seal = built(Request::encrypt(packed, room, src, text, key, &gcm));
        let again = Completion { status: Status::Stage1NotPresent as u8, ..Completion::default() };
        prop_assert_eq!(resume(&seal, &again), None);
        let open = built(Request::decrypt(back, room, packed, bytes + 5 + 16, key, &gcm));
        let sealed = |world: &mut World| {
            let done = Transformed::of(&world.run(&seal)).expect("sealed");
            assert_eq!(u64::from(done.produced), bytes + 16);
            // The additional data goes before the ciphertext.
            let message = world.read(packed.addr, bytes + 16);
            let additional = world.read(src.addr, 5);
            world.write(packed, &[additional, message].concat());
        };
        // Within the capacity, what lies behind the output is unspecified.
        let wipe = |world: &mut World, c: &Completion| {
            let rest = Address { addr: back.addr + c.op0, ..back };
            world.write(rest, &vec![0; (room - c.op0) as usize]);
        };
        let [_, last] = same_but(seed, &taken, sealed, &open, plain, wipe)?;
        prop_assert_eq!(u64::from(Transformed::of(&last)?.produced), bytes);
        World::with(|world| {
            prop_assert!(world.bob.read(VA + 11, bytes) == world.read(src.addr + 5, bytes));
            Ok::<_, TestCaseError>(())
        })?;
    }

    #[test]
    fn units_and_blocks(
        seed in any::<u64>(),
        blocks in 1..2000_u64,
        unit_log2 in 9..13_u8,
        tweak in prop_oneof![any::<u128>(), Just(u128::MAX), Just(u128::from(u64::MAX))],
        iv in any::<[u8; 16]>(),
        in_place in any::<bool>(),
        taken in taken(),
    ) {
        let bytes = blocks * 16;
        let src = at(0, VA + 7);
        let out = if in_place { src } else { at(0, VA + 18 * PAGE + 5) };
        let (xts, cbc) = (Slot::new(XTS).unwrap(), Slot::new(CBC).unwrap());
        let mode = Mode::Xts { unit_log2, tweak };
        for request in [
            Request::encrypt(out, bytes, src, bytes, xts, &mode),
            Request::decrypt(out, bytes, src, bytes, xts, &mode),
        ] {
            let [_, last] = same(seed, &taken, nothing, &built(request), plain)?;
            Transformed::of(&last)?;
        }
        let mode = Mode::Cbc { iv };
        let encrypt = built(Request::encrypt(out, bytes, src, bytes, cbc, &mode));
        let [_, last] = same(seed, &taken, nothing, &encrypt, |world, d, c| {
            let end = d.dst + u64::from(c.bytes_completed);
            let block = last_block(world, end, c.bytes_completed);
            resume_cbc(d, c, block)
        })?;
        Transformed::of(&last)?;
        let decrypt = built(Request::decrypt(out, bytes, src, bytes, cbc, &mode));
        // In place the ciphertext is gone: it is kept from before.
        let kept = World::with(|world| {
            world.reset(seed);
            world.read(src.addr, bytes)
        });
        let [_, last] = same(seed, &taken, nothing, &decrypt, |_, d, c| {
            let done = d.src - src.addr + u64::from(c.bytes_completed);
            let block = kept[..done as usize].last_chunk().copied().unwrap_or_default();
            resume_cbc(d, c, block)
        })?;
        Transformed::of(&last)?;
    }
}

/// The block of ciphertext before `end`, if any is done.
fn last_block(world: &World, end: u64, done: u32) -> [u8; 16] {
    if done == 0 {
        return [0; 16];
    }
    let bytes = world.read(end - 16, 16);
    *bytes.first_chunk().expect("16 bytes")
}

fn bytes_of(segments: &[Segment]) -> Vec<u8> {
    segments.iter().flat_map(Segment::to_bytes).collect()
}

#[test]
fn a_batch_tells_of_every_element() {
    World::with(|world| {
        world.reset(5);
        let far = Address::own(VA + (1 << 30));
        let elements = [
            built(Request::memmove(at(BOB, 0), at(0, VA), 100)),
            built(Request::memmove(at(BOB, 0), far, 100)),
            built(Request::signal(at(BOB, 4096), 7)),
        ];
        let bytes: Vec<u8> = elements.iter().flat_map(Descriptor::to_bytes).collect();
        let (list, statuses) = (at(0, LISTS), at(0, LISTS + PAGE));
        world.write(list, &bytes);
        let batch = built(Request::batch(list, statuses, elements.len()));
        let end = BatchEnd::of(&world.run(&batch)).expect("it came to its end");
        assert_eq!((end.succeeded, end.all), (1, false));
        let told = world.read(statuses.addr, 96);
        let told: Vec<Completion> = told
            .chunks_exact(32)
            .map(|bytes| Completion::from_bytes(bytes.try_into().unwrap()))
            .collect();
        let status = |index: usize| told[index].status().unwrap();
        assert_eq!(status(0), Status::Success);
        assert_eq!(status(1), Status::Stage1NotPresent);
        // SIGNAL acts as an element with FENCE does.
        assert_eq!(status(2), Status::NotAttempted);
        assert_eq!(told[1].fault_addr, far.addr);
    });
}
