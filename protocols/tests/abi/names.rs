//! Every named number of the ABI, grouped as in the specification and in the C header.

use byway_protocols::capability::CapabilityState;
use byway_protocols::codec::{Compression, KeyAlgorithm};
use byway_protocols::control::{
    RequestKind, bind_flags, features, invalidate_scope, page_outcome, queue_flags, revoke_flags,
};
use byway_protocols::event::EventKind;
use byway_protocols::operands::{
    self, atomic_kind, cancel_flags, delta_result, device_flags, device_operation, dif_block,
    dif_destination_flags, dif_flags, dif_mismatch, dif_source_flags, endpoint_features,
    fetch_intent,
};
use byway_protocols::ring::QueueState;
use byway_protocols::{
    ABI_VERSION, Completion, ControlStatus, Flags, Opcode, PAGE_SIZE, Rights, Status, Word0,
    capability, codec, config, control, descriptor, invalidation, port, ring,
};

/// Names that belong together.
pub struct Group {
    /// Subject of their table in the specification.
    pub subject: &'static str,
    /// Heading in the C header.
    pub heading: &'static str,
    /// What their names begin with in C.
    pub prefix: &'static str,
    /// Column of the table that holds the name.
    pub name_column: usize,
    /// Column that holds the number.
    pub number_column: usize,
    /// Base in which the specification writes the number.
    pub radix: u32,
    /// Column that explains it.
    pub meaning_column: usize,
    /// Name and number.
    pub members: Vec<(&'static str, u64)>,
}

/// All groups in the order of the header.
pub fn groups() -> Vec<Group> {
    vec![
        constants(),
        Group {
            radix: 16,
            meaning_column: 3,
            ..codes(
                "Opcode",
                "Operations: bits 24-31 of byway_descriptor.flags_opcode (section 4)",
                "OP",
                Opcode::ALL.iter().map(|&o| (o.name(), o as u64)).collect(),
            )
        },
        bits(
            "flags",
            "Flags: bits 0-23 of byway_descriptor.flags_opcode (section 3.2)",
            "FLAG",
            vec![
                ("FENCE", Flags::FENCE.0.into()),
                ("BLOCK_ON_FAULT", Flags::BLOCK_ON_FAULT.0.into()),
                ("COMPLETION_VALID", Flags::COMPLETION_VALID.0.into()),
                ("REQUEST_COMPLETION", Flags::REQUEST_COMPLETION.0.into()),
                ("REQUEST_INTERRUPT", Flags::REQUEST_INTERRUPT.0.into()),
                ("CHECK_RESULT", Flags::CHECK_RESULT.0.into()),
                ("CACHE_CONTROL", Flags::CACHE_CONTROL.0.into()),
                ("STRICT_ORDER", Flags::STRICT_ORDER.0.into()),
                ("FILL_16", Flags::FILL_16.0.into()),
                ("NO_WAIT", Flags::NO_WAIT.0.into()),
            ],
        ),
        Group {
            radix: 16,
            ..codes(
                "Status",
                "Statuses: bits 0-6 of byway_completion.status (section 6)",
                "STATUS",
                Status::ALL.iter().map(|&s| (s.name(), s as u64)).collect(),
            )
        },
        codes(
            "delta_result",
            "byway_completion.result of CREATE_DELTA (section 4.10)",
            "DELTA",
            vec![
                ("EQUAL", delta_result::EQUAL.into()),
                ("RECORDED", delta_result::RECORDED.into()),
                ("FULL", delta_result::FULL.into()),
            ],
        ),
        codes(
            "fetch_intent",
            "Byte 40 of TRANSLATION_FETCH (section 4.13)",
            "FETCH",
            vec![
                ("READ", fetch_intent::READ.into()),
                ("WRITE", fetch_intent::WRITE.into()),
            ],
        ),
        codes(
            "dif_block",
            "Data bytes of a block: bits 0-1 of byway_dif_fields.flags (section 4.16)",
            "DIF",
            vec![
                ("BLOCK_512", dif_block::BLOCK_512.into()),
                ("BLOCK_520", dif_block::BLOCK_520.into()),
                ("BLOCK_4096", dif_block::BLOCK_4096.into()),
                ("BLOCK_4104", dif_block::BLOCK_4104.into()),
            ],
        ),
        bits(
            "dif_flags",
            "byway_dif_fields.flags (section 4.16)",
            "DIF",
            vec![
                ("BLOCK_MASK", dif_flags::BLOCK_MASK.into()),
                ("INVERT_CRC_SEED", dif_flags::INVERT_CRC_SEED.into()),
                ("INVERT_CRC_RESULT", dif_flags::INVERT_CRC_RESULT.into()),
            ],
        ),
        bits(
            "dif_source_flags",
            "byway_dif_fields.source_flags (section 4.16)",
            "DIF_SOURCE",
            vec![
                ("ALL_F_ERROR", dif_source_flags::ALL_F_ERROR.into()),
                ("ALL_F_DETECT", dif_source_flags::ALL_F_DETECT.into()),
                (
                    "APP_TAG_F_DETECT",
                    dif_source_flags::APP_TAG_F_DETECT.into(),
                ),
                (
                    "APP_AND_REF_TAG_F_DETECT",
                    dif_source_flags::APP_AND_REF_TAG_F_DETECT.into(),
                ),
                (
                    "APP_TAG_INCREMENTS",
                    dif_source_flags::APP_TAG_INCREMENTS.into(),
                ),
                (
                    "GUARD_CHECK_DISABLE",
                    dif_source_flags::GUARD_CHECK_DISABLE.into(),
                ),
                (
                    "REF_TAG_CHECK_DISABLE",
                    dif_source_flags::REF_TAG_CHECK_DISABLE.into(),
                ),
                ("REF_TAG_FIXED", dif_source_flags::REF_TAG_FIXED.into()),
            ],
        ),
        bits(
            "dif_destination_flags",
            "byway_dif_fields.destination_flags (section 4.16)",
            "DIF_DESTINATION",
            vec![
                ("APP_TAG_PASS", dif_destination_flags::APP_TAG_PASS.into()),
                (
                    "APP_TAG_INCREMENTS",
                    dif_destination_flags::APP_TAG_INCREMENTS.into(),
                ),
                ("GUARD_PASS", dif_destination_flags::GUARD_PASS.into()),
                ("REF_TAG_PASS", dif_destination_flags::REF_TAG_PASS.into()),
                ("REF_TAG_FIXED", dif_destination_flags::REF_TAG_FIXED.into()),
            ],
        ),
        bits(
            "dif_mismatch",
            "byway_completion.result with DIF_MISMATCH (section 4.16)",
            "DIF_MISMATCH",
            vec![
                ("GUARD", dif_mismatch::GUARD.into()),
                ("APP_TAG", dif_mismatch::APP_TAG.into()),
                ("REF_TAG", dif_mismatch::REF_TAG.into()),
                ("ALL_F", dif_mismatch::ALL_F.into()),
            ],
        ),
        codes(
            "atomic_kind",
            "byway_atomic_fields.kind (section 4.22)",
            "ATOMIC",
            vec![
                ("FETCH_ADD", atomic_kind::FETCH_ADD.into()),
                ("SWAP", atomic_kind::SWAP.into()),
                ("COMPARE_SWAP", atomic_kind::COMPARE_SWAP.into()),
            ],
        ),
        codes(
            "device_operation",
            "byway_device_fields.operation (section 4.33)",
            "DEVICE",
            vec![
                ("READ", device_operation::READ.into()),
                ("WRITE", device_operation::WRITE.into()),
                ("COPY", device_operation::COPY.into()),
                ("COMPARE", device_operation::COMPARE.into()),
                ("FLUSH", device_operation::FLUSH.into()),
                ("DISCARD", device_operation::DISCARD.into()),
                ("WRITE_ZEROES", device_operation::WRITE_ZEROES.into()),
            ],
        ),
        bits(
            "cancel_flags",
            "byway_cancel_fields.flags (section 4.34)",
            "CANCEL",
            vec![("EVERYTHING", cancel_flags::EVERYTHING.into())],
        ),
        bits(
            "device_flags",
            "byway_device_fields.flags (section 4.33)",
            "DEVICE",
            vec![
                ("CHECK_CRC", device_flags::CHECK_CRC.into()),
                ("GIVE_CRC", device_flags::GIVE_CRC.into()),
            ],
        ),
        bits(
            "endpoint_features",
            "byway_endpoint_open_reply.features (section 8.2)",
            "ENDPOINT",
            vec![
                ("FLUSH", endpoint_features::FLUSH.into()),
                ("DISCARD", endpoint_features::DISCARD.into()),
                ("WRITE_ZEROES", endpoint_features::WRITE_ZEROES.into()),
            ],
        ),
        codes(
            "Compression",
            "Compression: bits 16-23 of byway_descriptor.op0 (section 4.24)",
            "COMPRESSION",
            Compression::ALL
                .iter()
                .map(|&c| (debug_name(c), c as u64))
                .collect(),
        ),
        codes(
            "KeyAlgorithm",
            "byway_key_load_request.algorithm (section 4.26)",
            "KEY",
            KeyAlgorithm::ALL
                .iter()
                .map(|&a| (debug_name(a), a as u64))
                .collect(),
        ),
        codes(
            "QueueState",
            "byway_queue_header.state (section 2.3)",
            "QUEUE_STATE",
            [QueueState::None, QueueState::Running, QueueState::Dead]
                .iter()
                .map(|&s| (debug_name(s), s as u64))
                .collect(),
        ),
        bits(
            "Rights",
            "Rights of a capability (section 7.1)",
            "RIGHT",
            vec![
                ("READ", Rights::READ.0.into()),
                ("WRITE", Rights::WRITE.0.into()),
                ("GRANT", Rights::GRANT.0.into()),
                ("ENCRYPT", Rights::ENCRYPT.0.into()),
                ("DECRYPT", Rights::DECRYPT.0.into()),
                ("SEND", Rights::SEND.0.into()),
                ("RECEIVE", Rights::RECEIVE.0.into()),
                ("BLOCK_READ", Rights::BLOCK_READ.0.into()),
                ("BLOCK_WRITE", Rights::BLOCK_WRITE.0.into()),
                ("PINNED", Rights::PINNED.0.into()),
            ],
        ),
        codes(
            "CapabilityState",
            "byway_cap_query_reply.state (section 7.6)",
            "CAPABILITY",
            [
                CapabilityState::Live,
                CapabilityState::Revoked,
                CapabilityState::Expired,
            ]
            .iter()
            .map(|&s| (debug_name(s), s as u64))
            .collect(),
        ),
        Group {
            meaning_column: 4,
            ..codes(
                "RequestKind",
                "byway_request_header.kind (section 8.1)",
                "REQUEST",
                RequestKind::ALL
                    .iter()
                    .map(|&k| (k.name(), k as u64))
                    .collect(),
            )
        },
        codes(
            "ControlStatus",
            "byway_reply_header.status (section 8.1)",
            "CONTROL",
            ControlStatus::ALL
                .iter()
                .map(|&s| (s.name(), s as u64))
                .collect(),
        ),
        bits(
            "features",
            "Features of QUERY (section 8.2)",
            "FEATURE",
            vec![
                ("INVALIDATION_PAGE", features::INVALIDATION_PAGE),
                ("PAGE_REQUESTS", features::PAGE_REQUESTS),
                ("LEVELS_5", features::LEVELS_5),
                ("EXPIRY", features::EXPIRY),
                ("BYTE_QUOTA", features::BYTE_QUOTA),
                ("ENDPOINTS", features::ENDPOINTS),
                ("PINNED", features::PINNED),
            ],
        ),
        bits(
            "bind_flags",
            "byway_bind_request.flags (section 8.2)",
            "BIND",
            vec![
                ("NXE", bind_flags::NXE.into()),
                ("PAGES_1G", bind_flags::PAGES_1G.into()),
                ("NO_AD", bind_flags::NO_AD.into()),
            ],
        ),
        bits(
            "queue_flags",
            "byway_queue_create_request.flags (section 8.2)",
            "QUEUE",
            vec![("NO_PARK", queue_flags::NO_PARK.into())],
        ),
        bits(
            "revoke_flags",
            "byway_cap_slot_request.flags of CAP_REVOKE (section 8.2)",
            "REVOKE",
            vec![("DESCENDANTS_ONLY", revoke_flags::DESCENDANTS_ONLY.into())],
        ),
        codes(
            "invalidate_scope",
            "byway_invalidate_request.scope (section 8.2)",
            "INVALIDATE",
            vec![
                ("DOMAIN", invalidate_scope::DOMAIN.into()),
                ("PASID", invalidate_scope::PASID.into()),
                ("RANGE", invalidate_scope::RANGE.into()),
            ],
        ),
        codes(
            "page_outcome",
            "byway_page_response_request.outcome (section 8.2)",
            "PAGE",
            vec![
                ("RESOLVED", page_outcome::RESOLVED.into()),
                ("REFUSED", page_outcome::REFUSED.into()),
                ("RETRY_LATER", page_outcome::RETRY_LATER.into()),
            ],
        ),
        Group {
            meaning_column: 3,
            ..codes(
                "EventKind",
                "byway_event.kind (section 8.3)",
                "EVENT",
                events(),
            )
        },
    ]
}

/// A part of a packed word, which no structure's layout tells.
pub struct PackedWord {
    /// Name in C.
    pub c_name: &'static str,
    /// Name of the constant in the crate.
    pub rust_name: &'static str,
    /// Value in C.
    pub value: u64,
    /// What it is.
    pub meaning: &'static str,
}

/// The parts of packed words.
pub fn packed_words() -> [PackedWord; 8] {
    [
        PackedWord {
            c_name: "BYWAY_SLOT_BITS",
            rust_name: "SLOT_MAX",
            value: Word0::SLOT_MAX.count_ones().into(),
            meaning: "bits of a slot in word 0; the destination's follow the source's",
        },
        PackedWord {
            c_name: "BYWAY_WORD0_RESERVED",
            rust_name: "RESERVED",
            value: Word0::RESERVED.into(),
            meaning: "bit of word 0 that must be 0",
        },
        PackedWord {
            c_name: "BYWAY_WORD0_PHASE",
            rust_name: "PHASE",
            value: Word0::PHASE.into(),
            meaning: "phase bit of word 0",
        },
        PackedWord {
            c_name: "BYWAY_FLAGS_MASK",
            rust_name: "MASK",
            value: Flags::MASK.into(),
            meaning: "the flags' part of flags_opcode",
        },
        PackedWord {
            c_name: "BYWAY_OPCODE_SHIFT",
            rust_name: "MASK",
            value: Flags::MASK.count_ones().into(),
            meaning: "where the operation code begins in flags_opcode",
        },
        PackedWord {
            c_name: "BYWAY_STATUS_WRITE_FAULT",
            rust_name: "WRITE_FAULT",
            value: Status::WRITE_FAULT.into(),
            meaning: "bit of byway_completion.status: the faulting access was a write",
        },
        PackedWord {
            c_name: "BYWAY_COMPLETION_PHASE",
            rust_name: "PHASE",
            value: Completion::PHASE.into(),
            meaning: "bit of byway_completion.phase",
        },
        PackedWord {
            c_name: "BYWAY_PUBLISH_PHASE",
            rust_name: "PUBLISH_PHASE",
            value: Completion::PUBLISH_PHASE,
            meaning: "phase bit of bytes 0-7 as one word, in descriptors and completions",
        },
    ]
}

/// `pub const` items of the crate that are not numbers of the ABI, or that repeat others.
pub const NOT_LISTED: &[&str] = &[
    "ALL",
    "CODEC_RESERVED",
    "C_COUNT",
    "C_TYPE",
    "KEY",
    "KNOWN",
    "PORT",
    "BLOCK",
    "LAYOUT",
    "NONE",
    "SIZE",
    "VIRTIO_IDS",
];

fn constants() -> Group {
    Group {
        subject: "constants",
        heading: "Constants (section 1)",
        prefix: "",
        name_column: 0,
        number_column: 1,
        radix: 10,
        meaning_column: 2,
        members: vec![
            ("ABI_VERSION", ABI_VERSION.into()),
            ("PAGE_SIZE", PAGE_SIZE),
            ("ENTRIES_MIN", ring::ENTRIES_MIN.into()),
            ("ENTRIES_MAX", ring::ENTRIES_MAX.into()),
            ("SLOT_MAX", Word0::SLOT_MAX.into()),
            ("TRANSFER_BYTES_MAX", descriptor::TRANSFER_BYTES_MAX.into()),
            ("BATCH_COUNT_MAX", descriptor::BATCH_COUNT_MAX.into()),
            ("DELTA_BYTES_MAX", operands::DELTA_BYTES_MAX.into()),
            ("XOR_SOURCES_MIN", operands::XOR_SOURCES_MIN.into()),
            ("XOR_SOURCES_MAX", operands::XOR_SOURCES_MAX.into()),
            ("SEGMENTS_MAX", operands::SEGMENTS_MAX.into()),
            ("DEPTH_MAX", capability::DEPTH_MAX.into()),
            ("PASID_PHYSICAL", control::PASID_PHYSICAL.into()),
            ("PASID_MAX", control::PASID_MAX.into()),
            ("NAME_BYTES", control::NAME_BYTES as u64),
            ("MESSAGE_BYTES_MAX", control::MESSAGE_BYTES_MAX as u64),
            ("MAGIC", config::MAGIC.into()),
            ("CONTROL_QUEUE", config::CONTROL_QUEUE.into()),
            ("EVENT_QUEUE", config::EVENT_QUEUE.into()),
            ("QUEUE_COUNT", config::QUEUE_COUNT.into()),
            ("RANGES", invalidation::RANGES as u64),
            ("WORKERS", invalidation::WORKERS as u64),
            ("BUSY_OFFSET", invalidation::BUSY_OFFSET as u64),
            ("RANGES_OFFSET", invalidation::RANGES_OFFSET as u64),
            ("LZ4_BLOCK_BYTES_MAX", codec::LZ4_BLOCK_BYTES_MAX.into()),
            ("XTS_UNIT_LOG2_MIN", codec::XTS_UNIT_LOG2_MIN.into()),
            ("XTS_UNIT_LOG2_MAX", codec::XTS_UNIT_LOG2_MAX.into()),
            ("GCM_OPEN_BYTES_MAX", codec::GCM_OPEN_BYTES_MAX.into()),
            ("AAD_BYTES_MAX", codec::AAD_BYTES_MAX.into()),
            ("TAG_BYTES", codec::TAG_BYTES.into()),
            ("SEAL_MESSAGES_MAX", codec::SEAL_MESSAGES_MAX),
            ("KEY_BYTES_MAX", codec::KEY_BYTES_MAX as u64),
            ("PORT_DEPTH_MAX", port::PORT_DEPTH_MAX.into()),
            ("PORT_MESSAGE_MAX", port::PORT_MESSAGE_MAX.into()),
            ("ENDPOINT_NAME_BYTES", operands::ENDPOINT_NAME_BYTES as u64),
        ],
    }
}

/// The event kinds, found by trying every code: the crate keeps no list of them.
fn events() -> Vec<(&'static str, u64)> {
    (0..=u16::MAX)
        .filter_map(|code| EventKind::from_code(code).map(|k| (debug_name(k), code.into())))
        .collect()
}

/// Numbers in the column before the name.
fn codes(
    subject: &'static str,
    heading: &'static str,
    prefix: &'static str,
    members: Vec<(&'static str, u64)>,
) -> Group {
    Group {
        subject,
        heading,
        prefix,
        name_column: 1,
        number_column: 0,
        radix: 10,
        meaning_column: 2,
        members,
    }
}

/// As [`codes`], for single bits, which are written in hexadecimal with `0x`.
fn bits(
    subject: &'static str,
    heading: &'static str,
    prefix: &'static str,
    members: Vec<(&'static str, u64)>,
) -> Group {
    Group {
        radix: 16,
        ..codes(subject, heading, prefix, members)
    }
}

/// The name of a variant without fields.
fn debug_name<T: std::fmt::Debug>(value: T) -> &'static str {
    format!("{value:?}").leak()
}

/// `CamelCase` and `SCREAMING_CASE` to `SCREAMING_CASE`.
pub fn screaming(name: &str) -> String {
    let mut out = String::new();
    let mut previous = '_';
    for c in name.chars() {
        if c.is_ascii_uppercase() && (previous.is_ascii_lowercase() || previous.is_ascii_digit()) {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
        previous = c;
    }
    out
}

#[test]
fn names_are_cut_at_capitals() {
    assert_eq!(screaming("Stage1NotPresent"), "STAGE1_NOT_PRESENT");
    assert_eq!(screaming("Crc64"), "CRC64");
    assert_eq!(screaming("NO_AD"), "NO_AD");
}
