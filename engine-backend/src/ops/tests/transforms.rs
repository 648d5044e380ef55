//! COMPRESS, DECOMPRESS, ENCRYPT and DECRYPT in guests' memory: against the codecs alone,
//! with faults and revocations in the middle, and what is refused.

use byway_protocols::Rights;
use byway_protocols::codec::{
    CodecWord, Compression, GCM_OPEN_BYTES_MAX, KEY_BYTES_MAX, KeyAlgorithm,
};
use proptest::prelude::*;

use super::*;
use crate::capability::Key;
use crate::codec::{Cipher, Direction};
use crate::ops::lease::JOBS_PER_DOMAIN;

/// Where results go.
const OUT: u64 = VA + (4 << 20);
/// Where they come back to.
const BACK: u64 = VA + (8 << 20);

fn rig(bytes: u64) -> Rig {
    let rig = Rig::with_ram(4 * bytes + (2 << 20));
    for va in [VA, OUT, BACK] {
        rig.alice.map_scattered(va, bytes);
    }
    rig
}

fn text(len: usize) -> Vec<u8> {
    noise(len, 3)
        .iter()
        .map(|b| b"byway \n0"[*b as usize % 8])
        .collect()
}

fn key(algorithm: KeyAlgorithm) -> [u8; KEY_BYTES_MAX] {
    let mut bytes = [0; KEY_BYTES_MAX];
    for (i, b) in bytes[..algorithm.key_bytes()].iter_mut().enumerate() {
        *b = (i * 7 + 1) as u8;
    }
    bytes
}

/// Alice's key of this algorithm, with all rights.
fn load(rig: &Rig, algorithm: KeyAlgorithm) -> u16 {
    let key = Key::new(algorithm, &key(algorithm)).unwrap();
    rig.alice.give_key(&rig.alice, key, Rights::KEY)
}

fn transform(opcode: Opcode, src: u64, dst: u64, size: u32, word: CodecWord) -> Descriptor {
    Descriptor {
        src,
        dst,
        size,
        op0: word.0,
        ..descriptor(opcode, 0, 0)
    }
}

fn status(c: &Completion) -> Status {
    c.status().unwrap()
}

/// Compresses what is at [`VA`] to [`OUT`]; how long it is there.
fn compress(rig: &mut Rig, c: Compression, size: u32, room: u32) -> Completion {
    let word = CodecWord::compression(c, room);
    rig.complete(&transform(Opcode::Compress, VA, OUT, size, word))
}

fn decompress(rig: &mut Rig, c: Compression, size: u32, room: u32) -> Completion {
    let word = CodecWord::compression(c, room);
    rig.complete(&transform(Opcode::Decompress, OUT, BACK, size, word))
}

#[test]
fn data_is_compressed_and_comes_back() {
    let mut rig = rig(512 << 10);
    for len in [1, 100, 4096, 16384, 300_000] {
        for data in [text(len), noise(len, 9)] {
            rig.alice.write(VA, &data);
            for &c in Compression::ALL {
                if c == Compression::Lz4Block && len > 16384 {
                    continue;
                }
                let small = compress(&mut rig, c, len as u32, 400_000);
                assert_eq!(status(&small), Status::Success, "{c:?} {len}");
                assert_eq!(
                    (small.bytes_completed as usize, small.op1),
                    (len, len as u64)
                );
                let bytes = small.op0 as u32;
                rig.alice.write(BACK, &vec![0; len + 1]);
                let back = decompress(&mut rig, c, bytes, len as u32);
                assert_eq!(status(&back), Status::Success, "{c:?} {len}");
                assert_eq!((back.op0, back.op1), (len as u64, small.op0));
                let mut expected = data.clone();
                expected.push(0);
                assert!(rig.alice.read(BACK, len as u64 + 1) == expected);

                // A byte less room, and a byte less input.
                let tight = decompress(&mut rig, c, bytes, (len as u32 - 1).max(1));
                if len > 1 {
                    assert_eq!(short_form(&tight), (Status::Overflow, false, 0), "{c:?}");
                }
                let tight = compress(&mut rig, c, len as u32, bytes);
                assert_eq!((status(&tight), tight.op0), (Status::Success, small.op0));
                if bytes > 1 {
                    let tight = compress(&mut rig, c, len as u32, bytes - 1);
                    assert_eq!(short_form(&tight), (Status::Overflow, false, 0), "{c:?}");
                    compress(&mut rig, c, len as u32, 400_000);
                    let cut = decompress(&mut rig, c, bytes - 1, 400_000);
                    assert_eq!(short_form(&cut), (Status::BadData, false, 0), "{c:?}");
                }
            }
        }
    }
}

#[test]
fn what_lies_behind_a_stream_is_left_alone() {
    let mut rig = rig(64 << 10);
    rig.alice.write(VA, &text(30_000));
    for c in [
        Compression::Lz4Frame,
        Compression::Deflate,
        Compression::Zlib,
    ] {
        let small = compress(&mut rig, c, 30_000, 64 << 10);
        let back = decompress(&mut rig, c, small.op0 as u32 + 500, 64 << 10);
        assert_eq!((status(&back), back.op1), (Status::Success, small.op0));
        assert_eq!(u64::from(back.bytes_completed), small.op0);
    }
}

#[test]
fn a_bomb_ends_where_its_room_does() {
    let mut rig = rig(1 << 20);
    for c in [Compression::Lz4Frame, Compression::Deflate] {
        let small = compress(&mut rig, c, 1 << 20, 1 << 20);
        rig.alice.write(BACK, &[7; 8192]);
        let back = decompress(&mut rig, c, small.op0 as u32, 4096);
        assert_eq!(short_form(&back), (Status::Overflow, false, 0));
        assert_eq!(rig.alice.read(BACK + 4096, 4096), [7; 4096]);
    }
}

/// ENCRYPT or DECRYPT with an initialisation vector.
fn crypt(opcode: Opcode, src: u64, dst: u64, size: u32, word: CodecWord, iv: u128) -> Descriptor {
    Descriptor {
        op1: iv as u64,
        op2: (iv >> 64) as u64,
        ..transform(opcode, src, dst, size, word)
    }
}

fn reference(algorithm: KeyAlgorithm, unit: usize, iv: u128, data: &mut [u8]) {
    let key = Key::new(algorithm, &key(algorithm)).unwrap();
    let mut cipher = Cipher::new(algorithm).unwrap();
    for (i, unit) in data.chunks_mut(unit).enumerate() {
        let iv = iv.wrapping_add(i as u128).to_le_bytes();
        cipher.start(key.bytes(), &iv, Direction::Encrypt).unwrap();
        cipher.apply(unit).unwrap();
    }
}

#[test]
fn xts_and_cbc_are_those_of_the_library() {
    let mut rig = rig(256 << 10);
    let iv = u128::MAX - 3;
    let cases = [
        (KeyAlgorithm::AesXts256, 9, 200_016),
        (KeyAlgorithm::AesXts256, 12, 16),
        (KeyAlgorithm::AesXts256, 12, 4096 + 17),
        (KeyAlgorithm::AesXts256, 16, 200_001),
        (KeyAlgorithm::AesCbc128, 0, 200_000),
        (KeyAlgorithm::AesCbc256, 0, 16),
    ];
    for (algorithm, log2, size) in cases {
        let slot = load(&rig, algorithm);
        let data = noise(size, 11);
        let mut expected = data.clone();
        let unit = if log2 == 0 { size } else { 1 << log2 };
        reference(algorithm, unit, iv, &mut expected);
        for chunk_bytes in [CHUNK_BYTES, 1] {
            rig.chunk_bytes = chunk_bytes;
            rig.alice.write(VA, &data);
            let word = CodecWord::key(slot, size as u32).with_unit(log2);
            let there = crypt(Opcode::Encrypt, VA, OUT, size as u32, word, iv);
            let done = rig.complete(&there);
            assert_eq!(short_form(&done), (Status::Success, false, size as u32));
            assert_eq!((done.op0, done.op1), (size as u64, size as u64));
            assert!(
                rig.alice.read(OUT, size as u64) == expected,
                "{algorithm:?} {size}"
            );
            // Back in place.
            let back = crypt(Opcode::Decrypt, OUT, OUT, size as u32, word, iv);
            assert_eq!(status(&rig.complete(&back)), Status::Success);
            assert!(
                rig.alice.read(OUT, size as u64) == data,
                "{algorithm:?} {size}"
            );
        }
        rig.alice.revoke(&rig.alice, slot);
    }
}

#[test]
fn the_rest_after_a_fault_is_resumed() {
    for algorithm in [KeyAlgorithm::AesXts256, KeyAlgorithm::AesCbc256] {
        let mut rig = rig(256 << 10);
        let slot = load(&rig, algorithm);
        let size = 100_000_u32 / 4096 * 4096;
        let data = noise(size as usize, 4);
        let (log2, unit) = match algorithm {
            KeyAlgorithm::AesXts256 => (12, 4096),
            _ => (0, size as usize),
        };
        let mut expected = data.clone();
        reference(algorithm, unit, 77, &mut expected);
        // In place: what is done must not be done again, nor anything left half done.
        rig.alice.write(OUT, &data);
        rig.alice.change_entry(OUT + 10 * PAGE, |e| e & !pte::P);
        let at = |done: u32, iv| {
            let word = CodecWord::key(slot, size - done).with_unit(log2);
            let from = OUT + u64::from(done);
            crypt(Opcode::Encrypt, from, from, size - done, word, iv)
        };
        let first = rig.complete(&at(0, 77));
        let (status_of, write, done) = short_form(&first);
        assert_eq!((status_of, write), (Status::Stage1NotPresent, false));
        assert_eq!(first.fault_addr, OUT + 10 * PAGE);
        assert!(done != 0 && done.is_multiple_of(4096) && done <= 10 * 4096);
        rig.alice.change_entry(OUT + 10 * PAGE, |e| e | pte::P);
        // Read-only: met before a byte of its piece is written.
        rig.alice.change_entry(OUT + 15 * PAGE, |e| e & !pte::RW);
        let next = |done: u32, rig: &Rig| match algorithm {
            KeyAlgorithm::AesXts256 => 77 + u128::from(done / 4096),
            _ => {
                let last = rig.alice.read(OUT + u64::from(done) - 16, 16);
                u128::from_le_bytes(last.try_into().unwrap())
            }
        };
        let second = rig.complete(&at(done, next(done, &rig)));
        assert_eq!(short_form(&second).0, Status::Stage1Permission);
        assert!(second.is_write_fault());
        let done = done + second.bytes_completed;
        rig.alice.change_entry(OUT + 15 * PAGE, |e| e | pte::RW);
        let third = rig.complete(&at(done, next(done, &rig)));
        assert_eq!(short_form(&third), (Status::Success, false, size - done));
        assert!(
            rig.alice.read(OUT, u64::from(size)) == expected,
            "{algorithm:?}"
        );
    }
}

/// Nonce and number of bytes of additional data, as `op1` and `op2` hold them.
fn nonce(number: u64, aad: u32) -> u128 {
    u128::from(number) | u128::from(aad) << 96
}

#[test]
fn messages_are_sealed_and_opened() {
    let mut rig = rig(512 << 10);
    for algorithm in [KeyAlgorithm::AesGcm128, KeyAlgorithm::AesGcm256] {
        let slot = load(&rig, algorithm);
        for (aad, len) in [(0, 1), (13, 0), (0, 4096), (4096, 300_000), (20, 16384)] {
            let size = aad + len;
            let data = noise(size as usize, 21);
            rig.alice.write(VA, &data);
            let iv = nonce(u64::from(len), aad);
            let seal = |room| {
                crypt(
                    Opcode::Encrypt,
                    VA,
                    OUT,
                    size,
                    CodecWord::key(slot, room),
                    iv,
                )
            };
            let tight = rig.complete(&seal(len + 15));
            assert_eq!(short_form(&tight), (Status::Overflow, false, 0));
            let done = rig.complete(&seal(len + 16));
            assert_eq!(short_form(&done), (Status::Success, false, size));
            assert_eq!(done.op0, u64::from(len) + 16);

            let mut expected = data[aad as usize..].to_vec();
            let key = Key::new(algorithm, &key(algorithm)).unwrap();
            let mut cipher = Cipher::new(algorithm).unwrap();
            cipher
                .start(key.bytes(), &iv.to_le_bytes(), Direction::Encrypt)
                .unwrap();
            cipher.authenticate(&data[..aad as usize]).unwrap();
            cipher.apply(&mut expected).unwrap();
            expected.extend(cipher.seal().unwrap());
            let sealed = rig.alice.read(OUT, done.op0);
            assert!(sealed == expected, "{algorithm:?} {aad} {len}");

            // Additional data, ciphertext, tag.
            let message = [&data[..aad as usize], &sealed[..]].concat();
            rig.alice.write(OUT, &message);
            let room = CodecWord::key(slot, len.max(1));
            let open = crypt(Opcode::Decrypt, OUT, BACK, message.len() as u32, room, iv);
            let done = rig.complete(&open);
            assert_eq!(status(&done), Status::Success, "{algorithm:?} {aad} {len}");
            assert_eq!((done.op0, done.op1), (u64::from(len), message.len() as u64));
            assert!(rig.alice.read(BACK, u64::from(len)) == data[aad as usize..]);
        }
        rig.alice.revoke(&rig.alice, slot);
    }
}

#[test]
fn nothing_of_a_message_is_released_before_its_tag_is_verified() {
    let mut rig = rig(64 << 10);
    rig.chunk_bytes = 4096;
    let slot = load(&rig, KeyAlgorithm::AesGcm256);
    let (aad, len) = (32, 40_000);
    rig.alice.write(VA, &noise(aad + len, 8));
    let iv = nonce(5, aad as u32);
    let room = CodecWord::key(slot, 64 << 10);
    let seal = crypt(Opcode::Encrypt, VA, OUT, (aad + len) as u32, room, iv);
    assert_eq!(status(&rig.complete(&seal)), Status::Success);
    let sealed = rig.alice.read(OUT, len as u64 + 16);
    let message = [&rig.alice.read(VA, aad as u64)[..], &sealed].concat();
    let untouched = vec![0xee; 64 << 10];
    // In the additional data, the ciphertext, and the tag.
    for byte in [0, 31, 32, 20_000, aad + len - 1, aad + len, aad + len + 15] {
        for bit in [0, 7] {
            let mut wrong = message.clone();
            wrong[byte] ^= 1 << bit;
            rig.alice.write(OUT, &wrong);
            rig.alice.write(BACK, &untouched);
            let open = crypt(Opcode::Decrypt, OUT, BACK, wrong.len() as u32, room, iv);
            let done = rig.complete(&open);
            assert_eq!(
                short_form(&done),
                (Status::TagMismatch, false, 0),
                "byte {byte}"
            );
            assert!(rig.alice.read(BACK, 64 << 10) == untouched, "byte {byte}");
        }
    }
}

#[test]
fn compression_is_fused_with_encryption() {
    let mut rig = rig(512 << 10);
    let slot = load(&rig, KeyAlgorithm::AesGcm256);
    for chunk_bytes in [CHUNK_BYTES, 1] {
        rig.chunk_bytes = chunk_bytes;
        for (&c, len) in Compression::ALL
            .iter()
            .flat_map(|c| [(c, 9000), (c, 300_000)])
        {
            if c == Compression::Lz4Block && len > 16384 {
                continue;
            }
            let aad = 10;
            let data = [noise(aad, 2), text(len)].concat();
            rig.alice.write(VA, &data);
            let iv = nonce(c as u64, aad as u32);
            let word = CodecWord::key(slot, 400_000).with_compression(c);
            let seal = crypt(Opcode::Encrypt, VA, OUT, data.len() as u32, word, iv);
            let done = rig.complete(&seal);
            assert_eq!(
                short_form(&done),
                (Status::Success, false, data.len() as u32)
            );
            assert!((done.op0 as usize) < len, "{c:?}");
            let sealed = rig.alice.read(OUT, done.op0);
            let message = [&data[..aad], &sealed].concat();
            rig.alice.write(OUT, &message);
            let open = |word| crypt(Opcode::Decrypt, OUT, BACK, message.len() as u32, word, iv);
            let done = rig.complete(&open(word));
            assert_eq!(status(&done), Status::Success, "{c:?}");
            assert_eq!((done.op0, done.op1), (len as u64, message.len() as u64));
            assert!(rig.alice.read(BACK, len as u64) == data[aad..]);
            let tight = CodecWord::key(slot, len as u32 - 1).with_compression(c);
            assert_eq!(status(&rig.complete(&open(tight))), Status::Overflow);

            // The same in two passes.
            rig.alice.write(VA, &data[aad..]);
            let small = compress(&mut rig, c, len as u32, 400_000);
            let open = crypt(
                Opcode::Decrypt,
                OUT,
                BACK,
                message.len() as u32,
                CodecWord::key(slot, 400_000),
                iv,
            );
            let compressed = rig.alice.read(OUT, small.op0);
            rig.alice.write(OUT, &message);
            assert_eq!(rig.complete(&open).op0, small.op0);
            assert!(rig.alice.read(BACK, small.op0) == compressed, "{c:?}");
        }
    }
}

#[test]
fn sizes_and_words_that_do_not_fit_the_key() {
    let mut rig = rig(64 << 10);
    let xts = load(&rig, KeyAlgorithm::AesXts256);
    let cbc = load(&rig, KeyAlgorithm::AesCbc128);
    let gcm = load(&rig, KeyAlgorithm::AesGcm128);
    let room = |slot| CodecWord::key(slot, 64 << 10);
    let lz4 = Compression::Lz4Frame;
    let cases = [
        (room(xts).with_unit(8), 4096, 0, Status::BadSize),
        (room(xts).with_unit(17), 4096, 0, Status::BadSize),
        (room(xts), 4096, 0, Status::BadSize),
        (room(xts).with_unit(9), 15, 0, Status::BadSize),
        (room(xts).with_unit(9), 512 + 15, 0, Status::BadSize),
        (
            room(xts).with_unit(9).with_compression(lz4),
            512,
            0,
            Status::ReservedNotZero,
        ),
        (room(cbc), 17, 0, Status::BadSize),
        (room(cbc).with_unit(9), 512, 0, Status::ReservedNotZero),
        (
            room(cbc).with_compression(lz4),
            512,
            0,
            Status::ReservedNotZero,
        ),
        (CodecWord::key(cbc, 31), 32, 0, Status::Overflow),
        (room(gcm).with_unit(9), 512, 0, Status::ReservedNotZero),
        (room(gcm), 4097, nonce(0, 4097), Status::BadSize),
        (room(gcm), 15, nonce(0, 16), Status::BadSize),
        (CodecWord::key(gcm, 15), 16, nonce(0, 16), Status::Overflow),
        (
            room(gcm).with_compression(Compression::Lz4Block),
            16385,
            0,
            Status::BadSize,
        ),
    ];
    for (word, size, iv, expected) in cases {
        let done = rig.complete(&crypt(Opcode::Encrypt, VA, OUT, size, word, iv));
        assert_eq!(short_form(&done), (expected, false, 0), "{word:?} {size}");
    }
    let most = GCM_OPEN_BYTES_MAX + 16;
    let room = CodecWord::key(gcm, 1 << 31);
    for (size, expected) in [(15, Status::BadSize), (most + 1, Status::BadSize)] {
        let d = crypt(Opcode::Decrypt, VA, 0x10_0000, size, room, 0);
        assert_eq!(status(&rig.complete(&d)), expected);
    }
    for (c, size) in [
        (Compression::Lz4Block, 16385),
        (Compression::Lz4Block, 1 << 20),
    ] {
        assert_eq!(
            status(&compress(&mut rig, c, size, 1 << 20)),
            Status::BadSize
        );
    }
    let long = decompress(&mut rig, Compression::Lz4Block, 17_000, 64 << 10);
    assert_eq!(status(&long), Status::BadSize);
}

#[test]
fn overlaps_are_refused_but_for_the_same_place() {
    let mut rig = rig(64 << 10);
    let cbc = load(&rig, KeyAlgorithm::AesCbc128);
    let gcm = load(&rig, KeyAlgorithm::AesGcm128);
    let near = |slot, dst| {
        let word = CodecWord::key(slot, 4096 + 16);
        crypt(Opcode::Encrypt, VA + 8192, dst, 4096, word, 0)
    };
    let at = VA + 8192;
    for (slot, dst, expected) in [
        (cbc, at, Status::Success),
        (cbc, at + 4095, Status::Overlap),
        (cbc, at - 4095, Status::Overlap),
        (cbc, at + 4096, Status::Success),
        (cbc, at - 4096, Status::Success),
        (gcm, at, Status::Overlap),
        (gcm, at + 4095, Status::Overlap),
        (gcm, at - 4111, Status::Overlap),
        (gcm, at - 4112, Status::Success),
        (gcm, at + 4096, Status::Success),
    ] {
        assert_eq!(
            status(&rig.complete(&near(slot, dst))),
            expected,
            "{dst:#x}"
        );
    }
}

#[test]
fn keys_need_their_right_and_are_no_memory() {
    let mut rig = rig(64 << 10);
    let algorithm = KeyAlgorithm::AesCbc128;
    let give = |rig: &Rig, rights| {
        let key = Key::new(algorithm, &key(algorithm)).unwrap();
        rig.bob.give_key(&rig.alice, key, rights)
    };
    let seals = give(&rig, Rights::ENCRYPT);
    let opens = give(&rig, Rights::DECRYPT);
    let memory = rig.alice.give(&rig.alice, VA, 4096, Rights::ALL);
    let run = |rig: &mut Rig, opcode, slot| {
        let d = crypt(opcode, VA, OUT, 64, CodecWord::key(slot, 64), 0);
        status(&rig.complete(&d))
    };
    for (slot, sealing, opening) in [
        (seals, Status::Success, Status::MissingRight),
        (opens, Status::MissingRight, Status::Success),
        (memory, Status::MissingRight, Status::MissingRight),
        (0, Status::NoCapability, Status::NoCapability),
        (15, Status::NoCapability, Status::NoCapability),
        (0x7fff, Status::NoCapability, Status::NoCapability),
    ] {
        assert_eq!(run(&mut rig, Opcode::Encrypt, slot), sealing);
        assert_eq!(run(&mut rig, Opcode::Decrypt, slot), opening);
    }
    // A key is neither read nor written.
    for (src, dst) in [(seals, 0), (0, seals)] {
        let copy = Descriptor {
            src: if src == 0 { VA } else { 0 },
            dst: if dst == 0 { OUT } else { 0 },
            size: 8,
            ..descriptor(Opcode::Memmove, src, dst)
        };
        assert_eq!(status(&rig.complete(&copy)), Status::MissingRight);
    }
    rig.bob.revoke(&rig.alice, seals);
    assert_eq!(run(&mut rig, Opcode::Encrypt, seals), Status::Revoked);
}

#[test]
fn a_key_revoked_in_the_middle_ends_the_operation() {
    for algorithm in [KeyAlgorithm::AesXts256, KeyAlgorithm::AesGcm256] {
        let mut rig = rig(256 << 10);
        rig.chunk_bytes = 16384;
        let slot = load(&rig, algorithm);
        let log2 = if algorithm == KeyAlgorithm::AesXts256 {
            12
        } else {
            0
        };
        let word = CodecWord::key(slot, 256 << 10).with_unit(log2);
        let d = crypt(Opcode::Encrypt, VA, OUT, 128 << 10, word, 0);
        let outcome = rig.run_with(&d, |rig, chunks| {
            if chunks == 2 {
                rig.alice.revoke(&rig.alice, slot);
            }
        });
        let done = if log2 == 0 { 0 } else { 32768 };
        assert_eq!(
            short_form(&outcome.completion),
            (Status::Revoked, false, done)
        );
    }
}

#[test]
fn another_key_in_the_slot_is_no_right_to_go_on() {
    for algorithm in [KeyAlgorithm::AesXts256, KeyAlgorithm::AesGcm256] {
        let mut rig = rig(256 << 10);
        rig.chunk_bytes = 16384;
        let slot = load(&rig, algorithm);
        let log2 = if algorithm == KeyAlgorithm::AesXts256 {
            12
        } else {
            0
        };
        let word = CodecWord::key(slot, 256 << 10).with_unit(log2);
        let d = crypt(Opcode::Encrypt, VA, OUT, 128 << 10, word, 0);
        let outcome = rig.run_with(&d, |rig, chunks| {
            if chunks == 2 {
                rig.alice.revoke(&rig.alice, slot);
                let slots = rig.alice.context().slots();
                drop(slots.remove(u32::from(slot), &rig.epochs));
                assert_eq!(load(rig, algorithm), slot);
            }
        });
        assert_eq!(
            status(&outcome.completion),
            Status::Revoked,
            "{algorithm:?}"
        );
    }
}

#[test]
fn jobs_come_back_however_an_operation_ends() {
    let mut rig = rig(256 << 10);
    rig.alice.write(VA, &text(200_000));
    let c = Compression::Lz4Frame;
    for _ in 0..20 {
        // Refused, faulting, failing, succeeding.
        let word = CodecWord::compression(c, 100);
        rig.complete(&transform(Opcode::Compress, VA, OUT, 200_000, word));
        let far = CodecWord::compression(c, 1 << 20);
        let missing = transform(Opcode::Compress, VA, 0x1000, 200_000, far);
        assert_eq!(status(&rig.complete(&missing)), Status::Stage1NotPresent);
        assert_eq!(
            status(&compress(&mut rig, c, 200_000, 256 << 10)),
            Status::Success
        );
    }
    let domain = rig.alice.context().domain();
    let taken: Vec<_> = (0..JOBS_PER_DOMAIN)
        .map(|_| rig.codecs.lease(domain, None).unwrap())
        .collect();
    let busy = compress(&mut rig, c, 1000, 4096);
    assert_eq!(short_form(&busy), (Status::EngineBusy, false, 0));
    drop(taken);
    assert_eq!(status(&compress(&mut rig, c, 1000, 4096)), Status::Success);
}

#[test]
fn a_fault_in_the_output_leaves_an_operation_that_can_go_on() {
    let mut rig = rig(256 << 10);
    let data = text(200_000);
    rig.alice.write(VA, &data);
    let zlib = Compression::Zlib;
    let whole = compress(&mut rig, zlib, 200_000, 256 << 10);
    let expected = rig.alice.read(OUT, whole.op0);
    rig.alice.write(OUT, &vec![0; whole.op0 as usize]);
    let hole = OUT + 3 * PAGE;
    rig.alice.change_entry(hole, |e| e & !pte::P);
    let word = CodecWord::compression(zlib, 256 << 10);
    let d = transform(Opcode::Compress, VA, OUT, 200_000, word);
    let mut execution = Execution::new(&d).unwrap();
    let fault = rig.step_to_end(&mut execution);
    assert_eq!(short_form(&fault), (Status::Stage1NotPresent, true, 0));
    assert_eq!(fault.fault_addr, hole);
    rig.alice.change_entry(hole, |e| e | pte::P);
    let done = rig.step_to_end(&mut execution);
    assert_eq!((status(&done), done.op0), (Status::Success, whole.op0));
    assert!(rig.alice.read(OUT, whole.op0) == expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever a descriptor says, nothing outside the room at its destination changes.
    #[test]
    fn nothing_beyond_the_room_is_written(
        opcode in prop::sample::select(vec![
            Opcode::Compress, Opcode::Decompress, Opcode::Encrypt, Opcode::Decrypt,
        ]),
        size in 1..70_000_u32,
        room in 1..70_000_u32,
        code in 0..6_u64,
        log2 in 0..18_u8,
        op2: u64,
        slot in 0..4_u16,
        budget in 1..CHUNK_BYTES,
    ) {
        let mut rig = rig(256 << 10);
        rig.chunk_bytes = budget;
        load(&rig, KeyAlgorithm::AesXts256);
        load(&rig, KeyAlgorithm::AesCbc256);
        load(&rig, KeyAlgorithm::AesGcm256);
        rig.alice.write(VA, &text(70_000));
        let before = vec![0xa5; 256 << 10];
        rig.alice.write(OUT, &before);
        let mut word = CodecWord::key(slot, room);
        word.0 |= code << 16;
        if matches!(opcode, Opcode::Compress | Opcode::Decompress) {
            word.0 &= !0x7fff;
        } else if slot == 1 {
            word = word.with_unit(log2);
        }
        let d = Descriptor { op2, ..transform(opcode, VA, OUT, size, word) };
        rig.complete(&d);
        let after = rig.alice.read(OUT, 256 << 10);
        prop_assert!(after[room as usize..] == before[room as usize..]);
    }
}
