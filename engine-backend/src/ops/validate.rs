//! The one place where a descriptor's bytes become an [`Operation`] (SPEC sections 3 and
//! 4.1). What passed is typed and is not looked at again; capabilities and addresses are
//! checked later, chunk by chunk.

mod cancel;
mod checksum;
mod delta;
mod device;
mod dif;
mod gather;
mod messages;
mod places;

use byway_protocols::codec::{CodecWord, Compression, GCM_OPEN_BYTES_MAX, SealHeader, TAG_BYTES};
use byway_protocols::descriptor::{BATCH_COUNT_MAX, TRANSFER_BYTES_MAX, Word0};
use byway_protocols::{Descriptor, Flags, Opcode, Status};

use super::Operation;
use super::batch::Batch;
use super::chunk::Operand;
use super::compare::{Compare, Other};
use super::fill::Fill;
use super::memmove::Memmove;
use super::rare::Rare;
use super::transform::{Action, Crypt, Transform, Wanted};
use crate::codec::{Direction, StreamKind};

pub(super) use device::{chained, chained_before};

/// A descriptor that is well-formed.
#[derive(Debug)]
pub enum Request {
    /// One operation.
    Operation(Operation),
    /// Many.
    Batch(Batch),
}

/// Operations that this engine carries out.
pub const SUPPORTED: &[Opcode] = &[
    Opcode::Nop,
    Opcode::Batch,
    Opcode::Drain,
    Opcode::Memmove,
    Opcode::Fill,
    Opcode::Compare,
    Opcode::CompareValue,
    Opcode::CreateDelta,
    Opcode::ApplyDelta,
    Opcode::Dualcast,
    Opcode::TranslationFetch,
    Opcode::CrcGen,
    Opcode::CopyCrc,
    Opcode::DifCheck,
    Opcode::DifInsert,
    Opcode::DifStrip,
    Opcode::DifUpdate,
    Opcode::DixGen,
    Opcode::CacheFlush,
    Opcode::InterDomainMemmove,
    Opcode::InterDomainFill,
    Opcode::InterDomainCompare,
    Opcode::InterDomainCompareValue,
    Opcode::InterDomainCacheFlush,
    Opcode::Crc64,
    Opcode::Xor,
    Opcode::CopySg,
    Opcode::DifGen,
    Opcode::DixVerify,
    Opcode::SealCopy,
    Opcode::OpenCopy,
    Opcode::Atomic64,
    Opcode::Signal,
    Opcode::Send,
    Opcode::Receive,
    Opcode::Decrypt,
    Opcode::Encrypt,
    Opcode::Decompress,
    Opcode::Compress,
    Opcode::DeviceTransfer,
    Opcode::Cancel,
];

/// Flags that every operation takes.
const COMMON: u32 = Flags::FENCE.0
    | Flags::COMPLETION_VALID.0
    | Flags::REQUEST_COMPLETION.0
    | Flags::REQUEST_INTERRUPT.0;
const MOVES: u32 =
    COMMON | Flags::BLOCK_ON_FAULT.0 | Flags::CACHE_CONTROL.0 | Flags::STRICT_ORDER.0;
const FILLS: u32 = MOVES | Flags::FILL_16.0;
const COMPARES: u32 = COMMON | Flags::BLOCK_ON_FAULT.0 | Flags::CHECK_RESULT.0;
const FAULTS: u32 = COMMON | Flags::BLOCK_ON_FAULT.0;
const WRITES: u32 = FAULTS | Flags::CACHE_CONTROL.0;
const TRANSFORMS: u32 = COMMON | Flags::BLOCK_ON_FAULT.0 | Flags::CACHE_CONTROL.0;

/// Whether the descriptor asks to wait for all before it; SIGNAL always does.
#[inline]
#[must_use]
pub fn has_fence(descriptor: &Descriptor) -> bool {
    descriptor.flags().contains(Flags::FENCE) || descriptor.code() == Opcode::Signal as u8
}

/// Whether the descriptor asks to wait for pages of its own domain.
#[inline]
#[must_use]
pub fn blocks(descriptor: &Descriptor) -> bool {
    descriptor.flags().contains(Flags::BLOCK_ON_FAULT)
}

/// Checks a private copy of a descriptor, and has `put` take what it asks for.
///
/// Like [`operation`], not by its result: an operation that is made in one place and moved to another
/// waits for its parts to leave the store buffer first, as long as a line takes to be copied.
///
/// # Errors
/// 10-14, 18, 19, 1C; nothing is put then.
#[inline(always)]
pub fn request(d: &Descriptor, put: impl FnOnce(Request)) -> Result<(), Status> {
    if d.code() == Opcode::Batch as u8 {
        put(batch(d)?);
        return Ok(());
    }
    checked(d, true, |operation| put(Request::Operation(operation)))
}

/// Checks a private copy of a batch's element likewise; one that is a batch is refused.
///
/// # Errors
/// 10-13, 19.
#[inline(always)]
pub fn operation(d: &Descriptor, put: impl FnOnce(Operation)) -> Result<(), Status> {
    checked(d, false, put)
}

#[inline(always)]
fn checked(d: &Descriptor, is_alone: bool, put: impl FnOnce(Operation)) -> Result<(), Status> {
    match Opcode::from_code(d.code()).map(Opcode::canonical) {
        Some(Opcode::Memmove) => put(Operation::Memmove(memmove(d)?)),
        Some(Opcode::Fill) => put(Operation::Fill(fill(d)?)),
        Some(Opcode::Compare) => put(Operation::Compare(compare(d)?)),
        Some(Opcode::CompareValue) => put(Operation::Compare(compare_value(d)?)),
        Some(opcode) => return other(d, opcode, is_alone, put),
        None => return Err(Status::BadOpcode),
    }
    Ok(())
}

/// Those that are not worth a way of their own.
#[inline(never)]
fn other(
    d: &Descriptor,
    opcode: Opcode,
    is_alone: bool,
    put: impl FnOnce(Operation),
) -> Result<(), Status> {
    match opcode {
        Opcode::Nop | Opcode::Drain => put(nothing(d)?),
        Opcode::Compress => put(stream(d, StreamKind::Compress)?),
        Opcode::Decompress => put(stream(d, StreamKind::Decompress)?),
        Opcode::Encrypt => put(crypt(d, Direction::Encrypt)?),
        Opcode::Decrypt => put(crypt(d, Direction::Decrypt)?),
        Opcode::SealCopy => put(channel(d, Direction::Encrypt)?),
        Opcode::OpenCopy => put(channel(d, Direction::Decrypt)?),
        Opcode::DeviceTransfer => put(device::transfer(d)?),
        Opcode::Cancel => put(cancel::cancel(d)?),
        _ => return rare(d, opcode, is_alone, |rare| put(Operation::Rare(rare))),
    }
    Ok(())
}

/// The operations that nobody does for a few bytes.
#[inline(always)]
fn rare(
    d: &Descriptor,
    opcode: Opcode,
    is_alone: bool,
    put: impl FnOnce(Rare),
) -> Result<(), Status> {
    match opcode {
        Opcode::CreateDelta => put(delta::create(d)?),
        Opcode::ApplyDelta => put(delta::apply(d)?),
        Opcode::Dualcast => put(gather::dualcast(d)?),
        Opcode::TranslationFetch => put(places::fetch(d)?),
        Opcode::CrcGen => put(checksum::crc(d)?),
        Opcode::CopyCrc => put(checksum::copy_crc(d)?),
        Opcode::Crc64 => put(checksum::crc64(d)?),
        Opcode::DifCheck => put(dif::check(d)?),
        Opcode::DifInsert => put(dif::insert(d)?),
        Opcode::DifStrip => put(dif::strip(d)?),
        Opcode::DifUpdate => put(dif::update(d)?),
        Opcode::DifGen => put(dif::generate(d)?),
        Opcode::DixGen => put(dif::generate_apart(d)?),
        Opcode::DixVerify => put(dif::verify_apart(d)?),
        Opcode::CacheFlush => put(places::flush(d)?),
        Opcode::Xor => put(gather::xor(d)?),
        Opcode::CopySg => put(gather::copy_sg(d)?),
        Opcode::Atomic64 => put(places::atomic(d)?),
        Opcode::Signal => put(places::signal(d)?),
        // Not for batches: one that waits would hold up elements that may come before it.
        _ if is_alone => put(messages::transit(d)?),
        _ => return Err(Status::BadOpcode),
    }
    Ok(())
}

/// What all operations have in common; `unused` is 0 when every field and slot that the
/// operation does not use is.
#[inline(always)]
fn common(d: &Descriptor, flags: u32, unused: u64) -> Result<(), Status> {
    if d.flags().0 & !flags != 0 {
        return Err(Status::BadFlags);
    }
    if unused | u64::from(d.word0 & Word0::RESERVED) | u64::from(d.reserved38) != 0 {
        return Err(Status::ReservedNotZero);
    }
    if d.int_handle != 0 {
        return Err(Status::BadInterruptHandle);
    }
    Ok(())
}

#[inline(always)]
fn transfer_size(d: &Descriptor) -> Result<u32, Status> {
    if d.size == 0 || d.size > TRANSFER_BYTES_MAX {
        return Err(Status::BadSize);
    }
    Ok(d.size)
}

#[inline(always)]
fn src_operand(d: &Descriptor) -> Operand {
    Operand {
        slot: d.slots().src_slot(),
        addr: d.src,
    }
}

#[inline(always)]
fn dst_operand(d: &Descriptor) -> Operand {
    Operand {
        slot: d.slots().dst_slot(),
        addr: d.dst,
    }
}

fn src_slot(d: &Descriptor) -> u64 {
    u64::from(d.slots().src_slot())
}

fn dst_slot(d: &Descriptor) -> u64 {
    u64::from(d.slots().dst_slot())
}

/// The destination slot must be 0, and so must the destination.
fn no_dst(d: &Descriptor) -> u64 {
    d.dst | dst_slot(d)
}

/// The source slot must be 0, and so must the source.
fn no_src(d: &Descriptor) -> u64 {
    d.src | src_slot(d)
}

/// All bytes together: 0 when each is.
fn any(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |any, &byte| any | u64::from(byte))
}

/// Bits of a third operand's slot field that must be 0.
fn beyond_slot(slot: u16) -> u64 {
    u64::from(slot & !Word0::SLOT_MAX)
}

#[inline(always)]
fn nothing(d: &Descriptor) -> Result<Operation, Status> {
    let fields = d.status_array | d.src | d.dst | u64::from(d.size) | d.op0 | d.op1 | d.op2;
    common(d, COMMON, fields | src_slot(d) | dst_slot(d))?;
    Ok(Operation::Nothing)
}

/// MEMMOVE.
///
/// # Errors
/// 11-13, 19.
#[inline(always)]
pub fn memmove(d: &Descriptor) -> Result<Memmove, Status> {
    common(d, MOVES, d.status_array | d.op0 | d.op1 | d.op2)?;
    Ok(Memmove {
        src: src_operand(d),
        dst: dst_operand(d),
        size: transfer_size(d)?,
        cached: d.flags().contains(Flags::CACHE_CONTROL),
        strict: d.flags().contains(Flags::STRICT_ORDER),
        done: 0,
        order: None,
    })
}

#[inline(always)]
fn fill(d: &Descriptor) -> Result<Fill, Status> {
    let wide = d.flags().contains(Flags::FILL_16);
    let high = if wide { 0 } else { d.op0 };
    common(
        d,
        FILLS,
        d.status_array | high | d.op1 | d.op2 | src_slot(d),
    )?;
    let upper = if wide { d.op0 } else { d.src };
    Ok(Fill {
        dst: dst_operand(d),
        pattern: u128::from(d.src) | u128::from(upper) << 64,
        size: transfer_size(d)?,
        cached: d.flags().contains(Flags::CACHE_CONTROL),
        strict: d.flags().contains(Flags::STRICT_ORDER),
        done: 0,
    })
}

/// The expected result of a comparison, and what of `op0` must be 0.
fn expected(d: &Descriptor) -> (Option<bool>, u64) {
    if d.flags().contains(Flags::CHECK_RESULT) {
        (Some(d.op0 & 1 != 0), d.op0 & !1)
    } else {
        (None, d.op0)
    }
}

#[inline(always)]
fn compare(d: &Descriptor) -> Result<Compare, Status> {
    let (expected, unused) = expected(d);
    common(d, COMPARES, d.status_array | unused | d.op1 | d.op2)?;
    Ok(Compare {
        src: src_operand(d),
        with: Other::Range(dst_operand(d)),
        size: transfer_size(d)?,
        expected,
        done: 0,
    })
}

#[inline(always)]
fn compare_value(d: &Descriptor) -> Result<Compare, Status> {
    let (expected, unused) = expected(d);
    common(
        d,
        COMPARES,
        d.status_array | unused | d.op1 | d.op2 | dst_slot(d),
    )?;
    Ok(Compare {
        src: src_operand(d),
        with: Other::Value(d.dst),
        size: transfer_size(d)?,
        expected,
        done: 0,
    })
}

/// COMPRESS and DECOMPRESS.
#[cold]
#[inline(always)]
fn stream(d: &Descriptor, kind: fn(Compression) -> StreamKind) -> Result<Operation, Status> {
    let word = CodecWord(d.op0);
    let compression = Compression::from_code(word.compression_code());
    let known = compression.map_or(0, |c| CodecWord::compression(c, word.capacity()).0);
    // Whatever bits of the word are left: slot, data unit, or no such representation.
    common(
        d,
        TRANSFORMS,
        d.status_array | (word.0 ^ known) & u64::from(u32::MAX) | d.op1 | d.op2,
    )?;
    let compression = compression.ok_or(Status::ReservedNotZero)?;
    transform(d, word, Action::Stream(kind(compression)))
}

/// ENCRYPT and DECRYPT. What depends on the key's algorithm is checked with the key.
#[cold]
#[inline(always)]
fn crypt(d: &Descriptor, direction: Direction) -> Result<Operation, Status> {
    let word = CodecWord(d.op0);
    let code = word.compression_code();
    let fused = Compression::from_code(code);
    let unknown = u64::from(fused.is_none() && code != 0);
    common(
        d,
        TRANSFORMS,
        d.status_array | word.0 & CodecWord::CODEC_RESERVED | unknown,
    )?;
    let mut iv = [0; 16];
    iv[..8].copy_from_slice(&d.op1.to_le_bytes());
    iv[8..].copy_from_slice(&d.op2.to_le_bytes());
    let action = Action::Crypt(Crypt {
        direction,
        key: word.key_slot(),
        fused,
        unit_log2: word.unit_log2(),
        iv,
        channel: false,
    });
    transform(d, word, action)
}

/// SEAL_COPY and OPEN_COPY.
#[cold]
#[inline(always)]
fn channel(d: &Descriptor, direction: Direction) -> Result<Operation, Status> {
    let word = CodecWord(d.op0);
    let known = CodecWord::key(word.key_slot(), word.capacity());
    let (lowest, around) = match direction {
        Direction::Encrypt => (d.op1, 0),
        Direction::Decrypt => (0, SealHeader::SIZE as u32 + TAG_BYTES),
    };
    common(d, TRANSFORMS, d.status_array | word.0 ^ known.0 | lowest)?;
    if !(around..=around + GCM_OPEN_BYTES_MAX).contains(&d.size) {
        return Err(Status::BadSize);
    }
    let mut iv = [0; 16];
    iv[..8].copy_from_slice(&d.op1.to_le_bytes());
    iv[8..].copy_from_slice(&d.op2.to_le_bytes());
    let action = Action::Crypt(Crypt {
        direction,
        key: word.key_slot(),
        fused: None,
        unit_log2: 0,
        iv,
        channel: true,
    });
    transform(d, word, action)
}

fn transform(d: &Descriptor, word: CodecWord, action: Action) -> Result<Operation, Status> {
    let size = transfer_size(d)?;
    if word.capacity() == 0 || word.capacity() > TRANSFER_BYTES_MAX {
        return Err(Status::BadSize);
    }
    Ok(Operation::Transform(Transform::new(Wanted {
        src: src_operand(d),
        dst: dst_operand(d),
        size,
        capacity: word.capacity(),
        action,
        cached: d.flags().contains(Flags::CACHE_CONTROL),
    })))
}

fn batch(d: &Descriptor) -> Result<Request, Status> {
    common(d, FAULTS, d.dst | d.op0 | d.op1 | d.op2)?;
    if d.size == 0 || d.size > BATCH_COUNT_MAX {
        return Err(Status::BadCount);
    }
    if !d.src.is_multiple_of(Descriptor::SIZE as u64) {
        return Err(Status::ListAlignment);
    }
    let slot = d.slots().dst_slot();
    let misaligned = !d
        .status_array
        .is_multiple_of(byway_protocols::Completion::SIZE as u64);
    if misaligned || (slot == 0 && d.status_array == 0) {
        return Err(Status::AddressAlignment);
    }
    Ok(Request::Batch(Batch {
        list: src_operand(d),
        records: Operand {
            slot,
            addr: d.status_array,
        },
        count: d.size,
        next: 0,
        current: None,
        blocks: false,
        succeeded: 0,
        cut: false,
        bytes: 0,
    }))
}
