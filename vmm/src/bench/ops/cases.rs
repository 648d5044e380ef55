//! The operations that are measured: descriptors, what they work on, and the library that is held against each.

use std::ptr::NonNull;

use anyhow::{Context as _, Result, ensure};
use byway_engine::backend::Software;
use byway_engine::capability::Key;
use byway_engine::codec::Direction;
use byway_engine::testing::{Guest, PageSize, Process};
use byway_protocols::codec::{CodecWord, Compression, KeyAlgorithm, TAG_BYTES};
use byway_protocols::operands::{
    ApplyDeltaFields, AtomicFields, CopySgFields, CreateDeltaFields, DifFields, DualcastFields,
    Segment, XorFields,
};
use byway_protocols::{Descriptor, Flags, Opcode, Rights};
use crc_fast::CrcAlgorithm;

use super::library::{self, Range, Work};
use super::turns::Turns;
use crate::measure::memcpy::{Fastest, Ranges};

/// Where a process has its operands, a gigabyte apart.
const SRC: u64 = 0x4000_0000;
const DST: u64 = 0x8000_0000;
const THIRD: u64 = 0xc000_0000;
/// Lists, records and elements.
const LIST: u64 = 0x1_0000_0000;
/// Room at each of the first three: the largest operation, and what is put around its data.
const ROOM: u64 = 72 << 20;
/// Room for lists.
const LIST_ROOM: u64 = 2 << 20;
/// Data in a protected block, and with the information behind it.
const BLOCK: (u64, u64) = (512, 520);
/// A data unit of XTS.
const UNIT_LOG2: u8 = 12;
/// Words that differ of so many, for deltas.
const DIFFERENT: usize = 64;
/// Sources of XOR.
const SOURCES: u64 = 4;

/// A guest with a process that has three buffers.
pub(super) struct Guests {
    pub(super) alice: Process,
    guest: std::sync::Arc<Guest>,
    /// Guest-physical start of each buffer.
    frames: [(u64, u64); 4],
    /// Slots of a key for each algorithm, which cases share: there are more cases than a process has slots.
    keys: Vec<(KeyAlgorithm, u16)>,
}

impl Guests {
    pub(super) fn new() -> Result<Self> {
        ensure!(
            std::arch::is_x86_feature_detected!("avx2"),
            "the library's side of this case is made for processors with AVX2"
        );
        let guest = Guest::sealed(1, 256 << 20);
        let alice = Process::new(&guest, 64);
        let frames = [SRC, DST, THIRD, LIST].map(|va| {
            let bytes = if va == LIST { LIST_ROOM } else { ROOM };
            (va, alice.map(va, bytes, PageSize::Large))
        });
        let keys = (KeyAlgorithm::ALL.iter())
            .map(|&algorithm| {
                let key = Key::new(algorithm, &library::key(algorithm)).context("a good key")?;
                Ok((algorithm, alice.give_key(&alice, key, Rights::KEY)))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            alice,
            guest,
            frames,
            keys,
        })
    }

    /// A range of one of the buffers as the host sees it.
    fn host(&self, va: u64, bytes: u64) -> Range {
        let (base, gpa) = self
            .frames
            .iter()
            .copied()
            .rfind(|&(base, _)| base <= va)
            .unwrap_or((SRC, 0));
        let start = self.guest.host(gpa + (va - base), bytes);
        let start = NonNull::new(start).expect("RAM does not start at 0");
        // SAFETY: inside the guest's window, which outlives every case; while the library runs there, nothing is
        // submitted and nobody else has the buffers.
        unsafe { Range::new(start, bytes as usize) }
    }

    /// Makes a range text of a few words: it compresses about as well as logs do.
    fn text(&self, va: u64, bytes: u64) {
        const WORDS: [&[u8]; 8] = [
            b"transfer ",
            b"page ",
            b"0x7f3a ",
            b"capability ",
            b"queue\n",
            b"worker-3 ",
            b"42 ",
            b"ok;",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut out = self.host(va, bytes).bytes_mut();
        while !out.is_empty() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
            let random = state >> 32;
            let word = if random.is_multiple_of(5) {
                &random.to_le_bytes()[..3]
            } else {
                WORDS[(random >> 8) as usize % WORDS.len()]
            };
            let len = word.len().min(out.len());
            out[..len].copy_from_slice(&word[..len]);
            out = &mut out[len..];
        }
    }

    /// Makes a range what looks like random bytes: it does not compress.
    fn noise(&self, va: u64, bytes: u64) {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in self.host(va, bytes).words_mut() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state;
        }
    }

    /// Alice's key of this algorithm.
    fn key(&self, algorithm: KeyAlgorithm) -> Result<u16> {
        let found = self.keys.iter().find(|key| key.0 == algorithm);
        Ok(found.context("a key for every algorithm")?.1)
    }
}

/// One operation at one size.
pub(super) struct Case {
    pub(super) op: &'static str,
    /// Bytes that its throughput counts.
    pub(super) size: u64,
    pub(super) descriptor: Descriptor,
    pub(super) library: Option<Work>,
    /// The two that it does in one pass.
    pub(super) passes: Option<[Descriptor; 2]>,
    pub(super) staged: bool,
    /// Whether there are bytes to be counted.
    pub(super) moves: bool,
    pub(super) note: Option<String>,
}

impl Case {
    fn new(op: &'static str, size: u64, descriptor: Descriptor) -> Self {
        Self {
            op,
            size,
            descriptor,
            library: None,
            passes: None,
            staged: false,
            moves: true,
            note: None,
        }
    }

    fn beside(self, library: Work) -> Self {
        Self {
            library: Some(library),
            ..self
        }
    }

    fn staged(self, library: Work) -> Self {
        Self {
            staged: true,
            ..self.beside(library)
        }
    }

    fn instead_of(self, passes: [Descriptor; 2]) -> Self {
        Self {
            passes: Some(passes),
            ..self
        }
    }

    fn moving_nothing(self) -> Self {
        Self {
            moves: false,
            ..self
        }
    }

    fn with_note(self, note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..self
        }
    }
}

/// Prepares the buffers for an operation of so many bytes. They are everybody's: what is prepared is measured at once.
type Make = fn(&Guests, &mut Turns<'_>, &'static str, u64) -> Result<Case>;

/// A case that is still to be made.
pub(super) struct Plan {
    pub(super) op: &'static str,
    pub(super) size: u64,
    make: Make,
}

impl Plan {
    pub(super) fn make(&self, guests: &Guests, turns: &mut Turns<'_>) -> Result<Case> {
        (self.make)(guests, turns, self.op, self.size)
            .with_context(|| format!("{} of {} bytes", self.op, self.size))
    }
}

const K64: u64 = 64 << 10;
const M1: u64 = 1 << 20;
const M64: u64 = 64 << 20;

/// All of them. Sizes: the smallest that has a target, one that leaves the second cache, and what leaves the last for
/// operations that memory limits.
pub(super) fn all() -> Vec<Plan> {
    let both: &[u64] = &[K64, M1];
    let three: &[u64] = &[K64, M1, M64];
    let groups: &[(&'static str, &[u64], Make)] = &[
        ("Nop", &[0], nothing),
        ("Drain", &[0], nothing),
        ("Batch (16 copies)", both, batch),
        ("Memmove", three, memmove),
        ("Fill", three, fill),
        ("Compare", three, compare),
        ("CompareValue", three, compare_value),
        ("CreateDelta", &[K64, 512 << 10], create_delta),
        ("ApplyDelta", &[K64, 512 << 10], apply_delta),
        ("Dualcast", three, dualcast),
        ("TranslationFetch", &[M64], fetch),
        ("CrcGen", three, crc),
        ("CopyCrc", three, copy_crc),
        ("DifCheck", both, dif_check),
        ("DifInsert", both, dif_insert),
        ("DifStrip", both, dif_strip),
        ("DifUpdate", both, dif_update),
        ("DixGen", both, dix_gen),
        ("CacheFlush", both, cache_flush),
        ("Encrypt (AES-256-XTS)", both, xts),
        ("Encrypt (AES-256-CBC)", both, cbc),
        ("Encrypt (AES-256-GCM)", both, gcm),
        ("Decrypt (AES-256-XTS)", both, xts),
        ("Decrypt (AES-256-CBC)", both, cbc),
        ("Decrypt (AES-256-GCM)", both, gcm_open),
        ("Compress (LZ4)", both, lz4),
        ("Compress (DEFLATE)", both, deflate),
        ("Decompress (LZ4)", both, lz4_back),
        ("Decompress (DEFLATE)", both, deflate_back),
        ("Encrypt (LZ4, AES-256-GCM)", &[K64, M1, M64], lz4_gcm),
        ("Encrypt (the same, of noise)", &[M64], lz4_gcm_of_noise),
        ("Crc64", three, crc64),
        ("Xor (4 sources)", &[K64, M1, 16 << 20], xor),
        ("CopySg (16 KiB segments)", three, copy_sg),
        ("CopySg (4 KiB rows)", three, copy_rows),
        ("DifGen", both, dif_gen),
        ("DixVerify", both, dix_verify),
        ("SealCopy", both, seal),
        ("OpenCopy", both, open),
        ("Atomic64", &[8], atomic),
        ("Signal", &[8], signal),
    ];
    let plan = |op, make| move |&size: &u64| Plan { op, size, make };
    groups
        .iter()
        .flat_map(|&(op, sizes, make)| sizes.iter().map(plan(op, make)))
        .collect()
}

fn descriptor(opcode: Opcode, src: u64, dst: u64, size: u64) -> Descriptor {
    Descriptor {
        src,
        dst,
        size: size as u32,
        ..Descriptor::new(opcode, Flags::NONE)
    }
}

fn nothing(_: &Guests, _: &mut Turns<'_>, op: &'static str, _: u64) -> Result<Case> {
    let opcode = if op == "Nop" {
        Opcode::Nop
    } else {
        Opcode::Drain
    };
    let case = Case::new(op, 0, descriptor(opcode, 0, 0, 0));
    Ok(case.moving_nothing().with_note("moves nothing"))
}

fn ranges(guests: &Guests, size: u64) -> Ranges {
    let (src, dst) = (guests.host(SRC, size), guests.host(DST, size));
    // SAFETY: as for `Guests::host`.
    unsafe { Ranges::new(dst.start(), src.start(), size as usize) }
}

/// The fastest of the host's copies at a size.
fn best_kernel(guests: &Guests, size: u64) -> Fastest {
    ranges(guests, size).fastest(((8 << 20) / size as usize).max(1), 3)
}

/// A copy by it.
fn best_copy(guests: &Guests, size: u64) -> Work {
    let (ranges, best) = (ranges(guests, size), best_kernel(guests, size));
    Box::new(move || ranges.copy(best))
}

fn memmove(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let case = Case::new(op, size, descriptor(Opcode::Memmove, SRC, DST, size));
    Ok(case.beside(best_copy(guests, size)))
}

fn batch(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let part = size / 16;
    for i in 0..16 {
        let element = descriptor(Opcode::Memmove, SRC + i * part, DST + i * part, part);
        guests.alice.write(LIST + 64 * i, &element.to_bytes());
    }
    let batch = Descriptor {
        status_array: LIST + M1,
        ..descriptor(Opcode::Batch, LIST, 0, 16)
    };
    // As many calls as there are elements, each of the kernel that is best at their size.
    let best = best_kernel(guests, part);
    let copies: Vec<_> = (0..16)
        .map(|i| {
            let [src, dst] = [SRC, DST].map(|va| guests.host(va + i * part, part).start());
            // SAFETY: as for `Guests::host`.
            unsafe { Ranges::new(dst, src, part as usize) }
        })
        .collect();
    let library = Box::new(move || copies.iter().for_each(|copy| copy.copy(best)));
    Ok(Case::new(op, size, batch).beside(library))
}

fn fill(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let fill = descriptor(Opcode::Fill, 0x5a5a_5a5a_5a5a_5a5a, DST, size);
    Ok(Case::new(op, size, fill).beside(library::fill(guests.host(DST, size))))
}

fn compare(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    guests.text(DST, size);
    let case = Case::new(op, size, descriptor(Opcode::Compare, SRC, DST, size));
    let [a, b] = [SRC, DST].map(|va| guests.host(va, size));
    Ok(case.beside(library::compare(a, b)))
}

fn compare_value(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let src = guests.host(SRC, size);
    src.bytes_mut().fill(0x33);
    let pattern = 0x3333_3333_3333_3333;
    let compare = descriptor(Opcode::CompareValue, SRC, pattern, size);
    Ok(Case::new(op, size, compare).beside(library::compare_value(src, pattern)))
}

/// Two sources that differ here and there; room for the record.
fn differing(guests: &Guests, size: u64) -> (Range, Range, u64) {
    guests.text(SRC, size);
    guests.text(DST, size);
    let (a, b) = (guests.host(SRC, size), guests.host(DST, size));
    for word in b.bytes_mut().chunks_exact_mut(8).step_by(DIFFERENT) {
        word[3] ^= 1;
    }
    (a, b, size / 8 / DIFFERENT as u64 * 10)
}

fn create_delta(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let (a, b, record) = differing(guests, size);
    let fields = CreateDeltaFields {
        delta: THIRD,
        delta_bytes_max: record as u32,
        ..CreateDeltaFields::default()
    };
    let create = descriptor(Opcode::CreateDelta, SRC, DST, size).with_operands(fields.to_bytes());
    let library = library::create_delta(a, b, guests.host(THIRD, record));
    Ok(Case::new(op, size, create).beside(library))
}

fn apply_delta(
    guests: &Guests,
    turns: &mut Turns<'_>,
    op: &'static str,
    size: u64,
) -> Result<Case> {
    let create = create_delta(guests, turns, op, size)?;
    let made = turns.run(&create.descriptor)?;
    let fields = ApplyDeltaFields {
        delta_bytes: made.op0 as u32,
        ..ApplyDeltaFields::default()
    };
    let apply = descriptor(Opcode::ApplyDelta, THIRD, SRC, size).with_operands(fields.to_bytes());
    let (record, dst) = (guests.host(THIRD, made.op0), guests.host(SRC, size));
    // What is read and written are the record's bytes, not all of the destination's.
    let case = Case::new(op, made.op0, apply).beside(library::apply_delta(record, dst));
    Ok(case.with_note(format!("bytes of the record, for {} KiB", size >> 10)))
}

fn dualcast(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let fields = DualcastFields {
        second: THIRD,
        ..DualcastFields::default()
    };
    let cast = descriptor(Opcode::Dualcast, SRC, DST, size).with_operands(fields.to_bytes());
    let [src, first, second] = [SRC, DST, THIRD].map(|va| guests.host(va, size));
    Ok(Case::new(op, size, cast).beside(library::dualcast(src, first, second)))
}

fn fetch(_: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let case = Case::new(op, size, descriptor(Opcode::TranslationFetch, SRC, 0, size));
    Ok(case.moving_nothing().with_note("touches page tables only"))
}

/// The library's side does not copy either where the engine does not.
fn sums_in_place() -> bool {
    Software::new().sums_in_place()
}

fn beside_crc(case: Case, guests: &Guests, algorithm: CrcAlgorithm) -> Case {
    let src = guests.host(SRC, case.size);
    if sums_in_place() {
        case.beside(library::crc_in_place(src, algorithm))
    } else {
        case.staged(library::crc(src, algorithm))
    }
}

fn crc(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let case = Case::new(op, size, descriptor(Opcode::CrcGen, SRC, 0, size));
    Ok(beside_crc(case, guests, CrcAlgorithm::Crc32Iscsi))
}

fn crc64(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let case = Case::new(op, size, descriptor(Opcode::Crc64, SRC, 0, size));
    Ok(beside_crc(case, guests, CrcAlgorithm::Crc64Nvme))
}

fn copy_crc(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let case = Case::new(op, size, descriptor(Opcode::CopyCrc, SRC, DST, size));
    let [src, dst] = [SRC, DST].map(|va| guests.host(va, size));
    let passes = [
        descriptor(Opcode::Memmove, SRC, DST, size),
        descriptor(Opcode::CrcGen, DST, 0, size),
    ];
    let case = if sums_in_place() {
        case.beside(library::copy_crc_in_place(src, dst))
    } else {
        case.staged(library::copy_crc(src, dst))
    };
    Ok(case.instead_of(passes))
}

fn cache_flush(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(DST, size);
    let case = Case::new(op, size, descriptor(Opcode::CacheFlush, 0, DST, size));
    Ok(case.beside(library::flush(guests.host(DST, size))))
}

fn protection(opcode: Opcode, blocks: u64, unit: u64) -> Descriptor {
    let dst = match opcode {
        Opcode::DifCheck => 0,
        Opcode::DixVerify => THIRD,
        _ => DST,
    };
    let src = if opcode == Opcode::DifGen { 0 } else { SRC };
    descriptor(opcode, src, dst, blocks * unit).with_operands(DifFields::default().to_bytes())
}

/// Whole blocks that come to `size` bytes of data.
fn blocks(size: u64) -> u64 {
    size / BLOCK.0
}

/// Blocks with good information at [`SRC`].
fn protected(guests: &Guests, turns: &mut Turns<'_>, blocks: u64) -> Result<Range> {
    guests.text(SRC, blocks * BLOCK.0);
    turns.run(&protection(Opcode::DifInsert, blocks, BLOCK.0))?;
    let bytes = blocks * BLOCK.1;
    turns.run(&descriptor(Opcode::Memmove, DST, SRC, bytes))?;
    Ok(guests.host(SRC, bytes))
}

const PLAIN: (usize, usize) = (BLOCK.0 as usize, BLOCK.0 as usize);
const BEHIND: (usize, usize) = (BLOCK.0 as usize, BLOCK.1 as usize);

fn dif_check(guests: &Guests, turns: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let src = protected(guests, turns, blocks(size))?;
    let case = Case::new(
        op,
        size,
        protection(Opcode::DifCheck, blocks(size), BLOCK.1),
    );
    Ok(case.staged(library::dif(src, BEHIND, None, |_, _, _| ())))
}

fn dif_insert(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let case = Case::new(
        op,
        size,
        protection(Opcode::DifInsert, blocks(size), BLOCK.0),
    );
    let dst = guests.host(DST, blocks(size) * BLOCK.1);
    let library = library::dif(guests.host(SRC, size), PLAIN, Some((dst, BEHIND.1)), insert);
    Ok(case.staged(library))
}

fn insert(out: &mut [u8], data: &[u8], behind: [u8; 8]) {
    out[..PLAIN.0].copy_from_slice(&data[..PLAIN.0]);
    out[PLAIN.0..].copy_from_slice(&behind);
}

fn dif_strip(guests: &Guests, turns: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let src = protected(guests, turns, blocks(size))?;
    let case = Case::new(
        op,
        size,
        protection(Opcode::DifStrip, blocks(size), BLOCK.1),
    );
    let dst = guests.host(DST, size);
    let library = library::dif(src, BEHIND, Some((dst, PLAIN.0)), |out, data, behind| {
        std::hint::black_box(data[PLAIN.0..] == behind);
        out.copy_from_slice(&data[..PLAIN.0]);
    });
    Ok(case.staged(library))
}

fn dif_update(guests: &Guests, turns: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let src = protected(guests, turns, blocks(size))?;
    let case = Case::new(
        op,
        size,
        protection(Opcode::DifUpdate, blocks(size), BLOCK.1),
    );
    let dst = guests.host(DST, blocks(size) * BLOCK.1);
    let library = library::dif(src, BEHIND, Some((dst, BEHIND.1)), insert);
    Ok(case.staged(library))
}

fn dif_gen(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let bytes = blocks(size) * BLOCK.1;
    guests.text(DST, bytes);
    let case = Case::new(op, size, protection(Opcode::DifGen, blocks(size), BLOCK.1));
    let library = library::dif_in_place(guests.host(DST, bytes), BEHIND);
    Ok(case.staged(library))
}

fn dix_gen(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let case = Case::new(op, size, protection(Opcode::DixGen, blocks(size), BLOCK.0));
    let dst = guests.host(DST, blocks(size) * 8);
    let library = library::dif(guests.host(SRC, size), PLAIN, Some((dst, 8)), apart);
    Ok(case.staged(library))
}

fn apart(out: &mut [u8], _: &[u8], behind: [u8; 8]) {
    out.copy_from_slice(&behind);
}

fn dix_verify(guests: &Guests, turns: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let make = Descriptor {
        dst: THIRD,
        ..protection(Opcode::DixGen, blocks(size), BLOCK.0)
    };
    turns.run(&make)?;
    let case = Case::new(
        op,
        size,
        protection(Opcode::DixVerify, blocks(size), BLOCK.0),
    );
    let behind = guests.host(THIRD, blocks(size) * 8);
    let library = library::dif(
        guests.host(SRC, size),
        PLAIN,
        Some((behind, 8)),
        |found, _, behind| {
            std::hint::black_box(found[..2] == behind[..2]);
        },
    );
    Ok(case.staged(library))
}

fn transform(opcode: Opcode, word: CodecWord, size: u64) -> Descriptor {
    Descriptor {
        op0: word.0,
        op1: 1,
        ..descriptor(opcode, SRC, DST, size)
    }
}

fn direction(op: &str) -> (Opcode, Direction) {
    if op.starts_with("Encrypt") {
        (Opcode::Encrypt, Direction::Encrypt)
    } else {
        (Opcode::Decrypt, Direction::Decrypt)
    }
}

fn blockwise(
    guests: &Guests,
    op: &'static str,
    size: u64,
    algorithm: KeyAlgorithm,
    unit_log2: u8,
) -> Result<Case> {
    guests.text(SRC, size);
    let (opcode, direction) = direction(op);
    let word = CodecWord::key(guests.key(algorithm)?, size as u32).with_unit(unit_log2);
    let [src, dst] = [SRC, DST].map(|va| guests.host(va, size));
    let unit = (unit_log2 != 0).then_some(1 << unit_log2);
    let library = library::cipher(algorithm, direction, unit, src, dst);
    Ok(Case::new(op, size, transform(opcode, word, size)).staged(library))
}

fn xts(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    blockwise(guests, op, size, KeyAlgorithm::AesXts256, UNIT_LOG2)
}

fn cbc(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    blockwise(guests, op, size, KeyAlgorithm::AesCbc256, 0)
}

const GCM: KeyAlgorithm = KeyAlgorithm::AesGcm256;

fn gcm(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let word = CodecWord::key(guests.key(GCM)?, size as u32 + TAG_BYTES);
    let [src, dst] = [SRC, DST].map(|va| guests.host(va, size));
    let library = library::cipher(GCM, Direction::Encrypt, None, src, dst);
    Ok(Case::new(op, size, transform(Opcode::Encrypt, word, size)).staged(library))
}

/// Moves what an operation has made at [`DST`] to [`SRC`].
fn swap(turns: &mut Turns<'_>, bytes: u64) -> Result<()> {
    turns.run(&descriptor(Opcode::Memmove, DST, SRC, bytes))?;
    Ok(())
}

fn gcm_open(guests: &Guests, turns: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let word = CodecWord::key(guests.key(GCM)?, size as u32 + TAG_BYTES);
    let made = turns.run(&transform(Opcode::Encrypt, word, size))?;
    swap(turns, made.op0)?;
    let [src, dst] = [SRC, DST].map(|va| guests.host(va, size));
    let library = library::open(GCM, src, dst);
    Ok(Case::new(op, size, transform(Opcode::Decrypt, word, made.op0)).staged(library))
}

fn channel(guests: &Guests, size: u64) -> Result<(Descriptor, u16)> {
    guests.text(SRC, size);
    let slot = guests.key(KeyAlgorithm::Channel256)?;
    let word = CodecWord::key(slot, size as u32 + 64);
    let seal = Descriptor {
        op1: 0,
        ..transform(Opcode::SealCopy, word, size)
    };
    Ok((seal, slot))
}

fn seal(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let (seal, _) = channel(guests, size)?;
    let [src, dst] = [SRC, DST].map(|va| guests.host(va, size));
    let library = library::cipher(GCM, Direction::Encrypt, None, src, dst);
    Ok(Case::new(op, size, seal).staged(library))
}

fn open(guests: &Guests, turns: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let (seal, slot) = channel(guests, size)?;
    let made = turns.run(&seal)?;
    swap(turns, made.op0)?;
    let open = transform(
        Opcode::OpenCopy,
        CodecWord::key(slot, size as u32),
        made.op0,
    );
    let [src, dst] = [SRC, DST].map(|va| guests.host(va, size));
    let library = library::open(GCM, src, dst);
    Ok(Case::new(op, size, open).staged(library))
}

fn stream(opcode: Opcode, compression: Compression, size: u64, room: u64) -> Descriptor {
    Descriptor {
        op1: 0,
        ..transform(
            opcode,
            CodecWord::compression(compression, room as u32),
            size,
        )
    }
}

fn lz4(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let room = 2 * size;
    let compress = stream(Opcode::Compress, Compression::Lz4Frame, size, room);
    let library = library::lz4_compress(guests.host(SRC, size), guests.host(DST, room));
    Ok(Case::new(op, size, compress).staged(library))
}

fn lz4_back(guests: &Guests, turns: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let third = guests.host(THIRD, 2 * size);
    library::lz4_compress(guests.host(SRC, size), third)();
    let made = turns.run(&stream(
        Opcode::Compress,
        Compression::Lz4Frame,
        size,
        2 * size,
    ))?;
    swap(turns, made.op0)?;
    let back = stream(Opcode::Decompress, Compression::Lz4Frame, made.op0, size);
    let library = library::lz4_decompress(third.bytes().to_vec(), guests.host(DST, size));
    let ratio = size as f64 / made.op0 as f64;
    let case = Case::new(op, size, back).staged(library);
    Ok(case.with_note(format!("compressed to 1/{ratio:.1}")))
}

fn deflate(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    let room = 2 * size;
    let compress = stream(Opcode::Compress, Compression::Deflate, size, room);
    let library = library::deflate(guests.host(SRC, size), guests.host(DST, room));
    Ok(Case::new(op, size, compress).staged(library))
}

fn deflate_back(
    guests: &Guests,
    turns: &mut Turns<'_>,
    op: &'static str,
    size: u64,
) -> Result<Case> {
    let compress = deflate(guests, turns, op, size)?;
    let made = turns.run(&compress.descriptor)?;
    swap(turns, made.op0)?;
    let back = stream(Opcode::Decompress, Compression::Deflate, made.op0, size);
    let library = library::inflate(guests.host(SRC, made.op0), guests.host(DST, size));
    let ratio = size as f64 / made.op0 as f64;
    let case = Case::new(op, size, back).staged(library);
    Ok(case.with_note(format!("compressed to 1/{ratio:.1}")))
}

fn lz4_gcm(guests: &Guests, turns: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, size);
    compressed_and_encrypted(guests, turns, op, size)
}

/// What does not compress, of which LZ4 makes a copy: here most of the time is spent on memory.
fn lz4_gcm_of_noise(
    guests: &Guests,
    turns: &mut Turns<'_>,
    op: &'static str,
    size: u64,
) -> Result<Case> {
    guests.noise(SRC, size);
    compressed_and_encrypted(guests, turns, op, size)
}

fn compressed_and_encrypted(
    guests: &Guests,
    turns: &mut Turns<'_>,
    op: &'static str,
    size: u64,
) -> Result<Case> {
    let room = ROOM;
    let key = guests.key(GCM)?;
    let word = CodecWord::key(key, room as u32).with_compression(Compression::Lz4Frame);
    let compress = stream(Opcode::Compress, Compression::Lz4Frame, size, room);
    let made = turns.run(&compress)?;
    let encrypt = Descriptor {
        src: DST,
        dst: THIRD,
        ..transform(Opcode::Encrypt, CodecWord::key(key, room as u32), made.op0)
    };
    let library = library::lz4_cipher(guests.host(SRC, size), guests.host(DST, room));
    let case = Case::new(op, size, transform(Opcode::Encrypt, word, size)).staged(library);
    Ok(case.instead_of([compress, encrypt]))
}

fn xor(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    guests.text(SRC, SOURCES * size);
    let sources = std::array::from_fn(|i| {
        let addr = SRC + i as u64 * size;
        let segment = Segment {
            addr,
            ..Segment::default()
        };
        guests
            .alice
            .write(LIST + 16 * i as u64, &segment.to_bytes());
        guests.host(addr, size)
    });
    let fields = XorFields {
        count: SOURCES as u16,
        ..XorFields::default()
    };
    let xor = descriptor(Opcode::Xor, LIST, DST, size).with_operands(fields.to_bytes());
    let library = library::xor(sources, guests.host(DST, size));
    Ok(Case::new(op, size, xor).beside(library))
}

fn copy_sg(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    // Every piece but the first of its place, so that none follows the one before.
    let bytes = (16 << 10).max(size / 1024);
    guests.text(SRC, size + M1);
    let stride = bytes + 4096;
    let count = (size / bytes).min((ROOM - M1) / stride);
    let size = count * bytes;
    for i in 0..count {
        let segment = Segment {
            addr: SRC + i * stride,
            bytes: bytes as u32,
            ..Segment::default()
        };
        guests.alice.write(LIST + 16 * i, &segment.to_bytes());
    }
    let fields = CopySgFields {
        src_count: count as u16,
        ..CopySgFields::default()
    };
    let copy = descriptor(Opcode::CopySg, LIST, DST, size).with_operands(fields.to_bytes());
    let src = guests.host(SRC, count * stride);
    let library = library::gather(src, guests.host(DST, size), bytes as usize, stride as usize);
    Ok(Case::new(op, size, copy).beside(library))
}

fn copy_rows(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let (row, stride) = (4096, 4096 + 256);
    let count = (size / row).min((ROOM - M1) / stride);
    let size = count * row;
    guests.text(SRC, count * stride);
    let fields = CopySgFields {
        row_bytes: row as u32,
        src_stride: stride,
        dst_stride: row,
        ..CopySgFields::default()
    };
    let copy = descriptor(Opcode::CopySg, SRC, DST, size).with_operands(fields.to_bytes());
    let src = guests.host(SRC, count * stride);
    let library = library::gather(src, guests.host(DST, size), row as usize, stride as usize);
    Ok(Case::new(op, size, copy).beside(library))
}

fn atomic(guests: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let fields = AtomicFields {
        operand: 1,
        ..AtomicFields::default()
    };
    let add = descriptor(Opcode::Atomic64, 0, DST, size).with_operands(fields.to_bytes());
    let case = Case::new(op, size, add).moving_nothing();
    let case = case.with_note("8 bytes; the library's is one locked instruction");
    Ok(case.beside(library::atomic(guests.host(DST, size))))
}

fn signal(_: &Guests, _: &mut Turns<'_>, op: &'static str, size: u64) -> Result<Case> {
    let store = Descriptor {
        op0: 1,
        ..descriptor(Opcode::Signal, 0, DST, size)
    };
    Ok(Case::new(op, size, store)
        .moving_nothing()
        .with_note("8 bytes"))
}
