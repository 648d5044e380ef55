//! DIF CHECK, INSERT, STRIP, UPDATE and GENERATE, DIX_GEN and DIX_VERIFY, against a
//! reference that works on one block at a time.

use super::*;
use byway_protocols::Rights;
use byway_protocols::operands::{
    DifFields, DifResult, dif_destination_flags as made, dif_flags, dif_mismatch,
    dif_source_flags as checked,
};
use proptest::prelude::*;

const PAGES: u64 = 24;
const ARENA: u64 = PAGES * PAGE;
const DST: u64 = VA + ARENA;

const OPCODES: [Opcode; 7] = [
    Opcode::DifCheck,
    Opcode::DifInsert,
    Opcode::DifStrip,
    Opcode::DifUpdate,
    Opcode::DifGen,
    Opcode::DixGen,
    Opcode::DixVerify,
];

fn crc16(data: &[u8], seed: u16) -> u16 {
    data.iter().fold(seed, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |c, _| {
            (c << 1) ^ (0x8bb7 & (c >> 15).wrapping_neg())
        })
    })
}

fn guard(data: &[u8], flags: u8) -> u16 {
    let seed = if flags & dif_flags::INVERT_CRC_SEED != 0 {
        0xffff
    } else {
        0
    };
    let crc = crc16(data, seed);
    if flags & dif_flags::INVERT_CRC_RESULT != 0 {
        !crc
    } else {
        crc
    }
}

fn information(guard: u16, app: u16, reference: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&guard.to_be_bytes());
    bytes[2..4].copy_from_slice(&app.to_be_bytes());
    bytes[4..].copy_from_slice(&reference.to_be_bytes());
    bytes
}

fn block_of(fields: &DifFields) -> usize {
    [512, 520, 4096, 4104][usize::from(fields.flags & dif_flags::BLOCK_MASK)]
}

fn checks(opcode: Opcode) -> bool {
    !matches!(opcode, Opcode::DifInsert | Opcode::DifGen | Opcode::DixGen)
}

fn makes(opcode: Opcode) -> bool {
    !matches!(
        opcode,
        Opcode::DifCheck | Opcode::DifStrip | Opcode::DixVerify
    )
}

fn is_interleaved(opcode: Opcode) -> bool {
    !matches!(
        opcode,
        Opcode::DifInsert | Opcode::DixGen | Opcode::DixVerify
    )
}

/// The fields with only those left that the operation takes.
fn fitting(opcode: Opcode, mut fields: DifFields) -> DifFields {
    fields.flags &= 0xf;
    if !checks(opcode) {
        fields.source_flags = 0;
        (fields.source_app_tag, fields.source_app_mask) = (0, 0);
        fields.source_ref_tag = 0;
    }
    if makes(opcode) {
        let pass = made::APP_TAG_PASS | made::GUARD_PASS | made::REF_TAG_PASS;
        fields.destination_flags &= 0xf8;
        if opcode != Opcode::DifUpdate {
            fields.destination_flags &= !pass;
        }
    } else {
        fields.destination_flags = 0;
        (fields.destination_app_tag, fields.destination_app_mask) = (0, 0);
        fields.destination_ref_tag = 0;
    }
    fields
}

fn on(opcode: Opcode, fields: &DifFields, blocks: usize) -> Descriptor {
    let unit = block_of(fields) + if is_interleaved(opcode) { 8 } else { 0 };
    let (src, dst) = match opcode {
        Opcode::DifCheck => (VA, 0),
        Opcode::DifGen => (0, VA),
        _ => (VA, DST),
    };
    Descriptor {
        src,
        dst,
        size: (blocks * unit) as u32,
        ..descriptor(opcode, 0, 0)
    }
    .with_operands(fields.to_bytes())
}

/// The tags of block `i`.
fn app_at(flags: u8, tag: u16, i: usize) -> u16 {
    if flags & checked::APP_TAG_INCREMENTS == 0 {
        tag
    } else {
        tag.wrapping_add(i as u16)
    }
}

fn ref_at(flags: u8, tag: u32, i: usize) -> u32 {
    if flags & checked::REF_TAG_FIXED != 0 {
        tag
    } else {
        tag.wrapping_add(i as u32)
    }
}

/// What a block has in a source that is as it should be.
fn expected(fields: &DifFields, data: &[u8], i: usize) -> [u8; 8] {
    information(
        guard(data, fields.flags),
        app_at(fields.source_flags, fields.source_app_tag, i),
        ref_at(fields.source_flags, fields.source_ref_tag, i),
    )
}

/// What a block gets.
fn created(fields: &DifFields, data: &[u8], old: [u8; 8], i: usize) -> [u8; 8] {
    let f = fields.destination_flags;
    let mask = fields.destination_app_mask.to_be_bytes();
    let app = app_at(f, fields.destination_app_tag, i).to_be_bytes();
    let mut new = information(
        guard(data, fields.flags),
        0,
        ref_at(f, fields.destination_ref_tag, i),
    );
    for k in 0..2 {
        new[2 + k] = app[k] & !mask[k] | old[2 + k] & mask[k];
    }
    for (flag, range) in [
        (made::GUARD_PASS, 0..2),
        (made::APP_TAG_PASS, 2..4),
        (made::REF_TAG_PASS, 4..8),
    ] {
        if f & flag != 0 {
            new[range.clone()].copy_from_slice(&old[range]);
        }
    }
    new
}

fn fields() -> impl Strategy<Value = DifFields> {
    (any::<[u8; 3]>(), any::<[u16; 4]>(), any::<[u32; 2]>()).prop_map(|(f, tags, refs)| DifFields {
        source_flags: f[0] & !checked::ALL_F_ERROR,
        destination_flags: f[1],
        flags: f[2],
        source_ref_tag: refs[0],
        source_app_mask: tags[0],
        source_app_tag: tags[1],
        destination_ref_tag: refs[1],
        destination_app_mask: tags[2],
        destination_app_tag: tags[3],
        ..DifFields::default()
    })
}

/// A rig with good blocks for the operation, their data, and what each has.
struct World {
    rig: Rig,
    data: Vec<Vec<u8>>,
    old: Vec<[u8; 8]>,
}

fn world(opcode: Opcode, fields: &DifFields, blocks: usize) -> World {
    let rig = Rig::new();
    rig.alice.map_scattered(VA, 2 * ARENA);
    let block = block_of(fields);
    let data: Vec<Vec<u8>> = (0..blocks).map(|i| noise(block, i as u64 + 1)).collect();
    let old = (0..blocks).map(|i| expected(fields, &data[i], i)).collect();
    let world = World { rig, data, old };
    let mut source = Vec::new();
    let mut apart = Vec::new();
    for (i, data) in world.data.iter().enumerate() {
        source.extend_from_slice(data);
        if is_interleaved(opcode) {
            source.extend_from_slice(&world.old[i]);
        }
        apart.extend_from_slice(&world.old[i]);
    }
    world.rig.alice.write(VA, &source);
    if opcode == Opcode::DixVerify {
        world.rig.alice.write(DST, &apart);
    }
    world
}

/// What the destination, or for DIF_GEN the operand, holds after `done` blocks.
fn output(opcode: Opcode, fields: &DifFields, world: &World, done: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, data) in world.data.iter().enumerate().take(done) {
        let new = created(fields, data, world.old[i], i);
        let fresh = created(fields, data, [0; 8], i);
        match opcode {
            Opcode::DifCheck | Opcode::DixVerify => {}
            Opcode::DifStrip => out.extend_from_slice(data),
            Opcode::DixGen => out.extend_from_slice(&fresh),
            Opcode::DifInsert | Opcode::DifGen => {
                out.extend_from_slice(data);
                out.extend_from_slice(&fresh);
            }
            Opcode::DifUpdate => {
                out.extend_from_slice(data);
                out.extend_from_slice(&new);
            }
            other => panic!("{other:?}"),
        }
    }
    out
}

fn check_output(opcode: Opcode, fields: &DifFields, world: &World, done: usize) {
    let want = output(opcode, fields, world, done);
    let at = if opcode == Opcode::DifGen { VA } else { DST };
    let got = world.rig.alice.read(at, want.len() as u64);
    assert!(got == want, "bytes of {opcode:?}");
}

/// The tags with which block `i` goes on.
fn tags_at(opcode: Opcode, fields: &DifFields, i: usize) -> DifResult {
    let mut tags = DifResult::default();
    if checks(opcode) {
        let f = fields.source_flags;
        tags.source_ref_tag = ref_at(f, fields.source_ref_tag, i);
        tags.source_app_tag = app_at(f, fields.source_app_tag, i);
        tags.source_app_mask = fields.source_app_mask;
    }
    if makes(opcode) {
        let f = fields.destination_flags;
        tags.destination_ref_tag = ref_at(f, fields.destination_ref_tag, i);
        tags.destination_app_tag = app_at(f, fields.destination_app_tag, i);
        tags.destination_app_mask = fields.destination_app_mask;
    }
    tags
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn good_blocks_pass_and_come_out_right(
        which in 0..OPCODES.len(),
        fields in fields(),
        blocks in 1_usize..18,
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let opcode = OPCODES[which];
        let fields = fitting(opcode, fields);
        let mut world = world(opcode, &fields, blocks);
        world.rig.chunk_bytes = chunk;
        let d = on(opcode, &fields, blocks);
        let c = world.rig.complete(&d);
        prop_assert_eq!(short_form(&c), (Status::Success, false, d.size));
        prop_assert_eq!(c.result, 0);
        prop_assert_eq!(DifResult::from_bytes(&c.operands()), tags_at(opcode, &fields, blocks));
        check_output(opcode, &fields, &world, blocks);
    }

    #[test]
    fn a_damaged_block_is_found_and_goes_nowhere(
        which in prop_oneof![Just(0_usize), Just(2), Just(3), Just(6)],
        fields in fields(),
        blocks in 1_usize..18,
        bad in 0_usize..18,
        bit in 0_usize..64,
        chunk in prop_oneof![Just(4096_u64), Just(CHUNK_BYTES)],
    ) {
        let opcode = OPCODES[which];
        let mut fields = fitting(opcode, fields);
        // Whether a block of ones is let through is tested for itself.
        fields.source_flags &= 0xf0;
        let bad = bad % blocks;
        let mut world = world(opcode, &fields, blocks);
        world.rig.chunk_bytes = chunk;
        let unit = block_of(&fields) + 8;
        let at = if opcode == Opcode::DixVerify {
            DST + bad as u64 * 8
        } else {
            VA + (bad * unit + unit - 8) as u64
        };
        let mut damaged = world.old[bad];
        damaged[bit / 8] ^= 0x80 >> (bit % 8);
        world.rig.alice.write(at, &damaged);
        let f = fields.source_flags;
        let wrong = match bit / 8 {
            0 | 1 if f & checked::GUARD_CHECK_DISABLE == 0 => dif_mismatch::GUARD,
            2 | 3 if fields.source_app_mask >> (31 - bit) & 1 == 0 => dif_mismatch::APP_TAG,
            4..8 if f & checked::REF_TAG_CHECK_DISABLE == 0 => dif_mismatch::REF_TAG,
            _ => 0,
        };
        let d = on(opcode, &fields, blocks);
        let before = world.rig.alice.read(DST, ARENA);
        let c = world.rig.complete(&d);
        if wrong == 0 {
            prop_assert_eq!(c.status(), Some(Status::Success));
            return Ok(());
        }
        let done = d.size / blocks as u32 * bad as u32;
        prop_assert_eq!(short_form(&c), (Status::DifMismatch, false, done));
        prop_assert_eq!((c.result, c.fault_addr), (wrong, 0));
        prop_assert_eq!(DifResult::from_bytes(&c.operands()), tags_at(opcode, &fields, bad));
        check_output(opcode, &fields, &world, bad);
        let out = output(opcode, &fields, &world, bad).len();
        prop_assert!(world.rig.alice.read(DST, ARENA)[out..] == before[out..]);
    }

    #[test]
    fn the_rest_after_a_fault_comes_to_the_same(
        which in 0..OPCODES.len(),
        fields in fields(),
        blocks in 1_usize..18,
        holes in proptest::collection::hash_set(0..2 * PAGES, 0..5),
    ) {
        let opcode = OPCODES[which];
        let fields = fitting(opcode, fields);
        let mut world = world(opcode, &fields, blocks);
        let holes: Vec<u64> = holes.into_iter().map(|page| VA + page * PAGE).collect();
        let d = on(opcode, &fields, blocks);
        let unit = d.size / blocks as u32;
        let out = match opcode {
            Opcode::DifStrip => block_of(&fields),
            Opcode::DixGen | Opcode::DixVerify => 8,
            _ => block_of(&fields) + 8,
        };
        let c = resume_over_holes(&mut world.rig, &holes, d, |d, c| {
            assert_eq!(c.bytes_completed % unit, 0);
            let blocks = u64::from(c.bytes_completed / unit);
            let tags = DifResult::from_bytes(&c.operands());
            let mut fields = DifFields::from_bytes(&d.operands());
            fields.source_ref_tag = tags.source_ref_tag;
            fields.source_app_tag = tags.source_app_tag;
            fields.destination_ref_tag = tags.destination_ref_tag;
            fields.destination_app_tag = tags.destination_app_tag;
            let moved = |addr: u64, by: u64| if addr == 0 { 0 } else { addr + by };
            Descriptor {
                src: moved(d.src, c.bytes_completed.into()),
                dst: moved(d.dst, blocks * out as u64),
                size: d.size - c.bytes_completed,
                ..*d
            }
            .with_operands(fields.to_bytes())
        });
        prop_assert!(c.status().is_some_and(Status::is_success));
        for &hole in &holes {
            world.rig.alice.change_entry(hole, |entry| entry | pte::P);
        }
        check_output(opcode, &fields, &world, blocks);
    }
}

/// The example that the standards' users know: a block of zeros has guard 0.
#[test]
fn the_information_of_a_block_of_zeros() {
    let fields = DifFields {
        destination_app_tag: 0x1234,
        destination_ref_tag: 0x0506_0708,
        ..DifFields::default()
    };
    let mut rig = Rig::new();
    rig.alice.map(VA, 2 * ARENA, PageSize::Small);
    let c = rig.complete(&on(Opcode::DixGen, &fields, 2));
    assert_eq!(short_form(&c), (Status::Success, false, 1024));
    assert_eq!(
        rig.alice.read(DST, 16),
        [0, 0, 0x12, 0x34, 5, 6, 7, 8, 0, 0, 0x12, 0x34, 5, 6, 7, 9]
    );
}

#[test]
fn blocks_of_ones_are_let_through_or_reported() {
    for (flags, status) in [
        (checked::ALL_F_DETECT, Status::Success),
        (checked::APP_TAG_F_DETECT, Status::Success),
        (
            checked::ALL_F_DETECT | checked::ALL_F_ERROR,
            Status::DifMismatch,
        ),
        (0, Status::DifMismatch),
    ] {
        let fields = DifFields {
            source_flags: flags,
            ..DifFields::default()
        };
        let mut world = world(Opcode::DifCheck, &fields, 3);
        world.rig.alice.write(VA + 520 + 512, &[0xff; 8]);
        let c = world.rig.complete(&on(Opcode::DifCheck, &fields, 3));
        assert_eq!(c.status(), Some(status), "{flags:#x}");
        if flags & checked::ALL_F_ERROR != 0 {
            assert_eq!((c.result, c.bytes_completed), (dif_mismatch::ALL_F, 520));
        }
    }
}

#[test]
fn a_block_is_judged_by_the_copy_that_goes_on() {
    let fields = DifFields::default();
    let mut world = world(Opcode::DifStrip, &fields, 64);
    world.rig.chunk_bytes = PAGE;
    // Each chunk's blocks are spoilt once it is over: too late.
    let outcome = world
        .rig
        .run_with(&on(Opcode::DifStrip, &fields, 64), |rig, chunk| {
            let spoilt = u64::from(chunk) * (PAGE / 520) * 520;
            rig.alice.write(VA, &vec![0xaa; spoilt as usize]);
        });
    assert!(world.rig.chunks > 5);
    assert_eq!(
        short_form(&outcome.completion),
        (Status::Success, false, 64 * 520)
    );
    check_output(Opcode::DifStrip, &fields, &world, 64);
}

#[test]
fn operands_need_room_and_rights_and_a_place_of_their_own() {
    let fields = DifFields::default();
    let mut world = world(Opcode::DifInsert, &fields, 4);
    let inside = Descriptor {
        dst: VA + 4 * 512 - 1,
        ..on(Opcode::DifInsert, &fields, 4)
    };
    let c = world.rig.complete(&inside);
    assert_eq!(short_form(&c), (Status::Overlap, false, 0));
    let rig = &mut world.rig;
    rig.bob.map(VA, ARENA, PageSize::Small);
    for (length, rights, opcode, status) in [
        (4 * 520, Rights::WRITE, Opcode::DifInsert, Status::Success),
        (
            4 * 520 - 1,
            Rights::WRITE,
            Opcode::DifInsert,
            Status::Bounds,
        ),
        (
            4 * 520,
            Rights::READ,
            Opcode::DifInsert,
            Status::MissingRight,
        ),
        (4 * 520, Rights::WRITE, Opcode::DifGen, Status::MissingRight),
        (4 * 520, Rights::ALL, Opcode::DifGen, Status::Success),
        (32, Rights::WRITE, Opcode::DixGen, Status::Success),
        (31, Rights::WRITE, Opcode::DixGen, Status::Bounds),
    ] {
        let slot = rig.bob.give(&rig.alice, VA, length, rights);
        let d = Descriptor {
            word0: Word0::new(0, slot, true).0,
            dst: 0,
            ..on(opcode, &fields, 4)
        };
        let c = rig.complete(&d);
        assert_eq!(c.status(), Some(status), "{opcode:?} {length}");
    }
}
