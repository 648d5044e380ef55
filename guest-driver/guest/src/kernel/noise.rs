//! Control messages that no driver would send: what a hostile guest kernel does to the engine.
//!
//! Owns nothing. Nearly right messages get further than random ones, so most have a known kind, a plausible
//! length and small numbers in their fields. Addresses are of memory that may be lost, or outside RAM: this kernel
//! wants to live on.

use byway_agent::Failure;
use byway_agent::commands::Noise;
use byway_driver::{Device, MmioTransport};
use byway_protocols::control::{MESSAGE_BYTES_MAX, RequestHeader};

use super::device::{KernelHal, failure};
use crate::layout::PAGE;
use crate::process::dice::Dice;

/// Kinds of requests, and some that are not.
const KINDS: u64 = 28;

/// Sends them; returns how many were answered.
pub fn send(
    device: &mut Device<MmioTransport, KernelHal>,
    request: &Noise,
) -> Result<u64, Failure> {
    let mut dice = Dice::new(request.seed);
    let mut answered = 0;
    for _ in 0..request.count {
        let (message, length) = message(&mut dice, request);
        let written = device.exchange_raw(&message[..length]).map_err(failure)?;
        answered += u64::from(written != 0);
    }
    Ok(answered)
}

fn message(dice: &mut Dice, request: &Noise) -> ([u8; MESSAGE_BYTES_MAX], usize) {
    let mut message = [0; MESSAGE_BYTES_MAX];
    let body = dice.below(13) as usize * 8;
    let length = RequestHeader::SIZE + body;
    for field in message[RequestHeader::SIZE..length].chunks_exact_mut(8) {
        field.copy_from_slice(&word(dice, request).to_le_bytes());
    }
    let header = RequestHeader {
        kind: dice.below(KINDS) as u16,
        length: if dice.below(8) == 0 {
            dice.roll() as u32
        } else {
            length as u32
        },
        tag: dice.roll(),
        ..RequestHeader::default()
    };
    message[..RequestHeader::SIZE].copy_from_slice(&header.to_bytes());
    if dice.below(16) == 0 {
        let at = dice.below(length as u64) as usize;
        message[at] = dice.roll() as u8;
    }
    // Cut short, now and then.
    let sent = if dice.below(16) == 0 {
        dice.below(length as u64) as usize + 1
    } else {
        length
    };
    (message, sent)
}

/// What a field might hold.
fn word(dice: &mut Dice, request: &Noise) -> u64 {
    let small = |dice: &mut Dice| dice.below(10);
    match dice.below(8) {
        0 => 0,
        1 | 2 => small(dice),
        // Two fields of 32 bits.
        3 | 4 => small(dice) << 32 | small(dice),
        5 => request.gpa + dice.below((request.bytes / PAGE).max(1)) * PAGE,
        6 => u64::MAX << dice.below(20),
        // Above any RAM, so that no kernel memory is hit by it.
        _ => dice.roll() | 1 << 45,
    }
}
