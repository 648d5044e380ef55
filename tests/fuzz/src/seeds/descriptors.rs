//! Every supported operation within and between the processes, and what takes rights away
//! in its midst.

use byway_engine::ops::supported_opcodes;
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Word0};

use super::Seeds;
use crate::descriptors::{PAGE, VA, step, tidy};

fn run(d: &Descriptor, how: u8) -> Vec<u8> {
    [&[step::RUN, how][..], &d.to_bytes()].concat()
}

fn descriptor(opcode: Opcode, from: (u16, u64), to: (u16, u64), size: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(from.0, to.0, false).0,
        src: from.1,
        dst: to.1,
        size: size as u32,
        ..Descriptor::new(opcode, Flags::NONE)
    }
}

/// Bytes at an offset of alice's pages.
fn write(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut input = vec![step::WRITE];
    input.extend((offset as u16).to_le_bytes());
    input.push(bytes.len() as u8);
    input.extend(bytes);
    input
}

/// Work per chunk in the two bits of `tidy`: 0 most, 3 least.
fn chunks(size: u8) -> u8 {
    size << tidy::CHUNK_SHIFT
}

pub(super) fn seeds() -> Seeds {
    let (own, next) = (VA + 0x10, VA + PAGE + 0x20);
    let put = descriptor(Opcode::Memmove, (0, own), (1, 0), 64);
    let get = descriptor(Opcode::Memmove, (2, 0x100), (0, next), 3000);
    let long = descriptor(Opcode::Memmove, (0, VA), (4, 0), 0x2000);
    let fill = Descriptor {
        op0: 0x1122_3344_5566_7788,
        ..descriptor(Opcode::Fill, (0, 0xabcd), (3, 0), 0x1000)
    };
    let compare = descriptor(Opcode::Compare, (0, VA), (2, 0), 0x800);
    let batch = descriptor(Opcode::Batch, (0, VA + 0x400), (0, 0), 2);
    let batch = Descriptor {
        status_array: VA + 0x800,
        ..batch
    };
    let element = |d: &Descriptor, at: u64| write(0x400 + at * 64, &d.to_bytes());
    let supported = supported_opcodes();
    let each: Vec<u8> = (0..=u8::MAX)
        .filter(|code| supported[usize::from(code / 8)] >> (code % 8) & 1 == 1)
        .flat_map(|code| {
            let mut d = descriptor(Opcode::Nop, (0, own), (1, 0), 512);
            d.flags_opcode = u32::from(code) << 24;
            run(&d, chunks(1))
        })
        .collect();
    // The array of statuses is written where an element lies that is still to be read.
    let overlap = Descriptor {
        status_array: VA + 0x400 + Completion::SIZE as u64,
        ..batch
    };
    vec![
        ("put", run(&put, 0)),
        ("get", run(&get, chunks(1))),
        ("long", run(&long, chunks(2))),
        ("long-by-bytes", run(&long, chunks(3))),
        ("fill", run(&fill, chunks(1))),
        ("compare", run(&compare, 0)),
        ("each", each),
        (
            "untidy",
            run(&descriptor(Opcode::Memmove, (9, 1), (12, 2), 70_000), 0x1f),
        ),
        (
            "batch",
            [element(&put, 0), element(&get, 1), run(&batch, chunks(1))].concat(),
        ),
        (
            "batch-overlap",
            [element(&get, 0), element(&put, 1), run(&overlap, chunks(1))].concat(),
        ),
        ("revoked", [vec![step::REVOKE, 1], run(&put, 0)].concat()),
        (
            "revoked-later",
            [vec![step::REVOKE_LATER, 4, 2], run(&long, chunks(2))].concat(),
        ),
    ]
}
