//! The rest of a partial transfer (SPEC section 6).
//!
//! Owns the rule by which a descriptor and its partial completion give the descriptor that
//! finishes the work. It does not repair the cause: touch the page first.

use byway_protocols::{Completion, Descriptor, Flags, Opcode, Status};

/// The descriptor that does what `descriptor` left undone, or `None` when there is nothing to
/// resume: the status is not resumable, the operation has no rest, or the completion does not
/// fit the descriptor.
///
/// - MEMMOVE that ran forwards goes on behind what was moved; one that ran backwards
///   (result 1) has moved its end, so the rest is its beginning.
/// - FILL and COMPARE_VALUE go on with the pattern turned to where it stopped.
/// - COMPARE and COMPARE_VALUE: offsets in the next completion count from the rest's beginning.
/// - BATCH goes on with the element whose entry in the list or in the statuses could not be
///   reached. Completions of the elements before it stand where they are; failures among them are
///   the caller's to see to.
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
    next.size = rest_of(descriptor.size, done)?;
    match opcode {
        Opcode::Memmove if completion.result == RAN_BACKWARDS => {}
        Opcode::Memmove | Opcode::Compare => {
            next.src = descriptor.src.checked_add(u64::from(done))?;
            next.dst = descriptor.dst.checked_add(u64::from(done))?;
        }
        Opcode::Fill => {
            next.dst = descriptor.dst.checked_add(u64::from(done))?;
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
            next.src = descriptor.src.checked_add(u64::from(done))?;
            next.dst = descriptor.dst.rotate_right(done % 8 * 8);
        }
        _ => return None,
    }
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
