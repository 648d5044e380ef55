//! The bare-metal guest that is built together with the VMM.

/// The guest's ELF: a PVH image with the agent, steered through its mailbox.
pub fn guest_image() -> &'static [u8] {
    include_bytes!(env!("BYWAY_GUEST_IMAGE"))
}

/// Bytes of mailbox that the guest expects at the top of its RAM.
pub const GUEST_MAILBOX_BYTES: u64 = byway_agent::layout::MAILBOX_BYTES as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_an_elf() {
        assert_eq!(&guest_image()[..4], b"\x7fELF");
    }
}
