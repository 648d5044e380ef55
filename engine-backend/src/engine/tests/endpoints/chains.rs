//! What is made of memory on its way to blocks: compressed, encrypted, sealed, and summed up, in
//! one pass; and read back likewise.

use byway_protocols::codec::{KeyAlgorithm, SealHeader, TAG_BYTES};

use super::peer_world::{DISK as SMALL_DISK, Peers, blk};
use super::*;
use crate::testing::Mischief;

/// Where in alice's buffer chained descriptors are, and what is read back.
const CHAIN: u64 = 14 << 20;
const BACK: u64 = 5 << 20;
/// Bytes before they are stored: several requests, and no whole blocks.
const SIZE: usize = 300_000;

/// Half of it can be compressed.
fn object() -> Vec<u8> {
    let mut state = 1_u32;
    let noise = |i: usize| {
        state = state.wrapping_mul(0x9e37_79b1) ^ (state >> 13) ^ i as u32;
        (state >> 11) as u8
    };
    let mut bytes: Vec<u8> = (0..SIZE).map(noise).collect();
    bytes[SIZE / 2..].fill(0x42);
    bytes
}

/// A transfer of `size` bytes between blocks at `at` and what the chained descriptor names.
fn chained(
    vm: &Vm,
    fields: DeviceFields,
    inner: &Descriptor,
    blocks: (u16, u64),
    size: u64,
) -> Descriptor {
    vm.guest.write(vm.buffer_gpa() + CHAIN, &inner.to_bytes());
    let fields = DeviceFields {
        chain: BUFFER + CHAIN,
        ..fields
    };
    match fields.operation {
        device_operation::WRITE => with(fields, (0, 0), blocks, size),
        _ => with(fields, blocks, (0, 0), size),
    }
}

fn writing(flags: u8) -> DeviceFields {
    DeviceFields {
        operation: device_operation::WRITE,
        flags,
        ..DeviceFields::default()
    }
}

fn reading() -> DeviceFields {
    DeviceFields {
        operation: device_operation::READ,
        ..DeviceFields::default()
    }
}

fn compress(capacity: u32) -> Descriptor {
    Descriptor {
        src: BUFFER,
        size: SIZE as u32,
        op0: CodecWord::compression(Compression::Lz4Frame, capacity).0,
        ..Descriptor::new(Opcode::Compress, Flags::NONE)
    }
}

/// World with the object in alice's buffer, and the bytes of a block.
fn with_object() -> (Engine, Vm, Disk, u16, u64) {
    let (engine, mut alice, _bob, disk, slot) = world();
    // All of the staging has been used, and is not zeros.
    let used = read(slot, 0, BACK, DISK as u64);
    assert_eq!(alice.run_for(&used), Status::Success);
    alice.guest.write(alice.buffer_gpa(), &object());
    let block = u64::from(open(&mut alice, "disk").unwrap().block_bytes);
    (engine, alice, disk, slot, block)
}

/// What lies on the disk is stored at `at`, with zeros up to the end of its block, and the rest
/// as it was.
fn check_disk(disk: &Disk, at: usize, stored: usize, block: u64) -> Vec<u8> {
    let (there, before) = (disk.bytes(), pattern(DISK));
    let end = at + stored;
    let padded = at + stored.next_multiple_of(block as usize);
    assert!(
        there[end..padded].iter().all(|&b| b == 0),
        "zeros behind it"
    );
    assert!(there[..at] == before[..at] && there[padded..] == before[padded..]);
    there[at..end].to_vec()
}

#[test]
fn what_is_written_is_compressed_and_summed_up_on_the_way() {
    let (_engine, mut alice, disk, slot, block) = with_object();
    let (at, capacity) = (8192, 320_000_u32);
    let size = u64::from(capacity).next_multiple_of(block);
    let flags = device_flags::GIVE_CRC;
    let write = chained(
        &alice,
        writing(flags),
        &compress(capacity),
        (slot, at),
        size,
    );
    let done = alice.run(&write);
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    assert_eq!((done.bytes_completed, done.op1), (SIZE as u32, SIZE as u64));
    let (stored, sum) = (done.op0 as u32, (done.op0 >> 32) as u32);
    assert!((150_000..200_000).contains(&stored), "{stored}");
    let bytes = check_disk(&disk, at as usize, stored as usize, block);
    assert_eq!(sum, crc32c(&bytes));

    // And back, with that sum.
    let inner = Descriptor {
        dst: BUFFER + BACK,
        size: stored,
        op0: CodecWord::compression(Compression::Lz4Frame, 1 << 20).0,
        ..Descriptor::new(Opcode::Decompress, Flags::NONE)
    };
    let fields = DeviceFields {
        flags: device_flags::CHECK_CRC,
        crc: sum,
        ..reading()
    };
    let size = u64::from(stored).next_multiple_of(block);
    let done = alice.run(&chained(&alice, fields, &inner, (slot, at), size));
    assert_eq!(
        (done.status(), done.op0),
        (Some(Status::Success), SIZE as u64)
    );
    assert!(alice.read(BACK, SIZE as u64) == object());
}

#[test]
fn a_plain_write_tells_its_sum() {
    let (_engine, mut alice, disk, slot, _) = with_object();
    let size = 256 << 10;
    let write = with(
        writing(device_flags::GIVE_CRC),
        (0, BUFFER),
        (slot, 0),
        size,
    );
    let done = alice.run(&write);
    assert_eq!(done.status(), Some(Status::Success), "{done:?}");
    let there = &disk.bytes()[..size as usize];
    assert!(there == &object()[..size as usize]);
    assert_eq!(done.op0, u64::from(crc32c(there)) << 32 | size);
}

/// Bytes of all keys.
fn key_byte(i: usize) -> u8 {
    3 * i as u8 + 1
}

#[test]
fn what_is_written_is_encrypted_on_the_way() {
    let key = 6;
    let tag = u64::from(TAG_BYTES);
    let sealed = SealHeader::SIZE as u64 + tag;
    for (algorithm, unit, more) in [
        (KeyAlgorithm::AesCbc256, 0, 0),
        (KeyAlgorithm::AesXts256, 9, 0),
        (KeyAlgorithm::AesXts256, 16, 0),
        (KeyAlgorithm::AesGcm256, 0, tag),
        (KeyAlgorithm::Channel256, 0, sealed),
    ] {
        let what = format!("{algorithm:?} {unit}");
        let (_engine, mut alice, disk, slot, block) = with_object();
        alice.load_key(algorithm, key.into(), key_byte);
        let [there, back] = match algorithm {
            KeyAlgorithm::Channel256 => [Opcode::SealCopy, Opcode::OpenCopy],
            _ => [Opcode::Encrypt, Opcode::Decrypt],
        };
        let stored = SIZE as u64 + more;
        let inner = |opcode, size: u64, capacity: u64| Descriptor {
            size: size as u32,
            op0: CodecWord::key(key, capacity as u32).with_unit(unit).0,
            ..Descriptor::new(opcode, Flags::NONE)
        };
        let make = Descriptor {
            src: BUFFER,
            ..inner(there, SIZE as u64, stored)
        };
        let size = stored.next_multiple_of(block);
        let at = 4096;
        let done = alice.run(&chained(&alice, writing(0), &make, (slot, at), size));
        assert_eq!(done.status(), Some(Status::Success), "{what}: {done:?}");
        assert_eq!(
            (u64::from(done.bytes_completed), done.op0),
            (SIZE as u64, stored)
        );
        let bytes = check_disk(&disk, at as usize, stored as usize, block);
        // Nothing of it is there in the clear.
        let run = [0x42; 64];
        assert!(!bytes.windows(run.len()).any(|w| w == run), "{what}");

        let read = Descriptor {
            dst: BUFFER + BACK,
            ..inner(back, stored, SIZE as u64)
        };
        let done = alice.run(&chained(&alice, reading(), &read, (slot, at), size));
        assert_eq!(done.status(), Some(Status::Success), "{what}: {done:?}");
        assert!(alice.read(BACK, SIZE as u64) == object(), "{what}");
    }
}

/// Every step that there is: compressed, encrypted and summed up on the way to the blocks; checked, opened, decrypted and
/// decompressed on the way back. What does not match on that way is not written anywhere.
#[test]
fn an_object_goes_through_every_step_in_one_pass() {
    use std::os::unix::fs::FileExt;
    let (key, capacity, at) = (6, 320_000_u32, 8192);
    for &compression in &[
        Compression::Lz4Frame,
        Compression::Deflate,
        Compression::Zlib,
    ] {
        let what = format!("{compression:?}");
        let (_engine, mut alice, disk, slot, block) = with_object();
        alice.load_key(KeyAlgorithm::AesGcm256, key.into(), key_byte);
        let fused = |opcode, size: u32, capacity: u32| Descriptor {
            size,
            op0: CodecWord::key(key, capacity)
                .with_compression(compression)
                .0,
            op1: compression as u64,
            ..Descriptor::new(opcode, Flags::NONE)
        };
        let make = Descriptor {
            src: BUFFER,
            ..fused(Opcode::Encrypt, SIZE as u32, capacity)
        };
        let size = u64::from(capacity).next_multiple_of(block);
        let write = chained(
            &alice,
            writing(device_flags::GIVE_CRC),
            &make,
            (slot, at),
            size,
        );
        let done = alice.run(&write);
        assert_eq!(done.status(), Some(Status::Success), "{what}: {done:?}");
        let (stored, sum) = (done.op0 as u32, (done.op0 >> 32) as u32);
        assert!((150_000..200_000).contains(&stored), "{what}: {stored}");
        let bytes = check_disk(&disk, at as usize, stored as usize, block);
        assert_eq!(sum, crc32c(&bytes), "{what}");

        let read = Descriptor {
            dst: BUFFER + BACK,
            ..fused(Opcode::Decrypt, stored, SIZE as u32)
        };
        let size = u64::from(stored).next_multiple_of(block);
        let checking = |crc| DeviceFields {
            flags: device_flags::CHECK_CRC,
            crc,
            ..reading()
        };
        alice.fill(BACK, SIZE as u64, 0x11);
        let untouched = |alice: &Vm| alice.read(BACK, SIZE as u64) == [0x11; SIZE];
        let wrong = chained(&alice, checking(sum ^ 1), &read, (slot, at), size);
        assert_eq!(alice.run_for(&wrong), Status::ChecksumMismatch, "{what}");
        assert!(untouched(&alice), "{what}");
        let done = alice.run(&chained(&alice, checking(sum), &read, (slot, at), size));
        assert_eq!(
            (done.status(), done.op0),
            (Some(Status::Success), SIZE as u64),
            "{what}"
        );
        assert!(alice.read(BACK, SIZE as u64) == object(), "{what}");

        // A bit of the disk, and no checksum that tells.
        alice.fill(BACK, SIZE as u64, 0x11);
        let bit = bytes[70_000] ^ 1;
        let file = disk.0.as_file();
        file.write_all_at(&[bit], at + 70_000).unwrap();
        file.sync_all().unwrap();
        let blind = chained(&alice, reading(), &read, (slot, at), size);
        assert_eq!(alice.run_for(&blind), Status::TagMismatch, "{what}");
        assert!(untouched(&alice), "{what}");
    }
}

#[test]
fn what_cannot_be_chained_before_a_write_is_refused() {
    let (_engine, mut alice, disk, slot, block) = with_object();
    let size = u64::from(320_000_u32).next_multiple_of(block);
    let good = compress(320_000);
    let blocks = (slot, 0);
    let refused = |alice: &mut Vm, fields, inner: &Descriptor, size, status| {
        let descriptor = chained(alice, fields, inner, blocks, size);
        let done = alice.run(&descriptor);
        assert_eq!(done.status(), Some(status), "{inner:?}: {done:?}");
        assert_eq!(done.bytes_completed, 0);
    };
    let reserved = Status::ReservedNotZero;
    let with_crc = DeviceFields {
        crc: 1,
        ..writing(device_flags::GIVE_CRC)
    };
    for fields in [writing(device_flags::CHECK_CRC), writing(4), with_crc] {
        refused(&mut alice, fields, &good, size, reserved);
    }
    let summed_read = DeviceFields {
        flags: device_flags::GIVE_CRC,
        ..reading()
    };
    refused(&mut alice, summed_read, &good, size, reserved);
    refused(
        &mut alice,
        writing(0),
        &Descriptor { dst: 64, ..good },
        size,
        reserved,
    );
    for opcode in [
        Opcode::Decompress,
        Opcode::Decrypt,
        Opcode::OpenCopy,
        Opcode::Memmove,
    ] {
        let other = Descriptor {
            flags_opcode: Descriptor::new(opcode, Flags::NONE).flags_opcode,
            ..good
        };
        refused(&mut alice, writing(0), &other, size, Status::BadOpcode);
    }
    refused(&mut alice, writing(0), &good, size + block, Status::BadSize);
    refused(&mut alice, writing(0), &good, size - block, Status::BadSize);
    let nowhere = Descriptor {
        src: 0x1000,
        ..good
    };
    refused(
        &mut alice,
        writing(0),
        &nowhere,
        size,
        Status::Stage1NotPresent,
    );
    let of_a_key = Descriptor {
        op0: CodecWord::key(7, 320_000).0,
        ..Descriptor::new(Opcode::Encrypt, Flags::NONE)
    };
    let of_a_key = Descriptor {
        src: BUFFER,
        size: 4096,
        ..of_a_key
    };
    refused(
        &mut alice,
        writing(0),
        &of_a_key,
        size,
        Status::NoCapability,
    );
    assert!(disk.bytes() == pattern(DISK), "nothing was written");

    // A source of its own beside the chained one's.
    let mut both = chained(&alice, writing(0), &good, blocks, size);
    both.src = BUFFER;
    assert_eq!(alice.run_for(&both), reserved);
    // More than there is room for, which turns out late.
    let small = compress(131_072 + 100);
    let size = u64::from(131_072_u32 + 100).next_multiple_of(block);
    refused(&mut alice, writing(0), &small, size, Status::Overflow);
    let behind = size as usize;
    assert!(disk.bytes()[behind..] == pattern(DISK)[behind..]);
}

#[test]
fn a_device_that_fails_what_was_made_tells_how_much_is_stored() {
    let mut world = Peers::new(&blk(Mischief::Fails(1), 2, SMALL_DISK));
    let peer = world.slots[1];
    world.alice.load_key(KeyAlgorithm::AesCbc256, 6, key_byte);
    let size = 512 << 10;
    world.alice.fill(0, size, 0x42);
    let make = Descriptor {
        src: BUFFER,
        size: size as u32,
        op0: CodecWord::key(6, size as u32).0,
        ..Descriptor::new(Opcode::Encrypt, Flags::NONE)
    };
    let write = chained(&world.alice, writing(0), &make, (peer, 4096), size);
    let done = world.alice.run(&write);
    let stored = 2 * (128 << 10);
    assert_eq!(done.status(), Some(Status::DeviceError), "{done:?}");
    assert_eq!(
        (u64::from(done.bytes_completed), done.op0, done.op1),
        (stored, 1, (4096 + stored) / 512)
    );
    let end = 4096 + stored as usize;
    let disk = world.peer().disk();
    assert!(disk[4096..end] != vec![0x42; stored as usize]);
    assert!(disk[end..] == world.pattern[end..]);
}
