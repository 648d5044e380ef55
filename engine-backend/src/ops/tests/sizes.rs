//! The largest transfers: 2 GiB, of pages that all lie in the same few frames, since it is the counting that is in
//! question.

use super::*;
use byway_protocols::descriptor::TRANSFER_BYTES_MAX;
use byway_protocols::operands::{DualcastFields, Segment, XorFields};

const LARGE: u64 = 2 << 20;
/// Three operands, each with a page more than it needs: they begin inside a page.
const SRC: u64 = 0x10_0000_0000;
const DST: u64 = 0x20_0000_0000;
const THIRD: u64 = 0x30_0000_0000;
/// Where the operands begin in their first page: neither is aligned, nor are they to each other.
const AT: [u64; 3] = [5, 1000, 4093];
const BYTES: u64 = TRANSFER_BYTES_MAX as u64;

fn rig() -> Rig {
    let rig = Rig::with_ram(16 << 20);
    for base in [SRC, DST, THIRD] {
        let frame = rig.alice.map(base, LARGE, PageSize::Large);
        for page in 1..=BYTES / LARGE {
            rig.alice
                .map_page(base + page * LARGE, frame, PageSize::Large, pte::USER);
        }
    }
    rig
}

fn of_two(opcode: Opcode, src: u64, dst: u64) -> Descriptor {
    Descriptor {
        src,
        dst,
        size: TRANSFER_BYTES_MAX,
        ..descriptor(opcode, 0, 0)
    }
}

/// The bytes of one frame, from where an operand begins, round it.
fn frame(rig: &Rig, base: u64, at: u64) -> Vec<u8> {
    rig.alice.read(base + at, LARGE)
}

#[test]
fn two_gibibytes_are_done_to_the_last_byte() {
    let mut rig = rig();
    let [src, dst, third] = [SRC + AT[0], DST + AT[1], THIRD + AT[2]];
    let noise: Vec<u8> = (0..LARGE).map(|i| (i * 31 + i / 253) as u8).collect();
    rig.alice.write(SRC, &noise);
    let whole = |rig: &mut Rig, d: &Descriptor| {
        let c = rig.run(d).completion;
        assert_eq!(
            short_form(&c),
            (Status::Success, false, TRANSFER_BYTES_MAX),
            "{d:?}"
        );
        assert!(rig.chunks >= (BYTES / CHUNK_BYTES) as u32 - 1);
        c
    };
    whole(&mut rig, &of_two(Opcode::Memmove, src, dst));
    let expected = frame(&rig, SRC, AT[0]);
    assert!(frame(&rig, DST, AT[1]) == expected);
    let compared = whole(&mut rig, &of_two(Opcode::Compare, src, dst));
    assert_eq!(compared.result, 0);

    let fields = DualcastFields {
        second: third,
        ..DualcastFields::default()
    };
    // Both destinations lie alike in their pages.
    let to = Descriptor {
        dst: DST + AT[2],
        ..of_two(Opcode::Dualcast, src, 0)
    };
    whole(&mut rig, &to.with_operands(fields.to_bytes()));
    assert!(frame(&rig, DST, AT[2]) == expected && frame(&rig, THIRD, AT[2]) == expected);

    let pattern = 0x0123_4567_89ab_cdef_u64;
    whole(&mut rig, &of_two(Opcode::Fill, pattern, dst));
    let compared = whole(&mut rig, &of_two(Opcode::CompareValue, dst, pattern));
    assert_eq!(compared.result, 0);
    // Another byte at the end of the frame is met in its first page already.
    let odd = AT[1] + 777;
    rig.alice.write(DST + odd, &[0]);
    let c = rig
        .run(&of_two(Opcode::CompareValue, dst, pattern))
        .completion;
    assert_eq!((c.result, c.bytes_completed), (1, 777));

    let list = VA;
    rig.alice.map(VA, PAGE, PageSize::Small);
    let sources: Vec<u8> = [src, src]
        .into_iter()
        .flat_map(|addr| {
            Segment {
                addr,
                ..Segment::default()
            }
            .to_bytes()
        })
        .collect();
    rig.alice.write(list, &sources);
    let fields = XorFields {
        count: 2,
        ..XorFields::default()
    };
    let xor = of_two(Opcode::Xor, list, dst).with_operands(fields.to_bytes());
    whole(&mut rig, &xor);
    assert!(frame(&rig, DST, AT[1]).iter().all(|&byte| byte == 0));

    for (opcode, d) in [
        (
            Opcode::TranslationFetch,
            of_two(Opcode::TranslationFetch, src, 0),
        ),
        (Opcode::CacheFlush, of_two(Opcode::CacheFlush, 0, dst)),
    ] {
        let c = rig.run(&d).completion;
        assert_eq!(
            short_form(&c),
            (Status::Success, false, TRANSFER_BYTES_MAX),
            "{opcode:?}"
        );
    }
}

/// A page that is missing just before the end: all but it was done, and the rest finishes.
#[test]
fn the_last_of_two_gibibytes_may_be_missing() {
    let mut rig = rig();
    let (src, dst) = (SRC, DST + LARGE / 2);
    let last = DST + BYTES;
    rig.alice.change_entry(last, |e| e & !pte::P);
    let d = of_two(Opcode::Memmove, src, dst);
    let c = rig.run(&d).completion;
    let done = (last - dst) as u32;
    assert_eq!(short_form(&c), (Status::Stage1NotPresent, true, done));
    assert_eq!(c.fault_addr, last);
    rig.alice.change_entry(last, |e| e | pte::P);
    let rest = Descriptor {
        src: src + u64::from(done),
        dst: last,
        size: TRANSFER_BYTES_MAX - done,
        ..d
    };
    let c = rig.run(&rest).completion;
    assert_eq!(short_form(&c), (Status::Success, false, rest.size));
}
