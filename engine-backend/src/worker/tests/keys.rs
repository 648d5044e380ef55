//! Keys that are kept from operation to operation of a chunk, and no longer.

use byway_protocols::codec::{CodecWord, KEY_BYTES_MAX, KeyAlgorithm};

use super::*;
use crate::capability::Key;
use crate::worker::Solo;

const SIZE: u32 = 4096;
const OUT: u64 = VA + MIB;

fn encrypt(slot: u16, unit_log2: u8, opcode: Opcode) -> Descriptor {
    let word = CodecWord::key(slot, SIZE + 64).with_unit(unit_log2);
    Descriptor {
        src: VA,
        dst: OUT,
        size: SIZE,
        op0: word.0,
        ..Descriptor::new(opcode, Flags::NONE)
    }
}

#[test]
fn a_key_is_overwritten_before_its_chunk_is_over() {
    let guest = Guest::new(1, 8 * MIB);
    let process = Process::new(&guest, 16);
    process.map(VA, 2 * MIB, PageSize::Large);
    let mut solo = Solo::new();
    let mut submitter = Submitter::new(&process, 16, true);
    solo.attach(submitter.queue().clone());
    for (algorithm, unit_log2, opcode) in [
        (KeyAlgorithm::AesXts256, 12, Opcode::Encrypt),
        (KeyAlgorithm::AesCbc128, 0, Opcode::Encrypt),
        (KeyAlgorithm::AesCbc256, 0, Opcode::Encrypt),
        (KeyAlgorithm::AesGcm128, 0, Opcode::Encrypt),
        (KeyAlgorithm::AesGcm256, 0, Opcode::Encrypt),
        (KeyAlgorithm::Channel256, 0, Opcode::SealCopy),
    ] {
        let bytes: [u8; KEY_BYTES_MAX] = std::array::from_fn(|i| match i {
            i if i < algorithm.key_bytes() => i as u8 + 1,
            _ => 0,
        });
        let keys = [(); 2].map(|()| {
            let key = Key::new(algorithm, &bytes).unwrap();
            process.give_key(&process, key, Rights::KEY)
        });
        // The same key twice, another one, and the first again, in one chunk.
        let mut results = Vec::new();
        for slot in [keys[0], keys[0], keys[1], keys[0]] {
            submitter.submit(&encrypt(slot, unit_log2, opcode));
        }
        while solo.turn() {
            assert!(!solo.has_keys(), "{algorithm:?}");
        }
        while let Some(completion) = submitter.poll() {
            assert_eq!(completion.status(), Some(Status::Success), "{algorithm:?}");
            results.push(completion);
        }
        assert_eq!(results.len(), 4);
    }
}
