//! The dirty log: written pages are in it when the end of an operation is told, not only when its chunk is over.

use std::collections::BTreeSet;

use super::*;
use byway_protocols::operands::DualcastFields;

const PAGES: u64 = 64;
/// Where it is written to: after what is read.
const TO: u64 = VA + 40 * PAGE + 24;
/// A batch's elements, and their completions: the last in one page, the first in the next.
const LIST: u64 = VA + 20 * PAGE;
const RECORDS: u64 = VA + 56 * PAGE - 32;

#[test]
fn what_was_written_is_in_the_log_when_the_end_is_told() {
    const PAGE_AND_MORE: u32 = 5000;
    let fill = Descriptor {
        src: 0x5a5a,
        ..memmove(0, TO, PAGE_AND_MORE)
    };
    let fill = Descriptor {
        flags_opcode: descriptor(Opcode::Fill, 0, 0).flags_opcode,
        ..fill
    };
    let fields = DualcastFields {
        second: TO + 8 * PAGE,
        ..DualcastFields::default()
    };
    let cast = Descriptor {
        flags_opcode: descriptor(Opcode::Dualcast, 0, 0).flags_opcode,
        ..memmove(VA, TO, 64)
    };
    let cast = cast.with_operands(fields.to_bytes());
    let batch = Descriptor {
        status_array: RECORDS,
        ..memmove(LIST, 0, 2)
    };
    let batch = Descriptor {
        flags_opcode: descriptor(Opcode::Batch, 0, 0).flags_opcode,
        ..batch
    };
    for (what, operation, places) in [
        ("a short copy", memmove(VA, TO, 64), [TO, TO]),
        (
            "a copy",
            memmove(VA, TO, PAGE_AND_MORE),
            [TO, TO + u64::from(PAGE_AND_MORE)],
        ),
        ("a fill", fill, [TO, TO + u64::from(PAGE_AND_MORE)]),
        ("a dualcast", cast, [TO, fields.second]),
        ("what a batch copies", batch, [TO, TO + 8 * PAGE]),
        ("what a batch tells", batch, [RECORDS, RECORDS + 32]),
    ] {
        let mut rig = Rig::new();
        fill_noise(&rig.alice, PAGES);
        for (place, to) in [(LIST, TO), (LIST + 64, TO + 8 * PAGE)] {
            rig.alice.write(place, &memmove(VA, to, 64).to_bytes());
        }
        let guest = rig.alice.guest().clone();
        guest.memory().set_dirty_log(true);
        // The rig's chunks are not ended, which would mark what had been left out.
        let (status, ..) = short_form(&rig.complete(&operation));
        assert_eq!(status, Status::Success, "{what}");
        let frame = |place| guest.read_u64(rig.alice.entry_of(place).unwrap()) & pte::FRAME;
        for frame in BTreeSet::from(places.map(frame)) {
            let marked = guest.memory().take_dirty(frame, PAGE).unwrap();
            assert_eq!(marked, [1], "{what} at {frame:#x}");
        }
    }
}
