//! Elements of the lists that XOR and COPY_SG read (SPEC section 4.20).

use byway_protocols::operands::Segment;
use byway_protocols::{Status, Word0};

use super::chunk::{Failure, Operand};
use super::staging::Staging;

/// The element with this index of a list that has been copied into the staging.
pub(super) fn load(staging: &mut Staging, index: usize) -> Segment {
    let mut bytes = [0; Segment::SIZE];
    bytes.copy_from_slice(&staging.bytes()[index * Segment::SIZE..][..Segment::SIZE]);
    Segment::from_bytes(&bytes)
}

/// Where the element lies.
///
/// # Errors
/// 12 when reserved bits are not 0.
pub(super) fn operand(segment: &Segment) -> Result<Operand, Failure> {
    if segment.slot > Word0::SLOT_MAX || segment.reserved14 != 0 {
        return Err(Status::ReservedNotZero.into());
    }
    Ok(Operand {
        slot: segment.slot,
        addr: segment.addr,
    })
}
