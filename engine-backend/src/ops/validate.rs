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
use super::transform::{Action, Crypt, Transform, Wanted};
use crate::codec::{Direction, StreamKind};

pub(super) use checksum::{crc_gen, crc64_gen};
pub(super) use device::{chained, chained_before};
pub(super) use gather::{copy_lists, copy_rows, has_rows};

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

/// Checks a private copy of a descriptor, and puts what it asks for into a place with [`Operation::Nothing`].
///
/// Like [`operation`], not by its result: an operation that is made in one place and moved to another
/// waits for its parts to leave the store buffer first, behind all that was copied before it.
///
/// # Errors
/// 10-14, 18, 19, 1C; nothing is put then.
#[inline(always)]
pub fn request(d: &Descriptor, into: &mut Request) -> Result<(), Status> {
    match into {
        _ if d.code() == Opcode::Batch as u8 => batch(d, into),
        Request::Operation(operation) => checked(d, true, operation),
        Request::Batch(_) => Err(Status::BadOpcode),
    }
}

/// Checks a private copy of a batch's element likewise; one that is a batch is refused.
///
/// # Errors
/// 10-13, 19.
#[inline(always)]
pub fn operation(d: &Descriptor, into: &mut Operation) -> Result<(), Status> {
    checked(d, false, into)
}

/// Puts a value where nothing is that would have to be dropped. The compiler does not know that, and would make the value
/// elsewhere until it had dropped what was there.
#[inline(always)]
fn put<T>(into: &mut T, value: T) {
    std::mem::forget(std::mem::replace(into, value));
}

#[inline(always)]
fn checked(d: &Descriptor, is_alone: bool, into: &mut Operation) -> Result<(), Status> {
    debug_assert!(matches!(into, Operation::Nothing));
    match Opcode::from_code(d.code()).map(Opcode::canonical) {
        Some(Opcode::Memmove) => put(into, Operation::Memmove(memmove(d)?)),
        Some(Opcode::Fill) => put(into, Operation::Fill(fill(d)?)),
        Some(Opcode::Compare) => put(into, Operation::Compare(compare(d)?)),
        Some(Opcode::CompareValue) => put(into, Operation::Compare(compare_value(d)?)),
        Some(opcode) => return other(d, opcode, is_alone, into),
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
    into: &mut Operation,
) -> Result<(), Status> {
    match opcode {
        Opcode::Nop | Opcode::Drain => nothing(d),
        Opcode::Compress => stream(d, StreamKind::Compress, into),
        Opcode::Decompress => stream(d, StreamKind::Decompress, into),
        Opcode::Encrypt => crypt(d, Direction::Encrypt, into),
        Opcode::Decrypt => crypt(d, Direction::Decrypt, into),
        Opcode::SealCopy => channel(d, Direction::Encrypt, into),
        Opcode::OpenCopy => channel(d, Direction::Decrypt, into),
        Opcode::DeviceTransfer => device::transfer(d, into),
        Opcode::Cancel => cancel::cancel(d, into),
        _ => rare(d, opcode, is_alone, into),
    }
}

/// The operations that nobody does for a few bytes.
#[inline(always)]
fn rare(
    d: &Descriptor,
    opcode: Opcode,
    is_alone: bool,
    into: &mut Operation,
) -> Result<(), Status> {
    match opcode {
        Opcode::CreateDelta => delta::create(d, into),
        Opcode::ApplyDelta => delta::apply(d, into),
        Opcode::Dualcast => gather::dualcast(d, into),
        Opcode::TranslationFetch => places::fetch(d, into),
        Opcode::CrcGen => checksum::crc(d, into),
        Opcode::CopyCrc => checksum::copy_crc(d, into),
        Opcode::Crc64 => checksum::crc64(d, into),
        Opcode::DifCheck => dif::check(d, into),
        Opcode::DifInsert => dif::insert(d, into),
        Opcode::DifStrip => dif::strip(d, into),
        Opcode::DifUpdate => dif::update(d, into),
        Opcode::DifGen => dif::generate(d, into),
        Opcode::DixGen => dif::generate_apart(d, into),
        Opcode::DixVerify => dif::verify_apart(d, into),
        Opcode::CacheFlush => places::flush(d, into),
        Opcode::Xor => gather::xor(d, into),
        Opcode::CopySg => gather::copy_sg(d, into),
        Opcode::Atomic64 => places::atomic(d, into),
        Opcode::Signal => places::signal(d, into),
        // Not for batches: one that waits would hold up elements that may come before it.
        _ if is_alone => messages::transit(d, into),
        _ => Err(Status::BadOpcode),
    }
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

/// The source that a descriptor names.
#[inline(always)]
pub(super) fn src_operand(d: &Descriptor) -> Operand {
    Operand {
        slot: d.slots().src_slot(),
        addr: d.src,
    }
}

/// The destination that a descriptor names.
#[inline(always)]
pub(super) fn dst_operand(d: &Descriptor) -> Operand {
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
fn nothing(d: &Descriptor) -> Result<(), Status> {
    let fields = d.status_array | d.src | d.dst | u64::from(d.size) | d.op0 | d.op1 | d.op2;
    common(d, COMMON, fields | src_slot(d) | dst_slot(d))
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
pub(super) fn fill(d: &Descriptor) -> Result<Fill, Status> {
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
pub(super) fn compare(d: &Descriptor) -> Result<Compare, Status> {
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
pub(super) fn compare_value(d: &Descriptor) -> Result<Compare, Status> {
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
fn stream(
    d: &Descriptor,
    kind: fn(Compression) -> StreamKind,
    into: &mut Operation,
) -> Result<(), Status> {
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
    transform(d, word, Action::Stream(kind(compression)), into)
}

/// ENCRYPT and DECRYPT. What depends on the key's algorithm is checked with the key.
#[cold]
#[inline(always)]
fn crypt(d: &Descriptor, direction: Direction, into: &mut Operation) -> Result<(), Status> {
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
    transform(d, word, action, into)
}

/// SEAL_COPY and OPEN_COPY.
#[cold]
#[inline(always)]
fn channel(d: &Descriptor, direction: Direction, into: &mut Operation) -> Result<(), Status> {
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
    transform(d, word, action, into)
}

#[inline(always)]
fn transform(
    d: &Descriptor,
    word: CodecWord,
    action: Action,
    into: &mut Operation,
) -> Result<(), Status> {
    let size = transfer_size(d)?;
    if word.capacity() == 0 || word.capacity() > TRANSFER_BYTES_MAX {
        return Err(Status::BadSize);
    }
    let wanted = Wanted {
        src: src_operand(d),
        dst: dst_operand(d),
        size,
        capacity: word.capacity(),
        action,
        cached: d.flags().contains(Flags::CACHE_CONTROL),
    };
    put(into, Operation::Transform(Transform::new(wanted)));
    Ok(())
}

fn batch(d: &Descriptor, into: &mut Request) -> Result<(), Status> {
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
    let batch = Batch {
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
    };
    put(into, Request::Batch(batch));
    Ok(())
}
