//! Objects that are stored compressed, or encrypted, and read in one pass: lz4 and openssl make
//! them, and the engine's chain has to come to what they were made of.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use byway_agent::Process;
use byway_protocols::codec::{CodecWord, Compression, KeyAlgorithm};
use byway_protocols::operands::{DeviceFields, device_operation};
use byway_protocols::{Descriptor, Flags, Opcode, Rights, Word0};

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

    let (key, iv) = ([0x5a_u8; 32], [0x17_u8; 16]);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (key_hex, iv_hex) = (hex(&key), hex(&iv));
    let arguments = [
        "enc",
        "-aes-256-cbc",
        "-e",
        "-nopad",
        "-K",
        &key_hex,
        "-iv",
        &iv_hex,
        "-in",
        plain,
    ];
    match tools::output("openssl", &arguments)? {
        None => report.skipped.push("openssl: not installed".to_owned()),
        Some(stored) => {
            let rights = Rights::DECRYPT | Rights::GRANT;
            let slot = stage
                .alice
                .load_key(Process::App, KeyAlgorithm::AesCbc256, &key, rights)?;
            let half = |at: usize| u64::from_le_bytes([iv[at]; 8]);
            let inner = Descriptor {
                op0: CodecWord::key(slot, BYTES as u32).0,
                op1: half(0),
                op2: half(8),
                ..Descriptor::new(Opcode::Decrypt, Flags::NONE)
            };
            chained(stage, folder, "sealed", &stored, inner, &data)?;
            let said = "openssl: its AES-256-CBC ciphertext read in one pass".to_owned();
            report.checked_by.push(said);
        }
    }
    Ok(())
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
