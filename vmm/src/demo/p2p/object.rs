//! Objects that are compressed, or encrypted, or both, in one pass: lz4 and openssl make some that the
//! engine reads, and read others that the engine stored; both have to come to what they were
//! made of.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use byway_agent::Process;
use byway_protocols::codec::{CodecWord, Compression, KeyAlgorithm};
use byway_protocols::operands::{DeviceFields, device_flags, device_operation};
use byway_protocols::{Descriptor, Flags, Opcode, Rights, Status, Word0};

use super::{P2pReport, disk, expect, tools};
use crate::steer::{PAGE_2M, Stage};

/// Bytes of an object before it is stored.
const BYTES: u64 = 4 << 20;

/// An object by lz4 and one by openssl, each stored on a disk of its own and read by alice's process.
pub(super) fn read_in_one_pass(
    stage: &Stage,
    folder: &Path,
    expected: &[u8],
    report: &mut P2pReport,
) -> Result<()> {
    // Half of it compresses.
    let mut data = expected[..BYTES as usize].to_vec();
    data[..BYTES as usize / 2].fill(0x42);
    let plain = folder.join("plain");
    std::fs::write(&plain, &data)?;
    let plain = tools::text(&plain)?;

    match tools::output("lz4", &["-c", "-z", "-q", "-B4", plain])? {
        None => report.skipped.push("lz4: not installed".to_owned()),
        Some(stored) => {
            let inner = Descriptor {
                op0: CodecWord::compression(Compression::Lz4Frame, BYTES as u32).0,
                ..Descriptor::new(Opcode::Decompress, Flags::NONE)
            };
            chained(stage, folder, "packed", (&stored, None), inner, &data)?;
            let said = format!("lz4: its frame of {} bytes read in one pass", stored.len());
            report.checked_by.push(said);
        }
    }

    match openssl("-e", plain)? {
        None => report.skipped.push("openssl: not installed".to_owned()),
        Some(stored) => {
            let inner = crypt(stage, Opcode::Decrypt, Rights::DECRYPT)?;
            chained(stage, folder, "sealed", (&stored, None), inner, &data)?;
            let said = "openssl: its AES-256-CBC ciphertext read in one pass".to_owned();
            report.checked_by.push(said);
        }
    }
    Ok(())
}

/// What the object is encrypted with.
const KEY: [u8; 32] = [0x5a; 32];
const IV: [u8; 16] = [0x17; 16];

/// What openssl makes of the file at `path`, encrypting (`-e`) or decrypting (`-d`) it.
fn openssl(way: &str, path: &str) -> Result<Option<Vec<u8>>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (key, iv) = (hex(&KEY), hex(&IV));
    let cipher = ["enc", "-aes-256-cbc", way, "-nopad", "-K", &key];
    tools::output(
        "openssl",
        &[&cipher[..], &["-iv", &iv, "-in", path]].concat(),
    )
}

/// ENCRYPT or DECRYPT with that key, which alice loads with this right.
fn crypt(stage: &Stage, opcode: Opcode, right: Rights) -> Result<Descriptor> {
    let rights = right | Rights::GRANT;
    let slot = stage
        .alice
        .load_key(Process::App, KeyAlgorithm::AesCbc256, &KEY, rights)?;
    let half = u64::from_le_bytes([IV[0]; 8]);
    Ok(Descriptor {
        op0: CodecWord::key(slot, BYTES as u32).0,
        op1: half,
        op2: half,
        ..Descriptor::new(opcode, Flags::NONE)
    })
}

/// What alice's process has is compressed, and encrypted, on its way to a disk of its own; lz4 and
/// openssl read it in the image.
pub(super) fn stored_in_one_pass(
    stage: &Stage,
    folder: &Path,
    expected: &[u8],
    report: &mut P2pReport,
) -> Result<()> {
    let data = &expected[..BYTES as usize];
    // A frame is longer than what does not compress, by little.
    let room = BYTES + BYTES / 64;
    let compress = Descriptor {
        op0: CodecWord::compression(Compression::Lz4Frame, u32::try_from(room)?).0,
        ..Descriptor::new(Opcode::Compress, Flags::NONE)
    };
    let from = stage.alice_buffer;
    let frame = store(stage, folder, "frame", from, compress)?;
    match tools::output("lz4", &["-c", "-d", "-q", tools::text(&frame.path)?])? {
        None => report.skipped.push("lz4: not installed".to_owned()),
        Some(read) => {
            ensure!(read == data, "lz4 reads another object than was stored");
            let said = "lz4: reads the frame that was stored in one pass".to_owned();
            report.checked_by.push(said);
        }
    }
    let encrypt = crypt(stage, Opcode::Encrypt, Rights::ENCRYPT)?;
    let secret = store(stage, folder, "secret", from, encrypt)?;
    match openssl("-d", tools::text(&secret.path)?)? {
        None => report.skipped.push("openssl: not installed".to_owned()),
        Some(read) => {
            ensure!(read == data, "openssl reads another object than was stored");
            let said = "openssl: decrypts what was encrypted in one pass".to_owned();
            report.checked_by.push(said);
        }
    }
    Ok(())
}

/// An object that is compressed and encrypted on its way to a disk, and summed up; on its way back it is checked,
/// decrypted and decompressed, each way in one pass. openssl and lz4 read the image one after the other.
pub(super) fn through_every_step(
    stage: &Stage,
    folder: &Path,
    expected: &[u8],
    report: &mut P2pReport,
) -> Result<()> {
    const NONCE: u64 = 0x1122_3344_5566_7788;
    let alice = &stage.alice;
    // Most of it compresses: what has a tag is opened as a whole, and may have 2 MiB.
    let even = BYTES / 4 * 3;
    let mut data = expected[..BYTES as usize].to_vec();
    data[..even as usize].fill(0x42);
    let from = alice.alloc(Process::App, BYTES, PAGE_2M)?;
    let copy = Descriptor {
        src: stage.alice_buffer,
        dst: from,
        size: u32::try_from(BYTES)?,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    };
    expect(stage, &copy, "MEMMOVE")?;
    let fill = Descriptor {
        src: u64::from_le_bytes([0x42; 8]),
        dst: from,
        size: u32::try_from(even)?,
        ..Descriptor::new(Opcode::Fill, Flags::NONE)
    };
    expect(stage, &fill, "FILL")?;

    let rights = Rights::ENCRYPT | Rights::DECRYPT | Rights::GRANT;
    let key = alice.load_key(Process::App, KeyAlgorithm::AesGcm256, &KEY, rights)?;
    let fused = |opcode| Descriptor {
        op0: CodecWord::key(key, BYTES as u32)
            .with_compression(Compression::Lz4Frame)
            .0,
        op1: NONCE,
        ..Descriptor::new(opcode, Flags::NONE)
    };
    let stored = store(stage, folder, "both", from, fused(Opcode::Encrypt))?;
    let image = std::fs::read(&stored.path)?;
    ensure!(
        (image.len() as u64) < BYTES / 2,
        "{} bytes of {BYTES} are stored: not compressed",
        image.len()
    );
    // Galois/counter mode is counter mode from 2 on, and a tag behind it.
    let (ciphertext, _tag) = image.split_at(image.len() - 16);
    let plain = folder.join("both.ciphertext");
    std::fs::write(&plain, ciphertext)?;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let iv = [&NONCE.to_le_bytes()[..], &[0; 4], &2_u32.to_be_bytes()].concat();
    let cipher = [
        "enc",
        "-aes-256-ctr",
        "-d",
        "-K",
        &hex(&KEY),
        "-iv",
        &hex(&iv),
    ];
    let frame = tools::output(
        "openssl",
        &[&cipher[..], &["-in", tools::text(&plain)?]].concat(),
    )?;
    let read = match frame {
        None => None,
        Some(frame) => {
            let path = folder.join("both.lz4");
            std::fs::write(&path, frame)?;
            tools::output("lz4", &["-c", "-d", "-q", tools::text(&path)?])?
        }
    };
    match read {
        None => report.skipped.push(
            "openssl, then lz4, on what is compressed and encrypted: not installed".to_owned(),
        ),
        Some(read) => {
            ensure!(
                read == data,
                "openssl and lz4 read another object than was stored"
            );
            let said = "openssl, then lz4: read what was compressed and encrypted in one pass";
            report.checked_by.push(said.to_owned());
        }
    }
    let inner = fused(Opcode::Decrypt);
    chained(
        stage,
        folder,
        "again",
        (&image, Some(stored.crc)),
        inner,
        &data,
    )
}

/// What the engine said of an object that it stored.
struct Stored {
    /// A file with the bytes that are stored.
    path: PathBuf,
    /// Their CRC-32C.
    crc: u32,
}

/// Stores what `inner` makes of what alice has at `from` on a disk of its own.
fn store(stage: &Stage, folder: &Path, name: &str, from: u64, inner: Descriptor) -> Result<Stored> {
    let alice = &stage.alice;
    let size = u64::from(CodecWord(inner.op0).capacity()).next_multiple_of(4096);
    let image = disk(stage, folder, name, &[], size)?;
    let blocks = alice.open_endpoint(Process::App, name)?;
    let chain = alice.alloc(Process::App, PAGE_2M, PAGE_2M)?;
    let inner = Descriptor {
        src: from,
        size: u32::try_from(BYTES)?,
        ..inner
    };
    alice.write(Process::App, chain, &inner.to_bytes())?;
    let fields = DeviceFields {
        operation: device_operation::WRITE,
        flags: device_flags::GIVE_CRC,
        chain,
        ..DeviceFields::default()
    };
    let room = u64::from(CodecWord(inner.op0).capacity());
    let write = Descriptor {
        word0: Word0::new(0, blocks.slot, false).0,
        size: u32::try_from(room.next_multiple_of(blocks.block_bytes))?,
        ..Descriptor::new(Opcode::DeviceTransfer, Flags::NONE)
    }
    .with_operands(fields.to_bytes());
    let done = alice.execute_one(Process::App, &write)?;
    ensure!(
        done.status() == Some(Status::Success),
        "{name} ended as {done:?}"
    );
    let path = folder.join(format!("{name}.stored"));
    let bytes = std::fs::read(&image)?;
    std::fs::write(&path, &bytes[..done.op0 as u32 as usize])?;
    let crc = (done.op0 >> 32) as u32;
    Ok(Stored { path, crc })
}

/// Stores an object and reads it through `inner`, with its checksum looked at where there is one.
fn chained(
    stage: &Stage,
    folder: &Path,
    name: &str,
    (stored, crc): (&[u8], Option<u32>),
    inner: Descriptor,
    expected: &[u8],
) -> Result<()> {
    let alice = &stage.alice;
    let size = (stored.len() as u64).next_multiple_of(4096);
    disk(stage, folder, name, stored, size)?;
    let blocks = alice.open_endpoint(Process::App, name)?;
    // What comes out, and the chained descriptor behind it.
    let out = alice.alloc(Process::App, BYTES + PAGE_2M, PAGE_2M)?;
    let chain = out + BYTES;
    let inner = Descriptor {
        dst: out,
        size: u32::try_from(stored.len())?,
        ..inner
    };
    alice.write(Process::App, chain, &inner.to_bytes())?;
    let fields = DeviceFields {
        operation: device_operation::READ,
        flags: crc.map_or(0, |_| device_flags::CHECK_CRC),
        crc: crc.unwrap_or(0),
        chain,
        ..DeviceFields::default()
    };
    let outer = (stored.len() as u64).next_multiple_of(blocks.block_bytes);
    let read = Descriptor {
        word0: Word0::new(blocks.slot, 0, false).0,
        size: u32::try_from(outer)?,
        ..Descriptor::new(Opcode::DeviceTransfer, Flags::NONE)
    }
    .with_operands(fields.to_bytes());
    expect(stage, &read, name)?;
    let sum = alice
        .checksum(Process::App, out, BYTES)
        .context("alice's checksum")?;
    ensure!(
        sum == byway_agent::checksum::checksum(expected),
        "{name}: another object came out than was stored"
    );
    Ok(())
}
