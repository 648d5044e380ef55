//! A compressing, checksumming put: alice's process compresses a document, has it copied into bob's
//! memory with a checksum of the very bytes that were written, and tells bob by a signal. Bob's process
//! checks the checksum over what has arrived, and decompresses it.
//!
//!     cargo run --release -p byway-examples --bin put_compressed
//!
//! Every descriptor is submitted by a ring-3 process of a guest, through its own ring.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use byway_examples::{APP, execute, on_two_vms, own, remote};
use byway_ring::{Compression, Crc32c, Done, Request, Transformed};
use byway_vmm::steer::{PAGE_2M, Stage};

/// Bytes of the document.
const DOCUMENT: u64 = 1 << 20;
/// Room for what is made of it; a document that does not compress would need a little more.
const ROOM: u64 = 2 << 20;
/// Where bob gets the signal: behind the room. Its value is the bytes that came.
const SIGNAL: u64 = ROOM;

fn main() -> ExitCode {
    on_two_vms(put_compressed)
}

fn put_compressed(stage: &mut Stage) -> Result<()> {
    let (alice, bob) = (&stage.alice, &stage.bob);
    // Alice's buffer: the document, then what is made of it.
    let (document, packed) = (stage.alice_buffer, stage.alice_buffer + ROOM);
    let text = document_text();
    for (index, part) in text.chunks(4096).enumerate() {
        alice.write(APP, document + 4096 * index as u64, part)?;
    }

    let compress = Request::compress(
        own(packed),
        ROOM,
        own(document),
        DOCUMENT,
        Compression::Lz4Frame,
    )?;
    let made = Transformed::of(&execute(alice, compress)?)?;
    let bytes = u64::from(made.produced);

    // The signal is ordered behind the copy: who sees it sees every byte.
    let put = Request::copy_crc(remote(stage, 0)?, own(packed), bytes, 0)?;
    let signal = Request::signal(remote(stage, SIGNAL)?, bytes)?;
    let completions = alice.execute(APP, &[put.into(), signal.into()])?;
    let sent = Crc32c::of(&completions[0])?.value;
    Done::of(&completions[1])?;
    println!("alice: {DOCUMENT} bytes compressed to {bytes}, put with CRC-32C {sent:08x}");

    // Bob's side.
    let mut told = [0; 8];
    bob.read(APP, stage.bob_buffer + SIGNAL, &mut told)?;
    let came = u64::from_le_bytes(told);
    ensure!(
        came == bytes,
        "bob was told of {came} bytes instead of {bytes}"
    );
    let received = Crc32c::of(&execute(
        bob,
        Request::crc(own(stage.bob_buffer), came, 0)?,
    )?)?
    .value;
    ensure!(
        received == sent,
        "bob received CRC-32C {received:08x} instead of {sent:08x}"
    );
    let unpacked = bob.alloc(APP, DOCUMENT, PAGE_2M)?;
    let decompress = Request::decompress(
        own(unpacked),
        DOCUMENT,
        own(stage.bob_buffer),
        came,
        Compression::Lz4Frame,
    )?;
    let back = Transformed::of(&execute(bob, decompress)?)?;
    ensure!(
        u64::from(back.produced) == DOCUMENT,
        "{} bytes came back",
        back.produced
    );
    let (wrote, read) = (
        alice.checksum(APP, document, DOCUMENT)?,
        bob.checksum(APP, unpacked, DOCUMENT)?,
    );
    ensure!(wrote == read, "bob's document differs from alice's");
    ensure!(
        read == byway_agent::checksum::checksum(&text),
        "both differ from the document"
    );
    ensure!(
        bytes < DOCUMENT / 2,
        "{bytes} bytes: words were to compress by more than half"
    );
    println!(
        "bob: checksum right, and the {} bytes decompressed are the document",
        back.produced
    );
    Ok(())
}

/// Words, as documents have.
fn document_text() -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "capability ",
        "offers ",
        "a ",
        "range ",
        "of ",
        "memory, ",
        "until ",
        "revoked.\n",
    ];
    let mut text = Vec::new();
    let mut x = 1_u64;
    while (text.len() as u64) < DOCUMENT {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend_from_slice(WORDS[(x >> 61) as usize].as_bytes());
    }
    text.truncate(DOCUMENT as usize);
    text
}
