//! The rest of a partial transfer (SPEC section 6).
//!
//! Owns the rule by which a descriptor and its partial completion give the descriptor that
//! finishes the work. It does not repair the cause: touch the page first.

use byway_protocols::{Completion, Descriptor, Flags, Opcode};

/// The descriptor that does what `descriptor` left undone, or `None` when there is nothing to
/// resume: the status is not resumable, the operation has no rest, or the completion does not
/// fit the descriptor.
///
/// - MEMMOVE that ran forwards goes on behind what was moved; one that ran backwards
///   (result 1) has moved its end, so the rest is its beginning.
/// - FILL and COMPARE_VALUE go on with the pattern turned to where it stopped.
/// - COMPARE and COMPARE_VALUE: offsets in the next completion count from the rest's beginning.
/// - NOP, DRAIN: nothing to resume. BATCH: `None`, since the number of elements that succeeded does
///   not say which; submit anew those that the per-element completions show as not done.
#[must_use]
pub fn resume(descriptor: &Descriptor, completion: &Completion) -> Option<Descriptor> {
    if !completion.status()?.is_resumable() {
        return None;
    }
    let done = completion.bytes_completed;
    let rest = descriptor
        .size
        .checked_sub(done)
        .filter(|rest| *rest != 0)?;
    let mut next = *descriptor;
    next.size = rest;
    match Opcode::from_code(descriptor.code())?.canonical() {
        Opcode::Memmove => {
            if completion.result & RAN_BACKWARDS == 0 {
                next.src = descriptor.src.checked_add(u64::from(done))?;
                next.dst = descriptor.dst.checked_add(u64::from(done))?;
            }
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
        Opcode::Compare => {
            next.src = descriptor.src.checked_add(u64::from(done))?;
            next.dst = descriptor.dst.checked_add(u64::from(done))?;
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
