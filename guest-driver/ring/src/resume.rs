//! The rest of a partial transfer (SPEC section 6).
//!
//! Owns the rule by which a descriptor and its partial completion give the descriptor that
//! finishes the work. It does not repair the cause: touch the page first.

use byway_protocols::codec::CodecWord;
use byway_protocols::operands::{
    ApplyDeltaFields, CopySgFields, CrcFields, DeviceFields, DifFields, DifResult, DualcastFields,
    Segment, XorFields, device_flags, device_operation,
};
use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status};

use crate::protection::{Block, units};

/// The descriptor that does what `descriptor` left undone, or `None` when there is nothing to
/// resume: the status is not resumable, the operation has no rest, or the completion does not
/// fit the descriptor.
///
/// - MEMMOVE that ran forwards goes on behind what was moved; one that ran backwards
///   (result 1) has moved its end, so the rest is its beginning.
/// - FILL and COMPARE_VALUE go on with the pattern turned to where it stopped.
/// - COMPARE and COMPARE_VALUE: offsets in the next completion count from the rest's beginning.
/// - Checksums go on from the checksum so far, DUALCAST, COPY_CRC, TRANSLATION_FETCH and CACHE_FLUSH
///   from where they stopped, APPLY_DELTA with the rest of its record.
/// - Operations on protection information go on with the tags of the first block that is not done.
/// - COPY_SG of rows does the row anew in which it stopped.
/// - ATOMIC64, SIGNAL, SEND, RECEIVE, COMPRESS, DECOMPRESS, SEAL_COPY and OPEN_COPY were not carried
///   out: the rest is the whole.
/// - ENCRYPT and DECRYPT under a key of XTS go on with the next data unit.
/// - DEVICE_TRANSFER goes on with the 4096 bytes in which it stopped, which are whole blocks of every device; one
///   with a checksum or a chain is the whole anew. Of a comparison, offsets count from the rest's beginning.
/// - BATCH goes on with the element whose entry in the list or in the statuses could not be
///   reached. Completions of the elements before it stand where they are; failures among them are
///   the caller's to see to.
///
/// `None` is also the answer where the rest needs more than a descriptor has:
///
/// | operation | what is needed | use |
/// | --- | --- | --- |
/// | CREATE_DELTA with something recorded | another record | [`Request::rest_of_delta`](crate::Request::rest_of_delta) |
/// | XOR with something done | its sources moved on | [`resume_xor`] |
/// | COPY_SG of lists | its lists cut | [`resume_sg`] |
/// | ENCRYPT, DECRYPT under a key of CBC | the last block of ciphertext | [`resume_cbc`] |
/// | ENCRYPT under a key of GCM | another nonce: one must never be used twice | build it anew |
///
/// DECRYPT without a data unit is started again while nothing is done, which is right for CBC and
/// for GCM.
///
/// A descriptor that waits for its pages by itself ([`crate::Request::blocking_on_fault`]) needs this
/// only when the kernel said to come back later, or when too many wait already.
///
/// ```
/// use byway_ring::{Address, Completion, Opcode, Request, Status, resume};
///
/// let copy = Request::memmove(Address::own(0x9000), Address::own(0x1000), 0x3000)?;
/// # let ended = Completion {
/// #     status: Status::Stage1NotPresent as u8 | Status::WRITE_FAULT,
/// #     bytes_completed: 0x1000,
/// #     fault_addr: 0xa000,
/// #     ..Completion::default()
/// # };
/// // It ended early: its second page was missing at the destination.
/// assert_eq!(ended.status(), Some(Status::Stage1NotPresent));
/// let missing = ended.fault_addr;
/// // Touch the byte at `missing`, then submit what is left.
/// # assert_eq!(missing, 0xa000);
/// let rest = resume(&copy.into(), &ended).ok_or("nothing is left to do")?;
/// assert_eq!(rest.code(), Opcode::Memmove as u8);
/// assert_eq!((rest.src, rest.dst, rest.size), (0x2000, 0xa000, 0x2000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn resume(descriptor: &Descriptor, completion: &Completion) -> Option<Descriptor> {
    let status = completion.status().filter(|status| status.is_resumable())?;
    let opcode = Opcode::from_code(descriptor.code())?.canonical();
    if opcode == Opcode::Batch {
        return rest_of_batch(descriptor, completion, status);
    }
    let done = completion.bytes_completed;
    let mut next = *descriptor;
    let on = |addr: u64| addr.checked_add(u64::from(done));
    match opcode {
        // Its size is that of the destination, which stays.
        Opcode::ApplyDelta => {
            let fields = ApplyDeltaFields::from_bytes(&descriptor.operands());
            let delta_bytes = rest_of(fields.delta_bytes, done)?;
            next.src = on(descriptor.src)?;
            let fields = ApplyDeltaFields {
                delta_bytes,
                ..fields
            };
            return Some(next.with_operands(fields.to_bytes()));
        }
        Opcode::CopySg => return rest_of_rows(descriptor, done),
        Opcode::Atomic64
        | Opcode::Signal
        | Opcode::Send
        | Opcode::Receive
        | Opcode::Compress
        | Opcode::Decompress
        | Opcode::SealCopy
        | Opcode::OpenCopy => return (done == 0).then_some(next),
        Opcode::Encrypt | Opcode::Decrypt => return rest_of_units(descriptor, done),
        Opcode::DeviceTransfer => return rest_of_device(descriptor, done),
        _ => {}
    }
    next.size = rest_of(descriptor.size, done)?;
    match opcode {
        Opcode::Memmove if completion.result == RAN_BACKWARDS => {}
        Opcode::Memmove | Opcode::Compare => {
            next.src = on(descriptor.src)?;
            next.dst = on(descriptor.dst)?;
        }
        Opcode::Fill => {
            next.dst = on(descriptor.dst)?;
            if descriptor.flags().contains(Flags::FILL_16) {
                let pattern = u128::from(descriptor.src) | u128::from(descriptor.op0) << 64;
                let turned = pattern.rotate_right(done % 16 * 8);
                next.src = turned as u64;
                next.op0 = (turned >> 64) as u64;
            } else {
                next.src = descriptor.src.rotate_right(done % 8 * 8);
            }
        }
        Opcode::CompareValue => {
            next.src = on(descriptor.src)?;
            next.dst = descriptor.dst.rotate_right(done % 8 * 8);
        }
        Opcode::TranslationFetch => next.src = on(descriptor.src)?,
        Opcode::CacheFlush => next.dst = on(descriptor.dst)?,
        Opcode::CrcGen | Opcode::CopyCrc => {
            next.src = on(descriptor.src)?;
            if opcode == Opcode::CopyCrc {
                next.dst = on(descriptor.dst)?;
            }
            let fields = CrcFields::from_bytes(&descriptor.operands());
            let seed = completion.op0 as u32;
            next = next.with_operands(CrcFields { seed, ..fields }.to_bytes());
        }
        Opcode::Crc64 => {
            next.src = on(descriptor.src)?;
            next.op0 = completion.op0;
        }
        Opcode::Dualcast => {
            next.src = on(descriptor.src)?;
            next.dst = on(descriptor.dst)?;
            let fields = DualcastFields::from_bytes(&descriptor.operands());
            let second = on(fields.second)?;
            next = next.with_operands(DualcastFields { second, ..fields }.to_bytes());
        }
        Opcode::DifCheck
        | Opcode::DifInsert
        | Opcode::DifStrip
        | Opcode::DifUpdate
        | Opcode::DifGen
        | Opcode::DixGen
        | Opcode::DixVerify => return rest_of_blocks(next, opcode, completion),
        // Nothing of the sources' list, or of the record, has been used.
        Opcode::Xor | Opcode::CreateDelta if done == 0 && completion.op0 == 0 => {}
        _ => return None,
    }
    Some(next)
}

/// Blocks are at most so large, and a power of two.
const BLOCK_BYTES_MAX: u32 = 4096;

fn rest_of_device(descriptor: &Descriptor, done: u32) -> Option<Descriptor> {
    let fields = DeviceFields::from_bytes(&descriptor.operands());
    // A checksum is about all of it.
    if fields.chain != 0 || fields.flags & device_flags::ALL != 0 {
        return Some(*descriptor);
    }
    let whole = done / BLOCK_BYTES_MAX * BLOCK_BYTES_MAX;
    let on = |addr: u64| addr.checked_add(u64::from(whole));
    let has_source = matches!(
        fields.operation,
        device_operation::READ
            | device_operation::WRITE
            | device_operation::COPY
            | device_operation::COMPARE
    );
    Some(Descriptor {
        src: if has_source { on(descriptor.src)? } else { 0 },
        dst: on(descriptor.dst)?,
        size: rest_of(descriptor.size, whole)?,
        ..*descriptor
    })
}

/// The rest of an XOR that ended early. `sources` is its list, which is moved on in place: where it
/// lies in memory that the engine reads by another address, it has to be written there again.
///
/// `None`: nothing to resume (as [`resume()`]), or a list that is not the request's. `sources` is
/// untouched then.
#[must_use]
pub fn resume_xor(
    descriptor: &Descriptor,
    completion: &Completion,
    sources: &mut [Segment],
) -> Option<Descriptor> {
    completion.status().filter(|status| status.is_resumable())?;
    let fields = XorFields::from_bytes(&descriptor.operands());
    let is_whole = usize::from(fields.count) == sources.len();
    if descriptor.code() != Opcode::Xor as u8 || !is_whole {
        return None;
    }
    let done = completion.bytes_completed;
    let size = rest_of(descriptor.size, done)?;
    let on = |addr: u64| addr.checked_add(u64::from(done));
    let dst = on(descriptor.dst)?;
    if sources.iter().any(|source| on(source.addr).is_none()) {
        return None;
    }
    for source in sources {
        source.addr = source.addr.wrapping_add(u64::from(done));
    }
    Some(Descriptor {
        dst,
        size,
        ..*descriptor
    })
}

/// The rest of a COPY_SG of lists that ended early. `src` and `dst` are its lists, empty for a side
/// that is one range. The segment in which it stopped is cut in place: where a list lies in memory
/// that the engine reads by another address, it has to be written there again.
///
/// `None`: nothing to resume (as [`resume()`]), or lists that are not the request's. They are
/// untouched then.
#[must_use]
pub fn resume_sg(
    descriptor: &Descriptor,
    completion: &Completion,
    src: &mut [Segment],
    dst: &mut [Segment],
) -> Option<Descriptor> {
    completion.status().filter(|status| status.is_resumable())?;
    let fields = CopySgFields::from_bytes(&descriptor.operands());
    let counts = [fields.src_count, fields.dst_count].map(usize::from);
    let is_whole = counts == [src.len(), dst.len()];
    if descriptor.code() != Opcode::CopySg as u8 || fields.row_bytes != 0 || !is_whole {
        return None;
    }
    let done = completion.bytes_completed;
    let mut next = *descriptor;
    next.size = rest_of(descriptor.size, done)?;
    let [from, to] = [cut_at(src, done)?, cut_at(dst, done)?];
    next.src = from.moved(descriptor.src, src.len(), done)?;
    next.dst = to.moved(descriptor.dst, dst.len(), done)?;
    from.cut(src);
    to.cut(dst);
    let left = |count: u16, cut: Cut| count.checked_sub(u16::try_from(cut.index).ok()?);
    let fields = CopySgFields {
        src_count: left(fields.src_count, from)?,
        dst_count: left(fields.dst_count, to)?,
        ..fields
    };
    Some(next.with_operands(fields.to_bytes()))
}

/// The rest of an ENCRYPT or DECRYPT under a key of CBC that ended early. `ciphertext` is the last
/// block of it that is done: the 16 bytes before `dst` + `bytes_completed` when it encrypts, before
/// `src` + `bytes_completed` when it decrypts (kept from before, when it works in place). It is not
/// looked at while nothing is done.
///
/// `None`: nothing to resume, as [`resume()`].
#[must_use]
pub fn resume_cbc(
    descriptor: &Descriptor,
    completion: &Completion,
    ciphertext: [u8; 16],
) -> Option<Descriptor> {
    completion.status().filter(|status| status.is_resumable())?;
    let code = Opcode::from_code(descriptor.code())?;
    if !matches!(code, Opcode::Encrypt | Opcode::Decrypt) {
        return None;
    }
    let done = completion.bytes_completed;
    let mut next = moved_on(descriptor, done)?;
    if done != 0 {
        let iv = u128::from_le_bytes(ciphertext);
        (next.op1, next.op2) = (iv as u64, (iv >> 64) as u64);
    }
    Some(next)
}

/// Where a list is cut: the segment in which a copy goes on, and bytes of it that are done.
#[derive(Debug, Clone, Copy)]
struct Cut {
    index: usize,
    bytes: u32,
}

/// Where `done` bytes end. `None`: the list is shorter. An empty one is a side without list.
fn cut_at(list: &[Segment], done: u32) -> Option<Cut> {
    let mut left = done;
    for (index, segment) in list.iter().enumerate() {
        if left < segment.bytes {
            segment.addr.checked_add(u64::from(left))?;
            return Some(Cut { index, bytes: left });
        }
        left -= segment.bytes;
    }
    list.is_empty().then_some(Cut { index: 0, bytes: 0 })
}

impl Cut {
    /// Where the side goes on: its list behind what is used up, or its range.
    fn moved(&self, addr: u64, segments: usize, done: u32) -> Option<u64> {
        addr.checked_add(if segments == 0 {
            u64::from(done)
        } else {
            (self.index * Segment::SIZE) as u64
        })
    }

    fn cut(&self, list: &mut [Segment]) {
        if let Some(segment) = list.get_mut(self.index) {
            // Both were checked when the cut was made.
            segment.addr = segment.addr.wrapping_add(u64::from(self.bytes));
            segment.bytes = segment.bytes.saturating_sub(self.bytes);
        }
    }
}

/// COPY_SG of rows goes on with whole ones; of lists, only what has not begun goes on by itself.
fn rest_of_rows(descriptor: &Descriptor, done: u32) -> Option<Descriptor> {
    let mut next = *descriptor;
    let fields = CopySgFields::from_bytes(&descriptor.operands());
    if fields.row_bytes == 0 {
        return (done == 0).then_some(next);
    }
    let rows = done / fields.row_bytes;
    next.size = rest_of(descriptor.size, rows * fields.row_bytes)?;
    let on = |addr: u64, stride: u64| addr.checked_add(stride.checked_mul(u64::from(rows))?);
    next.src = on(descriptor.src, fields.src_stride)?;
    next.dst = on(descriptor.dst, fields.dst_stride)?;
    Some(next)
}

/// An operation on protection information, whose size is the rest's already.
fn rest_of_blocks(
    mut next: Descriptor,
    opcode: Opcode,
    completion: &Completion,
) -> Option<Descriptor> {
    let fields = DifFields::from_bytes(&next.operands());
    let (unit, other) = units(opcode, Block::of(fields.flags));
    let done = completion.bytes_completed;
    if !done.is_multiple_of(unit) {
        return None;
    }
    let first = u64::from(done);
    let second = u64::from(done / unit) * u64::from(other);
    match opcode {
        Opcode::DifGen => next.dst = next.dst.checked_add(first)?,
        Opcode::DifCheck => next.src = next.src.checked_add(first)?,
        _ => {
            next.src = next.src.checked_add(first)?;
            next.dst = next.dst.checked_add(second)?;
        }
    }
    let tags = DifResult::from_bytes(&completion.operands());
    let fields = DifFields {
        source_ref_tag: tags.source_ref_tag,
        source_app_tag: tags.source_app_tag,
        destination_ref_tag: tags.destination_ref_tag,
        destination_app_tag: tags.destination_app_tag,
        ..fields
    };
    Some(next.with_operands(fields.to_bytes()))
}

/// ENCRYPT and DECRYPT as far as the descriptor alone tells how: under a key of XTS, or not begun
/// and without harm in beginning again.
fn rest_of_units(descriptor: &Descriptor, done: u32) -> Option<Descriptor> {
    let unit_log2 = CodecWord(descriptor.op0).unit_log2();
    if unit_log2 == 0 {
        let again = done == 0 && descriptor.code() == Opcode::Decrypt as u8;
        return again.then_some(*descriptor);
    }
    let unit = 1_u32.checked_shl(unit_log2.into())?;
    if !done.is_multiple_of(unit) {
        return None;
    }
    let mut next = moved_on(descriptor, done)?;
    let tweak = u128::from(descriptor.op1) | u128::from(descriptor.op2) << 64;
    let tweak = tweak.wrapping_add(u128::from(done / unit));
    (next.op1, next.op2) = (tweak as u64, (tweak >> 64) as u64);
    Some(next)
}

/// Source, destination, size and room without the first `done` bytes.
fn moved_on(descriptor: &Descriptor, done: u32) -> Option<Descriptor> {
    let room = CodecWord(descriptor.op0).capacity().checked_sub(done)?;
    let mut next = *descriptor;
    next.size = rest_of(descriptor.size, done)?;
    next.src = descriptor.src.checked_add(u64::from(done))?;
    next.dst = descriptor.dst.checked_add(u64::from(done))?;
    next.op0 = u64::from(descriptor.op0 as u32) | u64::from(room) << 32;
    Some(next)
}

/// MEMMOVE's result: the bytes at the end were moved first.
const RAN_BACKWARDS: u8 = 1;

/// What is left of `size`, unless nothing is or more was done than was asked.
fn rest_of(size: u32, done: u32) -> Option<u32> {
    size.checked_sub(done).filter(|rest| *rest != 0)
}

/// The fault's address tells the element (SPEC section 4.3).
fn rest_of_batch(
    descriptor: &Descriptor,
    completion: &Completion,
    status: Status,
) -> Option<Descriptor> {
    let (base, bytes) = match status {
        Status::BatchListFault => (descriptor.src, Descriptor::SIZE as u64),
        Status::StatusArrayFault => (descriptor.status_array, Completion::SIZE as u64),
        _ => return None,
    };
    let element = u32::try_from(completion.fault_addr.checked_sub(base)? / bytes).ok()?;
    let mut next = *descriptor;
    next.size = rest_of(descriptor.size, element)?;
    let skipped = |bytes: usize| u64::from(element) * bytes as u64;
    next.src = descriptor.src.checked_add(skipped(Descriptor::SIZE))?;
    next.status_array = descriptor
        .status_array
        .checked_add(skipped(Completion::SIZE))?;
    Some(next)
}
