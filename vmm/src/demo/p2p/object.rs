//! Objects that are compressed, or encrypted, in one pass: lz4 and openssl make some that the
//! engine reads, and read others that the engine stored; both have to come to what they were
//! made of.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use byway_agent::Process;
use byway_protocols::codec::{CodecWord, Compression, KeyAlgorithm};
use byway_protocols::operands::{DeviceFields, device_operation};
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
            chained(stage, folder, "packed", &stored, inner, &data)?;
            let said = format!("lz4: its frame of {} bytes read in one pass", stored.len());
            report.checked_by.push(said);
        }
    }

    match openssl("-e", plain)? {
        None => report.skipped.push("openssl: not installed".to_owned()),
        Some(stored) => {
            let inner = crypt(stage, Opcode::Decrypt, Rights::DECRYPT)?;
            chained(stage, folder, "sealed", &stored, inner, &data)?;
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
    let frame = store(stage, folder, "frame", compress)?;
    match tools::output("lz4", &["-c", "-d", "-q", tools::text(&frame)?])? {
        None => report.skipped.push("lz4: not installed".to_owned()),
        Some(read) => {
            ensure!(read == data, "lz4 reads another object than was stored");
            let said = "lz4: reads the frame that was stored in one pass".to_owned();
            report.checked_by.push(said);
        }
    }
    let encrypt = crypt(stage, Opcode::Encrypt, Rights::ENCRYPT)?;
    let secret = store(stage, folder, "secret", encrypt)?;
    match openssl("-d", tools::text(&secret)?)? {
        None => report.skipped.push("openssl: not installed".to_owned()),
        Some(read) => {
            ensure!(read == data, "openssl reads another object than was stored");
            let said = "openssl: decrypts what was encrypted in one pass".to_owned();
            report.checked_by.push(said);
        }
    }
    Ok(())
}

/// Stores what `inner` makes of the start of alice's buffer on a disk of its own; a file with the
/// bytes that the completion says are stored there.
fn store(stage: &Stage, folder: &Path, name: &str, inner: Descriptor) -> Result<PathBuf> {
    let alice = &stage.alice;
    let size = u64::from(CodecWord(inner.op0).capacity()).next_multiple_of(4096);
    let image = disk(stage, folder, name, &[], size)?;
    let blocks = alice.open_endpoint(Process::App, name)?;
    let chain = alice.alloc(Process::App, PAGE_2M, PAGE_2M)?;
    let inner = Descriptor {
        src: stage.alice_buffer,
        size: u32::try_from(BYTES)?,
        ..inner
    };
    alice.write(Process::App, chain, &inner.to_bytes())?;
    let fields = DeviceFields {
        operation: device_operation::WRITE,
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
    let stored = folder.join(format!("{name}.stored"));
    let bytes = std::fs::read(&image)?;
    std::fs::write(&stored, &bytes[..done.op0 as usize])?;
    Ok(stored)
}

/// Stores an object and reads it through `inner`.
fn chained(
    stage: &Stage,
    folder: &Path,
    name: &str,
    stored: &[u8],
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
