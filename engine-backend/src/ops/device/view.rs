//! [`View`]: what a device has read so far, as operations see it: an operand of its own kind,
//! whose bytes lie in the device's staging instead of a guest's memory.
//!
//! No descriptor can name it: its slot is beyond all slots. Bytes that are not there yet are
//! met like a fault, and noted, so that whoever has the device goes on when they are.

use std::sync::{Arc, LazyLock};

use byway_protocols::{Status, Word0};

use super::WINDOW;
use crate::address_space::AddressSpace;
use crate::memory::{GuestMemory, HostAddr};
use crate::ops::chunk::{Failure, Operand, Piece};

/// What operands in a view name as their slot.
pub(in crate::ops) const SLOT: u16 = Word0::SLOT_MAX + 1;

/// The address space that such operands are said to be in: nobody else's, and empty.
static NOWHERE: LazyLock<AddressSpace> =
    LazyLock::new(|| AddressSpace::physical(Arc::new(GuestMemory::new())));

/// See [`NOWHERE`].
pub(in crate::ops) fn space() -> &'static AddressSpace {
    &NOWHERE
}

/// Where in staging a stream's bytes are, of those that have come.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    /// Position of the first byte of the first piece.
    pub(super) base: u64,
    /// Position behind the last byte that is there.
    pub(super) end: u64,
    /// Bytes of each piece but the last.
    pub(super) piece: u64,
    /// Where each piece begins.
    pub(super) hosts: [u64; WINDOW],
    /// Somebody wanted what has not come yet.
    pub(super) was_short: bool,
}

impl View {
    /// An operand: the stream from position `at` on.
    pub(super) fn operand(at: u32) -> Operand {
        Operand {
            slot: SLOT,
            addr: at.into(),
        }
    }

    /// The bytes from position `at` to the end of their piece, as far as they have come.
    pub(in crate::ops) fn find(&mut self, at: u64) -> Result<Piece, Failure> {
        if at < self.base || at >= self.end {
            self.was_short = true;
            // Seen by nobody: see `was_short`.
            return Err(Status::EngineBusy.into());
        }
        let offset = at - self.base;
        let (index, inside) = ((offset / self.piece) as usize, offset % self.piece);
        Ok(Piece {
            host: HostAddr(self.hosts[index] + inside),
            len: (self.piece - inside).min(self.end - at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_ends_where_the_device_has_come_to() {
        let mut view = View {
            base: 8192,
            end: 8192 + 4096 + 512,
            piece: 4096,
            ..View::default()
        };
        (view.hosts[0], view.hosts[1]) = (0x10_0000, 0x20_0000);
        let piece = |host, len| Piece {
            host: HostAddr(host),
            len,
        };
        assert_eq!(view.find(8192), Ok(piece(0x10_0000, 4096)));
        assert_eq!(view.find(8200), Ok(piece(0x10_0008, 4088)));
        assert_eq!(view.find(12289), Ok(piece(0x20_0001, 511)));
        assert!(!view.was_short);
        for at in [0, 8191, 8192 + 4096 + 512, u64::MAX] {
            assert!(view.find(at).is_err(), "{at}");
            assert!(view.was_short);
        }
    }
}
