//! The usual path, as a program uses it: reads from the guest's disk, sends, receives, each by a call of the kernel.
//!
//! Owns nothing.

use byway_agent::Failure;
use byway_agent::commands::{
    DiskRead, DiskSent, DiskWait, NetDrain, NetReceive, NetSend, SendDisk, StreamTaken, TakeStream,
};

use super::call::kernel;
use super::now;

/// Most bytes of one call that receives.
const RECEIVE_BYTES: u64 = 1 << 20;

/// Reads ahead, and sends on what is there.
pub fn send_disk(request: &SendDisk) -> Result<DiskSent, Failure> {
    let SendDisk {
        va,
        bytes,
        sector,
        window,
    } = *request;
    let start = now();
    kernel(DiskRead { va, bytes, sector })?;
    let mut calls = 2;
    let mut sent = 0;
    while sent < bytes {
        let there = kernel(DiskWait { above: sent })?.bytes;
        kernel(NetSend {
            va: va + sent,
            bytes: there - sent,
            window,
        })?;
        sent = there;
        calls += 2;
    }
    kernel(NetDrain {})?;
    let ticks = now() - start;
    let end = 0u8;
    kernel(NetSend {
        va: &raw const end as u64,
        bytes: 1,
        window,
    })?;
    Ok(DiskSent { ticks, calls })
}

/// Takes what comes, and then sleeps until the other end has said that this is all.
pub fn take(request: &TakeStream) -> Result<StreamTaken, Failure> {
    let mut calls = 0;
    let mut done = 0;
    while done < request.bytes {
        let piece = (request.bytes - done).min(RECEIVE_BYTES);
        kernel(NetReceive {
            va: request.va + done,
            bytes: piece,
        })?;
        done += piece;
        calls += 1;
    }
    let mut end = 0u8;
    kernel(NetReceive {
        va: &raw mut end as u64,
        bytes: 1,
    })?;
    Ok(StreamTaken { calls })
}
