/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Byway's paravirtual data-movement device: wire formats of ABI version 1.
 *
 * Generated from the crate byway-protocols and its SPEC.md; do not edit. Section
 * numbers are those of SPEC.md. `BYWAY_BLESS=1 cargo test -p byway-protocols`
 * writes this file anew.
 *
 * Structures have no implicit padding. Fields named reserved... are written as 0.
 */
#ifndef BYWAY_H
#define BYWAY_H

#if defined(__linux__) || defined(__KERNEL__)
#include <linux/types.h>
#else
#include <stdint.h>
typedef uint8_t __u8;
typedef uint32_t __u32;
typedef uint16_t __le16;
typedef uint32_t __le32;
typedef uint64_t __le64;
#endif

/* Constants (section 1) */
/* this document */
#define BYWAY_ABI_VERSION 0x1U
/* unit and alignment of pages in control messages, in bytes */
#define BYWAY_PAGE_SIZE 0x1000U
/* fewest entries of a work queue */
#define BYWAY_ENTRIES_MIN 0x2U
/* most entries of a work queue */
#define BYWAY_ENTRIES_MAX 0x8000U
/* highest capability slot */
#define BYWAY_SLOT_MAX 0x7fffU
/* largest transfer of one descriptor, in bytes */
#define BYWAY_TRANSFER_BYTES_MAX 0x80000000U
/* most descriptors of one batch */
#define BYWAY_BATCH_COUNT_MAX 0x400U
/* largest source of CREATE_DELTA and destination of APPLY_DELTA, in bytes */
#define BYWAY_DELTA_BYTES_MAX 0x80000U
/* fewest sources of XOR */
#define BYWAY_XOR_SOURCES_MIN 0x2U
/* most sources of XOR */
#define BYWAY_XOR_SOURCES_MAX 0x10U
/* most segments in a list of COPY_SG */
#define BYWAY_SEGMENTS_MAX 0x400U
/* deepest derivation of a capability */
#define BYWAY_DEPTH_MAX 0x10U
/* PASID of guest-physical addressing */
#define BYWAY_PASID_PHYSICAL 0x0U
/* highest PASID */
#define BYWAY_PASID_MAX 0xfffffU
/* room for a domain's name, in bytes */
#define BYWAY_NAME_BYTES 0x20U
/* longest request and longest reply, header included, in bytes */
#define BYWAY_MESSAGE_BYTES_MAX 0x100U
/* "BYWY", the first word of the configuration space */
#define BYWAY_MAGIC 0x59575942U
/* index of the control virtqueue */
#define BYWAY_CONTROL_QUEUE 0x0U
/* index of the event virtqueue */
#define BYWAY_EVENT_QUEUE 0x1U
/* number of virtqueues */
#define BYWAY_QUEUE_COUNT 0x2U
/* ranges that an invalidation page remembers */
#define BYWAY_INVALIDATION_RANGES 0x80U
/* workers that an invalidation page tells apart */
#define BYWAY_INVALIDATION_WORKERS 0x40U
/* byte offset of the busy words in an invalidation page */
#define BYWAY_INVALIDATION_BUSY_OFFSET 0x40U
/* byte offset of the ranges in an invalidation page */
#define BYWAY_INVALIDATION_RANGES_OFFSET 0x400U
/* most data in an LZ4 block without a frame, in bytes */
#define BYWAY_LZ4_BLOCK_BYTES_MAX 0x4000U
/* smallest data unit of XTS, as a logarithm: 512 bytes */
#define BYWAY_XTS_UNIT_LOG2_MIN 0x9U
/* largest data unit of XTS, as a logarithm: 64 KiB */
#define BYWAY_XTS_UNIT_LOG2_MAX 0x10U
/*
 * most ciphertext of a message that DECRYPT opens under a key of GCM, in
 * bytes
 */
#define BYWAY_GCM_OPEN_BYTES_MAX 0x200000U
/* most additional data of a message, in bytes */
#define BYWAY_AAD_BYTES_MAX 0x1000U
/* an authentication tag, in bytes */
#define BYWAY_TAG_BYTES 0x10U
/* most messages that are ever sealed under one key as it was loaded */
#define BYWAY_SEAL_MESSAGES_MAX 0x10000000000ULL
/* room for a key in KEY_LOAD, in bytes */
#define BYWAY_KEY_BYTES_MAX 0x40U
/* most messages that wait in one port */
#define BYWAY_PORT_DEPTH_MAX 0x40U
/* longest message, in bytes */
#define BYWAY_PORT_MESSAGE_MAX 0x1000U
/* room for an endpoint's name, in bytes */
#define BYWAY_ENDPOINT_NAME_BYTES 0x20U

/* Operations: bits 24-31 of byway_descriptor.flags_opcode (section 4) */
/* does nothing but complete */
#define BYWAY_OP_NOP 0x0U
/* runs an array of descriptors, each with a status of its own */
#define BYWAY_OP_BATCH 0x1U
/* completes after every earlier descriptor of the queue */
#define BYWAY_OP_DRAIN 0x2U
/* copies; source and destination may overlap */
#define BYWAY_OP_MEMMOVE 0x3U
/* fills with an 8- or 16-byte pattern */
#define BYWAY_OP_FILL 0x4U
/* compares two ranges */
#define BYWAY_OP_COMPARE 0x5U
/* compares a range with an 8-byte pattern */
#define BYWAY_OP_COMPARE_VALUE 0x6U
/* records the differences of two ranges */
#define BYWAY_OP_CREATE_DELTA 0x7U
/* applies recorded differences */
#define BYWAY_OP_APPLY_DELTA 0x8U
/* copies to two destinations */
#define BYWAY_OP_DUALCAST 0x9U
/* walks a range's pages and faults them in, touching no data */
#define BYWAY_OP_TRANSLATION_FETCH 0xaU
/* CRC-32C of a range */
#define BYWAY_OP_CRC_GEN 0x10U
/* copies and computes CRC-32C in one pass */
#define BYWAY_OP_COPY_CRC 0x11U
/* checks T10 protection information */
#define BYWAY_OP_DIF_CHECK 0x12U
/* inserts it */
#define BYWAY_OP_DIF_INSERT 0x13U
/* strips it */
#define BYWAY_OP_DIF_STRIP 0x14U
/* replaces it */
#define BYWAY_OP_DIF_UPDATE 0x15U
/* writes it to a separate buffer */
#define BYWAY_OP_DIX_GEN 0x17U
/* writes a range back from the caches */
#define BYWAY_OP_CACHE_FLUSH 0x20U
/* alias of Memmove */
#define BYWAY_OP_INTER_DOMAIN_MEMMOVE 0x23U
/* alias of Fill */
#define BYWAY_OP_INTER_DOMAIN_FILL 0x24U
/* alias of Compare */
#define BYWAY_OP_INTER_DOMAIN_COMPARE 0x25U
/* alias of CompareValue */
#define BYWAY_OP_INTER_DOMAIN_COMPARE_VALUE 0x26U
/* alias of CacheFlush */
#define BYWAY_OP_INTER_DOMAIN_CACHE_FLUSH 0x27U
/* decrypts with a key in a slot */
#define BYWAY_OP_DECRYPT 0x40U
/* encrypts with a key in a slot */
#define BYWAY_OP_ENCRYPT 0x41U
/* decompresses */
#define BYWAY_OP_DECOMPRESS 0x42U
/* compresses */
#define BYWAY_OP_COMPRESS 0x43U
/* CRC-64 of a range */
#define BYWAY_OP_CRC64 0x44U
/* exclusive or of 2 to 16 sources */
#define BYWAY_OP_XOR 0x60U
/* copies a scatter-gather list */
#define BYWAY_OP_COPY_SG 0x61U
/* T10 protection information in place */
#define BYWAY_OP_DIF_GEN 0x62U
/* verifies it from a separate buffer */
#define BYWAY_OP_DIX_VERIFY 0x63U
/* copies and seals under a channel key */
#define BYWAY_OP_SEAL_COPY 0x64U
/* opens what was sealed */
#define BYWAY_OP_OPEN_COPY 0x65U
/* a 64-bit atomic operation */
#define BYWAY_OP_ATOMIC64 0x66U
/* publishes a value after a fence */
#define BYWAY_OP_SIGNAL 0x67U
/* sends a message through a port */
#define BYWAY_OP_SEND 0x6cU
/* posts a buffer for a message to a port */
#define BYWAY_OP_RECEIVE 0x6dU
/* drives an endpoint */
#define BYWAY_OP_DEVICE_TRANSFER 0x70U
/* gives up descriptors of a queue that wait */
#define BYWAY_OP_CANCEL 0x71U
/* runs a verified user program */
#define BYWAY_OP_EXECUTE 0x78U

/* Flags: bits 0-23 of byway_descriptor.flags_opcode (section 3.2) */
/*
 * start only after every earlier descriptor of the queue (in a batch: of the
 * batch) has completed
 */
#define BYWAY_FLAG_FENCE 0x1U
/*
 * on a fault in one's own memory ask the guest kernel for the page instead
 * of ending; without the feature PAGE_REQUESTS it changes nothing
 */
#define BYWAY_FLAG_BLOCK_ON_FAULT 0x2U
/* accepted for the sake of DSA software; completions stand beside the ring */
#define BYWAY_FLAG_COMPLETION_VALID 0x4U
/* accepted for the sake of DSA software; there always is a completion */
#define BYWAY_FLAG_REQUEST_COMPLETION 0x8U
/* raise the queue's interrupt after the completion (section 2.8) */
#define BYWAY_FLAG_REQUEST_INTERRUPT 0x10U
/* compare result with the expected one in op0 */
#define BYWAY_FLAG_CHECK_RESULT 0x80U
/* prefer to leave the destination in the caches; a hint */
#define BYWAY_FLAG_CACHE_CONTROL 0x100U
/* write the destination in ascending order of addresses */
#define BYWAY_FLAG_STRICT_ORDER 0x2000U
/* the pattern has 16 bytes, the upper 8 in op0 */
#define BYWAY_FLAG_FILL_16 0x4000U
/* end in status 0x64 instead of waiting for the other side of a port */
#define BYWAY_FLAG_NO_WAIT 0x8000U

/* Statuses: bits 0-6 of byway_completion.status (section 6) */
/* done */
#define BYWAY_STATUS_SUCCESS 0x1U
/* done, result differs from the expected one */
#define BYWAY_STATUS_SUCCESS_PREDICATE 0x2U
/* page fault */
#define BYWAY_STATUS_PAGE_FAULT 0x3U
/* the guest kernel refused the page */
#define BYWAY_STATUS_PAGE_REFUSED 0x4U
/* an element of the batch failed */
#define BYWAY_STATUS_BATCH_FAILED 0x5U
/* page fault on the batch's descriptor list */
#define BYWAY_STATUS_BATCH_LIST_FAULT 0x6U
/* delta record out of order */
#define BYWAY_STATUS_DELTA_ORDER 0x7U
/* delta record out of range */
#define BYWAY_STATUS_DELTA_RANGE 0x8U
/* protection information does not match */
#define BYWAY_STATUS_DIF_MISMATCH 0x9U
/* unknown or unsupported opcode, or a batch within a batch */
#define BYWAY_STATUS_BAD_OPCODE 0x10U
/* a flag that the operation does not take */
#define BYWAY_STATUS_BAD_FLAGS 0x11U
/* a reserved field or a field unused by the operation is not 0 */
#define BYWAY_STATUS_RESERVED_NOT_ZERO 0x12U
/* transfer size is 0 or above the limit */
#define BYWAY_STATUS_BAD_SIZE 0x13U
/*
 * count of descriptors, sources or segments out of range, or a list too
 * short
 */
#define BYWAY_STATUS_BAD_COUNT 0x14U
/* delta record size */
#define BYWAY_STATUS_BAD_DELTA_SIZE 0x15U
/* operands overlap */
#define BYWAY_STATUS_OVERLAP 0x16U
/* dualcast destinations differ in bits 11:0 */
#define BYWAY_STATUS_BAD_DUALCAST 0x17U
/* list is not aligned to its elements */
#define BYWAY_STATUS_LIST_ALIGNMENT 0x18U
/* interrupt handle is not 0 */
#define BYWAY_STATUS_BAD_INTERRUPT_HANDLE 0x19U
/* address alignment, or an address that must not be 0 */
#define BYWAY_STATUS_ADDRESS_ALIGNMENT 0x1cU
/* not authorised */
#define BYWAY_STATUS_NOT_AUTHORISED 0x1dU
/* page fault on the batch's status array */
#define BYWAY_STATUS_STATUS_ARRAY_FAULT 0x1fU
/* engine busy */
#define BYWAY_STATUS_ENGINE_BUSY 0x20U
/* engine stopped */
#define BYWAY_STATUS_ENGINE_STOPPED 0x21U
/* hardware error */
#define BYWAY_STATUS_HARDWARE_ERROR 0x22U
/* the guest kernel did not answer a page request in time */
#define BYWAY_STATUS_PAGE_RESPONSE_TIMEOUT 0x23U
/* ended by the watchdog */
#define BYWAY_STATUS_WATCHDOG 0x24U
/* stage-1 entry not present */
#define BYWAY_STATUS_STAGE1_NOT_PRESENT 0x40U
/* stage-1 permission (user, write) */
#define BYWAY_STATUS_STAGE1_PERMISSION 0x41U
/* guest-physical address not backed at present */
#define BYWAY_STATUS_STAGE2_PENDING 0x42U
/* address is not canonical */
#define BYWAY_STATUS_NON_CANONICAL 0x43U
/* reserved bit set in a page-table entry */
#define BYWAY_STATUS_RESERVED_BIT 0x44U
/* fault in the peer's memory */
#define BYWAY_STATUS_REMOTE_FAULT 0x45U
/* no capability in that slot, or slot out of range */
#define BYWAY_STATUS_NO_CAPABILITY 0x48U
/* range outside the capability */
#define BYWAY_STATUS_BOUNDS 0x49U
/* the capability lacks the right */
#define BYWAY_STATUS_MISSING_RIGHT 0x4aU
/* capability revoked, expired or stale */
#define BYWAY_STATUS_REVOKED 0x4bU
/* authentication tag does not verify */
#define BYWAY_STATUS_TAG_MISMATCH 0x50U
/* output does not fit */
#define BYWAY_STATUS_OVERFLOW 0x51U
/* compressed data is not valid */
#define BYWAY_STATUS_BAD_DATA 0x52U
/* number of a sealed message below the lowest that is accepted */
#define BYWAY_STATUS_REPLAYED 0x53U
/* the device reported an error */
#define BYWAY_STATUS_DEVICE_ERROR 0x54U
/* the device is gone */
#define BYWAY_STATUS_DEVICE_GONE 0x55U
/* the device does not do this */
#define BYWAY_STATUS_DEVICE_UNSUPPORTED 0x56U
/* what was read has another checksum than expected */
#define BYWAY_STATUS_CHECKSUM_MISMATCH 0x57U
/* stage-2 table misconfigured */
#define BYWAY_STATUS_STAGE2_MISCONFIGURED 0x58U
/* stage-2 permission */
#define BYWAY_STATUS_STAGE2_PERMISSION 0x59U
/* memory region gone */
#define BYWAY_STATUS_REGION_GONE 0x5aU
/* quota used up */
#define BYWAY_STATUS_QUOTA 0x60U
/* not attempted: an earlier element failed */
#define BYWAY_STATUS_NOT_ATTEMPTED 0x61U
/* aborted by reset, destroy or detach, or cancelled */
#define BYWAY_STATUS_ABORTED 0x62U
/* user program trapped */
#define BYWAY_STATUS_PROGRAM_TRAP 0x63U
/* the port has no room for a message, or no message */
#define BYWAY_STATUS_NOT_READY 0x64U

/* byway_completion.result of CREATE_DELTA (section 4.10) */
/* the sources are equal; the record is empty */
#define BYWAY_DELTA_EQUAL 0x0U
/* they differ; the record holds every difference */
#define BYWAY_DELTA_RECORDED 0x1U
/* the record has no room for the difference at bytes_completed */
#define BYWAY_DELTA_FULL 0x2U

/* Byte 40 of TRANSLATION_FETCH (section 4.13) */
/* the range will be read */
#define BYWAY_FETCH_READ 0x0U
/* the range will be written: its pages become dirty */
#define BYWAY_FETCH_WRITE 0x1U

/* Data bytes of a block: bits 0-1 of byway_dif_fields.flags (section 4.16) */
/* 512 bytes */
#define BYWAY_DIF_BLOCK_512 0x0U
/* 520 bytes */
#define BYWAY_DIF_BLOCK_520 0x1U
/* 4096 bytes */
#define BYWAY_DIF_BLOCK_4096 0x2U
/* 4104 bytes */
#define BYWAY_DIF_BLOCK_4104 0x3U

/* byway_dif_fields.flags (section 4.16) */
/* data bytes of a block, by the table above */
#define BYWAY_DIF_BLOCK_MASK 0x3U
/* the guard's computation starts with 0xffff instead of 0 */
#define BYWAY_DIF_INVERT_CRC_SEED 0x4U
/* the guard is stored with all bits inverted */
#define BYWAY_DIF_INVERT_CRC_RESULT 0x8U

/* byway_dif_fields.source_flags (section 4.16) */
/* information that is all ones is an error */
#define BYWAY_DIF_SOURCE_ALL_F_ERROR 0x1U
/* a block whose information is all ones is not checked */
#define BYWAY_DIF_SOURCE_ALL_F_DETECT 0x2U
/* a block whose application tag is all ones is not checked */
#define BYWAY_DIF_SOURCE_APP_TAG_F_DETECT 0x4U
/* a block whose application and reference tags are all ones is not checked */
#define BYWAY_DIF_SOURCE_APP_AND_REF_TAG_F_DETECT 0x8U
/* the application tag counts up by 1 a block, instead of staying */
#define BYWAY_DIF_SOURCE_APP_TAG_INCREMENTS 0x10U
/* the guard is not checked */
#define BYWAY_DIF_SOURCE_GUARD_CHECK_DISABLE 0x20U
/* the reference tag is not checked */
#define BYWAY_DIF_SOURCE_REF_TAG_CHECK_DISABLE 0x40U
/* the reference tag stays, instead of counting up by 1 a block */
#define BYWAY_DIF_SOURCE_REF_TAG_FIXED 0x80U

/* byway_dif_fields.destination_flags (section 4.16) */
/* UPDATE only: the application tag is the source's */
#define BYWAY_DIF_DESTINATION_APP_TAG_PASS 0x8U
/* the application tag counts up by 1 a block, instead of staying */
#define BYWAY_DIF_DESTINATION_APP_TAG_INCREMENTS 0x10U
/* UPDATE only: the guard is the source's */
#define BYWAY_DIF_DESTINATION_GUARD_PASS 0x20U
/* UPDATE only: the reference tag is the source's */
#define BYWAY_DIF_DESTINATION_REF_TAG_PASS 0x40U
/* the reference tag stays, instead of counting up by 1 a block */
#define BYWAY_DIF_DESTINATION_REF_TAG_FIXED 0x80U

/* byway_completion.result with DIF_MISMATCH (section 4.16) */
/* the guard is not that of the data */
#define BYWAY_DIF_MISMATCH_GUARD 0x1U
/* the application tag is not the expected one */
#define BYWAY_DIF_MISMATCH_APP_TAG 0x2U
/* the reference tag is not the expected one */
#define BYWAY_DIF_MISMATCH_REF_TAG 0x4U
/* the information is all ones */
#define BYWAY_DIF_MISMATCH_ALL_F 0x8U

/* byway_atomic_fields.kind (section 4.22) */
/* adds operand, modulo 2^64 */
#define BYWAY_ATOMIC_FETCH_ADD 0x0U
/* stores operand */
#define BYWAY_ATOMIC_SWAP 0x1U
/* stores operand if compare is there */
#define BYWAY_ATOMIC_COMPARE_SWAP 0x2U

/* byway_device_fields.operation (section 4.33) */
/* blocks, BLOCK_READ */
#define BYWAY_DEVICE_READ 0x1U
/* memory, READ */
#define BYWAY_DEVICE_WRITE 0x2U
/* blocks, BLOCK_READ */
#define BYWAY_DEVICE_COPY 0x3U
/* blocks, BLOCK_READ */
#define BYWAY_DEVICE_COMPARE 0x4U
/* - */
#define BYWAY_DEVICE_FLUSH 0x5U
/* - */
#define BYWAY_DEVICE_DISCARD 0x6U
/* - */
#define BYWAY_DEVICE_WRITE_ZEROES 0x7U

/* byway_cancel_fields.flags (section 4.34) */
/* all descriptors of the queue, and not a range */
#define BYWAY_CANCEL_EVERYTHING 0x1U

/* byway_device_fields.flags (section 4.33) */
/* READ only: end in status 0x57 unless the CRC-32C of the bytes read is crc */
#define BYWAY_DEVICE_CHECK_CRC 0x1U
/*
 * WRITE only: tell the CRC-32C of the bytes written in bits 32-63 of the
 * completion's op0, and how many they are in bits 0-31
 */
#define BYWAY_DEVICE_GIVE_CRC 0x2U

/* byway_endpoint_open_reply.features (section 8.2) */
/* FLUSH is carried out */
#define BYWAY_ENDPOINT_FLUSH 0x1U
/* DISCARD is carried out */
#define BYWAY_ENDPOINT_DISCARD 0x2U
/* WRITE_ZEROES is carried out */
#define BYWAY_ENDPOINT_WRITE_ZEROES 0x4U

/* Compression: bits 16-23 of byway_descriptor.op0 (section 4.24) */
/* one LZ4 block without a frame, of at most 16384 bytes of data */
#define BYWAY_COMPRESSION_LZ4_BLOCK 0x1U
/* an LZ4 frame; its blocks are independent and have at most 64 KiB of data */
#define BYWAY_COMPRESSION_LZ4_FRAME 0x2U
/* a DEFLATE stream (RFC 1951) */
#define BYWAY_COMPRESSION_DEFLATE 0x3U
/* the same in a zlib stream (RFC 1950) */
#define BYWAY_COMPRESSION_ZLIB 0x4U

/* byway_key_load_request.algorithm (section 4.26) */
/*
 * AES-256 in XTS mode (IEEE 1619), 64 bytes of key: the data's key, then the
 * tweak's
 */
#define BYWAY_KEY_AES_XTS256 0x1U
/* AES-128 in CBC mode (SP 800-38A), 16 bytes */
#define BYWAY_KEY_AES_CBC128 0x2U
/* AES-256 in CBC mode, 32 bytes */
#define BYWAY_KEY_AES_CBC256 0x3U
/* AES-128 in Galois/counter mode (SP 800-38D), 16 bytes */
#define BYWAY_KEY_AES_GCM128 0x4U
/* AES-256 in Galois/counter mode, 32 bytes */
#define BYWAY_KEY_AES_GCM256 0x5U
/*
 * a channel key: XAES-256-GCM (section 4.31), 32 bytes; for SEAL_COPY and
 * OPEN_COPY alone
 */
#define BYWAY_KEY_CHANNEL256 0x6U

/* byway_queue_header.state (section 2.3) */
/* not created yet */
#define BYWAY_QUEUE_STATE_NONE 0x0U
/* served */
#define BYWAY_QUEUE_STATE_RUNNING 0x1U
/* no descriptor will be taken any more */
#define BYWAY_QUEUE_STATE_DEAD 0x2U

/* Rights of a capability (section 7.1) */
/* to use it as a source (and either operand of COMPARE) */
#define BYWAY_RIGHT_READ 0x1U
/* to use it as a destination */
#define BYWAY_RIGHT_WRITE 0x2U
/* to derive from it and to offer it further */
#define BYWAY_RIGHT_GRANT 0x4U
/* to encrypt with it; keys only */
#define BYWAY_RIGHT_ENCRYPT 0x8U
/* to decrypt with it; keys only */
#define BYWAY_RIGHT_DECRYPT 0x10U
/* to send messages to it; ports only */
#define BYWAY_RIGHT_SEND 0x20U
/* to receive messages from it; ports only */
#define BYWAY_RIGHT_RECEIVE 0x40U
/* to read and compare blocks; endpoints only */
#define BYWAY_RIGHT_BLOCK_READ 0x80U
/* to write, discard and flush blocks; endpoints only */
#define BYWAY_RIGHT_BLOCK_WRITE 0x100U
/*
 * to have devices reach the memory that the operator trusts with it (section
 * 7.10)
 */
#define BYWAY_RIGHT_PINNED 0x200U

/* byway_cap_query_reply.state (section 7.6) */
/* usable */
#define BYWAY_CAPABILITY_LIVE 0x1U
/* revoked; the slot stays taken until its holder drops it */
#define BYWAY_CAPABILITY_REVOKED 0x2U
/* past its expiry or byte quota */
#define BYWAY_CAPABILITY_EXPIRED 0x3U

/* byway_request_header.kind (section 8.1) */
/* version, features, limits; comes first */
#define BYWAY_REQUEST_QUERY 0x1U
/* number of a linked domain */
#define BYWAY_REQUEST_LOOKUP 0x2U
/* a page-table root under a PASID */
#define BYWAY_REQUEST_BIND 0x3U
/* takes it back */
#define BYWAY_REQUEST_UNBIND 0x4U
/* opens a context */
#define BYWAY_REQUEST_CONTEXT_CREATE 0x5U
/* closes it with its queues and slots */
#define BYWAY_REQUEST_CONTEXT_DESTROY 0x6U
/* creates a work queue */
#define BYWAY_REQUEST_QUEUE_CREATE 0x7U
/* destroys it */
#define BYWAY_REQUEST_QUEUE_DESTROY 0x8U
/* re-arms its completion interrupt */
#define BYWAY_REQUEST_QUEUE_ARM 0x9U
/* narrows a capability into another slot */
#define BYWAY_REQUEST_CAP_DERIVE 0xaU
/* offers a capability to a linked domain */
#define BYWAY_REQUEST_CAP_OFFER 0xbU
/* takes an offer into a slot */
#define BYWAY_REQUEST_CAP_ACCEPT 0xcU
/* ends a capability and all derived from it */
#define BYWAY_REQUEST_CAP_REVOKE 0xdU
/* empties a slot */
#define BYWAY_REQUEST_CAP_DROP 0xeU
/* state and use */
#define BYWAY_REQUEST_CAP_QUERY 0xfU
/* drops cached translations */
#define BYWAY_REQUEST_INVALIDATE 0x10U
/* answers a page request */
#define BYWAY_REQUEST_PAGE_RESPONSE 0x11U
/* a capability to blocks of an endpoint */
#define BYWAY_REQUEST_ENDPOINT_OPEN 0x12U
/* puts a key into a slot */
#define BYWAY_REQUEST_KEY_LOAD 0x18U
/* creates a port for messages */
#define BYWAY_REQUEST_PORT_CREATE 0x19U

/* byway_reply_header.status (section 8.1) */
/* done */
#define BYWAY_CONTROL_OK 0x0U
/* unknown request */
#define BYWAY_CONTROL_UNKNOWN_REQUEST 0x1U
/* message length */
#define BYWAY_CONTROL_BAD_LENGTH 0x2U
/* a reserved field is not 0 */
#define BYWAY_CONTROL_RESERVED_NOT_ZERO 0x3U
/* argument out of range */
#define BYWAY_CONTROL_BAD_ARGUMENT 0x4U
/* no such object */
#define BYWAY_CONTROL_NO_SUCH_OBJECT 0x5U
/* number or slot in use */
#define BYWAY_CONTROL_IN_USE 0x6U
/* quota used up */
#define BYWAY_CONTROL_QUOTA 0x7U
/* no link to that domain */
#define BYWAY_CONTROL_NO_LINK 0x8U
/* right missing */
#define BYWAY_CONTROL_MISSING_RIGHT 0x9U
/* range outside the capability */
#define BYWAY_CONTROL_BOUNDS 0xaU
/* capability revoked */
#define BYWAY_CONTROL_REVOKED 0xbU
/* derivation too deep */
#define BYWAY_CONTROL_DEPTH 0xcU
/* page-table root outside RAM */
#define BYWAY_CONTROL_ROOT_OUTSIDE_RAM 0xdU
/* ring outside RAM */
#define BYWAY_CONTROL_RING_OUTSIDE_RAM 0xeU
/* not offered by this engine */
#define BYWAY_CONTROL_UNSUPPORTED 0xfU
/* object in use by another */
#define BYWAY_CONTROL_BUSY 0x10U
/* no common version */
#define BYWAY_CONTROL_VERSION 0x11U
/* host failure */
#define BYWAY_CONTROL_HOST_FAILURE 0x12U
/* done, but a device may still reach the pinned memory; ask again */
#define BYWAY_CONTROL_DEVICE_HOLDS 0x13U

/* Features of QUERY (section 8.2) */
/* BIND takes an invalidation page (section 10) */
#define BYWAY_FEATURE_INVALIDATION_PAGE 0x1U
/* BLOCK_ON_FAULT raises page requests */
#define BYWAY_FEATURE_PAGE_REQUESTS 0x2U
/* BIND takes five-level page tables */
#define BYWAY_FEATURE_LEVELS_5 0x4U
/* capabilities may have a lifetime */
#define BYWAY_FEATURE_EXPIRY 0x8U
/* capabilities may have a byte quota */
#define BYWAY_FEATURE_BYTE_QUOTA 0x10U
/* endpoints can be opened */
#define BYWAY_FEATURE_ENDPOINTS 0x20U
/* memory may be said to be pinned (section 7.10) */
#define BYWAY_FEATURE_PINNED 0x40U

/* byway_bind_request.flags (section 8.2) */
/* EFER.NXE is set: bit 63 of an entry is NX; otherwise it is reserved */
#define BYWAY_BIND_NXE 0x1U
/* the CPU has 1 GiB pages; otherwise PS in a PDPTE is reserved */
#define BYWAY_BIND_PAGES_1_G 0x2U
/*
 * the engine must not write page-table entries: A = 0, or D = 0 on a write,
 * is a fault
 */
#define BYWAY_BIND_NO_AD 0x4U

/* byway_queue_create_request.flags (section 8.2) */
/* never park: polled for as long as it lives */
#define BYWAY_QUEUE_NO_PARK 0x1U

/* byway_cap_slot_request.flags of CAP_REVOKE (section 8.2) */
/* CAP_REVOKE: spare the capability itself, end only what is derived from it */
#define BYWAY_REVOKE_DESCENDANTS_ONLY 0x1U

/* byway_invalidate_request.scope (section 8.2) */
/* everything cached for the domain */
#define BYWAY_INVALIDATE_DOMAIN 0x0U
/* everything cached for one address space */
#define BYWAY_INVALIDATE_PASID 0x1U
/* whatever overlaps a range of one address space, whatever its page size */
#define BYWAY_INVALIDATE_RANGE 0x2U

/* byway_page_response_request.outcome (section 8.2) */
/* goes on: the page is translated anew */
#define BYWAY_PAGE_RESOLVED 0x1U
/* ends in 0x04, unless the page is there by now */
#define BYWAY_PAGE_REFUSED 0x2U
/* ends as if it had not waited, unless the page is there by now */
#define BYWAY_PAGE_RETRY_LATER 0x3U

/* byway_event.kind (section 8.3) */
/* a peer offers a capability */
#define BYWAY_EVENT_CAPABILITY_OFFERED 0x1U
/* a capability held here was revoked or lost its owner */
#define BYWAY_EVENT_CAPABILITY_REVOKED 0x2U
/* a transfer waits for a page (section 8.4); needs the feature PAGE_REQUESTS */
#define BYWAY_EVENT_PAGE_REQUEST 0x3U
/* a descriptor that asked for an interrupt has completed */
#define BYWAY_EVENT_COMPLETION 0x4U
/* a linked domain was reset or detached; what it gave is revoked */
#define BYWAY_EVENT_DOMAIN_GONE 0x5U
/*
 * the engine stopped serving the queue by itself; rights holds a code of
 * section 6
 */
#define BYWAY_EVENT_QUEUE_DEAD 0x6U
/* so many events were dropped for lack of buffers */
#define BYWAY_EVENT_LOST 0x7U

/* Parts of packed words (sections 2.4, 3.1, 5) */
/* bits of a slot in word 0; the destination's follow the source's */
#define BYWAY_SLOT_BITS 0xfU
/* bit of word 0 that must be 0 */
#define BYWAY_WORD0_RESERVED 0x40000000U
/* phase bit of word 0 */
#define BYWAY_WORD0_PHASE 0x80000000U
/* the flags' part of flags_opcode */
#define BYWAY_FLAGS_MASK 0xffffffU
/* where the operation code begins in flags_opcode */
#define BYWAY_OPCODE_SHIFT 0x18U
/* bit of byway_completion.status: the faulting access was a write */
#define BYWAY_STATUS_WRITE_FAULT 0x80U
/* bit of byway_completion.phase */
#define BYWAY_COMPLETION_PHASE 0x80U
/* phase bit of bytes 0-7 as one word, in descriptors and completions */
#define BYWAY_PUBLISH_PHASE 0x80000000U

/* Word 0 of a descriptor: capability slots and phase (section 3.1). */
#define BYWAY_WORD0(src_slot, dst_slot, phase) \
	((__u32)(src_slot) | (__u32)(dst_slot) << BYWAY_SLOT_BITS | \
	 ((phase) ? BYWAY_WORD0_PHASE : 0U))

/* Word 1 of a descriptor: flags and operation code (section 3.2). */
#define BYWAY_FLAGS_OPCODE(flags, opcode) \
	((__u32)(flags) | (__u32)(opcode) << BYWAY_OPCODE_SHIFT)

struct byway_config_space {
	/* MAGIC */
	__le32 magic;
	/* Newest ABI version that the engine speaks */
	__le32 version;
} __attribute__((aligned(4)));

struct byway_descriptor {
	/* Slots and phase: see Word0 */
	__le32 word0;
	/* Bits 0-23 Flags, bits 24-31 opcode */
	__le32 flags_opcode;
	/* 0; for BATCH the address of the array of per-element completions */
	__le64 status_array;
	/* Source, first source, pattern (FILL) or descriptor list (BATCH) */
	__le64 src;
	/* Destination, second source (COMPARE) or pattern (COMPARE_VALUE) */
	__le64 dst;
	/* Bytes, or descriptors (BATCH, CANCEL) */
	__le32 size;
	/* Interrupt handle; 0 */
	__le16 int_handle;
	__le16 reserved38;
	/*
	 * First 8 bytes by operation: FILL pattern bytes 8-15, COMPARE
	 * expected result
	 */
	__le64 op0;
	/* Second 8 bytes by operation */
	__le64 op1;
	/* Third 8 bytes by operation */
	__le64 op2;
} __attribute__((aligned(64)));

struct byway_completion {
	/* Status code; bit 7: the faulting access was a write */
	__u8 status;
	/* By operation: COMPARE 1 = differs; MEMMOVE 1 = ran backwards */
	__u8 result;
	__u8 reserved2;
	/* Bit 7 is the phase, bits 0-6 are 0 */
	__u8 phase;
	/* Bytes done, or descriptors (BATCH, CANCEL) */
	__le32 bytes_completed;
	/*
	 * Faulting address in one's own address space, or offset into the
	 * capability
	 */
	__le64 fault_addr;
	/* By operation */
	__le64 op0;
	/* By operation */
	__le64 op1;
} __attribute__((aligned(32)));

struct byway_create_delta_fields {
	/* Where the delta record is written */
	__le64 delta;
	/* Room for it in bytes, a multiple of 10 */
	__le32 delta_bytes_max;
	__u8 reserved12[8];
	/* Slot of the record */
	__le16 delta_slot;
	__le16 reserved22;
} __attribute__((aligned(8)));

struct byway_apply_delta_fields {
	/* Length of the delta record in bytes, a multiple of 10 */
	__le32 delta_bytes;
	__u8 reserved4[20];
} __attribute__((aligned(8)));

struct byway_delta_entry {
	/* Which 8 bytes differ, in units of 8 bytes */
	__le16 word;
	/* What they are in the second source */
	__u8 data[8];
} __attribute__((aligned(2)));

struct byway_dualcast_fields {
	/* Second destination */
	__le64 second;
	__u8 reserved8[12];
	/* Slot of the second destination */
	__le16 second_slot;
	__le16 reserved22;
} __attribute__((aligned(8)));

struct byway_crc_fields {
	/* CRC-32C of the bytes that come before; 0 when none do */
	__le32 seed;
	__u8 reserved4[20];
} __attribute__((aligned(8)));

struct byway_dif_fields {
	/* What is checked in the source, see dif_source_flags */
	__u8 source_flags;
	/* What is written to the destination, see dif_destination_flags */
	__u8 destination_flags;
	/* Block size and form of the guard, see dif_flags */
	__u8 flags;
	__u8 reserved3[5];
	/* Reference tag of the source's first block */
	__le32 source_ref_tag;
	/* Bits of the application tag that are not checked */
	__le16 source_app_mask;
	/* Application tag of the source's first block */
	__le16 source_app_tag;
	/* Reference tag of the destination's first block */
	__le32 destination_ref_tag;
	/*
	 * Bits of the application tag that come from the source, or are 0
	 * without one
	 */
	__le16 destination_app_mask;
	/* Application tag of the destination's first block */
	__le16 destination_app_tag;
} __attribute__((aligned(8)));

struct byway_dif_result {
	/* Reference tag in the source */
	__le32 source_ref_tag;
	/* As in the descriptor */
	__le16 source_app_mask;
	/* Application tag in the source */
	__le16 source_app_tag;
	/* Reference tag in the destination */
	__le32 destination_ref_tag;
	/* As in the descriptor */
	__le16 destination_app_mask;
	/* Application tag in the destination */
	__le16 destination_app_tag;
} __attribute__((aligned(8)));

struct byway_xor_fields {
	/* Sources, 2 to 16 */
	__le16 count;
	__u8 reserved2[22];
} __attribute__((aligned(8)));

struct byway_copy_sg_fields {
	/*
	 * Segments in the list that src points to; 0: src is the source
	 * itself
	 */
	__le16 src_count;
	/*
	 * Segments in the list that dst points to; 0: dst is the destination
	 * itself
	 */
	__le16 dst_count;
	/* Bytes of a row; 0: there are lists, not rows */
	__le32 row_bytes;
	/* From one row of the source to the next, in bytes */
	__le64 src_stride;
	/* From one row of the destination to the next, in bytes */
	__le64 dst_stride;
} __attribute__((aligned(8)));

struct byway_segment {
	/* First byte */
	__le64 addr;
	/* Bytes; 0 for XOR, where all sources are of one size */
	__le32 bytes;
	/* Slot */
	__le16 slot;
	__le16 reserved14;
} __attribute__((aligned(16)));

struct byway_atomic_fields {
	/* What is added, or stored */
	__le64 operand;
	/* COMPARE_SWAP: what must be there for it to be stored */
	__le64 compare;
	/* See atomic_kind */
	__u8 kind;
	__u8 reserved17[7];
} __attribute__((aligned(8)));

struct byway_device_fields {
	/* See device_operation */
	__u8 operation;
	/* See device_flags */
	__u8 flags;
	__le16 reserved2;
	/* With CHECK_CRC: the CRC-32C expected; else 0 */
	__le32 crc;
	/*
	 * Address of a descriptor that says what becomes of the bytes read,
	 * or makes those written, a multiple of 64; 0 = none
	 */
	__le64 chain;
	__u8 reserved16[8];
} __attribute__((aligned(8)));

struct byway_cancel_fields {
	/*
	 * Number of the queue, of the same context; 0 = the one that the
	 * CANCEL is in
	 */
	__le32 queue;
	/*
	 * Number of the first descriptor, counted from 0 since the queue was
	 * created, modulo 2^32; 0 with EVERYTHING
	 */
	__le32 first;
	/* See cancel_flags */
	__u8 flags;
	__u8 reserved9[15];
} __attribute__((aligned(8)));

struct byway_seal_header {
	/* Drawn at random when the sealing key was loaded */
	__u8 object[12];
	__le32 reserved12;
	/* Counts messages under that key, from 1 */
	__le64 number;
} __attribute__((aligned(8)));

struct byway_queue_header {
	/* 1: the queue is parked, ask the kernel to kick after publishing */
	__le32 need_kick;
	/*
	 * Instance of the engine; changes when it restarts or the device is
	 * reset
	 */
	__le32 instance;
	/* See QueueState */
	__le32 state;
	__le32 reserved12;
	/*
	 * Descriptors that the engine has taken, modulo 2^32; for observers
	 * only
	 */
	__le32 taken;
	__u8 reserved20[44];
} __attribute__((aligned(64)));

struct byway_invalidation_header {
	/*
	 * Ranges appended since bind. The newest is at index (generation -
	 * 1) % RANGES
	 */
	__le64 generation;
	__u8 reserved8[56];
} __attribute__((aligned(64)));

struct byway_invalidation_range {
	/* First address, a multiple of 4096 */
	__le64 address;
	/* Pages of 4096 bytes; 0 = the whole address space */
	__le64 pages;
} __attribute__((aligned(16)));

struct byway_event {
	/* See EventKind */
	__le16 kind;
	__le16 reserved2;
	/* Counts events of the domain, so that a gap shows */
	__le32 sequence;
	/* Peer domain (offered, gone) or queue (completion, dead) */
	__le32 object;
	/* Context (revoked) */
	__le32 context;
	/* Offer (offered), slot (revoked) or PASID (page request) */
	__le64 id;
	/* Label that the owner chose (offered) */
	__le64 label;
	/* Bytes (offered) or number of lost events */
	__le64 length;
	/* Rights (offered, page request) or status (dead) */
	__le32 rights;
	__le32 reserved44;
	/* First byte of the page, 4096-aligned (page request) */
	__le64 address;
	/* Page request number */
	__le64 request;
} __attribute__((aligned(8)));

struct byway_request_header {
	/* See RequestKind */
	__le16 kind;
	__le16 reserved2;
	/* Bytes of the request, this header included */
	__le32 length;
	/* Chosen by the driver, comes back in the reply */
	__le64 tag;
} __attribute__((aligned(8)));

struct byway_reply_header {
	/* ControlStatus code; the body follows only when it is 0 */
	__le32 status;
	/* Bytes of the reply, this header included */
	__le32 length;
	/* Tag of the request */
	__le64 tag;
} __attribute__((aligned(8)));

struct byway_query_request {
	/* Newest version that the driver speaks */
	__le32 version;
	__le32 reserved4;
	/* features that the driver can use */
	__le64 features;
} __attribute__((aligned(8)));

struct byway_query_reply {
	/* Version in force: the smaller of both sides' newest */
	__le32 version;
	/* Instance of the engine; see QueueHeader.instance */
	__le32 instance;
	/* features in force */
	__le64 features;
	/* The asking domain's own number */
	__le32 domain;
	/* Workers that poll */
	__le32 workers;
	/* Most entries of a queue */
	__le32 queue_entries_max;
	/* Most slots of a context, slot 0 included */
	__le32 slots_max;
	/* Most bytes of a transfer */
	__le32 transfer_bytes_max;
	/* Most descriptors of a batch */
	__le32 batch_count_max;
	/*
	 * Longest time that a queue is polled without finding work, in
	 * microseconds
	 */
	__le32 park_us;
	__le32 reserved44;
	/* Bit n of byte n/8: opcode n is supported */
	__u8 opcodes[32];
	/* The domain's name, 0-padded */
	__u8 name[32];
	__u8 reserved112[16];
} __attribute__((aligned(8)));

struct byway_lookup_request {
	/* The peer's name, 0-padded */
	__u8 name[32];
} __attribute__((aligned(8)));

struct byway_lookup_reply {
	/* The peer's number */
	__le32 domain;
	/* Rights that may be given to it */
	__le32 rights_out;
	/* Rights that it may give */
	__le32 rights_in;
	__le32 reserved12;
} __attribute__((aligned(8)));

struct byway_bind_request {
	/*
	 * Guest-physical address of the root table; CR3's low 12 bits and
	 * LAM bits are ignored
	 */
	__le64 root;
	/* 1 to PASID_MAX, not bound */
	__le32 pasid;
	/* 4 or 5 */
	__u8 levels;
	/* MAXPHYADDR of the guest's CPU, 32 to 52 */
	__u8 maxphyaddr;
	/* See bind_flags */
	__le16 flags;
	/* Guest-physical address of an invalidation page; 0 = none */
	__le64 invalidation_page;
	__le64 reserved24;
} __attribute__((aligned(8)));

struct byway_unbind_request {
	/* A bound PASID that no context uses */
	__le32 pasid;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_context_create_request {
	/* A bound PASID, or PASID_PHYSICAL */
	__le32 pasid;
	/* Capability slots wanted, slot 0 included; 1 to the limit of QUERY */
	__le32 slots;
} __attribute__((aligned(4)));

struct byway_context_create_reply {
	/* Number of the context, never used twice by one instance */
	__le32 context;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_context_destroy_request {
	/* The context */
	__le32 context;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_queue_create_request {
	/* Context that owns the queue */
	__le32 context;
	/* Entries, a power of two */
	__le32 entries;
	/* entries descriptors */
	__le64 ring;
	/* entries completions */
	__le64 completions;
	/* One QueueHeader */
	__le64 header;
	/* See queue_flags */
	__le32 flags;
	__le32 reserved36;
} __attribute__((aligned(8)));

struct byway_queue_create_reply {
	/* Number of the queue, never used twice by one instance */
	__le32 queue;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_queue_request {
	/* The queue */
	__le32 queue;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_cap_derive_request {
	/* Context that holds the parent */
	__le32 context;
	/* Parent's slot; 0 = the context's own address space */
	__le32 slot;
	/*
	 * First byte: a virtual address for slot 0, else an offset into the
	 * parent
	 */
	__le64 base;
	/* Bytes, not 0 */
	__le64 length;
	/* Rights, a subset of the parent's */
	__le32 rights;
	/* Context of the same domain that receives it */
	__le32 target_context;
	/* Slot there; 0 = the lowest empty one */
	__le32 target_slot;
	__le32 reserved36;
	/* Reported to whoever uses it; the holder cannot change it */
	__le64 badge;
	/* Lifetime in nanoseconds from now; 0 = none. Needs feature EXPIRY */
	__le64 lifetime_ns;
	/*
	 * Bytes that may be moved through it; 0 = no limit. Needs feature
	 * BYTE_QUOTA
	 */
	__le64 byte_quota;
} __attribute__((aligned(8)));

struct byway_cap_derive_reply {
	/* Slot that was filled */
	__le32 slot;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_cap_offer_request {
	/* Context that holds it */
	__le32 context;
	/* Its slot, not 0 */
	__le32 slot;
	/* Peer's number */
	__le32 domain;
	/* Rights to give, a subset of the capability's and the link's */
	__le32 rights;
	/*
	 * Chosen by the owner, seen by the peer: a port number, a hash of a
	 * name
	 */
	__le64 label;
	__le64 reserved24;
	__le64 reserved32;
} __attribute__((aligned(8)));

struct byway_cap_offer_reply {
	/* Number of the offer */
	__le64 offer;
} __attribute__((aligned(8)));

struct byway_cap_accept_request {
	/* Offer made to this domain */
	__le64 offer;
	/* Context that receives it */
	__le32 context;
	/* Slot there; 0 = the lowest empty one */
	__le32 slot;
	__le64 reserved16;
} __attribute__((aligned(8)));

struct byway_cap_accept_reply {
	/* Slot that was filled */
	__le32 slot;
	/* Rights that came with it */
	__le32 rights;
	/* Bytes that it spans */
	__le64 length;
	/* Badge */
	__le64 badge;
	/* Domain that owns the memory */
	__le32 domain;
	__le32 reserved28;
} __attribute__((aligned(8)));

struct byway_cap_slot_request {
	/* Context that holds it */
	__le32 context;
	/* Its slot, not 0 */
	__le32 slot;
	/* revoke_flags for CAP_REVOKE, else 0 */
	__le32 flags;
	__le32 reserved12;
} __attribute__((aligned(4)));

struct byway_cap_query_reply {
	/* See CapabilityState */
	__le32 state;
	/* Rights */
	__le32 rights;
	/* Bytes that it spans */
	__le64 length;
	/* Badge */
	__le64 badge;
	/* Depth in the derivation tree, 1 for one over one's own memory */
	__le32 depth;
	/* Domain that owns the memory */
	__le32 domain;
	/* Capabilities alive below it */
	__le64 descendants;
	/* Bytes read through it and all below */
	__le64 bytes_read;
	/* Bytes written through it and all below */
	__le64 bytes_written;
	__le64 reserved56;
} __attribute__((aligned(8)));

struct byway_invalidate_request {
	/* See invalidate_scope */
	__u8 scope;
	__u8 reserved1[3];
	/* PASID for the scopes PASID and RANGE, else 0 */
	__le32 pasid;
	/* First address for the scope RANGE, a multiple of 4096, else 0 */
	__le64 address;
	/* Pages of 4096 bytes for the scope RANGE, not 0, else 0 */
	__le64 pages;
} __attribute__((aligned(8)));

struct byway_invalidate_reply {
	/* Chunks in flight that were waited for */
	__le32 waited_chunks;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_page_response_request {
	/* Number of a page request that waits (Event.request) */
	__le64 request;
	/* See page_outcome */
	__le32 outcome;
	__le32 reserved12;
} __attribute__((aligned(8)));

struct byway_key_load_request {
	/* Context that receives it */
	__le32 context;
	/* Slot there; 0 = the lowest empty one */
	__le32 slot;
	/* See KeyAlgorithm */
	__le32 algorithm;
	/* Bytes of the key, just as many as the algorithm's keys have */
	__le32 length;
	/* Of ENCRYPT, DECRYPT and GRANT; one of the first two at least */
	__le32 rights;
	__le32 reserved20;
	/* Reported to whoever accepts it */
	__le64 badge;
	/* The key; unused bytes are 0 */
	__u8 key[64];
} __attribute__((aligned(8)));

struct byway_key_load_reply {
	/* Slot that was filled */
	__le32 slot;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_port_create_request {
	/* Context that receives it */
	__le32 context;
	/* Slot there; 0 = the lowest empty one */
	__le32 slot;
	/* Messages that may wait in it, 1 to PORT_DEPTH_MAX */
	__le32 depth;
	/* Longest message in bytes, 1 to PORT_MESSAGE_MAX */
	__le32 bytes;
	/* Told to whoever receives what is sent by way of it */
	__le64 badge;
} __attribute__((aligned(8)));

struct byway_port_create_reply {
	/* Slot that was filled */
	__le32 slot;
	__le32 reserved4;
} __attribute__((aligned(4)));

struct byway_endpoint_open_request {
	/* Context that receives it */
	__le32 context;
	/* Slot there; 0 = the lowest empty one */
	__le32 slot;
	/* Told to whoever accepts it */
	__le64 badge;
	/* Name of the endpoint, 0-padded */
	__u8 name[32];
	__le64 reserved48;
} __attribute__((aligned(8)));

struct byway_endpoint_open_reply {
	/* Slot that was filled */
	__le32 slot;
	/* Rights that came with it */
	__le32 rights;
	/* Bytes that it spans */
	__le64 length;
	/* Bytes of a block: what offsets and sizes are multiples of */
	__le32 block_bytes;
	/* See endpoint_features */
	__le32 features;
	__le64 reserved24;
} __attribute__((aligned(8)));

#endif /* BYWAY_H */
