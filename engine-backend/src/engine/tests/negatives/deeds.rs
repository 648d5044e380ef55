//! What can be done with a slot: every place for one in every operation of the ABI, each in
//! a descriptor that is right otherwise.
//!
//! Made from [`Opcode::ALL`] by a `match` without a catch-all, so that a new operation does
//! not compile until it is said here what its operands need.

use byway_protocols::codec::{CodecWord, Compression, SealHeader, TAG_BYTES};
use byway_protocols::operands::{
    ApplyDeltaFields, AtomicFields, CopySgFields, CreateDeltaFields, DeviceFields, DifFields,
    DualcastFields, Segment, XorFields, atomic_kind, device_operation, dif_source_flags,
    fetch_intent,
};
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Rights, Status, Word0};

use super::super::world::BUFFER;
use super::{CANARY, LANDING, SIZE, SOURCE};

/// Where in its own buffer an actor has a list of segments.
pub(super) const LIST: u64 = 16 << 10;
/// Where it has a batch's elements.
pub(super) const ELEMENTS: u64 = 24 << 10;
/// Where it has the statuses of a batch.
pub(super) const STATUSES: u64 = 32 << 10;
/// The actor's own blocks.
pub(super) const OWN_BLOCKS: u16 = 58;
/// The actor's own key of a channel.
pub(super) const OWN_CHANNEL: u16 = 59;
/// The actor's own key.
pub(super) const OWN_KEY: u16 = 62;
/// The actor's own port.
pub(super) const OWN_PORT: u16 = 63;

const S: u64 = SIZE as u64;
/// Data of a block, and a block with its protection information.
const BLOCK: u64 = 512;
const GUARDED: u64 = BLOCK + 8;
/// Room for as many differences as there can be.
const RECORD: u64 = S / 8 * 10;
/// What sealing adds: a header and a tag.
const SEAL_BYTES: u64 = SealHeader::SIZE as u64 + TAG_BYTES as u64;
/// Room for what does not get smaller.
const PACKED: u32 = 2 * SIZE;

/// One use of a slot.
#[derive(Debug, Clone)]
pub(super) struct Deed {
    /// What it is used for.
    pub(super) name: &'static str,
    /// Right and bytes for each operand that it stands for, in the order of the checks.
    pub(super) needs: Vec<(Rights, u64)>,
    /// How it may end where nothing refuses.
    pub(super) ends: Vec<Status>,
    pub(super) descriptor: Descriptor,
    /// What has to be in the actor's list.
    pub(super) list: Vec<Segment>,
}

impl Deed {
    /// Reads 64 bytes by the slot, or whatever [`Self::needs`] says instead.
    fn new(name: &'static str, descriptor: Descriptor) -> Self {
        Self {
            name,
            needs: vec![(Rights::READ, S)],
            ends: vec![Status::Success],
            descriptor,
            list: Vec::new(),
        }
    }
    fn needs(self, right: Rights, bytes: u64) -> Self {
        Self {
            needs: vec![(right, bytes)],
            ..self
        }
    }
    fn writes(self) -> Self {
        self.needs(Rights::WRITE, S)
    }
    /// Beside success, where the object holds nothing that makes sense.
    fn or(mut self, status: Status) -> Self {
        self.ends.push(status);
        self
    }
    fn list(self, list: &[Segment]) -> Self {
        Self {
            list: list.to_vec(),
            ..self
        }
    }
    /// Whether nothing may be changed by it in what it is done to.
    pub(super) fn only_reads(&self) -> bool {
        let writes = |(right, _): &(Rights, u64)| right.contains(Rights::WRITE);
        !self.needs.iter().any(writes)
    }
    pub(super) fn opcode(&self) -> Opcode {
        Opcode::from_code(self.descriptor.code()).unwrap()
    }
}

/// From the actor's own memory to its own memory.
fn own(opcode: Opcode) -> Descriptor {
    Descriptor {
        src: BUFFER + SOURCE,
        dst: BUFFER + LANDING,
        size: SIZE,
        ..Descriptor::new(opcode, Flags::NONE)
    }
}
/// The first byte of what is in the slot as the source.
fn from(slot: u16, d: Descriptor) -> Descriptor {
    Descriptor {
        word0: Word0::new(slot, d.slots().dst_slot(), false).0,
        src: 0,
        ..d
    }
}
/// The same as the destination.
fn to(slot: u16, d: Descriptor) -> Descriptor {
    Descriptor {
        word0: Word0::new(d.slots().src_slot(), slot, false).0,
        dst: 0,
        ..d
    }
}
fn sized(bytes: u64, d: Descriptor) -> Descriptor {
    Descriptor {
        size: bytes as u32,
        ..d
    }
}
fn no_src(d: Descriptor) -> Descriptor {
    Descriptor { src: 0, ..d }
}
fn no_dst(d: Descriptor) -> Descriptor {
    Descriptor { dst: 0, ..d }
}
/// The source is a pattern: what the object holds already.
fn pattern(d: Descriptor) -> Descriptor {
    let src = u64::from_le_bytes([CANARY; 8]);
    Descriptor { src, ..d }
}
fn segment(slot: u16) -> Segment {
    Segment {
        addr: if slot == 0 { BUFFER + SOURCE } else { 0 },
        slot,
        ..Segment::default()
    }
}
fn sized_segment(slot: u16) -> Segment {
    Segment {
        bytes: SIZE,
        ..segment(slot)
    }
}

/// Everything that can be done with a slot.
pub(super) fn all(slot: u16) -> Vec<Deed> {
    let each = Opcode::ALL.iter().map(|&opcode| of(opcode, slot));
    each.flatten().collect()
}

/// What can be done with a slot by one operation; nothing where it takes none, or where
/// this engine does not carry it out.
pub(super) fn of(opcode: Opcode, slot: u16) -> Vec<Deed> {
    use Opcode as O;
    let own = own(opcode);
    match opcode {
        O::Nop | O::Drain | O::Cancel => vec![],
        O::Execute => vec![],
        O::DeviceTransfer => device(own, slot),
        O::Batch => batch(own, slot),
        O::Memmove | O::InterDomainMemmove => vec![
            Deed::new("get", from(slot, own)),
            Deed::new("put", to(slot, own)).writes(),
            Deed {
                needs: vec![(Rights::READ, S), (Rights::WRITE, S)],
                ..Deed::new("within", from(slot, to(slot, own)))
            },
        ],
        O::Fill | O::InterDomainFill => vec![Deed::new("fill", to(slot, pattern(own))).writes()],
        O::Compare | O::InterDomainCompare => vec![
            Deed::new("first", from(slot, own)),
            Deed::new("second", to(slot, own)),
        ],
        O::CompareValue | O::InterDomainCompareValue => {
            vec![Deed::new("compared", from(slot, own))]
        }
        O::CacheFlush | O::InterDomainCacheFlush => {
            vec![Deed::new("flushed", to(slot, no_src(own)))]
        }
        O::CreateDelta | O::ApplyDelta => delta(own, slot),
        O::Dualcast => dualcast(own, slot),
        O::TranslationFetch => {
            let d = from(slot, no_dst(own));
            let write = Descriptor {
                op0: fetch_intent::WRITE.into(),
                ..d
            };
            vec![
                Deed::new("to read", d),
                Deed::new("to write", write).writes(),
            ]
        }
        O::CrcGen | O::Crc64 => vec![Deed::new("summed", from(slot, no_dst(own)))],
        O::CopyCrc => vec![
            Deed::new("source", from(slot, own)),
            Deed::new("destination", to(slot, own)).writes(),
        ],
        O::DifCheck | O::DifInsert | O::DifStrip | O::DifUpdate => dif(own, slot),
        O::DifGen | O::DixGen | O::DixVerify => dif(own, slot),
        O::Encrypt | O::Decrypt => crypt(own, slot),
        O::SealCopy | O::OpenCopy => seal(own, slot),
        O::Compress | O::Decompress => {
            let word = CodecWord::compression(Compression::Lz4Block, PACKED);
            let own = Descriptor { op0: word.0, ..own };
            vec![
                Deed::new("source", from(slot, own)).or(Status::BadData),
                Deed::new("destination", to(slot, own))
                    .needs(Rights::WRITE, PACKED.into())
                    .or(Status::BadData),
            ]
        }
        O::Xor => xor(own, slot),
        O::CopySg => copy_sg(own, slot),
        O::Atomic64 | O::Signal => word(own, slot),
        O::Send | O::Receive => message(own, slot),
    }
}

fn batch(own: Descriptor, slot: u16) -> Vec<Deed> {
    let one = Descriptor {
        src: BUFFER + ELEMENTS,
        dst: 0,
        status_array: BUFFER + STATUSES,
        size: 1,
        ..own
    };
    let statuses = Descriptor {
        status_array: 0,
        ..to(slot, one)
    };
    // What the element says is not the batch's matter.
    vec![
        Deed::new("list", from(slot, one)).or(Status::BatchFailed),
        Deed::new("statuses", statuses)
            .needs(Rights::WRITE, Completion::SIZE as u64)
            .or(Status::BatchFailed),
    ]
}

fn delta(own: Descriptor, slot: u16) -> Vec<Deed> {
    if own.code() == Opcode::ApplyDelta as u8 {
        let fields = ApplyDeltaFields {
            delta_bytes: RECORD as u32,
            ..ApplyDeltaFields::default()
        };
        let own = own.with_operands(fields.to_bytes());
        let record = Deed::new("record", from(slot, own)).needs(Rights::READ, RECORD);
        let destination = Deed::new("destination", to(slot, own)).writes();
        return vec![
            record.or(Status::DeltaRange),
            destination.or(Status::DeltaRange),
        ];
    }
    let with = |slot, d: Descriptor| {
        let fields = CreateDeltaFields {
            delta: if slot == 0 {
                BUFFER + LANDING + 4096
            } else {
                0
            },
            delta_bytes_max: RECORD as u32,
            delta_slot: slot,
            ..CreateDeltaFields::default()
        };
        d.with_operands(fields.to_bytes())
    };
    vec![
        Deed::new("first", with(0, from(slot, own))),
        Deed::new("second", with(0, to(slot, own))),
        Deed::new("record", with(slot, own)).needs(Rights::WRITE, RECORD),
    ]
}

fn dualcast(own: Descriptor, slot: u16) -> Vec<Deed> {
    let with = |slot, d: Descriptor| {
        let fields = DualcastFields {
            second: if slot == 0 {
                BUFFER + LANDING + 4096
            } else {
                0
            },
            second_slot: slot,
            ..DualcastFields::default()
        };
        d.with_operands(fields.to_bytes())
    };
    vec![
        Deed::new("source", with(0, from(slot, own))),
        Deed::new("first", with(0, to(slot, own))).writes(),
        Deed::new("second", with(slot, own)).writes(),
    ]
}

/// Nothing is checked but what stands in the way: the bytes are no protection information.
fn dif(own: Descriptor, slot: u16) -> Vec<Deed> {
    use Opcode::{DifCheck, DifGen, DifInsert, DifStrip, DifUpdate, DixGen};
    let opcode = Opcode::from_code(own.code()).unwrap();
    let checks = !matches!(opcode, DifInsert | DifGen | DixGen);
    let fields = DifFields {
        source_flags: if checks {
            dif_source_flags::GUARD_CHECK_DISABLE | dif_source_flags::REF_TAG_CHECK_DISABLE
        } else {
            0
        },
        source_app_mask: if checks { u16::MAX } else { 0 },
        ..DifFields::default()
    };
    let own = own.with_operands(fields.to_bytes());
    let source =
        |bytes, d| Deed::new("source", from(slot, sized(bytes, d))).needs(Rights::READ, bytes);
    let second =
        |size, right, bytes| Deed::new("second", to(slot, sized(size, own))).needs(right, bytes);
    match opcode {
        DifCheck => vec![source(GUARDED, no_dst(own))],
        DifInsert => vec![source(BLOCK, own), second(BLOCK, Rights::WRITE, GUARDED)],
        DifStrip => vec![source(GUARDED, own), second(GUARDED, Rights::WRITE, BLOCK)],
        DifUpdate => vec![
            source(GUARDED, own),
            second(GUARDED, Rights::WRITE, GUARDED),
        ],
        DifGen => {
            let place = to(slot, sized(GUARDED, no_src(own)));
            let both = Rights::READ | Rights::WRITE;
            vec![Deed::new("place", place).needs(both, GUARDED)]
        }
        DixGen => vec![source(BLOCK, own), second(BLOCK, Rights::WRITE, 8)],
        _ => vec![source(BLOCK, own), second(BLOCK, Rights::READ, 8)],
    }
}

fn crypt(own: Descriptor, slot: u16) -> Vec<Deed> {
    let right = if own.code() == Opcode::Encrypt as u8 {
        Rights::ENCRYPT
    } else {
        Rights::DECRYPT
    };
    let with = |key, d| {
        let op0 = CodecWord::key(key, SIZE).0;
        Descriptor { op0, ..d }
    };
    vec![
        Deed::new("key", with(slot, own)).needs(right, S),
        Deed::new("source", with(OWN_KEY, from(slot, own))),
        Deed::new("destination", with(OWN_KEY, to(slot, own))).writes(),
    ]
}

/// The keys that are given away are of CBC, so that with all rights to one it still opens and
/// seals nothing.
fn seal(own: Descriptor, slot: u16) -> Vec<Deed> {
    let seals = own.code() == Opcode::SealCopy as u8;
    let (right, out) = if seals {
        (Rights::ENCRYPT, S + SEAL_BYTES)
    } else {
        (Rights::DECRYPT, S - SEAL_BYTES)
    };
    let with = |key, d| {
        let op0 = CodecWord::key(key, out as u32).0;
        Descriptor { op0, ..d }
    };
    let by_own_key = |name, d| {
        let deed = Deed::new(name, with(OWN_CHANNEL, d));
        // What the objects hold was never sealed.
        if seals {
            deed
        } else {
            deed.or(Status::TagMismatch)
        }
    };
    vec![
        Deed {
            ends: vec![Status::MissingRight],
            ..Deed::new("key", with(slot, own)).needs(right, S)
        },
        by_own_key("source", from(slot, own)),
        by_own_key("destination", to(slot, own)).needs(Rights::WRITE, out),
    ]
}

fn xor(own: Descriptor, slot: u16) -> Vec<Deed> {
    let fields = XorFields {
        count: 2,
        ..XorFields::default()
    };
    let own = Descriptor {
        src: BUFFER + LIST,
        ..own.with_operands(fields.to_bytes())
    };
    let list = 2 * Segment::SIZE as u64;
    vec![
        Deed::new("list", from(slot, own))
            .needs(Rights::READ, list)
            .or(Status::ReservedNotZero),
        Deed::new("source", own).list(&[segment(0), segment(slot)]),
        Deed::new("destination", to(slot, own))
            .writes()
            .list(&[segment(0), segment(0)]),
    ]
}

fn copy_sg(own: Descriptor, slot: u16) -> Vec<Deed> {
    let with = |d: Descriptor, fields: CopySgFields| d.with_operands(fields.to_bytes());
    let sources = CopySgFields {
        src_count: 1,
        ..CopySgFields::default()
    };
    let destinations = CopySgFields {
        dst_count: 1,
        ..CopySgFields::default()
    };
    let rows = CopySgFields {
        row_bytes: SIZE,
        src_stride: S,
        dst_stride: S,
        ..CopySgFields::default()
    };
    let gather = Descriptor {
        src: BUFFER + LIST,
        ..with(own, sources)
    };
    let scatter = Descriptor {
        dst: BUFFER + LIST,
        ..with(own, destinations)
    };
    let list = Segment::SIZE as u64;
    vec![
        Deed::new("list of sources", from(slot, gather))
            .needs(Rights::READ, list)
            .or(Status::ReservedNotZero),
        Deed::new("source in a list", gather).list(&[sized_segment(slot)]),
        Deed::new("destination of sources in a list", to(slot, gather))
            .writes()
            .list(&[sized_segment(0)]),
        Deed::new("list of destinations", to(slot, scatter))
            .needs(Rights::READ, list)
            .or(Status::ReservedNotZero),
        Deed::new("destination in a list", scatter)
            .writes()
            .list(&[sized_segment(slot)]),
        Deed::new("rows of the source", from(slot, with(own, rows))),
        Deed::new("rows of the destination", to(slot, with(own, rows))).writes(),
    ]
}

/// Stores what the object holds already.
fn word(own: Descriptor, slot: u16) -> Vec<Deed> {
    let value = u64::from_le_bytes([CANARY; 8]);
    let place = to(slot, sized(8, no_src(own)));
    if own.code() == Opcode::Signal as u8 {
        let d = Descriptor {
            op0: value,
            ..place
        };
        return vec![Deed::new("signalled", d).needs(Rights::WRITE, 8)];
    }
    let fields = AtomicFields {
        operand: value,
        kind: atomic_kind::SWAP,
        ..AtomicFields::default()
    };
    let d = place.with_operands(fields.to_bytes());
    vec![Deed::new("swapped", d).needs(Rights::READ | Rights::WRITE, 8)]
}

/// Between the object and the actor's own blocks, and as if the object were blocks.
fn device(own: Descriptor, slot: u16) -> Vec<Deed> {
    let with = |operation, d: Descriptor| {
        let fields = DeviceFields {
            operation,
            ..DeviceFields::default()
        };
        sized(BLOCK, d).with_operands(fields.to_bytes())
    };
    use device_operation as op;
    let nothing = |d| no_src(no_dst(d));
    vec![
        Deed::new("read into", to(slot, from(OWN_BLOCKS, with(op::READ, own))))
            .needs(Rights::WRITE, BLOCK),
        Deed::new(
            "written from",
            from(slot, to(OWN_BLOCKS, with(op::WRITE, own))),
        )
        .needs(Rights::READ, BLOCK),
        Deed::new(
            "compared with",
            to(slot, from(OWN_BLOCKS, with(op::COMPARE, own))),
        )
        .needs(Rights::READ, BLOCK),
        Deed::new("read from", from(slot, with(op::READ, own))).needs(Rights::BLOCK_READ, BLOCK),
        Deed::new("written to", to(slot, with(op::WRITE, own))).needs(Rights::BLOCK_WRITE, BLOCK),
        Deed::new(
            "copied from",
            from(slot, to(OWN_BLOCKS, with(op::COPY, own))),
        )
        .needs(Rights::BLOCK_READ, BLOCK),
        Deed::new("copied to", to(slot, from(OWN_BLOCKS, with(op::COPY, own))))
            .needs(Rights::BLOCK_WRITE, BLOCK),
        Deed::new("zeroed", to(slot, nothing(with(op::WRITE_ZEROES, own))))
            .needs(Rights::BLOCK_WRITE, BLOCK),
        Deed::new("discarded", to(slot, nothing(with(op::DISCARD, own))))
            .needs(Rights::BLOCK_WRITE, BLOCK),
        Deed::new("flushed", to(slot, sized(0, nothing(with(op::FLUSH, own)))))
            .needs(Rights::BLOCK_WRITE, 0),
    ]
}

/// Without waiting: whether a port has a message or room is not the matter here.
fn message(own: Descriptor, slot: u16) -> Vec<Deed> {
    let no_wait = Descriptor {
        flags_opcode: own.flags_opcode | Flags::NO_WAIT.0,
        ..own
    };
    let (port, local) = if own.code() == Opcode::Send as u8 {
        let own = no_dst(no_wait);
        let port = Deed::new("port", to(slot, own)).needs(Rights::SEND, S);
        (port, Deed::new("message", from(slot, to(OWN_PORT, own))))
    } else {
        let own = no_src(no_wait);
        // How much there is to receive is not known before.
        let port = Deed::new("port", from(slot, own)).needs(Rights::RECEIVE, 1);
        let room = to(slot, from(OWN_PORT, own));
        (port, Deed::new("room", room).writes())
    };
    vec![port.or(Status::NotReady), local.or(Status::NotReady)]
}
