//! Every operation once, submitted by a ring-3 process of one VM against memory of another over a capability. What
//! it did is checked by the other VM's own checksum, against naive code here.
//!
//! SEND and RECEIVE have tests of their own, in `messages`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use byway_agent::checksum::checksum;
use byway_agent::pattern;
use byway_engine::ops::supported_opcodes;
use byway_engine::{Engine, EngineConfig};
use byway_protocols::codec::KeyAlgorithm;
use byway_protocols::{Completion, Descriptor, Opcode, Rights, Status};
use byway_ring::{
    Address, Atomic, BatchEnd, Block, Checked, Compared, Compression, Crc32c, Crc64, Delta,
    Difference, Done, Form, Intent, Mode, Pattern, Previous, Request, Rows, Sealed, Segment, Side,
    Slot, Tags, Transformed, segment, source,
};

use super::world::{APP, KIB, MIB, Party, RW, engine, turn};

/// Bytes that most operations work on: several pages and a bit.
const BYTES: u64 = 20 * KIB + 40;
/// Where results go in bob's buffer.
const OUT: u64 = MIB;
/// Where alice keeps lists.
const LISTS: u64 = MIB;

/// Alice, who submits, and bob, whose memory it is.
struct Pair {
    alice: Party,
    bob: Party,
    slot: Slot,
    /// Operations submitted so far.
    seen: RefCell<BTreeSet<u8>>,
    _engine: Engine,
}

impl Pair {
    fn boot() -> Result<Self> {
        let engine = engine(EngineConfig::default(), &["alice", "bob"])?;
        let alice = Party::boot(&engine, "alice", 4 * MIB)?;
        let bob = Party::boot(&engine, "bob", 4 * MIB)?;
        let (_, slot) = bob.give(&alice, 0, 4 * MIB, RW)?;
        Ok(Self {
            slot: Slot::new(slot).context("15 bits")?,
            alice,
            bob,
            seen: RefCell::default(),
            _engine: engine,
        })
    }

    /// Both begin with their patterns; what bob may get is 0.
    fn begin(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        self.bob.mark(0)?;
        self.alice.fill(0, BYTES, 1)?;
        self.bob.fill(0, BYTES, 2)?;
        Ok((patterned(1), patterned(2)))
    }

    /// An offset of alice's buffer.
    fn own(&self, offset: u64) -> Address {
        Address::own(self.alice.buffer + offset)
    }

    /// An offset of bob's.
    fn remote(&self, offset: u64) -> Address {
        Address::capability(self.slot, offset)
    }

    fn run(&self, request: Result<Request, byway_ring::RequestError>) -> Result<Completion> {
        let descriptor = Descriptor::from(request?);
        self.seen.borrow_mut().insert(descriptor.code());
        self.alice.execute_one(APP, &descriptor)
    }

    /// Bob's checksum of what he has at `offset` is that of these bytes.
    fn expect(&self, what: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let va = self.bob.buffer + offset;
        let found = self.bob.checksum(APP, va, bytes.len() as u64)?;
        ensure!(
            found == checksum(bytes),
            "{what}: bob has other bytes at {offset:#x}"
        );
        Ok(())
    }

    /// A list in alice's memory.
    fn list(&self, offset: u64, segments: &[Segment]) -> Result<Address> {
        let at = self.own(LISTS + offset);
        let bytes: Vec<u8> = segments.iter().flat_map(Segment::to_bytes).collect();
        self.alice.write(APP, at.addr, &bytes)?;
        Ok(at)
    }
}

fn patterned(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; BYTES as usize];
    pattern::fill(&mut bytes, seed);
    bytes
}

/// A reflected CRC, bit by bit.
fn crc(bytes: &[u8], polynomial: u64, ones: u64) -> u64 {
    ones ^ bytes.iter().fold(ones, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg())
        })
    })
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc(bytes, 0x82f6_3b78, u32::MAX.into()) as u32
}

fn crc64(bytes: &[u8]) -> u64 {
    // The polynomial of CRC-64/NVME with its bits reversed.
    crc(bytes, 0xad93_d235_94c9_3659_u64.reverse_bits(), u64::MAX)
}

/// Protection information of a block, by the standard's polynomial.
fn information(block: &[u8], app_tag: u16, ref_tag: u32) -> Vec<u8> {
    let guard = block.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            let carry = crc & 0x8000 != 0;
            (crc << 1) ^ if carry { 0x8bb7 } else { 0 }
        })
    });
    let tags = [guard.to_be_bytes(), app_tag.to_be_bytes()].concat();
    [tags, ref_tag.to_be_bytes().to_vec()].concat()
}

#[test]
fn every_operation_does_to_a_peers_memory_what_it_says() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let pair = Pair::boot()?;
    for operations in [
        moves,
        comparisons,
        checksums,
        deltas,
        protection,
        gathers,
        words,
        streams,
        ciphers,
        sealing,
        batches,
    ] {
        operations(&pair)?;
    }
    let elsewhere = |code: u8| {
        let real = Opcode::from_code(code).map(Opcode::canonical);
        real.is_none_or(|real| {
            // Aliases; messages; devices, and what gives up waiting for them, which are in `endpoints`.
            let others = [
                Opcode::Send,
                Opcode::Receive,
                Opcode::DeviceTransfer,
                Opcode::Cancel,
            ];
            real as u8 != code || others.contains(&real)
        })
    };
    let supported = supported_opcodes();
    let missing: Vec<u8> = (0..=u8::MAX)
        .filter(|code| supported[usize::from(code / 8)] >> (code % 8) & 1 != 0)
        .filter(|code| !elsewhere(*code) && !pair.seen.borrow().contains(code))
        .collect();
    ensure!(
        missing.is_empty(),
        "operations that this test leaves out: {missing:02x?}"
    );
    Ok(())
}

fn moves(pair: &Pair) -> Result<()> {
    let (ours, theirs) = pair.begin()?;
    for nothing in [Request::nop(), Request::drain()] {
        Done::of(&pair.run(Ok(nothing))?)?;
    }
    Done::of(&pair.run(Request::memmove(pair.remote(OUT + 5), pair.own(0), BYTES))?)?;
    pair.expect("MEMMOVE", OUT + 5, &ours)?;
    // Within bob's memory, over itself.
    Done::of(&pair.run(Request::memmove(pair.remote(100), pair.remote(0), BYTES))?)?;
    pair.expect("MEMMOVE", 100, &theirs)?;
    let bytes: [u8; 16] = std::array::from_fn(|index| index as u8);
    Done::of(&pair.run(Request::fill(
        pair.remote(OUT + 3),
        Pattern::Bytes16(bytes),
        BYTES,
    ))?)?;
    let filled: Vec<u8> = bytes.iter().copied().cycle().take(BYTES as usize).collect();
    pair.expect("FILL", OUT + 3, &filled)?;
    let (first, second) = (pair.remote(OUT + 8), pair.remote(OUT + 64 * KIB + 8));
    Done::of(&pair.run(Request::dualcast(first, second, pair.own(0), BYTES))?)?;
    pair.expect("DUALCAST", OUT + 8, &ours)?;
    pair.expect("DUALCAST", OUT + 64 * KIB + 8, &ours)?;
    Done::of(&pair.run(Request::fetch(pair.remote(OUT), BYTES, Intent::Write))?)?;
    Done::of(&pair.run(Request::flush(pair.remote(OUT), BYTES))?)?;
    pair.expect("TRANSLATION_FETCH and CACHE_FLUSH", OUT + 8, &ours)
}

fn comparisons(pair: &Pair) -> Result<()> {
    let (ours, _) = pair.begin()?;
    Done::of(&pair.run(Request::memmove(pair.remote(OUT), pair.own(0), BYTES))?)?;
    let compare = || Request::compare(pair.own(0), pair.remote(OUT), BYTES);
    ensure!(Compared::of(&pair.run(compare())?)?.differs_at.is_none());
    let mut changed = ours;
    changed[9999] ^= 1;
    pair.bob
        .write(APP, pair.bob.buffer + OUT + 9999, &changed[9999..10_000])?;
    let differs = compare().and_then(|request| request.expecting_difference(false));
    let found = Compared::of(&pair.run(differs)?)?;
    ensure!(
        (found.differs_at, found.as_expected) == (Some(9999), false),
        "{found:?}"
    );
    let value = [7, 6, 5, 4, 3, 2, 1, 0];
    Done::of(&pair.run(Request::fill(
        pair.remote(OUT),
        Pattern::Bytes8(value),
        1000,
    ))?)?;
    let found = Compared::of(&pair.run(Request::compare_value(pair.remote(OUT), value, 1001))?)?;
    ensure!(found.differs_at == Some(1000), "{found:?}");
    pair.expect("comparisons", OUT + 1000, &changed[1000..])
}

fn checksums(pair: &Pair) -> Result<()> {
    let (ours, theirs) = pair.begin()?;
    let found = Crc32c::of(&pair.run(Request::crc(pair.remote(0), BYTES, 0))?)?.value;
    ensure!(found == crc32c(&theirs), "CRC_GEN: {found:08x}");
    let found =
        Crc32c::of(&pair.run(Request::copy_crc(pair.remote(OUT), pair.own(0), BYTES, 0))?)?.value;
    ensure!(found == crc32c(&ours), "COPY_CRC: {found:08x}");
    pair.expect("COPY_CRC", OUT, &ours)?;
    let found = Crc64::of(&pair.run(Request::crc64(pair.remote(OUT), BYTES, 0))?)?.value;
    ensure!(found == crc64(&ours), "CRC64: {found:016x}");
    Ok(())
}

fn deltas(pair: &Pair) -> Result<()> {
    let (ours, _) = pair.begin()?;
    Done::of(&pair.run(Request::memmove(pair.remote(0), pair.own(0), BYTES))?)?;
    let mut theirs = ours.clone();
    let mut record = Vec::new();
    for word in [0_u16, 7, 600, (BYTES / 8 - 1) as u16] {
        let at = usize::from(word) * 8;
        theirs[at] ^= 0xff;
        pair.bob
            .write(APP, pair.bob.buffer + at as u64, &theirs[at..at + 8])?;
        record.extend_from_slice(&word.to_le_bytes());
        record.extend_from_slice(&theirs[at..at + 8]);
    }
    let create = Request::create_delta(pair.remote(OUT), 400, pair.own(0), pair.remote(0), BYTES);
    let delta = Delta::of(&pair.run(create)?)?;
    ensure!(delta.difference == Difference::Recorded, "{delta:?}");
    ensure!(
        u64::from(delta.record_bytes) == record.len() as u64,
        "{delta:?}"
    );
    pair.expect("CREATE_DELTA", OUT, &record)?;
    // A copy of the old version becomes the new one.
    let old = 2 * MIB;
    Done::of(&pair.run(Request::memmove(pair.remote(old), pair.own(0), BYTES))?)?;
    let apply = Request::apply_delta(
        pair.remote(old),
        BYTES,
        pair.remote(OUT),
        record.len() as u64,
    );
    Done::of(&pair.run(apply)?)?;
    pair.expect("APPLY_DELTA", old, &theirs)
}

fn protection(pair: &Pair) -> Result<()> {
    const BLOCKS: u64 = 9;
    let (ours, _) = pair.begin()?;
    let data = &ours[..512 * BLOCKS as usize];
    let form = Form::plain(Block::B512);
    let tags = |app_tag, ref_tag| Tags {
        app_tag,
        ref_tag,
        ..Tags::default()
    };
    let blocks = |app_tag, ref_tag: u32| -> Vec<u8> {
        let block = |(i, block): (usize, &[u8])| {
            [block, &information(block, app_tag, ref_tag + i as u32)].concat()
        };
        data.chunks(512).enumerate().flat_map(block).collect()
    };
    let both = 520 * BLOCKS;
    let good = |what: &str, request| -> Result<()> {
        let checked = Checked::of(&pair.run(request)?)?;
        ensure!(checked.mismatch.is_none(), "{what}: {checked:?}");
        Ok(())
    };
    let (dif, other, dix) = (OUT, OUT + 64 * KIB, OUT + 128 * KIB);
    let insert = Request::dif_insert(
        pair.remote(dif),
        pair.own(0),
        512 * BLOCKS,
        form,
        tags(7, 100),
    );
    good("DIF_INSERT", insert)?;
    pair.expect("DIF_INSERT", dif, &blocks(7, 100))?;
    good(
        "DIF_CHECK",
        Request::dif_check(pair.remote(dif), both, form, tags(7, 100)),
    )?;
    let update = Request::dif_update(
        pair.remote(other),
        pair.remote(dif),
        both,
        form,
        tags(7, 100),
        tags(8, 5),
    );
    good("DIF_UPDATE", update)?;
    pair.expect("DIF_UPDATE", other, &blocks(8, 5))?;
    let generate = Request::dif_generate(pair.remote(dif), both, form, tags(9, 1));
    good("DIF_GEN", generate)?;
    pair.expect("DIF_GEN", dif, &blocks(9, 1))?;
    let strip = Request::dif_strip(pair.remote(other), pair.remote(dif), both, form, tags(9, 1));
    good("DIF_STRIP", strip)?;
    pair.expect("DIF_STRIP", other, data)?;
    let generate = Request::dix_generate(
        pair.remote(dix),
        pair.own(0),
        512 * BLOCKS,
        form,
        tags(3, 4),
    );
    good("DIX_GEN", generate)?;
    let apart: Vec<u8> = (0..)
        .zip(data.chunks(512))
        .flat_map(|(i, block)| information(block, 3, 4 + i))
        .collect();
    pair.expect("DIX_GEN", dix, &apart)?;
    let verify = || {
        Request::dix_verify(
            pair.remote(dix),
            pair.remote(other),
            512 * BLOCKS,
            form,
            tags(3, 4),
        )
    };
    good("DIX_VERIFY", verify())?;
    // And a block that is damaged.
    pair.bob
        .write(APP, pair.bob.buffer + other + 512 * 4, &[!data[512 * 4]])?;
    let checked = Checked::of(&pair.run(verify())?)?;
    ensure!(checked.bytes == 512 * 4, "{checked:?}");
    ensure!(
        checked
            .mismatch
            .is_some_and(|m| m.guard && !m.app_tag && !m.ref_tag),
        "{checked:?}"
    );
    ensure!(checked.tags.source_ref_tag == 4 + 4, "{checked:?}");
    Ok(())
}

fn gathers(pair: &Pair) -> Result<()> {
    let (ours, theirs) = pair.begin()?;
    let sources = [pair.own(0), pair.remote(0), pair.own(16)].map(source);
    let list = pair.list(0, &sources)?;
    let size = BYTES - 16;
    Done::of(&pair.run(Request::xor(pair.remote(OUT), list, &sources, size))?)?;
    let sum: Vec<u8> = (0..size as usize)
        .map(|i| ours[i] ^ theirs[i] ^ ours[i + 16])
        .collect();
    pair.expect("XOR", OUT, &sum)?;

    let from = [
        segment(pair.own(1000), 700),
        segment(pair.remote(50), 9),
        segment(pair.own(0), 2000),
    ];
    let to = [
        segment(pair.remote(OUT + 8000), 1),
        segment(pair.remote(OUT + 100), 3000),
    ];
    let all = [&ours[1000..1700], &theirs[50..59], &ours[..2000]].concat();
    let src = Side::List {
        at: pair.list(0, &from)?,
        segments: &from,
    };
    let dst = Side::List {
        at: pair.list(KIB, &to)?,
        segments: &to,
    };
    Done::of(&pair.run(Request::copy_sg(dst, src, all.len() as u64))?)?;
    pair.expect("COPY_SG of lists", OUT + 8000, &all[..1])?;
    pair.expect("COPY_SG of lists", OUT + 100, &all[1..])?;

    let rows = Rows {
        row_bytes: 30,
        src_stride: 100,
        dst_stride: 40,
    };
    let out = OUT + 64 * KIB;
    Done::of(&pair.run(Request::copy_rows(
        pair.remote(out),
        pair.own(0),
        rows,
        30 * 50,
    ))?)?;
    let mut expected = vec![0; 40 * 50];
    for row in 0..50 {
        expected[row * 40..row * 40 + 30].copy_from_slice(&ours[row * 100..row * 100 + 30]);
    }
    pair.expect("COPY_SG of rows", out, &expected)
}

fn words(pair: &Pair) -> Result<()> {
    pair.begin()?;
    let word = pair.remote(OUT + 8);
    let swap = |expected, new| Atomic::CompareSwap { expected, new };
    for (change, before, stored, after) in [
        (Atomic::Swap(5), 0, true, 5),
        (Atomic::FetchAdd(u64::MAX), 5, true, 4),
        (swap(5, 9), 4, false, 4),
        (swap(4, 9), 4, true, 9_u64),
    ] {
        let found = Previous::of(&pair.run(Request::atomic(word, change))?)?;
        ensure!(
            (found.value, found.stored) == (before, stored),
            "{change:?}: {found:?}"
        );
        pair.expect("ATOMIC64", OUT + 8, &after.to_le_bytes())?;
    }
    Done::of(&pair.run(Request::signal(word, 77))?)?;
    pair.expect("SIGNAL", OUT + 8, &77_u64.to_le_bytes())
}

fn streams(pair: &Pair) -> Result<()> {
    for &compression in Compression::ALL {
        pair.begin()?;
        // Half of it can be compressed.
        let bytes = 16_000;
        Done::of(&pair.run(Request::fill(pair.own(8000), Pattern::byte(7), 8000))?)?;
        let mut text = patterned(1);
        text[8000..16_000].fill(7);
        let compress = Request::compress(pair.remote(OUT), 20_000, pair.own(0), bytes, compression);
        let made = Transformed::of(&pair.run(compress)?)?;
        ensure!(
            u64::from(made.used) == bytes && made.produced < 9000,
            "{compression:?}: {made:?}"
        );
        let back = OUT + 64 * KIB;
        let produced = u64::from(made.produced);
        let decompress = Request::decompress(
            pair.remote(back),
            bytes,
            pair.remote(OUT),
            produced,
            compression,
        );
        let made = Transformed::of(&pair.run(decompress)?)?;
        ensure!(
            u64::from(made.produced) == bytes,
            "{compression:?}: {made:?}"
        );
        pair.expect("COMPRESS and DECOMPRESS", back, &text[..bytes as usize])?;
    }
    Ok(())
}

fn ciphers(pair: &Pair) -> Result<()> {
    let key: Vec<u8> = (0..64).collect();
    let nonce = [9; 12];
    let gcm = |fused| Mode::Gcm {
        nonce,
        additional: 0,
        fused,
    };
    let xts = Mode::Xts {
        unit_log2: 12,
        tweak: 1,
    };
    for (algorithm, mode, tag) in [
        (KeyAlgorithm::AesXts256, xts, 0),
        (KeyAlgorithm::AesCbc256, Mode::Cbc { iv: [3; 16] }, 0),
        (KeyAlgorithm::AesGcm128, gcm(None), 16),
    ] {
        let (ours, _) = pair.begin()?;
        let bytes = 16_384;
        let key =
            pair.alice
                .load_key(APP, algorithm, &key[..algorithm.key_bytes()], Rights::KEY)?;
        let key = Slot::new(key).context("15 bits")?;
        let sealed = bytes + tag;
        let encrypt = Request::encrypt(pair.remote(OUT), sealed, pair.own(0), bytes, key, &mode);
        Transformed::of(&pair.run(encrypt)?)?;
        let differs =
            Compared::of(&pair.run(Request::compare(pair.own(0), pair.remote(OUT), bytes))?)?;
        ensure!(
            differs.differs_at.is_some(),
            "{algorithm:?} left the plaintext"
        );
        let back = OUT + 64 * KIB;
        let decrypt = Request::decrypt(
            pair.remote(back),
            bytes,
            pair.remote(OUT),
            sealed,
            key,
            &mode,
        );
        let made = Transformed::of(&pair.run(decrypt)?)?;
        ensure!(u64::from(made.produced) == bytes, "{algorithm:?}: {made:?}");
        pair.expect("ENCRYPT and DECRYPT", back, &ours[..bytes as usize])?;
    }
    Ok(())
}

/// A message through memory of bob's, which nobody but the key's holder can read there or change.
fn sealing(pair: &Pair) -> Result<()> {
    const LABEL: u64 = 0x1122_3344;
    let (ours, _) = pair.begin()?;
    let bytes: Vec<u8> = (0..32).collect();
    let key = pair
        .alice
        .load_key(APP, KeyAlgorithm::Channel256, &bytes, Rights::KEY)?;
    let key = Slot::new(key).context("15 bits")?;
    let sealed = pair.remote(OUT);
    let seal = Request::seal_copy(sealed, pair.own(0), BYTES, key, LABEL);
    let made = Sealed::of(&pair.run(seal)?)?;
    ensure!(
        made.number == 1 && u64::from(made.produced) == BYTES + 40,
        "{made:?}"
    );
    let back = OUT + 64 * KIB;
    let size = made.produced.into();
    let open =
        |lowest, label| Request::open_copy(pair.remote(back), sealed, size, key, lowest, label);
    for (lowest, label, status) in [
        (2, LABEL, Status::Replayed),
        (1, LABEL + 1, Status::TagMismatch),
    ] {
        let refused = pair.run(open(lowest, label))?;
        ensure!(
            refused.status() == Some(status),
            "OPEN_COPY: {refused:?}, not {status:?}"
        );
    }
    let opened = Sealed::of(&pair.run(open(1, LABEL))?)?;
    ensure!(
        opened.number == 1 && u64::from(opened.produced) == BYTES,
        "{opened:?}"
    );
    pair.expect("SEAL_COPY and OPEN_COPY", back, &ours)
}

/// A status for every element, of which one fails.
fn batches(pair: &Pair) -> Result<()> {
    let (ours, _) = pair.begin()?;
    let beyond = pair.remote(4 * MIB - 8);
    let elements = [
        Request::memmove(pair.remote(OUT), pair.own(0), 100)?,
        Request::memmove(beyond, pair.own(0), 100)?,
        Request::crc(pair.remote(OUT), 100, 0)?,
        Request::fill(pair.remote(OUT + KIB), Pattern::byte(3), 50)?,
        // Behind a failure it is not run.
        Request::signal(pair.remote(OUT + 2 * KIB), 1)?,
    ];
    let bytes: Vec<u8> = elements
        .iter()
        .flat_map(|&element| Descriptor::from(element).to_bytes())
        .collect();
    let (list, statuses) = (pair.own(LISTS), pair.own(LISTS + 4 * KIB));
    pair.alice.write(APP, list.addr, &bytes)?;
    let batch = Request::batch(list, statuses, elements.len());
    let end = BatchEnd::of(&pair.run(batch)?)?;
    ensure!((end.succeeded, end.all) == (3, false), "{end:?}");
    let mut told = vec![0; elements.len() * Completion::SIZE];
    pair.alice.read(APP, statuses.addr, &mut told)?;
    let told: Vec<Completion> = told
        .as_chunks()
        .0
        .iter()
        .map(Completion::from_bytes)
        .collect();
    let statuses: Vec<_> = told.iter().map(Completion::status).collect();
    let done = Some(Status::Success);
    let expected = [
        done,
        Some(Status::Bounds),
        done,
        done,
        Some(Status::NotAttempted),
    ];
    ensure!(statuses == expected, "{statuses:?}");
    ensure!(Crc32c::of(&told[2])?.value == crc32c(&ours[..100]));
    pair.expect("an element", OUT, &ours[..100])?;
    pair.expect("an element", OUT + KIB, &[3; 50])?;
    pair.expect("the element behind a failure", OUT + 2 * KIB, &[0; 8])
}
