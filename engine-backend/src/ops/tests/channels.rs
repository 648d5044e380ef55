//! SEAL_COPY and OPEN_COPY: nonces that the engine counts, messages that were tampered with,
//! replayed or reflected, and everything that may happen in the middle.

use byway_protocols::Rights;
use byway_protocols::codec::{
    CodecWord, GCM_OPEN_BYTES_MAX, KEY_BYTES_MAX, KeyAlgorithm, SEAL_MESSAGES_MAX, SealHeader,
};

use super::*;
use crate::capability::Key;
use crate::codec::{Cipher, Direction, channel};
use crate::ops::lease::JOBS_PER_DOMAIN;

/// Where sealed messages go.
const OUT: u64 = VA + (4 << 20);
/// Where they are opened to.
const BACK: u64 = VA + (8 << 20);
/// Header and tag.
const AROUND: u64 = 24 + 16;
const LABEL: u64 = 0x1122_3344_5566_7788;

fn rig(bytes: u64) -> Rig {
    let rig = Rig::with_ram(4 * bytes + (2 << 20));
    for va in [VA, OUT, BACK] {
        rig.alice.map_scattered(va, bytes);
    }
    rig
}

fn key(fill: u8) -> Key {
    let mut bytes = [0; KEY_BYTES_MAX];
    bytes[..32].fill(fill);
    Key::new(KeyAlgorithm::Channel256, &bytes).unwrap()
}

fn load(rig: &Rig) -> u16 {
    rig.alice.give_key(&rig.alice, key(7), Rights::KEY)
}

fn seal(slot: u16, size: u32, room: u32) -> Descriptor {
    Descriptor {
        src: VA,
        dst: OUT,
        size,
        op0: CodecWord::key(slot, room).0,
        op2: LABEL,
        ..descriptor(Opcode::SealCopy, 0, 0)
    }
}

fn open(slot: u16, size: u32, room: u32, lowest: u64) -> Descriptor {
    Descriptor {
        src: OUT,
        dst: BACK,
        size,
        op0: CodecWord::key(slot, room).0,
        op1: lowest,
        op2: LABEL,
        ..descriptor(Opcode::OpenCopy, 0, 0)
    }
}

fn status(c: &Completion) -> Status {
    c.status().unwrap()
}

/// Seals `size` bytes of what is at [`VA`], successfully.
fn sealed(rig: &mut Rig, slot: u16, size: u32) -> (Vec<u8>, u64) {
    let done = rig.complete(&seal(slot, size, size + AROUND as u32));
    assert_eq!(short_form(&done), (Status::Success, false, size));
    assert_eq!(done.op0, u64::from(size) + AROUND);
    (rig.alice.read(OUT, done.op0), done.op1)
}

/// What another implementation makes of a sealed message.
fn opened_by_hand(message: &[u8], label: u64) -> Option<Vec<u8>> {
    let (header, rest) = message.split_first_chunk().unwrap();
    let header = SealHeader::from_bytes(header);
    let (body, tag) = rest.split_last_chunk().unwrap();
    let derived = channel::derive(&[7; 32], &header.object).unwrap();
    let mut cipher = Cipher::new(KeyAlgorithm::AesGcm256).unwrap();
    let iv = channel::iv(&header);
    let start = cipher.start(derived.as_slice(), &iv, Direction::Decrypt);
    start.unwrap();
    cipher.authenticate(&label.to_le_bytes()).unwrap();
    let mut body = body.to_vec();
    cipher.apply(&mut body).unwrap();
    cipher.opens(tag).then_some(body)
}

#[test]
fn messages_are_sealed_numbered_and_opened() {
    let mut rig = rig(512 << 10);
    let slot = load(&rig);
    let mut number = 0;
    for size in [1, 15, 16, 17, 4096, 16384, 16385, 300_000] {
        for chunk_bytes in [CHUNK_BYTES, 1] {
            rig.chunk_bytes = chunk_bytes;
            let data = noise(size as usize, u64::from(size));
            rig.alice.write(VA, &data);
            rig.alice.write(BACK, &vec![0xee; size as usize + 1]);
            let (message, got) = sealed(&mut rig, slot, size);
            number += 1;
            assert_eq!(got, number);
            let header = SealHeader::from_bytes(message.first_chunk().unwrap());
            assert_eq!((header.number, header.reserved12), (number, 0));
            assert!(opened_by_hand(&message, LABEL).is_some_and(|plain| plain == data));
            let done = rig.complete(&open(slot, message.len() as u32, size, number));
            let want = (Status::Success, false, message.len() as u32);
            assert_eq!(short_form(&done), want, "{size}");
            assert_eq!((done.op0, done.op1), (u64::from(size), number));
            let back = rig.alice.read(BACK, u64::from(size) + 1);
            assert!(back[..size as usize] == data && back[size as usize] == 0xee);
        }
    }
}

#[test]
fn the_largest_message_fits_and_no_larger_one() {
    let mut rig = rig(u64::from(GCM_OPEN_BYTES_MAX) + 8192);
    let slot = load(&rig);
    rig.alice.write(VA, &noise(GCM_OPEN_BYTES_MAX as usize, 5));
    let (message, _) = sealed(&mut rig, slot, GCM_OPEN_BYTES_MAX);
    let back = open(slot, message.len() as u32, GCM_OPEN_BYTES_MAX, 0);
    assert_eq!(status(&rig.complete(&back)), Status::Success);
    let bytes = u64::from(GCM_OPEN_BYTES_MAX);
    assert!(rig.alice.read(BACK, bytes) == rig.alice.read(VA, bytes));
    for d in [
        seal(slot, GCM_OPEN_BYTES_MAX + 1, 1 << 30),
        seal(slot, 0, 1 << 30),
        open(slot, GCM_OPEN_BYTES_MAX + 41, 1 << 30, 0),
        open(slot, 39, 1 << 30, 0),
        seal(slot, 1, 0),
    ] {
        let refused = short_form(&rig.complete(&d));
        assert_eq!(refused, (Status::BadSize, false, 0), "{d:?}");
    }
}

#[test]
fn what_does_not_fit_is_not_sealed() {
    let mut rig = rig(64 << 10);
    let slot = load(&rig);
    let room = 1000 + AROUND as u32;
    let tight = rig.complete(&seal(slot, 1000, room - 1));
    assert_eq!(short_form(&tight), (Status::Overflow, false, 0));
    // Refused before it started: no number was used up.
    assert_eq!(sealed(&mut rig, slot, 1000).1, 1);
    let tight = rig.complete(&open(slot, room, 999, 0));
    assert_eq!(short_form(&tight), (Status::Overflow, false, 0));
}

#[test]
fn nothing_of_a_message_is_released_before_its_tag_is_verified() {
    let mut rig = rig(64 << 10);
    rig.chunk_bytes = 4096;
    let slot = load(&rig);
    rig.alice.write(VA, &noise(40_000, 8));
    let (message, number) = sealed(&mut rig, slot, 40_000);
    let untouched = vec![0xee; 64 << 10];
    rig.alice.write(BACK, &untouched);
    let last = message.len() - 1;
    // In the object, the reserved word, the number, the ciphertext and the tag.
    for byte in [
        0,
        11,
        12,
        15,
        16,
        23,
        24,
        20_000,
        last - 16,
        last - 15,
        last,
    ] {
        for bit in [0, 7] {
            let mut wrong = message.clone();
            wrong[byte] ^= 1 << bit;
            rig.alice.write(OUT, &wrong);
            let done = rig.complete(&open(slot, wrong.len() as u32, 64 << 10, 0));
            assert_eq!(
                short_form(&done),
                (Status::TagMismatch, false, 0),
                "byte {byte}"
            );
            assert_eq!((done.op0, done.op1), (0, 0));
        }
    }
    rig.alice.write(OUT, &message);
    // Cut, longer, of another label or key.
    for d in [
        open(slot, message.len() as u32 - 1, 64 << 10, 0),
        open(slot, message.len() as u32 + 1, 64 << 10, 0),
        Descriptor {
            op2: LABEL ^ 1,
            ..open(slot, message.len() as u32, 64 << 10, 0)
        },
        {
            let other = rig.alice.give_key(&rig.alice, key(8), Rights::KEY);
            open(other, message.len() as u32, 64 << 10, 0)
        },
    ] {
        let done = rig.complete(&d);
        assert_eq!(short_form(&done), (Status::TagMismatch, false, 0), "{d:?}");
    }
    assert!(rig.alice.read(BACK, 64 << 10) == untouched);
    let good = rig.complete(&open(slot, message.len() as u32, 64 << 10, number));
    assert_eq!(status(&good), Status::Success);
}

#[test]
fn a_receiver_that_counts_accepts_each_message_once() {
    let mut rig = rig(64 << 10);
    let slot = load(&rig);
    let messages = [0, 1, 2].map(|_| sealed(&mut rig, slot, 64).0);
    let receive = |rig: &mut Rig, message: &[u8], lowest: u64| {
        rig.alice.write(OUT, message);
        rig.alice.write(BACK, &[0xee; 64]);
        let done = rig.complete(&open(slot, message.len() as u32, 64, lowest));
        let untouched = rig.alice.read(BACK, 64) == [0xee; 64];
        assert_eq!(untouched, status(&done) != Status::Success);
        (status(&done), done.op1)
    };
    assert_eq!(receive(&mut rig, &messages[0], 1), (Status::Success, 1));
    assert_eq!(receive(&mut rig, &messages[0], 2), (Status::Replayed, 0));
    // One was lost, which shows, and does not come late.
    assert_eq!(receive(&mut rig, &messages[2], 2), (Status::Success, 3));
    assert_eq!(receive(&mut rig, &messages[1], 4), (Status::Replayed, 0));
    // A number that is made up is not believed.
    let mut forged = messages[1].clone();
    forged[16..24].copy_from_slice(&9_u64.to_le_bytes());
    assert_eq!(receive(&mut rig, &forged, 4), (Status::TagMismatch, 0));
}

#[test]
fn holders_draw_from_one_counter_and_a_key_loaded_anew_repeats_no_nonce() {
    let mut rig = rig(64 << 10);
    let slot = load(&rig);
    let again = load(&rig);
    let (first, one) = sealed(&mut rig, slot, 32);
    let (second, two) = sealed(&mut rig, again, 32);
    assert_eq!((one, two), (1, 1));
    assert_ne!(first[..12], second[..12]);
    // Either opens what the other sealed.
    let opened = rig.complete(&open(slot, second.len() as u32, 32, 1));
    assert_eq!(status(&opened), Status::Success);
}

#[test]
fn a_key_whose_numbers_are_used_up_has_expired() {
    let mut rig = rig(64 << 10);
    let last = key(7).with_messages(SEAL_MESSAGES_MAX - 1);
    let slot = rig.alice.give_key(&rig.alice, last, Rights::KEY);
    let (message, number) = sealed(&mut rig, slot, 100);
    assert_eq!(number, SEAL_MESSAGES_MAX);
    rig.alice.write(OUT, &message);
    for _ in 0..2 {
        let done = rig.complete(&seal(slot, 100, 4096));
        assert_eq!(short_form(&done), (Status::Revoked, false, 0));
    }
    assert!(rig.alice.read(OUT, message.len() as u64) == message);
    let opened = rig.complete(&open(slot, message.len() as u32, 100, number));
    assert_eq!(status(&opened), Status::Success);
}

#[test]
fn a_channel_key_is_for_nothing_else_and_nothing_else_is_a_channel_key() {
    let mut rig = rig(64 << 10);
    let slot = load(&rig);
    let mut bytes = [0; KEY_BYTES_MAX];
    bytes[..32].fill(7);
    let plain = Key::new(KeyAlgorithm::AesGcm256, &bytes).unwrap();
    let plain = rig.alice.give_key(&rig.alice, plain, Rights::KEY);
    let memory = rig.alice.give(&rig.alice, VA, 4096, Rights::ALL);
    for (opcode, slot, want) in [
        (Opcode::Encrypt, slot, Status::MissingRight),
        (Opcode::Decrypt, slot, Status::MissingRight),
        (Opcode::SealCopy, plain, Status::MissingRight),
        (Opcode::OpenCopy, plain, Status::MissingRight),
        (Opcode::SealCopy, memory, Status::MissingRight),
        (Opcode::SealCopy, 0, Status::NoCapability),
        (Opcode::OpenCopy, 15, Status::NoCapability),
    ] {
        let d = Descriptor {
            op2: 0,
            ..seal(slot, 64, 4096)
        };
        let d = Descriptor {
            flags_opcode: u32::from(opcode as u8) << 24,
            ..d
        };
        let done = rig.complete(&d);
        assert_eq!(short_form(&done), (want, false, 0), "{opcode:?} {slot}");
    }
    // One right is not the other.
    let seals = rig.bob.give_key(&rig.alice, key(7), Rights::ENCRYPT);
    let opens = rig.bob.give_key(&rig.alice, key(7), Rights::DECRYPT);
    let refused = rig.complete(&seal(opens, 64, 4096));
    assert_eq!(status(&refused), Status::MissingRight);
    let (message, _) = sealed(&mut rig, seals, 64);
    let size = message.len() as u32;
    let refused = rig.complete(&open(seals, size, 64, 0));
    assert_eq!(status(&refused), Status::MissingRight);
    let opened = rig.complete(&open(opens, size, 64, 0));
    assert_eq!(status(&opened), Status::Success);
}

#[test]
fn fields_that_are_not_used_are_0() {
    let mut rig = rig(64 << 10);
    let slot = load(&rig);
    let good = seal(slot, 64, 4096);
    for bit in (15..32).map(|bit| 1 << bit) {
        let d = Descriptor {
            op0: good.op0 ^ bit,
            ..good
        };
        let done = rig.complete(&d);
        assert_eq!(status(&done), Status::ReservedNotZero, "{bit:#x}");
    }
    for d in [
        Descriptor { op1: 1, ..good },
        Descriptor {
            status_array: 64,
            ..good
        },
    ] {
        assert_eq!(status(&rig.complete(&d)), Status::ReservedNotZero);
    }
    let flagged = with_flags(good, Flags::STRICT_ORDER);
    assert_eq!(status(&rig.complete(&flagged)), Status::BadFlags);
    for dst in [VA, VA + 63, VA - 103] {
        let d = Descriptor {
            dst,
            ..seal(slot, 64, 104)
        };
        assert_eq!(status(&rig.complete(&d)), Status::Overlap, "{dst:#x}");
    }
    assert_eq!(sealed(&mut rig, slot, 64).1, 1);
}

#[test]
fn a_key_revoked_in_the_middle_ends_it() {
    for opens in [false, true] {
        let mut rig = rig(256 << 10);
        let slot = load(&rig);
        let (message, _) = sealed(&mut rig, slot, 128 << 10);
        rig.chunk_bytes = 16384;
        rig.alice.write(BACK, &vec![0xee; 128 << 10]);
        let d = if opens {
            open(slot, message.len() as u32, 128 << 10, 0)
        } else {
            seal(slot, 128 << 10, 256 << 10)
        };
        let outcome = rig.run_with(&d, |rig, chunks| {
            if chunks == 2 {
                rig.alice.revoke(&rig.alice, slot);
            }
        });
        let ended = short_form(&outcome.completion);
        assert_eq!(ended, (Status::Revoked, false, 0));
        assert!(rig.alice.read(BACK, 128 << 10).iter().all(|&b| b == 0xee));
    }
}

#[test]
fn after_a_fault_it_is_started_again_under_another_number() {
    let mut rig = rig(256 << 10);
    let slot = load(&rig);
    let data = noise(100_000, 4);
    rig.alice.write(VA, &data);
    for hole in [VA, VA + 5 * PAGE, OUT, OUT + 9 * PAGE] {
        rig.alice.change_entry(hole, |e| e & !pte::P);
        let done = rig.complete(&seal(slot, 100_000, 200_000));
        let write = hole >= OUT;
        assert_eq!(
            short_form(&done),
            (Status::Stage1NotPresent, write, 0),
            "{hole:#x}"
        );
        assert_eq!(done.fault_addr, hole);
        rig.alice.change_entry(hole, |e| e | pte::P);
    }
    let (message, number) = sealed(&mut rig, slot, 100_000);
    assert_eq!(number, 5);
    // The pages of a message that is opened.
    for hole in [OUT, OUT + 9 * PAGE, BACK + 2 * PAGE] {
        rig.alice.change_entry(hole, |e| e & !pte::P);
        let done = rig.complete(&open(slot, message.len() as u32, 100_000, 0));
        assert_eq!(short_form(&done).0, Status::Stage1NotPresent, "{hole:#x}");
        rig.alice.change_entry(hole, |e| e | pte::P);
    }
    let done = rig.complete(&open(slot, message.len() as u32, 100_000, number));
    assert_eq!(status(&done), Status::Success);
    assert!(rig.alice.read(BACK, 100_000) == data);
}

#[test]
fn a_page_that_comes_lets_it_go_on_under_its_number() {
    let mut rig = rig(256 << 10);
    let slot = load(&rig);
    let data = noise(100_000, 6);
    rig.alice.write(VA, &data);
    for hole in [VA + 5 * PAGE, OUT + 9 * PAGE] {
        rig.alice.change_entry(hole, |e| e & !pte::P);
    }
    rig.pager = Box::new(|alice, _, need| {
        alice.change_entry(need.page, |e| e | pte::P);
        Verdict::Resolved
    });
    let d = with_flags(seal(slot, 100_000, 200_000), Flags::BLOCK_ON_FAULT);
    let done = rig.complete(&d);
    assert_eq!((status(&done), done.op1), (Status::Success, 1));
    let message = rig.alice.read(OUT, done.op0);
    assert!(opened_by_hand(&message, LABEL).is_some_and(|plain| plain == data));
}

#[test]
fn elements_of_a_batch_seal_and_open() {
    let mut rig = rig(64 << 10);
    let slot = load(&rig);
    let data = noise(3000, 9);
    rig.alice.write(VA, &data);
    let (list, records) = (VA + 8 * PAGE, VA + 9 * PAGE);
    let size = 3000 + AROUND as u32;
    let elements = [
        seal(slot, 3000, size),
        with_flags(open(slot, size, 3000, 1), Flags::FENCE),
        open(slot, size, 3000, 2),
        seal(slot, 3000, size - 1),
    ];
    for (i, element) in elements.iter().enumerate() {
        rig.alice.write(list + 64 * i as u64, &element.to_bytes());
    }
    let batch = Descriptor {
        src: list,
        status_array: records,
        size: elements.len() as u32,
        ..descriptor(Opcode::Batch, 0, 0)
    };
    let done = rig.complete(&batch);
    assert_eq!(short_form(&done), (Status::BatchFailed, false, 2));
    let bytes = rig.alice.read(records, 32 * elements.len() as u64);
    let statuses: Vec<_> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|record| status(&Completion::from_bytes(record)))
        .collect();
    let want = [
        Status::Success,
        Status::Success,
        Status::Replayed,
        Status::Overflow,
    ];
    assert_eq!(statuses, want);
    assert!(rig.alice.read(BACK, 3000) == data);
}

#[test]
fn jobs_come_back_however_it_ends() {
    let mut rig = rig(64 << 10);
    let slot = load(&rig);
    for _ in 0..20 {
        assert_eq!(status(&rig.complete(&seal(slot, 64, 64))), Status::Overflow);
        let (message, number) = sealed(&mut rig, slot, 64);
        let stale = open(slot, message.len() as u32, 64, number + 1);
        assert_eq!(status(&rig.complete(&stale)), Status::Replayed);
    }
    let domain = rig.alice.context().domain();
    let taken: Vec<_> = (0..JOBS_PER_DOMAIN)
        .map(|_| rig.codecs.lease(domain, None).unwrap())
        .collect();
    let busy = rig.complete(&seal(slot, 64, 4096));
    assert_eq!(short_form(&busy), (Status::EngineBusy, false, 0));
    drop(taken);
    // It had not started.
    assert_eq!(sealed(&mut rig, slot, 64).1, 21);
}
