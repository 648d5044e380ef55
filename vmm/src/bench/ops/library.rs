//! What operations are held against: the same libraries, and plain loops as a compiler makes them for this processor.
//!
//! Nothing here is fast by cleverness: it is what a program would do that has the buffers in its own address space. Where the
//! operation works on private copies, a piece is copied through a buffer that stays in the second cache first.

use std::arch::x86_64::{_mm_clflush, _mm_sfence};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use byway_engine::codec::{Cipher, Direction};
use byway_engine::testing::Aligned;
use byway_protocols::codec::{KEY_BYTES_MAX, KeyAlgorithm};
use crc_fast::{CrcAlgorithm, Digest};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into};
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush};

/// Called once an operation.
pub(super) type Work = Box<dyn FnMut() + Send>;

/// Bytes of the buffer through which staged operations go. It lies as well as the engine's do: a library is not made to look slow by
/// where the heap happens to put a buffer.
const STAGE: usize = 16 << 10;

/// A range of a guest's RAM, as the host sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address of shared memory, which is not tied to a thread; see `new` for how long it is good.
unsafe impl Send for Range {}

impl Range {
    /// # Safety
    /// The range is mapped for as long as this value and its copies are used, and nobody else touches it while one of the
    /// slices below is in use: the library runs while the worker sleeps.
    pub(super) unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    pub(super) fn start(self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn bytes<'r>(self) -> &'r [u8] {
        // SAFETY: the promise made to `new`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// One at a time for any byte: each of the functions below takes ranges apart from each other.
    #[allow(clippy::mut_from_ref, reason = "a view of memory that nobody owns")]
    pub(super) fn bytes_mut<'r>(self) -> &'r mut [u8] {
        // SAFETY: the promise made to `new`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    fn words<'r>(self) -> &'r [u64] {
        // SAFETY: any bytes are words; what is cut off at the ends is nothing, buffers being aligned.
        unsafe { self.bytes().align_to().1 }
    }

    pub(super) fn words_mut<'r>(self) -> &'r mut [u64] {
        // SAFETY: as above.
        unsafe { self.bytes_mut().align_to_mut().1 }
    }
}

/// A key with no two bytes alike, as the engine's.
pub(super) fn key(algorithm: KeyAlgorithm) -> [u8; KEY_BYTES_MAX] {
    let used = algorithm.key_bytes();
    std::array::from_fn(|i| if i < used { i as u8 + 1 } else { 0 })
}

/// What takes a piece of the source: its offset and its bytes, in a buffer.
type Take<'t> = &'t mut dyn FnMut(usize, &mut [u8]);

/// Hands the source over piece by piece, each copied into a buffer first.
fn staged(src: Range) -> impl FnMut(Take<'_>) {
    let mut buffer = Aligned::zeroed(STAGE);
    move |take| {
        for (i, piece) in src.bytes().chunks(STAGE).enumerate() {
            let copy = &mut buffer[..piece.len()];
            copy.copy_from_slice(piece);
            take(i * STAGE, copy);
        }
    }
}

pub(super) fn fill(dst: Range) -> Work {
    // SAFETY: the range is mapped; see `Range::new`.
    Box::new(move || unsafe {
        let dst = dst.bytes_mut();
        libc::memset(dst.as_mut_ptr().cast(), 0x5a, dst.len());
    })
}

pub(super) fn compare(a: Range, b: Range) -> Work {
    // SAFETY: as for `fill`.
    Box::new(move || unsafe {
        let (a, b) = (a.bytes(), b.bytes());
        let order = libc::memcmp(a.as_ptr().cast(), b.as_ptr().cast(), a.len());
        std::hint::black_box(order);
    })
}

pub(super) fn compare_value(a: Range, pattern: u64) -> Work {
    #[target_feature(enable = "avx2")]
    fn equal(words: &[u64], pattern: u64) -> bool {
        let (blocks, rest) = words.as_chunks::<32>();
        let differs = |words: &[u64]| words.iter().fold(0, |any, word| any | word ^ pattern) != 0;
        !blocks.iter().any(|block| differs(block)) && !differs(rest)
    }
    Box::new(move || {
        // SAFETY: the cases ask for a processor with AVX2.
        std::hint::black_box(unsafe { equal(a.words(), pattern) });
    })
}

pub(super) fn create_delta(a: Range, b: Range, record: Range) -> Work {
    #[target_feature(enable = "avx2")]
    fn differs(x: &[u64; 16], y: &[u64; 16]) -> bool {
        x.iter().zip(y).fold(0, |any, (x, y)| any | x ^ y) != 0
    }
    Box::new(move || {
        let mut out = record.bytes_mut().chunks_exact_mut(10);
        let (a, b) = (a.words().as_chunks().0, b.words().as_chunks().0);
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            // SAFETY: the cases ask for a processor with AVX2.
            if !unsafe { differs(x, y) } {
                continue;
            }
            for (j, (x, y)) in x.iter().zip(y).enumerate() {
                if x != y
                    && let Some(entry) = out.next()
                {
                    entry[..2].copy_from_slice(&((16 * i + j) as u16).to_le_bytes());
                    entry[2..].copy_from_slice(&y.to_le_bytes());
                }
            }
        }
    })
}

pub(super) fn apply_delta(record: Range, dst: Range) -> Work {
    Box::new(move || {
        let words = dst.words_mut();
        for entry in record.bytes().as_chunks::<10>().0 {
            let [low, high, data @ ..] = *entry;
            words[usize::from(u16::from_le_bytes([low, high]))] = u64::from_le_bytes(data);
        }
    })
}

pub(super) fn dualcast(src: Range, first: Range, second: Range) -> Work {
    Box::new(move || {
        let targets = first.bytes_mut().chunks_mut(STAGE);
        let targets = targets.zip(second.bytes_mut().chunks_mut(STAGE));
        for (from, (a, b)) in src.bytes().chunks(STAGE).zip(targets) {
            a.copy_from_slice(from);
            b.copy_from_slice(from);
        }
    })
}

/// A checksum of the source itself.
pub(super) fn crc_in_place(src: Range, algorithm: CrcAlgorithm) -> Work {
    Box::new(move || {
        let mut sum = Digest::new(algorithm);
        sum.update(src.bytes());
        std::hint::black_box(sum.finalize());
    })
}

/// A checksum, and a copy of the same pieces while they are in the first cache.
pub(super) fn copy_crc_in_place(src: Range, dst: Range) -> Work {
    Box::new(move || {
        let mut sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let pieces = src.bytes().chunks(STAGE);
        for (from, to) in pieces.zip(dst.bytes_mut().chunks_mut(STAGE)) {
            sum.update(from);
            to.copy_from_slice(from);
        }
        std::hint::black_box(sum.finalize());
    })
}

pub(super) fn crc(src: Range, algorithm: CrcAlgorithm) -> Work {
    let mut pieces = staged(src);
    Box::new(move || {
        let mut sum = Digest::new(algorithm);
        pieces(&mut |_, piece| sum.update(piece));
        std::hint::black_box(sum.finalize());
    })
}

pub(super) fn copy_crc(src: Range, dst: Range) -> Work {
    let mut pieces = staged(src);
    Box::new(move || {
        let mut sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let dst = dst.bytes_mut();
        pieces(&mut |at, piece| {
            sum.update(piece);
            dst[at..at + piece.len()].copy_from_slice(piece);
        });
        std::hint::black_box(sum.finalize());
    })
}

/// Guards of blocks of `block` bytes that stand every `unit` bytes. Of the rest of a unit and the destination, if there is
/// one, each operation makes what it does.
pub(super) fn dif(
    src: Range,
    (block, unit): (usize, usize),
    dst: Option<(Range, usize)>,
    make: fn(&mut [u8], &[u8], [u8; 8]),
) -> Work {
    let mut buffer = Aligned::zeroed(STAGE);
    Box::new(move || {
        let mut out = dst.map(|(range, bytes)| range.bytes_mut().chunks_exact_mut(bytes));
        let pieces = src.bytes().chunks(STAGE / unit * unit);
        for piece in pieces {
            let copy = &mut buffer[..piece.len()];
            copy.copy_from_slice(piece);
            for data in copy.chunks_exact(unit) {
                let guard = crc_fast::checksum(CrcAlgorithm::Crc16T10Dif, &data[..block]);
                let mut behind = [0; 8];
                behind[..2].copy_from_slice(&(guard as u16).to_be_bytes());
                match out.as_mut().and_then(Iterator::next) {
                    Some(out) => make(out, data, behind),
                    None => {
                        std::hint::black_box(data[block..].starts_with(&behind));
                    }
                }
            }
        }
    })
}

/// The same in place: only the information is written.
pub(super) fn dif_in_place(blocks: Range, (block, unit): (usize, usize)) -> Work {
    let mut buffer = Aligned::zeroed(STAGE);
    Box::new(move || {
        for piece in blocks.bytes_mut().chunks_mut(STAGE / unit * unit) {
            let copy = &mut buffer[..piece.len()];
            copy.copy_from_slice(piece);
            for (data, place) in copy.chunks_exact(unit).zip(piece.chunks_exact_mut(unit)) {
                let guard = crc_fast::checksum(CrcAlgorithm::Crc16T10Dif, &data[..block]);
                let mut behind = [0; 8];
                behind[..2].copy_from_slice(&(guard as u16).to_be_bytes());
                place[block..].copy_from_slice(&behind);
            }
        }
    })
}

/// Four sources, each read once, and the sum written once.
pub(super) fn xor(sources: [Range; 4], dst: Range) -> Work {
    #[target_feature(enable = "avx2")]
    fn sum(out: &mut [u64], [a, b, c, d]: [&[u64]; 4]) {
        let sources = a.iter().zip(b).zip(c).zip(d);
        for (out, (((a, b), c), d)) in out.iter_mut().zip(sources) {
            *out = a ^ b ^ c ^ d;
        }
    }
    // SAFETY: the cases ask for a processor with AVX2.
    Box::new(move || unsafe { sum(dst.words_mut(), sources.map(Range::words)) })
}

/// Pieces of `bytes` bytes, `stride` apart in the source and next to each other in the destination.
pub(super) fn gather(src: Range, dst: Range, bytes: usize, stride: usize) -> Work {
    Box::new(move || {
        let src = src.bytes();
        for (i, to) in dst.bytes_mut().chunks_exact_mut(bytes).enumerate() {
            to.copy_from_slice(&src[i * stride..i * stride + bytes]);
        }
    })
}

pub(super) fn flush(dst: Range) -> Work {
    #[target_feature(enable = "sse2")]
    fn lines(bytes: &[u8]) {
        let optimised = std::arch::is_x86_feature_detected!("avx2");
        for line in bytes.chunks(64) {
            // SAFETY: a mapped line. Processors with AVX2 have CLFLUSHOPT, but for a few of the first.
            unsafe {
                if optimised {
                    std::arch::asm!("clflushopt [{l}]", l = in(reg) line.as_ptr(), options(nostack, preserves_flags));
                } else {
                    _mm_clflush(line.as_ptr());
                }
            }
        }
        _mm_sfence();
    }
    // SAFETY: every x86-64 processor has SSE2.
    Box::new(move || unsafe { lines(dst.bytes()) })
}

pub(super) fn lz4_compress(src: Range, dst: Range) -> Work {
    let mut table = CompressTable::small();
    let mut pieces = staged(src);
    Box::new(move || {
        let out = dst.bytes_mut();
        let mut end = 0;
        pieces(&mut |_, piece| {
            let len = compress_into_with_table(piece, &mut out[end + 4..], &mut table);
            let len = len.expect("room for a block");
            out[end..end + 4].copy_from_slice(&(len as u32).to_le_bytes());
            end += 4 + len;
        });
    })
}

/// The inverse of [`lz4_compress`], of what that made: blocks behind a length each.
pub(super) fn lz4_decompress(blocks: Vec<u8>, dst: Range) -> Work {
    let mut buffer = Aligned::zeroed(2 * STAGE);
    let mut made = Aligned::zeroed(STAGE);
    Box::new(move || {
        let mut rest = &blocks[..];
        for to in dst.bytes_mut().chunks_mut(STAGE) {
            let Some((len, behind)) = rest.split_first_chunk() else {
                return;
            };
            let (block, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
            buffer[..block.len()].copy_from_slice(block);
            let made = &mut made[..to.len()];
            decompress_into(&buffer[..block.len()], made).expect("what was compressed");
            to.copy_from_slice(made);
            rest = behind;
        }
    })
}

pub(super) fn deflate(src: Range, dst: Range) -> Work {
    let mut stream = Deflate::new_with_config(DeflateConfig {
        level: 1,
        window_bits: -15,
        ..DeflateConfig::default()
    });
    let mut pieces = staged(src);
    Box::new(move || {
        let out = dst.bytes_mut();
        stream.reset();
        pieces(&mut |at, piece| {
            let last = at + piece.len() == src.len;
            let flush = if last {
                DeflateFlush::Finish
            } else {
                DeflateFlush::NoFlush
            };
            let end = stream.total_out() as usize;
            std::hint::black_box(stream.compress(piece, &mut out[end..], flush)).ok();
        });
    })
}

pub(super) fn inflate(src: Range, dst: Range) -> Work {
    let mut stream = Inflate::new(false, 15);
    let mut pieces = staged(src);
    Box::new(move || {
        let out = dst.bytes_mut();
        stream.reset(false);
        pieces(&mut |_, piece| {
            let end = stream.total_out() as usize;
            let result = stream.decompress(piece, &mut out[end..], InflateFlush::NoFlush);
            std::hint::black_box(result).ok();
        });
    })
}

/// A cipher in pieces that stay in the second cache, but for opening a sealed message ([`open`]); `unit`: data units of
/// XTS.
pub(super) fn cipher(
    algorithm: KeyAlgorithm,
    direction: Direction,
    unit: Option<usize>,
    src: Range,
    dst: Range,
) -> Work {
    let mut cipher = Cipher::new(algorithm).expect("memory for a cipher");
    let key = key(algorithm);
    let mut pieces = staged(src);
    Box::new(move || {
        let out = dst.bytes_mut();
        let mut tweak = 1_u128;
        cipher
            .start(
                &key[..algorithm.key_bytes()],
                &tweak.to_le_bytes(),
                direction,
            )
            .expect("a good key");
        pieces(&mut |at, piece| {
            match unit {
                None => cipher.apply(piece).expect("whole blocks"),
                Some(unit) => {
                    for unit in piece.chunks_mut(unit) {
                        cipher.next_unit(&tweak.to_le_bytes()).expect("a key");
                        cipher.apply(unit).expect("a whole unit");
                        tweak += 1;
                    }
                }
            }
            out[at..at + piece.len()].copy_from_slice(piece);
        });
        if algorithm.is_aead() {
            std::hint::black_box(cipher.seal().expect("a message"));
        }
    })
}

/// A message whose tag is looked at before any byte of it goes out: whoever opens one so needs room for all of it, and
/// copies it out at the end.
pub(super) fn open(algorithm: KeyAlgorithm, src: Range, dst: Range) -> Work {
    let mut cipher = Cipher::new(algorithm).expect("memory for a cipher");
    let key = key(algorithm);
    let mut message = Aligned::zeroed(src.len);
    Box::new(move || {
        cipher
            .start(
                &key[..algorithm.key_bytes()],
                &1_u128.to_le_bytes(),
                Direction::Decrypt,
            )
            .expect("a good key");
        for (part, piece) in message.chunks_mut(STAGE).zip(src.bytes().chunks(STAGE)) {
            part.copy_from_slice(piece);
            cipher.apply(part).expect("any length");
        }
        std::hint::black_box(cipher.opens(&[0; 16]));
        dst.bytes_mut().copy_from_slice(&message);
    })
}

/// LZ4 and AES-256-GCM, a block at a time.
pub(super) fn lz4_cipher(src: Range, dst: Range) -> Work {
    let algorithm = KeyAlgorithm::AesGcm256;
    let mut cipher = Cipher::new(algorithm).expect("memory for a cipher");
    let key = key(algorithm);
    let mut table = CompressTable::small();
    let mut pieces = staged(src);
    Box::new(move || {
        let out = dst.bytes_mut();
        let mut end = 0;
        cipher
            .start(&key[..algorithm.key_bytes()], &[1; 16], Direction::Encrypt)
            .expect("a good key");
        pieces(&mut |_, piece| {
            let len = compress_into_with_table(piece, &mut out[end + 4..], &mut table);
            let len = len.expect("room for a block");
            out[end..end + 4].copy_from_slice(&(len as u32).to_le_bytes());
            cipher
                .apply(&mut out[end..end + 4 + len])
                .expect("any length");
            end += 4 + len;
        });
        std::hint::black_box(cipher.seal().expect("a message"));
    })
}

/// One of a processor's atomic operations, and one store: what ATOMIC64 and SIGNAL come down to.
pub(super) fn atomic(dst: Range) -> Work {
    Box::new(move || {
        // SAFETY: mapped and aligned.
        let word = unsafe { AtomicU64::from_ptr(dst.bytes_mut().as_mut_ptr().cast()) };
        word.fetch_add(1, Ordering::SeqCst);
    })
}
