//! Tables that map small and large pages, themselves, and nothing.

use super::Seeds;
use crate::tables::step;

/// P, R/W, U/S.
const USER: u16 = 7;
const LARGE: u16 = 1 << 7;

/// An entry that leads to frame `frame`, an even one below 128 as the target reads it.
fn entry(table: u8, index: u8, bits: u16, frame: u8, high: u16) -> Vec<u8> {
    let mut bytes = vec![step::ENTRY, table, index];
    bytes.extend(bits.to_le_bytes());
    bytes.push(frame / 2);
    bytes.extend(high.to_le_bytes());
    bytes
}

fn access(indices: [u8; 5], offset: u16, flags: u8) -> Vec<u8> {
    let mut bytes = vec![step::ACCESS];
    bytes.extend(indices);
    bytes.extend(offset.to_le_bytes());
    bytes.push(flags);
    bytes
}

/// Four levels below one entry of the root: tables 0, 2, 4, 6.
fn chain(last: &[u8]) -> Vec<u8> {
    [
        entry(0, 0, USER, 2, 0),
        entry(2, 0, USER, 4, 0),
        entry(4, 0, USER, 6, 0),
        last.to_vec(),
        access([0; 5], 0x123, 0),
        access([0; 5], 0x123, 1),
        access([0; 5], 0xfff, 1),
    ]
    .concat()
}

pub(super) fn seeds() -> Seeds {
    let with = |flags: u8, steps: Vec<u8>| [vec![flags], steps].concat();
    let page = entry(6, 0, USER, 100, 0);
    let itself = [
        entry(0, 0, USER, 0, 0),
        access([0; 5], 8, 0),
        access([0; 5], 8, 1),
        entry(0, 0, 5, 0, 0),
        access([0; 5], 8, 1),
    ]
    .concat();
    let large = [
        entry(0, 0, USER, 2, 0),
        entry(2, 0, USER, 4, 0),
        vec![step::RAW_ENTRY, 4, 0],
        (1u64 << 30 | 0x87).to_le_bytes().to_vec(),
        access([0, 0, 0, 0, 3], 1, 1),
        entry(2, 0, USER | LARGE, 0, 0),
        access([0, 0, 0, 0, 3], 1, 0),
    ]
    .concat();
    let protected = [
        chain(&page),
        vec![step::PROTECT, 50, 0],
        access([0; 5], 0, 1),
        access([0; 5], 0, 0),
        vec![step::PROTECT, 3, 0],
        access([0; 5], 0, 0),
    ]
    .concat();
    let raw = [
        vec![step::RAW_ACCESS],
        (1u64 << 63).to_le_bytes().to_vec(),
        vec![1],
        access([6; 5], 0, 3),
    ]
    .concat();
    vec![
        ("small", with(0, chain(&page))),
        ("small-nx", with(8, chain(&entry(6, 0, USER, 100, 1 << 15)))),
        (
            "small-no-ad",
            with(32, chain(&entry(6, 0, USER | 0x60, 100, 0))),
        ),
        ("five-levels", with(1, chain(&page))),
        ("kernel", with(0, chain(&entry(6, 0, 3, 100, 0)))),
        ("read-only", with(0, chain(&entry(6, 0, 5, 100, 0)))),
        ("missing", with(0, chain(&[]))),
        ("itself", with(0, itself)),
        ("large", with(0, large)),
        ("protected", with(0, protected)),
        ("addresses", with(0, raw)),
    ]
}
