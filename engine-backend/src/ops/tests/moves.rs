//! MEMMOVE and FILL against byte-by-byte references.

use super::*;
use crate::ops::budget::{LONE_BYTES, OPERATION_COST};
use byway_protocols::Rights;
use proptest::prelude::*;

/// Pages of a test's arena.
const PAGES: usize = 24;
const ARENA: u64 = PAGES as u64 * PAGE;

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    // Mostly good, so that transfers get somewhere.
    proptest::collection::vec(
        prop_oneof![
            30 => Just(Kind::Good),
            1 => Just(Kind::ReadOnly),
            1 => Just(Kind::Missing),
            1 => Just(Kind::Kernel),
        ],
        PAGES,
    )
}

fn all_good() -> impl Strategy<Value = Vec<Kind>> {
    Just(vec![Kind::Good; PAGES])
}

/// Sizes of every sort: tiny, around a page, several chunks.
fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![1..300_u64, 4000..4200_u64, 1..ARENA]
}

fn page_of(offset: u64) -> usize {
    (offset / PAGE) as usize
}

struct Expected {
    done: u64,
    failure: Option<(Status, bool, u64)>,
    touched: Vec<(bool, bool)>,
    backwards: bool,
}

/// MEMMOVE one byte at a time, on offsets into one arena.
fn naive_move(arena: &mut [u8], kinds: &[Kind], src: u64, dst: u64, size: u64) -> Expected {
    let backwards = dst > src && dst - src < size;
    let mut touched = vec![(false, false); PAGES];
    for done in 0..size {
        let at = if backwards { size - 1 - done } else { done };
        for (address, write) in [(src + at, false), (dst + at, true)] {
            if let Some(status) = kinds[page_of(address)].refuses(write) {
                return Expected {
                    done,
                    failure: Some((status, write, address)),
                    touched,
                    backwards: backwards && done > 0,
                };
            }
            let flags = &mut touched[page_of(address)];
            *flags = (true, flags.1 | write);
        }
        arena[(dst + at) as usize] = arena[(src + at) as usize];
    }
    Expected {
        done: size,
        failure: None,
        touched,
        backwards,
    }
}

fn check_move(kinds: &[Kind], src: u64, dst: u64, size: u64, chunk: u64, short: bool) {
    let mut rig = Rig::new();
    rig.chunk_bytes = chunk;
    rig.short = short;
    let mut arena = noise(ARENA as usize, size);
    map_kinds(&rig.alice, VA, kinds, &arena);
    let c = rig.complete(&memmove(VA + src, VA + dst, size as u32));
    let want = naive_move(&mut arena, kinds, src, dst, size);

    let (status, write, fault) = match want.failure {
        None => (Status::Success, false, 0),
        Some((status, write, address)) => (status, write, VA + address),
    };
    assert_eq!(short_form(&c), (status, write, want.done as u32));
    assert_eq!(c.fault_addr, fault);
    assert_eq!(c.result, u8::from(want.backwards));
    let (got, flags) = reveal(&rig.alice, VA, PAGES);
    assert!(got == arena, "bytes differ");
    for (page, (got, want)) in flags.iter().zip(&want.touched).enumerate() {
        assert_eq!(got.1, want.1, "dirty bit of page {page}");
        // A fault may have been preceded by a good read of the source's page.
        assert!(
            got.0 == want.0 || (want_failed(&c) && got.0),
            "accessed bit of page {page}"
        );
    }
}

fn want_failed(c: &Completion) -> bool {
    !c.status().is_some_and(Status::is_success)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn memmove_is_byte_exact_up_to_the_first_fault(
        kinds in prop_oneof![kinds(), all_good()],
        size in sizes(),
        a in 0..ARENA,
        b in 0..ARENA,
        near in proptest::option::of(-200_i64..200),
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
        short: bool,
    ) {
        let src = a.min(ARENA - size);
        let dst = match near {
            Some(distance) => src.saturating_add_signed(distance),
            None => b,
        }
        .min(ARENA - size);
        check_move(&kinds, src, dst, size, chunk, short);
    }

    #[test]
    fn a_partial_move_can_be_resumed(
        src in 0..ARENA / 2,
        dst in 0..ARENA / 2,
        size in 1..ARENA / 2,
        bad in 0..PAGES,
    ) {
        let mut kinds = vec![Kind::Good; PAGES];
        kinds[bad] = Kind::Missing;
        let mut rig = Rig::new();
        let arena = noise(ARENA as usize, 5);
        map_kinds(&rig.alice, VA, &kinds, &arena);
        let first = memmove(VA + src, VA + dst, size as u32);
        let c = rig.complete(&first);
        let (_, _) = reveal(&rig.alice, VA, PAGES);
        if want_failed(&c) {
            prop_assert!(c.status().unwrap().is_resumable());
            let done = c.bytes_completed;
            let rest = if c.result == 1 {
                Descriptor { size: first.size - done, ..first }
            } else {
                memmove(VA + src + u64::from(done), VA + dst + u64::from(done), first.size - done)
            };
            prop_assert_eq!(short_form(&rig.complete(&rest)).0, Status::Success);
        }
        let mut want = arena.clone();
        want.copy_within(src as usize..(src + size) as usize, dst as usize);
        prop_assert!(rig.alice.read(VA, ARENA) == want);
    }

    #[test]
    fn moves_between_domains_stay_inside_the_capability(
        kinds in kinds(),
        base in 0..ARENA - 1,
        length in 1..ARENA,
        offset in 0..ARENA,
        size in sizes(),
        put: bool,
        short: bool,
    ) {
        let length = length.min(ARENA - base);
        let mut rig = Rig::new();
        rig.short = short;
        let own = fill_noise(&rig.alice, PAGES as u64);
        let mut arena = noise(ARENA as usize, 77);
        map_kinds(&rig.bob, VA, &kinds, &arena);
        let rights = if put { Rights::WRITE } else { Rights::READ };
        let slot = rig.bob.give(&rig.alice, VA + base, length, rights);
        let d = if put {
            Descriptor { src: VA, dst: offset, size: size as u32, ..descriptor(Opcode::InterDomainMemmove, 0, slot) }
        } else {
            Descriptor { src: offset, dst: VA, size: size as u32, ..descriptor(Opcode::Memmove, slot, 0) }
        };
        let c = rig.complete(&d);
        let mut mine = own.clone();
        if offset + size > length {
            prop_assert_eq!(short_form(&c), (Status::Bounds, false, 0));
            prop_assert_eq!(c.fault_addr, 0);
        } else {
            let start = base + offset;
            let bad = (start..start + size).find(|&at| kinds[page_of(at)].refuses(put).is_some());
            let done = (bad.unwrap_or(start + size) - start) as usize;
            let there = start as usize..start as usize + done;
            if put {
                arena[there].copy_from_slice(&own[..done]);
            } else {
                mine[..done].copy_from_slice(&arena[there]);
            }
            match bad {
                None => prop_assert_eq!(short_form(&c), (Status::Success, false, done as u32)),
                Some(at) => {
                    // The offset, and neither address nor cause.
                    prop_assert_eq!(short_form(&c), (Status::RemoteFault, put, done as u32));
                    prop_assert_eq!(c.fault_addr, at - base);
                }
            }
        }
        let (got, _) = reveal(&rig.bob, VA, PAGES);
        prop_assert!(got == arena, "bob's bytes differ");
        prop_assert!(rig.alice.read(VA, ARENA) == mine, "alice's bytes differ");
    }

    #[test]
    fn fill_repeats_its_pattern_up_to_the_first_fault(
        kinds in kinds(),
        dst in 0..ARENA,
        size in sizes(),
        low: u64,
        high in proptest::option::of(any::<u64>()),
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let dst = dst.min(ARENA - size);
        let mut rig = Rig::new();
        rig.chunk_bytes = chunk;
        let mut arena = noise(ARENA as usize, 9);
        map_kinds(&rig.alice, VA, &kinds, &arena);
        let mut d = Descriptor {
            src: low,
            dst: VA + dst,
            size: size as u32,
            ..descriptor(Opcode::Fill, 0, 0)
        };
        if let Some(high) = high {
            d = with_flags(Descriptor { op0: high, ..d }, Flags::FILL_16);
        }
        let c = rig.complete(&d);
        let mut pattern = low.to_le_bytes().to_vec();
        pattern.extend(high.unwrap_or(low).to_le_bytes());
        let bad = (dst..dst + size).find(|&at| kinds[page_of(at)].refuses(true).is_some());
        let done = bad.unwrap_or(dst + size) - dst;
        for i in 0..done as usize {
            arena[dst as usize + i] = pattern[i % 16];
        }
        match bad {
            None => prop_assert_eq!(short_form(&c), (Status::Success, false, done as u32)),
            Some(at) => {
                let status = kinds[page_of(at)].refuses(true).unwrap();
                prop_assert_eq!(short_form(&c), (status, true, done as u32));
                prop_assert_eq!(c.fault_addr, VA + at);
            }
        }
        let (got, flags) = reveal(&rig.alice, VA, PAGES);
        prop_assert!(got == arena);
        for (page, flags) in flags.iter().enumerate() {
            let written = page as u64 * PAGE < dst + done && (page as u64 + 1) * PAGE > dst && done > 0;
            prop_assert_eq!(flags.1, written, "dirty bit of page {}", page);
        }
    }
}

#[test]
fn a_megabyte_goes_in_chunks_and_streams() {
    let mut rig = Rig::with_ram(8 << 20);
    let size = 1 << 20;
    for process in [&rig.alice, &rig.bob] {
        process.map(VA, 2 << 20, PageSize::Large);
    }
    let bytes = noise(size, 3);
    rig.alice.write(VA + 123, &bytes);
    let slot = rig.bob.give(&rig.alice, VA, 2 << 20, Rights::WRITE);
    let d = Descriptor {
        src: VA + 123,
        dst: 77,
        size: size as u32,
        ..descriptor(Opcode::Memmove, 0, slot)
    };
    let c = rig.complete(&d);
    assert_eq!(short_form(&c), (Status::Success, false, size as u32));
    assert!(rig.bob.read(VA + 77, size as u64) == bytes);
    assert!((16..=20).contains(&rig.chunks), "{} chunks", rig.chunks);
}

#[test]
fn strict_order_refuses_to_run_backwards_and_nothing_else() {
    let mut rig = Rig::new();
    let before = fill_noise(&rig.alice, 4);
    let strict = |d| with_flags(d, Flags::STRICT_ORDER);
    let c = rig.complete(&strict(memmove(VA, VA + 1, 8000)));
    assert_eq!(short_form(&c), (Status::Overlap, false, 0));
    assert!(rig.alice.read(VA, 4 * PAGE) == before);
    for (src, dst) in [(VA + 1, VA), (VA, VA + 8000), (VA, VA)] {
        let c = rig.complete(&strict(memmove(src, dst, 8000)));
        assert_eq!(short_form(&c), (Status::Success, false, 8000));
        assert_eq!(c.result, 0);
    }
}

/// A copy that runs backwards and faults at its end has not touched the page of its beginning.
#[test]
fn a_short_move_that_faults_at_once_marks_nothing() {
    let mut kinds = vec![Kind::Good; PAGES];
    kinds[6] = Kind::ReadOnly;
    check_move(&kinds, 24_317, 24_391, 186, PAGE, true);
}

/// Chunks shrink to the least that gets on, and all is done nevertheless.
#[test]
fn long_ones_leave_the_rest_to_other_chunks_while_somebody_waits() {
    const SIZE: u64 = 6 << 20;
    const TO: u64 = VA + (8 << 20);
    let mut rig = Rig::with_ram(32 << 20);
    rig.alice.map(VA, 16 << 20, PageSize::Large);
    let fill = Descriptor {
        src: 0x0807_0605_0403_0201,
        dst: VA,
        size: SIZE as u32,
        ..descriptor(Opcode::Fill, 0, 0)
    };
    let forwards = memmove(VA, TO, SIZE as u32);
    // It overlaps: from its end.
    let backwards = memmove(VA, VA + PAGE, SIZE as u32);
    let chunks = |rig: &mut Rig| {
        [fill, forwards, backwards].map(|descriptor| {
            let done = rig.complete(&descriptor);
            let whole = (Status::Success, false, SIZE as u32);
            assert_eq!(short_form(&done), whole);
            rig.chunks
        })
    };
    let alone = chunks(&mut rig);
    let in_chunks = (SIZE / CHUNK_BYTES) as u32;
    assert_eq!(alone, [in_chunks; 3]);

    let epochs = Arc::clone(&rig.epochs);
    let held = epochs.enter(1);
    let beside = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| epochs.synchronize());
        while !held.is_awaited() {
            std::thread::yield_now();
        }
        let beside = chunks(&mut rig);
        drop(held);
        assert_eq!(waiter.join().unwrap(), 1);
        beside
    });
    // What a fill does in one go is a chunk.
    assert_eq!(beside, [in_chunks, 4 * in_chunks, 4 * in_chunks]);
    assert_eq!(chunks(&mut rig), alone, "nobody waits any more");
}

/// A lone queue's chunk goes on for one slice at most when somebody waits: also what does not stop at every step.
#[test]
fn a_long_chunk_ends_after_a_slice_when_somebody_waits() {
    const SIZE: u64 = 4 << 20;
    let mut rig = Rig::with_ram(16 << 20);
    rig.alice.map(VA, SIZE, PageSize::Small);
    rig.chunk_bytes = LONE_BYTES;
    let [fill, fetch] = [Opcode::Fill, Opcode::TranslationFetch].map(|opcode| {
        let size = SIZE as u32;
        match opcode {
            Opcode::Fill => Descriptor {
                src: 7,
                dst: VA,
                size,
                ..descriptor(opcode, 0, 0)
            },
            _ => Descriptor {
                src: VA,
                size,
                op0: 1,
                ..descriptor(opcode, 0, 0)
            },
        }
    });
    let work = [SIZE, SIZE / PAGE * OPERATION_COST];
    let chunks = |rig: &mut Rig| {
        [fill, fetch].map(|descriptor| {
            let done = rig.complete(&descriptor);
            assert_eq!(done.status(), Some(Status::Success), "{done:?}");
            rig.chunks
        })
    };
    let of = |bytes: u64| work.map(|work| work.div_ceil(bytes) as u32);
    assert_eq!(chunks(&mut rig), of(LONE_BYTES));

    let epochs = Arc::clone(&rig.epochs);
    let held = epochs.enter(1);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| epochs.synchronize());
        while !held.is_awaited() {
            std::thread::yield_now();
        }
        let [fills, fetches] = chunks(&mut rig);
        drop(held);
        assert_eq!(waiter.join().unwrap(), 1);
        // A fill stops at every piece, of eight pages; a fetch when the slice is full.
        assert_eq!(fills, (SIZE / (8 * PAGE)) as u32);
        assert_eq!(fetches, of(CHUNK_BYTES + OPERATION_COST)[1]);
    });
}
