//! [`ConfigSpace`]: the 256 bytes by which a function is found and set up (section 6).
//!
//! Each bit is either fixed or the guest's. That makes the sizing of a BAR what it is in hardware: all ones are
//! written, and the bits below its size stay 0.

use std::ops::Range;

/// Bytes of it.
pub const BYTES: usize = 256;

/// Command register.
pub const COMMAND: u16 = 0x04;
/// Answers in its BARs.
const COMMAND_MEMORY: u16 = 1 << 1;
/// May read and write memory by itself.
const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Raises no interrupt by its pin: it has none, but drivers write it.
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS: usize = 0x06;
/// There are capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// What firmware notes there, and nobody reads.
const INTERRUPT_LINE: usize = 0x3c;
/// Where capabilities begin.
const FIRST_CAPABILITY: usize = 0x40;
/// A BAR of 64 bits, not prefetchable.
const BAR_64: u8 = 0b100;
/// Bits of a BAR that tell its kind.
const BAR_KIND: u64 = 0xf;

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Number of the device, by [`super::VENDOR`].
    pub device: u16,
    /// Class, subclass and programming interface.
    pub class: [u8; 3],
}

/// Configuration space of a type 0 function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; BYTES],
    /// Bits that the guest may write.
    writable: [u8; BYTES],
    /// First byte behind the capabilities.
    end: usize,
    /// Where the next capability is to be linked from.
    link: usize,
    bar_bytes: u64,
}

impl ConfigSpace {
    /// One without a BAR and capabilities. It answers nowhere yet and may not access memory.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; BYTES],
            writable: [0; BYTES],
            end: FIRST_CAPABILITY,
            link: CAPABILITIES,
            bar_bytes: 0,
        };
        let [class, subclass, interface] = identity.class;
        space.put(0x00, &super::VENDOR.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x09, &[interface, subclass, class]);
        // The subsystem is the same.
        space.put(0x2c, &super::VENDOR.to_le_bytes());
        space.put(0x2e, &identity.device.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX;
        space.allow(COMMAND.into(), &command.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Gives it one BAR, of 64 bits and `bytes` bytes, a power of two and at least a page, and puts it to `address`, a multiple of that.
    pub fn set_bar(&mut self, address: u64, bytes: u64) {
        debug_assert!(bytes.is_power_of_two() && bytes >= crate::layout::PAGE_SIZE);
        self.put(BARS, &(address & !(bytes - 1)).to_le_bytes());
        self.bytes[BARS] |= BAR_64;
        self.allow(BARS, &(!(bytes - 1)).to_le_bytes());
        self.bar_bytes = bytes;
    }

    /// Adds a capability: what follows its two bytes of head, and which bits of that may be written. Returns where it is.
    ///
    /// # Panics
    /// When it does not fit.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.end;
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        self.bytes[self.link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.link = at + 1;
        self.end = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Reads; what is behind its end reads as 0.
    pub fn read(&self, register: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(register)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes the bits that may be written.
    pub fn write(&mut self, register: u16, data: &[u8]) {
        for (at, byte) in (usize::from(register)..BYTES).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | byte & mask;
        }
    }

    /// Sixteen bits at `register`.
    #[must_use]
    pub fn word(&self, register: usize) -> u16 {
        u16::from_le_bytes([self.bytes[register], self.bytes[register + 1]])
    }

    /// Where its BAR is, if it has one and answers.
    #[must_use]
    pub fn bar(&self) -> Option<Range<u64>> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[BARS..BARS + 8]);
        let start = u64::from_le_bytes(bytes) & !BAR_KIND;
        let answers = self.word(COMMAND.into()) & COMMAND_MEMORY != 0 && self.bar_bytes != 0;
        let end = start.checked_add(self.bar_bytes).filter(|_| answers)?;
        Some(start..end)
    }

    /// Whether it may read and write memory by itself, for which its interrupts count too.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.word(COMMAND.into()) & COMMAND_BUS_MASTER != 0
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: u64 = 0xe400_8000;
    const SIZE: u64 = 0x4000;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            device: 0xb101,
            class: [1, 8, 2],
        });
        space.set_bar(AT, SIZE);
        space
    }

    fn dword(space: &ConfigSpace, register: u16) -> u32 {
        let mut data = [0; 4];
        space.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_function_says_what_it_is() {
        let space = space();
        assert_eq!(dword(&space, 0x00), 0xb101_1234);
        assert_eq!(dword(&space, 0x08), 0x0108_0200);
        assert_eq!(dword(&space, 0x0c), 0, "type 0, one function");
        assert_eq!(dword(&space, 0x2c), 0xb101_1234);
        assert_eq!(dword(&space, 0x3c), 0, "no interrupt pin");
    }

    #[test]
    fn a_bar_is_sized_moved_and_answers_when_told() {
        let mut space = space();
        assert_eq!(space.bar(), None);
        space.write(0x04, &[0x06, 0x04]);
        assert!(space.is_bus_master());
        assert_eq!(space.bar(), Some(AT..AT + SIZE));
        // As section 6.2.5.1 has it.
        space.write(0x10, &[0xff; 4]);
        space.write(0x14, &[0xff; 4]);
        assert_eq!(
            [dword(&space, 0x10), dword(&space, 0x14)],
            [0xffff_c004, u32::MAX]
        );
        assert_eq!(space.bar(), None, "it would go past the last address");
        space.write(0x10, &0xe410_0000_u32.to_le_bytes());
        space.write(0x14, &[0; 4]);
        assert_eq!(space.bar(), Some(0xe410_0000..0xe410_4000));
        // The others are not there.
        for bar in [0x18, 0x1c, 0x20, 0x24, 0x30] {
            space.write(bar, &[0xff; 4]);
            assert_eq!(dword(&space, bar), 0, "{bar:#x}");
        }
        space.write(0x04, &[0; 2]);
        assert_eq!((space.bar(), space.is_bus_master()), (None, false));
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut space = space();
        assert_eq!((space.word(0x06), dword(&space, 0x34)), (0, 0));
        let first = space.add_capability(0x11, &[0x10, 0, 1, 2, 3, 4], &[0, 0xc0]);
        let second = space.add_capability(0x09, &[5], &[0xff]);
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(space.word(0x06), 0x10);
        assert_eq!(dword(&space, 0x34), 0x40);
        assert_eq!(dword(&space, 0x40), 0x0010_4811);
        assert_eq!(dword(&space, 0x48), 0x0005_0009);
        space.write(0x40, &[0xff; 4]);
        assert_eq!(dword(&space, 0x40), 0xc010_4811);
    }

    proptest! {
        #[test]
        fn what_is_fixed_stays(
            writes in prop::collection::vec((0_u16..300, prop::collection::vec(any::<u8>(), 0..10)), 0..50),
        ) {
            let mut space = space();
            space.add_capability(0x11, &[0x10, 0, 1, 2, 3, 4, 5, 6, 7, 8], &[0, 0xc0]);
            let before = space.clone();
            for (register, data) in writes {
                space.write(register, &data);
                let mut back = vec![0; data.len()];
                space.read(register, &mut back);
                for (at, byte) in (usize::from(register)..).zip(&back) {
                    let fixed = before.writable.get(at).map_or(0xff, |mask| !mask);
                    let was = before.bytes.get(at).copied().unwrap_or(0);
                    prop_assert_eq!(byte & fixed, was & fixed);
                }
                if let Some(bar) = space.bar() {
                    prop_assert!(bar.start % SIZE == 0 && bar.end - bar.start == SIZE);
                }
            }
        }
    }
}
